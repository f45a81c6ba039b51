"""QEMU's guest agent (docs/interop/qemu-ga): what the guest itself says of its interfaces.

Rules
1. It is a courtesy: a guest without one, or with a deaf or mad one, costs ANSWER_S, and then nothing for SILENCE_S,
   as long as this object lives: one connection to the machine, so each pass pays once. Nothing fails for the want of
   it.
2. The stream may hold what an earlier client left unread. `guest-sync-delimited` finds the place: its answer has a
   byte before it that is in no JSON, and the number that was asked with. An agent takes about 50 ms to notice a new
   client: whoever will need it greets it early.
3. What it says is the guest's word about itself: it is cut to size and never taken for anything else.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.guests.messages import Lines
from agent.model import NotReady

ANSWER_S = 0.3
SILENCE_S = 5.0
_DELIMITER = b"\xff"
_NAME = 64  # characters of an interface's name in the guest
_ADDRESSES = 16
_INTERFACES = 1024


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface as the guest lists it."""

    name: str
    addresses: tuple[str, ...]  # with prefix length


class GuestAgent:
    """A connection that is made when it is first needed. `connect`: connects until the moment that it is given."""

    def __init__(self, connect: Callable[[float], socket.socket]) -> None:
        self._connect = connect
        self._lines: Lines | None = None
        self._awaited: int | None = None  # the number whose answer says that what follows is for us
        self._silent_until = 0.0

    def greet(self) -> None:
        """Connect, and begin to find the place in the stream; the answer is waited for when it is needed."""
        now = time.monotonic()
        if self._lines or now < self._silent_until:
            return
        try:
            self._open(now + ANSWER_S)
        except NotReady:
            self._fall_silent()

    def interface(self, mac: str) -> Interface | None:
        """Return the interface with this MAC; None: the guest lists none, or nobody answers."""
        now = time.monotonic()
        if now < self._silent_until:
            return None
        try:
            listed = self._ask(now + ANSWER_S)
        except NotReady:
            self._fall_silent()
            return None
        return find(listed, mac)

    def retry(self) -> None:
        """Ask again next time: something was heard of the agent."""
        self._silent_until = 0.0

    def close(self) -> None:
        """Leave the agent to the next client."""
        if self._lines:
            self._lines.close()
        self._lines = None

    def _fall_silent(self) -> None:
        self.close()
        self._silent_until = time.monotonic() + SILENCE_S

    def _ask(self, deadline: float) -> Any:
        lines = self._lines or self._open(deadline)
        self._synchronise(lines, deadline)
        lines.send({"execute": "guest-network-get-interfaces"}, deadline)
        while time.monotonic() < deadline and (said := lines.receive(deadline)) is not None:
            if "return" in said:
                return said["return"]
            if "error" in said:
                raise lines.ended("refuses to list interfaces")
        raise lines.ended("does not answer")

    def _open(self, deadline: float) -> Lines:
        lines = self._lines = Lines(self._connect(deadline), "the guest agent")
        self._awaited = random.getrandbits(31)
        sync = {"execute": "guest-sync-delimited", "arguments": {"id": self._awaited}}
        lines.send(sync, deadline, first=_DELIMITER)
        return lines

    def _synchronise(self, lines: Lines, deadline: float) -> None:
        while self._awaited is not None:
            if time.monotonic() > deadline or (said := lines.receive(deadline, skip_to=_DELIMITER)) is None:
                raise lines.ended("does not answer")
            if said.get("return") == self._awaited:
                self._awaited = None


def find(listed: Any, mac: str) -> Interface | None:
    """Return the interface with this MAC from what `guest-network-get-interfaces` returned; None: it is not there."""
    for one in _objects(listed)[:_INTERFACES]:
        if str(one.get("hardware-address", "")).lower() == mac.lower():
            return Interface(_printable(one.get("name")), tuple(_addresses(one.get("ip-addresses"))))
    return None


def _addresses(listed: Any) -> Iterator[str]:
    for one in _objects(listed)[:_ADDRESSES]:
        try:
            yield str(ipaddress.ip_interface(f"{one['ip-address']}/{int(one['prefix'])}"))
        except (KeyError, TypeError, ValueError):
            continue


def _objects(listed: Any) -> list[Mapping[str, Any]]:
    return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []


def _printable(name: Any) -> str:
    return name[:_NAME] if isinstance(name, str) and name.isprintable() else ""
