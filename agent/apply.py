"""Performs steps, and reads what devices want to know: the agent's hands in the kernel, one function each.

`STEPS` and `READERS` say which function serves which class of agent.links; a step or a read of another world (traffic
control, nftables, Open vSwitch …) has its adapter in a module of its own, named here.

Rules
1. "Already there" on a create of something shared, and "already gone" on a removal are success; nothing else is.
2. Errors leave as CNIError with the kernel's word for them, and with what was being done.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import links, netns, rtnl
from agent.links import Link, Where
from cni import errors, result

UP = {"flags": 1, "change": 1}
NO_STATISTICS = ("IFLA_EXT_MASK", 8)  # RTEXT_FILTER_SKIP_STATS: a third of the time to read a link
_IFA_F_NODAD = 0x02
_MAIN_TABLE, _BOOT, _UNICAST, _LINK_SCOPE = 254, 3, 1, 253
_BUSY = (errno.EBUSY, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.ETIMEDOUT)
_NO_LINK = (errno.ENODEV, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class Place:
    """Where steps are performed: a socket in the node's namespace, one in the pod's, and the latter's descriptor.

    Without a pod (its namespace is gone) there is nothing to be done in it.
    """

    node: rtnl.Socket
    pod: rtnl.Socket | None = None
    netns_fd: int = -1

    def socket(self, where: Where) -> rtnl.Socket:
        if where is Where.NODE:
            return self.node
        if self.pod is None:
            raise errors.CNIError(errors.Code.INVALID_NETNS, "the pod's network namespace is gone")
        return self.pod


def apply(place: Place, step: links.Step) -> None:
    """Perform one step. Raises CNIError: 11 where the kernel was busy, 999 for any other refusal of it."""
    STEPS[type(step)](place, step)


def read(place: Place, what: links.Read) -> Any:
    """Return what is known of `what`; None where it is not there."""
    return READERS[type(what)](place, what)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    try:
        yield
    except rtnl.KernelError as problem:
        code = errors.Code.TRY_AGAIN if problem.code in _BUSY else errors.Code.INTERNAL
        raise errors.CNIError(code, f"cannot {doing}", str(problem)) from None


# -- links -------------------------------------------------------------------------------------------------------


def get(where: rtnl.Socket, name: str) -> Link | None:
    """Return the link of that name, or None."""
    return found(where, f"link {name}", {}, [("IFLA_IFNAME", name)])


def found(where: rtnl.Socket, what: str, fields: dict[str, Any], attributes: list[tuple[str, Any]]) -> Link | None:
    """Return the one link that fields and attributes name, or None."""
    message = message_of(where, what, fields, attributes)
    return None if message is None else link(message)


def message_of(
    where: rtnl.Socket, what: str, fields: dict[str, Any], attributes: list[tuple[str, Any]]
) -> rtnl.LinkMessage | None:
    """Return the kernel's message of one link, or None."""
    with translated(f"read {what}"):
        try:
            message: rtnl.LinkMessage = where.get(rtnl.GETLINK, fields, [*attributes, NO_STATISTICS])
        except rtnl.KernelError as problem:
            if problem.code in _NO_LINK:
                return None
            raise
    return message


def link(message: rtnl.LinkMessage) -> Link:
    """Return what a message of the kernel says."""
    return Link(
        message.index, message.name, message.kind, message.mac, message.mtu, bool(message.flags & 1), message.master,
        message.parent, message.alias, message.data, message.port,
    )  # fmt: skip


def index(where: rtnl.Socket, name: str) -> int:
    """Return the index of the link of that name. Raises CNIError 999 where there is none."""
    there = get(where, name)
    if there is None:
        raise errors.CNIError(errors.Code.INTERNAL, f"interface {name} is gone")
    return there.index


def delete(where: rtnl.Socket, gone: Link) -> None:
    """Delete a link by its index (rule 1)."""
    with translated(f"delete link {gone.name}"):
        try:
            where.do(rtnl.DELLINK, {"index": gone.index}, [])
        except rtnl.KernelError as problem:
            if problem.code not in _NO_LINK:
                raise


