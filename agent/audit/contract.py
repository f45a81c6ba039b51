"""Pure: the vocabulary of the audit: what is seen of a node, what is found, and what would mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.cache import Cached
from agent.cri import Sandbox
from agent.links import Link
from agent.model import Key, Record
from agent.switch import LinkPort

Attached = tuple[str, str, str]  # network, container, interface

# -- what is seen ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamespaceFile:
    """A file where runtimes keep network namespaces. `inode` 0: it is none, but an ordinary file."""

    path: str
    inode: int
    age_s: float
    used: bool  # by a process


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs of life. `sandboxes` None: the runtime does not answer."""

    sandboxes: tuple[Sandbox, ...] | None
    claimed: frozenset[str] = frozenset()  # paths of the listed sandboxes' namespaces, stopped ones' as well
    namespaces: tuple[NamespaceFile, ...] = ()
    noted: Mapping[str, frozenset[str]] = field(default_factory=dict)  # namespaces that are there, by container
    cgroups: frozenset[str] = frozenset()  # of all processes


@dataclass(frozen=True, slots=True)
class Lease:
    """A file of host-local. `container` "": it names nobody."""

    path: Path
    network: str
    text: str
    container: str
    ifname: str
    age_s: float


@dataclass(frozen=True, slots=True)
class File:
    """A file whose name says whose it is, or what it is."""

    path: Path
    age_s: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of nftables, or a chain of it where `handle` is 0; `text` is all that can be read in it."""

    family: int  # NFPROTO_*
    table: str
    chain: str
    handle: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a link of the node."""

    netns: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was looked at. `blind`: what could not be, and why."""

    signs: Signs
    records: tuple[Record, ...] = ()
    alone: frozenset[Key] = frozenset()  # those of them that no agent serves
    leases: tuple[Lease, ...] = ()
    cached: tuple[tuple[Cached, float], ...] = ()  # with its age in seconds
    unreadable: Mapping[Path, str] = field(default_factory=dict)
    scratch: tuple[File, ...] = ()  # of Multus
    aside: tuple[File, ...] = ()  # set aside by the agent, for people
    tombstones: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    peers: Mapping[int, Peer] = field(default_factory=dict)  # by the index on the node
    rules: tuple[Rule, ...] = ()
    ports: tuple[LinkPort, ...] = ()
    blind: tuple[str, ...] = ()
    remembered: frozenset[Attached] = frozenset()  # from earlier looks: its repair may have begun since

    def on_disk(self) -> frozenset[Attached]:
        """Return what leases and result caches tell of, now or at an earlier look."""
        leases = {(one.network, one.container, one.ifname) for one in self.leases if one.container}
        caches = {(one.network, one.container_id, one.ifname) for one, _ in self.cached}
        return self.remembered | leases | caches


# -- what would mend it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delete:
    """A DEL with what the runtime has kept of the ADD."""

    cached: Cached

    def __str__(self) -> str:
        return "DEL with the configuration in it, then remove it"


@dataclass(frozen=True, slots=True)
class Forget:
    """A DEL as a runtime would have called it, of what the journal has: who serves it is the journal's owner."""

    record: Record
    alone: bool  # that is nobody, but the call itself

    def __str__(self) -> str:
        return "DEL, as the runtime should have called it"


@dataclass(frozen=True, slots=True)
class Release:
    lease: Lease

    def __str__(self) -> str:
        return "remove it, under the lock of the store"


@dataclass(frozen=True, slots=True)
class RemoveFile:
    path: Path

    def __str__(self) -> str:
        return "remove it"


@dataclass(frozen=True, slots=True)
class RemoveLink:
    link: Link

    def __str__(self) -> str:
        return "delete the link"


@dataclass(frozen=True, slots=True)
class RemoveRules:
    """`targets`: chains that the rules lead to and that may be empty of sense without them."""

    rules: tuple[Rule, ...]
    targets: tuple[Rule, ...] = ()

    def __str__(self) -> str:
        return "delete the rules, and the chains that are only theirs, in one transaction"


@dataclass(frozen=True, slots=True)
class RemovePort:
    port: LinkPort

    def __str__(self) -> str:
        return f"take the port off bridge {self.port.bridge}"


@dataclass(frozen=True, slots=True)
class RemoveNamespace:
    file: NamespaceFile

    def __str__(self) -> str:
        return "unmount and remove it" if self.file.inode else "remove it"


Repair = Delete | Forget | Release | RemoveFile | RemoveLink | RemoveRules | RemovePort | RemoveNamespace

# -- what is found --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whose:
    """As far as it is known."""

    container: str = ""
    ifname: str = ""
    network: str = ""
    pod: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """`repair` None: it is only told, and `otherwise` says who or what mends it."""

    what: str
    where: str
    whose: Whose
    evidence: str
    repair: Repair | None = None
    otherwise: str = ""
