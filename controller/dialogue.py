"""What was said between us and the node agent: what it was sent last, what it answered.

Rules
1. What is being sent counts as sent before it is: the answer may come first. If sending fails, all is open.
2. A new connection voids what was sent: the agent may have lost something.
3. The agent knows a pod while it has an outcome for it, or was sent something. Before it has told us for the first
   time what it knows, it may know any.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from controller.model import Outcome, PodRef, PodUID
from controller.workers import Unavailable

ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Letter:
    """What the agent is sent about a pod. Equal letters on one connection are sent once."""

    ref: PodRef
    revision: str  # of the desired set; ENDED for a pod that has none any more
    sandbox_hint: str = ""


class Dialogue:
    """Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[PodUID, Outcome] = {}
        self._sent: dict[PodUID, tuple[int, Letter]] = {}
        self._farewells: dict[PodUID, Outcome] = {}
        self._connection = 0
        self.is_connected = False

    def synced(self, outcomes: Iterable[Outcome]) -> Collection[PodUID]:
        """Take over everything that the agent knows, on a new connection; return the pods it may know."""
        with self._lock:
            self._outcomes = {outcome.pod.uid: outcome for outcome in outcomes if not outcome.forgotten}
            self._sent = {uid: sent for uid, sent in self._sent.items() if sent[1].revision != ENDED}
            self._connection += 1
            self.is_connected = True
            return self._outcomes.keys() | self._sent.keys()

    def told(self, outcome: Outcome) -> None:
        """Take over one pod's outcome."""
        uid = outcome.pod.uid
        with self._lock:
            if outcome.forgotten:
                self._outcomes.pop(uid, None)
                self._sent.pop(uid, None)
                self._farewells[uid] = outcome
            else:
                self._outcomes[uid] = outcome

    def lost(self) -> None:
        """Take note that the agent does not answer."""
        self.is_connected = False

    def knows(self, uid: PodUID) -> bool:
        return self._connection == 0 or uid in self._outcomes or uid in self._sent

    def outcome(self, uid: PodUID) -> Outcome | None:
        return self._outcomes.get(uid)

    def farewell(self, uid: PodUID) -> Outcome | None:
        """Return the last that the agent said of a pod which it has forgotten, for as long as the pod is there."""
        return self._farewells.get(uid)

    def forget(self, uid: PodUID) -> None:
        """The pod is gone, and whatever was said of it is nobody's concern."""
        self._farewells.pop(uid, None)

    def ref(self, uid: PodUID) -> PodRef | None:
        """Return namespace and name of a pod that the agent knows."""
        with self._lock:
            if uid in self._outcomes:
                return self._outcomes[uid].pod
            return self._sent[uid][1].ref if uid in self._sent else None

    def is_sent(self, letter: Letter) -> bool:
        return self._sent.get(letter.ref.uid) == (self._connection, letter)

    @contextmanager
    def sending(self, letter: Letter) -> Iterator[None]:
        """Remember the letter that the caller is about to send (rule 1)."""
        uid = letter.ref.uid
        with self._lock:
            self._sent[uid] = (self._connection, letter)
        try:
            yield
        except Unavailable:
            with self._lock:
                self._sent[uid] = (-1, letter)
            raise
