"""When things happen after an edit, to a fraction of a millisecond: by notification, never by polling."""

import json
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from urllib3.exceptions import HTTPError

from agent import netns
from e2e.node import Node
from e2e.pods import STATUS, Pod

_RTMGRP_LINK, _NEWLINK, _DELLINK = 1, 16, 17


class Seen:
    """When a name came and went, as a thread notes it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[tuple[float, str, bool]] = []

    def note(self, name: str, *, present: bool) -> None:
        with self._changed:
            self._events.append((time.perf_counter(), name, present))
            self._changed.notify_all()

    def wait(self, name: str, since: float, *, present: bool) -> float:
        """Return the milliseconds from `since` until the first such event after it."""

        def found() -> float | None:
            return next((at for at, who, how in self._events if at > since and (who, how) == (name, present)), None)

        with self._changed:
            if not self._changed.wait_for(lambda: found() is not None, 10):
                raise TimeoutError(f"{name} present={present}")
            return (float(found() or 0) - since) * 1000


@contextmanager
def pod_links(node: Node, pod: Pod, interface: str) -> Iterator[Seen]:
    """Note the kernel's notifications of a link in the pod's namespace."""
    seen, stop = Seen(), threading.Event()
    with _namespace(node, pod) as fd:
        monitor = netns.netlink_socket(fd)
    monitor.bind((0, _RTMGRP_LINK))

    def run() -> None:
        while not stop.is_set():
            if select.select([monitor], [], [], 0.2)[0]:
                data = monitor.recv(1 << 16)
                kind = int.from_bytes(data[4:6], sys.byteorder)
                if kind in (_NEWLINK, _DELLINK) and interface.encode() + b"\0" in data:
                    seen.note(interface, present=kind == _NEWLINK)

    with monitor:
        yield from _watching(seen, run, stop.set)


def published(pod: Pod, interface: str) -> AbstractContextManager[Seen]:
    """Note when the published status gains and loses an interface, from a watch on the pod."""
    return annotated(pod, STATUS, interface)


@contextmanager
def annotated(pod: Pod, key: str, interface: str) -> Iterator[Seen]:
    """Note when the list in an annotation gains and loses an interface, from a watch on the pod."""
    seen = Seen()
    response = pod.namespace.api.core.list_namespaced_pod(
        pod.namespace.name,
        watch=True,
        field_selector=f"metadata.name={pod.name}",
        timeout_seconds=600,
        _preload_content=False,
    )

    def run() -> None:
        before = False
        for line in lines(response):
            text = json.loads(line)["object"]["metadata"].get("annotations", {}).get(key) or "[]"
            now = any(entry.get("interface") == interface for entry in json.loads(text))
            if now != before:
                seen.note(interface, present=now)
            before = now

    yield from _watching(seen, run, lambda: hang_up(response))


def lines(response: Any) -> Iterator[str]:
    """Yield the lines of a watch as they come, until `hang_up` or its end."""
    rest = b""
    try:
        while chunk := response.read1(1 << 16):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode() for line in whole if line)
    except (OSError, HTTPError):
        return
    finally:
        response.close()


def hang_up(response: Any) -> None:
    """End a watch that another thread reads."""
    response.connection.sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def _namespace(node: Node, pod: Pod) -> Iterator[int]:
    selector = f'labels."io.kubernetes.pod.uid"=={pod.uid},labels."io.cri-containerd.kind"==sandbox'
    sandbox = node.exec(["ctr", "-n", "k8s.io", "containers", "ls", "-q", selector]).stdout.strip()
    tasks = node.exec(["ctr", "-n", "k8s.io", "tasks", "ls"]).stdout.splitlines()
    pid = next(line.split()[1] for line in tasks if line.startswith(sandbox))
    with node.path(f"/proc/{pid}/ns/net").open("rb") as file:
        yield file.fileno()


def _watching(seen: Seen, run: Callable[[], None], stop: Callable[[], None]) -> Iterator[Seen]:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop()
        thread.join()
