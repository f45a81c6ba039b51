"""Reads all that the audit judges. What cannot be looked at is said (`Seen.blind`), and is never taken for nothing.

Rules
1. Links are read before records: an attachment's record is there before its link is. And once more after: it goes
   after its link.
2. The journals are read as they are on disk, without their lock: each file is whole at any time.
3. Signs of life are read last, so that what was born meanwhile is seen to live.
4. Where to look, tenants' configurations say as well. So no file is read but what is called and looks like a lease.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import cache, codec, confdir, cri, files, formats, netns, network, ovsdb
from agent.audit import links, nft
from agent.audit.contract import File, Lease, NamespaceFile, Peer, Rule, Seen, Signs
from agent.audit.life import same_place
from agent.devices.ovs import DATABASE
from agent.links import Link
from agent.model import Record
from agent.netlink import Kernel
from agent.switch import LinkPort
from cni import errors

LEASES = Path("/var/lib/cni/networks")
SCRATCH = Path("/var/lib/cni/multus")
NAMESPACES = Path("/run/netns")
STANDALONE = Path("/var/lib/hotnic/standalone")  # the journal of agent.standalone
_ID = re.compile(r"[0-9a-f]{64}")  # Multus names a file so, and others of its own otherwise
_LEASE = re.compile(r"\s*(?:(?P<container>[0-9A-Za-z][0-9A-Za-z_.-]*)(?:\r?\n(?P<ifname>[^\s/]{1,15}))?)?\s*")
_LEASE_BYTES = 1024
_PORTS_S = 20.0  # for all databases of Open vSwitch together
_ENDED = (FileNotFoundError, ProcessLookupError)  # said of a process that was there
_NSFS_INODE = re.compile(r"net:\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class Node:
    """Where things are on this node."""

    view: netns.View
    runtime: cri.Runtime
    kernel: Kernel
    state_dir: Path  # this and the others are as this process sees them
    run_dir: Path
    caches: tuple[Path, ...]
    conf_dirs: tuple[Path, ...]
    blind: list[str] = field(default_factory=list)

    def look(self) -> Seen:
        """Read everything."""
        self.blind.clear()
        for folder in (self.state_dir / "records", self._place(NAMESPACES)):
            if not folder.is_dir():
                self.blind.append(f"{folder} is not there")
        there = self.links()
        alone = frozenset(record.key for record in self._records(self.standalone))
        records = self.records()
        after = {(link.index, link.name) for link in self.links()}
        there = tuple(link for link in there if (link.index, link.name) in after)
        cached, unreadable = cache.survey(self.caches)
        configs = [*(one.config for one in records), *(one.config_text for one in cached), *self._on_disk()]
        plugins = [plugin for config in configs for plugin in _plugins(config)]
        leases, ports, rules = tuple(self._leases(plugins)), tuple(self._ports(plugins)), self._rules()
        scratch, aside = tuple(_files(self._place(SCRATCH), _ID.fullmatch)), tuple(self._aside())
        tombstones = tuple(_files(self.run_dir / "tombstones", lambda name: name.endswith(".bin")))
        signs = self.signs(records, cached)
        peers = self._peers(links.unexplained(there, records), signs.namespaces)
        return Seen(
            signs, records, alone, leases, tuple((one, _age(one.path)) for one in cached), unreadable,
            links=there, peers=peers, rules=rules, ports=ports, blind=tuple(dict.fromkeys(self.blind)),
            scratch=scratch, aside=aside, tombstones=tombstones,
        )  # fmt: skip

    @property
    def standalone(self) -> Path:
        """The journal of calls that no agent serves."""
        return self._place(STANDALONE)

    def records(self) -> tuple[Record, ...]:
        """Return all attachments that a journal has."""
        return tuple(self._records(self.state_dir, self.standalone))

    def signs(self, records: Iterable[Record], cached: Iterable[cache.Cached]) -> Signs:
        """Read who lives; `records` and `cached` say which namespaces are whose, as the runtime does."""
        places = {
            (str(one.key.container_id), one.namespace.path) for one in records if self.view.still_there(one.namespace)
        }
        places |= {(one.container_id, one.netns) for one in cached if one.netns}
        processes = self._processes()
        namespaces, cgroups = tuple(self._namespaces(processes)), _cgroups(processes)
        try:
            sandboxes = self.runtime.sandboxes() if processes else None
            paths = {str(one.id): path for one in sandboxes or () if (path := self.runtime.netns(one.id))}
        except cri.RuntimeUnavailable as problem:
            self.blind.append(f"container runtime: {problem}")
            return Signs(None)
        hidden = [path for path in paths.values() if _is_ordinary(Path(self.view.place(path)))]
        if hidden:
            self.blind.append(f"{hidden[0]}: the mounts of network namespaces do not arrive here")
        noted: dict[str, set[str]] = {}
        for container, path in {*places, *paths.items()}:
            if is_namespace(Path(self.view.place(path))):
                noted.setdefault(container, set()).add(same_place(path))
        frozen = {container: frozenset(there) for container, there in noted.items()}
        return Signs(sandboxes, frozenset(map(same_place, paths.values())), namespaces, frozen, cgroups)

    # -- files --------------------------------------------------------------------------------------------------

    def _place(self, path: Path) -> Path:
        return Path(self.view.place(str(path)))

    def _records(self, *state_dirs: Path) -> Iterator[Record]:
        for state_dir in state_dirs:
            if problem := formats.refusal(state_dir):
                self.blind.append(f"journal {problem}")
            for path in files.listed(state_dir / "records"):
                try:
                    if path.suffix == ".json":
                        yield codec.decode_record(formats.present(formats.RECORDS, files.read(path)))
                except FileNotFoundError:  # its DEL came in between
                    continue
                except (OSError, ValueError, KeyError, TypeError) as problem:
                    self.blind.append(f"journal {path}: {cache.fault(problem)}")

    def _on_disk(self) -> Iterator[str]:
        for name in sorted(confdir.names(self.conf_dirs)):
            yield confdir.find(self.conf_dirs, name)

    def _aside(self) -> Iterator[File]:
        for state_dir in (self.state_dir, self.standalone):
            yield from _files(state_dir / "damaged", bool)
        yield from _files(self.run_dir / "tombstones", lambda name: name.endswith(".damaged"))

    def _leases(self, plugins: Iterable[Mapping[str, Any]]) -> Iterator[Lease]:
        roots = {LEASES, *(Path(folder) for plugin in plugins if (folder := _data_dir(plugin)))}
        for root in sorted(roots):
            for store in files.listed(self._place(root)):
                leases = (_lease(file) for file in _files(store, _is_address))
                yield from (lease for lease in leases if lease)

    # -- the kernel ---------------------------------------------------------------------------------------------

    def links(self) -> tuple[Link, ...]:
        """Return the node's links."""
        with netns.own() as own:
            return self.kernel.pod_links(own)

    def _peers(self, suspects: Iterable[Link], namespaces: Iterable[NamespaceFile]) -> Mapping[int, Peer]:
        """Return in which namespace the other ends of these links are, by their index here."""
        ends = {(one.parent, one.index) for one in suspects if one.kind == "veth"}
        found: dict[int, Peer] = {}
        for file in namespaces if ends else ():
            try:
                with self.view.opened(file.path) as fd:
                    inside = self.kernel.pod_links(fd)
            except (OSError, errors.CNIError):
                continue  # it ended meanwhile, or is none
            pairs = [one for one in inside if (one.index, one.parent) in ends]
            found |= {one.parent: Peer(file.path, one.name) for one in pairs}
        return found

    def _rules(self) -> tuple[Rule, ...]:
        try:
            return nft.rules()
        except OSError as problem:
            self.blind.append(f"nftables: {problem}")
            return ()

    def _processes(self) -> tuple[Path, ...]:
        """Return the folders of all processes of the node: in a container, /proc is its own."""
        found = tuple(path for path in files.listed(self._place(Path("/proc"))) if path.name.isdigit())
        if not found:
            self.blind.append("no process of the node can be seen")
        return found

    def _namespaces(self, processes: Iterable[Path]) -> Iterator[NamespaceFile]:
        used = _used_namespaces(processes)
        for path in files.listed(self._place(NAMESPACES)):
            try:
                status = path.stat()
            except OSError:
                continue
            inode = status.st_ino if is_namespace(path) else 0
            is_used = used is None or inode in used
            yield NamespaceFile(str(NAMESPACES / path.name), inode, time.time() - status.st_mtime, is_used)

    # -- Open vSwitch -------------------------------------------------------------------------------------------

    def _ports(self, plugins: Iterable[Mapping[str, Any]]) -> Iterator[LinkPort]:
        named = (plugin.get("socket_file") for plugin in plugins)
        sockets = {one.removeprefix("unix:") for one in named if isinstance(one, str)} | {DATABASE}
        ends = time.monotonic() + _PORTS_S
        for database in sorted(sockets, key=lambda one: (one != DATABASE, one)):
            if time.monotonic() > ends:
                self.blind.append(f"{database}: other databases have taken too long")
            elif Path(self.view.place(database)).exists():
                try:
                    yield from ovsdb.link_ports(self.view.place, database)
                except (ovsdb.Unreachable, errors.CNIError) as problem:
                    self.blind.append(str(problem))


