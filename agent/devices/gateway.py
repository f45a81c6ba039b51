"""Pure: a bridge as the gateway of its pods: `isGateway`, `isDefaultGateway`, `forceAddress`, as the reference `bridge`
has them.

What is given to the bridge and switched on for it is every pod's: no DEL takes it away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from agent import options
from agent.devices.vlan_gateway import VlanGateway
from agent.links import (
    AddAddress,
    Address,
    Addresses,
    Change,
    Have,
    Interface,
    Link,
    Read,
    RemoveAddress,
    Step,
    Sysctl,
    Where,
    WriteSysctl,
    everywhere,
)
from cni import errors, result

_FORWARDING = {
    4: Sysctl("ipv4/ip_forward", Where.NODE),
    6: Sysctl("ipv6/conf/all/forwarding", Where.NODE),
}


class Gateway:
    """The addresses of one bridge, where it shall be a gateway: on itself, or on its link in a VLAN."""

    def __init__(self, config: Mapping[str, Any], bridge: str, vlan: int) -> None:
        self._default = options.flag(config, "isDefaultGateway")
        self._force = options.flag(config, "forceAddress")
        self.asked = options.flag(config, "isGateway") or self._default
        self._vlan = VlanGateway(bridge, vlan) if self.asked and vlan else None
        self._name = self._vlan.name if self._vlan else bridge

    def reads(self) -> tuple[Read, ...]:
        if not self.asked:
            return ()
        return (Addresses(self._name), *_FORWARDING.values(), *(self._vlan.reads() if self._vlan else ()))

    def completed(self, addresses: result.Result) -> result.Result:
        """Return IPAM's answer with what the bridge adds: missing gateways, and the default route through it."""
        if not self.asked:
            return addresses
        ips = tuple(replace(ip, gateway=ip.gateway or _first(ip.address)) for ip in addresses.ips)
        gateways = {ip.address.version: ip.gateway for ip in reversed(ips)}
        missing = (
            result.Route(everywhere(version), gateway)
            for version, gateway in sorted(gateways.items())
            if self._default and not _has_default(version, addresses.routes)
        )
        return replace(addresses, ips=ips, routes=(*addresses.routes, *missing))

    def steps(self, bridge: Link | None, want: Interface, have: Have) -> Iterator[Step]:
        """Yield what makes the bridge the gateway. Raises CNIError 7 where it has another's address."""
        there = have.facts.get(Addresses(self._name), frozenset())
        if self._vlan and want.addresses:
            yield from self._vlan.steps(bridge, want.mtu, have)
        for address in self._missing(want, have):
            for other in sorted(map(str, _conflicting(address, there))):
                if not self._force:
                    message = f"gateway {self._name!r} has the address {other}, and is to have {address}"
                    raise errors.CNIError(errors.Code.INVALID_CONFIG, f"{message}: forceAddress replaces it")
                yield RemoveAddress(self._name, ipaddress.ip_interface(other), Where.NODE)
            if bridge is not None and not self._vlan:  # one that another has made follows the MACs of its ports
                yield Change(self._name, attributes=(("IFLA_ADDRESS", bridge.mac),))
            yield AddAddress(self._name, address, Where.NODE, shared=True)
        for sysctl in self._not_forwarding(want, have):
            yield WriteSysctl(sysctl, "1")

    def shown(self, have: Have) -> Link | None:
        """Return the link in the VLAN, where it is that."""
        return self._vlan.shown(have) if self._vlan else None

    def mismatches(self, bridge: Link, want: Interface, have: Have) -> Iterator[str]:
        if self._vlan and want.addresses:
            yield from self._vlan.mismatches(bridge, have)
        for address in self._missing(want, have):
            yield f"gateway {self._name} has not the address {address}"
        for sysctl in self._not_forwarding(want, have):
            yield f"sysctl net/{sysctl.path} is {have.facts.get(sysctl)!r}, not '1'"

    def _missing(self, want: Interface, have: Have) -> tuple[Address, ...]:
        there = have.facts.get(Addresses(self._name), frozenset())
        return tuple(dict.fromkeys(one for one in self._addresses(want) if one not in there))

    def _addresses(self, want: Interface) -> Iterator[Address]:
        for address, gateway in zip(want.addresses, want.gateways, strict=True):
            if self.asked and gateway is not None:
                yield ipaddress.ip_interface(f"{gateway}/{address.network.prefixlen}")

    def _not_forwarding(self, want: Interface, have: Have) -> Iterator[Sysctl]:
        for version in sorted({address.version for address in self._addresses(want)}):
            if have.facts.get(_FORWARDING[version]) in (None, "0"):
                yield _FORWARDING[version]


def _conflicting(address: Address, there: Collection[Address]) -> Iterator[Address]:
    """As the reference has it: one IPv4 address; of IPv6 any number whose networks do not overlap."""
    for other in there:
        if other.version == address.version and (address.version == 4 or other.network.overlaps(address.network)):
            yield other


def _first(address: Address) -> result.Address:
    return address.network.network_address + 1


def _has_default(version: int, routes: tuple[result.Route, ...]) -> bool:
    """Whether there is a default route that has a gateway, or gets one (agent.interface.with_gateways)."""
    return any(route.dst == everywhere(version) and (route.gw or route.scope != 253) for route in routes)
