"""Garbage collection against all else, network by network: while one collects, nobody adds or deletes (SPEC 1.1.0 §2).

A plugin's GC removes what is not on a list. An attachment that is begun after the list was made is not on it.

Rules
1. Attachments never wait for each other here, and never for one who waits to collect: collecting is what can wait.
2. Who collects holds nobody up for longer than its own deadline. It asks for no sandbox's lock meanwhile: those who
   change an attachment hold one when they come here, and so wait no longer than that either.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cni import errors

PATIENCE_S = 15.0  # of those who change an attachment; above the deadline of any collection


class Busy(Exception):
    """Attachments of the network are changed all the time, or somebody collects."""


class Gates:
    """By network name, as plugins know it."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._changing: Counter[str] = Counter()
        self._collecting: set[str] = set()

    @contextmanager
    def changing(self, network: str) -> Iterator[None]:
        """Be one of any number who change an attachment of the network. Raises CNIError 11 where one collects still."""
        with self._turn:
            if not self._turn.wait_for(lambda: network not in self._collecting, PATIENCE_S):
                raise errors.CNIError(errors.Code.TRY_AGAIN, f"network {network} is being collected")
            self._changing[network] += 1
        try:
            yield
        finally:
            with self._turn:
                self._changing[network] -= 1
                if not self._changing[network]:
                    del self._changing[network]
                self._turn.notify_all()

    @contextmanager
    def collecting(self, network: str, patience_s: float) -> Iterator[None]:
        """Be the only one at the network. Raises Busy where that does not come within the patience."""
        with self._turn:
            if not self._turn.wait_for(lambda: not self._is_used(network), patience_s):
                raise Busy(f"network {network} is in use")
            self._collecting.add(network)
        try:
            yield
        finally:
            with self._turn:
                self._collecting.discard(network)
                self._turn.notify_all()

    def _is_used(self, network: str) -> bool:
        return network in self._collecting or network in self._changing
