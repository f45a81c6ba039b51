"""The end of a pod's veth pair on the node, which others have renamed, given another MAC or moved out of the node's
namespace: found by what the kernel says of the pair, and put back.

Rules
1. Proof is the kernel's word: which link, in which namespace, is the other end of the one in the pod, asked of both
   ends. Numbers may be another's by now, so the end has to have its name or its MAC (agent.devices.veth_pair) as well:
   a pod may make a pair of its own, or its CNI's, bear the index that ours has had.
2. One that was moved is taken back: the pod's interface leads nowhere without it. It is looked for in the namespaces
   that have a name; where it is in none of them the user is told how to have the pair made anew. Never out of the pod
   itself: a pair that is whole in there may be the pod's own, under the index that ours has had.
3. Nor from where somebody has put it on purpose. An end whose name the user has chosen (`hostInterface`) is the node's
   business; one with an alias is marked as another's, as the plugin host-device does; and one that the journal knows
   is another pod's interface. These are told.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent import links, netns, rtnl
from agent.links import Where
from agent.model import Namespace, Record
from agent.place import Place, get, link, message_of, translated
from agent.renaming import rename
from cni import errors

_NAMED = "/run/netns"
_GETNSID, _NSID, _BY_FD = 90, 1, 3  # RTM_GETNSID, NETNSA_NSID, _FD
_HERE = -1


@dataclass(frozen=True, slots=True)
class HostEnd:
    """What the host end of an attachment is to be."""

    name: str
    mac: str
    pod_index: int  # of the end in the pod
    is_named: bool  # by the user
    attached: Callable[[], Iterable[Record]]  # all that the journal knows


def restore(place: Place, want: HostEnd, *, repair: bool) -> tuple[str, ...]:
    """Return what is wrong with the host end; with `repair` it is right afterwards, though it may be down.

    Nothing is said of one that is not there. Raises CNIError with what is in the way.
    """
    host = get(place.node, want.name)
    if host is not None and (host.kind, host.mac) == ("veth", want.mac):
        return ()
    away = _moved(place, want, repair=repair)
    return away if away and not repair else (*away, *_changed(place, want, repair=repair))


def _moved(place: Place, want: HostEnd, *, repair: bool) -> tuple[str, ...]:
    pod_end = _pod_end(place, want.pod_index)
    if pod_end is None or _is_on_node(place, pod_end):
        return ()
    away = f"host end {want.name} is in another network namespace"
    if repair:
        with netns.own() as node, _namespace_of(place, pod_end) as there:
            if obstacle := _obstacle(place, want, pod_end, there):
                raise errors.CNIError(errors.Code.INTERNAL, f"{away}: {obstacle}")
            assert there
            # with its name, as the node may have the one that it has by now
            back = [("IFLA_NET_NS_FD", node), ("IFLA_IFNAME", want.name)]
            with translated(f"take {want.name} back to the node"):
                there[0].do(rtnl.SETLINK, {"index": pod_end.parent}, back)
    return (away,)


def _obstacle(
    place: Place, want: HostEnd, pod_end: rtnl.LinkMessage, there: tuple[rtnl.Socket, Namespace] | None
) -> str:
    """Return why the end is not taken back; "": it is (rules 1 to 3)."""
    remedy = f"it is not taken back from there; delete {pod_end.name} in the pod, and it is made anew"
    if want.is_named:
        return "its name is one that the node's users have chosen, and it is left to them"
    if there is None:
        return remedy
    where, namespace = there
    host = _other_end(place, where, pod_end)
    if host is None or not _is_ours(host, want):
        return remedy
    is_anothers = any(one.ifindex == host.index and namespace.is_same(one.namespace) for one in want.attached())
    return f"it is another's by now; {remedy}" if host.alias or is_anothers else ""


def _changed(place: Place, want: HostEnd, *, repair: bool) -> tuple[str, ...]:
    pod_end = _pod_end(place, want.pod_index)
    message = _other_end(place, place.node, pod_end) if pod_end else None
    if message is None or not pod_end:
        return ()
    host, name, mac = link(message), want.name, want.mac
    if not _is_ours(message, want):
        strange = f"the other end of {pod_end.name} is {host.name}, which has neither the name nor the MAC of {name}"
        if repair:
            advice = f"it is not touched; delete {pod_end.name} in the pod, and the pair is made anew"
            raise errors.CNIError(errors.Code.INTERNAL, f"{strange}: {advice}")
        return (strange,)
    if repair and host.name != name:
        rename(place.node, host, name)
    if repair and host.mac != mac:
        with translated(f"give {name} its MAC"):
            place.node.do(rtnl.SETLINK, {"index": host.index}, [("IFLA_ADDRESS", mac)])
    return (
        *((f"host end {name} has another name",) if host.name != name else ()),
        *((f"host end {name} has MAC {host.mac}, not {mac}",) if host.mac != mac else ()),
    )


def _is_ours(host: rtnl.LinkMessage, want: HostEnd) -> bool:
    return want.name == host.name or want.mac == host.mac


def _pod_end(place: Place, index: int) -> rtnl.LinkMessage | None:
    """Return the pod's end, if it is one of a pair that is whole."""
    there = message_of(place.socket(Where.IN_POD), f"link {index}", {"index": index}, [])
    return there if there is not None and there.kind == "veth" and there.parent else None


