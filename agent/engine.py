"""The hotplug engine: makes each pod's desired set so, and keeps it so.

One pass over one pod: find its sandbox, claim what a runtime attached for it, plan, detach, attach, tell. A pass is
started by a new desired set, by a retry that is due, by an address that became free, and by the sweep, which looks
for sandboxes that came or went without our being told.

Rules
1. A pod's passes never overlap; pods never wait for each other.
2. One attachment's failure is its own: the others of the pass are made, the outcome tells of each.
3. `released` names are persisted before the DEL: a crash in between must not leave a stale status entry.
4. Everything that is in the journal at the start gets a pass: whole attachments are kept, half ones removed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from agent import adopt, metrics, netns, network
from agent.attach import Attachments, not_ready
from agent.attempts import Attempts
from agent.claims import Cached, Claims
from agent.drift import Drift
from agent.guests.relay import Relay
from agent.guests.turns import Turns
from agent.inspection import Inspector
from agent.journal import Journal
from agent.locks import Locks
from agent.mending import Mending
from agent.model import (
    KUBEVIRT,
    Asked,
    ContainerID,
    Desired,
    Hold,
    Key,
    NotReady,
    Origin,
    Outcome,
    Pod,
    PodUID,
    Record,
    Refused,
    State,
    Wanted,
)
from agent.netlink import Kernel
from agent.outcomes import Outcomes
from agent.plan import INTERFACE_EXISTS, Plan, changing, element, plan, spare
from agent.progress import Progress
from agent.retries import Retries
from agent.sandboxes import Sandbox, Sandboxes
from agent.suspects import Suspects
from agent.sweep import Orphans, Seen, Sweep
from agent.switchwatch import Switches
from agent.watch import Watch
from agent.workers import Workers
from cni import errors

log = logging.getLogger(__name__)


class Engine:
    """Owns the passes. `apply` is what the controller calls; everything else goes by itself."""

    def __init__(  # noqa: PLR0913, PLR0917 the engine is where the parts meet
        self,
        journal: Journal,
        sandboxes: Sandboxes,
        attachments: Attachments,
        kernel: Kernel,
        outcomes: Outcomes,
        locks: Locks,
        view: netns.View,
        cached: Cached,
        guests: Relay,
        inspector: Inspector,
        watch: Watch,
    ) -> None:
        self._journal = journal
        self._sandboxes = sandboxes
        self._attachments = attachments
        self._outcomes = outcomes
        self._locks = locks
        self._claims = Claims(journal, kernel, view, cached)
        self._retries = Retries()
        self._workers: Workers[PodUID] = Workers(self._pass)
        self._attempts = Attempts(attachments, self._retries, journal, self._workers)
        self._guests = Turns(guests, self._retries, journal, self._attempts.again)
        suspects = Suspects()
        self._mending = Mending(inspector, suspects, journal, self._attempts.again)
        self.drift = Drift(journal, watch, Switches(view), suspects, self._workers.touch, self._attempts.came, view)
        self._seen = Seen(first={desired.pod.uid for desired in journal.pods()})
        orphans = Orphans(journal, attachments, locks, view)
        self._sweep = Sweep(
            journal, sandboxes, self._seen, self._workers.touch, self._tell_slow, orphans, self._guests.lost
        )

    def start(self) -> None:
        """Take up everything in the journal (rule 4), then sweep."""
        self.drift.start()
        for uid in tuple(self._seen.first):
            self._workers.touch(uid)
        self._sweep.start()

    def caught_up(self) -> bool:
        """Whether all that was in the journal at the start has been told of: passes done, or known to take long."""
        return not self._seen.first

    def close(self) -> None:
        """Finish the passes under way."""
        self._sweep.close()
        self.drift.close()
        self._workers.close()

    def apply(self, wanted: Desired) -> None:
        """Persist a pod's whole desired set and start a pass over it.

        Raises Refused where its UID is another pod's, NotReady where only the runtime could tell whose it is.
        """
        uid = wanted.pod.uid

        def merge(before: Desired | None) -> Desired:
            if before is None or self._is_others(before.pod, wanted.pod):
                self._retries.forget(uid)
                return replace(wanted, asked=adopt.remember((), _asked(wanted.attachments)))
            if before.revision != wanted.revision:
                self._retries.forget(uid)
            asked = adopt.remember(before.asked, _asked(wanted.attachments))
            return replace(wanted, asked=asked, released=before.released, examined=before.examined)

        if wanted.ended and self._journal.desired(uid) is None:
            self._outcomes.publish(Outcome(wanted.pod, wanted.revision, settled=True, forgotten=True))
            return
        self._journal.want(uid, merge)
        self._workers.touch(uid)

    def _is_others(self, known: Pod, pod: Pod) -> bool:
        """Whether the one known by this UID came by it wrongly. Raises Refused where it is `pod` that does."""
        if known == pod:
            return False
        if not self._sandboxes.is_listed(pod):
            raise Refused("OtherPod", f"UID {pod.uid} is that of pod {known}, and not of {pod}")
        return True

    def retry(self) -> None:
        """Try again at once whatever waits for its next try: what it waits for may have come."""
        for uid in self._retries.waiting():
            self._retries.forget(uid)
            self._workers.touch(uid)

    def look(self, uid: PodUID) -> None:
        """Start a pass over the pod: something about its sandbox has changed."""
        self._workers.touch(uid)

    # -- one pass -----------------------------------------------------------------------------------------------

    def _pass(self, uid: PodUID) -> None:
        try:
            with self.drift.passing(uid):
                self._pass_over(uid)
        except Exception as problem:  # a defect of ours must not end in silence
            log.exception("pass over pod %s", uid)
            if (desired := self._journal.desired(uid)) is not None:
                self._hold_up(Progress(desired, "", time.monotonic()), NotReady("InternalError", repr(problem)), 5.0)
        finally:
            self._seen.first.discard(uid)

    def _pass_over(self, uid: PodUID) -> None:
        desired = self._journal.desired(uid)
        if desired is None:
            return
        progress = Progress(desired, "", time.monotonic())
        try:
            self._look_and_settle(progress)
        except (NotReady, Refused) as problem:
            self._hold_up(progress, problem)
            return
        except (errors.CNIError, OSError) as problem:  # the node's disk, descriptors, memory
            self._hold_up(progress, not_ready(problem))
            return
        self._seen.settled[uid] = progress.sandbox
        self._tell(progress, settled=True)
        metrics.PASSES.observe(time.monotonic() - progress.started)

    def _look_and_settle(self, progress: Progress) -> None:
        """Raises NotReady or Refused before anything is changed, where the sandbox cannot be worked in."""
        desired = progress.desired
        uid = desired.pod.uid
        sandbox = None if desired.ended else self._sandboxes.of(desired.pod)
        progress.sandbox = sandbox.id if sandbox else ""
        ids = {record.key.container_id for record in self._journal.of_pod(uid)} | ({sandbox.id} if sandbox else set())
        self._seen.passes[uid] = progress
        try:
            with self._locks.held(ids):
                self._settle(progress, sandbox)
        finally:
            del self._seen.passes[uid]

    def _settle(self, progress: Progress, sandbox: Sandbox | None) -> None:
        progress.desired, decided = self._decide(progress.desired, sandbox)
        self._log(progress.desired.pod, decided)
        if decided.detach:
            leaving = {f"{record.key.ifname} {record.network}" for record in decided.detach}
            progress.desired = self._release(progress.desired, leaving)
        progress.begin(decided, self._outcomes.of(progress.desired.pod.uid))
        self._note_blocked(progress.desired, decided)
        in_guest = self._guests.take_back(progress, sandbox, decided.detach)
        stuck = {one.key for one in decided.detach if not self._attempts.detach(progress, one, in_guest.get(one.key))}
        if sandbox is None:
            progress.without_sandbox()
            return
        for change in decided.update:
            self._attempts.update(progress, sandbox, change)
        for step in decided.attach:
            if Key(sandbox.id, step.ifname) in stuck:
                progress.held_up(step.position, State.PENDING, "Replacing", f"{step.ifname} is not detached yet")
            else:
                self._attempts.attach(progress, sandbox, step)
        self._mending.made_anew(progress)
        self._mending.mend(progress, decided.keep)
        self._guests.hand_on(progress, sandbox)
        self._mending.tell(progress)

    def _log(self, pod: Pod, decided: Plan) -> None:
        """Once, however often it is tried."""
        text = str(decided) if decided.detach or decided.attach or decided.update else ""
        before = self._seen.plans.pop(pod.uid, "")
        if text:
            self._seen.plans[pod.uid] = text
            if text != before:
                log.info("pod %s: %s", pod, text)

    def _note_blocked(self, desired: Desired, decided: Plan) -> None:
        """Remember a pod in which a name is taken: nobody tells when it becomes free, the sweep looks."""
        if any(step.hold.reason == INTERFACE_EXISTS for step in decided.withhold):
            self._seen.blocked.add(desired.pod.uid)
        else:
            self._seen.blocked.discard(desired.pod.uid)

    def _decide(self, desired: Desired, sandbox: Sandbox | None) -> tuple[Desired, Plan]:
        """Plan, and look into the sandbox for what the plan needs to know."""
        if sandbox is None:
            return desired, plan(desired, None, self._records(desired, None), None)
        desired = self._claims.claim_once(desired, sandbox)
        decided = plan(desired, sandbox.id, self._records(desired, sandbox), None)
        if not (decided.attach or decided.keep or decided.update):
            return desired, decided
        self.drift.enter(sandbox)
        links = self._claims.links(sandbox)
        if links is None and decided.attach:
            raise NotReady("SandboxUnreadable", "what is in the pod's network namespace cannot be read")
        if links is not None:
            links = self._mending.with_the_gone(desired, sandbox.id, self._records(desired, sandbox), links)
        decided = plan(desired, sandbox.id, self._records(desired, sandbox), links)
        if met := [step.wanted for step in decided.withhold if step.hold.reason == INTERFACE_EXISTS]:
            desired = self._claims.claim(desired, sandbox, _asked(met))  # it may be them that a runtime fulfilled
            decided = plan(desired, sandbox.id, self._records(desired, sandbox), links)
        holds = {
            step.position: hold for step in changing(decided, links) if (hold := self._refusal(desired, step.wanted))
        }
        return desired, spare(decided, holds, links)

    def _refusal(self, desired: Desired, wanted: Wanted) -> Hold | None:
        """Return what is known to be in the way of a change without trying."""
        if desired.vm == KUBEVIRT:
            return Hold(State.PENDING, "UsedByVM", "KubeVirt changes the interface when the virtual machine migrates")
        try:
            self._attachments.examine(wanted, desired.vm)
        except (NotReady, Refused) as problem:
            state = State.REFUSED if isinstance(problem, Refused) else State.PENDING
            return Hold(state, problem.reason, str(problem))
        return None

    # -- what a pass needs to know ------------------------------------------------------------------------------

    def _records(self, desired: Desired, sandbox: Sandbox | None) -> Collection[Record]:
        records = {record.key: record for record in self._journal.of_pod(desired.pod.uid)}
        if sandbox is not None:
            records.update({record.key: record for record in self._journal.of_sandbox(sandbox.id)})
        return tuple(records.values())

    def _has_ours(self, uid: PodUID) -> bool:
        """What a runtime asked for is the runtime's to remove, and may outlast the pod for a while."""
        return any(record.origin is not Origin.RUNTIME for record in self._journal.of_pod(uid))

    def _release(self, desired: Desired, leaving: Collection[str]) -> Desired:
        def change(now: Desired | None) -> Desired:
            before = now or desired
            return replace(before, released=tuple(sorted({*before.released, *leaving})))

        changed = self._journal.want(desired.pod.uid, change)
        return replace(desired, released=changed.released)

    # -- telling and retrying -----------------------------------------------------------------------------------

    def _tell(self, progress: Progress, *, settled: bool) -> None:
        desired = progress.desired
        now = self._journal.desired(desired.pod.uid)
        done = settled and desired.ended and now is not None and now.ended and not self._has_ours(desired.pod.uid)
        if done:
            self._retries.forget(desired.pod.uid)
            self._mending.forget(desired.pod.uid)
            self._seen.settled.pop(desired.pod.uid, None)
            self._seen.plans.pop(desired.pod.uid, None)
            self._seen.blocked.discard(desired.pod.uid)
            self._journal.forget(desired.pod.uid)
        released = tuple(sorted(progress.gone | (set(desired.released) - progress.present)))
        outcome = Outcome(
            desired.pod, desired.revision, settled, progress.attachments(), released, done, progress.sandbox
        )
        if not progress.is_look or outcome != self._outcomes.of(desired.pod.uid):
            self._outcomes.publish(outcome)

    def _tell_slow(self, progress: Progress) -> None:
        self._tell(progress, settled=False)

    def _hold_up(self, progress: Progress, problem: NotReady | Refused, retry_s: float = 1.0) -> None:
        """Tell what is known without a look: what is attached stays so, everything else waits for a reason."""
        state = State.REFUSED if isinstance(problem, Refused) else State.PENDING
        records = self._journal.of_pod(progress.desired.pod.uid)
        # what the sandbox before had is not attached in this one, whatever keeps it from being looked into
        sandbox = progress.sandbox or (records[-1].key.container_id if records else None)
        decided = plan(progress.desired, ContainerID(sandbox) if sandbox else None, records, None)
        progress.begin(decided, self._outcomes.of(progress.desired.pod.uid))
        kept = {step.position for step in decided.keep}
        for position in range(len(progress.desired.attachments)):
            if position not in kept:
                progress.held_up(position, state, problem.reason, str(problem))
        self._mending.tell(progress)
        self._tell(progress, settled=True)
        if state is State.PENDING:
            self._workers.touch_after(progress.desired.pod.uid, retry_s)


def _asked(wishes: Iterable[Wanted]) -> tuple[Asked, ...]:
    return tuple(Asked(element(wanted), network.name(wanted.config, wanted.selection.name)) for wanted in wishes)
