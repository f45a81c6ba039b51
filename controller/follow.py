"""List, then watch, for ever: what there is of one kind, and every change of it, whatever the API server goes through.

Rules
1. A watch that ends is taken up where it ended. A new list is made only where that is impossible: it costs the API
   server much, and all nodes would ask for it at the same time.
2. Whatever fails is waited for, longer each time, each node a little differently.
3. An object that cannot be read is passed over, and told of; where it was deleted, the list must say so.
4. A kind that the API server does not know (yet) has no objects; it is asked for again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from controller import watch
from controller.workers import Unavailable

FIRST_RETRY_S, LAST_RETRY_S = 0.2, 10.0
SHORT_S = 1.0  # a watch that ends sooner than this did not end because its time was over

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

log = logging.getLogger(__name__)


class Unknown(Exception):
    """The API server does not know this kind."""


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """What to list and watch, and how to read it."""

    path: str
    read: Callable[[Mapping[str, Any]], T]
    selector: str = ""


class Source(Protocol):
    """The API server. Every call may raise Unavailable, Unknown, watch.Expired, watch.Broken."""

    def list(self, path: str, selector: str) -> tuple[Sequence[Mapping[str, Any]], str]:
        """Return all objects and the version to watch from."""
        ...

    def watch(self, path: str, selector: str, version: str) -> Iterator[watch.Change]: ...


class Sink(Protocol[T_contra]):
    """Who wants to know."""

    def list(self, items: Sequence[T_contra]) -> None: ...

    def change(self, item: T_contra) -> None: ...

    def delete(self, item: T_contra) -> None: ...


class Follower(Generic[T]):
    """Follows one resource, on the thread that calls `run`."""

    def __init__(self, source: Source, resource: Resource[T], sink: Sink[T], restarted: Callable[[str], None]) -> None:
        self._source = source
        self._resource = resource
        self._sink = sink
        self._restarted = restarted
        self._version = ""  # to go on from; "": list first
        self._is_known = True
        self._backoff = watch.Backoff(FIRST_RETRY_S, LAST_RETRY_S, random.random)

    def run(self, stop: threading.Event) -> None:
        """Tell the sink what there is and what changes, until `stop`."""
        while not stop.is_set():
            started = time.monotonic()
            self._run_once()
            is_short = time.monotonic() - started < SHORT_S
            if not is_short:
                self._backoff.succeeded()
            if is_short or not self._version:
                stop.wait(self._backoff.after_failure())
            if not stop.is_set():
                self._restarted(self._resource.path)

    def _run_once(self) -> None:
        path, is_old = self._resource.path, bool(self._version)
        try:
            if not is_old:
                self._list()
            self._watch()
        except watch.Expired as problem:
            log.info("%s: too far behind, will be listed again: %s", path, problem)
            self._version = ""
            if is_old:  # the API server is well, it was we who were away
                self._backoff.succeeded()
        except Unknown as problem:
            if self._is_known:
                log.warning("%s; there are none until it exists", problem)
            self._version, self._is_known = "", False
            self._sink.list(())
        except Unavailable as problem:
            log.warning("%s", problem)
        except watch.Broken as problem:
            log.warning("%s: will be listed again: %s", path, problem)
            self._version = ""
        except Exception:
            log.exception("%s: a bug; will be listed again", path)
            self._version = ""

    def _list(self) -> None:
        documents, version = self._source.list(self._resource.path, self._resource.selector)
        self._sink.list([item for document in documents if (item := self._read(document)) is not None])
        self._version, self._is_known = version, True

    def _watch(self) -> None:
        for change in self._source.watch(self._resource.path, self._resource.selector, self._version):
            match change.verb:
                case watch.Verb.ADDED | watch.Verb.MODIFIED:
                    if (item := self._read(change.document)) is not None:
                        self._sink.change(item)
                case watch.Verb.DELETED:
                    if (item := self._read(change.document)) is None:
                        raise watch.Broken("an object that cannot be read was deleted")
                    self._sink.delete(item)
                case watch.Verb.BOOKMARK:
                    pass
            self._version = change.version
            self._backoff.succeeded()

    def _read(self, document: Mapping[str, Any]) -> T | None:
        try:
            return self._resource.read(document)
        except Exception:  # rule 3
            metadata = document.get("metadata") or {}
            name = f"{metadata.get('namespace')}/{metadata.get('name')}"
            log.exception("%s: %s cannot be read; passed over", self._resource.path, name)
            return None
