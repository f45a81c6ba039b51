"""Who leads: one of the controllers of the cluster role, by a Lease (coordination.k8s.io/v1) as client-go keeps it.

Not the `leaderelection` of the kubernetes package: it goes by the wall clock, cannot be asked how long the lease still
lasts, waits without end in a call that hangs, cannot be stopped, and does not give the lease up.

Rules
1. A leader counts its time from before it asked for more, a follower from after it saw that the leader had asked, each
   by its own clock. The leader stops LEASE_S - LEAD_S earlier than a follower begins.
2. The clock runs on while the machine sleeps.
3. A lease is taken and renewed only as it was seen: two who try at once cannot both succeed.
4. Who stops gives the lease up, so that the next one need not wait for its end.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from controller.reconcile import Conflict, Gone
from controller.workers import Unavailable

LEASE_S = 15.0  # client-go's usual figures
LEAD_S = 10.0
RETRY_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What the Lease says. `version`: of the object; "" for one that is to be made."""

    holder: str = ""
    duration_s: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0
    version: str = ""


class Store(Protocol):
    """Where the Lease is. Every call may raise Unavailable."""

    def read_lease(self) -> Record | None: ...

    def write_lease(self, record: Record, seconds: float) -> Record:
        """Make it, or replace the version that `record` names. Raises Conflict and Gone."""
        ...


class Elector:
    """Tries to lead, for ever. `remaining` may be asked from any thread."""

    def __init__(self, store: Store, identity: str, leads: Callable[[], None]) -> None:
        """`leads` is called each time that this one begins to lead."""
        self._store = store
        self._identity = identity
        self._leads = leads
        self._seen: Record | None = None
        self._seen_at = 0.0
        self._until = 0.0

    def remaining(self) -> float:
        """Return for how many seconds this one still leads; 0 or less: it does not."""
        return self._until - clock()

    def run(self, stop: threading.Event) -> None:
        """Try until `stop`, then give the lease up."""
        while not stop.is_set():
            try:
                self._try()
            except (Conflict, Gone) as problem:
                log.info("lease: somebody else was quicker: %s", problem)
            except Unavailable as problem:
                log.warning("lease: %s", problem)
            except Exception:
                log.exception("lease: a bug; will be tried again")
            stop.wait(RETRY_S * (1 - random.random() / 5))  # noqa: S311 no secret
        self._give_up()

    def _try(self) -> None:
        began = clock()
        record = self._store.read_lease()
        if record != self._seen:
            self._seen, self._seen_at = record, clock()
        if not self._may_take(record):
            return
        mine = self._mine(record)
        self._seen, self._seen_at = self._store.write_lease(mine, LEAD_S), clock()
        before, self._until = self._until, began + LEAD_S
        if before <= clock():  # looked at last: whatever was left undone since its end must be taken up again
            log.info("leading as %s", self._identity)
            self._leads()

    def _may_take(self, record: Record | None) -> bool:
        if record is None or record.holder in {"", self._identity}:
            return True
        return clock() - self._seen_at > max(record.duration_s, 1)

    def _mine(self, record: Record | None) -> Record:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = record or Record(acquired=now)
        if old.holder != self._identity:
            old = replace(old, acquired=now, transitions=old.transitions + (record is not None))
        return replace(old, holder=self._identity, duration_s=int(LEASE_S), renewed=now)

    def _give_up(self) -> None:
        if self.remaining() <= 0 or self._seen is None:
            return
        self._until = 0.0
        try:
            self._store.write_lease(replace(self._seen, holder="", duration_s=1), RETRY_S)
        except (Conflict, Gone, Unavailable) as problem:
            log.info("lease: not given up: %s", problem)


def clock() -> float:
    """Return seconds (rule 2)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
