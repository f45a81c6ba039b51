"""What changes in Open vSwitch's databases, told when it changes: ports, their VLANs, and the bridges that they are on
(OVSDB's monitor, RFC 7047 §4.1.5 and §4.1.6). The kernel has no event for it.

Rules
1. One thread and one connection for each database that an attachment has a port in; where there is none nothing runs.
   A database that does not answer is tried again every RETRY_S.
2. Told are the names of ports that are there now, or gone, or others than they were: also after a connection that was
   lost, for what happened meanwhile. When a database is heard of for the first time nothing is news.
3. A configuration names the socket, so anybody may answer there: what waits to be read is bounded, it is read every
   PAUSE_S, and what is no answer of a database ends the connection.
4. The standard library reads it: the one of Open vSwitch (agent.ovsdb) takes fifty times as long for a large answer.
"""

from __future__ import annotations

import codecs
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from agent import netns

RETRY_S, PAUSE_S = 1.0, 0.1
WAITING_CHARACTERS = 16 << 20  # of one message
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


class Switches:
    """Told by `follow` which databases matter. `changed` is called by a thread of its own."""

    def __init__(self, view: netns.View) -> None:
        """`view`: of the node's paths."""
        self._view = view
        self._paths: frozenset[str] = frozenset()
        self._monitors: dict[str, _Monitor] = {}
        self._seen: dict[str, Ports] = {}  # by path
        self._tried: dict[str, float] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._closing = False
        self.changed: Callable[[Collection[str]], None] = lambda _: None

    def follow(self, paths: frozenset[str]) -> None:
        """Listen to these databases, and to no others."""
        if paths == self._paths:
            return
        self._paths = paths
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="switches", daemon=True)
            self._thread.start()
        self._wake.send(b"\0")

    def close(self) -> None:
        self._closing = True
        if self._thread is not None:
            self._wake.send(b"\0")
            self._thread.join()
        for path in tuple(self._monitors):
            self._drop(path)
        self._wake.close()
        self._woken.close()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._connect(time.monotonic())
                for path in self._wait():
                    self._read(path)
                time.sleep(PAUSE_S)
            except Exception:
                log.exception("switches")  # the next round may fare better
                time.sleep(RETRY_S)

    def _connect(self, now: float) -> None:
        paths = self._paths
        for path in self._monitors.keys() - paths:
            self._drop(path)
        self._seen = {path: ports for path, ports in self._seen.items() if path in paths}
        for path in paths - self._monitors.keys():
            if now - self._tried.get(path, now - RETRY_S) >= RETRY_S:
                self._tried[path] = now
                try:
                    self._monitors[path] = _Monitor(self._view.place(path))
                except OSError as problem:
                    log.debug("no Open vSwitch answers at %s: %s", path, problem)

    def _wait(self) -> Collection[str]:
        """Return the databases that have something to say."""
        poll, by_fd = select.poll(), {one.fileno(): path for path, one in self._monitors.items()}
        for fd in (*by_fd, self._woken.fileno()):
            poll.register(fd, select.POLLIN)
        missing = self._paths - self._monitors.keys()
        ready = [fd for fd, _ in poll.poll(RETRY_S * 1000 if missing else None)]
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        return [by_fd[fd] for fd in ready if fd in by_fd]

    def _read(self, path: str) -> None:
        try:
            ports = self._monitors[path].read()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as problem:
            log.warning("Open vSwitch's database %s is not heard any more: %s", path, problem)
            self._drop(path)
            return
        for now in ports:
            before, self._seen[path] = self._seen.get(path, now), now
            if names := {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}:
                self.changed(names)

    def _drop(self, path: str) -> None:
        self._monitors.pop(path).close()


class _Monitor:
    """One connection. Raises OSError where nobody listens."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)  # noqa: FBT003 as the standard library has it
            self._socket.connect(path)
            self._say(_REQUEST)
        except OSError:
            self._socket.close()
            raise
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._rows: dict[str, dict[str, Any]] = {table: {} for table in _COLUMNS}

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Ports]:
        """Return the ports as the first answer has them, and as they are after all that was to be read, where it says.

        Raises OSError for the connection's end, and ValueError, LookupError, TypeError, AttributeError or
        RecursionError for what no database says.
        """
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError("it was closed")
        self._text += self._decoder.decode(data)
        if len(self._text) > WAITING_CHARACTERS:
            raise ValueError("the answer has no end")
        first: list[Ports] = []
        is_heard = False
        for message in self._messages():
            is_heard |= self._take(message)
            if "result" in message:
                first = [self._ports()]
        return [*first, self._ports()] if is_heard else []

    def _messages(self) -> Iterator[Mapping[str, Any]]:
        decoder = json.JSONDecoder()
        while text := self._text.lstrip():
            try:
                message, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                self._text = text
                return  # the rest is still to come
            self._text = text[end:]
            yield message
        self._text = ""

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

    @staticmethod
    def _change(known: dict[str, Any], rows: Mapping[str, Any]) -> None:
        for uuid, change in rows.items():
            if "new" in change:
                known[uuid] = change["new"]
            else:
                known.pop(uuid, None)

    def _ports(self) -> Ports:
        bridges, errors = self._rows["Bridge"].values(), self._rows["Interface"].values()
        on = {uuid: bridge["name"] for bridge in bridges for uuid in _uuids(bridge["ports"])}
        wrong = {interface["name"]: interface["error"] for interface in errors}
        return {
            port["name"]: json.dumps([on.get(uuid), port, wrong.get(port["name"])], sort_keys=True)
            for uuid, port in self._rows["Port"].items()
        }

    def _say(self, message: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode())


def _uuids(column: Any) -> list[str]:
    """A set of one element is that element (RFC 7047 §5.1)."""
    kind, value = column
    return [uuid for _, uuid in value] if kind == "set" else [value]
