"""Pure: what is on a node that hotnic is to leave -> what is in the way, and what goes.

Rules
1. What others still need is in the way: a chain on disk that names us, an attachment whose runtime will call us at its
   DEL. Without the executable no pod could start, or end.
2. `detach`: everything that is in the journal is removed first; what cannot be, is in the way. Then nothing stays.
3. `keep`: every attachment stays as it is, and so does the state directory while it holds anything of them: it alone
   says how they are taken down. Whoever installs hotnic again, or detaches later, goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent import network
from agent.cache import Cached
from agent.model import Record
from cni import errors

TYPE = "hotnic"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found on the node."""

    records: tuple[Record, ...] = ()
    damaged: int = 0  # files of the journal that were set aside
    standalone: int = 0  # attachments of callers without Kubernetes
    chains: tuple[str, ...] = ()  # networks on disk that name us
    living: tuple[Cached, ...] = ()  # what runtimes remember of containers whose namespaces are there
    unreadable: tuple[Path, ...] = ()  # what they may remember besides


def obstacles(seen: Seen, *, keep: bool) -> tuple[str, ...]:
    """Return what is in the way, each with what to do."""
    found = [
        *(f"network {name} on the node's disk names hotnic: pods could not start; take it out first"
          for name in seen.chains),
        *(f"{_of(one)} was attached by a runtime, which calls hotnic when it ends: recreate the pod first"
          for one in seen.living if names_us(one.config_text)),
        *(f"{path} of a runtime cannot be read, and may be a pod's that needs hotnic: remove it if not"
          for path in seen.unreadable),
    ]  # fmt: skip
    if seen.standalone:
        found.append(f"{seen.standalone} attachments are of callers without Kubernetes: end their containers first")
    if not keep:
        found += [f"{_whose(one)} is in a virtual machine: unplug it first" for one in seen.records if one.guest]
        if seen.damaged:
            found.append(f"{seen.damaged} damaged files of the journal tell of attachments that nobody can read")
    return tuple(found)


def names_us(config: str) -> bool:
    """Whether a network's configuration has a plugin of ours; one that cannot be read has none that was executed."""
    try:
        plugins = network.parse(config, "any").plugins
    except errors.CNIError:
        return False
    return any(plugin.get("type") == TYPE for plugin in plugins)


def state_stays(seen: Seen, *, keep: bool) -> str:
    """Return why the state directory stays, "" where it goes (rule 3)."""
    if not keep or not (seen.records or seen.damaged):
        return ""
    pods = {str(one.pod) for one in seen.records if one.pod}
    return f"it says how {len(seen.records)} attachments of {len(pods)} pods are taken down"


def trees(run_dir: Path, state_dir: Path, seen: Seen, *, keep: bool) -> tuple[Path, ...]:
    """Return the directories that go with all that is in them."""
    return (run_dir,) if state_stays(seen, keep=keep) else (run_dir, state_dir)


def in_order(records: Iterable[Record]) -> tuple[Record, ...]:
    """Return them as they are detached: the last one first, as what came later may lead through what was there."""
    return tuple(sorted(records, key=lambda one: one.sequence, reverse=True))


def _of(one: Cached) -> str:
    args = dict(one.cni_args)
    pod = "/".join(filter(None, (args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME"))))
    return f"{one.ifname} of {f'pod {pod}' if pod else f'container {one.container_id}'}"


def _whose(one: Record) -> str:
    return f"{one.key.ifname} of {f'pod {one.pod}' if one.pod else f'container {one.key.container_id}'}"
