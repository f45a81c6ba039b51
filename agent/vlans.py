"""The VLANs of a bridge's port, over route netlink (<linux/if_bridge.h>).

Rules
1. However many VLANs there are, they go in one message, neighbouring ones as a range (RANGE_BEGIN, RANGE_END).
2. One port is asked for, and the kernel answers for that one alone (RTM_GETVLAN, Linux 5.6): the VLANs of a node's
   thousands of ports are not listed to know those of one.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent import links, rtnl
from agent.ports import Vlan

_BRIDGE = 7  # AF_BRIDGE
_AF_SPEC, _VLAN_INFO = 26, 2
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 2, 4, 8, 16
_ENTRY, _ENTRY_INFO, _ENTRY_RANGE = 1, 1, 2
_NESTED = 0x8000
_HEADER = struct.Struct("=BBHI")
_LINK_HEADER = struct.Struct("=BBHiII")
_INFO = struct.Struct("=HH")  # flags, ID
_LOOPBACK = 1  # a link that is there, and no port
_NO_VLANS = (errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP)  # no port, no link, a kernel without VLANs of bridges


def supported(node: rtnl.Socket) -> bool:
    """Whether the kernel has VLAN filtering; while its bridge module is not loaded yet, it is taken to have it."""
    try:
        _listed(node, _LOOPBACK)
    except rtnl.KernelError as problem:
        if problem.code not in _NO_VLANS:
            raise
        return problem.code != errno.EOPNOTSUPP or not Path("/sys/module/bridge").exists()
    return True


def read(node: rtnl.Socket, ifindex: int) -> frozenset[Vlan] | None:
    """Return the VLANs of a port; None where there are none to have. Raises rtnl.KernelError."""
    try:
        answers = _listed(node, ifindex)
    except rtnl.KernelError as problem:
        if problem.code in _NO_VLANS:
            return None
        raise
    return frozenset(vlan for body in answers for vlan in _entries(body))


def change(node: rtnl.Socket, ifindex: int, add: Iterable[Vlan], drop: Iterable[int]) -> None:
    """Add and take away VLANs of a port. Raises rtnl.KernelError."""
    if gone := _spec(Vlan(number) for number in drop):
        try:
            node.exchange(rtnl.DELLINK, _message(ifindex, gone), rtnl.ACK)
        except rtnl.KernelError as problem:
            if problem.code != errno.ENOENT:
                raise
    if new := _spec(add):
        node.exchange(rtnl.SETLINK, _message(ifindex, new), rtnl.ACK)


def _listed(node: rtnl.Socket, ifindex: int) -> list[bytes]:
    return node.exchange(rtnl.GETVLAN, _HEADER.pack(_BRIDGE, 0, 0, ifindex), rtnl.DUMP)


def _entries(body: bytes) -> Iterator[Vlan]:
    for kind, entry in links.attributes(body, _HEADER.size):
        if kind == _ENTRY:
            flags, first = _INFO.unpack_from(links.attribute(entry, _ENTRY_INFO) or b"\0\0\0\0")
            last = links.number(entry, _ENTRY_RANGE) or first
            for number in range(first, last + 1):
                yield Vlan(number, bool(flags & _PVID), bool(flags & _UNTAGGED))


def _message(ifindex: int, spec: bytes) -> bytes:
    return _LINK_HEADER.pack(_BRIDGE, 0, 0, ifindex, 0, 0) + _attribute(_AF_SPEC | _NESTED, spec)


def _spec(vlans: Iterable[Vlan]) -> bytes:
    return b"".join(_attribute(_VLAN_INFO, _INFO.pack(flags, number)) for flags, number in _infos(vlans))


def _infos(vlans: Iterable[Vlan]) -> Iterator[tuple[int, int]]:
    """Yield (flags, ID): one for a single VLAN, two for a range of like ones. A PVID is never part of a range."""
    for (flags, _, pvid), group in itertools.groupby(enumerate(sorted(vlans)), _run):
        numbers = [vlan.id for _, vlan in group]
        if pvid or len(numbers) == 1:
            yield from ((flags, number) for number in numbers)
        else:
            yield from ((flags | _RANGE_BEGIN, numbers[0]), (flags | _RANGE_END, numbers[-1]))


def _run(item: tuple[int, Vlan]) -> tuple[int, int, bool]:
    """What is the same for all of a range."""
    position, vlan = item
    return vlan.pvid * _PVID | vlan.untagged * _UNTAGGED, vlan.id - position, vlan.pvid


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
