"""The network-status annotation (NPWG 1.3, section 5), in the dialect of Multus and its client library.

Rules
1. Foreign entries, their keys and the order of all are kept; it is rewritten only to say something new.
2. An interface name identifies an entry: a pod has it once. The default network's entry is not ours to touch.
3. An entry that still is about the same network keeps the keys that we do not write (device-info, foreign ones).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cni import jsontext, result

IN_VM = "hotnic.dev/vm"  # how far the interface has got in the pod's virtual machine, an object
_OURS = ("name", "interface", "ips", "mac", "mtu", "dns", "gateway", IN_VM)


def entry(network: str, interface: str, outcome: result.Result) -> dict[str, Any]:
    """Return the entry of one attachment: `outcome` as it concerns the interface in the pod.

    `ips` are without prefix length and `gateway` holds the default routes', as the client library has it.
    """
    index = _index(interface, outcome)
    link = result.Interface(interface) if index is None else outcome.interfaces[index]
    ips = (ip.address.ip for ip in outcome.ips if ip.interface in (None, index) or index is None)
    gateways = (route.gw for route in outcome.routes if route.dst.prefixlen == 0 and route.gw is not None)
    document = {
        "name": network,
        "interface": interface,
        "ips": list(map(str, ips)),
        "mac": link.mac,
        "mtu": link.mtu,
        "dns": result.dns_document(outcome.dns),
        "gateway": list(map(str, gateways)),
    }
    return {key: value for key, value in document.items() if value or key == "dns"}


def entries(text: str | None) -> list[Any]:
    """Return the entries of an annotation's value; none where it is no JSON list, which no program can read."""
    try:
        return _read(text)
    except ValueError:
        return []


def by_interface(text: str | None) -> dict[str, dict[str, Any]]:
    """Return the entries of all interfaces but the default network's."""
    return {name: item for item in entries(text) if (name := _interface(item))}


def merge(current: str | None, ours: Sequence[Mapping[str, Any]], released: Collection[str]) -> str:
    """Return the annotation's new value.

    `ours` replace the entries of their interfaces, or are appended; entries of `released` interfaces go.
    Raises ValueError where the current value is no JSON list: it would be lost.
    """
    before = _read(current)
    wanted = {item["interface"]: item for item in ours}
    after: list[Any] = []
    placed: set[str] = set()
    for item in before:
        name = _interface(item)
        if not name:
            after.append(item)
        elif name in wanted and name not in placed:
            after.append(_replaced(item, wanted[name]))
            placed.add(name)
        elif name not in wanted and name not in released:
            after.append(item)
    after += [dict(item) for name, item in wanted.items() if name not in placed]
    return current if current is not None and _same(after, before) else _text(after)


def _index(interface: str, outcome: result.Result) -> int | None:
    """Return which interface of the result is the pod's.

    The one of that name in a sandbox, else the first in a sandbox (5.3.2.1), else the one of that name.
    """
    inside = [index for index, link in enumerate(outcome.interfaces) if link.sandbox]
    named = [index for index, link in enumerate(outcome.interfaces) if link.name == interface]
    candidates = [index for index in named if index in inside] or inside or named
    return candidates[0] if candidates else None


def _read(current: str | None) -> list[Any]:
    if not (current or "").strip():
        return []
    document = jsontext.loads(current or "")
    if document is None:
        return []
    if not isinstance(document, list):
        raise ValueError("network-status is not a list")  # noqa: TRY004 -- one kind of error for a malformed value
    return document


def _interface(item: Any) -> str:
    """Return the interface that an entry is about; "" for one that is not ours to touch."""
    if not isinstance(item, dict) or item.get("default") is True:
        return ""
    name = item.get("interface")
    return name if isinstance(name, str) else ""


def _replaced(item: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("name") != ours.get("name"):
        return dict(ours)
    kept = {key: value for key, value in item.items() if key in ours or key not in _OURS}
    return {**kept, **ours}


def _same(one: list[Any], other: list[Any]) -> bool:
    return json.dumps(one) == json.dumps(other)  # not ==, which holds 1 and true for equal


def _text(entries: list[Any]) -> str:
    """Write the list as the client library does: entries indented by 4, one after the other."""
    return f"[{','.join(jsontext.dumps(item, indent=4) for item in entries)}]"
