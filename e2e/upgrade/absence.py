"""When a node's agent was away: by what the API says of its pods, without a word of the agent's or of its callers'.

Rules
1. An agent serves while its container is ready and its pod is not being taken away: the kubelet asks it to end as soon
   as the API says that.
2. What is known is when somebody looked, and both ends of an absence are taken with the look around them: it began
   after the last look that saw the agent serve was asked for, and was over when the first was answered that saw the
   next one. So it is longer than the truth by a look's interval at each end, and never shorter.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from e2e.pods import Api
from e2e.product import NAMESPACE

SELECTOR = "app.kubernetes.io/name=hotnic"
_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """One look at all nodes."""

    asked: float
    answered: float
    serving: frozenset[str]  # the names of nodes


@dataclass(frozen=True, slots=True)
class Absence:
    """The time of one restart on one node (rule 2)."""

    node: str
    began: float
    ended: float

    @property
    def length(self) -> float:
        return self.ended - self.began

    def meets(self, began: float, ended: float) -> bool:
        return began <= self.ended and ended >= self.began


@dataclass
class Watcher:
    """Looks until it is told to stop, and remembers what it saw."""

    api: Api
    looks: list[Look] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(_INTERVAL_S):
            asked = time.monotonic()
            pods = self.api.call("list_namespaced_pod", NAMESPACE, label_selector=SELECTOR)["items"]
            serving = frozenset(pod["spec"]["nodeName"] for pod in pods if _serves(pod))
            self.looks.append(Look(asked, time.monotonic(), serving))

    def fewest(self) -> int:
        """Return on how many nodes agents served when there were fewest."""
        return min(len(one.serving) for one in self.looks)

    def absences(self, node: str) -> Iterator[Absence]:
        """Yield those of a node that are over."""
        spans = [(serves, list(looks)) for serves, looks in groupby(self.looks, lambda one: node in one.serving)]
        for (_, before), (serves, _), (_, after) in zip(spans, spans[1:], spans[2:], strict=False):
            if not serves:
                yield Absence(node, before[-1].asked, after[0].answered)


def _serves(pod: Mapping[str, Any]) -> bool:
    statuses = {one["name"]: one for one in pod["status"].get("containerStatuses", ())}
    return "deletionTimestamp" not in pod["metadata"] and bool(statuses.get("agent", {}).get("ready"))
