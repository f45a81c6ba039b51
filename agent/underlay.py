"""Pure: the network below overlays: this node's address in it, the other nodes', and the tunnels between them.

The controller tells it from the cluster's Nodes (SetUnderlay in agent/api/agent.proto), or a network's configuration
states it. agent.devices.overlay says what is to be done with it, agent.fdb does it.

Rules
1. One address for each node, all of one family: a VXLAN link has one.
2. A tunnel is an entry of the VXLAN link's forwarding table for the MAC of zeroes: what is for everybody, or for nobody
   known, is sent to each of these (head-end replication). The kernel learns the other MACs from what arrives.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.links import Link

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

EVERYBODY = "00:00:00:00:00:00"  # rule 2


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node."""

    name: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Underlay:
    """What was told or stated. `addresses`: of them the first that a link of this node has is this node's."""

    addresses: tuple[IPAddress, ...]
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One of a VXLAN link's forwarding table: frames for `mac` go to the node `address`."""

    mac: str
    address: IPAddress


# -- what an overlay wants to know, besides what is in agent.links -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ground:
    """Where this node stands: known as a Standing, or not at all where nothing is stated and nobody has told."""

    stated: Underlay | None = None  # None: as the controller has told


@dataclass(frozen=True, slots=True)
class Standing:
    """`link`: the node's link that has `address`; None where none has any of the underlay's addresses.

    `overruled`: this is what is stated, though a controller has told. Tenants may write configurations, and shall not
    have the node send packets to whom they like.
    """

    underlay: Underlay
    address: IPAddress | None = None
    link: Link | None = None
    overruled: bool = False


@dataclass(frozen=True, slots=True)
class Entries:
    """The forwarding table of the VXLAN link of that name, as a frozenset of Entry; empty where there is no link."""

    name: str


# -- steps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reach:
    """Add entries to the table of the VXLAN link `name`; what is there already is fine."""

    name: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Abandon:
    """Remove entries from the table of the VXLAN link `name`; what is gone already is fine."""

    name: str
    entries: tuple[Entry, ...]


# -- as a document -------------------------------------------------------------------------------------------------


def address(text: Any, what: str) -> IPAddress:
    """Read one node's address. Raises ValueError, naming it, for what a tunnel cannot begin or end at."""
    try:
        found = ipaddress.ip_address(str(text))
    except ValueError:
        found = ipaddress.IPv4Address(0)
    if found.is_unspecified or found.is_multicast or found.is_loopback or found.is_link_local or "%" in str(found):
        raise ValueError(f"{what}={text!r} must be a node's unicast address")
    return found


def told(own: str, peers: Mapping[str, str]) -> Underlay:
    """Return what a controller told: this node's address, and other nodes' by name. Raises ValueError (rule 1)."""
    base = address(own, "address")
    found = tuple(Peer(name, address(text, f"peer {name}")) for name, text in sorted(peers.items()))
    if strangers := [peer.name for peer in found if peer.address.version != base.version]:
        raise ValueError(f"address={own} is IPv{base.version}, those of {', '.join(strangers)} are not")
    return Underlay((base,), found)


def encode(told: Underlay) -> Mapping[str, Any]:
    """Return what `decode` reads."""
    return {"address": str(told.addresses[0]), "peers": {peer.name: str(peer.address) for peer in told.peers}}


def decode(document: Any) -> Underlay:
    """Raises ValueError, KeyError, TypeError or AttributeError for what `encode` never wrote."""
    return told(document["address"], document["peers"])
