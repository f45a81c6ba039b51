"""The sweep: what nobody tells us. Sandboxes that came or went, names that became free, passes that take long.

It starts passes, it makes none: what to do about anything is the engine's plan. Only a runtime's own attachment, which
no pass of ours concerns, is removed here, once its sandbox and its namespace are gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from agent import netns
from agent.attach import Attachments
from agent.journal import Journal
from agent.locks import Locks
from agent.model import ContainerID, Desired, Key, NotReady, Origin, PodUID, Record
from agent.progress import Progress
from agent.sandboxes import Sandboxes
from cni import errors

SWEEP_S = 5.0  # how late a sandbox that was stopped or replaced behind our back is noticed
TICK_S = 0.25  # how late a pod's first sandbox is noticed
RELOOK_S = 60.0  # how often every pod gets a pass though nothing is known to have happened

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """What passes leave behind for the sweep; written by the engine's threads, one pod by one of them at a time."""

    first: set[PodUID]  # pods of the journal that have not been told of since the start
    passes: dict[PodUID, Progress] = field(default_factory=dict)  # under way
    settled: dict[PodUID, str] = field(default_factory=dict)  # the sandbox of each pod's last pass
    plans: dict[PodUID, str] = field(default_factory=dict)  # what each pod's last pass had to do, in words
    blocked: set[PodUID] = field(default_factory=set)  # pods with an element whose interface name is taken


class Orphans:
    """A runtime's attachments whose DEL was missed."""

    def __init__(self, journal: Journal, attachments: Attachments, locks: Locks, view: netns.View) -> None:
        self._journal = journal
        self._attachments = attachments
        self._locks = locks
        self._view = view
        self._told: dict[Key, str] = {}

    def remove(self, living: Collection[ContainerID]) -> None:
        """Remove those whose sandbox is not among the living and whose namespace is gone."""
        records = self._journal.records()
        self._told = {one.key: self._told[one.key] for one in records if one.key in self._told}
        for record in records:
            missing = record.origin is Origin.RUNTIME and record.pod and record.key.container_id not in living
            if missing and not self._view.still_there(record.namespace):
                self._remove(record)

    def _remove(self, record: Record) -> None:
        """One whose sandbox somebody is at work on, maybe for long, has its turn with the next sweep."""
        with self._locks.free(record.key.container_id) as is_free:
            if is_free and self._journal.record(record.key) == record:
                try:
                    self._attachments.detach(record)
                except (NotReady, errors.CNIError) as problem:
                    self._tell(record.key, str(problem))

    def _tell(self, key: Key, problem: str) -> None:
        """Once, however often it is tried."""
        if self._told.get(key) != problem:
            log.warning("%s: left by a runtime, DEL failed: %s", key, problem)
        self._told[key] = problem


class Sweep:
    """A thread that looks around, and touches the pods that a pass should look at."""

    def __init__(  # noqa: PLR0913 it looks at all there is
        self,
        journal: Journal,
        sandboxes: Sandboxes,
        seen: Seen,
        touch: Callable[[PodUID], None],
        tell: Callable[[Progress], None],
        orphans: Orphans,
        lost: Callable[[], Iterable[PodUID]],
    ) -> None:
        self._journal = journal
        self._sandboxes = sandboxes
        self._seen = seen
        self._touch = touch
        self._tell = tell
        self._orphans = orphans
        self._lost = lost  # pods whose virtual machine has lost a NIC
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        swept, looked = 0.0, time.monotonic()
        while not self._closing.wait(TICK_S):
            now = time.monotonic()
            try:
                self._tell_slow_ones(now)
                if now - swept >= SWEEP_S:
                    swept = now
                    self._sweep()
                elif awaited := self._awaited():
                    self._look_for(awaited)
                if now - looked >= RELOOK_S:
                    looked = now
                    self._touch_all(desired.pod.uid for desired in self._journal.pods())
            except Exception:
                log.exception("sweep")  # the next one may fare better; without any, nobody notices a dead sandbox

    def _awaited(self) -> Collection[Desired]:
        """Return the pods that wait for a sandbox."""
        without = [uid for uid, sandbox in tuple(self._seen.settled.items()) if not sandbox]
        return [one for uid in without if (one := self._journal.desired(uid)) is not None and not one.ended]

    def _look_for(self, awaited: Collection[Desired]) -> None:
        if self._sandboxes.refresh() is not None:
            self._touch_all(one.pod.uid for one in awaited if self._sandboxes.known(one.pod))

    def _sweep(self) -> None:
        self._touch_all(tuple(self._seen.blocked))
        self._touch_all(self._lost())
        living = self._sandboxes.refresh()
        if living is not None:
            self._touch_all(one.pod.uid for one in self._journal.pods() if self._is_stale(one, living))
            self._orphans.remove(living)

    def _is_stale(self, desired: Desired, living: Collection[ContainerID]) -> bool:
        uid = desired.pod.uid
        dead = any(record.key.container_id not in living for record in self._journal.of_pod(uid))
        known = self._sandboxes.known(desired.pod)
        return dead or bool(known and self._seen.settled.get(uid, known) != known)

    def _tell_slow_ones(self, now: float) -> None:
        for uid, progress in list(self._seen.passes.items()):
            if progress.is_news(now - progress.started):
                self._tell(progress)
                self._seen.first.discard(uid)

    def _touch_all(self, uids: Iterable[PodUID]) -> None:
        for uid in uids:
            self._touch(uid)
