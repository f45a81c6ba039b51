"""Every fault of a story, each in a telling of its own: which there are, the tellings, and what came of them.

Rules
1. The points are counted in tellings that nobody disturbs: each call of each effect function, times each kind of fault.
2. Where not all are tried, one of each function and kind is before a second of any; which one, and in what order, their
   names decide and nothing else: the same for every commit, as far as the points are the same.
3. Each share of the points has a node in namespaces of its own, which ends with all that is left over.
4. A fault that was not reached is counted as such: threads of the agent's own call at other times.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from e2e import kernel
from tests.agent import audit
from tests.faults import primitives
from tests.faults.effects import EFFECTS
from tests.faults.injection import KINDS, Fault
from tests.faults.programs import PROGRAMS
from tests.faults.victims import Nursery

SHARES = 2


class World(Protocol):
    """Where a story is told."""

    def picture(self) -> audit.Picture: ...

    def refuse_left(self, before: audit.Picture) -> None: ...

    def log(self) -> str: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Told:
    """A story, and how its world is made: in a folder, with what forks its victims, for faults at these functions."""

    story: Callable[[Any, Fault], Mapping[str, int]]
    world: Callable[[Nursery, Path, list[str]], World]


@dataclass
class Report:
    """Faults tried and faults that happened, by effect function and kind; what was wrong, in words."""

    points: dict[str, int] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    happened: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # of each telling

    def add(self, other: Mapping[str, Any]) -> None:
        self.points = {**self.points, **{key: max(n, self.points.get(key, 0)) for key, n in other["points"].items()}}
        self.tried = dict(Counter(self.tried) + Counter(other["tried"]))
        self.happened = dict(Counter(self.happened) + Counter(other["happened"]))
        self.failures += other["failures"]
        self.seconds |= other["seconds"]

    def lines(self) -> Iterator[str]:
        """Yield a line for each effect function, and the sum."""
        for effect, count in sorted(self.points.items()):
            kinds = ", ".join(f"{kind} {self.happened.get(f'{effect} {kind}', 0)}" for kind in KINDS)
            yield f"{count:4} points  {effect}: {kinds}"
        happened, tried = sum(self.happened.values()), sum(self.tried.values())
        total = sum(self.points.values())
        yield f"{total} points x {len(KINDS)} kinds: {tried} tried, {happened} happened"
        for fault in sorted(self.seconds, key=lambda one: -self.seconds[one])[:3]:
            yield f"took {self.seconds[fault]:.1f} s: {fault}"


def examine(name: str, told: Told, most: int | None, shares: int = SHARES) -> Report:
    """Tell the story with faults: all, or so many, shared out among so many processes."""
    report = Report()
    for receive in [_forked(name, told, most, share, shares) for share in range(shares)]:
        report.add(json.loads(receive()))
    return report


def _forked(name: str, told: Told, most: int | None, share: int, shares: int) -> Callable[[], bytes]:
    """Begin a share in a process of its own; return what waits for its report."""

    def report_share() -> Mapping[str, Any]:
        report = Report()
        try:
            _tell_share(name, told, most, (share, shares), report)
        except BaseException:  # noqa: BLE001 -- told, not raised: this is a fork of a test
            report.failures.append(traceback.format_exc())
        return asdict(report)

    receive = isolated(report_share)
    lost = {**asdict(Report()), "failures": ["a share ended without a report"]}
    return lambda: receive() or json.dumps(lost).encode()


def isolated(action: Callable[[], Mapping[str, Any]]) -> Callable[[], bytes]:
    """Begin an action in namespaces of its own, as their first process; return what waits for what it returns.

    All that is left over ends with it (rule 3).
    """
    receiving, sending = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            kernel.die_with_parent()
            kernel.unshare(kernel.NEWNET | kernel.NEWNS | kernel.NEWPID)
            kernel.mount("none", Path("/"), flags=kernel.MS_REC | kernel.MS_PRIVATE)
            if first := os.fork():
                os.waitpid(first, 0)
            else:
                kernel.die_with_parent()
                _set_up()
                told = json.dumps(action()).encode()
                with os.fdopen(sending, "wb") as file:
                    file.write(told)
        finally:
            os._exit(0)
    os.close(sending)

    def receive() -> bytes:
        with os.fdopen(receiving, "rb") as pipe:
            said = pipe.read()
        os.waitpid(process, 0)
        return said

    return receive


def _set_up() -> None:
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    quiet = os.open("/run/noise.log", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(quiet, 2)  # servers of the tests tell of each client that was killed


def _tell_share(name: str, told: Told, most: int | None, share: tuple[int, int], report: Report) -> None:
    nursery = Nursery(PROGRAMS)
    effects = [effect for effect in primitives.functions() if effect in EFFECTS and name in EFFECTS[effect].stories]
    stage = _Stage(told, nursery, effects)
    report.points = stage.count()
    report.failures += [f"{name} never comes to {effect}" for effect, count in report.points.items() if not count]
    faults = points(report.points, most)
    for fault in faults[share[0] :: share[1]]:
        began = time.monotonic()
        is_hit, failure = stage.tell(fault)
        report.seconds[str(fault)] = time.monotonic() - began
        key = f"{fault.effect} {fault.kind}"
        report.tried[key] = report.tried.get(key, 0) + 1
        report.happened[key] = report.happened.get(key, 0) + is_hit
        if failure:
            report.failures.append(f"{name}, {fault}: {failure}")
            stage.renew()
    stage.close()


class _Stage:
    """Where the tellings of one share follow each other; a new one after a failure, which may have left anything."""

    def __init__(self, told: Told, nursery: Nursery, effects: list[str]) -> None:
        self._told, self._nursery, self._effects = told, nursery, effects
        self._number = 0
        self._make()

    def count(self) -> dict[str, int]:
        """Rule 1. The second telling finds what the first one made for good."""
        counted = [self._told.story(self._world, Fault()) for _ in range(2)]
        self._world.refuse_left(self._before)
        return {effect: max(one.get(effect, 0) for one in counted) for effect in self._effects}

    def tell(self, fault: Fault) -> tuple[bool, str]:
        """Return whether the fault happened, and what was wrong then; "": nothing."""
        try:
            self._world.hit = ""  # type: ignore[attr-defined]
            self._told.story(self._world, fault)
            self._world.refuse_left(self._before)
        except Exception as problem:  # noqa: BLE001 -- whatever it is, it is told of this fault
            return True, f"{type(problem).__name__}: {problem}"
        return bool(self._world.hit), ""  # type: ignore[attr-defined]

    def renew(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
        subprocess.run("ip -all netns del; ip -o link | grep -o ' [^ :@]*' >/dev/null", shell=True, check=False)
        self._make()

    def close(self) -> None:
        self._world.close()

    def _make(self) -> None:
        self._number += 1
        folder = Path(f"/run/faults-{self._number}/world")
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        self._world = self._told.world(self._nursery, folder, self._effects)
        self._told.story(self._world, Fault())  # what is made for good is there
        self._before = self._world.picture()


def points(counted: Mapping[str, int], most: int | None) -> list[Fault]:
    """Return the faults to be tried, in rule 2's order."""
    groups = [
        sorted((Fault(effect, number, kind) for number in range(1, count + 1)), key=_rank)
        for effect, count in counted.items()
        for kind in KINDS
    ]
    rows = (sorted(filter(None, row), key=_rank) for row in itertools.zip_longest(*groups))
    return list(itertools.islice(itertools.chain.from_iterable(rows), most))


def _rank(fault: Fault) -> bytes:
    return hashlib.sha256(str(fault).encode()).digest()
