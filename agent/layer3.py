"""Addresses and routes of links: reading them, and performing the steps that change them."""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent import links, netns, rtnl
from agent.links import Link, Where
from agent.place import Place, family, found, index, read_link, translated
from cni import errors, result

_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x02, 0x200, 0x08, 0x40
_DETECTION_S, _DETECTION_STEP_S = 10.0, 0.05  # duplicate address detection: a second, where the defaults hold
_MAIN_TABLE, _BOOT, _UNICAST, _LINK_SCOPE = 254, 3, 1, 253


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
    there = read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the addresses of {what.name}"):
        return addresses(place.socket(what.where), there.index) if there else frozenset()


def _read_routes(place: Place, what: links.Routes) -> frozenset[result.Route]:
    there = read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the routes of {what.name}"):
        return routes(place.socket(what.where), there.index) if there else frozenset()


def _add_address(place: Place, step: links.AddAddress) -> None:
    # mostly without duplicate address detection: the address is IPAM's, and must not be tentative when ADD returns
    address, where = step.address, place.socket(step.where)
    flags = 0 if step.prefix_route else _IFA_F_NOPREFIXROUTE
    attributes: list[tuple[str, Any]] = [("IFA_ADDRESS", str(address.ip))]
    if address.version == 6:
        if step.where is Where.IN_POD:
            _enable_ipv6(place, step.ifname)
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


def _enable_ipv6(place: Place, ifname: str) -> None:
    with netns.entered(place.netns_fd):  # /proc/sys/net shows the namespace of the thread that opens it
        knob = Path(place.view.place("/proc/sys/net/ipv6/conf"), ifname, "disable_ipv6")
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


def _read_default_link(place: Place, what: links.DefaultLink) -> Link | None:
    if what.where is Where.IN_POD and place.pod is None:
        return None
    where = place.socket(what.where)
    for version in (4, 6):
        defaults = [rtnl.attributes(message) for message in main_table(where, version) if message["dst_len"] == 0]
        through = [one for one in defaults if one.get("RTA_OIF")]  # a route by several links has none of its own
        if through:
            best = min(through, key=lambda one: one.get("RTA_PRIORITY") or 0)
            return found(where, "the link of the default route", {"index": best["RTA_OIF"]}, [])
    return None


def main_table(where: rtnl.Socket, version: int) -> list[Any]:
    """Return the kernel's messages of a namespace's main routing table. Raises CNIError."""
    with translated("read the main routing table"):
        try:
            return where.dump(rtnl.GETROUTE, {"family": family(version)}, [("RTA_TABLE", _MAIN_TABLE)])
        except rtnl.KernelError as problem:
            if problem.code != errno.ENOENT:  # a namespace has no table before its first route
                raise
            return []


def uplinks(node: rtnl.Socket) -> frozenset[int]:
    """Return the indexes of the links that bear a default route, of any table, or half of one."""
    found_links: set[int] = set()
    with translated("read the node's default routes"):
        for version in (4, 6):
            for message in node.dump(rtnl.GETROUTE, {"family": family(version)}, []):
                if message["dst_len"] <= 1 and message["type"] == _UNICAST:
                    one = rtnl.attributes(message)
                    found_links |= {hop["oif"] for hop in one.get("RTA_MULTIPATH") or ()} | {one.get("RTA_OIF") or 0}
    return frozenset(found_links - {0})


STEPS: Mapping[type, Callable[[Place, Any], None]] = {
    links.AddAddress: _add_address,
    links.AwaitAddresses: _await_addresses,
    links.RemoveAddress: _remove_address,
    links.AddRoute: _add_route,
}

READERS: Mapping[type, Callable[[Place, Any], Any]] = {
    links.Addresses: _read_addresses,
    links.Routes: _read_routes,
    links.DefaultLink: _read_default_link,
}
