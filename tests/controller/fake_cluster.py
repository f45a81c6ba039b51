"""An API server without a server: pods as documents, JSON Patch as the real one applies it, a watch that can lag.

How the real one applies a patch was looked at on Kubernetes 1.36: a `test` for null holds where the member is absent,
a failed `test` is 422, here a Conflict.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from controller.model import Event, Pod, PodRef, pod_from
from controller.reconcile import Conflict, Gone
from controller.workers import Unavailable


class FakeCluster:
    """Tells `watchers` of every change, at once, or when `catch_up` is called while `lags`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._version = 100
        self._documents: dict[str, dict[str, Any]] = {}
        self._backlog: list[tuple[Pod, bool]] = []
        self.changed: Callable[[Pod], None] = lambda _: None
        self.deleted: Callable[[Pod], None] = lambda _: None
        self.lags = False
        self.is_down = False
        self.refuses_events = False
        self.loses_answers = 0  # to patches that are made all the same
        self.before_patch: Callable[[], None] = lambda: None
        self.writes: list[str] = []
        self.events: list[Event] = []

    # -- as the controller uses it ------------------------------------------------------------------------------------

    def find(self, ref: PodRef) -> Pod | None:
        self._check()
        with self._lock:
            document = self._documents.get(ref.name)
            return None if document is None else pod_from(document)

    def patch_status(self, pod: Pod, operations: Sequence[Mapping[str, Any]]) -> Pod:
        self._check()
        self.before_patch()
        with self._lock:
            if pod.ref.name not in self._documents:
                raise Gone(pod.ref.name)
            document = patched(self._documents[pod.ref.name], operations)
            self.writes.append("status")
            pod = self._put(document)
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unavailable("API server: connection reset")
        return pod

    def tell(self, pod: Pod, event: Event) -> None:
        self._check()
        if self.refuses_events:
            raise Unavailable("no events today")
        self.writes.append("event")
        self.events.append(event)

    # -- as its users do ----------------------------------------------------------------------

    def put(self, document: dict[str, Any]) -> Pod:
        """Create or replace a pod."""
        with self._lock:
            return self._put(document)

    def annotate(self, name: str, **annotations: str | None) -> Pod:
        """Set annotations by the last part of their keys; None removes."""
        with self._lock:
            document = copy.deepcopy(self._documents[name])
            held = document["metadata"].setdefault("annotations", {})
            for key, text in annotations.items():
                full = f"k8s.v1.cni.cncf.io/{key.replace('_', '-')}"
                held.pop(full, None)
                held.update({} if text is None else {full: text})
            return self._put(document)

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> Pod:
        with self._lock:
            document = copy.deepcopy(self._documents[name])
            change(document)
            return self._put(document)

    def delete(self, name: str) -> None:
        with self._lock:
            self._send(pod_from(self._documents.pop(name)), is_deleted=True)

    def catch_up(self) -> None:
        """Let the watch show everything that it held back."""
        with self._lock:
            self.lags = False
            backlog, self._backlog = self._backlog, []
        for pod, is_deleted in backlog:
            (self.deleted if is_deleted else self.changed)(pod)

    def pod(self, name: str = "p") -> Pod:
        return pod_from(self._documents[name])

    def pods(self) -> list[Pod]:
        return [pod_from(document) for document in self._documents.values()]

    def _put(self, document: dict[str, Any]) -> Pod:
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)
        self._documents[document["metadata"]["name"]] = document
        pod = pod_from(copy.deepcopy(document))
        self._send(pod, is_deleted=False)
        return pod

    def _send(self, pod: Pod, *, is_deleted: bool) -> None:
        if self.lags:
            self._backlog.append((pod, is_deleted))
        else:
            (self.deleted if is_deleted else self.changed)(pod)

    def _check(self) -> None:
        if self.is_down:
            raise Unavailable("API server: connection refused")


def patched(document: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document with the patch applied. Raises Conflict where a test fails."""
    result = copy.deepcopy(dict(document))
    for operation in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place: Any = result
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place.get(part)
            if place is None:
                raise Conflict(f"{operation['path']} is not there")
        _apply(place, last, operation)
    return result


def _apply(place: Any, key: str, operation: Mapping[str, Any]) -> None:
    value = copy.deepcopy(operation["value"])
    match operation["op"], place:
        case "test", list():
            if int(key) >= len(place) or place[int(key)] != value:
                raise Conflict(operation["path"])
        case "test", _:
            if place.get(key) != value:
                raise Conflict(operation["path"])
        case "add", list():
            place.insert(len(place) if key == "-" else int(key), value)
        case "replace", list():
            place[int(key)] = value
        case _:
            place[key] = value
