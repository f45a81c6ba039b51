"""What goes on while versions change: edits, calls of a runtime, frames. Each notes what it saw, and when.

Times are of the monotonic clock, in seconds.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Self

from e2e.node import Node
from e2e.pods import Pod

_NETNS = "/run/netns/upgrade"
PATIENCE_S = 120.0  # of a user for an edit: many times what an agent's restart takes on a busy machine


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the executable: its verb, when it began and ended, and what it said where it failed."""

    verb: str
    began: float
    ended: float
    refusal: str  # "": it succeeded


@dataclass(frozen=True, slots=True)
class Outage:
    """Calls that failed one after the other, without any between them that succeeded."""

    calls: tuple[Call, ...]

    @property
    def began(self) -> float:
        return self.calls[0].began

    @property
    def ended(self) -> float:
        return self.calls[-1].ended


@dataclass
class Runtime:
    """Adds and deletes one attachment after another, as a container runtime does; an ADD that fails it tries again."""

    node: Node
    calls: list[Call] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.node.exec(["ip", "netns", "add", Path(_NETNS).name])
        return self

    def __exit__(self, *_: object) -> None:
        self.node.exec(["ip", "netns", "del", Path(_NETNS).name], check=False)

    def run(self, stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            while self._call("ADD", number).refusal and not stop.is_set():
                time.sleep(0.1)
            self._call("DEL", number)

    def outages(self) -> Iterator[Outage]:
        for failed, calls in groupby(self.calls, lambda one: bool(one.refusal)):
            if failed:
                yield Outage(tuple(calls))

    def slowest(self) -> float:
        """Return what the slowest call took that succeeded: how long it can be until one tells of a change."""
        return max(one.ended - one.began for one in self.calls if not one.refusal)

    def _call(self, verb: str, number: int) -> Call:
        # a name for each: a DEL that found no agent is done by the next one, beside the next ADD
        environ = (f"CNI_COMMAND={verb}", f"CNI_CONTAINERID=upgrade-{number}", f"CNI_IFNAME=n{number}",
                   f"CNI_NETNS={_NETNS}", "CNI_PATH=/opt/cni/bin")  # fmt: skip
        config = {"cniVersion": "1.1.0", "name": "direct", "type": "hotnic", "device": "bridge", "bridge": "br-direct"}
        began = time.monotonic()
        done = self.node.exec(["env", *environ, "/opt/cni/bin/hotnic"], input=json.dumps(config), check=False)
        refusal = f"{done.stdout}{done.stderr}" if done.returncode else ""
        self.calls.append(Call(verb, began, time.monotonic(), refusal))
        return self.calls[-1]


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit that has come true: when it was made, and when that was published."""

    began: float
    ended: float


@dataclass
class Users:
    """Plug an interface into one pod and out of it again, over and over; each edit has to come true."""

    node: Node
    pod: Pod
    network: str
    edits: list[Edit] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._edit(f"{self.network}@x1", "x1")
            self._edit("")

    def _edit(self, annotation: str, *interfaces: str) -> None:
        began = time.monotonic()
        self.pod.plug(annotation or None)
        self.pod.wait_ready(*interfaces, timeout=PATIENCE_S)
        self.edits.append(Edit(began, time.monotonic()))


@dataclass
class Frames:
    """Pings from one pod to another by the interface that is attached all the time."""

    pod: Pod
    target: str
    lost: int = 0
    sent: int = 0

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            told = self.pod.sh(f"ping -c 20 -W 5 -q {self.target}", check=False)
            received = next((line.split(",") for line in told.splitlines() if "received" in line), None)
            assert received is not None, told
            sent, came = (int(part.split()[0]) for part in received[:2])
            self.sent, self.lost = self.sent + sent, self.lost + sent - came


class Going:
    """Runs all of them, each in a thread of its own, until the end of a `with`, which raises what one has raised."""

    def __init__(self, *actors: Callable[[threading.Event], None]) -> None:
        self._stop, self._problems = threading.Event(), list[BaseException]()
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in actors]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._problems:
            raise self._problems[0]

    def until(self, what: str, holds: Callable[[], bool], timeout: float = PATIENCE_S) -> None:
        """Wait until something holds, while all of them go on."""
        end = time.monotonic() + timeout
        while not holds():
            if self._problems:
                raise self._problems[0]
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout} s: {what}")
            time.sleep(0.1)

    def _run(self, actor: Callable[[threading.Event], None]) -> None:
        try:
            actor(self._stop)
        except BaseException as problem:  # noqa: BLE001 it is raised in the test
            self._problems.append(problem)
