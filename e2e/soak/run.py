"""Runs a plan on the lane that this process is in: churn, then silence, phase by phase.

Rule 1: after each phase the auditor has to become quiet within a bound. What it finds then ends the soak, and is told
        with the seed and with what was done.
Rule 2: agent and controller are killed by the plan only. One that has ended by itself is a finding.
Rule 3: figures are those of processes that have been let live through the last silence.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e import networks
from e2e.auditor.auditor import Auditor, Unquiet
from e2e.cluster import Cluster
from e2e.node import Node
from e2e.pods import Api
from e2e.process import Process
from e2e.product import Product
from e2e.soak import plan, scene
from e2e.soak.deeds import Deeds
from e2e.soak.plan import ROLES, Action, Phase

QUIET_S = 90.0
_TOLD = 80  # of the last actions, with a finding


class Failed(AssertionError):
    """The soak has found something."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one process: resident memory in KiB, open descriptors, threads."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: Process) -> "Figures":
        folder = Path(f"/proc/{process.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return cls(int(status["VmRSS"].split()[0]), sum(1 for _ in (folder / "fd").iterdir()), int(status["Threads"]))

    def __str__(self) -> str:
        return f"{self.memory / 1024:.1f} MiB, {self.descriptors} descriptors, {self.threads} threads"


@dataclass
class Soak:
    """One run."""

    seed: int
    cluster: Cluster
    api: Api
    node: Node
    product: Product
    say: Callable[[str], None]
    log: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    silences: list[float] = field(default_factory=list)
    figures: list[dict[str, Figures]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deeds = Deeds(self.cluster, self.api, self.node, self.product)
        self.auditor = Auditor(self.node, self.api, self.deeds.excuses)
        self._begun = time.monotonic()

    def run(self, phases: Sequence[Phase]) -> None:
        """Make the pods, go through the phases, take everything away. Raises Failed."""
        networks.install_recorder(self.node)
        networks.tell_recorder(self.node, "")
        self.api.namespace(scene.NAMESPACE)
        for name in plan.NETWORKS:
            self._do(Action(0, "define-network", (name,)))
        for action in plan.setup(self.seed):
            self._do(action)
        self._silence("at the start")
        for phase in phases:
            self._churn(phase)
            self._silence(f"after phase {phase.number}")
        self._take_away()

    def _churn(self, phase: Phase) -> None:
        begin = time.monotonic()
        threads = [
            threading.Thread(target=self._follow, args=(actions, begin), name=track)
            for track, actions in phase.tracks.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.deeds.put_right()

    def _follow(self, actions: Sequence[Action], begin: float) -> None:
        for action in actions:
            time.sleep(max(0.0, begin + action.at - time.monotonic()))
            self._do(action)

    def _do(self, action: Action) -> None:
        at = time.monotonic() - self._begun
        try:
            problem = self.deeds.do(action)
        except Exception as unforeseen:  # noqa: BLE001 told with the finding that it will be
            problem = f"unforeseen {unforeseen!r}"
        self.log.append(f"{at:8.2f} {action}{f'  ({problem})' if problem else ''}")
        (self.missed if problem else self.done)[action.kind] += 1

    def _silence(self, when: str) -> None:
        try:
            self.silences.append(self.auditor.wait_quiet(QUIET_S))
        except Unquiet as problem:
            raise self._failed("\n".join((f"{when}: {problem}", *self._ended()))) from None
        if ended := list(self._ended()):
            raise self._failed("\n".join((f"{when}: ", *ended)))
        self.figures.append({role: Figures.of(process) for role, process in self._processes().items()})
        self.say(
            f"{when}: quiet after {self.silences[-1]:.1f} s; {sum(self.done.values())} actions, {self.kills} kills"
        )

    def _take_away(self) -> None:
        """Delete all pods: nothing of any may be left."""
        self.api.call("delete_collection_namespaced_pod", scene.NAMESPACE, grace_period_seconds=0)
        self._silence("without pods")
        self.api.call("delete_namespace", scene.NAMESPACE)

    def _ended(self) -> Iterator[str]:
        for role, process in self._processes().items():
            if process.poll() is not None:
                yield f"the {role} has ended by itself\n{process.output()[-3000:]}"

    def _processes(self) -> dict[str, Process]:
        return {role: self.deeds.running(role)[self.node.name] for role in ROLES}

    @property
    def kills(self) -> int:
        return sum(self.done[f"kill-{role}"] for role in ROLES)

    def _failed(self, why: str) -> Failed:
        return Failed("\n".join((f"seed {self.seed}: {why}", f"the last {_TOLD} actions:", *self.log[-_TOLD:])))

    def summary(self) -> str:
        """Return what was done and seen."""
        lines = [f"seed {self.seed}: {sum(self.done.values())} actions, {self.kills} kills of agent and controller"]
        lines += [
            f"  {kind:18} {count:5}   (met nothing: {self.missed[kind]})" for kind, count in sorted(self.done.items())
        ]
        unforeseen = [line for line in self.log if "(unforeseen" in line]
        lines += ["could not be done:", *unforeseen] if unforeseen else []
        if self.silences:
            lines.append(f"quiet after {max(self.silences):.1f} s at the longest, in {len(self.silences)} silences")
        for role in ROLES if len(self.figures) > 1 else ():
            lines.append(f"{role}: {self.figures[0][role]} at the start, {self.figures[-1][role]} at the end")
        return "\n".join(lines)
