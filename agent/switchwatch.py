"""What changes in Open vSwitch's databases, told when it changes: ports, their VLANs, and the bridges that they are on
(OVSDB's monitor, RFC 7047 §4.1.5 and §4.1.6). The kernel has no event for it.

Rules
1. One thread, and one connection for each database that an attachment has a port in; where there is none nothing runs.
   A database that does not answer, or whose connection ends, is tried again after RETRY_S, and ever later, up to
   LONGEST_S; a connection that has lasted so long begins anew. Why one has ended is told when the reason is another.
2. Told are the names of ports that are there now, or gone, or others than they were: also after a connection that was
   lost, for what happened meanwhile. When a database is heard of for the first time nothing is news.
3. A configuration names the socket, so anybody may answer there: how long a message is, how long it takes to come, and
   how much is known at all of one database are bounded, it is read every PAUSE_S, and what is no answer of a database
   ends the connection.
4. The standard library reads it: the one of Open vSwitch (agent.ovsdb) takes fifty times as long for a large answer.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from agent import netns
from agent.jsonstream import Messages

RETRY_S, LONGEST_S, PAUSE_S = 1.0, 60.0, 0.1
MESSAGE_S = 30.0  # for one message to come
ROWS, CHARACTERS = 100_000, 64 << 20  # that are known of a database
_READ_BYTES = 1 << 20
_COLUMNS = {
    "Bridge": ["name", "ports"],
    "Port": ["name", "tag", "trunks", "vlan_mode", "external_ids"],
    "Interface": ["name", "error"],
}
_REQUEST = {
    "id": 0,
    "method": "monitor",
    "params": ["Open_vSwitch", None, {table: {"columns": columns} for table, columns in _COLUMNS.items()}],
}

log = logging.getLogger(__name__)

Ports = Mapping[str, str]  # by name: all that is to be told of when it changes


@dataclass(slots=True)
class _Attempt:
    """The last one to connect to a database (rule 1)."""

    when: float  # monotonic seconds
    wait_s: float  # until the next one
    told: str = ""


class Switches:
    """Told by `follow` which databases matter. `changed` is called by a thread of its own."""

    def __init__(self, view: netns.View) -> None:
        """`view`: of the node's paths."""
        self._view = view
        self._paths: frozenset[str] = frozenset()
        self._monitors: dict[str, _Monitor] = {}
        self._seen: dict[str, Ports] = {}  # by path
        self._attempts: dict[str, _Attempt] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._closing = False
        self.changed: Callable[[Collection[str]], None] = lambda _: None

    def follow(self, paths: frozenset[str]) -> None:
        """Listen to these databases, and to no others."""
        if paths == self._paths and (self._thread or not paths):
            return
        self._paths = paths
        if self._thread is None and not self._started():
            return
        self._wake.send(b"\0")

    def close(self) -> None:
        self._closing = True
        if self._thread is not None:
            self._wake.send(b"\0")
            self._thread.join()
        for monitor in self._monitors.values():
            monitor.close()
        self._wake.close()
        self._woken.close()

    def _started(self) -> bool:
        """Where the node has no thread to spare, it is tried again when something else happens."""
        thread = threading.Thread(target=self._run, name="switches", daemon=True)
        try:
            thread.start()
        except RuntimeError as problem:
            log.warning("what changes in Open vSwitch is not heard of yet: %s", problem)
            return False
        self._thread = thread
        return True

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._connect(time.monotonic())
                for path in self._wait():
                    self._read(path)
                self._drop_the_late(time.monotonic())
                time.sleep(PAUSE_S)
            except Exception:
                log.exception("switches")  # the next round may fare better
                time.sleep(RETRY_S)

    def _connect(self, now: float) -> None:
        paths = self._paths
        for path in self._monitors.keys() - paths:
            self._monitors.pop(path).close()
        self._seen = {path: ports for path, ports in self._seen.items() if path in paths}
        self._attempts = {path: attempt for path, attempt in self._attempts.items() if path in paths}
        for path in paths - self._monitors.keys():
            attempt = self._attempts.setdefault(path, _Attempt(now - RETRY_S, RETRY_S))
            if now - attempt.when >= attempt.wait_s:
                self._try(path, attempt, now)

    def _try(self, path: str, attempt: _Attempt, now: float) -> None:
        attempt.when = now
        try:
            self._monitors[path] = _Monitor(_connected(self._view.place(path)))
        except (OSError, ValueError) as problem:
            attempt.wait_s = min(2 * attempt.wait_s, LONGEST_S)
            log.debug("no Open vSwitch answers at %s: %s", path, problem)

    def _wait(self) -> Collection[str]:
        """Return the databases that have something to say."""
        poll, by_fd = select.poll(), {one.fileno(): path for path, one in self._monitors.items()}
        for fd in (*by_fd, self._woken.fileno()):
            poll.register(fd, select.POLLIN)
        is_due = self._paths - self._monitors.keys() or any(one.is_waiting for one in self._monitors.values())
        ready = [fd for fd, _ in poll.poll(RETRY_S * 1000 if is_due else None)]
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        return [by_fd[fd] for fd in ready if fd in by_fd]

    def _read(self, path: str) -> None:
        try:
            ports = self._monitors[path].read()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as problem:
            self._drop(path, str(problem), time.monotonic())
            return
        for now in ports:
            before, self._seen[path] = self._seen.get(path, now), now
            if names := {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}:
                self.changed(names)

    def _drop_the_late(self, now: float) -> None:
        for path, monitor in tuple(self._monitors.items()):
            if monitor.is_late(now):
                self._drop(path, "a message does not end", now)

    def _drop(self, path: str, why: str, now: float) -> None:
        """Rule 1."""
        self._monitors.pop(path).close()
        attempt = self._attempts[path]
        if now - attempt.when >= LONGEST_S:
            attempt.wait_s, attempt.told = RETRY_S, ""
        else:
            attempt.wait_s = min(2 * attempt.wait_s, LONGEST_S)
        if why != attempt.told:
            log.warning("Open vSwitch's database %s is not heard any more: %s", path, why)
            attempt.told = why


