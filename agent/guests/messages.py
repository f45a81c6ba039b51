"""Lines of JSON from a socket whose other end is not trusted: QMP's and the guest agent's framing.

Rules
1. A line has a bound, and so has the wait for it: half a line, a trickle of bytes and a flood end alike. So have all
   lines together that are read for one purpose, where the caller says how much he `allow`s.
2. The end of the connection is told at once, but after what was said before it.
3. Any failure is NotReady(VMUnreachable) and ends the connection: what would come next could be anything.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from agent.model import NotReady
from cni import jsontext

LINE_BYTES = 1 << 20
_CHUNK = 1 << 16


class Lines:
    """Both directions of one connection. `who`: its name in messages."""

    def __init__(self, connected: socket.socket, who: str) -> None:
        self._socket, self._who = connected, who
        self._data, self._seen = bytearray(), 0
        self._left: int | None = None  # bytes that may still be read; None: no bound
        self._end = ""  # why nothing more is to be had

    def allow(self, size: int) -> None:
        """Let so many bytes be read from now on; one more ends the connection."""
        self._left = size

    def send(self, message: Mapping[str, Any], deadline: float, *, first: bytes = b"", fd: int | None = None) -> None:
        """Send one object as a line, after the bytes `first`; a descriptor goes along with it."""
        self._check()
        data = first + json.dumps(message).encode() + b"\n"
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            if fd is not None:
                data = data[socket.send_fds(self._socket, [data], [fd]) :]
            if data:
                self._socket.sendall(data)
        except TimeoutError:
            raise self.ended("does not take what it is sent") from None
        except OSError as problem:
            raise self.ended(f"is gone ({problem.strerror})") from None

    def receive(self, deadline: float, *, skip_to: bytes = b"") -> Mapping[str, Any] | None:
        """Return the next object; None: there was no whole line until `deadline`, of time.monotonic().

        `skip_to`: leave out all up to this byte.
        """
        while True:
            line = self._line()
            if line is not None and skip_to in line:
                return self._object(line[line.rfind(skip_to) + len(skip_to) :] if skip_to else line)
            if (line is None and not self._more(deadline)) or (line is not None and time.monotonic() > deadline):
                return None

    def ended(self, why: str) -> NotReady:
        """End the connection, and return what is to be raised (rule 3)."""
        self._end = self._end or why
        self._socket.close()
        return NotReady("VMUnreachable", f"{self._who} {self._end}")

    def close(self) -> None:
        """End the connection."""
        self.ended("was left")

    def _check(self) -> None:
        if self._end:
            raise self.ended(self._end)

    def _line(self) -> bytearray | None:
        end = self._data.find(b"\n", self._seen)
        if end < 0:
            self._seen = len(self._data)
            return None
        line, self._seen = self._data[:end], 0
        del self._data[: end + 1]
        return line

    def _more(self, deadline: float) -> bool:
        """Wait for more to read; False: none came until then."""
        self._check()
        if len(self._data) > LINE_BYTES:
            raise self.ended(f"sends a line longer than {LINE_BYTES} bytes")
        left = deadline - time.monotonic()
        self._socket.settimeout(max(0.0, left))
        try:
            chunk = self._socket.recv(_CHUNK)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as problem:
            raise self.ended(f"is gone ({problem.strerror})") from None
        if not chunk:
            raise self.ended("closed the connection")
        if self._left is not None and (left_bytes := self._left - len(chunk)) >= 0:
            self._left = left_bytes
        elif self._left is not None:
            raise self.ended("sends more than anybody asked for")
        self._data += chunk
        return left > 0 or b"\n" in chunk

    def _object(self, line: bytearray) -> Mapping[str, Any]:
        try:
            said = jsontext.loads(line.decode())
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise self.ended("says what is no object of JSON")
        return said
