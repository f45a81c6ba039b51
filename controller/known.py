"""The latest of each API object, as listed, watched, and answered to our own writes.

Rules
1. A list is the truth at its time: what it has not got is gone.
2. A watch may lag behind the answer to our own write; what is older than what is known is passed over.
3. An object that cannot be dealt with is its own misfortune: told, and the others are dealt with.
4. Versions are compared as numbers, as Kubernetes has allowed since 1.35. Where they are none, the newcomer wins.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class Versioned(Protocol):
    @property
    def resource_version(self) -> str: ...


T = TypeVar("T", bound=Versioned)


class Table(Generic[K, T]):
    """Safe for many threads. `changed(old, new)` is called without the lock, None for what was or is not there."""

    def __init__(self, key: Callable[[T], K], changed: Callable[[T | None, T | None], None]) -> None:
        self._key = key
        self._changed = changed
        self._lock = threading.Lock()
        self._items: dict[K, T] = {}
        self.listed_once = threading.Event()

    def get(self, key: K) -> T | None:
        return self._items.get(key)

    def keys(self) -> tuple[K, ...]:
        with self._lock:
            return tuple(self._items)

    def list(self, items: Iterable[T]) -> None:
        """Take over a whole list (rule 1)."""
        new = {self._key(item): item for item in items}
        with self._lock:
            old, self._items = self._items, new.copy()
        for key in {**old, **new}:
            self._tell(key, old.get(key), new.get(key))
        self.listed_once.set()

    def change(self, item: T) -> None:
        """Take over an object that was added or changed."""
        key = self._key(item)
        with self._lock:
            old = self._items.get(key)
            if old is not None and not _is_newer(item, old):
                return
            self._items[key] = item
        self._tell(key, old, item)

    def delete(self, item: T) -> None:
        key = self._key(item)
        with self._lock:
            old = self._items.pop(key, None)
        if old is not None:
            self._tell(key, old, None)

    def refresh(self, item: T) -> T | None:
        """Take over what a read or a write answered. It brings back nothing that was deleted, and calls nobody.

        Return what it has replaced, which is all that the watch will not tell of any more; None: nothing.
        """
        key = self._key(item)
        with self._lock:
            old = self._items.get(key)
            if old is None or not _is_newer(item, old):
                return None
            self._items[key] = item
            return old

    def _tell(self, key: K, old: T | None, new: T | None) -> None:
        try:
            self._changed(old, new)
        except Exception:  # rule 3
            log.exception("%s: a bug; this change is passed over", key)


def _is_newer(item: Versioned, than: Versioned) -> bool:
    try:
        return int(item.resource_version) > int(than.resource_version)
    except ValueError:
        return item.resource_version != than.resource_version
