"""Links that change hands between the node and a pod, and what a card sets for its functions, over route netlink.

Functions here take sockets and indexes, and raise rtnl.KernelError; agent.apply gives them what they need.

Rules
1. Move and new name are one message: the kernel does both under one lock, so that nobody else (udev, above all) finds
   the link under a name that it does not keep. It refuses a name that is taken after the move, though: callers look
   before, and find the link by its mark afterwards.
2. A link's first change is its mark, and its last one that the mark goes (agent.hardware, rule 1). On its way back it
   gets the mark with the move: the pod may have taken it off.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable

from agent import links, rtnl
from agent.hardware import Chosen, Function, Hardware, State, Taken, VirtualFunction

IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200
_VXLAN_LINK = 3  # IFLA_VXLAN_LINK
KEPT_FLAGS = IFF_UP | IFF_PROMISC | IFF_ALLMULTI
WITH_FUNCTIONS = ("IFLA_EXT_MASK", 9)  # RTEXT_FILTER_VF, and without statistics

_LEAD_NOWHERE = frozenset({"dummy", "ifb"})
_NEWNSID, _GETNSID = 88, 90  # RTM_*
_NSID, _BY_FD, _FOR = 1, 3, 4  # NETNSA_NSID, _FD, _TARGET_NSID
_LINK_HEADER = struct.Struct("=BxHiII")  # struct ifinfomsg
_FUNCTIONS, _ONE, _VLAN_INFO = 22, 1, 1  # IFLA_VFINFO_LIST, IFLA_VF_INFO, IFLA_VF_VLAN_INFO
_MAC, _VLAN, _SPOOFCHK, _LINK_STATE, _RATE, _TRUST, _VLAN_LIST = 1, 2, 4, 5, 6, 9, 12  # IFLA_VF_*
_UNKNOWN = 0xFFFFFFFF  # what a driver says of a switch that it has not got


def state(message: rtnl.LinkMessage) -> State:
    """Return all of a link that has to be as it was when it comes back."""
    return State(
        message.name, message.mac, message.mtu, message.queue, message.flags & KEPT_FLAGS, message.alias,
        message.bus, message.device, message.permanent, message.kind, message.parent, message.parent_netns,
    )  # fmt: skip


def chosen(there: Iterable[rtnl.LinkMessage], what: Chosen, device: Hardware | None) -> list[rtnl.LinkMessage]:
    """Return the links that were chosen.

    A MAC is rather the link's that was made with it than that of one which was given it; links that are made on others
    have theirs.
    """
    links_there = list(there)
    match what.key:
        case "hostInterface":
            return [one for one in links_there if one.name == what.value]
        case "hwaddr":
            born = [one for one in links_there if one.permanent == what.value and one.device]
            return born or [
                one for one in links_there if one.mac == what.value and (not one.parent or one.kind == "veth")
            ]
    return [one for one in links_there if device and (one.bus, one.device) in device.links]


def users(of: rtnl.LinkMessage, others: Iterable[rtnl.LinkMessage]) -> tuple[str, ...]:
    """Return the names of the links that are made on this one, and of its ports."""
    return tuple(one.name for one in others if of.index in (one.master, _below(one)))


def _below(one: rtnl.LinkMessage) -> int:
    """Return the index of the link of this namespace that a link is made on; 0 for none."""
    if one.kind == "vxlan":
        return links.number(one.data, _VXLAN_LINK) or 0
    return 0 if one.elsewhere or one.kind == "veth" else one.parent


def is_marked(message: rtnl.LinkMessage, what: Taken) -> bool:
    return message.alias.startswith(f"{what.mark} ")


def is_taken_on_node(message: rtnl.LinkMessage, what: Taken) -> bool:
    """Whether a link of the node is the one that was taken, and not yet given back.

    A virtual one comes there by nobody's hand but ours, and bears its mark.
    """
    if what.was and what.was.device:
        return _same_device(message, what.was)
    return is_marked(message, what)


def is_taken_in_pod(message: rtnl.LinkMessage, what: Taken, parent_netns: Callable[[int], int | None]) -> bool:
    """Whether a link of the pod is proven to be the one that was taken (agent.hardware, rules 2 and 3).

    `parent_netns`: what the node calls the namespace that the pod calls so.
    """
    was = what.was
    if was is None:
        return is_marked(message, what) and bool(message.device) and not message.kind
    if was.device:
        return _same_device(message, was)
    if message.device or message.kind != was.kind:
        return False
    if was.kind in _LEAD_NOWHERE:
        return is_marked(message, what)
    same = was.parent != 0 and message.parent == was.parent and message.parent_netns >= 0
    return same and parent_netns(message.parent_netns) == was.parent_netns


def is_it(message: rtnl.LinkMessage, what: Taken) -> bool:
    """Whether a link that is on the node, out of the pod's reach, is the one that was taken; as far as is known."""
    was = what.was
    if was is None:
        return True
    if was.device:
        return _same_device(message, was)
    made_on = (message.kind, message.parent, message.parent_netns)
    return not message.device and made_on == (was.kind, was.parent, was.parent_netns)


def _same_device(message: rtnl.LinkMessage, was: State) -> bool:
    same = (message.bus, message.device, message.kind) == (was.bus, was.device, was.kind)
    return same and was.permanent in ("", message.permanent)


