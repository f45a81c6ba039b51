"""Garbage collection on our own account: a network's plugins are told which attachments are valid, and remove what they
still hold for others (SPEC 1.1.0 §2 GC). It is for what no DEL can reach: its journal, cache or sandbox is lost.

A list that lacks one attachment takes a living pod's address away.

Rules
1. Valid is all that may live: what the journal has, whatever became of it, and what the runtimes' result caches have,
   but for sandboxes that the runtime does not list and whose network namespace is gone.
2. Without the runtime's word, or with a cache that cannot be read whole, there is no list and no GC.
3. Nor where somebody attaches to the network without our seeing it come: one of the node's own networks, one that a
   pod has which never asked us for it, or one that a pod asks for whose sandbox may be in the making.
   Nor while any sandbox is in the making: it has a namespace that is young and nobody's yet. Who makes it may have had
   its addresses from the plugins already, and it is in no cache before its ADD has ended.
4. Nobody of ours attaches meanwhile (agent.gates); what began before is in the journal.
5. It is done for a network at the start, once an hour, and after a sandbox ended without its DEL; and once more after
   the last record of a network has gone.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from agent import cache, confdir, files, netns, network
from agent.attach import Attachments
from agent.gates import Busy
from agent.journal import Journal
from agent.model import ContainerID, Key, PodUID, Record
from agent.network import NetworkList
from agent.sandboxes import Sandboxes
from cni import errors, version

LOOK_S = 10.0
PERIOD_S = 3600.0
RETRY_S = 20.0  # after it could not be known what is valid
DEADLINE_S = 10.0  # of one network's plugins; as long may an ADD of the network have to wait
BORN_S = 300.0  # the kubelet waits four minutes for a sandbox to be made
_NAMESPACES = "/run/netns"  # where runtimes keep them
_MOST_GONE = 256  # networks without a record that wait for their last collection
_PATIENCE_S = 0.5

log = logging.getLogger(__name__)


class Collector:
    """A thread that collects, rarely."""

    def __init__(
        self,
        journal: Journal,
        sandboxes: Sandboxes,
        attachments: Attachments,
        view: netns.View,
        caches: Collection[Path],
        conf_dirs: Collection[Path],
    ) -> None:
        self._journal = journal
        self._sandboxes = sandboxes
        self._attachments = attachments
        self._view = view
        self._caches = tuple(caches)
        self._conf_dirs = tuple(conf_dirs)
        self._known: dict[str, dict[str, NetworkList]] = {}  # by name and text: two definitions may share a name
        self._lost: set[str] = set()
        self._collected: dict[str, float] = {}
        self._put_off: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)

    def start(self, caught_up: Callable[[], bool]) -> None:
        """Start, once all that was in the journal has had its pass."""
        self._caught_up = caught_up
        self._thread.start()

    def close(self) -> None:
        """Finish what is under way."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                if self._caught_up():
                    self.look(time.monotonic())
            except Exception:
                log.exception("garbage collection")  # the next look may fare better

    def look(self, now: float) -> None:
        """Collect what is due (rule 5)."""
        living = self._sandboxes.refresh()
        if living is None:
            return
        records = self._journal.records()
        held = self._note(records)
        dead = {_name(one) for one in records if one.key.container_id not in living}
        due = [name for name in self._known if self._is_due(name, now, dead, held)]
        self._lost = (self._lost | dead) & self._known.keys()
        self._put_off = {name: then for name, then in self._put_off.items() if name in self._known}
        for name in due:
            try:
                self._collect(name, living)
            except _Unknown as problem:
                log.debug("network %s is not collected now: %s", name, problem)
                self._put_off[name] = now + RETRY_S
                continue
            self._collected[name] = now
            self._lost.discard(name)
            if name not in held:
                del self._known[name], self._collected[name]

    def _note(self, records: Iterable[Record]) -> set[str]:
        """Remember the networks of these records as they are now, or were at last; return their names."""
        held: dict[str, dict[str, NetworkList]] = {}
        for record in records:
            net = _parsed(record.config, _defined_name(record))
            if net is not None:
                held.setdefault(net.name, {})[net.raw] = net
        gone = [(name, nets) for name, nets in self._known.items() if name not in held][-_MOST_GONE:]
        self._known = dict(gone) | held
        self._collected = {name: then for name, then in self._collected.items() if name in self._known}
        return set(held)

    def _is_due(self, name: str, now: float, dead: Collection[str], held: Collection[str]) -> bool:
        """What a DEL is still under way for waits for it."""
        if now < self._put_off.get(name, now):
            return False
        last = self._collected.get(name)
        overdue = last is None or now - last >= PERIOD_S
        return name not in dead and (overdue or name in self._lost or name not in held)

    def _collect(self, name: str, living: Collection[ContainerID]) -> None:
        """Collect, if there is a plugin that can. Raises _Unknown where it cannot be done now."""
        nets = [net for net in self._known[name].values() if _has_garbage_collection(net)]
        if not nets:
            return
        try:
            with self._attachments.gates.collecting(name, _PATIENCE_S):
                ends = time.monotonic() + DEADLINE_S
                valid = self._valid(name, living)
                for position, net in enumerate(nets):
                    if (left := ends - time.monotonic()) <= 0:
                        log.warning("garbage collection of network %s: no time was left for all", name)
                        break
                    self._tell(net, valid, left / (len(nets) - position))
        except Busy as problem:
            raise _Unknown(str(problem)) from None

    def _tell(self, net: NetworkList, valid: Collection[Key], deadline_s: float) -> None:
        """Have one definition's plugins collect; another of the name may fare better."""
        try:
            self._attachments.collect(net, valid, deadline_s)
        except errors.CNIError as problem:
            log.warning("garbage collection of network %s: %s", net.name, problem)

    def _valid(self, name: str, living: Collection[ContainerID]) -> tuple[Key, ...]:
        """Return the list of rule 1. Raises _Unknown (rules 2 and 3)."""
        if born := self._born(living):
            raise _Unknown(f"{born} may be of a sandbox in the making")
        cached, unreadable = cache.survey(self._caches)
        others = [one for one in cached if one.network == name and self._may_live(one, living)]
        records = [one for one in self._journal.records() if _name(one) == name]
        if unreadable:
            raise _Unknown(f"a runtime's cache cannot be read whole: {next(iter(unreadable))}")
        self._refuse_foreign(name, others, {one.key.container_id for one in records})
        keys = {one.key for one in records} | {Key(ContainerID(one.container_id), one.ifname) for one in others}
        return tuple(sorted(keys, key=str))

    def _born(self, living: Collection[ContainerID]) -> Path | None:
        """Return a network namespace that is young, and of no sandbox that the runtime lists. Raises _Unknown."""
        listed = self._sandboxes.inodes(living)
        now = time.time()
        try:
            namespaces = files.listed(Path(self._view.place(_NAMESPACES)))
        except OSError as problem:
            raise _Unknown(str(problem)) from None
        for path in namespaces:
            with suppress(OSError):  # it has ended
                status = path.stat()
                if now - status.st_mtime < BORN_S and status.st_ino not in listed:
                    return path
        return None

    def _may_live(self, one: cache.Cached, living: Collection[ContainerID]) -> bool:
        return one.container_id in living or not one.netns or Path(self._view.place(one.netns)).exists()

    def _refuse_foreign(self, name: str, others: Iterable[cache.Cached], ours: Collection[str]) -> None:
        """Raise _Unknown (rule 3)."""
        if name in confdir.names(self._conf_dirs):
            raise _Unknown("it is one of the node's own networks")
        pods = {desired.pod.uid: desired for desired in self._journal.pods()}
        for one in others:
            if one.container_id not in ours and PodUID(dict(one.cni_args).get("K8S_POD_UID", "")) not in pods:
                raise _Unknown(f"container {one.container_id} has it, and no pod that is known here")
        for desired in pods.values():
            wanted = any(_called(one.config, one.selection.name) == name for one in desired.attachments)
            if wanted and not desired.ended and not self._sandboxes.known(desired.pod):
                raise _Unknown(f"pod {desired.pod} asks for it and may be on its way")


class _Unknown(Exception):
    """Nobody can say what is valid."""


def _has_garbage_collection(net: NetworkList) -> bool:
    return not net.disable_gc and version.at_least(net.cni_version, version.VERBS["GC"])


def _name(record: Record) -> str:
    return _called(record.config, _defined_name(record))


def _called(config: str, fallback: str) -> str:
    net = _parsed(config, fallback)
    return net.name if net else fallback


@functools.lru_cache(maxsize=1024)
def _parsed(config: str, fallback: str) -> NetworkList | None:
    """Many attachments have one configuration. None: it cannot be read, and its DEL says so."""
    try:
        return network.parse(config, fallback)
    except errors.CNIError:
        return None


def _defined_name(record: Record) -> str:
    return record.network.rpartition("/")[2]
