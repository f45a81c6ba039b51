"""The state directory: what was wanted and what was begun, so that nothing is forgotten by a crash.

    format                       version of this layout (agent.formats)
    lock                         held by the agent that uses the directory
    records/<sha256>.json        one attachment each (model.Record), written before its ADD has any effect
    pods/<uid>.json              a pod's desired set (model.Desired)
    damaged/                     files that could not be read, set aside for people

Rules
1. Every write is whole or not at all. One bad file never hides the others (agent.files).
2. A record is synced to disk before the call returns when its effects outlive a reboot (`durable`): a delegate's
   IPAM lease or switch port does; a veth of our own does not, it dies with the kernel that held it.
3. Desired sets are not synced: after a power loss the controller applies them again. For the same reason one that the
   disk does not take (full, read-only) counts all the same: what it takes away must go, and nothing that it adds is
   made without a record. It is written as soon as the disk takes something.
4. Memory is the index, disk is the truth: everything is read once, at the start.
5. Removing a record needs no room. Where the disk is read-only it is forgotten all the same, or nothing would ever be
   taken down there; its file goes later, or its DEL is run once more after the next start.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from agent import codec, files, formats
from agent.model import ContainerID, Desired, Key, PodUID, Record
from cni import errors

_RETRY_S = 0.005  # flock itself waits without an end, and a signal that ended it would be the whole process's
T = TypeVar("T")

log = logging.getLogger(__name__)


class InUse(ValueError):
    """Another process uses the directory."""


class Journal:
    """Records and desired sets, by key. Safe for use by many threads."""

    def __init__(self, directory: Path, patience_s: float = 0.0) -> None:
        """Open or create the directory, once no other process uses it.

        Raises InUse where one still does after `patience_s`, ValueError where a newer version wrote it: nothing was
        touched then.
        """
        self._directory = directory
        self._lock = threading.Lock()  # for the index in memory only, never held over a write
        self._pod_locks = tuple(threading.Lock() for _ in range(64))
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._owner = _own(directory, patience_s)
        try:
            formats.bring_forward(directory)
            for name in (formats.RECORDS, formats.DESIRED, "damaged"):
                (directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._records = {
                record.key: record
                for record in self._load(formats.RECORDS, codec.decode_record, lambda record: _record_name(record.key))
            }
            self._pods = {
                desired.pod.uid: desired
                for desired in self._load(formats.DESIRED, codec.decode_desired, lambda one: _pod_name(one.pod.uid))
            }
        except BaseException:
            self.close()
            raise
        self._unwritten: set[PodUID] = set()  # rule 3
        self._unremoved: set[str] = set()  # files, rule 5
        self._late = threading.Lock()  # held over what is done with one of these
        self._sequence = max((record.sequence for record in self._records.values()), default=0)

    def close(self) -> None:
        """Give the directory up, for another to use it."""
        os.close(self._owner)

    def damaged(self) -> int:
        """Return how many files were set aside, and nobody has taken care of since."""
        return len(os.listdir(self._directory / "damaged"))

    # -- attachments --------------------------------------------------------------------------------------------

    def records(self) -> tuple[Record, ...]:
        with self._lock:
            return tuple(self._records.values())

    def record(self, key: Key) -> Record | None:
        with self._lock:
            return self._records.get(key)

    def of_sandbox(self, container_id: ContainerID) -> tuple[Record, ...]:
        """Return the sandbox's attachments in the order of their ADDs."""
        return self._sorted(lambda record: record.key.container_id == container_id)

    def of_pod(self, uid: PodUID) -> tuple[Record, ...]:
        """Return the pod's attachments, of all its sandboxes, in the order of their ADDs."""
        return self._sorted(lambda record: record.pod is not None and record.pod.uid == uid)

    def begin(self, record: Record, *, durable: bool) -> Record:
        """Write a new record before the ADD; returns it with its place in the order."""
        with self._lock:
            self._sequence += 1
            record = replace(record, sequence=self._sequence)
        self.update(record, durable=durable)
        return record

    def update(self, record: Record, *, durable: bool) -> None:
        """Replace a record by what is known now. Raises OSError where the disk does not take it: nothing changed."""
        name, document = _record_name(record.key), codec.encode_record(record)
        with self._late if name in self._unremoved else nullcontext():
            self._write("records", name, document, durable=durable)
            self._unremoved.discard(name)
        with self._lock:
            self._records[record.key] = record
        self._catch_up()

    def saved(self, key: Key) -> Mapping[str, Any]:
        """Return what a device has saved with the attachment's record (device.Notes)."""
        record = self.record(key)
        return record.saved if record else {}

    def save(self, key: Key, note: Mapping[str, Any]) -> None:
        """Save what a device must not forget. Raises KeyError where the attachment was not begun.

        Raises CNIError 7 where another attachment has what the note claims (agent.devices.contract, rule 4).
        """
        with self._lock:
            record = self._records[key]
            _refuse_held(note, [other for other in self._records.values() if other.key != key])
        self.update(replace(record, saved=note), durable=False)

    def made(self, key: Key, ifindex: int) -> None:
        """Know an attachment's link in the pod, until the record is written the next time (device.Notes)."""
        with self._lock:
            if (record := self._records.get(key)) is not None:
                self._records[key] = replace(record, ifindex=ifindex)

    def remove(self, key: Key) -> None:
        """Forget an attachment, after its DEL; one that is not there is fine."""
        self._remove_file(_record_name(key))
        with self._lock:
            self._records.pop(key, None)
        self._catch_up()

    # -- pods ---------------------------------------------------------------------------------------------------

    def pods(self) -> tuple[Desired, ...]:
        with self._lock:
            return tuple(self._pods.values())

    def desired(self, uid: PodUID) -> Desired | None:
        with self._lock:
            return self._pods.get(uid)

    def want(self, uid: PodUID, change: Callable[[Desired | None], Desired]) -> Desired:
        """Replace the pod's desired set by `change(the present one)`, as one step."""
        with self._pod_locks[hash(uid) % len(self._pod_locks)]:
            before = self.desired(uid)
            desired = change(before)
            if desired != before:
                self._write_desired(uid, desired)
                with self._lock:
                    self._pods[uid] = desired
            return desired

    def forget(self, uid: PodUID) -> None:
        """Drop all that is remembered of a pod that ended."""
        with self._pod_locks[hash(uid) % len(self._pod_locks)]:
            (self._directory / "pods" / _pod_name(uid)).unlink(missing_ok=True)
            self._unwritten.discard(uid)
            with self._lock:
                self._pods.pop(uid, None)

    # -- files --------------------------------------------------------------------------------------------------

    def _sorted(self, wanted: Callable[[Record], bool]) -> tuple[Record, ...]:
        return tuple(sorted(filter(wanted, self.records()), key=lambda record: record.sequence))

    def _load(self, kind: str, decode: Callable[[Any], T], name: Callable[[T], str]) -> Iterator[T]:
        for path in sorted((self._directory / kind).iterdir()):
            if path.suffix == ".tmp" and path.is_file():
                path.unlink()  # a write that did not come to its rename
                continue
            try:
                value = decode(files.read(path))
                if name(value) != path.name:
                    raise files.Damaged("its name is not that of what is in it")
            except (ValueError, KeyError, TypeError) as problem:
                files.set_aside(path, self._directory / "damaged", problem)
            else:
                yield value

    def _catch_up(self) -> None:
        """Remove and write what the disk did not take before (rules 3, 5)."""
        for name in tuple(self._unremoved):
            with self._late:
                if name in self._unremoved:  # else there is a new one under that name meanwhile
                    self._remove_file(name)
        for uid in tuple(self._unwritten):
            with self._pod_locks[hash(uid) % len(self._pod_locks)]:
                if (desired := self.desired(uid)) is not None:
                    self._write_desired(uid, desired)

    def _remove_file(self, name: str) -> None:
        try:
            (self._directory / "records" / name).unlink(missing_ok=True)
            self._unremoved.discard(name)
        except OSError as problem:
            log.critical("record %s is forgotten, but its file cannot be removed: %s", name, problem)
            self._unremoved.add(name)

    def _write_desired(self, uid: PodUID, desired: Desired) -> None:
        """Rule 3."""
        try:
            self._write("pods", _pod_name(uid), codec.encode_desired(desired), durable=False)
            self._unwritten.discard(uid)
        except OSError as problem:
            if uid not in self._unwritten:
                log.critical("desired set of pod %s is not written, and kept in memory: %s", desired.pod, problem)
            self._unwritten.add(uid)

    def _write(self, kind: str, name: str, document: codec.Document, *, durable: bool) -> None:
        files.write(self._directory / kind / name, document, durable=durable)


def _own(directory: Path, patience_s: float) -> int:
    """Return a descriptor that holds the directory's lock; it ends with this process, however that ends."""
    fd = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    ends = time.monotonic() + patience_s
    while not _locked(fd):
        if time.monotonic() >= ends:
            os.close(fd)
            raise InUse(f"{directory} is in use by another agent")
        time.sleep(_RETRY_S)
    return fd


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_held(note: Mapping[str, Any], others: list[Record]) -> None:
    claims = set(note.get("claims") or ())
    for other in others:
        if held := claims & set(other.saved.get("claims") or ()):
            raise errors.CNIError(errors.Code.INVALID_CONFIG, f"{min(held)} is held by {other.key}")


def _record_name(key: Key) -> str:
    # hashed, because a container ID from a CNI caller may be longer than a file name may be
    return hashlib.sha256(f"{key.container_id}/{key.ifname}".encode()).hexdigest() + ".json"


def _pod_name(uid: PodUID) -> str:
    return hashlib.sha256(uid.encode()).hexdigest() + ".json"