def _read_link(place: Place, what: links.NamedLink) -> Link | None:
    if what.where is Where.IN_POD and place.pod is None:
        return None
    return get(place.socket(what.where), what.name)


def _create(place: Place, step: links.Create) -> None:
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", step.kind)]
    if step.data:
        info.append(("IFLA_INFO_DATA", _resolved(place, step.data)))
    attributes = [("IFLA_IFNAME", step.name), *_resolved(place, step.attributes)["attrs"]]
    with translated(f"create {step.kind} link {step.name}"):
        try:
            fields = UP if step.up else {}
            where = place.socket(step.where)
            where.do(rtnl.NEWLINK, fields, [*attributes, ("IFLA_LINKINFO", {"attrs": info})], rtnl.CREATE | rtnl.EXCL)
        except rtnl.KernelError as problem:
            if not (step.shared and problem.code == errno.EEXIST):
                raise


def _change(place: Place, step: links.Change) -> None:
    where = place.socket(step.where)
    attributes = _resolved(place, step.attributes)["attrs"]
    if step.data:
        info = [("IFLA_INFO_KIND", step.kind), ("IFLA_INFO_DATA", _resolved(place, step.data))]
        attributes.append(("IFLA_LINKINFO", {"attrs": info}))
    if step.port:
        info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", _resolved(place, step.port))]
        attributes.append(("IFLA_LINKINFO", {"attrs": info}))
    values, mask = step.flags
    if step.up is not None:
        values, mask = values | int(step.up), mask | 1
    with translated(f"change link {step.name}"):
        fields = {"index": index(where, step.name), "flags": values, "change": mask}
        where.do(rtnl.NEWLINK, fields, attributes)


def _remove(place: Place, step: links.Remove) -> None:
    delete(place.socket(step.where), step.link)


def _resolved(place: Place, attributes: links.Attributes) -> dict[str, list[tuple[str, Any]]]:
    """Return the attributes with what is known only now (links, rule 2)."""
    return {"attrs": [(name, _value(place, value)) for name, value in attributes]}


def _value(place: Place, value: Any) -> Any:
    match value:
        case links.IndexOf(name, where):
            return index(place.socket(where), name)
        case links.POD:
            return place.netns_fd
        case links.RANDOM_MAC:
            return bytes((2, *os.urandom(5))).hex(":")
        case tuple():
            return _resolved(place, value)
    return value


# -- addresses and routes ----------------------------------------------------------------------------------------


def addresses(pod: rtnl.Socket, ifindex: int) -> frozenset[links.Address]:
    """Return the addresses of a link."""
    return frozenset(
        ipaddress.ip_interface(f"{_local(message)}/{message['prefixlen']}")
        for message in pod.dump(rtnl.GETADDR, {"index": ifindex}, [])
    )


def routes(pod: rtnl.Socket, ifindex: int) -> frozenset[result.Route]:
    """Return the routes through a link, of all tables."""
    messages = [
        message
        for version in (4, 6)
        for message in pod.dump(rtnl.GETROUTE, {"family": family(version)}, [("RTA_OIF", ifindex)])
    ]
    return frozenset(_route(message) for message in messages)


def _local(message: Any) -> str:
    attributes = rtnl.attributes(message)
    return str(attributes.get("IFA_LOCAL") or attributes["IFA_ADDRESS"])


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


def _add_address(place: Place, step: links.AddAddress) -> None:
    # without duplicate address detection: the address is IPAM's, and must not be tentative when ADD returns
    address, pod = step.address, place.socket(Where.IN_POD)
    attributes = [("IFA_ADDRESS", str(address.ip)), ("IFA_LOCAL", str(address.ip))]
    if address.version == 6:
        _enable_ipv6(place.netns_fd, step.ifname)
        attributes = [("IFA_ADDRESS", str(address.ip)), ("IFA_FLAGS", _IFA_F_NODAD)]  # type: ignore[list-item]
    elif address.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(address.network.broadcast_address)))
    with translated(f"add address {address} to {step.ifname}"):
        pod.do(rtnl.NEWADDR, _address_fields(pod, step.ifname, address), attributes, rtnl.CREATE | rtnl.EXCL)


