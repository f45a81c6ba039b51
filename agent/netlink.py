"""The kernel's links, addresses and routes, of the node and of its pods.

Rules
1. One route socket per thread for the node's namespace; a short-lived one per job inside a pod's namespace,
   never kept, because an open socket keeps a dead pod's namespace and all its links alive.
2. "Already there" on a create of something shared (bridge) and "already gone" on a removal are success; nothing
   else is. Errors leave this module as CNIError with the kernel's word for them.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import bridge, netns, rtnl
from agent.bridge import Address, Have, Link, Step, Want
from agent.model import Displaced
from cni import errors, result

_UP = {"flags": 1, "change": 1}
_NO_STATISTICS = ("IFLA_EXT_MASK", 8)  # RTEXT_FILTER_SKIP_STATS: a third of the time to read a link
_IFA_F_NODAD = 0x02
_MAIN_TABLE, _BOOT, _UNICAST, _LINK_SCOPE = 254, 3, 1, 253
_BUSY = (errno.EBUSY, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.ETIMEDOUT)
_NO_LINK = (errno.ENODEV, errno.ENXIO)


class Kernel:
    """Reads and changes links of the node and of pods. Safe for use by many threads."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._sockets: list[rtnl.Socket] = []  # of all threads

    def close(self) -> None:
        """Close the sockets of all threads; none may be at work any more."""
        while self._sockets:
            self._sockets.pop().close()

    # -- the node -----------------------------------------------------------------------------------------------

    def link(self, name: str) -> Link | None:
        """Return the node's link of that name, or None."""
        return _get(self._node(), name)

    def delete(self, link: Link) -> None:
        """Delete a link of the node by its index; one that is gone already is fine."""
        _delete(self._node(), link)

    def _node(self) -> rtnl.Socket:
        node = getattr(self._local, "node", None)
        if node is None:
            raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            node = self._local.node = rtnl.Socket(raw)
            self._sockets.append(node)
        return node

    # -- a pod --------------------------------------------------------------------------------------------------

    def pod_link(self, netns_fd: int, ifname: str) -> Link | None:
        """Return the pod's link of that name, or None."""
        with _inside(netns_fd) as pod:
            return _get(pod, ifname)

    def pod_link_at(self, netns_fd: int, index: int) -> Link | None:
        """Return the pod's link of that index, whatever it is called by now, or None."""
        with _inside(netns_fd) as pod:
            return _found(pod, f"link {index}", {"index": index}, [])

    def rename_in_pod(self, netns_fd: int, link: Link, name: str) -> None:
        """Give a link of the pod another name; it is down for that moment."""
        with _inside(netns_fd) as pod, _translated(f"rename {link.name} to {name}"):
            pod.do(rtnl.SETLINK, {"index": link.index, "flags": 0, "change": 1}, [])
            pod.do(rtnl.SETLINK, {"index": link.index}, [("IFLA_IFNAME", name)])
            if link.up:
                pod.do(rtnl.SETLINK, {"index": link.index, **_UP}, [])

    def pod_links(self, netns_fd: int) -> tuple[Link, ...]:
        """Return all links of the pod."""
        with _inside(netns_fd) as pod, _translated("list links"):
            return tuple(_link(message) for message in pod.dump(rtnl.GETLINK, {}, [_NO_STATISTICS]))

    def delete_in_pod(self, netns_fd: int, link: Link) -> None:
        """Delete a link of the pod by its index; one that is gone already is fine."""
        with _inside(netns_fd) as pod:
            _delete(pod, link)

    # -- the device `bridge` ------------------------------------------------------------------------------------

    def read(self, want: Want, netns_fd: int) -> Have:
        """Return what is there under the names that `want` uses."""
        with _inside(netns_fd) as pod:
            return _read(self._node(), pod, want)

    def settle(self, want: Want, netns_fd: int) -> Have:
        """Read, plan, apply, read again, until the plan is empty; return what is there then.

        Raises CNIError: 7 for a conflict, 11 where the kernel was busy, 999 for any other refusal of the kernel.
        """
        node = self._node()
        with _inside(netns_fd) as pod:
            have = _read(node, pod, want)
            for _ in range(3):  # the kernel may undo a neighbour of what was changed
                steps = bridge.plan(want, have)
                if not steps:
                    return have
                for step in steps:
                    _apply(node, pod, netns_fd, step)
                have = _read(node, pod, want)
        if steps := bridge.plan(want, have):
            raise errors.CNIError(errors.Code.TRY_AGAIN, f"interface {want.ifname} does not settle", str(steps))
        return have

    # -- default routes (NPWG 1.3, 4.1.2.1.9: the implementation edits the routes) --------------------------------

    def default_routes(self, netns_fd: int, gateways: tuple[str, ...]) -> tuple[Displaced, ...]:
        """Return the pod's default routes of the gateways' families."""
        with _inside(netns_fd) as pod, _translated("read the default routes"):
            return tuple(route for version in _versions(gateways) for _, route in _default_routes(pod, version))

    def replace_default_routes(self, netns_fd: int, ifname: str, gateways: tuple[str, ...]) -> None:
        """Make `ifname` carry the pod's default routes of the gateways' families, instead of all others."""
        with _inside(netns_fd) as pod, _translated("set the default route"):
            index = _index(pod, ifname)
            for version in _versions(gateways):
                for message, _ in _default_routes(pod, version):
                    _delete_route(pod, message)
            for gateway in map(ipaddress.ip_address, gateways):
                default = ipaddress.ip_network("::/0" if gateway.version == 6 else "0.0.0.0/0")
                _add_route(pod, index, result.Route(default, gateway))

    def restore_default_route(self, netns_fd: int, route: Displaced) -> None:
        """Put a default route back, unless its interface is gone or another default has come meanwhile."""
        gateway = ipaddress.ip_address(route.gateway)
        default = ipaddress.ip_network("::/0" if gateway.version == 6 else "0.0.0.0/0")
        with _inside(netns_fd) as pod, _translated("restore the default route"):
            link = _get(pod, route.ifname)
            if link is not None and not _default_routes(pod, gateway.version):
                _add_route(pod, link.index, result.Route(default, gateway, priority=route.metric))


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


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except rtnl.KernelError as problem:
        code = errors.Code.TRY_AGAIN if problem.code in _BUSY else errors.Code.INTERNAL
        raise errors.CNIError(code, f"cannot {doing}", str(problem)) from None


