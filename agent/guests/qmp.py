"""QEMU's machine protocol (docs/interop/qmp-spec): commands with their answers, and events.

Rules
1. A monitor has one client. Who connects as the second waits for a greeting that does not come; it is not waited for
   long.
2. Answers are matched by the command's id; what answers nothing that was asked is passed over.
3. Events are kept until somebody asks for them, the oldest ones are lost first: they say that it is time to look, and
   what is believed is what is then seen. Of each no more is kept than its name and its device, cut to size.
4. Nothing reads while nobody asks, and no more than CALL_BYTES between two calls of `allow`: what a peer sends too much
   stays with it.
"""

from __future__ import annotations

import collections
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.guests.messages import Lines

GREETING_S = 2.0  # an idle monitor greets within milliseconds
CALL_BYTES = 8 << 20  # of all that is read for one call of the contract
_EVENTS = 256
_NAME = 128  # characters of an event's name, and of its device's id
_TEXT = 500  # characters of a refusal that are passed on


class Refusal(Exception):
    """QEMU's error: its class, such as DeviceNotFound, and its words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the machine, such as DEVICE_DELETED."""

    name: str
    device: str = ""  # the id of the device that it happened to, where it has one


class Monitor:
    """One connection, for one thread at a time. Raises NotReady(VMUnreachable) once nobody sensible answers."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._lines = Lines(connected, "the virtual machine's monitor")
        self._last = 0
        self._events: collections.deque[Event] = collections.deque(maxlen=_EVENTS)
        self.allow()
        greeting = self._lines.receive(min(deadline, time.monotonic() + GREETING_S))
        if greeting is None:
            raise self._lines.ended("does not greet: another client may have it")
        if "QMP" not in greeting:
            raise self._lines.ended("does not greet as QEMU's does")
        self.execute("qmp_capabilities", {}, deadline)

    def allow(self) -> None:
        """Begin a new call: so many bytes may be read for it (rule 4)."""
        self._lines.allow(CALL_BYTES)

    def execute(self, command: str, arguments: Mapping[str, Any], deadline: float, fd: int | None = None) -> Any:
        """Return the command's answer. A descriptor may go along (`getfd`). Raises Refusal."""
        self._last += 1
        self._lines.send({"execute": command, "arguments": arguments, "id": self._last}, deadline, fd=fd)
        while time.monotonic() < deadline and (said := self._lines.receive(deadline)) is not None:
            if said.get("id") == self._last and "return" in said:
                return said["return"]
            if said.get("id") == self._last and isinstance(error := said.get("error"), Mapping):
                raise Refusal(str(error.get("class", "")), str(error.get("desc", ""))[:_TEXT])
            self._keep(said)
        raise self._lines.ended(f"does not answer ({command})")

    def heard(self) -> list[Event]:
        """Return the events since the last time."""
        events = list(self._events)
        self._events.clear()
        return events

    def listen(self, deadline: float) -> bool:
        """Wait for one more event; False: none came until `deadline`, of time.monotonic()."""
        while (said := self._lines.receive(deadline)) is not None:
            if self._keep(said):
                return True
            if time.monotonic() > deadline:
                break
        return False

    def close(self) -> None:
        """Leave the monitor to the next client."""
        self._lines.close()

    def _keep(self, said: Mapping[str, Any]) -> bool:
        if not isinstance(name := said.get("event"), str):
            return False
        data = said.get("data")
        device = data.get("device") if isinstance(data, Mapping) else None
        self._events.append(Event(name[:_NAME], device[:_NAME] if isinstance(device, str) else ""))
        return True
