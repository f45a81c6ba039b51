"""The controller's door: the declarative API (agent/api/agent.proto) on <run-dir>/agent.sock.

Rules
1. Messages become the agent's values here and values become messages; nothing else happens in this module.
2. Root may connect, and a group where one is told. The file system sees to that: connect(2) asks for the right to write
   to the socket. grpc does not tell who its peer is, nor takes a connection that somebody else has looked at.
3. Every Watch holds a thread while it lasts. At most WATCHERS are served at a time: the other calls keep theirs.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from agent import underlay
from agent.api import agent_pb2 as api
from agent.api import agent_pb2_grpc
from agent.engine import Engine
from agent.model import (
    KUBEVIRT,
    AttachmentOutcome,
    Desired,
    Guest,
    Hold,
    NotReady,
    Outcome,
    Pod,
    PodUID,
    Refused,
    State,
    Wanted,
)
from agent.outcomes import Outcomes
from agent.pool import Pool
from cni import multinet

WATCHERS = 16
OTHERS = 32  # calls at a time besides, and refusals of watchers
STARTING_S = 0.01  # how soon after the last of what was known `synced` is said
ALIVE_S = 5.0  # how long a watcher that hung up may hold its thread

_STATES = {State.PENDING: api.PENDING, State.ATTACHED: api.ATTACHED, State.REFUSED: api.REFUSED,
           State.DETACHING: api.DETACHING}  # fmt: skip
_HOLDS = {api.PENDING: State.PENDING, api.REFUSED: State.REFUSED}


class Servicer(agent_pb2_grpc.AgentServicer):
    """The service, over the engine's `apply`, the outcomes, and `tell` for who wants to know of the underlay."""

    def __init__(
        self,
        engine: Engine,
        outcomes: Outcomes,
        tell: Callable[[underlay.Underlay], None],
        waiting_for: Callable[[], tuple[str, ...]],
        version: str,
    ) -> None:
        self._engine = engine
        self._outcomes = outcomes
        self._tell = tell
        self._waiting_for = waiting_for
        self._version = version
        self._places = threading.BoundedSemaphore(WATCHERS)

    def Apply(self, request: Any, context: Any) -> Any:
        try:
            desired = _desired(request)
        except ValueError as problem:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        try:
            self._engine.apply(desired)
        except Refused as problem:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(problem))
        except NotReady as problem:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(problem))
        return api.ApplyResponse()

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: ARG002 the generated signature
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {WATCHERS} watchers already")
        try:
            yield from self._watched(context)
        finally:
            self._places.release()

    def _watched(self, context: Any) -> Iterator[Any]:
        with self._outcomes.listen() as listener:
            context.add_callback(listener.close)
            synced = False
            while context.is_active() and not listener.is_closed:
                outcome = listener.next(ALIVE_S if synced else STARTING_S)
                if outcome is not None:
                    yield _message(outcome)
                elif not synced and self._engine.caught_up():
                    synced = True
                    yield api.Outcome(synced=True)

    def List(self, request: Any, context: Any) -> Any:  # noqa: ARG002 the generated signature
        return api.ListResponse(outcomes=[_message(outcome) for outcome in self._outcomes.latest()])

    def SetUnderlay(self, request: Any, context: Any) -> Any:
        try:
            told = underlay.told(request.address, {peer.node: peer.address for peer in request.peers})
        except ValueError as problem:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        try:
            self._tell(told)
        except OSError as problem:  # the disk is full, say
            context.abort(grpc.StatusCode.UNAVAILABLE, str(problem))
        return api.SetUnderlayResponse()

    def Health(self, request: Any, context: Any) -> Any:  # noqa: ARG002 the generated signature
        waiting = self._waiting_for()
        return api.HealthResponse(ready=not waiting, waiting_for=waiting, version=self._version)


def serve(servicer: Servicer, run_dir: Path, group: int | None = None) -> Any:
    """Start the server and return it; the caller stops it. `group`: a number, may connect besides root.

    Raises PermissionError for a group that is neither this process's nor may be given by it.
    """
    options = (("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0))
    server = grpc.server(Pool(WATCHERS + OTHERS, thread_name_prefix="grpc"), options=options)
    agent_pb2_grpc.add_AgentServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    path = run_dir / "agent.sock"
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix://{path.absolute()}")
    finally:
        os.umask(mask)
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(0o660)
    server.start()
    return server


def _desired(request: Any) -> Desired:
    """Raises ValueError for what no controller of ours would send."""
    pod = request.pod
    if not pod.uid or not pod.namespace or not pod.name:
        raise ValueError("pod: uid, namespace and name are required")
    return Desired(
        pod=Pod(PodUID(pod.uid), pod.namespace, pod.name),
        revision=request.revision,
        attachments=tuple(_wanted(one, position) for position, one in enumerate(request.attachments)),
        ended=request.ended,
        keep=tuple(request.keep),
        vm=_vm(request),
    )


def _vm(request: Any) -> str:
    """Return what is reached, and how. An annotation that spells KUBEVIRT is only a wrong one (agent.guests.wish)."""
    if request.kubevirt:
        return KUBEVIRT
    text = str(request.vm)
    return text if text != KUBEVIRT else f" {text}"  # for readers of JSON the same, and for nobody else


def _wanted(message: Any, position: int) -> Wanted:
    try:
        selection = multinet.from_json(message.element)
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"attachments[{position}].element: {problem}") from None
    hold = None
    if message.HasField("hold"):
        if message.hold.state not in _HOLDS:
            raise ValueError(f"attachments[{position}].hold.state must be PENDING or REFUSED")
        hold = Hold(_HOLDS[message.hold.state], message.hold.reason, message.hold.message)
    return Wanted(selection, message.config, message.nad_uid, message.nad_resource_version, hold)


def _message(outcome: Outcome) -> Any:
    return api.Outcome(
        pod=api.Pod(uid=outcome.pod.uid, namespace=outcome.pod.namespace, name=outcome.pod.name),
        revision=outcome.revision,
        settled=outcome.settled,
        attachments=[_attachment(one) for one in outcome.attachments],
        released=outcome.released,
        forgotten=outcome.forgotten,
        sandbox=outcome.sandbox,
    )


def _attachment(one: AttachmentOutcome) -> Any:
    return api.AttachmentOutcome(
        position=one.position,
        state=_STATES[one.state],
        network=one.network,
        interface=one.interface,
        result=json.dumps(one.result) if one.result is not None else "",
        reason=one.reason,
        message=one.message,
        attempts=one.attempts,
        guest=_guest(one.guest) if one.guest else None,
    )


def _guest(guest: Guest) -> Any:
    return api.Guest(
        state=guest.state,
        interface=guest.interface,
        mac=guest.mac,
        addresses=guest.addresses,
        port=guest.port,
        evidence=guest.evidence,
    )