def _get(where: rtnl.Socket, name: str) -> Link | None:
    return _found(where, f"link {name}", {}, [("IFLA_IFNAME", name)])


def _found(where: rtnl.Socket, what: str, fields: dict[str, Any], attributes: list[tuple[str, Any]]) -> Link | None:
    with _translated(f"read {what}"):
        try:
            return _link(where.get(rtnl.GETLINK, fields, [*attributes, _NO_STATISTICS]))
        except rtnl.KernelError as problem:
            if problem.code in _NO_LINK:
                return None
            raise


def _link(message: rtnl.LinkMessage) -> Link:
    up = bool(message.flags & 1)
    return Link(message.index, message.name, message.kind, message.mac, message.mtu, up, message.master)


def _index(where: rtnl.Socket, name: str) -> int:
    link = _get(where, name)
    if link is None:
        raise errors.CNIError(errors.Code.INTERNAL, f"interface {name} is gone")
    return link.index


def _delete(where: rtnl.Socket, link: Link) -> None:
    with _translated(f"delete link {link.name}"):
        try:
            where.do(rtnl.DELLINK, {"index": link.index}, [])
        except rtnl.KernelError as problem:
            if problem.code not in _NO_LINK:
                raise


def _read(node: rtnl.Socket, pod: rtnl.Socket, want: Want) -> Have:
    link = _get(pod, want.ifname)
    layer3 = link is not None and bool(want.addresses or want.routes)
    with _translated(f"read addresses and routes of {want.ifname}"):
        return Have(
            bridge=_get(node, want.bridge),
            host=_get(node, want.host_name),
            pod=link,
            addresses=_addresses(pod, link.index) if link and layer3 else frozenset(),
            routes=_routes(pod, link.index) if link and layer3 else frozenset(),
        )


def _addresses(pod: rtnl.Socket, index: int) -> frozenset[Address]:
    return frozenset(
        ipaddress.ip_interface(f"{rtnl.attributes(message)['IFA_ADDRESS']}/{message['prefixlen']}")
        for message in pod.dump(rtnl.GETADDR, {"index": index}, [])
    )


