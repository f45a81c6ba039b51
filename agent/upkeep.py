"""Keeps whole what attachments share on the node (agent.devices.contract, rule 6): an overlay's bridge, its VXLAN link
and the tunnels to the other nodes.

Rules
1. It mends every attachment in the journal: at the start, when the underlay is another one, and every PERIOD_S
   seconds for what somebody else has changed or taken away. Also at one whose ADD is under way: what is told after that
   has read the last time would else be missed.
2. One attachment of each configuration comes first: with it what it shares is whole, and the others have little to do.
3. What cannot be mended is told once, and again when the reason is another one.
4. What a runtime attached without an annotation's asking has no pass. Where others were at work on the node
   (agent.drift) its node's side is repaired here, as late as agent.repairs says; its pod's side is the runtime's. That
   is no reason to mend all others.
5. Whoever works on a sandbox may hold it for long (a plugin that hangs). It is not waited for: its turn comes BUSY_S
   later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from agent import network
from agent.device import TYPE, Native
from agent.inspection import Inspector
from agent.journal import Journal
from agent.locks import Locks
from agent.model import Key, NotReady, Origin, Phase, Record
from agent.repairs import Repairs
from cni import errors

PERIOD_S, BUSY_S = 20.0, 1.0

log = logging.getLogger(__name__)


class Upkeep:
    """A thread that mends."""

    def __init__(self, journal: Journal, native: Native, inspector: Inspector, locks: Locks) -> None:
        self._journal = journal
        self._native = native
        self._inspector = inspector
        self._locks = locks
        self._suspects: set[Key] = set()  # rule 4
        self._repairs = Repairs()
        self._is_busy = False  # one of these was (rule 5)
        self._wake = threading.Event()
        self._is_touched = False
        self._closing = False
        self.found: Callable[..., None] = lambda *_, **__: None  # whether a look has found something wrong
        self._told: dict[Key, str] = {}
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Start, with a look at everything."""
        self.touch()
        self._thread.start()

    def touch(self) -> None:
        """Look at everything now."""
        self._is_touched = True
        self._wake.set()

    def look(self, records: Collection[Record]) -> None:
        """Have a look at these (rule 4)."""
        self._suspects |= {record.key for record in records}
        if records:
            self._wake.set()

    def close(self) -> None:
        """Finish what is under way."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        mended = time.monotonic()
        while True:
            self._wake.wait(BUSY_S if self._is_busy else PERIOD_S)
            self._wake.clear()
            if self._closing:
                return
            try:
                self._look_at_all()
                if self._is_touched or time.monotonic() - mended >= PERIOD_S:
                    self._is_touched, mended = False, time.monotonic()
                    self._mend_all()
            except Exception:
                log.exception("upkeep")  # the next look may fare better

    def _look_at_all(self) -> None:
        now, suspects = time.monotonic(), self._suspects.copy()
        self._is_busy = False
        for key in suspects:
            if self._repairs.not_before(key, now) > now:
                continue  # has its turn when the thread wakes by itself
            with self._locks.free(key.container_id) as is_free:
                if is_free:
                    self._suspects.discard(key)
                    self._look_at(key, now)
                self._is_busy |= not is_free
        self._repairs.keep({record.key for record in self._journal.records()})

    def _look_at(self, key: Key, now: float) -> None:
        record = self._journal.record(key)
        if record is not None and record.origin is Origin.RUNTIME and record.phase is Phase.ATTACHED:
            self._look(record, now)

    def _look(self, record: Record, now: float) -> None:
        try:
            found = self._inspector.look(record, shared=True, repair=False)
            self.found(record.key, now, is_wrong=bool(found.differences))
            if found.differences and not found.problem and self._inspector.repairs(record):
                self._repairs.tried(record.key, now, "")
                found = self._inspector.look(record, shared=True, repair=True)
        except (NotReady, errors.CNIError) as problem:
            log.warning("%s: cannot be looked at: %s", record.key, problem)
            return
        if not found.differences:
            self._repairs.well(record.key, now)
        elif self._repairs.drifted(record.key, found.differences, found.problem):
            log.warning("%s has drifted: %s: %s", record.key, "; ".join(found.differences), found.problem or "repaired")

    def _mend_all(self) -> None:
        problems = {
            record.key: problem for record in _ordered(self._journal.records()) if (problem := self._mend(record))
        }
        for key, problem in problems.items():
            if self._told.get(key) != problem:
                log.warning("%s: %s", key, problem)
        self._told = problems

    def _mend(self, record: Record) -> str:
        """Return what is in the way; "": nothing."""
        try:
            for config in _natives(record):
                self._native.mend(record.key, config)
        except errors.CNIError as problem:
            return str(problem)
        return ""


def _ordered(records: Iterable[Record]) -> list[Record]:
    """Return the records in the order of their ADDs, but the first of each configuration before all others (rule 2)."""
    in_order = sorted(records, key=lambda record: record.sequence)
    first = {record.config: record.sequence for record in reversed(in_order)}
    return sorted(in_order, key=lambda record: first[record.config] != record.sequence)


def _natives(record: Record) -> Iterator[Mapping[str, Any]]:
    """Yield the configurations of an attachment's native devices. Raises CNIError 6 or 7 for an invalid record."""
    net = network.parse(record.config, record.network.rpartition("/")[2])
    for plugin in net.plugins:
        if plugin["type"] == TYPE:
            yield network.plugin_stdin(net, plugin, prev_result=None, runtime={}, cni_args=None, device_id="")
