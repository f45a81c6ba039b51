"""Pure: the device `bridge`: a veth pair, its host end a port of a bridge on the node.

Options are named as in the reference `bridge` plugin, so that changing `"type": "bridge"` to
`"type": "hotnic", "device": "bridge"` is the whole migration.

Rules
1. The bridge's own MAC is pinned when it is made: an unpinned bridge takes the lowest MAC of its ports and changes
   identity whenever one comes or goes.
2. The pair is made in one message, on the bridge and up, its other end born in the pod under its name. That end comes
   up last, so that nothing passes before the port's VLANs and its filter are there.
3. What is the bridge's (its addresses, its promiscuous mode) is every pod's: it is set, and never taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from agent import links, options
from agent.devices.bridge_vlans import Vlans
from agent.devices.contract import Device
from agent.devices.gateway import Gateway
from agent.devices.veth_pair import Pair
from agent.links import (
    RANDOM_MAC,
    Attributes,
    Change,
    Create,
    Have,
    IndexOf,
    Interface,
    Link,
    NamedLink,
    Read,
    Step,
    Sysctl,
    Where,
    WriteSysctl,
)
from agent.ports import FilterSource, SourceFilter, accepting
from cni import errors, result

DEFAULT_BRIDGE = "cni0"  # as the reference plugin has it
_MASQUERADE = ("ipMasq", "ipMasqBackend")
_IFF_PROMISC = 0x100
_PORT_OPTIONS = {  # option: the attribute of the port, its number in what is read
    "hairpinMode": ("IFLA_BRPORT_MODE", 4),
    "portIsolation": ("IFLA_BRPORT_ISOLATED", 33),
}


class Bridge(Device):
    """A port of a bridge."""

    OPTIONS = frozenset({
        "bridge", "isGateway", "isDefaultGateway", "forceAddress", "hairpinMode", "promiscMode", "portIsolation",
        "vlan", "vlanTrunk", "preserveDefaultVlan", "macspoofchk", "enabledad", "disableContainerInterface",
    })  # fmt: skip

    def __init__(self, call: options.Call) -> None:
        config = call.config
        options.refuse(config, _MASQUERADE, "by device bridge; a plugin after it in the chain does it (firewall rules)")
        self._name = options.link_name(config, "bridge", DEFAULT_BRIDGE)
        self._port = tuple(option for option in _PORT_OPTIONS if options.flag(config, option))
        self._promiscuous = options.flag(config, "promiscMode")
        self._checks_source = options.flag(config, "macspoofchk")
        self._detects = options.flag(config, "enabledad")
        self._dns = result.decode({"dns": config.get("dns")}).dns  # beats that of IPAM, as in the reference
        self._pair = Pair(call.key)
        self._vlans = Vlans(config, self._pair.host_name)
        self._gateway = Gateway(config, self._name, self._vlans.access)
        self.interface = _interface(call)
        self._refuse_contradictions(config)

    def reads(self) -> tuple[Read, ...]:
        checked = (SourceFilter(self._pair.host_name),) if self._checks_source else ()
        return (NamedLink(self._name), *self._pair.reads(), *self._vlans.reads(), *self._gateway.reads(), *checked)

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        self._pair.refuse_conflicts(have)
        self.refuse_unready(have)
        return (*self._bridge_steps(want, have), *self._port_steps(want, have))

    def completed(self, addresses: result.Result) -> result.Result:
        completed = self._gateway.completed(addresses)
        return completed if self._dns == result.DNS() else replace(completed, dns=self._dns)

    def with_addresses(self, want: Interface) -> Interface:
        if not self._detects or all(address.version == 4 for address in want.addresses):
            return want
        knobs = tuple((f"ipv6/conf/{want.ifname}/{name}", "1") for name in ("accept_dad", "enhanced_dad"))
        return replace(want, detect_duplicates=True, sysctls=(*knobs, *want.sysctls))

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        bridge, host = have.link(self._name), have.link(self._pair.host_name)
        if host is None:
            return (f"host end {self._pair.host_name} is missing",)
        if bridge is None or host.master != bridge.index:
            return (f"host end {host.name} is not a port of bridge {self._name}",)
        return (
            *(f"port {host.name} has lost {option}" for option in self._lost(host)),
            *((f"port {host.name} does not check source MACs",) if not self._checked(want, have) else ()),
            *((f"bridge {self._name} is not promiscuous",) if self._promiscuous and not bridge.promiscuous else ()),
            *self._vlans.mismatches(bridge, have),
            *self._gateway.mismatches(bridge, want, have),
        )

    def shown(self, have: Have) -> tuple[Link, ...]:
        found = (have.link(self._name), have.link(self._pair.host_name), self._gateway.shown(have))
        return tuple(link for link in found if link is not None)

    def host_end(self) -> str:
        return self._pair.host_name

    def kinds(self) -> tuple[str, ...]:
        return ("bridge", "veth")

    def removal(self, have: Have) -> tuple[Step, ...]:
        return self._pair.removal(have)

    def refuse_unready(self, have: Have) -> None:
        bridge = have.link(self._name)
        if bridge is not None and bridge.kind != "bridge":
            kind = bridge.kind or "physical"
            raise _invalid(f"bridge={self._name!r} exists and is a {kind} link, not a bridge")
        self._vlans.refuse(self._name, bridge, have)

    def _refuse_contradictions(self, config: Mapping[str, Any]) -> None:
        if self._promiscuous and "hairpinMode" in self._port:
            raise _invalid("hairpinMode=True and promiscMode=True exclude each other")
        if config.get("disableContainerInterface") and options.ipam(config):
            raise _invalid("disableContainerInterface=True leaves no interface for the addresses of ipam")

    def _bridge_steps(self, want: Interface, have: Have) -> Iterator[Step]:
        bridge = have.link(self._name)
        if bridge is None:
            attributes = (("IFLA_ADDRESS", RANDOM_MAC), *options.mtu_attribute(want.mtu))
            data = self._vlans.of_the_bridge()
            yield Create(self._name, "bridge", data=data, attributes=attributes, shared=True)
            # a tenant's router advertisement must not give the node an address
            yield WriteSysctl(Sysctl(f"ipv6/conf/{self._name}/accept_ra", Where.NODE), "0", optional=True)
        if bridge is None or not bridge.up:
            yield Change(self._name, up=True)
        if self._promiscuous and not (bridge is not None and bridge.promiscuous):
            yield Change(self._name, flags=(_IFF_PROMISC, _IFF_PROMISC))
        yield from self._gateway.steps(bridge, want, have)

    def _port_steps(self, want: Interface, have: Have) -> Iterator[Step]:
        bridge, host = have.link(self._name), have.link(self._pair.host_name)
        new = host is None or have.pod is None or bridge is None or host.master != bridge.index
        if host is None or have.pod is None:
            default = bridge.mtu if bridge else None
            yield self._pair.create(want, want.mtu or default, (("IFLA_MASTER", IndexOf(self._name)),))
        else:
            if new:
                yield Change(host.name, attributes=(("IFLA_MASTER", IndexOf(self._name)),))
            yield from self._pair.repair(want, have)
        if lost := self._lost(None if new else host):
            port: Attributes = tuple((_PORT_OPTIONS[option][0], 1) for option in lost)
            yield Change(self._pair.host_name, port=port)
        yield from self._vlans.steps(bridge, have, new=new)
        if not self._checked(want, have):
            yield FilterSource(self._pair.host_name, accepting(want.mac))

    def _lost(self, host: Link | None) -> tuple[str, ...]:
        """Return the options that the port has not, None being one that is made now."""
        port = b"" if host is None else host.port
        return tuple(option for option in self._port if not links.number(port, _PORT_OPTIONS[option][1]))

    def _checked(self, want: Interface, have: Have) -> bool:
        """Whether the port lets in what it shall. The MAC is the wanted one: the pod's own word does not count."""
        installed = have.facts.get(SourceFilter(self._pair.host_name))
        return not self._checks_source or installed == accepting(want.mac)


def _invalid(message: str) -> errors.CNIError:
    return errors.CNIError(errors.Code.INVALID_CONFIG, message)


def _interface(call: options.Call) -> Interface:
    wanted = options.interface(call)
    return replace(wanted, up=False) if options.flag(call.config, "disableContainerInterface") else wanted
