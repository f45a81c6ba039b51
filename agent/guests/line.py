"""A line to a daemon in a pod that can be cut at any time: what talks over it cannot hang.

    a C library ── socket of ours ── this thread ── the daemon's socket

Rules
1. A library that blocks without a limit never has the daemon's socket. It has one of ours, and a thread passes the
   bytes on. Once the time that was set is over, or an answer is too long, both ends are closed: the library finds
   the end of its connection, whatever it was waiting for, and returns with its own error.
2. A line that was cut is not mended; whoever wants to talk again opens a new one.
3. The library's end is reached by an abstract name, which lies in no file system. Only this process is let in, once.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from agent.guests import reach
from agent.model import NotReady

ANSWER_BYTES = 8 << 20  # of all answers of one question
_CHUNK = 65536
_STALL_S = 5.0  # outside of a question: how long one end may read nothing


class Line:
    """One line. `at_end`: called by the line's thread as soon as it is cut, by whomever."""

    def __init__(self, daemon: socket.socket, at_end: Callable[[], None]) -> None:
        """Take over the daemon's connected socket. Raises NotReady(VMUnreachable) where no thread is to be had."""
        self._daemon, self._at_end = daemon, at_end
        self._deadline: float | None = None
        self._left = ANSWER_BYTES
        self.is_cut = False
        self.name = f"@hotnic-{uuid.uuid4().hex}"  # where the library has to connect to; "@" stands for the zero byte
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # libvirt pads the name with zeros to the whole length of sun_path
        self._listener.bind(b"\0" + self.name[1:].encode().ljust(107, b"\0"))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._carry, name="line", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as problem:
            self._listener.close()
            daemon.close()
            raise NotReady("VMUnreachable", f"no line to the daemon: {problem}") from None

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cut the line if the body of the `with` takes longer (rule 1)."""
        self._left, self._deadline = ANSWER_BYTES, time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None

    def cut(self) -> None:
        """Cut the line and wait until its thread has ended."""
        for end in (self._listener, self._daemon):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _carry(self) -> None:
        try:
            with self._daemon, self._listener, self._accepted() as library:
                self._pass_on(library)
        except OSError:
            pass  # the end, as any other
        finally:
            self.is_cut = True
            self._at_end()

    def _accepted(self) -> socket.socket:
        while True:
            library, _ = self._listener.accept()
            if reach.peer(library)[0] == os.getpid():
                self._listener.shutdown(socket.SHUT_RDWR)
                return library
            library.close()  # rule 3

    def _pass_on(self, library: socket.socket) -> None:
        """Pass on until one end is closed, or the time is over. A question wakes this, so its deadline is seen."""
        with selectors.DefaultSelector() as ready:
            ready.register(library, selectors.EVENT_READ, self._daemon)
            ready.register(self._daemon, selectors.EVENT_READ, library)
            while (left := self._time_left()) is None or left > 0:
                for key, _ in ready.select(left):
                    source: socket.socket = key.fileobj  # type: ignore[assignment]  # as registered
                    if not (chunk := source.recv(_CHUNK)) or not self._affordable(source, len(chunk)):
                        return
                    key.data.settimeout(self._patience())
                    key.data.sendall(chunk)

    def _patience(self) -> float:
        """Return how long one end may take to read; never 0, which would mean not to wait at all."""
        left = self._time_left()
        return _STALL_S if left is None else max(0.001, left)

    def _time_left(self) -> float | None:
        deadline = self._deadline
        return None if deadline is None else deadline - time.monotonic()

    def _affordable(self, source: socket.socket, size: int) -> bool:
        if source is self._daemon:
            self._left -= size
        return self._left >= 0
