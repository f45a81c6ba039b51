"""The latest outcome of every pod, and who listens.

A slow listener gets the latest of each pod, never a backlog. What it has not been told of pods that are forgotten would
still pile up, where it hangs and pods come and go: one that is MOST outcomes behind is closed, and has to listen anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.model import Outcome, PodUID

MOST = 10_000


class Listener:
    """What one caller of Watch has not been told yet."""

    def __init__(self, known: dict[PodUID, Outcome]) -> None:
        self._news = dict(known)
        self._changed = threading.Condition()
        self.is_closed = False

    def tell(self, outcome: Outcome) -> None:
        with self._changed:
            self._news[outcome.pod.uid] = outcome
            if self.is_closed or len(self._news) > MOST:
                self._close()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._close()
            self._changed.notify()

    def next(self, timeout_s: float | None = None) -> Outcome | None:
        """Return an outcome that was not told yet; None after `timeout_s` seconds or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self.is_closed, timeout_s)
            if self.is_closed or not self._news:
                return None
            return self._news.pop(next(iter(self._news)))

    def _close(self) -> None:
        self.is_closed = True
        self._news.clear()


class Outcomes:
    """Safe for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._published = threading.Condition(self._lock)
        self._latest: dict[PodUID, Outcome] = {}
        self._listeners: set[Listener] = set()

    def publish(self, outcome: Outcome) -> None:
        """Make it the pod's latest. A forgotten pod is told once and then not kept."""
        with self._lock:
            if outcome.forgotten:
                self._latest.pop(outcome.pod.uid, None)
            else:
                self._latest[outcome.pod.uid] = outcome
            for listener in self._listeners:
                listener.tell(outcome)
            self._published.notify_all()

    def wait_for(self, uid: PodUID, holds: Callable[[Outcome | None], bool], timeout_s: float) -> Outcome | None:
        """Wait until something holds of the pod's latest outcome, and return that; None after `timeout_s` seconds."""
        with self._published:
            is_in_time = self._published.wait_for(lambda: holds(self._latest.get(uid)), timeout_s)
            return self._latest.get(uid) if is_in_time else None

    def of(self, uid: PodUID) -> Outcome | None:
        """Return the pod's latest, if anything was told of it since the start."""
        with self._lock:
            return self._latest.get(uid)

    def is_watched(self) -> bool:
        """Whether a controller listens."""
        with self._lock:
            return bool(self._listeners)

    def latest(self) -> tuple[Outcome, ...]:
        with self._lock:
            return tuple(self._latest.values())

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Yield a listener that has everything known to tell, and everything that comes."""
        with self._lock:
            listener = Listener(self._latest)
            self._listeners.add(listener)
        try:
            yield listener
        finally:
            with self._lock:
                self._listeners.discard(listener)
