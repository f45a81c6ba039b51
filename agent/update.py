"""Pure: which changes of a wish the kernel can make to the interface that is there, with no packet lost.

MAC, MTU, link state, bandwidth, and addresses where nobody but the configuration gives them (no lease to swap). All
else is a replacement: detach, attach. So is what any plugin but our own would have to be asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent import network
from agent.model import Origin, Phase, Record, Wanted
from cni import errors, multinet

_ELEMENT = frozenset({"interface", "mac", "ips", "bandwidth", "cni-args"})  # keys of a selection element
_ARGUMENTS = frozenset({"mac", "mtu", "ips", "linkState"})  # keys of its cni-args
_LASTING = ("bandwidth", "mtu")  # taking the wish back does not tell what was before it
_STATELESS_IPAM = ("", "static")


def in_place(record: Record, wanted: Wanted) -> bool:
    """Whether what is attached can become what is wanted without being detached."""
    if record.origin is not Origin.ANNOTATION or record.phase is not Phase.ATTACHED or wanted.hold is not None:
        return False
    if record.config != wanted.config:
        return False  # another definition by now
    try:
        net = network.parse(record.config, wanted.selection.name)
    except errors.CNIError:
        return False
    if [plugin.get("type") for plugin in net.plugins] != ["hotnic"]:
        return False
    if network.undeclared(net, multinet.capability_args(wanted.selection)):
        return False  # to be refused
    old, new = json.loads(record.element), json.loads(multinet.to_json(wanted.selection))
    return _is_small(old, new, _ipam(net.plugins[0]))


def _is_small(old: Mapping[str, Any], new: Mapping[str, Any], ipam: str) -> bool:
    changed = _changed(old, new)
    arguments = _changed(old.get("cni-args") or {}, new.get("cni-args") or {})
    if changed - _ELEMENT or arguments - _ARGUMENTS:
        return False
    if "ips" in changed | arguments and ipam not in _STATELESS_IPAM:
        return False
    taken_back = {key for key in changed if key not in new} | {
        key for key in arguments if key not in (new.get("cni-args") or {})
    }
    return not taken_back & set(_LASTING)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    return {key for key in {*old, *new} if old.get(key) != new.get(key)}


def _ipam(plugin: Mapping[str, Any]) -> str:
    ipam = plugin.get("ipam")
    return str(ipam.get("type") or "") if isinstance(ipam, Mapping) else ""
