"""Locks by name: one per sandbox, shared by the hotplug engine and the CNI server, and one per segment that sandboxes
share (agent.devices.contract, rule 6); no lock for the node.

CNI forbids parallel operations on one container (SPEC 1.1.0 §3); containers never wait for each other, but where one
makes what another takes away.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager


class Locks:
    """Locks by container ID or another name, made when needed and dropped when nobody holds or awaits them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def held(self, names: Collection[str]) -> Iterator[None]:
        """Hold all these locks; sorted, so that two callers never wait for each other in a circle."""
        with ExitStack() as stack:
            for name in sorted(names):
                stack.enter_context(self._one(name))
            yield

    @contextmanager
    def free(self, name: str) -> Iterator[bool]:
        """Hold this lock if nobody has it; the body of the `with` is told whether it is held."""
        with self._counted(name) as lock:
            is_held = lock.acquire(blocking=False)
            try:
                yield is_held
            finally:
                if is_held:
                    lock.release()

    @contextmanager
    def _one(self, name: str) -> Iterator[None]:
        with self._counted(name) as lock, lock:
            yield

    @contextmanager
    def _counted(self, name: str) -> Iterator[threading.Lock]:
        with self._guard:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, users + 1)
        try:
            yield lock
        finally:
            with self._guard:
                lock, users = self._locks[name]
                if users == 1:
                    del self._locks[name]
                else:
                    self._locks[name] = (lock, users - 1)