def _plugins(config: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from network.parse(config, "any").plugins
    except errors.CNIError:
        return  # whose DEL says so


def _lease(file: File) -> Lease | None:
    """Return what the file of a store says; None: it is no lease, or it went meanwhile. Raises OSError."""
    try:
        with file.path.open(errors="replace") as opened:
            text = opened.read(_LEASE_BYTES)
    except FileNotFoundError:
        return None
    match = _LEASE.fullmatch(text)
    if match is None or len(text) == _LEASE_BYTES:
        return None
    return Lease(file.path, file.path.parent.name, text, match["container"] or "", match["ifname"] or "", file.age_s)


def _data_dir(plugin: Mapping[str, Any]) -> str:
    ipam = plugin.get("ipam")
    folder = ipam.get("dataDir") if isinstance(ipam, Mapping) and ipam.get("type") == "host-local" else None
    return folder if isinstance(folder, str) and folder.startswith("/") and ".." not in Path(folder).parts else ""


def _files(folder: Path, is_its: Callable[[str], object]) -> Iterator[File]:
    """Yield the files whose name is one."""
    for path in files.listed(folder):
        try:
            if is_its(path.name) and path.is_file():
                yield File(path, time.time() - path.stat().st_mtime)
        except OSError:  # it went meanwhile
            continue


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_ordinary(path: Path) -> bool:
    return path.is_file() and not is_namespace(path)


def is_namespace(path: Path) -> bool:
    """Whether a namespace, of whatever kind, is there. Raises OSError where that cannot be told."""
    try:
        return path.stat().st_dev == os.stat(netns.OWN).st_dev
    except (FileNotFoundError, NotADirectoryError):
        return False


def _used_namespaces(processes: Iterable[Path]) -> frozenset[int] | None:
    """Return the inodes of the namespaces that processes are in; None where not all may be asked. Raises OSError."""
    found = set()
    for process in processes:
        try:
            match = _NSFS_INODE.fullmatch(os.readlink(process / "ns/net"))
        except PermissionError:
            return None
        except _ENDED:
            continue
        found |= {int(match[1])} if match else set()
    return frozenset(found)


def _cgroups(processes: Iterable[Path]) -> frozenset[str]:
    """Return those of all processes. Raises OSError: whoever runs in one that was not read would be called dead."""
    found: set[str] = set()
    for process in processes:
        try:
            found |= {line.split(":", 2)[-1] for line in (process / "cgroup").read_text().splitlines()}
        except _ENDED:
            continue
    return frozenset(found)
