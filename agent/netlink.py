"""The kernel's links, addresses and routes, of the node and of its pods.

Rules
1. One route socket per thread for the node's namespace; a short-lived one per job inside a pod's namespace,
   never kept, because an open socket keeps a dead pod's namespace and all its links alive.
2. Errors leave this module as CNIError with the kernel's word for them.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from agent import hostend, interface, netns, rtnl, shaping
from agent.apply import apply, read
from agent.devices.contract import Device
from agent.layer3 import add_route, addresses, main_table, routes, uplinks
from agent.links import Have, Interface, Link, Read, Step, down, everywhere, told
from agent.locks import Locks
from agent.model import Displaced
from agent.place import NO_STATISTICS, Gone, Place, delete, found, get, index, link, message_of, translated
from agent.renaming import rename
from agent.underlay import Underlay
from cni import errors, result

_MAIN_TABLE = 254
_NAME = 15  # bytes of a link's own name; other names may be longer
_ROUNDS = 3  # the kernel may undo a neighbour of what was changed


@dataclass(frozen=True, slots=True)
class Known:
    """A link in the pod that the journal knows to be an attachment's, whatever alias the pod has given it."""

    index: int
    alias: str  # which it has had from us, if any


class Kernel:
    """Reads and changes links of the node and of pods. Safe for use by many threads."""

    def __init__(self, underlay: Callable[[], Underlay | None] = lambda: None, view: netns.View | None = None) -> None:
        """`underlay` returns what the controller has told of it, if it has. `view`: of the node's paths."""
        self._underlay = underlay
        self._view = view or netns.View()
        self._segments = Locks()
        self._local = threading.local()
        self._sockets: dict[threading.Thread, rtnl.Socket] = {}
        self._lock = threading.Lock()  # of that

    def close(self) -> None:
        """Close the sockets of all threads; none may be at work any more."""
        with self._lock:
            while self._sockets:
                self._sockets.popitem()[1].close()

    # -- the node -----------------------------------------------------------------------------------------------

    def is_uplink(self, name: str) -> bool:
        """Whether the node's link of that name, or with it as another name, bears a default route, in any table.

        Two halves of everything are one as well.
        """
        node = self._node()
        try:
            there = (
                get(node, name) if len(name.encode()) <= _NAME else found(node, name, {}, [("IFLA_ALT_IFNAME", name)])
            )
        except errors.CNIError:
            return True  # no name that the kernel takes: whatever a plugin makes of it, it is not known to be harmless
        return there is not None and there.index in uplinks(node)

    def bridge_mac(self, name: str) -> str:
        """Return the MAC that the node's bridge of that name has now, "" where there is none."""
        there = get(self._node(), name)
        return there.mac if there is not None and there.kind == "bridge" else ""

    def makes(self, kind: str) -> bool:
        """Whether the kernel can make links of that kind; it loads the module where it has to."""
        with translated(f"ask for links of kind {kind}"):
            return rtnl.knows(self._node(), kind)

    def _node(self) -> rtnl.Socket:
        node = getattr(self._local, "node", None)
        if node is None:
            try:
                raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            except OSError as problem:
                raise errors.CNIError(errors.Code.TRY_AGAIN, "cannot open a netlink socket", str(problem)) from None
            node = self._local.node = rtnl.Socket(raw)
            self._keep(node)
        return node

    def _keep(self, node: rtnl.Socket) -> None:
        """Remember this thread's socket, and close those of threads that have ended: threads come and go with work."""
        with self._lock:
            for thread in [one for one in self._sockets if not one.is_alive()]:
                self._sockets.pop(thread).close()
            self._sockets[threading.current_thread()] = node

    # -- a pod --------------------------------------------------------------------------------------------------

    def pod_link(self, netns_fd: int, ifname: str) -> Link | None:
        """Return the pod's link of that name, or None."""
        with _inside(netns_fd) as pod:
            return get(pod, ifname)

    def pod_link_at(self, netns_fd: int, ifindex: int) -> Link | None:
        """Return the pod's link of that index, whatever it is called by now, or None."""
        with _inside(netns_fd) as pod:
            return found(pod, f"link {ifindex}", {"index": ifindex}, [])

    def rename_in_pod(self, netns_fd: int, old: Link, name: str) -> None:
        """Give a link of the pod another name."""
        with _inside(netns_fd) as pod:
            rename(pod, old, name)

    def restore_host_end(
        self, device: Device, netns_fd: int, want: hostend.HostEnd, *, repair: bool
    ) -> tuple[str, ...]:
        """Return what is wrong with the other end of a pod's pair; `repair`: undo it (agent.hostend).

        Raises CNIError as `settle`.
        """
        with self._place(device, netns_fd) as place:
            return hostend.restore(place, want, repair=repair)

    def pod_links(self, netns_fd: int) -> tuple[Link, ...]:
        """Return all links of the pod."""
        with _inside(netns_fd) as pod, translated("list links"):
            return tuple(link(message) for message in pod.dump(rtnl.GETLINK, {}, [NO_STATISTICS]))

    def delete_in_pod(self, netns_fd: int, gone: Link) -> None:
        """Delete a link of the pod by its index; one that is gone already is fine."""
        with _inside(netns_fd) as pod:
            delete(pod, gone)

    # -- devices ------------------------------------------------------------------------------------------------

    def read(self, device: Device, want: Interface, netns_fd: int | None) -> Have:
        """Return what is there of all that the device looks at. `netns_fd` None: there is no pod (any more)."""
        with self._place(device, netns_fd) as place:
            return _read(place, device, want)

    def settle(
        self,
        device: Device,
        want: Interface,
        netns_fd: int,
        remember: Callable[[Mapping[str, Any]], None],
        known: Known | None = None,
    ) -> Have:
        """Read, plan, apply, read again, until the plan is empty; return what is there then.

        `known`: the link in the pod that is there already; if it is not, under its name, nothing is made of it.
        `remember` is called before the first step with what the device must not forget, if anything. Raises CNIError:
        7 for a conflict, 11 where the kernel was busy, 999 for any other refusal of the kernel.
        """
        with self._place(device, netns_fd) as place:
            have = _read(place, device, want, known=known)
            if known and (have.pod is None or have.pod.index != known.index):
                raise Gone(errors.Code.TRY_AGAIN, f"interface {want.ifname} has just gone")
            if (memory := device.memory(have)) is not None:
                remember(memory)
            for _ in range(_ROUNDS):
                steps = _plan(device, want, have)
                if not steps:
                    return have
                for step in steps:
                    apply(place, step)
                have = _read(place, device, want, known=known)
        if steps := _plan(device, want, have):
            raise errors.CNIError(errors.Code.TRY_AGAIN, f"interface {want.ifname} does not settle", str(steps))
        return have

    def differences(
        self, device: Device, want: Interface, netns_fd: int, known: Known
    ) -> tuple[tuple[str, ...], tuple[Step, ...]]:
        """Return what CHECK would report, and what `settle` would do first. Raises CNIError as `settle`."""
        with self._place(device, netns_fd) as place:
            have = _read(place, device, want, known=known)
            return mismatches(device, want, have), _plan(device, want, have)

    def settle_node_side(self, device: Device, netns_fd: int, pod_end: Link, *, repair: bool) -> tuple[str, ...]:
        """Make whole what an attachment has on the node, for a link whose state in the pod is somebody else's affair.

        Return what was wrong; `repair` False: it stays so. Raises CNIError as `settle`.
        """
        with self._place(device, netns_fd) as place:
            want = device.interface
            have = replace(_read(place, device, want), pod=pod_end)
            steps = device.plan(want, have)  # all on the node: it is a pair, and both ends are there
            found = (device.mismatches(want, have) or tuple(map(told, steps))) if steps else ()
            for step in steps if repair else ():
                apply(place, step)
        return tuple(dict.fromkeys((*found, *down(steps))))

    def remove(self, device: Device, netns_fd: int | None) -> None:
        """Undo what `settle` did, as far as it came. `netns_fd` None: the pod's namespace is gone.

        Every step is tried; the first CNIError is raised at the end.
        """
        first: errors.CNIError | None = None
        bare = Interface(device.interface.ifname)
        with self._place(device, netns_fd) as place:
            have = _read(place, device, bare, shaping.leftovers(device.interface))
            for step in (*device.removal(have), *shaping.removal(device.interface, have)):
                try:
                    apply(place, step)
                except Gone:
                    continue  # what the step was to be done to went by itself
                except errors.CNIError as problem:
                    first = first or problem
        if first is not None:
            raise first

    def mend(self, device: Device) -> None:
        """Make whole again what the device shares with others. Raises CNIError as `settle`."""
        with self._place(device, None) as place:
            for step in device.upkeep(_read(place, device, Interface(device.interface.ifname))):
                apply(place, step)

    @contextmanager
    def _place(self, device: Device, netns_fd: int | None) -> Iterator[Place]:
        segment = device.segment()
        with ExitStack() as stack:
            stack.enter_context(self._segments.held({segment} if segment else ()))
            pod = None if netns_fd is None else stack.enter_context(_inside(netns_fd))
            yield Place(self._node(), pod, -1 if netns_fd is None else netns_fd, self._underlay, self._view)

    # -- default routes (NPWG 1.3, 4.1.2.1.9: the implementation edits the routes) --------------------------------

    def default_routes(self, netns_fd: int, gateways: tuple[str, ...]) -> tuple[Displaced, ...]:
        """Return the pod's default routes of the gateways' families."""
        with _inside(netns_fd) as pod, translated("read the default routes"):
            return tuple(route for version in _versions(gateways) for _, route in _default_routes(pod, version))

    def replace_default_routes(self, netns_fd: int, ifname: str, gateways: tuple[str, ...]) -> None:
        """Make `ifname` carry the pod's default routes of the gateways' families, instead of all others."""
        with _inside(netns_fd) as pod, translated("set the default route"):
            ifindex = index(pod, ifname)
            for version in _versions(gateways):
                for message, _ in _default_routes(pod, version):
                    _delete_route(pod, message)
            for gateway in map(ipaddress.ip_address, gateways):
                add_route(pod, ifindex, result.Route(everywhere(gateway.version), gateway))

    def restore_default_route(self, netns_fd: int, route: Displaced) -> None:
        """Put a default route back, unless its interface is gone or another default has come meanwhile."""
        gateway = ipaddress.ip_address(route.gateway)
        with _inside(netns_fd) as pod, translated("restore the default route"):
            there = get(pod, route.ifname)
            if there is not None and not _default_routes(pod, gateway.version):
                default = result.Route(everywhere(gateway.version), gateway, priority=route.metric)
                add_route(pod, there.index, default)


