"""KubeVirt's cleaning up after an interface that leaves its guest (agent.guests.kubevirt): seen, and waited for.

Rules
1. It is waited for KUBEVIRT_S from when an interface was first seen to leave. After that it is overdue, and stays so
   until it is gone or is wanted again: a DEL that fails is not waited for a second time.
2. What no longer leaves is forgotten: an unplug that was undone does not count for the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from agent.guests import kubevirt
from agent.model import WAITING_FOR_GUEST, Key, NotReady, PodUID, Record

KUBEVIRT_S = 120.0  # guests that let go do so within a second; KubeVirt gives up and migrates much later
STEP_S = 0.02  # its plumbing is looked at with one message to the kernel
_WAITS = "KubeVirt has not cleaned up after the interface yet: its guest still has it"


class Cleaning:
    """Serves the passes of all pods, of which each has one at a time."""

    def __init__(self) -> None:
        # when each was first waited for; by the record's sequence, which no later attachment of that name has
        self._since: dict[PodUID, dict[int, float]] = {}

    def leaves(self, uid: PodUID, records: Collection[Record]) -> None:
        """Know all that leaves the pod's guest now (rule 2)."""
        sequences = {record.sequence for record in records}
        since = {one: began for one, began in self._since.pop(uid, {}).items() if one in sequences}
        if since:
            self._since[uid] = since

    def waited_for(
        self, uid: PodUID, records: Sequence[Record], links: Callable[[], Mapping[str, int]], until: Callable[[], float]
    ) -> Mapping[Key, NotReady]:
        """Return what KubeVirt has not cleaned up after, once all is or the rest of the time, `until`, is over.

        `links`: reads the pod's links, name to index.
        """
        while True:
            there = links()
            left = [one for one in records if kubevirt.is_plumbed(one.key.ifname, one.ifindex, there)]
            waiting = [one for one in left if not self._is_overdue(uid, one)]
            if not waiting or until() <= 0:
                return {one.key: NotReady(WAITING_FOR_GUEST, _WAITS) for one in waiting}
            time.sleep(STEP_S)

    def _is_overdue(self, uid: PodUID, record: Record) -> bool:
        now = time.monotonic()
        return now - self._since.setdefault(uid, {}).setdefault(record.sequence, now) > KUBEVIRT_S
