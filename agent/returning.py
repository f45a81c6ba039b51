"""What the node has set up on an interface, its addresses and routes: read before the interface is lent, put back when
it returns. The kernel forgets both when an interface changes its namespace.

Kept as the kernel tells it, message for message, so that nothing is lost which nobody here knows by name (labels,
metrics, preferred sources); only the index of the interface is another one afterwards.

Rules
1. What somebody keeps up himself is not kept: addresses and routes that end (DHCP's, a router's advertisement), and
   what the kernel makes of the addresses. Their owners see the interface come back.
2. A route by several interfaces is not this one's, and is left to who made it.
3. What cannot be put back is told and left out: the interface has to come back all the same.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterator

from agent import links, rtnl
from agent.hardware import Setup

_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefixlen, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst, src, tos, table, protocol, scope, type, flags
_U32 = struct.Struct("=I")

# IFA_*: the address itself, its label and broadcast, flags, metric, protocol
_IFA_LABEL, _IFA_FLAGS, _IFA_PROTO = 3, 8, 11
_KEPT_OF_ADDRESS = frozenset({1, 2, _IFA_LABEL, 4, _IFA_FLAGS, 9, _IFA_PROTO})
_PERMANENT, _KEPT_FLAGS = 0x80, 0x02 | 0x10 | 0x100 | 0x200 | 0x400  # no DAD, home, temporaries, no route, multicast
_BY_THE_KERNEL = frozenset({b"\1", b"\2", b"\3"})  # IFAPROT_KERNEL_LO, _RA, _LL

# RTA_*: destination, source, gateway, priority, preferred source, metrics, realm, table, gateway of another family,
# preference, encapsulation
_OIF, _MULTIPATH, _CACHE = 4, 9, 12
_KEPT_OF_ROUTE = frozenset({1, 2, 5, 6, 7, 8, 11, 15, 18, 20, 21, 22})
_GATEWAYS = frozenset({5, 18})
_KEPT_UP = frozenset({1, 2, 9})  # RTPROT_REDIRECT, _KERNEL, _RA
_ROUTE_FLAGS = 0x2 | 0x4  # RTNH_F_PERVASIVE, _ONLINK; the others say how the route fares
_TRIES = 10

log = logging.getLogger(__name__)


def read(node: rtnl.Socket, ifindex: int) -> Setup:
    """Return what the node has set up on the interface. Raises rtnl.KernelError."""
    addresses = _dumped(node, rtnl.GETADDR, _ADDRESS.pack(0, 0, 0, 0, ifindex))
    routes = [
        body
        for family in (socket.AF_INET, socket.AF_INET6)
        for body in _dumped(
            node, rtnl.GETROUTE, _ROUTE.pack(family, *bytes(7), 0) + _attribute(_OIF, _U32.pack(ifindex))
        )
    ]
    return Setup(
        tuple(kept.hex() for body in addresses if (kept := _kept_address(body))),
        tuple(kept.hex() for body in sorted(routes, key=_has_gateway) if (kept := _kept_route(body))),
    )


def put_back(node: rtnl.Socket, ifindex: int, setup: Setup) -> None:
    """Set all of it up on the interface, which is up if it was; what is there already is fine (rule 3)."""
    index = _U32.pack(ifindex)
    at = _ADDRESS.size - len(index)
    for kept in map(bytes.fromhex, setup.addresses):
        _try(node, rtnl.NEWADDR, kept[:at] + index + kept[_ADDRESS.size :])
    for kept in map(bytes.fromhex, setup.routes):
        _try(node, rtnl.NEWROUTE, kept + _attribute(_OIF, index))


def _try(node: rtnl.Socket, kind: int, message: bytes) -> None:
    try:
        node.exchange(kind, message, rtnl.ACK | rtnl.CREATE | rtnl.EXCL)
    except rtnl.KernelError as problem:
        if problem.code != errno.EEXIST:
            what = "an address" if kind == rtnl.NEWADDR else "a route"
            log.warning("%s that an interface had on the node is not put back: %s: %s", what, problem, message.hex())


def _kept_address(body: bytes) -> bytes:
    """Return the message to make it again; b"": it is not kept (rule 1)."""
    family, length, short_flags, scope, _ = _ADDRESS.unpack_from(body)
    known = dict(links.attributes(body, _ADDRESS.size))
    flags = _U32.unpack(known[_IFA_FLAGS])[0] if _IFA_FLAGS in known else short_flags
    if not flags & _PERMANENT or known.get(_IFA_PROTO) in _BY_THE_KERNEL:
        return b""
    known[_IFA_FLAGS] = _U32.pack(flags & _KEPT_FLAGS)
    if b":" not in known.get(_IFA_LABEL, b":"):
        del known[_IFA_LABEL]  # the interface's name, which may be another one afterwards
    header = _ADDRESS.pack(family, length, flags & _KEPT_FLAGS & 0xFF, scope, 0)
    return header + b"".join(_attribute(kind, value) for kind, value in known.items() if kind in _KEPT_OF_ADDRESS)


def _kept_route(body: bytes) -> bytes:
    """Return the message to make it again, but for the interface; b"": it is not kept (rules 1 and 2)."""
    *header, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    found = dict(links.attributes(body, _ROUTE.size))
    if protocol in _KEPT_UP or _MULTIPATH in found or _ends(found.get(_CACHE, b"")):
        return b""
    kept = (_attribute(number, value) for number, value in found.items() if number in _KEPT_OF_ROUTE)
    return _ROUTE.pack(*header, protocol, scope, kind, flags & _ROUTE_FLAGS) + b"".join(kept)


def _ends(cache: bytes) -> bool:
    """`rta_expires` of struct rta_cacheinfo."""
    return any(cache[8:12])


def _has_gateway(body: bytes) -> bool:
    """The kernel takes such a route only once there is a way to the gateway."""
    return any(kind in _GATEWAYS for kind, _ in links.attributes(body, _ROUTE.size))


def _dumped(node: rtnl.Socket, kind: int, request: bytes) -> Iterator[bytes]:
    for _ in range(_TRIES):
        try:
            return iter(node.exchange(kind, request, rtnl.DUMP))
        except rtnl.Interrupted:
            continue
    raise rtnl.Interrupted(errno.EBUSY, "what is listed keeps changing")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
