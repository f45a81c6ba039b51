"""Pure: what a port of an Open vSwitch bridge is, and the steps that change it (as agent.links has it for links)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """Known as a Port; with `bridge` unknown to the database, as None."""

    database: str
    bridge: str
    name: str


@dataclass(frozen=True, slots=True)
class Port:
    """A port as the database has it. `there`: whether it has one of that name at all, on whichever bridge."""

    there: bool = False
    bridge: str = ""
    owner: str = ""
    mode: str = ""
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    number: int | None = None  # OpenFlow's; negative: the switch could not take it; None: not yet
    error: str = ""
    has_bridge: bool = True  # whether the bridge that was asked for exists


@dataclass(frozen=True, slots=True)
class AddPort:
    """Make a link a port of a bridge, or set one that is; returns when the switch has taken it."""

    database: str
    bridge: str
    name: str
    owner: str
    mode: str
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    kind: str = ""  # `interface_type`
    number: int | None = None  # `ofport_request`
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemovePort:
    """Remove a port of ours from whichever bridge has it; one that is gone, or a database that is, is fine."""

    database: str
    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class LinkPort:
    """Anybody's port whose one interface is to be a link of the node. `there`: whether there is such a link."""

    database: str
    bridge: str
    name: str
    external_ids: Mapping[str, str]
    there: bool
