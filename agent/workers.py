"""Work by key: one job at a time for each key, any number of keys side by side, again later where asked.

Rules
1. A key that is touched while its job runs runs once more afterwards; touches do not pile up.
2. A job that hangs holds its own thread and nobody else's: threads are made as needed, up to `limit`.
3. A job's exception is logged and never ends a thread's usefulness.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class Workers(Generic[K]):
    """Runs `job(key)` for touched keys."""

    def __init__(self, job: Callable[[K], None], limit: int = 512) -> None:
        self._job = job
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="pod")
        self._changed = threading.Condition()
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._due: list[tuple[float, int, K]] = []
        self._count = 0
        self._closed = False
        self._clock = threading.Thread(target=self._keep_time, name="clock", daemon=True)
        self._clock.start()

    def touch(self, key: K) -> None:
        """Run the key's job now, or right after the run that is under way."""
        with self._changed:
            if self._closed:
                return
            if key in self._running:
                self._again.add(key)
                return
            self._running.add(key)
        self._pool.submit(self._run, key)

    def touch_after(self, key: K, seconds: float) -> None:
        """Touch the key in `seconds`; a touch before that does not take this one back."""
        with self._changed:
            self._count += 1  # keys need not be comparable
            heapq.heappush(self._due, (time.monotonic() + seconds, self._count, key))
            self._changed.notify()

    def close(self) -> None:
        """Start nothing more and wait for what runs."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._clock.join()
        self._pool.shutdown(wait=True)

    def _run(self, key: K) -> None:
        try:
            self._job(key)
        except Exception:
            log.exception("job %s", key)
        with self._changed:
            if key in self._again and not self._closed:
                self._again.discard(key)
            else:
                self._running.discard(key)
                return
        self._pool.submit(self._run, key)

    def _keep_time(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    continue
                _, _, key = heapq.heappop(self._due)
            self.touch(key)
