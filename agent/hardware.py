"""Pure: links of the node that are lent to a pod and given back, and what is known of the devices behind them.

What agent.devices may ask of them, and the steps that change them (as agent.links has it for all links).

Rules
1. A link that is taken bears a mark from before the first change of it until all is as it was: its alias. The pod can
   read it, take it off, and give it to a link of its own: it is a hint, and no proof of anything.
2. A link of a pod is the one that was taken where the kernel proves it by what no pod can make: the device behind it
   (with its permanent MAC), or that its other end, or the link it is made on, is the same as on the node, outside the
   pod. Indexes are no proof: who deletes a link, or moves it on, may make another one under its index. What leads
   nowhere is as good as any other of its kind. Whatever is not proven stays in the pod.
3. Of a link that the journal knows nothing about, only hardware comes back by its mark: it would come to the node by
   itself when the pod ends, under any name that the pod chose.
4. Indexes are good for one step only: a link may get another one whenever it moves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.links import Address, Link, Where

USERSPACE_DRIVERS = frozenset({"vfio-pci", "uio_pci_generic", "igb_uio"})  # as the reference has it: no link there


@dataclass(frozen=True, slots=True)
class State:
    """How a link was before it was taken. None: not known, and left as it is."""

    name: str
    mac: str | None = None
    mtu: int | None = None
    queue: int | None = None  # packets
    flags: int | None = None  # IFF_UP, IFF_PROMISC, IFF_ALLMULTI
    alias: str = ""
    bus: str = ""
    device: str = ""  # the one behind the link, as its bus calls it
    permanent: str = ""  # MAC
    kind: str = ""
    parent: int = 0  # index of its other end, or of the link that it is made on
    parent_netns: int = -1  # the namespace that `parent` is in, as the node calls it; -1: the node's own

    def note(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the node has set up on a link: messages that set it up again, in hexadecimal (agent.returning)."""

    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()

    def note(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class VirtualFunction:
    """What a card has set for one of its functions; as a wish: None is not said. Rates in Mbit/s."""

    mac: str | None = None
    vlan: int | None = None
    qos: int | None = None
    proto: int | None = None  # EtherType
    min_rate: int | None = None
    max_rate: int | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    link_state: int | None = None  # IFLA_VF_LINK_STATE_*

    def note(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def changes(self, have: VirtualFunction) -> VirtualFunction:
        """Return what of this wish `have` is not; what belongs together comes together."""
        differs = {name for name, value in self.note().items() if value is not None and value != getattr(have, name)}
        differs = _together(differs)
        whole = {name: getattr(have, name) if value is None else value for name, value in self.note().items()}
        return VirtualFunction(**{name: whole[name] for name in differs})

    def of(self, wish: VirtualFunction) -> VirtualFunction:
        """Return what is here of all that the wish speaks of: what has to be set again when it ends."""
        spoken_of = _together({name for name, value in wish.note().items() if value is not None})
        return VirtualFunction(**{name: getattr(self, name) for name in spoken_of})


def _together(names: set[str]) -> set[str]:
    """Return the names with those that the kernel takes only together with them."""
    groups = ({"vlan", "qos", "proto"}, {"min_rate", "max_rate"})
    return names.union(*(group for group in groups if group & names))


@dataclass(frozen=True, slots=True)
class Function:
    """A virtual function: its card's link on the node, and its number there."""

    card: str
    number: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device as /sys has it. `links` are (bus, device) as the links of it have them."""

    links: tuple[tuple[str, str], ...]
    driver: str = ""
    card: tuple[tuple[str, str], ...] = ()  # of which it is a function; as `links`
    number: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A link of the node that was chosen, and who uses it there."""

    link: Link
    state: State
    users: tuple[str, ...] = ()  # links on top of it, and ports
    addresses: frozenset[Address] = frozenset()
    default_route: bool = False
    setup: Setup = Setup()
    function: Function | None = None
    settings: VirtualFunction | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What was found for a choice: the device behind it, links on the node."""

    hardware: Hardware | None = None
    candidates: tuple[Candidate, ...] = ()


# -- reads -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """Known as a Selection. `key`: the option that says how the link is chosen."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A link that was taken, known as (Link, Where) or None. `was`: None where nothing is known of it (rule 3)."""

    mark: str
    was: State | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """The device behind a link, known as Hardware; None where it is not there (any more)."""

    bus: str
    device: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Known as the VirtualFunction that the card has there; None where there is none."""

    function: Function


# -- steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """Give a link of the node the alias by which it is found again."""

    link: Link
    alias: str


@dataclass(frozen=True, slots=True)
class Lend:
    """Move a link of the node into the pod, and give it its name there; one that is there already is renamed."""

    link: Link
    where: Where
    name: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Move a link to the node, if it is not there, and make it what it was, if it is `taken`; its mark goes last.

    Where another link has its name by now it gets the first free one of `names`.
    """

    link: Link
    where: Where
    was: State
    taken: Taken
    setup: Setup = Setup()


@dataclass(frozen=True, slots=True)
class SetFunction:
    """Let the card set this of its function; what is None stays."""

    function: Function
    settings: VirtualFunction


def names(name: str) -> tuple[str, ...]:
    """Return what a link of that name may be called when it returns, the best first: names of at most 15 bytes."""
    stem = name.encode()[:12].decode(errors="ignore")
    return (name, *(f"{stem}-{number}" for number in range(2, 100)))


def remembered_setup(saved: Mapping[str, Any]) -> Setup:
    """Return what a device's memory says of what the node had set up on the link."""
    setup = saved.get("setup") or {}
    return Setup(tuple(setup.get("addresses") or ()), tuple(setup.get("routes") or ()))


def remembered(saved: Mapping[str, Any]) -> tuple[State | None, Function | None, VirtualFunction]:
    """Return what a device's memory says: how the link was, whose function it is, how that was set."""
    was, function = saved.get("was"), saved.get("function")
    return (
        State(**was) if was else None,
        Function(**function) if function else None,
        VirtualFunction(**(saved.get("settings") or {})),
    )
