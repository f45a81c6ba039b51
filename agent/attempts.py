"""What a pass tries: to attach, to change, to detach. What fails waits for its next try (agent.retries), or until what
it waits for may have come.

Rules
1. What was detached may be what others of its network wait for: an address, a device. WOKEN of them try again at once,
   no more: one thing was freed, and a thousand tries would be in everybody's way. It is those whose turn was longest
   ago, and of those the ones that have tried most often: who waits in vain for something else keeps nobody from it.
2. So do those that need a link of the node which is there now, HASTE_S apart at least.
3. Either way a try that fails still counts: the next one is as late as it would have been.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Collection

from agent import metrics
from agent.attach import Attachments
from agent.guests.turns import removal
from agent.journal import Journal
from agent.model import NotReady, PodUID, Record, Refused, State
from agent.needs import needed
from agent.plan import Attach, Update, element
from agent.progress import Progress
from agent.retries import Failure, Retries
from agent.sandboxes import Sandbox
from agent.workers import Workers
from cni import errors

WOKEN = 8
HASTE_S = 1.0
CURABLE = frozenset({"TryAgainLater", "PluginFailed", "InvalidConfiguration"})  # reasons, by what somebody else frees

log = logging.getLogger(__name__)


class Attempts:
    """Serves the passes of all pods. The caller holds the sandbox's lock."""

    def __init__(self, attachments: Attachments, retries: Retries, journal: Journal, workers: Workers[PodUID]) -> None:
        self._attachments = attachments
        self._retries = retries
        self._journal = journal
        self._workers = workers
        self._hastened: dict[PodUID, float] = {}
        self._turns = itertools.count(1)
        self._woken: dict[PodUID, int] = {}  # their last turns (rule 1)

    def update(self, progress: Progress, sandbox: Sandbox, step: Update) -> None:
        """Change in place what can be, and replace it where that fails."""
        try:
            record = self._attachments.update(step)
        except NotReady as problem:
            log.warning("pod %s: %s is replaced: %s", progress.desired.pod, step.record.key.ifname, problem)
            if self.detach(progress, step.record):
                self.attach(progress, sandbox, Attach(step.position, step.wanted, step.record.key.ifname))
            else:
                message = f"{step.record.key.ifname} is not detached yet"
                progress.held_up(step.position, State.PENDING, "Replacing", message)
        else:
            progress.attached(step.position, record)

    def attach(self, progress: Progress, sandbox: Sandbox, step: Attach) -> None:
        """Attach, if it is due."""
        uid, wish = progress.desired.pod.uid, _wish(step)
        now = time.monotonic()
        failure = self._retries.last(uid, wish)
        if failure is not None and not self._retries.is_due(uid, wish, now):
            progress.failed(step.position, failure)
            return
        try:
            with metrics.ATTACH.time():
                record = self._attachments.attach(progress.desired.pod, sandbox, step, progress.desired.vm)
        except (NotReady, Refused) as problem:
            state = State.REFUSED if isinstance(problem, Refused) else State.PENDING
            failure = self._retries.failed(uid, wish, state, problem.reason, str(problem), now)
            progress.failed(step.position, failure)
            self.again(uid, failure.not_before)
            metrics.FAILURES.labels("add", problem.reason).inc()
            log.warning("pod %s: %s: %s", progress.desired.pod, step.ifname, problem)
        else:
            self._retries.succeeded(uid, wish)
            progress.attached(step.position, record)

    def detach(self, progress: Progress, record: Record, in_guest: Failure | None = None) -> bool:
        """Detach, if it is due; return whether it was. `in_guest`: why the guest still has it, if it has."""
        uid, wish = progress.desired.pod.uid, removal(record)
        now = time.monotonic()
        failure = in_guest or self._retries.last(uid, wish)
        if in_guest is None and (failure is None or self._retries.is_due(uid, wish, now)):
            try:
                with metrics.DETACH.time():
                    self._attachments.detach(record)
            except (NotReady, errors.CNIError) as problem:
                reason = problem.reason if isinstance(problem, NotReady) else "InvalidConfiguration"
                failure = self._retries.failed(uid, wish, State.DETACHING, reason, str(problem), now)
                self.again(uid, failure.not_before)
                metrics.FAILURES.labels("del", reason).inc()
                log.warning("pod %s: detaching %s: %s", progress.desired.pod, record.key.ifname, problem)
            else:
                self._retries.succeeded(uid, wish)
                progress.detached(record)
                self._freed(record)
                return True
        assert failure is not None, "not due means failed before"
        progress.not_detached(record, failure)
        return False

    def again(self, uid: PodUID, not_before: float) -> None:
        """Have a pass over the pod at that time (monotonic seconds)."""
        self._workers.touch_after(uid, max(0.0, not_before - time.monotonic()) + 0.01)

    def came(self, names: Collection[str]) -> None:
        """These links of the node are there, or up (agent.needs): who waits for one tries again (rule 2)."""
        now = time.monotonic()
        self._hastened = {uid: when for uid, when in self._hastened.items() if now - when < HASTE_S}
        for uid in self._retries.waiting():
            last = self._hastened.get(uid, now - HASTE_S)
            if last <= now and self._needs(uid, names):  # else one is due already, for all that comes meanwhile
                due = self._hastened[uid] = max(now, last + HASTE_S)
                self._retries.hasten(uid, due)
                self.again(uid, due)

    def _needs(self, uid: PodUID, names: Collection[str]) -> bool:
        desired = self._journal.desired(uid)
        wishes = desired.attachments if desired else ()
        texts = [(self._attachments.definition(one), one.selection.name) for one in wishes]
        return any(not needed(text, name).isdisjoint(names) for text, name in texts)

    def _freed(self, record: Record) -> None:
        """Rule 1."""
        now, waiting, all_waiting = time.monotonic(), [], set(self._retries.waiting())
        self._woken = {uid: turn for uid, turn in tuple(self._woken.items()) if uid in all_waiting}
        for uid in all_waiting:
            desired = self._journal.desired(uid)
            tries = self._retries.tries(uid, CURABLE)
            if tries and desired and any(one.selection.network == record.network for one in desired.attachments):
                waiting.append((self._woken.get(uid, 0), -tries, uid))
        for _, _, uid in sorted(waiting)[:WOKEN]:
            self._woken[uid] = next(self._turns)
            self._retries.hasten(uid, now)
            self._workers.touch(uid)


def _wish(step: Attach) -> str:
    return f"{element(step.wanted)} {step.wanted.nad_uid} {step.wanted.config}"