def _remove_address(place: Place, step: links.RemoveAddress) -> None:
    address, pod = step.address, place.socket(Where.IN_POD)
    with translated(f"remove address {address} from {step.ifname}"):
        try:
            attributes = [("IFA_ADDRESS", str(address.ip)), ("IFA_LOCAL", str(address.ip))]
            pod.do(rtnl.DELADDR, _address_fields(pod, step.ifname, address), attributes)
        except rtnl.KernelError as problem:
            if problem.code != errno.EADDRNOTAVAIL:
                raise


def _address_fields(pod: rtnl.Socket, ifname: str, address: links.Address) -> dict[str, int]:
    return {
        "family": family(address.version),
        "index": index(pod, ifname),
        "prefixlen": address.network.prefixlen,
    }


def _enable_ipv6(netns_fd: int, ifname: str) -> None:
    with netns.entered(netns_fd):  # /proc/sys/net shows the namespace of the thread that opens it
        knob = Path("/proc/sys/net/ipv6/conf", ifname, "disable_ipv6")
        if knob.exists() and knob.read_text().strip() != "0":
            knob.write_text("0")


def _add_route(place: Place, step: links.AddRoute) -> None:
    pod = place.socket(Where.IN_POD)
    with translated(f"add the route to {step.route.dst} through {step.ifname}"):
        add_route(pod, index(pod, step.ifname), step.route)


def add_route(pod: rtnl.Socket, ifindex: int, route: result.Route) -> None:
    """Add one route. Raises rtnl.KernelError."""
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
        {"family": family(route.dst.version), "dst_len": route.dst.prefixlen, "proto": _BOOT, "type": _UNICAST,
         "scope": _scope(route)},
        [("RTA_OIF", ifindex), ("RTA_TABLE", route.table or _MAIN_TABLE), *present],
        rtnl.CREATE | rtnl.EXCL,
    )  # fmt: skip


def _scope(route: result.Route) -> int:
    """As `ip route` has it: a route that needs no gateway reaches its own link only."""
    if route.scope is not None:
        return route.scope
    return 0 if route.gw or route.dst.version == 6 else _LINK_SCOPE


def family(version: int) -> int:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


# -- settings ----------------------------------------------------------------------------------------------------


def _read_sysctl(place: Place, what: links.Sysctl) -> str | None:
    try:
        return _in_namespace(place, what, lambda knob: knob.read_text().strip())
    except OSError:
        return None


def _write_sysctl(place: Place, step: links.WriteSysctl) -> None:
    try:
        _in_namespace(place, step.sysctl, lambda knob: _write(knob, step.value))
    except OSError as problem:
        if not (step.optional and problem.errno == errno.ENOENT):
            message = f"cannot set sysctl net/{step.sysctl.path} to {step.value!r}: {problem.strerror}"
            raise errors.CNIError(errors.Code.INTERNAL, message) from None


def _write(knob: Path, value: str) -> str:
    with knob.open("r+") as file:  # never made where it is missing
        file.write(value)
    return value


def _in_namespace(place: Place, what: links.Sysctl, act: Callable[[Path], str]) -> str:
    knob = Path("/proc/sys/net", what.path)
    if what.where is Where.NODE:
        return act(knob)
    place.socket(Where.IN_POD)
    with netns.entered(place.netns_fd):  # /proc/sys/net shows the namespace of the thread that opens it
        return act(knob)


STEPS: Mapping[type, Callable[[Place, Any], None]] = {
    links.Create: _create,
    links.Change: _change,
    links.Remove: _remove,
    links.AddAddress: _add_address,
    links.RemoveAddress: _remove_address,
    links.AddRoute: _add_route,
    links.WriteSysctl: _write_sysctl,
}

READERS: Mapping[type, Callable[[Place, Any], Any]] = {
    links.NamedLink: _read_link,
    links.Sysctl: _read_sysctl,
}
