"""Threads that work off a queue. One key at a time each; a key that waits for a slow server holds one thread only.

Rules
1. `Unavailable` is the world's fault: told once for each row of failures, and tried again.
2. Any other exception is a bug of ours: told with its trace, and tried again, since the next state may be fine.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from controller.workqueue import Job, Queue

FIRST_RETRY_S, LAST_RETRY_S = 0.2, 10.0

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class Unavailable(Exception):
    """Somebody whom the work needs does not answer, or not well. `str()` says who, and how."""


class Workers(Generic[K]):
    """Runs `work(key, since)` for the keys that are touched, on `count` threads."""

    def __init__(self, name: str, work: Callable[[K, float], None], count: int = 8) -> None:
        self._name = name
        self._work = work
        self._queue: Queue[K] = Queue(FIRST_RETRY_S, LAST_RETRY_S, random.random)
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._later = threading.Condition(self._lock)
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        self._threads.append(threading.Thread(target=self._keep_time, name=f"{name}-clock", daemon=True))

    def start(self) -> None:
        """Start working; what was touched before is done first."""
        for thread in self._threads:
            thread.start()

    def touch(self, key: K) -> None:
        with self._lock:
            self._queue.add(key, time.monotonic())
            self._ready.notify()

    def touch_after(self, key: K, seconds: float) -> None:
        with self._lock:
            self._queue.add_at(key, time.monotonic() + seconds)
            self._later.notify()

    def depth(self) -> int:
        with self._lock:
            return len(self._queue)

    def dead(self) -> tuple[str, ...]:
        """Return which threads died; none should."""
        return tuple(f"thread {one.name} died" for one in self._threads if one.ident and not one.is_alive())

    def close(self, seconds: float) -> None:
        """Take up nothing more, and wait at most so long for what is under way."""
        with self._lock:
            self._closed = True
            self._ready.notify_all()
            self._later.notify_all()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._work(job.key, job.since)
            except Exception as problem:  # noqa: BLE001 (rule 2)
                self._failed(job.key, problem)
            else:
                with self._lock:
                    self._queue.done(job.key)

    def _next(self) -> Job[K] | None:
        with self._lock:
            while not self._closed:
                if (job := self._queue.take()) is not None:
                    return job
                self._ready.wait()
            return None

    def _keep_time(self) -> None:
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                due = self._queue.add_due(now)
                self._ready.notify(len(self._queue))
                self._later.wait(None if due is None else due - now)

    def _failed(self, key: K, problem: Exception) -> None:
        with self._lock:
            row = self._queue.failed(key, time.monotonic())
            self._later.notify()
        if not isinstance(problem, Unavailable):
            log.error("%s %s: will be tried again", self._name, key, exc_info=problem)
        elif row == 1:
            log.warning("%s %s: %s; will be tried again", self._name, key, problem)
        else:
            log.debug("%s %s: %s, %d times now", self._name, key, problem, row)
