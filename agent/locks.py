"""One lock per sandbox, shared by the hotplug engine and the CNI server; no lock for the node.

CNI forbids parallel operations on one container (SPEC 1.1.0 §3); containers never wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from agent.model import ContainerID


class Locks:
    """Locks by container ID, made when needed and dropped when nobody holds or awaits them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[ContainerID, tuple[threading.Lock, int]] = {}

    @contextmanager
    def held(self, container_ids: Collection[ContainerID]) -> Iterator[None]:
        """Hold the locks of all these sandboxes; sorted, so that two callers never wait for each other in a circle."""
        with ExitStack() as stack:
            for container_id in sorted(container_ids):
                stack.enter_context(self._one(container_id))
            yield

    @contextmanager
    def _one(self, container_id: ContainerID) -> Iterator[None]:
        with self._guard:
            lock, users = self._locks.get(container_id, (threading.Lock(), 0))
            self._locks[container_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[container_id]
                if users == 1:
                    del self._locks[container_id]
                else:
                    self._locks[container_id] = (lock, users - 1)