def _connected(path: str) -> socket.socket:
    """Return a socket that waits for nobody. Raises OSError where nobody listens, ValueError for what is no path."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connected.setblocking(False)  # noqa: FBT003 as the standard library has it
        connected.connect(path)
        connected.sendall(json.dumps(_REQUEST).encode())
    except (OSError, ValueError):
        connected.close()
        raise
    return connected


class _Monitor:
    """One connection, on which a monitor was asked for."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._messages = Messages()
        self._since = 0.0  # when the first part of what is to be completed came
        self._size = 0  # characters of all rows
        self._rows: dict[str, dict[str, Any]] = {table: {} for table in _COLUMNS}

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def is_waiting(self) -> bool:
        """Whether a message has begun to come, and has not ended."""
        return self._messages.has_rest

    def is_late(self, now: float) -> bool:
        return self.is_waiting and now - self._since >= MESSAGE_S

    def read(self) -> list[Ports]:
        """Return the ports as the first answer has them, and as they are after all that was to be read, where it says.

        Raises OSError for the connection's end, and ValueError, LookupError, TypeError, AttributeError or
        RecursionError for what no database says.
        """
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError("it was closed")
        if not self.is_waiting:
            self._since = time.monotonic()
        first: list[Ports] = []
        is_heard = False
        for text in self._messages.take(data):
            self._since = time.monotonic()
            message = json.loads(text.decode())
            is_heard |= self._take(message)
            if "result" in message:
                first = [self._ports()]
        return [*first, self._ports()] if is_heard else []

    def _take(self, message: Mapping[str, Any]) -> bool:
        """Take over what a message says; return whether it was about ports."""
        match message:
            case {"method": "echo", "id": number, "params": said}:
                self._say({"id": number, "result": said, "error": None})
                return False
            case {"method": "update", "params": [None, tables]} | {"id": 0, "error": None, "result": tables}:
                for table, rows in tables.items():
                    self._change(self._rows[table], rows)
                return True
        raise ValueError(f"{str(message)[:200]} is not expected")

    def _change(self, known: dict[str, Any], rows: Mapping[str, Any]) -> None:
        for uuid, change in rows.items():
            self._size -= _size(uuid, known.pop(uuid)) if uuid in known else 0
            if "new" in change:
                known[uuid] = change["new"]
                self._size += _size(uuid, known[uuid])
        if self._size > CHARACTERS or sum(map(len, self._rows.values())) > ROWS:
            raise ValueError("it has more than any switch")

    def _ports(self) -> Ports:
        bridges, errors = self._rows["Bridge"].values(), self._rows["Interface"].values()
        on = {uuid: bridge["name"] for bridge in bridges for uuid in _uuids(bridge["ports"])}
        wrong = {interface["name"]: interface["error"] for interface in errors}
        if not all(isinstance(port["name"], str) for port in self._rows["Port"].values()):
            raise ValueError("a port's name is no text")
        return {
            port["name"]: json.dumps([on.get(uuid), port, wrong.get(port["name"])], sort_keys=True)
            for uuid, port in self._rows["Port"].items()
        }

    def _say(self, message: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode())


def _size(uuid: str, row: Any) -> int:
    return len(uuid) + len(json.dumps(row))


def _uuids(column: Any) -> list[str]:
    """A set of one element is that element (RFC 7047 §5.1)."""
    kind, value = column
    return [uuid for _, uuid in value] if kind == "set" else [value]
