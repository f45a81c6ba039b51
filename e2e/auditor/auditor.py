"""The auditor: compares what a node's kernel, its stores and the API say of pods' interfaces.

It shares no code with the agent.

    python -m e2e.auditor            in a lane: every difference on every node of it; exit status 1 if there is one

Rule 1: it changes nothing, and asks nobody whom it is to judge: neither agent nor controller.
Rule 2: one look is not of one moment, and deletions take their time: a finding counts once it stays. `wait_quiet`
        looks until there is none twice in a row, and says what is left after a bound.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from e2e.auditor import cluster, kernel, node, stores, told
from e2e.auditor.finding import Finding
from e2e.node import Node
from e2e.pods import Api

PAUSE_S = 0.3
TIMEOUT_S = 60.0

Excused = Callable[[Finding], bool]


class Unquiet(AssertionError):
    """Something is not as it should be, and stays so."""

    def __init__(self, findings: tuple[Finding, ...], waited: float) -> None:
        lines = "\n".join(f"  {one}" for one in findings)
        super().__init__(f"after {waited:.0f} s still {len(findings)} finding(s):\n{lines}")
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Auditor:
    """For one node and its cluster. `excused`: findings that are the fault of who asks."""

    node: Node
    api: Api
    excused: Excused = lambda _: False

    def findings(self) -> tuple[Finding, ...]:
        """Look once."""
        before = cluster.ask(self.api, self.node.name)
        there = node.look(self.node)
        found = {
            *kernel.differences(there, before),
            *stores.differences(there, before),
            *told.differences(there, before),
        }
        return tuple(sorted(one for one in found if not self.excused(one)))

    def wait_quiet(self, timeout: float = TIMEOUT_S) -> float:
        """Wait until there is nothing to find; return the seconds that took. Raises Unquiet."""
        begun = time.monotonic()
        quiet = 0
        while True:
            found = self.findings()
            quiet = 0 if found else quiet + 1
            took = time.monotonic() - begun
            if quiet == 2:
                return took
            if found and took > timeout:
                raise Unquiet(found, took)
            time.sleep(PAUSE_S)
