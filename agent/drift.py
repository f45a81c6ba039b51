"""From events to the pods whose attachments they are about, and to a look at those, soon but not at once.

Rules
1. Events are read BATCH_S after the first one: what somebody does in many steps is looked at once.
2. A pass changes much itself. So while one runs, and OWN_S after it, what is heard of its pod may be our own doing:
   it is looked at LATER_S after the pass, and not taken for somebody else's; MOST_LATER_S after it was heard, however
   many passes there are. But a link that went, and that something attached needs, no pass of its has removed.
3. A pod's links are known by number and index, the node's by the names that the attachments need: the look is at those
   only. Where events were lost, it is at everything.
4. What a runtime attached without an annotation's asking belongs to the runtime: what others do to it on the node (its
   host end, its bridge) is repaired, by agent.upkeep; what is done to it in the pod is not heard of.
5. A link or an address that comes to the node may be what others wait for: who does, tries again at once.
6. Where pods are not heard of, everything is looked at every RELOOK_S, else every RARELY_S: settings have no events.
7. A look at everything, as at the start, is spread: SPREAD attachments every BATCH_S, and ASKED of which other plugins
   are to be asked: each is a process. What is heard of meanwhile, and what users ask for, does not wait behind it.
8. A pod may change its own addresses and routes on and on. Where looks find nothing wrong the next ones wait (rule 2 of
   agent.suspects); but not if a link is gone.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator

from agent import netns, rtnl
from agent.journal import Journal
from agent.model import ContainerID, Key, Origin, PodUID, Record
from agent.needs import ADDRESS, ANY
from agent.sandboxes import Sandbox
from agent.suspects import Map, Suspects, has_others
from agent.switchwatch import Switches
from agent.watch import NODE, Event, Watch, What
from cni import errors

BATCH_S, OWN_S, LATER_S, MOST_LATER_S = 0.1, 0.2, 0.4, 2.0
RELOOK_S, RARELY_S, LOST_S = 60.0, 600.0, 30.0
SPREAD, ASKED = 10, 1  # a look takes some 2.5 ms, a CHECK ten times as long
_OUR_HOST_END = re.compile(r"hni?[0-9a-f]{11,12}")

log = logging.getLogger(__name__)


class Drift:
    """A thread that hears what changes, and has it looked at."""

    def __init__(  # noqa: PLR0913 it stands between those who hear and those who look
        self,
        journal: Journal,
        watch: Watch,
        switches: Switches,
        suspects: Suspects,
        look: Callable[[PodUID], None],
        came: Callable[[Collection[str]], None],
        view: netns.View,
    ) -> None:
        """`look` starts a pass over a pod; `came` is told the names of links that are new, or up, on the node."""
        self._journal = journal
        self._watch = watch
        self._switches = switches
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
        self._later: dict[PodUID, tuple[float, set[Key], set[Key]]] = {}  # rule 2; since when, all, whose link went
        self._spread: deque[Key] = deque()  # rule 7
        self._to_ask: deque[Key] = deque()  # likewise
        self._paced: dict[Key, float] = {}  # rule 8: when they are looked at
        self._ports: deque[str] = deque()  # of which the switches have told
        self._closing = False
        self._looked, self._looked_for_lost = time.monotonic(), time.monotonic() - LOST_S
        self._has_lost = False
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)
        self.runtimes: Callable[[Collection[Record]], None] = lambda _: None  # rule 4: who sees to these
        self.found = suspects.found  # for who does so, to tell what came of it

    def start(self) -> None:
        """Listen, and look at everything for what has happened before."""
        self._switches.changed = self._port_changed
        self._follow()
        self._look_at_everything()
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._watch.wake()
        self._thread.join()
        self._switches.close()
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
                self._watch.wait(self._next_s(time.monotonic()))
                if not self._closing:
                    time.sleep(BATCH_S)
                    self._hear([*self._watch.read(), *self._of_switches()])
                    self._look_for_the_lost(time.monotonic())
                    self._look_later(time.monotonic())
                    self._look_on(time.monotonic())
                    self._relook(time.monotonic())
            except Exception:
                log.exception("drift")  # the next event may fare better; what was heard is lost
                self._has_lost = True
                time.sleep(BATCH_S)

    def _next_s(self, now: float) -> float:
        if self._spread or self._to_ask:
            return 0.0
        due = min(self._paced.values(), default=now + RELOOK_S) - now
        return max(0.0, min(due, LATER_S / 2 if self._later or self._has_lost else RELOOK_S))

    def _port_changed(self, names: Collection[str]) -> None:
        self._ports.extend(names)
        self._watch.wake()

    def _of_switches(self) -> Iterator[Event]:
        while self._ports:
            yield Event(NODE, What.PORT, name=self._ports.popleft())

    def _follow(self) -> None:
        self._map.follow(self._journal.records())
        self._switches.follow(self._map.databases())

    def _hear(self, events: Collection[Event]) -> None:
        if not events:
            return
        self._follow()
        self._has_lost |= any(event.what is What.LOST for event in events)
        now, suspected = time.monotonic(), dict[Key, bool]()
        for event in events:
            for key in self._about(event):
                suspected[key] = suspected.get(key, False) or _is_gone(event)
        dues = {key: now if is_gone else self._suspects.not_before(key, now) for key, is_gone in suspected.items()}
        self._paced.update({key: due for key, due in dues.items() if due > now})
        gone = {key for key, is_gone in suspected.items() if is_gone}
        self._look({key for key, due in dues.items() if due <= now}, heard=True, to_ask=True, gone=gone)
        if names := {name for event in events for name in _new_on_node(event)}:
            self._came(names)

    def _about(self, event: Event) -> Collection[Key]:
        if event.what in {What.ADDRESS, What.ROUTE} and not event.gone:
            return ()  # one address or route more harms nobody
        is_ours = bool(_OUR_HOST_END.fullmatch(event.name))
        if event.where == NODE:
            if event.what in {What.ROUTE, What.QUEUE} and not is_ours:
                return ()  # through other links routes come and go
            return self._map.on_node(event.name) if event.name else ()
        container_id = self._numbers.get(event.where)
        return (
            () if container_id is None else self._map.in_pod(container_id, event.index, event.name if is_ours else "")
        )

    def _look(
        self, keys: Collection[Key], *, heard: bool = False, to_ask: bool = False, gone: Collection[Key] = ()
    ) -> None:
        now, of_pods, of_runtimes = time.monotonic(), dict[PodUID, set[Key]](), []
        for record in filter(None, map(self._map.record, keys)):
            if record.origin is Origin.RUNTIME:
                of_runtimes.append(record)
            elif record.pod is not None:
                of_pods.setdefault(record.pod.uid, set()).add(record.key)
        for uid, its in of_pods.items():
            if heard and self._is_own(uid, now):
                _, later, went = self._later.setdefault(uid, (now, set(), set()))
                later.update(its)
                went.update(its.intersection(gone))
            else:
                self._suspects.add(uid, its, heard=heard, to_ask=to_ask)
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
            busy = self._running | ended.keys()
        for uid in [uid for uid, (since, *_) in self._later.items() if uid not in busy or now - since >= MOST_LATER_S]:
            _, later, went = self._later.pop(uid)
            if its := {key for key in later if self._map.record(key)}:  # may be forgotten by now
                self._suspects.add(uid, its, heard=True)
                self._suspects.add(uid, its & went, to_ask=True)
                self._start_pass(uid)

    def _look_on(self, now: float) -> None:
        """Look at what has waited for its turn (rules 7 and 8)."""
        due = {key for key, when in self._paced.items() if when <= now}
        self._paced = {key: when for key, when in self._paced.items() if key not in due}
        self._look(due, heard=True, to_ask=True)
        self._look(_first(self._spread, SPREAD))
        self._look(_first(self._to_ask, ASKED), to_ask=True)

    def _look_at_everything(self) -> None:
        there = {*self._spread, *self._to_ask}
        for record in self._map.records():
            if record.key not in there:
                (self._to_ask if _is_to_ask(record) else self._spread).append(record.key)

    def _look_for_the_lost(self, now: float) -> None:
        """Rule 3; not more often than every LOST_S, for who makes so many events may go on."""
        if self._has_lost and now - self._looked_for_lost >= LOST_S:
            self._has_lost, self._looked_for_lost = False, now
            self._follow()
            self._look_at_everything()

    def _relook(self, now: float) -> None:
        """Rule 6."""
        if now - self._looked < (RARELY_S if self._watch.hears_pods else RELOOK_S):
            return
        self._looked = now
        self._follow()
        self._look_at_everything()
        living = {record.key.container_id for record in self._journal.records()}
        self._suspects.keep({record.key for record in self._map.records()})
        with self._lock:
            self._known = {one: number for one, number in self._known.items() if one in living}
            self._numbers = {number: one for number, one in self._numbers.items() if one in living}


def _first(keys: deque[Key], count: int) -> list[Key]:
    """Take the first ones away."""
    return [keys.popleft() for _ in range(min(count, len(keys)))]


def _is_to_ask(record: Record) -> bool:
    """Whether other plugins have to be asked about it; of a runtime's only what is ours on the node counts (rule 4)."""
    try:
        return record.origin is not Origin.RUNTIME and has_others(record)
    except errors.CNIError:
        return False  # a look will tell


def _is_gone(event: Event) -> bool:
    """Whether a link is not there any more. A pod may give its own other names, on and on (rule 8)."""
    return event.what is What.LINK and event.gone and (event.where == NODE or not event.renamed)


def _new_on_node(event: Event) -> Collection[str]:
    """Return the names of what may be waited for (rule 5, agent.needs)."""
    if event.what is What.LOST:
        return (ADDRESS,)  # of links that came meanwhile the watch tells
    if event.where != NODE or event.gone or _OUR_HOST_END.fullmatch(event.name):
        return ()
    if event.what is What.LINK:
        return (event.name, ANY) if event.came else ()
    return (ADDRESS,) if event.what in {What.ADDRESS, What.ROUTE} else ()
