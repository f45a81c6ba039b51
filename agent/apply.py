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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import (
    borrowing,
    fdb,
    hardware,
    links,
    netns,
    ovsdb,
    ports,
    rtnl,
    shaping,
    spoofing,
    switch,
    sysfs,
    tap,
    tc,
    underlay,
    vlans,
)
from agent.links import Link, Where
from cni import errors, result

UP = {"flags": 1, "change": 1}
NO_STATISTICS = ("IFLA_EXT_MASK", 8)  # RTEXT_FILTER_SKIP_STATS: a third of the time to read a link
_IFF_PROMISC = 0x100
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x02, 0x200, 0x08, 0x40
_DETECTION_S, _DETECTION_STEP_S = 10.0, 0.05  # duplicate address detection: a second, where the defaults hold
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
    underlay: Callable[[], underlay.Underlay | None] = lambda: None  # as the controller has told it
    view: netns.View = field(default_factory=netns.View)  # of the node's paths

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
def translated(doing: str, refusals: links.Refusals = ()) -> Iterator[None]:
    try:
        yield
    except rtnl.KernelError as problem:
        if meaning := dict(refusals).get(problem.code):
            raise errors.CNIError(errors.Code.INVALID_CONFIG, meaning, str(problem)) from None
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
        message.parent, message.alias, message.group, bool(message.flags & _IFF_PROMISC), message.data, message.port,
        message.bus, message.device,
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


def _read_kind(place: Place, what: links.LinksOfKind) -> frozenset[Link]:
    asked = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", what.kind)]})
    with translated(f"list {what.kind} links"):
        listed = map(link, place.node.dump(rtnl.GETLINK, {}, [asked, NO_STATISTICS]))
        return frozenset(one for one in listed if one.kind == what.kind)  # unknown to the kernel: it lists all


def _read_bridge_ports(place: Place, what: links.BridgePorts) -> frozenset[str]:
    bridge = get(place.node, what.bridge)
    if bridge is None:
        return frozenset()
    with translated(f"list the ports of {what.bridge}"):
        return fdb.ports(place.node, bridge.index)


def _read_default_link(place: Place, what: links.DefaultLink) -> Link | None:
    if what.where is Where.IN_POD and place.pod is None:
        return None
    where = place.socket(what.where)
    for version in (4, 6):
        defaults = [rtnl.attributes(message) for message in _main_table(where, version) if message["dst_len"] == 0]
        through = [one for one in defaults if one.get("RTA_OIF")]  # a route by several links has none of its own
        if through:
            best = min(through, key=lambda one: one.get("RTA_PRIORITY") or 0)
            return found(where, "the link of the default route", {"index": best["RTA_OIF"]}, [])
    return None


def _main_table(where: rtnl.Socket, version: int) -> list[Any]:
    with translated("read the default route"):
        try:
            return where.dump(rtnl.GETROUTE, {"family": family(version)}, [("RTA_TABLE", _MAIN_TABLE)])
        except rtnl.KernelError as problem:
            if problem.code != errno.ENOENT:  # a namespace has no table before its first route
                raise
            return []


def _create(place: Place, step: links.Create) -> None:
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", step.kind)]
    if step.data:
        info.append(("IFLA_INFO_DATA", _resolved(place, step.data)))
    attributes = [("IFLA_IFNAME", step.name), *_resolved(place, step.attributes)["attrs"]]
    with translated(f"create {step.kind} link {step.name}", step.refusals):
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


def _read_addresses(place: Place, what: links.Addresses) -> frozenset[links.Address]:
    there = _read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the addresses of {what.name}"):
        return addresses(place.socket(what.where), there.index) if there else frozenset()


def _read_routes(place: Place, what: links.Routes) -> frozenset[result.Route]:
    there = _read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the routes of {what.name}"):
        return routes(place.socket(what.where), there.index) if there else frozenset()


