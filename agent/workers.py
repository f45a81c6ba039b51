"""Work by key: one job at a time for each key, any number of keys side by side, again later where asked.

Rules
1. A key that is touched while its job runs runs once more afterwards, behind those that wait already; touches do not
   pile up, however many there are.
2. `places` jobs begin side by side, the others wait for their turn: a node that has to see to all of its pods at once
   does not start as many threads. A job that takes longer than PATIENCE_S gives its place to the next one and goes on
   without: what hangs holds its own thread and nobody else's, and there are no more threads than keys and places.
3. A job's exception is logged and never ends a thread's usefulness.
4. What has to be done later is remembered once for about the same time, however often it is asked for.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

PLACES = 128
PATIENCE_S = 0.5
IDLE_S = 10.0  # how long a thread without work stays
_ABOUT = 0.05  # the part of its delay by which a touch may come late
_AGAIN_S = 0.1  # until the next try, where the system has no room for a thread

log = logging.getLogger(__name__)


class Workers(Generic[K]):
    """Runs `job(key)` for touched keys."""

    def __init__(self, job: Callable[[K], None], places: int = PLACES) -> None:
        self._job = job
        self._places = places
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # something is ready, and there is a place
        self._time = threading.Condition(self._lock)  # something is due earlier than was known
        self._ready: deque[K] = deque()
        self._running: dict[K, float] = {}  # since when; those with a place, oldest first
        self._patient: set[K] = set()  # running without a place
        self._waiting: set[K] = set()  # in `_ready`
        self._again: set[K] = set()
        self._due: list[tuple[float, int, K]] = []
        self._dues: dict[K, set[float]] = {}
        self._count = 0
        self._threads = self._idle = 0
        self._closed = False
        self._clock = threading.Thread(target=self._keep_time, name="clock", daemon=True)
        self._clock.start()

    def touch(self, key: K) -> None:
        """Run the key's job now, or right after the run that is under way."""
        with self._lock:
            self._touch(key)

    def touch_after(self, key: K, seconds: float) -> None:
        """Touch the key in `seconds`, or a little later; a touch before that does not take this one back."""
        now = time.monotonic()
        when, latest = now + seconds, now + seconds * (1 + _ABOUT)
        with self._lock:
            dues = self._dues.setdefault(key, set())
            if any(when <= due <= latest for due in dues):
                return  # rule 4
            dues.add(latest)
            self._count += 1  # keys need not be comparable
            heapq.heappush(self._due, (latest, self._count, key))
            self._time.notify()

    def close(self) -> None:
        """Start nothing more and wait for what runs."""
        with self._lock:
            self._closed = True
            self._ready.clear()
            self._time.notify()
            self._work.notify_all()
        self._clock.join()
        with self._lock:
            while self._threads:
                self._work.wait()

    # -- with the lock held -------------------------------------------------------------------------------------

    def _touch(self, key: K) -> None:
        if self._closed or key in self._waiting:
            return
        if key in self._running or key in self._patient:
            self._again.add(key)
            return
        self._waiting.add(key)
        self._ready.append(key)
        self._call_in()

    def _call_in(self) -> None:
        """Have a thread take up what is ready, if there is a place; else the clock makes room in time."""
        if not self._ready:
            return
        if len(self._running) >= self._places:
            self._time.notify()
            return
        if self._idle:
            self._work.notify()
            return
        try:
            threading.Thread(target=self._serve, name="pod", daemon=True).start()
        except RuntimeError as problem:  # no room for a thread: whoever is done next takes it up, or the clock
            log.warning("%d jobs wait: %s", len(self._ready), problem)
            self._time.notify()
        else:
            self._threads += 1

    def _taken(self) -> K | None:
        """Wait for work; None: there is none."""
        ends = time.monotonic() + IDLE_S
        while not self._ready or len(self._running) >= self._places:
            left = ends - time.monotonic()
            if self._closed or left <= 0:
                return None
            self._idle += 1
            self._work.wait(left)
            self._idle -= 1
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._running[key] = time.monotonic()
        return key

    def _done(self, key: K) -> None:
        self._running.pop(key, None)
        self._patient.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._touch(key)

    def _make_room(self, now: float) -> float | None:
        """Take the place of one that takes long (rule 2); return when there is one to look at next."""
        if not self._ready or len(self._running) < self._places:
            return None
        key, since = next(iter(self._running.items()))
        if now < since + PATIENCE_S:
            return since + PATIENCE_S
        del self._running[key]
        self._patient.add(key)
        self._call_in()
        return None  # whoever takes the place calls for the next one

    def _touch_due(self, now: float) -> float | None:
        while self._due and self._due[0][0] <= now:
            when, _, key = heapq.heappop(self._due)
            dues = self._dues[key]
            dues.discard(when)
            if not dues:
                del self._dues[key]
            self._touch(key)
        return self._due[0][0] if self._due else None

    # -- threads ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._lock:
                key = self._taken()
                if key is None:
                    self._threads -= 1
                    self._work.notify_all()
                    return
                self._call_in()
            try:
                self._job(key)
            except Exception:
                log.exception("job %s", key)
            with self._lock:
                self._done(key)

    def _keep_time(self) -> None:
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                wakes = [one for one in (self._touch_due(now), self._make_room(now)) if one is not None]
                if self._ready and len(self._running) < self._places:
                    self._call_in()
                    wakes.append(now + _AGAIN_S)
                self._time.wait(min(wakes) - now if wakes else None)
