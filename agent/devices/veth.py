"""Pure: the device `veth`: a veth pair, one end in the pod, the other on the node and on no bridge.

Without ipam it is plain L2, and what is done with the host end is the node's business. With ipam it does what the
reference plugin `ptp` does, whose options it has; `hostInterface` is ours: the name of the host end.

Rules
1. All that the pod sends goes to its gateway, which is the host end: that has the gateways' addresses, and the node a
   route to each of the pod's, and to nothing else. Both vanish with the pair.
2. A link of the node that has the name asked for is never taken over.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator
from dataclasses import replace

from agent import options
from agent.devices.contract import Device
from agent.devices.veth_pair import Pair
from agent.links import (
    AddAddress,
    Address,
    Addresses,
    AddRoute,
    Have,
    Interface,
    Link,
    Read,
    Remove,
    Routes,
    Step,
    Sysctl,
    Where,
    WriteSysctl,
)
from cni import result

UNSUPPORTED = ("ipMasq", "ipMasqBackend")
_LINK = 253  # RT_SCOPE_LINK
_FORWARDING = {4: Sysctl("ipv4/ip_forward", Where.NODE), 6: Sysctl("ipv6/conf/all/forwarding", Where.NODE)}


class Veth(Device):
    """A veth pair to the node."""

    OPTIONS = frozenset({"hostInterface"})

    def __init__(self, call: options.Call) -> None:
        options.refuse(call.config, UNSUPPORTED, "by device veth; masquerading is the node's firewall's business")
        self.interface = options.interface(call)
        named = bool(call.config.get("hostInterface"))
        self._pair = Pair(call.key, options.link_name(call.config, "hostInterface") if named else "")

    def reads(self) -> tuple[Read, ...]:
        host = self._pair.host_name
        return (*self._pair.reads(), Addresses(host), Routes(host), *_FORWARDING.values())

    def with_addresses(self, want: Interface) -> Interface:
        pairs = list(zip(want.addresses, want.gateways, strict=True))
        if alone := next((address for address, gateway in pairs if gateway is None), None):
            raise options.invalid("ipam", str(alone), "has no gateway, which would be the address of the host end")
        routes = [route for address, gateway in pairs if gateway for route in _through_gateway(address, gateway)]
        return replace(want, prefix_routes=False, routes=tuple(dict.fromkeys((*routes, *want.routes))))

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        self._pair.refuse_conflicts(have)
        return (*self._pair_steps(want, have), *self._host_steps(want, have))

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        host = self._pair.host(have)
        if host is None:
            return (f"host end {self._pair.host_name} is missing",)
        return (*_mtu_mismatch(want, host), *(_said(step) for step in self._host_steps(want, have)))

    def shown(self, have: Have) -> tuple[Link, ...]:
        host = self._pair.host(have)
        return () if host is None else (host,)

    def host_end(self) -> str:
        return self._pair.host_name

    def kinds(self) -> tuple[str, ...]:
        return ("veth",)

    def removal(self, have: Have) -> tuple[Step, ...]:
        return self._pair.removal(have)

    def _pair_steps(self, want: Interface, have: Have) -> tuple[Step, ...]:
        host, name = self._pair.host(have), self._pair.host_name
        if host is not None and have.pod is not None:
            return self._pair.repair(want, have)
        return (
            *(() if host is None else (Remove(host),)),  # its other end is not in the pod under its name any more
            self._pair.create(want, want.mtu),
            # a tenant's router advertisement must not give the node an address
            WriteSysctl(Sysctl(f"ipv6/conf/{name}/accept_ra", Where.NODE), "0", optional=True),
        )

    def _host_steps(self, want: Interface, have: Have) -> Iterator[Step]:
        name = self._pair.host_name
        addresses, routes = have.facts.get(Addresses(name)) or (), have.facts.get(Routes(name)) or ()
        for version in sorted({address.version for address in want.addresses}):
            if have.facts.get(_FORWARDING[version]) == "0":
                yield WriteSysctl(_FORWARDING[version], "1")
        for gateway in dict.fromkeys(want.gateways):
            if gateway is not None and (address := ipaddress.ip_interface(gateway)) not in addresses:
                yield AddAddress(name, address, Where.NODE)
        for address in want.addresses:
            route = _alone(address.ip)
            if all(there.dst != route.dst for there in routes):
                yield AddRoute(name, route, Where.NODE, ((errno.EEXIST, _taken(address)),))


def _through_gateway(address: Address, gateway: result.Address) -> tuple[result.Route, ...]:
    network = address.network
    alone = network.prefixlen == network.max_prefixlen
    return (_alone(gateway), *(() if alone else (result.Route(network, gateway),)))


def _alone(address: result.Address) -> result.Route:
    """Return the route to one neighbour."""
    return result.Route(ipaddress.ip_network(address), scope=_LINK if address.version == 4 else None)


def _taken(address: Address) -> str:
    return f"the node has a route to {address.ip} already: another pod, or a link of the node, has that address"


def _mtu_mismatch(want: Interface, host: Link) -> tuple[str, ...]:
    if want.mtu is None or host.mtu == want.mtu:
        return ()
    return (f"host end {host.name} has MTU {host.mtu}, not {want.mtu}",)


def _said(step: Step) -> str:
    match step:
        case AddAddress(name, address):
            return f"host end {name} has no address {address}"
        case AddRoute(name, route):
            return f"the node has no route to {route.dst} through {name}"
        case WriteSysctl(sysctl, value):
            return f"sysctl net/{sysctl.path} is not {value} on the node"
    raise AssertionError(step)
