"""Pure: requests about links, encoded without pyroute2, which takes twenty times as long; and they are most of what an
attachment costs. What is not in the tables is left to pyroute2 (`encode` returns None).

Numbers and layouts are those of <linux/rtnetlink.h>, <linux/if_link.h> and <linux/veth.h>.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Attributes = Sequence[tuple[str, Any]]

_IFINFOMSG = struct.Struct("=BxHiII")
_FIELDS = frozenset({"index", "flags", "change"})


def encode(fields: Mapping[str, Any], attributes: Attributes) -> bytes | None:
    """Return the body of a link message; None where it has what is not known here."""
    try:
        return _message(fields, attributes)
    except KeyError:
        return None


def _message(fields: Mapping[str, Any], attributes: Attributes) -> bytes:
    if not fields.keys() <= _FIELDS:
        raise KeyError
    header = _IFINFOMSG.pack(0, 0, fields.get("index", 0), fields.get("flags", 0), fields.get("change", 0))
    return header + _attributes(_LINK, attributes)


def _attributes(known: Mapping[str, tuple[int, Callable[[Any], bytes]]], attributes: Attributes) -> bytes:
    parts = []
    for name, value in attributes:
        number, encoded = known[name]
        data = encoded(value)
        parts.append(struct.pack("=HH", len(data) + 4, number) + data + bytes(-len(data) % 4))
    return b"".join(parts)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _info(value: Mapping[str, Attributes]) -> bytes:
    return _attributes(_INFO, value["attrs"])


def _veth(value: Mapping[str, Attributes]) -> bytes:
    """The only kind with data that is known here; no other has an attribute of this name."""
    return _attributes(_VETH, value["attrs"])


def _peer(value: Mapping[str, Attributes]) -> bytes:
    return _message({}, value["attrs"])


_LINK: Mapping[str, tuple[int, Callable[[Any], bytes]]] = {
    "IFLA_ADDRESS": (1, _mac),
    "IFLA_IFNAME": (3, _text),
    "IFLA_MTU": (4, _number),
    "IFLA_LINK": (5, _number),
    "IFLA_MASTER": (10, _number),
    "IFLA_LINKINFO": (18, _info),
    "IFLA_GROUP": (27, _number),
    "IFLA_NET_NS_FD": (28, _number),
    "IFLA_EXT_MASK": (29, _number),
}
_INFO: Mapping[str, tuple[int, Callable[[Any], bytes]]] = {"IFLA_INFO_KIND": (1, _text), "IFLA_INFO_DATA": (2, _veth)}
_VETH: Mapping[str, tuple[int, Callable[[Any], bytes]]] = {"VETH_INFO_PEER": (1, _peer)}