def name_on_node(pod: rtnl.Socket, node_fd: int, netns: int) -> int | None:
    """Return what the node calls a namespace that the pod calls so: -1 for the node's own, None where it has no name.

    `node_fd`: the node's namespace.
    """
    own = _netns(pod, _attribute(_BY_FD, struct.pack("=I", node_fd)))
    if own == netns:
        return -1
    if own < 0:
        chosen = _attribute(_NSID, struct.pack("=i", -1)) + _attribute(_BY_FD, struct.pack("=I", node_fd))
        pod.exchange(_NEWNSID, bytes(4) + chosen, rtnl.ACK)
        own = _netns(pod, _attribute(_BY_FD, struct.pack("=I", node_fd)))
    there = _netns(pod, _attribute(_NSID, struct.pack("=i", netns)) + _attribute(_FOR, struct.pack("=i", own)))
    return there if there >= 0 else None


def _netns(where: rtnl.Socket, asked: bytes) -> int:
    """Return a namespace's name; -1: it has none."""
    (answer,) = where.exchange(_GETNSID, bytes(4) + asked)
    return int(struct.unpack("=i", dict(links.attributes(answer, 4))[_NSID])[0])


def mark(node: rtnl.Socket, ifindex: int, alias: str) -> None:
    """Let a link bear this alias; "": none."""
    node.do(rtnl.SETLINK, {"index": ifindex}, [("IFLA_IFALIAS", alias)])


def move(where: rtnl.Socket, ifindex: int, netns_fd: int, name: str, alias: str | None = None) -> None:
    """Move a link to the namespace, down, where it has this name; and this alias, if one is said."""
    marked = [] if alias is None else [("IFLA_IFALIAS", alias)]
    where.do(rtnl.SETLINK, {"index": ifindex}, [("IFLA_NET_NS_FD", netns_fd), ("IFLA_IFNAME", name), *marked])


def rename(where: rtnl.Socket, ifindex: int, name: str) -> None:
    """Give a link another name; it is down afterwards."""
    where.do(rtnl.SETLINK, {"index": ifindex, "flags": 0, "change": IFF_UP}, [])
    where.do(rtnl.SETLINK, {"index": ifindex}, [("IFLA_IFNAME", name)])


def restore(node: rtnl.Socket, there: rtnl.LinkMessage, was: State) -> None:
    """Make a link of the node what it was, but for its mark."""
    attributes = [
        (name, before)
        for name, before, now in (
            ("IFLA_ADDRESS", was.mac, there.mac),
            ("IFLA_MTU", was.mtu, there.mtu),
            ("IFLA_TXQLEN", was.queue, there.queue),
        )
        if before is not None and before != now
    ]
    if attributes:
        node.do(rtnl.SETLINK, {"index": there.index, "flags": 0, "change": IFF_UP}, [])  # some cards insist
        node.do(rtnl.SETLINK, {"index": there.index}, attributes)
    if was.flags is not None:
        node.do(rtnl.SETLINK, {"index": there.index, "flags": was.flags, "change": KEPT_FLAGS}, [])


# -- virtual functions -------------------------------------------------------------------------------------------


def settings(card: rtnl.LinkMessage, number: int) -> VirtualFunction | None:
    """Return what the card has for its function; None where it has none of that number.

    `card`: read with WITH_FUNCTIONS.
    """
    for _, one in links.attributes(card.functions):
        found = dict(links.attributes(one))
        if _MAC in found and _word(found[_MAC]) == number:
            return _settings(found)
    return None


def set_function(node: rtnl.Socket, card: int, function: Function, wanted: VirtualFunction) -> None:
    """Let the card, a link of the node by its index, set this of its function; what is None stays as it is."""
    one = b"".join(_encoded(function.number, wanted))
    if one:
        body = _LINK_HEADER.pack(0, 0, card, 0, 0) + _attribute(_FUNCTIONS, _attribute(_ONE, one))
        node.exchange(rtnl.SETLINK, body, rtnl.ACK)


def _settings(found: dict[int, bytes]) -> VirtualFunction:
    vlan = next((value for _, value in links.attributes(found.get(_VLAN_LIST, b""))), b"")
    _, vlan_id, qos = struct.unpack_from("=III", vlan or found.get(_VLAN, bytes(12)))
    _, least, most = struct.unpack_from("=III", found.get(_RATE, bytes(12)))
    return VirtualFunction(
        mac=found[_MAC][4:10].hex(":"),
        vlan=vlan_id,
        qos=qos,
        proto=int.from_bytes(vlan[12:14], "big") if vlan else None,
        min_rate=least,
        max_rate=most,
        spoofchk=_switch(found.get(_SPOOFCHK)),
        trust=_switch(found.get(_TRUST)),
        link_state=_word(found[_LINK_STATE][4:]) if _LINK_STATE in found else None,
    )


def _encoded(number: int, wanted: VirtualFunction) -> Iterable[bytes]:
    if wanted.mac is not None:
        yield _attribute(_MAC, struct.pack("=I32s", number, bytes.fromhex(wanted.mac.replace(":", ""))))
    if wanted.vlan is not None:
        vlan = struct.pack("=III", number, wanted.vlan, wanted.qos or 0) + struct.pack("!H2x", wanted.proto or 0x8100)
        yield _attribute(_VLAN_LIST, _attribute(_VLAN_INFO, vlan))
    if wanted.min_rate is not None or wanted.max_rate is not None:
        yield _attribute(_RATE, struct.pack("=III", number, wanted.min_rate or 0, wanted.max_rate or 0))
    for kind, value in ((_SPOOFCHK, wanted.spoofchk), (_LINK_STATE, wanted.link_state), (_TRUST, wanted.trust)):
        if value is not None:
            yield _attribute(kind, struct.pack("=II", number, int(value)))


def _word(value: bytes) -> int:
    return int.from_bytes(value[:4], sys.byteorder)


def _switch(value: bytes | None) -> bool | None:
    """None: the driver has no such switch."""
    return None if value is None or _word(value[4:]) == _UNKNOWN else bool(_word(value[4:]))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
