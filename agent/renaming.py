"""Gives a link another name, and keeps all that it has.

Rules
1. Kernels before 6.2 rename only a link that is down (EBUSY), and a link that is set down loses its routes and its
   IPv6 addresses. They are put back afterwards as the kernel had told them, without a look at what they mean.
2. What the kernel or a router makes by itself (link-local, temporary and other addresses that expire; routes of the
   kernel and of router advertisements) is theirs to make again.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterator

from agent import links, rtnl
from agent.links import Link
from agent.place import UP, translated

_DOWN = {"flags": 0, "change": 1}
_ADDRESS = struct.Struct("=BBBBi")  # struct ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HHI")
_FLAGS, _TEMPORARY, _PERMANENT = 8, 0x01, 0x80  # IFA_FLAGS, IFA_F_*
_LINK_SCOPE, _UNICAST, _ONLINK = 253, 1, 4
_OF_OTHERS = (2, 9)  # RTPROT_KERNEL, _RA
_OIF, _GATEWAY, _MULTIPATH, _VIA = 4, 5, 9, 18  # RTA_*
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop
_TRIES = 10

log = logging.getLogger(__name__)


def rename(where: rtnl.Socket, link: Link, name: str) -> None:
    """Rename the link; it is up afterwards if it was. Raises CNIError."""
    with translated(f"rename {link.name} to {name}"):
        try:
            _name(where, link, name)
        except rtnl.KernelError as problem:
            if problem.code != errno.EBUSY:
                raise
            _rename_down(where, link, name)


def _name(where: rtnl.Socket, link: Link, name: str) -> None:
    where.do(rtnl.SETLINK, {"index": link.index}, [("IFLA_IFNAME", name)])


def _rename_down(where: rtnl.Socket, link: Link, name: str) -> None:
    """Rule 1."""
    addresses, routes = list(_addresses(where, link.index)), list(_routes(where, link.index))
    where.do(rtnl.SETLINK, {"index": link.index, **_DOWN}, [])
    try:
        _name(where, link, name)
    finally:
        where.do(rtnl.SETLINK, {"index": link.index, **UP}, [])
        _put_back(where, rtnl.NEWADDR, addresses)
        _put_back(where, rtnl.NEWROUTE, sorted(routes, key=_has_gateway))  # through what the others lead to


def _addresses(where: rtnl.Socket, index: int) -> Iterator[bytes]:
    for body in _listed(where, rtnl.GETADDR, _ADDRESS.pack(socket.AF_INET6, 0, 0, 0, index)):
        _, _, low, scope, _ = _ADDRESS.unpack_from(body)
        flags = links.number(body[_ADDRESS.size :], _FLAGS) or low
        if scope != _LINK_SCOPE and flags & _PERMANENT and not flags & _TEMPORARY:
            yield body


def _routes(where: rtnl.Socket, index: int) -> Iterator[bytes]:
    for family in (socket.AF_INET, socket.AF_INET6):
        asked = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + _ATTRIBUTE.pack(_ATTRIBUTE.size, _OIF, index)
        for body in _listed(where, rtnl.GETROUTE, asked):
            *head, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
            if index in _ways(body) and kind == _UNICAST and protocol not in _OF_OTHERS:
                yield _ROUTE.pack(*head, protocol, scope, kind, flags & _ONLINK) + body[_ROUTE.size :]


def _listed(where: rtnl.Socket, kind: int, asked: bytes) -> list[bytes]:
    for _ in range(_TRIES):
        try:
            return where.exchange(kind, asked, rtnl.DUMP)
        except rtnl.Interrupted:
            continue
    raise rtnl.Interrupted(errno.EBUSY, "what is listed keeps changing")


def _put_back(where: rtnl.Socket, kind: int, bodies: list[bytes]) -> None:
    for body in bodies:
        try:
            where.exchange(kind, body, rtnl.ACK | rtnl.CREATE | rtnl.EXCL)
        except rtnl.KernelError as problem:
            if problem.code != errno.EEXIST or _is_lost_in_part(kind, body):
                log.warning("what a link had before it was renamed cannot be put back: %s", problem)


def _ways(body: bytes) -> Iterator[int]:
    """Yield the links that a route leads through: one, or those of its next hops."""
    yield links.number(body[_ROUTE.size :], _OIF) or 0
    hops = links.attribute(body[_ROUTE.size :], _MULTIPATH) or b""
    while len(hops) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hops)
        yield index
        hops = hops[max((length + 3) & ~3, _NEXT_HOP.size) :]


def _is_lost_in_part(kind: int, body: bytes) -> bool:
    """Whether a route that is there may lack the way through this link: of IPv6's the kernel takes off the one."""
    is_six = kind == rtnl.NEWROUTE and body[0] == socket.AF_INET6
    return is_six and links.attribute(body[_ROUTE.size :], _MULTIPATH) is not None


def _has_gateway(body: bytes) -> bool:
    return any(links.attribute(body[_ROUTE.size :], kind) for kind in (_GATEWAY, _VIA, _MULTIPATH))
