"""Pure: what the agent says about the kernel's links, and the steps that change them.

A device (agent.devices) names what it wants to know (`Read`) and gets it in a `Have`; it answers with steps. Nothing
here or there does anything: agent.apply performs the steps, agent.netlink reads.

Rules
1. A step names links, never their indexes: those are looked up when the step is performed, since the step before
   it may have made the link.
2. Attributes are those of <linux/if_link.h>, by name, as (name, value). A value that is a tuple of such pairs is a
   nested attribute; `IndexOf`, `POD` and `RANDOM_MAC` stand for what is known only when the step is performed.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cni import result

_ATTRIBUTE = struct.Struct("=HH")  # length, number

Address = result.InterfaceAddress
Attributes = tuple[tuple[str, Any], ...]
Refusals = tuple[tuple[int, str], ...]  # (errno, what it means here): the configuration is wrong, or conflicts (code 7)


class Where(enum.Enum):
    """In whose namespace."""

    NODE = "node"
    IN_POD = "pod"


class _Late(enum.Enum):
    NAMESPACE = "a descriptor of the pod's namespace"
    MAC = "a random MAC"


# as an attribute's value
POD = _Late.NAMESPACE
RANDOM_MAC = _Late.MAC  # locally administered: what many nodes make under one name must not have one identity


@dataclass(frozen=True, slots=True)
class IndexOf:
    """As an attribute's value: the index that the link of this name has."""

    name: str
    where: Where = Where.NODE


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel describes it. `mtu` in bytes."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    master: int = 0
    parent: int = 0  # the link that this one is made on, or its peer; in another namespace, maybe
    alias: str = ""
    group: int = 0
    promiscuous: bool = False  # as set by somebody; a capture that runs does not count
    data: bytes = b""  # IFLA_INFO_DATA, undecoded: what only links of its kind have
    port: bytes = b""  # IFLA_INFO_SLAVE_DATA: what the link is as a port of its master
    bus: str = ""  # of the device behind the link, if there is one, as /sys has it
    device: str = ""
    carrier: bool = False  # of a tap: a program has it open


# -- what a device wants to know ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedLink:
    """Known as a Link, or not at all."""

    name: str
    where: Where = Where.NODE


@dataclass(frozen=True, slots=True)
class LinksOfKind:
    """The node's links of a kind, known as a frozenset[Link]."""

    kind: str


@dataclass(frozen=True, slots=True)
class BridgePorts:
    """The names of the ports of the node's bridge of that name, known as a frozenset[str]."""

    bridge: str


@dataclass(frozen=True, slots=True)
class DefaultLink:
    """The link of the default route (the one with the lowest metric, IPv4 first), known as a Link."""

    where: Where = Where.NODE


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of the link of that name, known as a frozenset[Address]; empty where it is not there."""

    name: str
    where: Where = Where.NODE


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes through the link of that name, known as a frozenset[Route]; empty where it is not there."""

    name: str
    where: Where = Where.NODE


@dataclass(frozen=True, slots=True)
class TapDriver:
    """Whether taps can be made at all, known as what is in the way; "": nothing."""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting below /proc/sys/net, known as its text."""

    path: str  # as `ipv4/conf/net1/arp_filter`
    where: Where = Where.IN_POD


Read = Any  # NamedLink, Sysctl, or what an adapter of agent.apply reads besides


@dataclass(frozen=True, slots=True)
class Rate:
    """A bandwidth in one direction: bits a second, and the bits that may come at once."""

    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What the interface may carry towards the pod (ingress) and from it (egress); None: as much as there is.

    `companion`, with that MAC: the name of the link that the shaping takes besides, for what comes out of the shaped
    link (agent.shaping). `said` False: nobody asks for anything now, but an update of the wish may have.
    """

    companion: str
    companion_mac: str
    ingress: Rate | None = None
    egress: Rate | None = None
    said: bool = True


@dataclass(frozen=True, slots=True)
class Interface:
    """The interface in the pod as it shall be, of whatever kind. What is None or empty is left as it is."""

    ifname: str
    mac: str = ""
    mtu: int | None = None
    up: bool = True
    sysctls: tuple[tuple[str, str], ...] = ()  # (path of Sysctl, value)
    promiscuous: bool | None = None
    all_multicast: bool | None = None
    transmit_queue: int | None = None  # packets
    bandwidth: Bandwidth | None = None
    addresses: tuple[Address, ...] = ()
    gateways: tuple[result.Address | None, ...] = ()  # of the addresses, in their order
    prefix_routes: bool = True  # the kernel adds a route to each address's network
    detect_duplicates: bool = False  # of IPv6 addresses, which takes a second or two
    routes: tuple[result.Route, ...] = ()
    leaving: tuple[Address, ...] = ()  # of an earlier wish: removed where they are not wanted any more


