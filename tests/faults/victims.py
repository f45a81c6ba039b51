"""Processes that suffer faults, and what forks them.

    nursery ── forks ──► victim: the product's own `main`, under injection
       ▲                    │
       └──── the story ◄────┘ one socket each (tests.faults.injection, rule 3); its end is the victim's end

Rules
1. The nursery has imported everything and has one thread and no gRPC: what it forks is like a program just started.
2. Whoever made the nursery may have threads and channels; all end with it.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from e2e import kernel
from tests.faults.injection import Fault, Injection

STARTED_S = 60.0
Program = Callable[[Mapping[str, Any]], None]
"""What a victim runs, with what it was asked for; in its main thread, until the end."""


class Victim:
    """One process, as the story sees it."""

    def __init__(self, pid: int, said: socket.socket) -> None:
        self.pid, self._said = pid, said
        self.hit = ""  # the kind of fault that has happened
        self.is_dead = False
        self.last: Mapping[str, Any] = {}  # what it said at its end: `code`, its exit status, and `counted`

    def arm(self, fault: Fault) -> None:
        """Have the fault happen from now on. Calls are counted anew."""
        self.hit = ""
        self._ask({"arm": {"effect": fault.effect, "number": fault.number, "kind": fault.kind}}, "armed")

    def counted(self) -> Mapping[str, int]:
        """Return how often each effect function was called since `arm`."""
        counted: Mapping[str, int] = self._ask({"count": True}, "counted")
        return counted

    def go(self) -> None:
        """Let a delayed effect go on."""
        self._say({"go": True})

    def news(self, seconds: float = 0.0) -> str:
        """Return the kind of a fault that has happened just now; "": none. Finds out whether the process is dead."""
        self._said.settimeout(max(seconds, 0.0001))
        try:
            said = json.loads(self._said.recv(65536) or b"{}")
        except TimeoutError:
            return ""
        except OSError:
            said = {}
        if not said:
            self.is_dead = True
        self.hit = said.get("hit", self.hit)
        self.last = said if "code" in said else self.last
        return str(said.get("hit", ""))

    def send(self, number: int) -> None:
        """Send it a signal. Raises ProcessLookupError where it has ended."""
        os.kill(self.pid, number)

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal and wait for the end."""
        try:
            self.send(number)
        except ProcessLookupError:
            self.is_dead = True
        ends = time.monotonic() + STARTED_S
        while not self.is_dead:
            self.news(0.1)
            assert time.monotonic() < ends, f"process {self.pid} does not end after signal {number}"
        self._said.close()

    def _say(self, message: Mapping[str, Any]) -> None:
        try:
            self._said.send(json.dumps(message).encode())
        except OSError:
            self.is_dead = True

    def _ask(self, message: Mapping[str, Any], answer: str) -> Any:
        self._say(message)
        ends = time.monotonic() + STARTED_S
        while not self.is_dead and time.monotonic() < ends:
            self._said.settimeout(1.0)
            try:
                said = json.loads(self._said.recv(65536) or b"{}")
            except TimeoutError:
                continue
            except OSError:
                said = {}
            if answer in said:
                return said[answer]
            self.hit = said.get("hit", self.hit)
            self.is_dead = not said
        return {}


class Nursery:
    """Make it before any thread and channel of the story's (rule 1)."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self._programs = programs
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            self._ours.close()
            try:
                kernel.die_with_parent()
                self._serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def fork(self, program: str, effects: list[str], **asked: Any) -> Victim:
        """Have the program run, with faults at these effect functions possible."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {"program": program, "effects": effects, "asked": asked}
        with theirs, self._lock:
            socket.send_fds(self._ours, [json.dumps(order).encode()], [theirs.fileno()])
            pid = int(self._ours.recv(64))
        return Victim(pid, ours)

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self.pid, 0)

    def _serve(self, orders: socket.socket) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
        while True:
            data, fds, _, _ = socket.recv_fds(orders, 65536, 1)
            if not data:
                return
            child = os.fork()
            if child == 0:
                orders.close()
                self._suffer(json.loads(data), socket.socket(fileno=fds[0]))
            os.close(fds[0])
            orders.send(str(child).encode())

    def _suffer(self, order: Mapping[str, Any], said: socket.socket) -> None:
        """In the victim."""
        code = 1
        try:
            kernel.die_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            injection = Injection(said, order["effects"])
            if fault := order["asked"].pop("fault", None):
                injection.arm(Fault(**fault))
            injection.listen()
            self._programs[order["program"]](order["asked"])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 -- told, not raised: this is a fork of a test
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            with contextlib.suppress(OSError, UnboundLocalError):
                injection.tell({"code": code, "counted": injection.counted()})
            os._exit(code)