@contextmanager
def _inside(netns_fd: int) -> Iterator[rtnl.Socket]:
    """Yield a socket that works in the pod's namespace, closed at the end (rule 1)."""
    try:
        raw = netns.netlink_socket(netns_fd)
    except OSError as problem:
        message = "cannot enter the network namespace"
        raise errors.CNIError(errors.Code.INVALID_NETNS, message, str(problem)) from None
    pod = rtnl.Socket(raw)
    try:
        yield pod
    finally:
        pod.close()


def _plan(device: Device, want: Interface, have: Have) -> tuple[Step, ...]:
    return (
        *device.plan(want, have),
        *interface.plan(want, have),
        *shaping.plan(want, have, device.host_end()),
    )


def mismatches(device: Device, want: Interface, have: Have) -> tuple[str, ...]:
    """Return what CHECK reports."""
    return (
        *interface.mismatches(want, have),
        *device.mismatches(want, have),
        *shaping.mismatches(want, have, device.host_end()),
    )


def _read(
    place: Place, device: Device, want: Interface, besides: tuple[Read, ...] = (), known: Known | None = None
) -> Have:
    wanted = (*device.reads(), *interface.reads(want), *shaping.reads(want, device.host_end()), *besides)
    facts = {what: read(place, what) for what in wanted}
    if place.pod is None:
        return Have(facts=facts)
    message = message_of(place.pod, f"link {want.ifname}", {}, [("IFLA_IFNAME", want.ifname)])
    if message is None:
        return Have(facts=facts)
    layer3 = bool(want.addresses or want.routes or want.leaving)
    with translated(f"read addresses and routes of {want.ifname}"):
        return Have(
            pod=_marked(link(message), known),
            flags=message.flags,
            transmit_queue=message.queue,
            addresses=addresses(place.pod, message.index) if layer3 else frozenset(),
            routes=routes(place.pod, message.index) if layer3 else frozenset(),
            facts=facts,
        )


