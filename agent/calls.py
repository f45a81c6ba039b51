"""What the CNI executable's calls do: the six verbs of SPEC 1.1.0 §2, journalled, under the sandbox's lock.

Rules
1. Requests are validated here, in the order of the reference (cni.request); the executable only forwards.
2. The network namespace arrives as a descriptor, opened by the caller: no path can be exchanged under us.
3. A DEL with a record runs the record's configuration. One without still cleans by what is derived from the key.
4. An attachment that was made for a caller who is gone by now is undone: the runtime was told that it failed.
5. The list of a GC is its caller's, who knows nothing of what annotations asked for: that is no victim of it, and what
   plugins of ours get is that list and all of the network that is in the journal. Nor is one whose ADD ends meanwhile.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agent import chain, delegate, device, netns, network, primary
from agent.attach import Attachments, outlives_reboot
from agent.device import Native
from agent.gates import Busy
from agent.journal import Journal
from agent.locks import Locks
from agent.model import ContainerID, Key, NotReady, Origin, Phase, Pod, PodUID, Record, Refused
from cni import errors, request, version, wire

DEADLINES_S = {"ADD": 28.0}  # below the executable's own, so that the answer still finds it
OTHERS_S = 18.0
_GC_PATIENCE_S, _GC_S = 5.0, 13.0  # for those who are at an attachment of the network; for its plugins, who wait then

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the executable prints and returns; `undo` when the answer cannot be delivered (rule 4)."""

    exit_code: int
    stdout: bytes
    undo: Callable[[], None] = lambda: None
    words: bytes = b""  # for stderr: what delegates have said


