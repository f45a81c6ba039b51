"""Keeps whole what attachments share on the node (agent.devices.contract, rule 6): an overlay's bridge, its VXLAN link
and the tunnels to the other nodes.

Rules
1. It looks at every attachment in the journal: at the start, when the underlay is another one, and every PERIOD_S
   seconds for what somebody else has changed or taken away. Also at one whose ADD is under way: what is told after that
   has read the last time would else be missed.
2. One attachment of each configuration comes first: with it what it shares is whole, and the others have little to do.
3. What cannot be mended is told once, and again when the reason is another one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent import network
from agent.device import TYPE, Native
from agent.journal import Journal
from agent.model import Key, Record
from cni import errors

PERIOD_S = 20.0

log = logging.getLogger(__name__)


class Upkeep:
    """A thread that mends."""

    def __init__(self, journal: Journal, native: Native) -> None:
        self._journal = journal
        self._native = native
        self._wake = threading.Event()
        self._closing = False
        self._told: dict[Key, str] = {}
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Start, with a look at everything."""
        self._wake.set()
        self._thread.start()

    def touch(self) -> None:
        """Look at everything now."""
        self._wake.set()

    def close(self) -> None:
        """Finish what is under way."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait(PERIOD_S)
            self._wake.clear()
            if self._closing:
                return
            try:
                self._mend_all()
            except Exception:
                log.exception("upkeep")  # the next look may fare better

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