def _add_address(place: Place, step: links.AddAddress) -> None:
    # mostly without duplicate address detection: the address is IPAM's, and must not be tentative when ADD returns
    address, where = step.address, place.socket(step.where)
    flags = 0 if step.prefix_route else _IFA_F_NOPREFIXROUTE
    attributes: list[tuple[str, Any]] = [("IFA_ADDRESS", str(address.ip))]
    if address.version == 6:
        if step.where is Where.IN_POD:
            _enable_ipv6(place.netns_fd, step.ifname)
        flags |= 0 if step.detect_duplicates else _IFA_F_NODAD
    else:
        attributes.append(("IFA_LOCAL", str(address.ip)))
        if address.network.prefixlen < 31:
            attributes.append(("IFA_BROADCAST", str(address.network.broadcast_address)))
    with translated(f"add address {address} to {step.ifname}"):
        fields = _address_fields(where, step.ifname, address)
        try:
            where.do(rtnl.NEWADDR, fields, [*attributes, ("IFA_FLAGS", flags)], rtnl.CREATE | rtnl.EXCL)
        except rtnl.KernelError as problem:
            if not (step.shared and problem.code == errno.EEXIST):
                raise


def _await_addresses(place: Place, step: links.AwaitAddresses) -> None:
    pod, deadline = place.socket(Where.IN_POD), time.monotonic() + _DETECTION_S
    with translated(f"await the addresses of {step.ifname}"):
        fields = {"family": socket.AF_INET6, "index": index(pod, step.ifname)}
        while tentative := _tentative(pod.dump(rtnl.GETADDR, fields, [])):
            if time.monotonic() > deadline:
                message = f"addresses of {step.ifname} are still tentative after {_DETECTION_S:.0f} s"
                raise errors.CNIError(errors.Code.TRY_AGAIN, message, ", ".join(tentative))
            time.sleep(_DETECTION_STEP_S)


def _tentative(messages: list[Any]) -> list[str]:
    """Return the addresses that are. Raises CNIError 999 for one that another host has."""
    flags = {_local(message): rtnl.attributes(message).get("IFA_FLAGS", message["flags"]) for message in messages}
    for address, known in flags.items():
        if known & _IFA_F_DADFAILED:
            raise errors.CNIError(errors.Code.INTERNAL, f"address {address} is in use by another host on the network")
    return [address for address, known in flags.items() if known & _IFA_F_TENTATIVE]


def _remove_address(place: Place, step: links.RemoveAddress) -> None:
    address, where = step.address, place.socket(step.where)
    with translated(f"remove address {address} from {step.ifname}"):
        try:
            attributes = [("IFA_ADDRESS", str(address.ip)), ("IFA_LOCAL", str(address.ip))]
            where.do(rtnl.DELADDR, _address_fields(where, step.ifname, address), attributes)
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
    where = place.socket(step.where)
    with translated(f"add the route to {step.route.dst} through {step.ifname}", step.refusals):
        add_route(where, index(where, step.ifname), step.route)


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


# -- ports of bridges ---------------------------------------------------------------------------------------------


def _read_vlans(place: Place, what: ports.PortVlans) -> frozenset[ports.Vlan] | None:
    there = get(place.node, what.port)
    with translated(f"read the VLANs of {what.port}"):
        return vlans.read(place.node, there.index) if there else None


def _read_vlan_filtering(place: Place, _: ports.VlanFiltering) -> bool:
    with translated("ask for the VLANs of bridges"):
        return vlans.supported(place.node)


def _set_vlans(place: Place, step: ports.SetVlans) -> None:
    with translated(f"set the VLANs of {step.port}"):
        vlans.change(place.node, index(place.node, step.port), step.add, step.drop)


def _read_source_filter(place: Place, what: ports.SourceFilter) -> bytes | None:
    there = get(place.node, what.link)
    with translated(f"read the filter of {what.link}"):
        return spoofing.read(place.node, there.index) if there else None


def _filter_source(place: Place, step: ports.FilterSource) -> None:
    with translated(f"filter what comes in at {step.link}"):
        spoofing.install(place.node, index(place.node, step.link), step.program)


# -- overlays -----------------------------------------------------------------------------------------------------


