"""The end of a pod's veth pair on the node, which others have renamed, given another MAC or moved out of the node's
namespace: found by what the kernel says of the pair, and put back.

Rules
1. Proof is the kernel's word alone: which link, in which namespace, is the other end of the one in the pod. Names and
   MACs, by which a host end is known otherwise (agent.devices.veth_pair), are what others have changed.
2. One that was moved is taken back: the pod's interface leads nowhere without it. It is looked for in the namespaces
   that have a name; where it is in none of them the user is told how to have the pair made anew. Never out of the pod
   itself: a pair that is whole in there may be the pod's own, under the index that ours has had.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent import links, netns, rtnl
from agent.links import Where
from agent.place import Place, found, get, message_of, translated
from agent.renaming import rename
from cni import errors

_NAMED = "/run/netns"
_GETNSID, _NSID, _BY_FD = 90, 1, 3  # RTM_GETNSID, NETNSA_NSID, _FD
_HERE = -1


def restore(place: Place, pod_index: int, name: str, mac: str, *, repair: bool) -> tuple[str, ...]:
    """Return what is wrong with the host end; with `repair` it is right afterwards, though it may be down.

    Nothing is said of one that is not there. Raises CNIError with what is in the way.
    """
    host = get(place.node, name)
    if host is not None and (host.kind, host.mac) == ("veth", mac):
        return ()
    away = _moved(place, pod_index, name, repair=repair)
    return away if away and not repair else (*away, *_changed(place, pod_index, name, mac, repair=repair))


def _moved(place: Place, pod_index: int, name: str, *, repair: bool) -> tuple[str, ...]:
    pod_end = _pod_end(place, pod_index)
    if pod_end is None or _is_on_node(place, pod_end):
        return ()
    away = f"host end {name} is in another network namespace"
    if repair:
        with netns.own() as node, _namespace_of(place, pod_end) as where:
            if where is None:
                advice = f"it is not taken back from there; delete {pod_end.name} in the pod, and it is made anew"
                raise errors.CNIError(errors.Code.INTERNAL, f"{away}: {advice}")
            with translated(f"take {name} back to the node"):
                where.do(rtnl.SETLINK, {"index": pod_end.parent}, [("IFLA_NET_NS_FD", node)])
    return (away,)


def _changed(place: Place, pod_index: int, name: str, mac: str, *, repair: bool) -> tuple[str, ...]:
    pod_end = _pod_end(place, pod_index)
    host = found(place.node, f"the other end of {pod_end.name}", {"index": pod_end.parent}, []) if pod_end else None
    if host is None or host.kind != "veth":
        return ()
    if repair and host.name != name:
        rename(place.node, host, name)
    if repair and host.mac != mac:
        with translated(f"give {name} its MAC"):
            place.node.do(rtnl.SETLINK, {"index": host.index}, [("IFLA_ADDRESS", mac)])
    return (
        *((f"host end {name} has another name",) if host.name != name else ()),
        *((f"host end {name} has MAC {host.mac}, not {mac}",) if host.mac != mac else ()),
    )


def _pod_end(place: Place, index: int) -> rtnl.LinkMessage | None:
    """Return the pod's end, if it is one of a pair that is whole."""
    there = message_of(place.socket(Where.IN_POD), f"link {index}", {"index": index}, [])
    return there if there is not None and there.kind == "veth" and there.parent else None


def _is_on_node(place: Place, pod_end: rtnl.LinkMessage) -> bool:
    with netns.own() as node:
        return pod_end.parent_netns != _HERE and _called(place, node) == pod_end.parent_netns


@contextmanager
def _namespace_of(place: Place, pod_end: rtnl.LinkMessage) -> Iterator[rtnl.Socket | None]:
    """Yield a socket in the namespace of the other end; None: it cannot be found, or is the pod's."""
    names = () if pod_end.parent_netns == _HERE else _named(place)
    found_there = (_opened(place, name, pod_end.parent_netns) for name in names)
    raw = next(filter(None, found_there), None)
    if raw is None:
        yield None
        return
    where = rtnl.Socket(raw)
    try:
        yield where
    finally:
        where.close()


def _named(place: Place) -> list[str]:
    with suppress(OSError):
        return sorted(one.name for one in Path(place.view.place(_NAMED)).iterdir())
    return []


def _opened(place: Place, name: str, number: int) -> socket.socket | None:
    """Return a socket in the namespace of that name, if it is the one that the pod calls by the number."""
    with suppress(OSError), place.view.opened(f"{_NAMED}/{name}") as fd:  # it may be gone, or none
        if netns.is_namespace(fd) and _called(place, fd) == number:
            return netns.netlink_socket(fd)
    return None


def _called(place: Place, netns_fd: int) -> int:
    """Return the number by which the pod knows a namespace; negative: it does not."""
    with translated("ask for a namespace's number"):
        asked = struct.pack("=4xHHi", 8, _BY_FD, netns_fd)
        (answer,) = place.socket(Where.IN_POD).exchange(_GETNSID, asked)
    return int.from_bytes(links.attribute(answer[4:], _NSID) or b"\xff", sys.byteorder, signed=True)
