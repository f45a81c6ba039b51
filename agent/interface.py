"""Pure: the steps that make the interface in the pod what it shall be, whatever kind of link it is.

The link itself is the device's business (agent.devices). What is None or empty in the wish is left as it is, and what
is there besides (another plugin's addresses, the kernel's own routes) is no mismatch.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.links import (
    AddAddress,
    AddRoute,
    Attributes,
    AwaitAddresses,
    Change,
    Have,
    Interface,
    Read,
    RemoveAddress,
    Step,
    Sysctl,
    Where,
    WriteSysctl,
)
from cni import result

IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200


def reads(want: Interface) -> tuple[Read, ...]:
    """Return what `plan` looks at besides the interface itself."""
    return tuple(Sysctl(path) for path, _ in want.sysctls)


def plan(want: Interface, have: Have) -> tuple[Step, ...]:
    """Return the steps after those of the device, which makes a missing link."""
    return (
        *_attribute_steps(want, have),
        *_sysctl_steps(want, have),
        *_flag_steps(want, have),
        *(
            RemoveAddress(want.ifname, one)
            for one in want.leaving
            if one in have.addresses and one not in want.addresses
        ),
        *(
            AddAddress(want.ifname, address, prefix_route=want.prefix_routes, detect_duplicates=want.detect_duplicates)
            for address in want.addresses
            if address not in have.addresses
        ),
        *_waiting(want, have),
        *(AddRoute(want.ifname, route) for route in want.routes if want.up and not _has_route(route, have)),
    )


def mismatches(want: Interface, have: Have) -> tuple[str, ...]:
    """Return what CHECK reports. A link that the pod has set down or made promiscuous is its own affair."""
    if have.pod is None:
        return (f"interface {want.ifname} is missing",)
    found = []
    if want.mac and have.pod.mac != want.mac:
        found.append(f"interface {want.ifname} has MAC {have.pod.mac}, not {want.mac}")
    if want.mtu and have.pod.mtu != want.mtu:
        found.append(f"interface {want.ifname} has MTU {have.pod.mtu}, not {want.mtu}")
    found += [f"address {address} is missing" for address in want.addresses if address not in have.addresses]
    found += [
        f"route to {route.dst} is missing"
        for route in want.routes
        if want.up and have.pod.up and not _has_route(route, have)  # a link that is down has no routes
    ]
    found += [
        f"sysctl net/{path} is {have.facts.get(Sysctl(path))!r}, not {value!r}"
        for path, value in want.sysctls
        if not _same(have.facts.get(Sysctl(path)), value)
    ]
    return tuple(found)


def with_gateways(addresses: result.Result) -> tuple[result.Route, ...]:
    """Routes without a gateway go through the gateway of the address of their family, as the reference has it."""
    gateways = {ip.gateway.version: ip.gateway for ip in reversed(addresses.ips) if ip.gateway}
    return tuple(
        route
        if route.gw or route.scope == 253
        else result.Route(
            route.dst,
            gateways.get(route.dst.version),
            route.mtu,
            route.advmss,
            route.priority,
            route.table,
            route.scope,
        )
        for route in addresses.routes
    )


def _attribute_steps(want: Interface, have: Have) -> Iterator[Step]:
    """MAC, MTU and queue length of a link that is there; one that the device makes has MAC and MTU from the start."""
    changed: list[tuple[str, object]] = []
    if have.pod is not None and want.mac and have.pod.mac != want.mac:
        changed.append(("IFLA_ADDRESS", want.mac))
    if have.pod is not None and want.mtu and have.pod.mtu != want.mtu:
        changed.append(("IFLA_MTU", want.mtu))
    if want.transmit_queue is not None and have.transmit_queue != want.transmit_queue:
        changed.append(("IFLA_TXQLEN", want.transmit_queue))
    attributes: Attributes = tuple(changed)
    if attributes:
        yield Change(want.ifname, Where.IN_POD, attributes)


def _sysctl_steps(want: Interface, have: Have) -> Iterator[Step]:
    """Before the link is up: a setting such as accept_dad has its effect then."""
    for path, value in want.sysctls:
        if not _same(have.facts.get(Sysctl(path)), value):
            yield WriteSysctl(Sysctl(path), value)


def _flag_steps(want: Interface, have: Have) -> Iterator[Step]:
    values = mask = 0
    wishes = ((IFF_UP, want.up), (IFF_PROMISC, want.promiscuous), (IFF_ALLMULTI, want.all_multicast))
    for flag, wanted in wishes:
        if wanted is not None and bool(have.flags & flag) != wanted:
            values, mask = values | (flag if wanted else 0), mask | flag
    if mask:
        yield Change(want.ifname, Where.IN_POD, flags=(values, mask))


def _waiting(want: Interface, have: Have) -> Iterator[Step]:
    """For the duplicate address detection, before a route may need the address; a link that is down has none."""
    detects = want.detect_duplicates and want.up
    if detects and any(one.version == 6 and one not in have.addresses for one in want.addresses):
        yield AwaitAddresses(want.ifname)


def _same(text: str | None, value: str) -> bool:
    return text is not None and text.split() == value.split()


def _has_route(route: result.Route, have: Have) -> bool:
    return any(
        (there.dst, there.gw, there.table or 254) == (route.dst, route.gw, route.table or 254)
        and all(getattr(route, name) in (None, getattr(there, name)) for name in ("mtu", "advmss", "priority", "scope"))
        for there in have.routes
    )
