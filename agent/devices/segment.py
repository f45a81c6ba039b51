"""Pure: one node's part of an overlay: a bridge, and a VXLAN link that joins it to the other nodes' bridges.

All attachments of a network on the node share it; the first ADD makes it and the last DEL takes it away.

Rules
1. The names say the VNI. Ours is only what also has the kind, the VNI and the first bytes of the MAC that are derived
   from it: a link of somebody else under such a name is refused, and never touched.
2. The bridge's alias says whose it is: two networks with one VNI would be one. The second one is refused.
3. The kernel learns which MAC is behind which node from what arrives (flood and learn): it needs no word of anybody
   when a MAC moves, comes or goes, and MACs that no controller could know, of machines behind a pod, work as well.
4. No multicast in the underlay, which many have not got: what is for all goes to each node by itself.
5. The links have no addresses, also no link-local ones: the node is no member of its tenants' networks. Multicast is
   flooded (no snooping), so that no querier has to be among the pods.
6. Peers that configurations state are all those that the living attachments' ones state, which may differ (one was
   edited): none takes another's away, only the one that is alone does. An address of this node that is not the one in
   use is refused.
7. A VXLAN link has no underlay link of its own (`dev`): it would die with that one. The node's routes say the way.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent import links, options
from agent.links import (
    BridgePorts,
    Change,
    Create,
    Have,
    IndexOf,
    Link,
    LinksOfKind,
    NamedLink,
    Read,
    Remove,
    Step,
    Sysctl,
    Where,
    WriteSysctl,
)
from agent.underlay import EVERYBODY, Abandon, Entries, Entry, Ground, IPAddress, Reach, Standing, Underlay
from cni import errors

MAX_VNI = (1 << 24) - 1
OVERHEAD = {4: 50, 6: 70}  # bytes of each packet: inner Ethernet 14, VXLAN 8, UDP 8, IPv4 20 or IPv6 40
_ALIAS = "hotnic overlay "
_LOOPBACK = 1  # the index of `lo`, in every namespace
_ID, _LOCAL, _PORT, _LOCAL6, _EXTERNAL = 1, 4, 15, 17, 25  # IFLA_VXLAN_*


@dataclass(frozen=True, slots=True)
class Segment:
    """`stated`: the underlay where the configuration states it, instead of the controller."""

    network: str
    vni: int
    port: int  # UDP
    stated: Underlay | None = None

    @property
    def bridge_name(self) -> str:
        return f"hnb{self.vni}"

    @property
    def vxlan_name(self) -> str:
        return f"hnv{self.vni}"

    def reads(self) -> tuple[Read, ...]:
        """Return what all of this looks at."""
        return (
            NamedLink(self.bridge_name),
            NamedLink(self.vxlan_name),
            *(_ipv6_off(name) for name in (self.bridge_name, self.vxlan_name)),
            LinksOfKind("vxlan"),
            BridgePorts(self.bridge_name),
            Entries(self.vxlan_name),
            Ground(self.stated),
        )

    def bridge(self, have: Have) -> Link | None:
        """Return the bridge, if there is one and it is ours."""
        link = have.link(self.bridge_name)
        return link if link is not None and link.kind == "bridge" and self._is_marked(link) else None

    def vxlan(self, have: Have) -> Link | None:
        """Return the VXLAN link, if there is one and it is ours."""
        link = have.link(self.vxlan_name)
        ours = link is not None and link.kind == "vxlan" and self._is_marked(link) and _vni(link) == self.vni
        return link if ours else None

    def ports(self, have: Have) -> frozenset[str]:
        """Return the bridge's ports besides the VXLAN link."""
        found: frozenset[str] = have.facts.get(BridgePorts(self.bridge_name)) or frozenset()
        return found - {self.vxlan_name}

    def room(self, have: Have) -> int:
        """Return the greatest MTU that fits into the underlay. Raises CNIError 11 as `standing`."""
        address, link = self.standing(have)
        return link.mtu - OVERHEAD[address.version]

    def default_mtu(self, have: Have) -> int:
        """Return the MTU of who asks for none. Raises CNIError 7 where the underlay does not say one, 11 as `room`."""
        address, link = self.standing(have)
        if link.index == _LOOPBACK:
            message = f"the node's address {address} is one of {link.name}, which says no MTU: say `mtu`"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        return self.room(have)

    def standing(self, have: Have) -> tuple[IPAddress, Link]:
        """Return the node's address in the underlay, and the link that has it.

        Raises CNIError 11 where none is known or there, 7 where the configuration states what it must not.
        """
        standing: Standing | None = have.facts.get(Ground(self.stated))
        if standing is None:
            message = f"overlay {self.vni}: the nodes' addresses are not known yet: no controller has told them"
            raise errors.CNIError(errors.Code.TRY_AGAIN, message)
        if standing.overruled:
            message = "`peers` and `local` are not for nodes that a controller has told the nodes' addresses"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        if standing.address is None or standing.link is None:
            wanted = ", ".join(map(str, standing.underlay.addresses))
            raise errors.CNIError(
                errors.Code.TRY_AGAIN, f"overlay {self.vni}: no link of this node has the address {wanted}"
            )
        return standing.address, standing.link

    def refuse_conflicts(self, have: Have, own_port: str = "") -> None:
        """Raise CNIError 7 where somebody else has the names or the VNI, or the port with another kind of VXLAN."""
        for name, ours in ((self.bridge_name, self.bridge(have)), (self.vxlan_name, self.vxlan(have))):
            if (there := have.link(name)) is not None and ours is None:
                kind = there.kind or "physical"
                raise self._refusal(f"link {name} on the node is a {kind} link that is not ours")
        bridge = self.bridge(have)
        if bridge is not None and bridge.alias.startswith(_ALIAS) and bridge.alias != self._alias():
            other = bridge.alias.removeprefix(_ALIAS)
            raise self._refusal(f"it is the VNI of network {other!r} on this node, and this is {self.network!r}")
        if (mine := self.vxlan(have)) is not None and _port(mine) != self.port and self.ports(have) - {own_port}:
            raise self._refusal(f"port={self.port}, but interfaces on this node use it with port {_port(mine)}")
        for link in have.facts.get(LinksOfKind("vxlan")) or ():
            if link.name != self.vxlan_name and _port(link) == self.port:
                self._refuse_neighbour(link)

    def refuse_other_ground(self, have: Have, own_port: str) -> None:
        """Raise CNIError 7 where the configuration has the others' packets come from another address (rule 6)."""
        address, _ = self.standing(have)
        vxlan = self.vxlan(have)
        if self.stated is None or vxlan is None or not self.ports(have) - {own_port} or _local(vxlan) == address:
            return
        raise self._refusal(f"interfaces on this node use it from {_local(vxlan)}, and this is to do so from {address}")

    def steps(self, have: Have, own_port: str) -> tuple[Step, ...]:
        """Return the steps that make it whole. Raises CNIError 11."""
        address, _ = self.standing(have)
        room = self.room(have)
        return (
            *self._bridge_steps(have, address, room),
            *self._vxlan_steps(have, address, room),
            *self._entry_steps(have, address, forget=self._knows_all(have, own_port)),
            *(
                Change(name, up=True)
                for name, link in ((self.vxlan_name, self._kept(have, address)), (self.bridge_name, self.bridge(have)))
                if link is None or not link.up
            ),
        )

    def mismatches(self, have: Have, own_port: str) -> tuple[str, ...]:
        """Return what CHECK reports."""
        try:
            self.refuse_conflicts(have)
            address, _ = self.standing(have)
        except errors.CNIError as problem:
            return (problem.message,)
        bridge, vxlan = self.bridge(have), self.vxlan(have)
        if bridge is None or vxlan is None:
            missing = ((self.bridge_name, bridge), (self.vxlan_name, vxlan))
            return tuple(f"link {name} is missing" for name, link in missing if link is None)
        found = [f"link {link.name} is down" for link in (bridge, vxlan) if not link.up]
        if vxlan.master != bridge.index:
            found.append(f"{vxlan.name} is not a port of bridge {bridge.name}")
        if _local(vxlan) != address:
            found.append(f"{vxlan.name} sends from {_local(vxlan)}, the node's address is {address}")
        if vxlan.mtu != self.room(have):
            found.append(f"{vxlan.name} has MTU {vxlan.mtu}, not {self.room(have)}")
        wanted, there = self._tunnels(have, address)
        found += [f"node {self._named(have, one)} is not among the peers of {vxlan.name}" for one in wanted - there]
        strangers = there - wanted if self._knows_all(have, own_port) else ()
        found += [f"{vxlan.name} has a peer {one} that is no node" for one in strangers]
        return tuple(found)

    def removal(self, have: Have, own_port: str) -> tuple[Step, ...]:
        """Return the steps that take away what nobody uses once `own_port` is gone."""
        bridge, vxlan = self.bridge(have), self.vxlan(have)
        if self.ports(have) - {own_port}:
            return ()
        return tuple(Remove(link) for link in (vxlan, bridge) if link is not None)

    # -- the parts ----------------------------------------------------------------------------------------------

    def _bridge_steps(self, have: Have, address: IPAddress, room: int) -> Iterator[Step]:
        bridge = self.bridge(have)
        if bridge is None:
            attributes = (("IFLA_ADDRESS", self._mac("bridge", address)), ("IFLA_MTU", room))
            yield Create(self.bridge_name, "bridge", data=(("IFLA_BR_MCAST_SNOOPING", 0),), attributes=attributes)
        if bridge is None or bridge.alias != self._alias():  # the kernel takes none in the message that makes a link
            yield Change(self.bridge_name, attributes=(("IFLA_IFALIAS", self._alias()),))
        yield from _without_ipv6(self.bridge_name, have, is_new=bridge is None)

    def _vxlan_steps(self, have: Have, address: IPAddress, room: int) -> Iterator[Step]:
        there, vxlan = self.vxlan(have), self._kept(have, address)
        if there is not None and vxlan is None:
            yield Remove(there)
        if vxlan is None:
            data = (("IFLA_VXLAN_ID", self.vni), _local_attribute(address), ("IFLA_VXLAN_PORT", self.port),
                    ("IFLA_VXLAN_LEARNING", 1))  # fmt: skip
            attributes = (("IFLA_ADDRESS", self._mac("vxlan", address)), ("IFLA_MTU", room),
                          ("IFLA_MASTER", IndexOf(self.bridge_name)))  # fmt: skip
            yield Create(self.vxlan_name, "vxlan", data=data, attributes=attributes)
        else:
            yield from self._vxlan_changes(have, vxlan, address, room)
        yield from _without_ipv6(self.vxlan_name, have, is_new=vxlan is None)

    def _vxlan_changes(self, have: Have, vxlan: Link, address: IPAddress, room: int) -> Iterator[Step]:
        bridge = self.bridge(have)
        changed: list[tuple[str, Any]] = []
        if vxlan.mtu != room:
            changed.append(("IFLA_MTU", room))
        if bridge is None or vxlan.master != bridge.index:
            changed.append(("IFLA_MASTER", IndexOf(self.bridge_name)))
        if changed:
            yield Change(vxlan.name, attributes=tuple(changed))
        if _local(vxlan) != address:
            yield Change(vxlan.name, kind="vxlan", data=(_local_attribute(address),))

    def _entry_steps(self, have: Have, address: IPAddress, *, forget: bool) -> Iterator[Step]:
        """With a node goes also what was learned to be behind it."""
        wanted, there = self._tunnels(have, address)
        if self._kept(have, address) is None:
            there = frozenset()
        gone = there - wanted if forget else frozenset()
        entries: frozenset[Entry] = have.facts.get(Entries(self.vxlan_name)) or frozenset()
        if missing := tuple(Entry(EVERYBODY, one) for one in sorted(wanted - there, key=str)):
            yield Reach(self.vxlan_name, missing)
        if stale := sorted(
            (one for one in entries if one.address in gone), key=lambda one: (one.mac, str(one.address))
        ):
            yield Abandon(self.vxlan_name, tuple(stale))

    def _knows_all(self, have: Have, own_port: str) -> bool:
        """Whether nobody else may have other peers (rule 6)."""
        return self.stated is None or not self.ports(have) - {own_port}

    def _tunnels(self, have: Have, address: IPAddress) -> tuple[frozenset[IPAddress], frozenset[IPAddress]]:
        """Return where tunnels should lead to, and where they do."""
        standing: Standing = have.facts[Ground(self.stated)]
        entries: frozenset[Entry] = have.facts.get(Entries(self.vxlan_name)) or frozenset()
        wanted = frozenset(peer.address for peer in standing.underlay.peers) - {address}
        return wanted, frozenset(entry.address for entry in entries if entry.mac == EVERYBODY)

    def _kept(self, have: Have, address: IPAddress) -> Link | None:
        """Return the VXLAN link if it can stay: its address can be changed, its family and its port cannot."""
        vxlan = self.vxlan(have)
        if vxlan is None or _port(vxlan) != self.port:
            return None
        local = _local(vxlan)
        return vxlan if local is not None and local.version == address.version else None

    def _named(self, have: Have, address: IPAddress) -> str:
        standing: Standing = have.facts[Ground(self.stated)]
        names = [peer.name for peer in standing.underlay.peers if peer.address == address and peer.name]
        return f"{names[0]} ({address})" if names else str(address)

    # -- what is ours -------------------------------------------------------------------------------------------

    def _alias(self) -> str:
        return (_ALIAS + self.network)[:255]  # bytes; CNI names are ASCII

    def _mac(self, what: str, address: IPAddress) -> str:
        """What is one at all nodes under one name must not have one identity: the end of the MAC is the node's."""
        node = hashlib.sha256(f"{what} {address}".encode()).digest()[:2]
        return f"{self._prefix()}:{node.hex(':')}"

    def _prefix(self) -> str:
        digest = hashlib.sha256(f"hotnic overlay {self.vni}".encode()).digest()
        return bytes((2, *digest[:3])).hex(":")

    def _is_marked(self, link: Link) -> bool:
        return link.mac.startswith(self._prefix())

    def _refuse_neighbour(self, link: Link) -> None:
        if _vni(link) == self.vni:
            raise self._refusal(f"VXLAN link {link.name} on the node has it already, on the same port {self.port}")
        if links.number(link.data, _EXTERNAL):
            message = (
                f"port={self.port} is that of link {link.name}, a VXLAN link whose owner sorts the VNIs himself"
                " (Open vSwitch, Cilium …): say another `port`, the same for all nodes"
            )
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)

    def _refusal(self, why: str) -> errors.CNIError:
        return options.invalid("vni", self.vni, f"cannot be used: {why}")


def _without_ipv6(name: str, have: Have, *, is_new: bool) -> Iterator[Step]:
    if is_new or have.facts.get(_ipv6_off(name)) == "0":
        yield WriteSysctl(_ipv6_off(name), "1", optional=True)


def _ipv6_off(name: str) -> Sysctl:
    return Sysctl(f"ipv6/conf/{name}/disable_ipv6", Where.NODE)


def _local_attribute(address: IPAddress) -> tuple[str, str]:
    return ("IFLA_VXLAN_LOCAL6" if address.version == 6 else "IFLA_VXLAN_LOCAL", str(address))


def _local(link: Link) -> IPAddress | None:
    raw = links.attribute(link.data, _LOCAL) or links.attribute(link.data, _LOCAL6)
    return None if raw is None else ipaddress.ip_address(raw)


def _vni(link: Link) -> int | None:
    return links.number(link.data, _ID)


def _port(link: Link) -> int:
    return int.from_bytes(links.attribute(link.data, _PORT) or b"", "big")
