"""What this kernel can do for each kind of device, asked over route netlink.

Rules
1. Nothing is made. Each request names a kind, and has besides what no kernel accepts: a link without a single queue, a
   bucket without a size. A kernel that knows the kind refuses that; one that does not refuses the kind. The agent's
   container could not try it in a namespace of its own: its seccomp profile lets nobody make one.
2. No module is loaded for the question: that of ifb brings two links of its own. A module that is not loaded, and that
   the node has for this kernel, is as good as there.
3. An answer that is neither of the two is told as it is.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from agent import netns, ovsdb, rtnl, tap, vlans
from agent.devices.ovs import DATABASE
from cni import errors

_MODULES = {"vlan": "8021q", "tbf": "sch_tbf"}  # where a kind has another name than its module
LINKS = ("veth", "bridge", "macvlan", "ipvlan", "vlan", "dummy", "vxlan", "ifb")
TBF, BRIDGE_VLANS, TAP, OVS = "tbf", "bridge VLANs", "tap", "Open vSwitch"
NONE = "this kernel has none"
_IFNAME, _LINKINFO, _TX_QUEUES, _KIND, _NESTED = 3, 18, 31, 1, 0x8000
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_QUEUE = struct.Struct("=BxxxiIII")  # struct tcmsg
_LOOPBACK, _ROOT = 1, 0xFFFFFFFF
_UNKNOWN_LINK, _UNKNOWN_QUEUE = errno.EOPNOTSUPP, errno.ENOENT
_NAME = "hotnic-doctor"


def features(place: ovsdb.Place) -> Mapping[str, str]:
    """Return what is in the way of each; "": nothing. `place`: where a path of the node is for us."""
    return MappingProxyType(dict(_features(place)))


def _features(place: ovsdb.Place) -> Iterator[tuple[str, str]]:
    with netns.own() as own, netns.netlink_socket(own) as raw:
        node, waiting = rtnl.Socket(raw), _not_loaded(Path(place("/lib/modules")) / os.uname().release)
        for kind in LINKS:
            yield kind, "" if _module(kind) in waiting else _told(_ask_for_link, node, kind, _UNKNOWN_LINK)
        yield TBF, "" if _module(TBF) in waiting else _told(_ask_for_queue, node, TBF, _UNKNOWN_QUEUE)
        yield BRIDGE_VLANS, "" if vlans.supported(node) else NONE
    yield TAP, tap.what_is_in_the_way()
    yield OVS, _of_switch(place)


def _not_loaded(modules: Path) -> frozenset[str]:
    """Return the modules that the node has for this kernel, and that are not loaded (rule 2)."""
    try:
        lines = (modules / "modules.dep").read_text().splitlines()
    except OSError:
        return frozenset()  # there are none, so none can be loaded
    names = {Path(line.partition(":")[0]).name.partition(".ko")[0].replace("-", "_") for line in lines}
    return frozenset(names - set(os.listdir("/sys/module")))


def _module(kind: str) -> str:
    return _MODULES.get(kind, kind)


def _told(ask: Callable[[rtnl.Socket, str], None], node: rtnl.Socket, kind: str, unknown: int) -> str:
    """Return what the refusal says of the kind (rule 1)."""
    try:
        ask(node, kind)
    except rtnl.KernelError as problem:
        if problem.code == unknown:
            return NONE
        return "" if problem.code in (errno.EINVAL, errno.ENOMEM) else f"it does not say: {problem}"
    return "it does not say: what it has to refuse it has taken"


def _ask_for_link(node: rtnl.Socket, kind: str) -> None:
    info = _attribute(_LINKINFO | _NESTED, _attribute(_KIND, _text(kind)))
    body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFNAME, _text(_NAME))
    body += _attribute(_TX_QUEUES, struct.pack("=I", 0)) + info
    node.exchange(rtnl.NEWLINK, body, rtnl.ACK | rtnl.CREATE | rtnl.EXCL)


def _ask_for_queue(node: rtnl.Socket, kind: str) -> None:
    body = _QUEUE.pack(0, _LOOPBACK, 0, _ROOT, 0) + _attribute(_KIND, _text(kind))
    node.exchange(rtnl.NEWQDISC, body, rtnl.ACK | rtnl.CREATE | rtnl.EXCL)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _of_switch(place: ovsdb.Place) -> str:
    try:
        ovsdb.link_ports(place, DATABASE)
    except (ovsdb.Unreachable, errors.CNIError) as problem:
        return str(problem)
    return ""
