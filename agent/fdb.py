"""The forwarding tables of the node's VXLAN links, the ports of its bridges, and who of its links has an address, over
route netlink (<linux/neighbour.h>, <linux/if_link.h>). There may be thousands: pyroute2 would take long to decode them.

Everything here may raise rtnl.KernelError; agent.apply says what was being done then.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator

from agent import links, rtnl
from agent.underlay import Entry, IPAddress

_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_BRIDGE = 7  # AF_BRIDGE
_HEADER = struct.Struct("=B3xiHBB")  # ndmsg: family, ifindex, state, flags, type
_DST, _LLADDR = 1, 2  # NDA_*
_LINK_HEADER = struct.Struct("=16x")  # ifinfomsg: of any family, type and index
_IFNAME, _MASTER, _EXT_MASK = 3, 10, 29  # IFLA_*
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS
_SELF = 0x02  # NTF_SELF: the link's own table, not that of its bridge
_LASTING = 0x80 | 0x40  # NUD_PERMANENT, NUD_NOARP
_APPEND = 0x800  # NLM_F_APPEND
_FIB_MATCH, _LOCAL = 0x2000, 2  # RTM_F_FIB_MATCH: the route that matches, not the way that results; RTN_LOCAL
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)
_TRIES = 10


def entries(node: rtnl.Socket, ifindex: int) -> frozenset[Entry]:
    """Return the entries of a VXLAN link that lead to other nodes: those given to it, and what it has learned."""
    request = _HEADER.pack(_BRIDGE, ifindex, 0, 0, 0)
    return frozenset(entry for body in _dumped(node, _GETNEIGH, request) for entry in _decoded(body, ifindex))


def append(node: rtnl.Socket, ifindex: int, entry: Entry) -> None:
    """Add an entry beside others of its MAC; for the kernel one that is there already is a success."""
    node.exchange(_NEWNEIGH, _encoded(ifindex, _LASTING, entry), rtnl.ACK | rtnl.CREATE | _APPEND)


def delete(node: rtnl.Socket, ifindex: int, entry: Entry) -> None:
    """Remove an entry; one that is gone already is fine."""
    try:
        node.exchange(_DELNEIGH, _encoded(ifindex, 0, entry), rtnl.ACK)
    except rtnl.KernelError as problem:
        if problem.code != errno.ENOENT:
            raise


def ports(node: rtnl.Socket, bridge: int) -> frozenset[str]:
    """Return the names of a bridge's ports."""
    asked = ((_MASTER, bridge), (_EXT_MASK, _SKIP_STATISTICS))
    request = _LINK_HEADER.pack() + b"".join(_attribute(kind, struct.pack("=I", value)) for kind, value in asked)
    return frozenset(_name(body) for body in _dumped(node, rtnl.GETLINK, request))


def holder(node: rtnl.Socket, address: IPAddress) -> int | None:
    """Return the index of the link that has the address, None where none has.

    One question, though the node may have thousands of addresses (kube-proxy's IPVS mode gives it all Services').
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    fields = {"family": family, "dst_len": address.max_prefixlen, "flags": _FIB_MATCH}
    try:
        route = node.get(rtnl.GETROUTE, fields, [("RTA_DST", str(address))])
    except rtnl.KernelError as problem:
        if problem.code in _NO_ROUTE:
            return None
        raise
    return rtnl.attributes(route).get("RTA_OIF") if route["type"] == _LOCAL else None


def _dumped(node: rtnl.Socket, kind: int, request: bytes) -> list[bytes]:
    for _ in range(_TRIES):
        try:
            return node.exchange(kind, request, rtnl.DUMP)
        except rtnl.Interrupted:
            continue
    raise rtnl.Interrupted(errno.EBUSY, "what is listed keeps changing")


def _name(body: bytes) -> str:
    attributes = links.attributes(body, _LINK_HEADER.size)
    return next(value for kind, value in attributes if kind == _IFNAME).rstrip(b"\0").decode(errors="replace")


def _decoded(body: bytes, ifindex: int) -> Iterator[Entry]:
    _, index, _, flags, _ = _HEADER.unpack_from(body)
    found = dict(links.attributes(body, _HEADER.size))
    if index == ifindex and flags & _SELF and _DST in found and _LLADDR in found:
        yield Entry(found[_LLADDR].hex(":"), ipaddress.ip_address(found[_DST]))


def _encoded(ifindex: int, state: int, entry: Entry) -> bytes:
    mac = bytes.fromhex(entry.mac.replace(":", ""))
    header = _HEADER.pack(_BRIDGE, ifindex, state, _SELF, 0)
    return header + _attribute(_LLADDR, mac) + _attribute(_DST, entry.address.packed)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