def _routes(pod: rtnl.Socket, index: int) -> frozenset[result.Route]:
    messages = [
        message
        for version in (4, 6)
        for message in pod.dump(rtnl.GETROUTE, {"family": _family(version)}, [("RTA_OIF", index)])
    ]
    return frozenset(_route(message) for message in messages)


def _route(message: Any) -> result.Route:
    attributes = rtnl.attributes(message)
    metrics = rtnl.attributes(attributes.get("RTA_METRICS"))
    everything = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 a route, no socket
    gateway = attributes.get("RTA_GATEWAY")
    return result.Route(
        dst=ipaddress.ip_network(f"{attributes.get('RTA_DST', everything)}/{message['dst_len']}"),
        gw=ipaddress.ip_address(gateway) if gateway else None,
        mtu=metrics.get("RTAX_MTU"),
        advmss=metrics.get("RTAX_ADVMSS"),
        priority=attributes.get("RTA_PRIORITY"),
        table=attributes.get("RTA_TABLE", message["table"]),
        scope=message["scope"],
    )


def _apply(node: rtnl.Socket, pod: rtnl.Socket, netns_fd: int, step: Step) -> None:
    match step:
        case bridge.CreateBridge(name, mtu):
            with _translated(f"create bridge {name}"):
                _create_bridge(node, name, mtu)
        case bridge.BringUp(name):
            with _translated(f"bring up {name}"):
                node.do(rtnl.SETLINK, {"index": _index(node, name), **_UP}, [])
        case bridge.CreateVeth(want, mtu):
            with _translated(f"create interface {want.ifname}"):
                _create_veth(node, netns_fd, want, mtu)
        case bridge.SetPort(name, hairpin, isolated):
            with _translated(f"set bridge port {name}"):
                _set_port(node, name, hairpin=hairpin, isolated=isolated)
        case bridge.BringUpInPod(ifname):
            with _translated(f"bring up {ifname} in the pod"):
                pod.do(rtnl.NEWLINK, _UP, [("IFLA_IFNAME", ifname)])
        case bridge.AddAddress(ifname, address):
            with _translated(f"add address {address} to {ifname}"):
                _add_address(pod, netns_fd, ifname, address)
        case bridge.AddRoute(ifname, route):
            with _translated(f"add the route to {route.dst} through {ifname}"):
                _add_route(pod, _index(pod, ifname), route)


def _create_bridge(node: rtnl.Socket, name: str, mtu: int | None) -> None:
    mac = bytes((2, *os.urandom(5))).hex(":")
    kind = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]})
    try:
        attributes = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), kind, *_mtu(mtu)]
        node.do(rtnl.NEWLINK, {}, attributes, rtnl.CREATE | rtnl.EXCL)
    except rtnl.KernelError as problem:
        if problem.code != errno.EEXIST:  # another pod's attachment was faster
            raise
    accept_ra = Path("/proc/sys/net/ipv6/conf", name, "accept_ra")
    if accept_ra.exists():  # absent where the kernel has no IPv6
        accept_ra.write_text("0")  # a tenant's router advertisement must not give the node an address


def _create_veth(node: rtnl.Socket, netns_fd: int, want: Want, mtu: int | None) -> None:
    """The whole pair in one message; only the peer cannot be brought up in it (ENOTCONN)."""
    peer = [("IFLA_IFNAME", want.ifname), ("IFLA_ADDRESS", want.mac), ("IFLA_NET_NS_FD", netns_fd), *_mtu(mtu)]
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}
    kind = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    attributes = [("IFLA_IFNAME", want.host_name), ("IFLA_ADDRESS", want.host_mac),
                  ("IFLA_MASTER", _index(node, want.bridge)), ("IFLA_LINKINFO", kind), *_mtu(mtu)]  # fmt: skip
    node.do(rtnl.NEWLINK, _UP, attributes, rtnl.CREATE | rtnl.EXCL)