def _other_end(place: Place, where: rtnl.Socket, pod_end: rtnl.LinkMessage) -> rtnl.LinkMessage | None:
    """Return the other end of the pod's, if it is there, and says so itself (rule 1)."""
    what = f"the other end of {pod_end.name}"
    there = message_of(where, what, {"index": pod_end.parent}, [])
    if there is None or (there.kind, there.parent) != ("veth", pod_end.index) or there.parent_netns == _HERE:
        return None
    return there if _called(where, place.netns_fd) == there.parent_netns else None


def _is_on_node(place: Place, pod_end: rtnl.LinkMessage) -> bool:
    with netns.own() as node:
        return pod_end.parent_netns != _HERE and _called(place.socket(Where.IN_POD), node) == pod_end.parent_netns


@contextmanager
def _namespace_of(place: Place, pod_end: rtnl.LinkMessage) -> Iterator[tuple[rtnl.Socket, Namespace] | None]:
    """Yield a socket in the namespace of the other end, and what that is; None: it cannot be found, or is the pod's."""
    names = () if pod_end.parent_netns == _HERE else _named(place)
    found_there = (_opened(place, name, pod_end.parent_netns) for name in names)
    opened = next(filter(None, found_there), None)
    if opened is None:
        yield None
        return
    raw, namespace = opened
    where = rtnl.Socket(raw)
    try:
        yield where, namespace
    finally:
        where.close()


def _named(place: Place) -> list[str]:
    with suppress(OSError):
        return sorted(one.name for one in Path(place.view.place(_NAMED)).iterdir())
    return []


def _opened(place: Place, name: str, number: int) -> tuple[socket.socket, Namespace] | None:
    """Return a socket in the namespace of that name, if it is the one that the pod calls by the number."""
    with suppress(OSError), place.view.opened(f"{_NAMED}/{name}") as fd:  # it may be gone, or none
        if netns.is_namespace(fd) and _called(place.socket(Where.IN_POD), fd) == number:
            return netns.netlink_socket(fd), netns.identify(fd, f"{_NAMED}/{name}")
    return None


def _called(where: rtnl.Socket, netns_fd: int) -> int:
    """Return the number by which a namespace is known there; negative: it is not."""
    with translated("ask for a namespace's number"):
        asked = struct.pack("=4xHHi", 8, _BY_FD, netns_fd)
        (answer,) = where.exchange(_GETNSID, asked)
    return int.from_bytes(links.attribute(answer[4:], _NSID) or b"\xff", sys.byteorder, signed=True)
