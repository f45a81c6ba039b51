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

from controller.model import Outcome, PodRef
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
        self._outcomes: dict[PodRef, Outcome] = {}
        self._sent: dict[PodRef, tuple[int, Letter]] = {}
        self._farewells: dict[PodRef, Outcome] = {}
        self._connection = 0
        self.is_connected = False

    def synced(self, outcomes: Iterable[Outcome]) -> Collection[PodRef]:
        """Take over everything that the agent knows, on a new connection; return the pods it may know."""
        with self._lock:
            self._outcomes = {outcome.pod: outcome for outcome in outcomes if not outcome.forgotten}
            self._sent = {ref: sent for ref, sent in self._sent.items() if sent[1].revision != ENDED}
            self._connection += 1
            self.is_connected = True
            return self._outcomes.keys() | self._sent.keys()

    def told(self, outcome: Outcome) -> None:
        """Take over one pod's outcome."""
        ref = outcome.pod
        with self._lock:
            if outcome.forgotten:
                self._outcomes.pop(ref, None)
                self._sent.pop(ref, None)
                self._farewells[ref] = outcome
            else:
                self._outcomes[ref] = outcome

    def lost(self) -> None:
        """Take note that the agent does not answer."""
        self.is_connected = False

    def knows(self, ref: PodRef) -> bool:
        return self._connection == 0 or ref in self._outcomes or ref in self._sent

    def outcome(self, ref: PodRef) -> Outcome | None:
        return self._outcomes.get(ref)

    def holding(self) -> tuple[PodRef, ...]:
        """Return the pods of which the agent still has, or has to remove, an attachment."""
        with self._lock:
            return tuple(ref for ref, outcome in self._outcomes.items() if outcome.attachments)

    def farewell(self, ref: PodRef) -> Outcome | None:
        """Return the last that the agent said of a pod which it has forgotten, for as long as the pod is there."""
        return self._farewells.get(ref)

    def forget(self, ref: PodRef) -> None:
        """The pod is gone, and whatever was said of it is nobody's concern."""
        self._farewells.pop(ref, None)

    def rejected(self, ref: PodRef) -> None:
        """The agent will not hear of the pod, and so holds nothing of it."""
        with self._lock:
            self._sent.pop(ref, None)

    def is_sent(self, letter: Letter) -> bool:
        return self._sent.get(letter.ref) == (self._connection, letter)

    @contextmanager
    def sending(self, letter: Letter) -> Iterator[None]:
        """Remember the letter that the caller is about to send (rule 1)."""
        with self._lock:
            self._sent[letter.ref] = (self._connection, letter)
        try:
            yield
        except Unavailable:
            with self._lock:
                self._sent[letter.ref] = (-1, letter)
            raise