class Calls:
    """Serves one call at a time for each sandbox, any number of sandboxes side by side."""

    def __init__(
        self,
        journal: Journal,
        native: Native,
        attachments: Attachments,
        locks: Locks,
        waiting_for: Callable[[], tuple[str, ...]],
        networks: primary.Networks,
    ) -> None:
        self._journal = journal
        self._native = native
        self._attachments = attachments
        self._locks = locks
        self._waiting_for = waiting_for
        self._networks = networks

    def handle(self, environ: Mapping[str, str], stdin: bytes, netns_fd: int | None) -> Answer:
        """Serve one call; every failure becomes the error document that the executable prints."""
        with delegate.hearing() as heard:
            answer = self._served(environ, stdin, netns_fd)
        return replace(answer, words=bytes(heard)) if heard else answer

    def _served(self, environ: Mapping[str, str], stdin: bytes, netns_fd: int | None) -> Answer:
        cni_version, command = _version(stdin), environ.get("CNI_COMMAND", "")
        try:
            answer = self._dispatch(environ, stdin, netns_fd)
        except errors.CNIError as problem:
            answer = _refusal(problem, cni_version)
        except NotReady as problem:
            answer = _refusal(errors.CNIError(errors.Code.TRY_AGAIN, str(problem)), cni_version)
        except OSError as problem:  # the node's disk, descriptors, memory
            log.warning("%s for %s: %s", command, environ.get("CNI_CONTAINERID"), problem)
            answer = _refusal(errors.CNIError(errors.Code.TRY_AGAIN, f"NodeError: {problem}"), cni_version)
        except Exception as problem:
            log.exception("%s for %s", command, environ.get("CNI_CONTAINERID"))
            answer = _refusal(
                errors.CNIError(errors.Code.INTERNAL, f"{type(problem).__name__}: {problem}"), cni_version
            )
        return answer

    def _dispatch(self, environ: Mapping[str, str], stdin: bytes, netns_fd: int | None) -> Answer:
        call = request.parse(environ, stdin)
        if primary.is_meant(call.config.raw):
            return self._serve_networks(call, environ, netns_fd)
        env = {name: value for name, value in environ.items() if name.startswith("CNI_")}
        match call.command:
            case "ADD":
                return self._add(call, env, _checked(netns_fd, environ))
            case "DEL":
                self._delete(call, env)
            case "CHECK":
                self._refuse_forbidden(call)
                self._native("CHECK", env, call.config.raw, OTHERS_S, _checked(netns_fd, environ))
            case "STATUS":
                self._status(call, env)
            case "GC":
                self._gc(call, env)
        return Answer(0, b"")

    def _serve_networks(self, call: request.Request, environ: Mapping[str, str], netns_fd: int | None) -> Answer:
        """Of the verbs that are not here, CHECK has its answer in the pod's condition, and GC in the runtime's list."""
        match call.command:
            case "ADD":
                return Answer(0, json.dumps(self._networks.add(call, _checked(netns_fd, environ))).encode())
            case "DEL":
                self._networks.delete(call)
            case "STATUS":
                primary.options(call.config.raw)
                self._refuse_while_waiting()
        return Answer(0, b"")

    def _refuse_while_waiting(self) -> None:
        if waiting := self._waiting_for():
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, f"hotnic agent waits for {'; '.join(waiting)}")

    def _add(self, call: request.Request, env: Mapping[str, str], fd: int) -> Answer:
        ends = time.monotonic() + DEADLINES_S["ADD"]  # for the waits at lock and gate as well
        key = Key(ContainerID(call.container_id), call.ifname)
        self._refuse_forbidden(call)
        self._native.examine(env, call.config.raw)
        with self._locks.held({key.container_id}):
            self._remove_half_made(key)
            record = _record(key, call, netns.identify(fd, call.netns))
            self._refuse_taken_name(record)
            durable = outlives_reboot(network.parse(record.config, call.config.name))
            record = self._journal.begin(record, durable=durable)
            try:
                with self._attachments.gates.changing(call.config.name):
                    document = self._native("ADD", env, call.config.raw, _left(ends), fd)
                record = self._journal.record(key) or record  # with what the device has saved meanwhile
                record = self._attachments.seen(record, fd)
                self._journal.update(replace(record, phase=Phase.ATTACHED, result=document), durable=False)
            except delegate.Missing:
                self._journal.remove(key)  # nothing was executed: there is nothing to undo, and nobody to undo it
                raise
            except (errors.CNIError, OSError):
                self._detach_quietly(self._journal.record(key) or record)
                raise
        return Answer(0, json.dumps(document).encode(), lambda: self._undo(key))

    def _refuse_forbidden(self, call: request.Request) -> None:
        """The runtime does not say whose the network is; what is not on the node's disk is judged as the pod's own."""
        try:
            self._attachments.refuse_forbidden(call.args.get("K8S_POD_NAMESPACE", ""), [call.config.raw], None)
        except Refused as problem:
            if not self._attachments.is_on_disk(call.config.raw):
                raise errors.CNIError(errors.Code.INVALID_CONFIG, str(problem)) from None

    def _remove_half_made(self, key: Key) -> None:
        record = self._journal.record(key)
        if record is not None and not (record.phase is Phase.ATTACHED and self._attachments.is_there(record)):
            self._attachments.detach(record)

    def _refuse_taken_name(self, record: Record) -> None:
        """Before anything is journalled: what an unfinished ADD's undoing finds under the name is that ADD's."""
        if self._attachments.is_there(record):
            message = f"interface name {record.key.ifname!r} exists already in the container"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)

    def _delete(self, call: request.Request, env: Mapping[str, str]) -> None:
        key = Key(ContainerID(call.container_id), call.ifname)
        with self._locks.held({key.container_id}):
            record = self._journal.record(key)
            if record is not None:
                self._attachments.detach(record)
            else:
                with suppress(delegate.Missing):  # what is not on this node has not been executed here
                    self._native("DEL", env, self._without_the_forbidden(call), OTHERS_S)

    def _without_the_forbidden(self, call: request.Request) -> Mapping[str, Any]:
        """The configuration for the DEL of what was refused at its ADD: nothing of it is executed now either."""
        try:
            self._refuse_forbidden(call)
        except errors.CNIError:
            return {key: value for key, value in call.config.raw.items() if key != "ipam"}
        return call.config.raw

    def _status(self, call: request.Request, env: Mapping[str, str]) -> None:
        self._refuse_while_waiting()
        self._native("STATUS", env, call.config.raw, OTHERS_S)

    def _gc(self, call: request.Request, env: Mapping[str, str]) -> None:
        valid = {Key(ContainerID(one.container_id), one.ifname) for one in request.valid_attachments(call.config)}
        victims = [one for one in self._of_network(call.config.name) if one.origin is Origin.RUNTIME]
        problems = [self._collect(record) for record in victims if record.key not in valid]
        try:
            with self._attachments.gates.collecting(call.config.name, _GC_PATIENCE_S):
                valid |= {record.key for record in self._of_network(call.config.name)}  # rule 5
                listed = [chain.Attachment(key.container_id, key.ifname) for key in sorted(valid, key=str)]
                self._native("GC", env, {**call.config.raw, **chain.valid_list(listed)}, _GC_S)
        except Busy as problem:
            raise errors.CNIError(errors.Code.TRY_AGAIN, f"not collected: {problem}") from None
        if any(problems):
            raise errors.CNIError(errors.Code.INTERNAL, f"not collected: {'; '.join(filter(None, problems))}")

    def _collect(self, record: Record) -> str:
        """Return what is in the way; "": nothing."""
        try:
            with self._locks.held({record.key.container_id}):
                if self._journal.record(record.key) == record:  # else somebody was here before the lock
                    self._attachments.detach(record)
        except (NotReady, errors.CNIError) as problem:
            return f"{record.key}: {problem}"
        return ""

    def _of_network(self, name: str) -> list[Record]:
        return [one for one in self._journal.records() if _network_name(one) == name]

    def _undo(self, key: Key) -> None:
        with self._locks.held({key.container_id}):
            if (record := self._journal.record(key)) is not None:
                log.warning("%s: the caller of ADD is gone, undoing it", key)
                self._detach_quietly(record)

    def _detach_quietly(self, record: Record) -> None:
        try:
            self._attachments.detach(record)
        except (NotReady, errors.CNIError, OSError) as problem:
            log.warning("%s: undoing ADD: %s; the record stays for the DEL", record.key, problem)


