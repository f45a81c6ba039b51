"""Pure: what connects an interface of the pod with the NIC of a guest: a bridge in the pod, and a tap on it.

    net1 (as CNI has made it) ── vmb-net1 (bridge) ── vmt-net1 (tap) ══ the guest's NIC

Rules
1. The guest has the identity that CNI gave the interface: its MAC, and the addresses that IPAM chose. The interface
   itself gets a MAC that nobody uses, and has no address: it is a port.
2. Bridge and tap are known by name, derived from the interface's, and proven ours by their derived MACs.
3. The pod itself must not talk in the guest's network: IPv6, which would by itself, is switched off on all three.
4. An interface whose master delivers nothing but its own MAC's frames (macvlan, ipvlan) cannot be a guest's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from agent import options
from agent.devices.contract import Device
from agent.links import (
    Addresses,
    Change,
    Create,
    CreateTap,
    Have,
    IndexOf,
    Interface,
    Link,
    NamedLink,
    Read,
    Remove,
    RemoveAddress,
    Step,
    Sysctl,
    Where,
    WriteSysctl,
)
from agent.model import Key, Refused
from cni import errors

UNSUITABLE = {"macvlan": "a macvlan", "macvtap": "a macvtap", "ipvlan": "an ipvlan", "ipvtap": "an ipvtap"}
_IFF_LOWER_UP = 0x10000  # of a tap: a program has it open
_NAME = 15  # bytes
_POD = Where.IN_POD


def name(prefix: str, ifname: str) -> str:
    """Return the name of a link that goes with the interface of that name."""
    readable = f"{prefix}-{ifname}"
    if len(readable.encode()) <= _NAME:
        return readable
    return f"{prefix}-{hashlib.sha256(ifname.encode()).hexdigest()[:11]}"


def refuse_unsuitable(link: Link) -> None:
    """Raise Refused for an interface that cannot carry a guest's frames (rule 4)."""
    if link.kind in UNSUITABLE:
        raise Refused(
            "UnsuitableForVM",
            f"interface {link.name} is {UNSUITABLE[link.kind]}, which cannot carry a guest's frames: use a network of"
            " device bridge, veth, ovs or overlay",
        )


class Wiring(Device):
    """Bridge and tap of one attachment. `mac`: the guest's; `owner`: (uid, gid) of who opens the tap by its name."""

    def __init__(self, key: Key, mac: str, mtu: int, owner: tuple[int, int] | None = None) -> None:
        self.bridge, self.tap = name("vmb", key.ifname), name("vmt", key.ifname)
        self.interface = Interface(self.tap, mtu=mtu)
        self._ifname, self._mac, self._mtu, self._owner = key.ifname, mac, mtu, owner
        self._bridge_mac, self._tap_mac, self._port_mac = (
            options.derived_mac(key, f"guest-{end}") for end in ("bridge", "tap", "port")
        )

    def reads(self) -> tuple[Read, ...]:
        names = (self._ifname, self.bridge, self.tap)
        return (
            NamedLink(self._ifname, _POD),
            NamedLink(self.bridge, _POD),
            Addresses(self._ifname, _POD),
            *(_ipv6_switch(one) for one in names),
        )

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        """Raises CNIError 11 where the interface itself is not there, 7 where a name is another's."""
        link = have.link(self._ifname, _POD)
        if link is None:
            raise errors.CNIError(errors.Code.TRY_AGAIN, f"interface {self._ifname} is gone")
        bridge = self._ours(have.link(self.bridge, _POD), "bridge", self._bridge_mac)
        tap = self._ours(have.pod, "tun", self._tap_mac)
        return (
            *(() if bridge else (self._create_bridge(),)),
            *self._switching_ipv6_off(have),
            *(RemoveAddress(self._ifname, one) for one in sorted(have.facts[Addresses(self._ifname, _POD)], key=str)),
            *(() if self._is_port(link, bridge) else (self._enslave(self._ifname, self._port_mac),)),
            *(() if tap else (self._create_tap(want),)),
            *(() if tap and bridge and tap.master == bridge.index else (self._enslave(self.tap),)),
        )

    def removal(self, have: Have) -> tuple[Step, ...]:
        bridge, tap = have.link(self.bridge, _POD), have.pod
        link = have.link(self._ifname, _POD)
        steps: list[Step] = []
        if tap is not None and _is(tap, "tun", self._tap_mac):
            steps.append(Remove(tap, _POD))
        if link is not None and link.mac == self._port_mac:
            steps.append(Change(self._ifname, _POD, (("IFLA_MASTER", 0), ("IFLA_ADDRESS", self._mac))))
        if bridge is not None and _is(bridge, "bridge", self._bridge_mac):
            steps.append(Remove(bridge, _POD))
        return tuple(steps)

    def has_tap(self, have: Have) -> bool:
        """Whether the tap is there, and ours."""
        return have.pod is not None and _is(have.pod, "tun", self._tap_mac)

    def _is_port(self, link: Link, bridge: Link | None) -> bool:
        return bridge is not None and link.up and link.mac == self._port_mac and link.master == bridge.index

    def _create_bridge(self) -> Create:
        attributes = (("IFLA_ADDRESS", self._bridge_mac), ("IFLA_MTU", self._mtu))
        # without a querier in the network, snooping would keep multicast from the guest
        return Create(self.bridge, "bridge", _POD, (("IFLA_BR_MCAST_SNOOPING", 0),), attributes, up=True)

    def _create_tap(self, want: Interface) -> CreateTap:
        owner, group = self._owner or (None, None)
        attributes = (("IFLA_ADDRESS", self._tap_mac), *options.mtu_attribute(want.mtu))
        return CreateTap(self.tap, attributes, owner=owner, group=group)

    def _enslave(self, ifname: str, mac: str = "") -> Change:
        address = (("IFLA_ADDRESS", mac),) if mac else ()
        return Change(ifname, _POD, (*address, ("IFLA_MASTER", IndexOf(self.bridge, _POD))), up=True)

    def _switching_ipv6_off(self, have: Have) -> Iterator[Step]:
        for ifname in (self._ifname, self.bridge, self.tap):
            if have.facts.get(_ipv6_switch(ifname)) == "0":  # absent where the kernel has no IPv6
                yield WriteSysctl(_ipv6_switch(ifname), "1", optional=True)

    def _ours(self, link: Link | None, kind: str, mac: str) -> Link | None:
        if link is not None and not _is(link, kind, mac):
            message = f"link {link.name!r} in the pod is not ours, and its name is needed for the virtual machine"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        return link


class Raised(Device):
    """A tap that is there already and shall be up."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface

    def reads(self) -> tuple[Read, ...]:
        return ()

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:  # noqa: ARG002 the interface itself is seen to
        return ()

    def removal(self, have: Have) -> tuple[Step, ...]:  # noqa: ARG002 it stays
        return ()


def is_open(have: Have) -> bool:
    """Whether a program has the tap open: the machine that the NIC is, or was, in. One that is down never shows it."""
    return have.pod is not None and bool(have.flags & _IFF_LOWER_UP)


def _is(link: Link, kind: str, mac: str) -> bool:
    return link.kind == kind and link.mac == mac


def _ipv6_switch(ifname: str) -> Sysctl:
    return Sysctl(f"ipv6/conf/{ifname}/disable_ipv6")