def _read_ground(place: Place, what: underlay.Ground) -> underlay.Standing | None:
    told = place.underlay()
    given = what.stated or told
    if given is None:
        return None
    overruled = what.stated is not None and told is not None
    for address in given.addresses:
        with translated(f"find the link that has {address}"):
            ifindex = fdb.holder(place.node, address)
        if ifindex is not None and (there := found(place.node, f"link {ifindex}", {"index": ifindex}, [])):
            return underlay.Standing(given, address, there, overruled)
    return underlay.Standing(given, overruled=overruled)


def _read_entries(place: Place, what: underlay.Entries) -> frozenset[underlay.Entry]:
    there = get(place.node, what.name)
    with translated(f"read the forwarding table of {what.name}"):
        return fdb.entries(place.node, there.index) if there and there.kind == "vxlan" else frozenset()


def _reach(place: Place, step: underlay.Reach) -> None:
    ifindex = index(place.node, step.name)
    for entry in step.entries:
        with translated(f"add {entry.address} to the forwarding table of {step.name}"):
            fdb.append(place.node, ifindex, entry)


def _abandon(place: Place, step: underlay.Abandon) -> None:
    ifindex = index(place.node, step.name)
    for entry in step.entries:
        with translated(f"take {entry.address} out of the forwarding table of {step.name}"):
            fdb.delete(place.node, ifindex, entry)


# -- interfaces of the node -----------------------------------------------------------------------------------------


def _read_chosen(place: Place, what: hardware.Chosen) -> hardware.Selection:
    root = Path(place.view.place("/sys"))
    device = _LOOKUPS[what.key](root, what.value)
    with translated("list links"):
        there = place.node.dump(rtnl.GETLINK, {}, [NO_STATISTICS])
        chosen = borrowing.chosen(there, what, device)
        return hardware.Selection(device, tuple(_candidate(place.node, root, one, there) for one in chosen))


_LOOKUPS: Mapping[str, Callable[[Path, str], hardware.Hardware | None]] = {
    "hostInterface": lambda _, __: None,
    "hwaddr": lambda _, __: None,
    "kernelpath": sysfs.at,
    "pciBusID": sysfs.pci,
    "deviceID": sysfs.device,
}


def _candidate(
    node: rtnl.Socket, root: Path, one: rtnl.LinkMessage, there: list[rtnl.LinkMessage]
) -> hardware.Candidate:
    function, settings = None, None
    device = sysfs.behind(root, one.bus, one.device)
    card = next((link for link in there if device and (link.bus, link.device) in device.card), None)
    if device and card:
        function = hardware.Function(card.name, device.number)
        settings = _settings(node, function)
    return hardware.Candidate(
        link(one),
        borrowing.state(one),
        borrowing.users(one, there),
        addresses(node, one.index),
        any(route.dst.prefixlen == 0 for route in routes(node, one.index)),
        function,
        settings,
    )


def _read_taken(place: Place, what: hardware.Taken) -> tuple[Link, Where] | None:
    for where in (Where.IN_POD, Where.NODE):
        if where is Where.NODE or place.pod is not None:
            with translated("list links"):
                for one in place.socket(where).dump(rtnl.GETLINK, {}, [NO_STATISTICS]):
                    if borrowing.is_taken(one, what.mark, what.bus, what.device, what.permanent):
                        return link(one), where
    return None


def _read_settings(place: Place, what: hardware.Settings) -> hardware.VirtualFunction | None:
    with translated(f"read the functions of {what.function.card}"):
        return _settings(place.node, what.function)


def _settings(node: rtnl.Socket, function: hardware.Function) -> hardware.VirtualFunction | None:
    try:
        card = node.get(rtnl.GETLINK, {}, [("IFLA_IFNAME", function.card), borrowing.WITH_FUNCTIONS])
    except rtnl.KernelError as problem:
        if problem.code in _NO_LINK:
            return None
        raise
    return borrowing.settings(card, function.number)


def _mark(place: Place, step: hardware.Mark) -> None:
    with translated(f"mark interface {step.link.name}"):
        borrowing.mark(place.node, step.link.index, step.alias)


def _lend(place: Place, step: hardware.Lend) -> None:
    with translated(f"make interface {step.link.name} the pod's {step.name}"):
        if step.where is Where.IN_POD:
            borrowing.rename(place.socket(Where.IN_POD), step.link.index, step.name)
        else:
            borrowing.move(place.node, step.link.index, place.netns_fd, step.name)


