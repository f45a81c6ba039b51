"""Other ends of a connection that do as a test says: sane, mad, or mute. Each serves one thread of its own."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Behaviour = Callable[[socket.socket], None]
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}, "capabilities": []}}


class Peer:
    """Runs `behaviour` with one end of a pair; `socket` is the other."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.socket, self._theirs = socket.socketpair()
        self._behaviour = behaviour
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._theirs, suppress(OSError):
            self._behaviour(self._theirs)

    def end(self) -> None:
        self.socket.close()
        with suppress(OSError):
            self._theirs.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        assert not self._thread.is_alive()


def say(end: socket.socket, message: Any) -> None:
    end.sendall(json.dumps(message).encode() + b"\r\n")


def hears(end: socket.socket):
    """Yield what is said, until the other end has gone."""
    with end.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line.lstrip(b"\xff"))


def mute(end: socket.socket) -> None:
    while end.recv(65536):
        pass


def gone(end: socket.socket) -> None:
    """Ends at once."""


def garbage(end: socket.socket) -> None:
    end.sendall(b"\x00\x01 no JSON \xfe\n")
    mute(end)


def no_object(end: socket.socket) -> None:
    end.sendall(b"[1, 2]\n")
    mute(end)


def deep(end: socket.socket) -> None:
    end.sendall(b"[" * 500_000 + b"\n")
    mute(end)


def long_line(end: socket.socket) -> None:
    while True:
        end.sendall(b"x" * 65536)


def half_line(end: socket.socket) -> None:
    end.sendall(b'{"return": ')
    mute(end)


def half_line_and_gone(end: socket.socket) -> None:
    end.sendall(b'{"return": ')


def trickle(end: socket.socket) -> None:
    while True:
        end.sendall(b" ")
        time.sleep(0.001)


def endless(end: socket.socket) -> None:
    while True:
        end.sendall(b'{"event": "RTC_CHANGE", "data": {"offset": 1}}\n' * 1000)


def other_answers(end: socket.socket) -> None:
    while True:
        end.sendall(b'{"return": {}, "id": "another"}\n{"return": {}}\n{"error": {"class": "E"}, "id": 77}\n' * 1000)


MAD = [mute, gone, garbage, no_object, deep, long_line, half_line, half_line_and_gone, trickle, endless, other_answers]
