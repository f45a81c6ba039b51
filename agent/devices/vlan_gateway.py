"""Pure: the link of the node by which it is in one VLAN of a bridge, as its gateway: `br0.100` for VLAN 100 of br0.

As the reference `bridge` has it: a veth pair, the other end an access port. A link of that name that is there already,
of whatever kind, is taken as it is. It is every pod's of that VLAN: no DEL takes it away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from agent import options
from agent.devices.bridge_vlans import Vlans
from agent.links import Change, Create, Have, IndexOf, Link, NamedLink, Read, Step


class VlanGateway:
    """The link for one VLAN. Raises CNIError 7 where there is no room for its name."""

    def __init__(self, bridge: str, vlan: int) -> None:
        self._bridge = bridge
        self.name = options.link_name({"bridge": f"{bridge}.{vlan}"}, "bridge")
        self._port = "hg" + hashlib.sha256(self.name.encode()).hexdigest()[:12]
        self._vlans = Vlans({"vlan": vlan}, self._port)

    def reads(self) -> tuple[Read, ...]:
        return (NamedLink(self.name), NamedLink(self._port), *self._vlans.reads())

    def steps(self, bridge: Link | None, mtu: int | None, have: Have) -> Iterator[Step]:
        """Yield what makes it, or completes what a crash has left of it."""
        gateway, port = have.link(self.name), have.link(self._port)
        if gateway is None:
            size = options.mtu_attribute(bridge.mtu if bridge else mtu)
            yield Create(
                self._port,
                "veth",
                data=(("VETH_INFO_PEER", (("IFLA_IFNAME", self.name), *size)),),
                attributes=(("IFLA_MASTER", IndexOf(self._bridge)), *size),
                up=True,
                shared=True,
            )
        if gateway is None or port is not None:
            yield from self._vlans.steps(bridge, have, new=port is None)
        if gateway is None or not gateway.up:
            yield Change(self.name, up=True)

    def mismatches(self, bridge: Link, have: Have) -> Iterator[str]:
        if have.link(self.name) is None:
            yield f"link {self.name} is missing"
        elif have.link(self._port) is not None:
            yield from self._vlans.mismatches(bridge, have)

    def shown(self, have: Have) -> Link | None:
        return have.link(self.name)