def _set_port(node: rtnl.Socket, name: str, *, hairpin: bool, isolated: bool) -> None:
    port = {"attrs": [("IFLA_BRPORT_MODE", int(hairpin)), ("IFLA_BRPORT_ISOLATED", int(isolated))]}
    info = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", port)]}
    node.do(rtnl.NEWLINK, {"index": _index(node, name)}, [("IFLA_LINKINFO", info)])


def _add_address(pod: rtnl.Socket, netns_fd: int, ifname: str, address: Address) -> None:
    # without duplicate address detection: the address is IPAM's, and must not be tentative when ADD returns
    attributes = [("IFA_ADDRESS", str(address.ip)), ("IFA_LOCAL", str(address.ip))]
    if address.version == 6:
        _enable_ipv6(netns_fd, ifname)
        attributes = [("IFA_ADDRESS", str(address.ip)), ("IFA_FLAGS", _IFA_F_NODAD)]  # type: ignore[list-item]
    elif address.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(address.network.broadcast_address)))
    fields = {"family": _family(address.version), "index": _index(pod, ifname), "prefixlen": address.network.prefixlen}
    pod.do(rtnl.NEWADDR, fields, attributes, rtnl.CREATE | rtnl.EXCL)


def _enable_ipv6(netns_fd: int, ifname: str) -> None:
    with netns.entered(netns_fd):  # /proc/sys/net shows the namespace of the thread that opens it
        knob = Path("/proc/sys/net/ipv6/conf", ifname, "disable_ipv6")
        if knob.exists() and knob.read_text().strip() != "0":
            knob.write_text("0")


def _add_route(pod: rtnl.Socket, index: int, route: result.Route) -> None:
    metrics = [(name, value) for name, value in (("RTAX_MTU", route.mtu), ("RTAX_ADVMSS", route.advmss)) if value]
    optional = (
        ("RTA_DST", str(route.dst.network_address) if route.dst.prefixlen else None),
        ("RTA_GATEWAY", str(route.gw) if route.gw else None),
        ("RTA_PRIORITY", route.priority),
        ("RTA_METRICS", {"attrs": metrics} if metrics else None),
    )
    present = [(name, value) for name, value in optional if value is not None]
    pod.do(
        rtnl.NEWROUTE,
        {"family": _family(route.dst.version), "dst_len": route.dst.prefixlen, "proto": _BOOT, "type": _UNICAST,
         "scope": _scope(route)},
        [("RTA_OIF", index), ("RTA_TABLE", route.table or _MAIN_TABLE), *present],
        rtnl.CREATE | rtnl.EXCL,
    )  # fmt: skip


def _scope(route: result.Route) -> int:
    """As `ip route` has it: a route that needs no gateway reaches its own link only."""
    if route.scope is not None:
        return route.scope
    return 0 if route.gw or route.dst.version == 6 else _LINK_SCOPE


def _versions(gateways: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(sorted({ipaddress.ip_address(gateway).version for gateway in gateways}))


def _default_routes(pod: rtnl.Socket, version: int) -> list[tuple[Any, Displaced]]:
    """Return the main table's default routes that have a gateway: the kernel's message and what it says."""
    links = {message.index: message.name for message in pod.dump(rtnl.GETLINK, {}, [_NO_STATISTICS])}
    found = []
    for message in pod.dump(rtnl.GETROUTE, {"family": _family(version)}, [("RTA_TABLE", _MAIN_TABLE)]):
        one = rtnl.attributes(message)
        if message["dst_len"] == 0 and one.get("RTA_GATEWAY"):
            route = Displaced(one["RTA_GATEWAY"], links.get(one["RTA_OIF"], ""), one.get("RTA_PRIORITY"))
            found.append((message, route))
    return found


def _delete_route(pod: rtnl.Socket, message: Any) -> None:
    one = rtnl.attributes(message)
    kept = [(name, one[name]) for name in ("RTA_GATEWAY", "RTA_OIF", "RTA_PRIORITY") if name in one]
    fields = {name: message[name] for name in ("family", "type", "scope", "proto")} | {
        "dst_len": 0,
        "table": _MAIN_TABLE,
    }
    pod.do(rtnl.DELROUTE, fields, kept)


def _family(version: int) -> int:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _mtu(mtu: int | None) -> list[tuple[str, Any]]:
    return [] if mtu is None else [("IFLA_MTU", mtu)]
