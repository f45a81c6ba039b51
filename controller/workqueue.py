"""Keys that need work: each at most once in the queue, never with two workers, later where asked.

Rules
1. A key that is added while it is worked on comes again afterwards; further additions change nothing.
2. A key that failed comes again by itself, later each time; a new addition brings it at once.
3. `since` is when the key was first added: what latency is measured from. The clock is the caller's.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Job(Generic[K]):
    key: K
    since: float


class Queue(Generic[K]):
    """Not safe for threads by itself. Times are seconds of any one clock."""

    def __init__(self, first: float, last: float, random: Callable[[], float]) -> None:
        self._first, self._last, self._random = first, last, random
        self._since: dict[K, float] = {}
        self._ready: deque[K] = deque()
        self._running: set[K] = set()
        self._later: list[tuple[float, int, K]] = []
        self._serial = itertools.count()  # keys need not be comparable
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._since)

    def add(self, key: K, now: float) -> None:
        if key in self._since:
            return
        self._since[key] = now
        if key not in self._running:
            self._ready.append(key)

    def add_at(self, key: K, when: float) -> None:
        """Add the key when that time has come; additions before that do not take this one back."""
        heapq.heappush(self._later, (when, next(self._serial), key))

    def take(self) -> Job[K] | None:
        """Return what to work on now; `done` or `failed` must follow."""
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._running.add(key)
        return Job(key, self._since.pop(key))

    def add_due(self, now: float) -> float | None:
        """Add what has fallen due; return when the next does."""
        while self._later and self._later[0][0] <= now:
            when, _, key = heapq.heappop(self._later)
            self.add(key, when)
        return self._later[0][0] if self._later else None

    def done(self, key: K) -> None:
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: K, now: float) -> int:
        """Have the key come again later; return how often it failed in a row."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(self._first * 2 ** min(count - 1, 32), self._last)
        self.add_at(key, now + delay * (1 - self._random() / 2))
        self._release(key)
        return count

    def _release(self, key: K) -> None:
        self._running.discard(key)
        if key in self._since:
            self._ready.append(key)
