"""From kernel events to the pods whose attachments they are about, and to a look at those, soon but not at once.

Rules
1. Events are read BATCH_S after the first one: what somebody does in many steps is looked at once.
2. A pass changes much itself. So while one runs, and OWN_S after it, what is heard of its pod may be our own doing:
   it is looked at LATER_S after the pass, and not taken for somebody else's.
3. A pod's links are known by number and index, the node's by the names that the attachments need: the look is at those
   only. Where events were lost, it is at everything.
4. What a runtime attached without an annotation's asking belongs to the runtime: what others do to it on the node (its
   host end, its bridge) is repaired, by agent.upkeep; what is done to it in the pod is not heard of.
5. A link or an address that comes to the node may be what others wait for: who does, tries again at once.
6. Where pods are not heard of, everything is looked at every RELOOK_S, else every RARELY_S: settings have no events.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from agent import netns, rtnl
from agent.journal import Journal
from agent.model import ContainerID, Key, Origin, Phase, PodUID, Record
from agent.needs import ADDRESS, ANY, needs
from agent.sandboxes import Sandbox
from agent.watch import NODE, Event, Watch, What
from cni import errors

BATCH_S, OWN_S, LATER_S = 0.1, 0.2, 0.4
RELOOK_S, RARELY_S, LOST_S = 60.0, 600.0, 30.0
_OUR_HOST_END = re.compile(r"hni?[0-9a-f]{11,12}")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Suspected:
    """Attachments of one pod that are to be looked at; those of `by_others` because somebody else was at work."""

    keys: set[Key] = field(default_factory=set)
    by_others: set[Key] = field(default_factory=set)


class Suspects:
    """What passes are to look at. Safe for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[PodUID, Suspected] = {}

    def add(self, uid: PodUID, keys: Collection[Key], *, by_others: bool) -> None:
        with self._lock:
            suspected = self._of.setdefault(uid, Suspected())
            suspected.keys.update(keys)
            if by_others:
                suspected.by_others.update(keys)

    def take(self, uid: PodUID) -> Suspected:
        """Return what is to be looked at, and forget it."""
        with self._lock:
            return self._of.pop(uid, None) or Suspected()


class Map:
    """Which attachments an event is about. Used by one thread."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}
        self._by_need: dict[str, set[Key]] = {}
        self._by_index: dict[tuple[ContainerID, int], Key] = {}

    def follow(self, records: Iterable[Record]) -> None:
        """Know these, and no others."""
        now = {record.key: record for record in records if record.phase is Phase.ATTACHED}
        for key, record in tuple(self._records.items()):
            if now.get(key) is not record:
                self._drop(record)
        for key, record in now.items():
            if key not in self._records:
                self._records[key] = record
                self._by_index[key.container_id, record.ifindex] = key
                for name in needs(record):
                    self._by_need.setdefault(name, set()).add(key)

    def records(self) -> Collection[Record]:
        return self._records.values()

    def record(self, key: Key) -> Record:
        return self._records[key]

    def on_node(self, name: str) -> Collection[Key]:
        """Return the attachments that need the node's link of that name."""
        return self._by_need.get(name, ())

    def in_pod(self, container_id: ContainerID, index: int) -> Collection[Key]:
        """Return the attachment of that link; of an unknown one (0) any may be."""
        if index:
            key = self._by_index.get((container_id, index))
            return () if key is None else (key,)
        return [key for key in self._records if key.container_id == container_id]

    def _drop(self, record: Record) -> None:
        del self._records[record.key]
        self._by_index.pop((record.key.container_id, record.ifindex), None)
        for name in needs(record):
            if keys := self._by_need.get(name):
                keys.discard(record.key)
                if not keys:
                    del self._by_need[name]