def _give_back(place: Place, step: hardware.GiveBack) -> None:
    name, taken = step.was.name, get(place.node, step.was.name)
    if taken is not None and (step.where is Where.IN_POD or taken.index != step.link.index):
        message = f"cannot give interface {step.link.name} back to the node: it has another {name} by now"
        raise errors.CNIError(errors.Code.TRY_AGAIN, message)
    with translated(f"give interface {name} back to the node"):
        if step.where is Where.IN_POD:
            with netns.own() as node:
                borrowing.move(place.socket(Where.IN_POD), step.link.index, node, name)
        elif step.link.name != name:
            borrowing.rename(place.node, step.link.index, name)
        borrowing.restore(place.node, place.node.get(rtnl.GETLINK, {}, [("IFLA_IFNAME", name)]), step.was)


def _set_function(place: Place, step: hardware.SetFunction) -> None:
    with translated(f"set {step.settings} for function {step.function.number} of {step.function.card}"):
        borrowing.set_function(place.node, index(place.node, step.function.card), step.function, step.settings)


# -- bandwidth ---------------------------------------------------------------------------------------------------


def _read_queue(place: Place, what: shaping.Queue) -> shaping.Bucket | None:
    there = _read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the queueing discipline of {what.name}"):
        return tc.bucket(place.socket(what.where), there.index) if there else None


def _read_redirection(place: Place, what: shaping.Redirection) -> int:
    there = _read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the filters of {what.name}"):
        return tc.redirection(place.socket(what.where), there.index) if there else 0


def _shape(place: Place, step: shaping.Shape) -> None:
    where = place.socket(step.where)
    with translated(f"shape what {step.name} sends"):
        tc.shape(where, index(where, step.name), step.bucket)


def _redirect(place: Place, step: shaping.Redirect) -> None:
    where = place.socket(step.where)
    with translated(f"shape what {step.name} receives"):
        tc.redirect(where, index(where, step.name), index(where, step.to) if step.to else 0)


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
    links.CreateTap: lambda place, step: tap.create(place.socket(Where.IN_POD), place.netns_fd, step),
    links.Change: _change,
    links.Remove: _remove,
    links.AddAddress: _add_address,
    links.AwaitAddresses: _await_addresses,
    links.RemoveAddress: _remove_address,
    links.AddRoute: _add_route,
    links.WriteSysctl: _write_sysctl,
    shaping.Shape: _shape,
    hardware.Mark: _mark,
    hardware.Lend: _lend,
    hardware.GiveBack: _give_back,
    hardware.SetFunction: _set_function,
    shaping.Redirect: _redirect,
    ports.SetVlans: _set_vlans,
    ports.FilterSource: _filter_source,
    switch.AddPort: lambda place, step: ovsdb.add_port(place.view.place, step),
    switch.RemovePort: lambda place, step: ovsdb.remove_port(place.view.place, step),
    underlay.Reach: _reach,
    underlay.Abandon: _abandon,
}

READERS: Mapping[type, Callable[[Place, Any], Any]] = {
    links.NamedLink: _read_link,
    links.LinksOfKind: _read_kind,
    links.BridgePorts: _read_bridge_ports,
    links.DefaultLink: _read_default_link,
    links.Addresses: _read_addresses,
    links.Routes: _read_routes,
    links.TapDriver: lambda _, __: tap.what_is_in_the_way(),
    links.Sysctl: _read_sysctl,
    shaping.Queue: _read_queue,
    hardware.Chosen: _read_chosen,
    hardware.Taken: _read_taken,
    hardware.Behind: lambda place, what: sysfs.behind(Path(place.view.place("/sys")), what.bus, what.device),
    hardware.Settings: _read_settings,
    shaping.Redirection: _read_redirection,
    ports.PortVlans: _read_vlans,
    ports.VlanFiltering: _read_vlan_filtering,
    ports.SourceFilter: _read_source_filter,
    switch.SwitchPort: lambda place, what: ovsdb.read_port(place.view.place, what),
    underlay.Ground: _read_ground,
    underlay.Entries: _read_entries,
}
