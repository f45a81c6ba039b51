"""What was seen on a node, in the API and on disk: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface, as `ip -json -d addr` tells of it. `peer`: the index of its other end, if it has one."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: str = ""
    peer: int = 0
    peer_namespace: int | None = None  # its number in the namespace of this link; None: the same namespace
    addresses: frozenset[str] = frozenset()

    @classmethod
    def of(cls, told: Document) -> "Link":
        """Decode one element of the answer."""
        found = told.get("addr_info", ())
        return cls(
            told["ifindex"], told["ifname"], told.get("linkinfo", {}).get("info_kind", ""), told.get("address", ""),
            told.get("mtu", 0), told.get("master", ""), told.get("link_index", 0), told.get("link_netnsid"),
            frozenset(f"{one['local']}/{one['prefixlen']}" for one in found if one.get("scope") != "link"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that has a name on the node."""

    links: tuple[Link, ...]
    qdiscs: tuple[Document, ...]

    def link(self, name: str) -> Link | None:
        return next((one for one in self.links if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's sandbox that containerd has a bundle of. `netns`: the name of its namespace, "" for the node's own."""

    id: str
    uid: str
    netns: str
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """What host-local keeps of an address."""

    network: str
    address: str
    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Process:
    """One that bears a mark of CNI: its environment (the names that matter), its command line, its parent's."""

    pid: int
    state: str
    command: str
    parent: str
    cni: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """All that was seen on a node at about one moment."""

    links: tuple[Link, ...]
    namespaces: Mapping[str, Namespace]  # those below /run/netns, by name
    numbers: Mapping[int, str]  # the node's numbers of them
    qdiscs: tuple[Document, ...]
    redirections: frozenset[str]  # the links that some filter of the node sends to
    rules: tuple[Document, ...]  # of nft
    tunnels: frozenset[tuple[str, str]]  # VXLAN link, the other end's address
    with_ipv6: frozenset[str]  # links on which IPv6 is not switched off
    sandboxes: tuple[Sandbox, ...]
    containers: frozenset[str]  # all IDs that containerd has a bundle of
    leases: tuple[Lease, ...]
    caches: tuple[tuple[str, str, str], ...]  # file, container ID, interface
    records: tuple[Document, ...]
    desired: tuple[Document, ...]
    oddities: tuple[str, ...]  # files in the journal or of the CNI server that are none of these
    processes: tuple[Process, ...]
    plugins: frozenset[str]

    def living(self) -> dict[str, Sandbox]:
        """Return the sandboxes that live, by ID."""
        return {one.id: one for one in self.sandboxes if one.is_alive}

    def pod_link(self, container_id: str, ifname: str) -> Link | None:
        """Return the interface of that name in the sandbox, if that lives."""
        sandbox = self.living().get(container_id)
        namespace = self.namespaces.get(sandbox.netns) if sandbox else None
        return namespace.link(ifname) if namespace else None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the API says of a node's pods, and of the networks that these may name."""

    pods: tuple[Document, ...]
    networks: Mapping[str, str]  # "namespace/name" of each definition, and its configuration's text
    nodes: frozenset[str]  # their addresses