class Drift:
    """A thread that hears what changes, and has it looked at."""

    def __init__(
        self,
        journal: Journal,
        watch: Watch,
        suspects: Suspects,
        look: Callable[[PodUID], None],
        came: Callable[[Collection[str]], None],
        view: netns.View,
    ) -> None:
        """`look` starts a pass over a pod; `came` is told the names of links that are new, or up, on the node."""
        self._journal = journal
        self._watch = watch
        self._suspects = suspects
        self._start_pass = look
        self._came = came
        self._view = view
        self._map = Map()
        self._lock = threading.Lock()  # for what passes tell
        self._numbers: dict[int, ContainerID] = {}
        self._known: dict[ContainerID, int | None] = {}
        self._running: set[PodUID] = set()
        self._ended: dict[PodUID, float] = {}  # passes, lately
        self._later: dict[PodUID, set[Key]] = {}  # rule 2
        self._closing = False
        self._looked, self._looked_for_lost = time.monotonic(), time.monotonic() - LOST_S
        self._has_lost = False
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)
        self.runtimes: Callable[[Collection[Record]], None] = lambda _: None  # rule 4: who sees to these

    def start(self) -> None:
        """Listen. What has happened before is found by the passes of the start, which look at everything."""
        self._map.follow(self._journal.records())
        for record in self._map.records():
            if record.pod is not None:
                self._suspects.add(record.pod.uid, [record.key], by_others=False)
        self.runtimes([record for record in self._map.records() if record.origin is Origin.RUNTIME])
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._watch.wake()
        self._thread.join()
        self._watch.close()

    @contextlib.contextmanager
    def passing(self, uid: PodUID) -> Iterator[None]:
        """Run a pass over the pod in the body of a `with` (rule 2)."""
        with self._lock:
            self._running.add(uid)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(uid)
                self._ended[uid] = time.monotonic()

    def enter(self, sandbox: Sandbox) -> None:
        """Hear of a sandbox from now on. Called before anything is done in it."""
        if sandbox.id in self._known:
            return
        try:
            with self._view.opened(sandbox.namespace.path) as fd:
                number = self._watch.number(fd)
        except (OSError, errors.CNIError, rtnl.KernelError) as problem:
            log.warning("what changes in sandbox %s is not heard of yet: %s", sandbox.id, problem)
            return
        with self._lock:
            self._known[sandbox.id] = number
            if number is not None:
                self._numbers[number] = sandbox.id

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._watch.wait(self._next_s())
                if not self._closing:
                    time.sleep(BATCH_S)
                    self._hear(self._watch.read())
                    self._look_for_the_lost(time.monotonic())
                    self._look_later(time.monotonic())
                    self._relook(time.monotonic())
            except Exception:
                log.exception("drift")  # the next event may fare better
                time.sleep(BATCH_S)

    def _next_s(self) -> float:
        return LATER_S / 2 if self._later or self._has_lost else RELOOK_S

    def _hear(self, events: Collection[Event]) -> None:
        if not events:
            return
        self._map.follow(self._journal.records())
        self._has_lost |= any(event.what is What.LOST for event in events)
        self._look({key for event in events for key in self._about(event)}, by_others=True)
        if names := {name for event in events for name in _new_on_node(event)}:
            self._came(names)

    def _about(self, event: Event) -> Collection[Key]:
        if event.what is not What.LINK and not event.gone:
            return ()  # one address or route more harms nobody
        if event.where == NODE:
            if event.what is What.ROUTE and not _OUR_HOST_END.fullmatch(event.name):
                return ()  # through other links routes come and go
            return self._map.on_node(event.name) if event.name else ()
        container_id = self._numbers.get(event.where)
        return () if container_id is None else self._map.in_pod(container_id, event.index)

    def _look(self, keys: Collection[Key], *, by_others: bool) -> None:
        now, of_pods, of_runtimes = time.monotonic(), dict[PodUID, set[Key]](), []
        for record in map(self._map.record, keys):
            if record.origin is Origin.RUNTIME:
                of_runtimes.append(record)
            elif record.pod is not None:
                of_pods.setdefault(record.pod.uid, set()).add(record.key)
        for uid, its in of_pods.items():
            if self._is_own(uid, now):
                self._later.setdefault(uid, set()).update(its)
            else:
                self._suspects.add(uid, its, by_others=by_others)
                self._start_pass(uid)
        if of_runtimes:
            self.runtimes(of_runtimes)

    def _is_own(self, uid: PodUID, now: float) -> bool:
        with self._lock:
            return uid in self._running or now - self._ended.get(uid, now - 2 * OWN_S) - BATCH_S < OWN_S

    def _look_later(self, now: float) -> None:
        with self._lock:
            ended = {uid: now - when for uid, when in self._ended.items() if now - when < LATER_S}
            self._ended = {uid: self._ended[uid] for uid in ended}
            due = [uid for uid in self._later if uid not in self._running and uid not in ended]
        for uid in due:
            self._suspects.add(uid, self._later.pop(uid), by_others=False)
            self._start_pass(uid)

    def _look_for_the_lost(self, now: float) -> None:
        """Rule 3; not more often than every LOST_S, for who makes so many events may go on."""
        if self._has_lost and now - self._looked_for_lost >= LOST_S:
            self._has_lost, self._looked_for_lost = False, now
            self._map.follow(self._journal.records())
            self._look({record.key for record in self._map.records()}, by_others=False)

    def _relook(self, now: float) -> None:
        """Rule 6."""
        if now - self._looked < (RARELY_S if self._watch.hears_pods else RELOOK_S):
            return
        self._looked = now
        records = self._journal.records()
        self._map.follow(records)
        self._look({record.key for record in self._map.records()}, by_others=False)
        with self._lock:
            living = {record.key.container_id for record in records}
            self._known = {one: number for one, number in self._known.items() if one in living}
            self._numbers = {number: one for number, one in self._numbers.items() if one in living}


def _new_on_node(event: Event) -> Collection[str]:
    """Return the names of what may be waited for (rule 5, agent.needs)."""
    if event.where != NODE or event.gone or _OUR_HOST_END.fullmatch(event.name):
        return ()
    return (event.name, ANY) if event.what is What.LINK else (ADDRESS,)