def _checked(fd: int | None, environ: Mapping[str, str]) -> int:
    """Return the descriptor if it is a namespace and not the node's own (reference: skel checks too late)."""
    if fd is None:
        number = environ.get(wire.NETNS_ERRNO, "")
        why = os.strerror(int(number) if number.isascii() and number.isdecimal() and len(number) < 5 else errno.ENOENT)
        message = f"cannot open CNI_NETNS={environ.get('CNI_NETNS')!r}: {why}"
        raise errors.CNIError(errors.Code.INVALID_NETNS, message)
    device.refuse_own_namespace(fd, environ)
    return fd


def _left(ends: float) -> float:
    """Return the seconds until then. Raises CNIError 11 where none are left."""
    if (left := ends - time.monotonic()) <= 0:
        raise errors.CNIError(errors.Code.TRY_AGAIN, "others were at the sandbox or its network for too long")
    return left


def _record(key: Key, call: request.Request, namespace: Any) -> Record:
    config = {name: value for name, value in call.config.raw.items() if name != "prevResult"}
    args = call.args
    uid = args.get("K8S_POD_UID", "")
    pod = Pod(PodUID(uid), args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", "")) if uid else None
    return Record(key, Origin.RUNTIME, Phase.ADDING, "", "", json.dumps(config), namespace, pod, tuple(args.items()))


def _network_name(record: Record) -> str:
    return network.name(record.config, record.network.rpartition("/")[2])


def _refusal(problem: errors.CNIError, cni_version: str) -> Answer:
    return Answer(1, json.dumps(problem.document(cni_version)).encode())


def _version(stdin: bytes) -> str:
    """The version to answer errors in, of a request that may be anything."""
    try:
        found = json.loads(stdin)["cniVersion"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return version.CURRENT
    return found if found in version.SUPPORTED else version.CURRENT
