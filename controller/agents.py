"""The node agent over gRPC (agent/api/agent.proto). Messages become values here, and values messages.

Rules
1. Every call has a deadline; the stream of outcomes has none, and is asked for again for ever.
2. The agent is connected once it has told everything that it knows.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import grpc

from agent.api import agent_pb2 as api
from agent.api import agent_pb2_grpc
from controller.desired import Attachment, Desired
from controller.model import Guest, Outcome, PodRef, PodUID, Progress, State
from controller.nodes import Underlay
from controller.reconcile import Rejected
from controller.watch import Backoff
from controller.workers import Unavailable

DEADLINE_S = 5.0  # the agent answers once the wish is on its disk

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2000),  # which is how long an attempt may take, on a node that is busy too
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
)
_STATES = {
    api.PENDING: State.PENDING,
    api.ATTACHED: State.ATTACHED,
    api.REFUSED: State.REFUSED,
    api.DETACHING: State.DETACHING,
}
_NUMBERS = {state: number for number, state in _STATES.items()}

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who wants to know what the agent says."""

    def synced(self, outcomes: Iterable[Outcome]) -> None: ...

    def told(self, outcome: Outcome) -> None: ...

    def lost(self) -> None: ...


class Listeners:
    """Several that want to know."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def synced(self, outcomes: Iterable[Outcome]) -> None:
        known = tuple(outcomes)
        for one in self._listeners:
            one.synced(known)

    def told(self, outcome: Outcome) -> None:
        for one in self._listeners:
            one.told(outcome)

    def lost(self) -> None:
        for one in self._listeners:
            one.lost()


class Agents:
    """One agent's client; safe for many threads."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._stub = agent_pb2_grpc.AgentStub(self._channel)  # type: ignore[no-untyped-call]
        self._target = target

    def apply(self, ref: PodRef, wish: Desired) -> None:
        """Replace the pod's desired set."""
        attachments = [_attachment(one) for one in wish.attachments]
        request = api.ApplyRequest(
            pod=_pod(ref), revision=wish.revision, attachments=attachments, keep=wish.keep, vm=wish.vm,
            kubevirt=wish.is_kubevirts,
        )  # fmt: skip
        self._send(self._stub.Apply, request)

    def end(self, ref: PodRef) -> None:
        """Have everything of the pod detached, and the pod forgotten."""
        self._send(self._stub.Apply, api.ApplyRequest(pod=_pod(ref), ended=True))

    def set_underlay(self, told: Underlay) -> None:
        """Tell what the nodes' addresses are."""
        peers = [api.Peer(node=name, address=address) for name, address in told.peers.items()]
        self._send(self._stub.SetUnderlay, api.SetUnderlayRequest(address=told.address, peers=peers))

    def follow(self, listener: Listener, stop: threading.Event) -> None:
        """Tell the listener whatever the agent says, until `stop`."""
        backoff = Backoff(0.05, 1.0, random.random)
        while not stop.is_set():
            try:
                for _ in self._stream(listener):
                    backoff.succeeded()
                log.warning("agent %s: ended its stream of outcomes", self._target)
            except grpc.RpcError as problem:
                if not stop.is_set():
                    log.warning("agent %s: %s", self._target, _text(problem))
            listener.lost()
            stop.wait(backoff.after_failure())

    def close(self) -> None:
        self._channel.close()

    def _stream(self, listener: Listener) -> Iterable[None]:
        known: list[Outcome] | None = []
        for message in self._stub.Watch(api.WatchRequest(), wait_for_ready=True):
            if known is None:
                listener.told(_outcome(message))
            elif message.synced:
                listener.synced(known)
                known = None
            else:
                known.append(_outcome(message))
            yield

    def _send(self, call: Callable[..., Any], request: Any) -> None:
        try:
            call(request, timeout=DEADLINE_S)
        except grpc.RpcError as problem:
            error = Rejected if problem.code() is grpc.StatusCode.FAILED_PRECONDITION else Unavailable
            raise error(f"agent {self._target}: {_text(problem)}") from None


def _pod(ref: PodRef) -> Any:
    return api.Pod(uid=ref.uid, namespace=ref.namespace, name=ref.name)


def _attachment(one: Attachment) -> Any:
    message = api.Attachment(
        element=one.element,
        config=one.config,
        nad_uid=one.nad_uid,
        nad_resource_version=one.nad_resource_version,
    )
    if one.hold is not None:
        hold = api.Hold(state=_NUMBERS[one.hold.state], reason=one.hold.reason, message=one.hold.message)
        message.hold.CopyFrom(hold)
    return message


def _outcome(message: Any) -> Outcome:
    return Outcome(
        pod=PodRef(PodUID(message.pod.uid), message.pod.namespace, message.pod.name),
        revision=message.revision,
        settled=message.settled,
        attachments=tuple(_progress(one) for one in message.attachments if one.state in _STATES),
        released=tuple(message.released),
        forgotten=message.forgotten,
        sandbox=message.sandbox,
    )


def _progress(message: Any) -> Progress:
    return Progress(
        position=message.position,
        state=_STATES[message.state],
        network=message.network,
        interface=message.interface,
        result=message.result,
        reason=message.reason,
        message=message.message,
        attempts=message.attempts,
        guest=_guest(message.guest) if message.HasField("guest") else None,
    )


def _guest(message: Any) -> Guest:
    return Guest(
        state=message.state,
        interface=message.interface,
        mac=message.mac,
        addresses=tuple(message.addresses),
        port=message.port,
        evidence=message.evidence,
    )


def _text(problem: Any) -> str:
    return f"{problem.code().name}: {problem.details()}"
