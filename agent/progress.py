"""What one pass over a pod has reached so far, and the outcome that says so."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agent.model import (
    DRIFT_REPAIRED,
    DRIFTED,
    GUEST_FAILURES,
    KUBEVIRT,
    WAITING_FOR_GUEST,
    AttachmentOutcome,
    Desired,
    Guest,
    Key,
    Outcome,
    Record,
    Refused,
    Standing,
    State,
)
from agent.plan import Plan
from agent.retries import Failure
from cni import result, version

SLOW_S = 1.0  # a pass that takes longer tells what it has reached so far
IN_PROGRESS = "InProgress"
PATIENT = 3  # looks at a guest that has not let go, before that is told as a failure: some five seconds


@dataclass(slots=True)
class Progress:
    """Filled by the pass; read at any time, also by others, for a pass that takes long."""

    desired: Desired
    sandbox: str
    started: float  # monotonic seconds
    by_position: dict[int, AttachmentOutcome] = field(default_factory=dict)
    detaching: list[AttachmentOutcome] = field(default_factory=list)
    in_pod: dict[Key, int] = field(default_factory=dict)  # what is whole there, and the positions
    present: set[str] = field(default_factory=set)  # "<interface> <network>" that are, or may be, still there
    gone: set[str] = field(default_factory=set)  # "<interface> <network>" that others have taken away, and stay so
    is_look: bool = False  # what is there was looked at: if all is as it was, nobody has to be told
    next_telling_s: float = SLOW_S
    told: tuple[AttachmentOutcome, ...] = ()

    def is_news(self, took_s: float) -> bool:
        """Whether a pass that takes so long should tell now what it has reached: rarely, for it costs writes."""
        if took_s < self.next_telling_s:
            return False
        self.next_telling_s *= 4
        reached = self.attachments()
        is_news, self.told = reached != self.told, reached
        return is_news

    def begin(self, plan: Plan, before: Outcome | None) -> None:
        """Take over what stays, as it was told `before`: what a guest has is not looked at yet."""
        known = before.attachments if before and self._is_handed_on else ()
        told = {one.interface: one for one in known if one.guest and one.position >= 0}
        for step in plan.keep:
            self.attached(step.position, step.record)
            if last := told.get(step.record.key.ifname):
                self.by_position[step.position] = replace(last, position=step.position, result=_current(step.record))
        for withheld in plan.withhold:
            hold = withheld.hold
            self.by_position[withheld.position] = AttachmentOutcome(
                withheld.position, hold.state, withheld.wanted.selection.network,
                withheld.wanted.selection.interface, reason=hold.reason, message=hold.message,
            )  # fmt: skip
        self.present.update(_name(record) for record in plan.detach)
        self.present.update(_name(step.record) for step in plan.update)

    def attached(self, position: int, record: Record) -> None:
        """Take note of what is whole in the pod. Where a virtual machine gets it, that is not all (`handed_on`)."""
        self.present.add(_name(record))
        self.in_pod[record.key] = position
        is_all = not self._is_handed_on
        self.by_position[position] = AttachmentOutcome(
            position,
            State.ATTACHED if is_all else State.PENDING,
            record.network,
            record.key.ifname,
            result=_current(record),
            reason="" if is_all else IN_PROGRESS,
            message="" if is_all else "on its way into the virtual machine",
        )

    @property
    def _is_handed_on(self) -> bool:
        return self.desired.vm not in {"", KUBEVIRT}

    def handed_on(self, position: int, standing: Standing) -> None:
        """Take note of how far what is attached has got in the pod's virtual machine."""
        before, problem = self.by_position[position], standing.problem
        state = State.ATTACHED if problem is None else State.PENDING
        if isinstance(problem, Refused):
            state = State.REFUSED
        reason = problem.reason if problem else ""
        self.by_position[position] = replace(
            before,
            state=state,
            reason=reason,
            message=str(problem or ""),
            attempts=1 if reason in GUEST_FAILURES else 0,
            guest=standing.guest,
        )

    def drifted(self, position: int, reason: str = "", message: str = "", *, is_gone: bool = False) -> None:
        """Take note of how what is attached stands (agent.mending); "": as it should."""
        before = self.by_position[position]
        if is_gone:
            self.gone.add(f"{before.interface} {before.network}")
            self.by_position[position] = replace(
                before, state=State.PENDING, reason=reason, message=message, result=None, guest=None
            )
        elif before.state is State.ATTACHED and (reason or before.reason in {DRIFTED, DRIFT_REPAIRED}):
            self.by_position[position] = replace(before, reason=reason, message=message)

    def failed(self, position: int, failure: Failure) -> None:
        self.by_position[position] = self._outcome(
            position, failure.state, failure.reason, failure.message, failure.attempts
        )

    def held_up(self, position: int, state: State, reason: str, message: str) -> None:
        self.by_position[position] = self._outcome(position, state, reason, message)

    def without_sandbox(self) -> None:
        """Nothing can be attached; a pod that ended wants nothing."""
        for position in range(0 if self.desired.ended else len(self.desired.attachments)):
            self.held_up(position, State.PENDING, "NoSandbox", "the pod has no running sandbox yet")

    def detached(self, record: Record) -> None:
        self.present.discard(_name(record))

    def not_detached(self, record: Record, failure: Failure) -> None:
        attempts, message = failure.attempts, failure.message
        if failure.reason == WAITING_FOR_GUEST:
            is_patient = attempts <= PATIENT
            attempts, message = (0, message) if is_patient else (attempts, f"{message}, though asked several times")
        self.detaching.append(
            AttachmentOutcome(
                -1,
                State.DETACHING,
                record.network,
                record.key.ifname,
                reason=failure.reason,
                message=message,
                attempts=attempts,
                guest=Guest("Detaching", mac=record.guest["mac"]) if record.guest else None,
            )
        )

    def attachments(self) -> tuple[AttachmentOutcome, ...]:
        """What is known of every element; one that the pass has not reached is in progress."""
        known = dict(self.by_position)
        wanted = tuple(
            known.get(position) or self._outcome(position, State.PENDING, IN_PROGRESS, "being attached")
            for position in range(len(self.desired.attachments))
        )
        return (*wanted, *self.detaching)

    def _outcome(self, position: int, state: State, reason: str, message: str, attempts: int = 0) -> AttachmentOutcome:
        selection = self.desired.attachments[position].selection
        return AttachmentOutcome(
            position, state, selection.network, selection.interface, None, reason, message, attempts
        )


def _name(record: Record) -> str:
    return f"{record.key.ifname} {record.network}"


def _current(record: Record) -> dict[str, object] | None:
    """The result in the current version, whichever the network's plugins speak."""
    return None if record.result is None else dict(result.encode(result.decode(record.result), version.CURRENT))