def _marked(there: Link, known: Known | None) -> Link:
    return replace(there, alias=known.alias) if known and known.index == there.index else there


def _versions(gateways: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(sorted({ipaddress.ip_address(gateway).version for gateway in gateways}))


def _default_routes(pod: rtnl.Socket, version: int) -> list[tuple[Any, Displaced]]:
    """Return the main table's default routes that have a gateway: the kernel's message and what it says."""
    names = {message.index: message.name for message in pod.dump(rtnl.GETLINK, {}, [NO_STATISTICS])}
    defaults = []
    for message in main_table(pod, version):
        one = rtnl.attributes(message)
        if message["dst_len"] == 0 and one.get("RTA_GATEWAY"):
            route = Displaced(one["RTA_GATEWAY"], names.get(one["RTA_OIF"], ""), one.get("RTA_PRIORITY"))
            defaults.append((message, route))
    return defaults


def _delete_route(pod: rtnl.Socket, message: Any) -> None:
    one = rtnl.attributes(message)
    kept = [(name, one[name]) for name in ("RTA_GATEWAY", "RTA_OIF", "RTA_PRIORITY") if name in one]
    fields = {name: message[name] for name in ("family", "type", "scope", "proto")} | {
        "dst_len": 0,
        "table": _MAIN_TABLE,
    }
    pod.do(rtnl.DELROUTE, fields, kept)
