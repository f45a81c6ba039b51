"""Which networks a pod may ask for: Multus' rules, so that a cluster keeps its habits.

    namespaceIsolation: true
    globalNamespaces: default,networks

Rules
1. Without isolation every pod may use every NetworkAttachmentDefinition.
2. With it, a pod may use those of its own namespace and of the global ones; the global ones are `default` unless
   they are named.
3. A key that is not known is an error: a typo must not open the cluster. `rules` and `drift` are the agent's part
   of the same file (agent.policy): what a network may make of the node, and whether it is repaired.
4. While hotnic is withdrawn from the node, no network is allowed at all. That is not the file's to say: it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

_DEFAULT_GLOBAL = ("default",)
# besides its own error the library raises what comes, for a date or a number that is none
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class PolicyError(ValueError):
    """`str()` says which key is wrong, and how."""


@dataclass(frozen=True, slots=True)
class Policy:
    isolated: bool = False
    global_namespaces: tuple[str, ...] = _DEFAULT_GLOBAL
    withdrawn: bool = False  # rule 4

    def allows(self, pod_namespace: str, network_namespace: str) -> bool:
        return not self.isolated or network_namespace == pod_namespace or network_namespace in self.global_namespaces


def parse(text: str) -> Policy:
    """Return the policy that a YAML document is. Raises PolicyError."""
    try:
        document = yaml.safe_load(text)
    except _NO_YAML as problem:
        raise PolicyError(f"not YAML: {problem}") from None
    if document is None:
        return Policy()
    if not isinstance(document, dict):
        raise PolicyError("not a mapping of keys to values")
    if unknown := sorted(set(document) - {"namespaceIsolation", "globalNamespaces", "rules", "drift"}, key=str):
        raise PolicyError(f"unknown key {unknown[0]!r}")
    isolated = document.get("namespaceIsolation", False)
    if not isinstance(isolated, bool):
        raise PolicyError(f"namespaceIsolation={isolated!r} is neither true nor false")
    return Policy(isolated, _namespaces(document.get("globalNamespaces")))


def _namespaces(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if items is None or items == [""]:
        return _DEFAULT_GLOBAL
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise PolicyError(f"globalNamespaces={value!r} is neither a list of names nor names with commas between")
    return tuple(filter(None, (item.strip() for item in items)))
