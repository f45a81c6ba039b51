"""Pure: the device `bridge`: a veth pair, its host end a port of a bridge on the node.

Options are named as in the reference `bridge` plugin, so that changing `"type": "bridge"` to
`"type": "hotnic", "device": "bridge"` is the whole migration.

Rules
1. The bridge's own MAC is pinned when it is made: an unpinned bridge takes the lowest MAC of its ports and changes
   identity whenever one comes or goes.
2. The pair is made in one message, on the bridge and up, its other end born in the pod under its name.
"""

from __future__ import annotations

from agent import options
from agent.devices.contract import Device
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
from cni import errors

DEFAULT_BRIDGE = "cni0"  # as the reference plugin has it
UNSUPPORTED = ("vlan", "vlanTrunk", "preserveDefaultVlan", "macspoofchk", "isGateway", "isDefaultGateway", "ipMasq",
               "promiscMode", "enabledad", "disableContainerInterface")  # fmt: skip


class Bridge(Device):
    """A port of a bridge."""

    def __init__(self, call: options.Call) -> None:
        options.refuse(call.config, UNSUPPORTED, "by device bridge")
        self.interface = options.interface(call)
        self._name = options.link_name(call.config, "bridge", DEFAULT_BRIDGE)
        self._hairpin = options.flag(call.config, "hairpinMode")
        self._isolated = options.flag(call.config, "portIsolation")
        self._pair = Pair(call.key)

    def reads(self) -> tuple[Read, ...]:
        return (NamedLink(self._name), *self._pair.reads())

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        self._pair.refuse_conflicts(have)
        return (*self._bridge_steps(want, have), *self._port_steps(want, have))

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        bridge, host = have.link(self._name), have.link(self._pair.host_name)
        if host is None:
            return (f"host end {self._pair.host_name} is missing",)
        if bridge is None or host.master != bridge.index:
            return (f"host end {host.name} is not a port of bridge {self._name}",)
        return ()

    def shown(self, have: Have) -> tuple[Link, ...]:
        found = (have.link(self._name), have.link(self._pair.host_name))
        return tuple(link for link in found if link is not None)

    def removal(self, have: Have) -> tuple[Step, ...]:
        return self._pair.removal(have)

    def refuse_unready(self, have: Have) -> None:
        self._refuse_other_kind(have)

    def _refuse_other_kind(self, have: Have) -> None:
        bridge = have.link(self._name)
        if bridge is not None and bridge.kind != "bridge":
            kind = bridge.kind or "physical"
            message = f"bridge={self._name!r} exists and is a {kind} link, not a bridge"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)

    def _bridge_steps(self, want: Interface, have: Have) -> tuple[Step, ...]:
        self._refuse_other_kind(have)
        bridge = have.link(self._name)
        if bridge is None:
            attributes = (("IFLA_ADDRESS", RANDOM_MAC), *options.mtu_attribute(want.mtu))
            return (
                Create(self._name, "bridge", attributes=attributes, shared=True),
                # a tenant's router advertisement must not give the node an address
                WriteSysctl(Sysctl(f"ipv6/conf/{self._name}/accept_ra", Where.NODE), "0", optional=True),
                Change(self._name, up=True),
            )
        return () if bridge.up else (Change(self._name, up=True),)

    def _port_steps(self, want: Interface, have: Have) -> tuple[Step, ...]:
        bridge, host = have.link(self._name), have.link(self._pair.host_name)
        if host is None or have.pod is None:
            default = bridge.mtu if bridge else None
            pair = self._pair.create(want, want.mtu or default, (("IFLA_MASTER", IndexOf(self._name)),))
            return (pair, *self._port_settings())
        if bridge is None or host.master != bridge.index:
            return (Change(host.name, attributes=(("IFLA_MASTER", IndexOf(self._name)),)), *self._port_settings())
        return ()

    def _port_settings(self) -> tuple[Step, ...]:
        if not (self._hairpin or self._isolated):
            return ()
        port: Attributes = (("IFLA_BRPORT_MODE", int(self._hairpin)), ("IFLA_BRPORT_ISOLATED", int(self._isolated)))
        return (Change(self._pair.host_name, port=port),)
