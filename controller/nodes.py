"""Pure: the cluster's Nodes, and what they say of the network between them.

Rules
1. A node's address is its first InternalIP: what the cluster's own traffic uses, and in a cluster of two families the
   primary one, which is the same for all nodes.
2. A peer is any other node with an address of this node's family, ready or not: its kernel forwards without kubelet.
3. Without this node and its address nothing is said: what was said before is truer than a guess.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """`addresses`: its InternalIPs, in its order."""

    name: str
    resource_version: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Underlay:
    """`peers`: address by name of node."""

    address: str
    peers: Mapping[str, str]


def node_from(document: Mapping[str, Any]) -> Node:
    """Read a v1 Node. Raises KeyError for what no API server sends."""
    metadata, status = document["metadata"], document.get("status") or {}
    addresses = (one.get("address") or "" for one in status.get("addresses") or () if one.get("type") == "InternalIP")
    return Node(metadata["name"], metadata["resourceVersion"], tuple(filter(_family, addresses)))


def underlay(own: str, nodes: Iterable[Node]) -> Underlay | None:
    """Return what the nodes say for the one that is called `own`; None for nothing (rule 3)."""
    by_name = {node.name: node for node in nodes}
    this = by_name.pop(own, None)
    if this is None or not this.addresses:
        return None
    address = this.addresses[0]
    alike = {
        name: next((one for one in node.addresses if _family(one) == _family(address)), "")
        for name, node in by_name.items()
    }
    return Underlay(address, {name: one for name, one in sorted(alike.items()) if one and one != address})


def _family(address: str) -> int:
    """4 or 6; 0 for what is no address."""
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return 0
