"""Pure: when a failed attachment is tried again. The clock is an argument, in seconds.

The first retry comes after half a second, each later one twice as late, up to 5 minutes, for ever; with jitter, so
that the pods of a node do not come back as one. What changes the wish itself (a new edit, another configuration)
forgets the waiting; a cause that may be gone (an address was released, a link has come) ends it, and forgets nothing.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent.model import PodUID, State

FIRST_S, LONGEST_S = 0.5, 300.0


@dataclass(slots=True)
class Failure:
    """`not_before` may still change: a pod's pass and those that hasten it work on one Failure, or on one forgotten."""

    state: State
    reason: str
    message: str
    attempts: int
    not_before: float  # monotonic seconds


class Retries:
    """The last failure of each wish, by (pod, wish)."""

    def __init__(self, jitter: random.Random | None = None) -> None:
        self._jitter = jitter or random.Random()  # noqa: S311 spreads load, hides nothing
        self._failures: dict[PodUID, dict[str, Failure]] = {}

    def last(self, uid: PodUID, wish: str) -> Failure | None:
        return self._failures.get(uid, {}).get(wish)

    def is_due(self, uid: PodUID, wish: str, now: float) -> bool:
        failure = self.last(uid, wish)
        return failure is None or now >= failure.not_before

    def failed(  # noqa: PLR0913 a failure is just that
        self,
        uid: PodUID,
        wish: str,
        state: State,
        reason: str,
        message: str,
        now: float,
        longest_s: float = LONGEST_S,
    ) -> Failure:
        """Note a failure. A refusal waits the longest: at most a file on the node can be mended meanwhile."""
        before = self.last(uid, wish)
        attempts = before.attempts + 1 if before else 1
        delay = min(longest_s, FIRST_S * 2.0 ** min(attempts - 1, 20)) * self._jitter.uniform(0.8, 1.0)
        not_before = now + (longest_s if state is State.REFUSED else delay)
        failure = Failure(state, reason, message, attempts, not_before)
        self._failures.setdefault(uid, {})[wish] = failure
        return failure

    def succeeded(self, uid: PodUID, wish: str) -> None:
        self._failures.get(uid, {}).pop(wish, None)

    def forget(self, uid: PodUID) -> None:
        """The wish or its cause changed: everything of this pod is due now, and counts anew."""
        self._failures.pop(uid, None)

    def hasten(self, uid: PodUID, due: float) -> None:
        """What this pod waits for may have come: its tries are due then, if not earlier, and count as before."""
        for failure in tuple(self._failures.get(uid, {}).values()):
            if failure.state is not State.REFUSED and failure.not_before > due:
                failure.not_before = due

    def tries(self, uid: PodUID, reasons: Collection[str]) -> int:
        """Return how often the pod has tried in vain what it waits for because of one of these reasons."""
        failures = tuple(self._failures.get(uid, {}).values())
        return max((one.attempts for one in failures if one.reason in reasons), default=0)

    def waiting(self) -> Iterator[PodUID]:
        """Yield the pods that have something to retry."""
        for uid, failures in list(self._failures.items()):
            if any(failure.state is not State.REFUSED for failure in tuple(failures.values())):
                yield uid