@dataclass(frozen=True, slots=True)
class Have:
    """What the kernel has."""

    pod: Link | None = None  # the interface in the pod
    flags: int = 0  # of that interface (IFF_*)
    transmit_queue: int = 0
    addresses: frozenset[Address] = field(default_factory=frozenset)
    routes: frozenset[result.Route] = field(default_factory=frozenset)
    facts: Mapping[Read, Any] = field(default_factory=dict)

    def link(self, name: str, where: Where = Where.NODE) -> Link | None:
        """Return the link of that name, if the device asked for it and it exists."""
        found: Link | None = self.facts.get(NamedLink(name, where))
        return found


# -- steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Create:
    """Make a link. `shared`: one that is there by now is as good, another attachment was faster."""

    name: str
    kind: str
    where: Where = Where.NODE
    data: Attributes = ()
    attributes: Attributes = ()
    up: bool = False
    shared: bool = False
    refusals: Refusals = ()


@dataclass(frozen=True, slots=True)
class CreateTap:
    """Make a tap in the pod, whole or not at all. `owner`, `group`: who may open it; both must match where both are."""

    name: str
    attributes: Attributes = ()
    multi_queue: bool = False
    owner: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Change a link: attributes, what links of its `kind` have (data), what it is as a port of a bridge, up or down."""

    name: str
    where: Where = Where.NODE
    attributes: Attributes = ()
    kind: str = ""
    data: Attributes = ()
    port: Attributes = ()
    up: bool | None = None
    flags: tuple[int, int] = (0, 0)  # (IFF_* values, which of them to change)


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a link by the index that it was seen with; one that is gone already is fine."""

    link: Link
    where: Where = Where.NODE


@dataclass(frozen=True, slots=True)
class AddAddress:
    """`prefix_route`: with a route to the address's network. `shared`: one that is there by now is as good.

    `detect_duplicates`: the kernel asks first whether an IPv6 address is in use; it is tentative for that time.
    """

    ifname: str
    address: Address
    where: Where = Where.IN_POD
    prefix_route: bool = True
    shared: bool = False
    detect_duplicates: bool = False


@dataclass(frozen=True, slots=True)
class AwaitAddresses:
    """Wait until none of the pod's interface is tentative any more."""

    ifname: str


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """One that is gone already is fine."""

    ifname: str
    address: Address
    where: Where = Where.IN_POD


@dataclass(frozen=True, slots=True)
class AddRoute:
    ifname: str
    route: result.Route
    where: Where = Where.IN_POD
    refusals: Refusals = ()


@dataclass(frozen=True, slots=True)
class WriteSysctl:
    """`optional`: a kernel without that setting is fine."""

    sysctl: Sysctl
    value: str
    optional: bool = False


Step = Any  # one of the above, or what an adapter of agent.apply performs besides


def down(steps: Collection[Step]) -> tuple[str, ...]:
    """Return which links that these steps set up are down, or not there; of one that they replace, nothing."""
    names = [one.name for one in steps if isinstance(one, Change) and (one.up or one.flags[0] & one.flags[1] & 1)]
    made = {one.name for one in steps if isinstance(one, Create | CreateTap)}
    replaced = {one.link.name for one in steps if isinstance(one, Remove)}
    return tuple(f"link {name} is {'missing' if name in made else 'down'}" for name in names if name not in replaced)


def replaces(steps: Collection[Step], ifname: str) -> bool:
    """Whether these steps take the pod's link of that name away, or make another."""
    made = any(isinstance(one, Create | CreateTap) and one.name == ifname for one in steps)
    return made or any(isinstance(one, Remove) and one.link.name == ifname for one in steps)


def told(step: Step) -> str:
    """Return what was not as it should be, where it takes this step."""
    if found := down((step,)):
        return found[0]
    match step:
        case Create(name=name):
            return f"link {name} is missing"
        case Change(name=name):
            return f"link {name} is not as it was made"
        case AddAddress(ifname, address):
            return f"{ifname} has no address {address}"
        case AddRoute(ifname, route):
            return f"there is no route to {route.dst} through {ifname}"
        case WriteSysctl(sysctl, value):
            return f"sysctl net/{sysctl.path} is not {value!r}"
    return f"{getattr(step, 'name', 'the interface')} is not as it was made"


# -- reading undecoded attributes ----------------------------------------------------------------------------------


def attributes(raw: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Return (number, value) of netlink attributes, without the flags for nesting and byte order."""
    found, end, unpack = [], len(raw) - 4, _ATTRIBUTE.unpack_from  # a link has some forty of them, at every look
    while offset <= end:
        length, kind = unpack(raw, offset)
        found.append((kind & 0x3FFF, raw[offset + 4 : offset + length]))
        offset += (length + 3) & ~3 or 4
    return found


def attribute(raw: bytes, number: int) -> bytes | None:
    """Return the value of one attribute; None where it is absent."""
    return next((value for kind, value in attributes(raw) if kind == number), None)


def number(raw: bytes, kind: int) -> int | None:
    """Return the value of one attribute in the machine's byte order; None where it is absent."""
    value = attribute(raw, kind)
    return None if value is None else int.from_bytes(value, sys.byteorder)


def everywhere(version: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the destination of a default route."""
    return ipaddress.ip_network("::/0" if version == 6 else "0.0.0.0/0")
