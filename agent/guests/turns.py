"""What a pass does about the pod's guest: whose turn it is, what came of it, and when it is looked at again.

A guest that has not done its part is no failure: it is looked at every LONGEST_S at the latest, for ever.
What had no turn, for the pass took too long, keeps what was told of it, and comes first in the next pass; that follows
at once where the guest is not known to have it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from agent.guests import bounds
from agent.guests.relay import Relay
from agent.journal import Journal
from agent.model import KUBEVIRT, Key, NotReady, PodUID, Record, Standing, State
from agent.progress import Progress
from agent.retries import Failure, Retries
from agent.sandboxes import Sandbox

LONGEST_S = 2.0


class Turns:
    """Serves the passes of all pods. `again` starts a pass over a pod at that time (monotonic seconds)."""

    def __init__(
        self, relay: Relay, retries: Retries, journal: Journal, again: Callable[[PodUID, float], None]
    ) -> None:
        self._relay = relay
        self._retries = retries
        self._journal = journal
        self._again = again
        self._put_off: dict[PodUID, frozenset[Key]] = {}  # what had no turn in the pod's last pass

    def take_back(
        self, progress: Progress, sandbox: Sandbox | None, leaves: Collection[Record]
    ) -> Mapping[Key, Failure]:
        """Have the pod's guest let go of what leaves; return what it still has. A dead sandbox has no guest."""
        uid = progress.desired.pod.uid
        held = [record for record in leaves if sandbox is not None and _is_in_guest(record, progress, sandbox)]
        self._relay.leaves(uid, held)
        if sandbox is None:
            self._put_off.pop(uid, None)
        now = time.monotonic()
        due = [record for record in held if self._retries.is_due(uid, removal(record), now)]
        waiting = {one.key: last for one in held if one not in due and (last := self._retries.last(uid, removal(one)))}
        if sandbox is None or not due:
            return waiting
        left = self._relay.take_back(progress.desired, sandbox, due, lambda: self._is_current(progress))
        wishes = {record.key: removal(record) for record in due}
        waiting |= {
            key: self._waits(uid, wishes[key], State.DETACHING, bounds.problem(one)) for key, one in left.items()
        }
        return waiting

    def hand_on(self, progress: Progress, sandbox: Sandbox) -> None:
        """Bring what is attached into the pod's guest, if it has one that is ours to serve."""
        desired, attached = progress.desired, progress.in_pod
        uid = desired.pod.uid
        put_off = self._put_off.pop(uid, frozenset())
        if desired.vm == KUBEVIRT or not attached:
            return
        # where the annotation is gone, what a machine has it keeps until it is unplugged
        records = [record for key in attached if (record := self._journal.record(key)) is not None]
        theirs = [record for record in records if desired.vm or record.guest]
        theirs.sort(key=lambda record: record.key not in put_off)
        standings: dict[Key, Standing] = {}
        for vm in {desired.vm or record.guest["vm"]: None for record in theirs}:
            its = [record for record in theirs if (desired.vm or record.guest["vm"]) == vm]
            standings |= self._relay.hand_on(replace(desired, vm=vm), sandbox, its, lambda: self._is_current(progress))
        for key, said in standings.items():
            standing = bounds.standing(said)
            progress.handed_on(attached[key], standing)
            self._note(uid, key, standing)
        if left := frozenset(record.key for record in theirs if record.key not in standings):
            self._put_off[uid] = left
            if any(progress.by_position[attached[key]].state is not State.ATTACHED for key in left):
                self._again(uid, time.monotonic())

    def lost(self) -> Iterable[PodUID]:
        """Return the pods whose machine has let go of a NIC by itself: nobody tells of that."""
        return self._relay.lost()

    def _note(self, uid: PodUID, key: Key, standing: Standing) -> None:
        wish = f"hand on {key}"
        if isinstance(standing.problem, NotReady):
            self._waits(uid, wish, State.PENDING, standing.problem)
        else:
            self._retries.succeeded(uid, wish)

    def _waits(self, uid: PodUID, wish: str, state: State, problem: NotReady) -> Failure:
        failure = self._retries.failed(uid, wish, state, problem.reason, str(problem), time.monotonic(), LONGEST_S)
        self._again(uid, failure.not_before)
        return failure

    def _is_current(self, progress: Progress) -> bool:
        """Whether no newer wish has come while the pass was waiting."""
        now = self._journal.desired(progress.desired.pod.uid)
        return now is not None and (now.revision, now.ended) == (progress.desired.revision, progress.desired.ended)


def _is_in_guest(record: Record, progress: Progress, sandbox: Sandbox) -> bool:
    handed_on = bool(record.guest) or progress.desired.vm == KUBEVIRT
    return handed_on and record.key.container_id == sandbox.id


def removal(record: Record) -> str:
    """Return what the retries know a removal by."""
    return f"detach {record.key}"
