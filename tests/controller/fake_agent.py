"""A node agent without a node: the real gRPC service, with a table where the kernel would be.

It attaches what it is asked, but for what a test makes fail, and remembers every request with its time.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc

from agent.api import agent_pb2 as api
from agent.api import agent_pb2_grpc


@dataclass
class FakePod:
    desired: Any = None
    links: dict[str, tuple[str, str]] = field(default_factory=dict)  # interface -> (network, element)
    released: set[str] = field(default_factory=set)
    sandbox: str = "sandbox-1"
    outcome: Any = None


class FakeAgent(agent_pb2_grpc.AgentServicer):
    """`failures` by network: (state, reason, message). `is_silent`: takes everything and says nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[queue.Queue[Any]] = []
        self.pods: dict[str, FakePod] = {}
        self.applied: list[tuple[float, Any]] = []
        self.failures: dict[str, tuple[int, str, str]] = {}
        self.is_silent = False
        self.refuse: grpc.StatusCode | None = None
        self.underlays: list[Any] = []

    def Apply(self, request: Any, context: Any) -> Any:
        if self.refuse is not None:
            context.abort(self.refuse, "as the test wants it")
        with self._lock:
            self.applied.append((time.monotonic(), request))
            before = self.pods.get(request.pod.uid)
            if before is not None and before.desired.pod != request.pod:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the UID is another pod's")
            pod = self.pods.setdefault(request.pod.uid, FakePod())
            pod.desired = request
            if not self.is_silent:
                self._settle(request.pod.uid)
        return api.ApplyResponse()

    def SetUnderlay(self, request: Any, context: Any) -> Any:
        if self.refuse is not None:
            context.abort(self.refuse, "as the test wants it")
        self.underlays.append(request)
        return api.SetUnderlayResponse()

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        news: queue.Queue[Any] = queue.Queue()
        with self._lock:
            known = [pod.outcome for pod in self.pods.values() if pod.outcome is not None]
            self._listeners.append(news)
        context.add_callback(lambda: news.put(None))
        yield from known
        yield api.Outcome(synced=True)
        yield from iter(news.get, None)

    def settle(self, uid: str) -> None:
        """Look at the pod again, as the agent does when a retry is due."""
        with self._lock:
            self._settle(uid)

    def say(self, outcome: Any) -> None:
        """Tell an outcome of the test's making."""
        with self._lock:
            self._say(outcome)

    def requests(self, uid: str) -> list[Any]:
        with self._lock:
            return [request for _, request in self.applied if request.pod.uid == uid]

    def _settle(self, uid: str) -> None:
        pod = self.pods[uid]
        request = pod.desired
        wanted = {} if request.ended else self._named(pod, request.attachments)
        stays = set() if request.ended else {*request.keep, *_held(request.attachments)}
        changed = [name for name, link in pod.links.items() if wanted.get(name) != link]
        for interface in [name for name in changed if name not in stays]:
            network, _ = pod.links.pop(interface)
            pod.released.add(f"{interface} {network}")
        progress = [] if request.ended else [self._attach(pod, *item) for item in enumerate(request.attachments)]
        present = {f"{name} {network}" for name, (network, _) in pod.links.items()}
        outcome = api.Outcome(
            pod=request.pod,
            revision=request.revision,
            settled=True,
            attachments=progress,
            released=sorted(pod.released - present),
            forgotten=request.ended,
            sandbox=pod.sandbox,
        )
        if request.ended:
            del self.pods[uid]
        self._say(outcome)

    def _named(self, pod: FakePod, attachments: Any) -> dict[str, tuple[str, str]]:
        named: dict[str, tuple[str, str]] = {}
        for one in attachments:
            element = json.loads(one.element)
            network = f"{element['namespace']}/{element['name']}"
            kept = next((name for name, link in pod.links.items() if link[1] == one.element and name not in named), "")
            free = next(f"net{n}" for n in range(1, 99) if f"net{n}" not in {*named, *pod.links})
            named[element.get("interface") or kept or free] = (network, one.element)
        return named

    def _attach(self, pod: FakePod, position: int, one: Any) -> Any:
        element = json.loads(one.element)
        network = f"{element['namespace']}/{element['name']}"
        interface = next((name for name, link in pod.links.items() if link[1] == one.element), "")
        about = {"position": position, "network": network, "interface": interface or element.get("interface", "")}
        if not interface:
            if not pod.sandbox:
                return api.AttachmentOutcome(**about, state=api.PENDING, reason="NoSandbox", message="none yet")
            if one.HasField("hold"):
                hold = one.hold
                return api.AttachmentOutcome(**about, state=hold.state, reason=hold.reason, message=hold.message)
            if network in self.failures:
                state, reason, message = self.failures[network]
                return api.AttachmentOutcome(**about, state=state, reason=reason, message=message, attempts=1)
            taken = {*pod.links, *(json.loads(other.element).get("interface") for other in pod.desired.attachments)}
            interface = element.get("interface") or next(f"net{n}" for n in range(1, 99) if f"net{n}" not in taken)
            pod.links[interface] = (network, one.element)
        result = {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": interface, "mac": element.get("mac", "02:00:00:00:00:01"), "sandbox": "/netns"}],
            "ips": [{"address": "10.9.0.7/24", "interface": 0}],
        }
        return api.AttachmentOutcome(**about | {"interface": interface}, state=api.ATTACHED, result=json.dumps(result))

    def _say(self, outcome: Any) -> None:
        pod = self.pods.get(outcome.pod.uid)
        if pod is not None:
            pod.outcome = outcome
        for listener in self._listeners:
            listener.put(outcome)


def _held(attachments: Any) -> Iterator[str]:
    """Yield the names under which what is attached stays, for their elements cannot be attached now."""
    yield from (json.loads(one.element).get("interface", "") for one in attachments if one.HasField("hold"))


@contextlib.contextmanager
def serving(agent: FakeAgent, target: str) -> Iterator[Callable[[], None]]:
    """Serve the agent; yields how to kill the server before its time."""
    server = grpc.server(futures.ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
    agent_pb2_grpc.add_AgentServicer_to_server(agent, server)
    server.add_insecure_port(target)
    server.start()

    def kill() -> None:
        server.stop(None).wait()

    try:
        yield kill
    finally:
        kill()
