"""Interfaces of a pod on their way into the guest that runs in it, and out again.

Rules
1. What is handed on is in the journal (Record.guest) before bridge, tap or NIC are made; it is taken back before the
   interface is detached, and only then leaves the journal.
2. Nothing here is remembered besides: each pass looks what the machine and the pod have, and does what is missing. So a
   killed agent, a restarted machine and a repeated pass need no care of their own.
3. A pass asks machines for ASKING_S and then waits PATIENCE_S for guests, for all its interfaces together, and no
   longer once there is a newer wish. What is not done by then is told as it is, and looked at again.
4. A NIC is gone when the machine says so: the one that is named now, and the one that the journal names, where the tap
   is still open. Where a machine does not answer, an open tap is a sign of its life.
5. KubeVirt hands on by itself; taken back is what its plumbing is gone from (agent.guests.cleaning).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from agent import netns
from agent.guests import wish
from agent.guests.cleaning import Cleaning
from agent.guests.contract import Machine
from agent.guests.plugging import ASKED, Plugging, tap_is_open, unplugged, used
from agent.guests.unplugging import Unplugging
from agent.guests.wiring import Wiring
from agent.journal import Journal
from agent.model import KUBEVIRT, WAITING_FOR_GUEST, Desired, Key, NotReady, PodUID, Record, Refused, Standing
from agent.netlink import Kernel
from agent.sandboxes import Sandbox
from cni import errors

ASKING_S = 5.0  # what comes after that has its turn in the next pass: meanwhile others wait for the sandbox
PATIENCE_S = 1.0
STEP_S = 0.05  # the longest that a machine is not looked at while a guest is waited for

Dial = Callable[[Sandbox, wish.Wish], AbstractContextManager[Machine]]


class _Time:
    """The time of one pass (rule 3)."""

    def __init__(self, is_current: Callable[[], bool]) -> None:
        self._end, self._is_current = time.monotonic() + ASKING_S, is_current

    def is_over(self) -> bool:
        """Whether no further machine is asked."""
        return time.monotonic() >= self._end or not self._is_current()

    def patience(self) -> Callable[[], float]:
        """Return what says how many seconds are left from now on to wait for guests."""
        end = time.monotonic() + PATIENCE_S
        return lambda: end - time.monotonic() if self._is_current() else 0.0


class Relay:
    """Hands on and takes back. The caller holds the sandbox's lock."""

    def __init__(self, journal: Journal, kernel: Kernel, view: netns.View, dial: Dial) -> None:
        self._journal = journal
        self._kernel = kernel
        self._view = view
        self._dial = dial
        self._cleaning = Cleaning()

    # -- in ---------------------------------------------------------------------------------------------------------

    def hand_on(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], is_current: Callable[[], bool]
    ) -> Mapping[Key, Standing]:
        """Bring these interfaces into the guest; return how far each has got.

        The first one has its turn in any case; those that had none (rule 3) are not in what is returned.
        """
        ours = _Time(is_current)
        try:
            with self._opened(sandbox) as fd:
                standings, elsewhere = self._plugged(desired, sandbox, records, fd, ours)
                if elsewhere:
                    left, freed = self._recalled(desired, sandbox, elsewhere, ours)
                    standings = {key: one for key, one in standings.items() if key not in {each.key for each in freed}}
                    standings |= {one.key: unplugged(left[one.key], one) for one in elsewhere if one.key in left}
                    standings |= self._plugged(desired, sandbox, freed, fd, ours)[0] if freed else {}
                return standings
        except (NotReady, Refused) as problem:
            return {record.key: unplugged(problem, record) for record in records}

    def _plugged(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], fd: int, ours: _Time
    ) -> tuple[dict[Key, Standing], list[Record]]:
        """Return the standings, and what another machine has, which the journal names."""
        begun: dict[Key, Plugging] = {}
        with self._dial(sandbox, wish.parse(desired.vm)) as machine:
            for record in records:
                if begun and ours.is_over():
                    break
                one = begun[record.key] = Plugging(self._journal, self._kernel, desired, machine, fd, record)
                one.plug()
            rest = ours.patience()
            while any(one.is_moving for one in begun.values()) and (left := rest()) > 0:
                machine.wait(min(left, STEP_S))
                for one in begun.values():
                    one.look()
                    if rest() <= 0:
                        break
        elsewhere = [record for record in records if record.key in begun and begun[record.key].is_elsewhere]
        return {key: one.standing() for key, one in begun.items()}, elsewhere

    def _recalled(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], ours: _Time
    ) -> tuple[Mapping[Key, NotReady], list[Record]]:
        """Have the machines that the journal names let go.

        Return what they have still, each with the reason; and the others, as they are in the journal now.
        """
        left: dict[Key, NotReady] = {}
        freed = []
        for vm, theirs in _by_machine(records, lambda record: record.guest["vm"]).items():
            kept, unanswered = self._asked(vm, sandbox, theirs, ours)
            left |= {key: used(str(problem)) for key, problem in (kept | unanswered).items()}
            for record in theirs:
                if record.key not in left:
                    freed.append(replace(record, guest={"vm": desired.vm, "mac": record.guest["mac"]}))
                    self._journal.update(freed[-1], durable=False)
        return left, freed

    # -- out --------------------------------------------------------------------------------------------------------

    def leaves(self, uid: PodUID, records: Sequence[Record]) -> None:
        """Know all that leaves the pod's guest now, in each pass: what was waited for before is forgotten."""
        self._cleaning.leaves(uid, records)

    def lost(self) -> set[PodUID]:
        """Return the pods with a NIC that no machine has open any more: it has ended, or has been started anew."""
        return {record.pod.uid for record in self._journal.records() if record.pod and self._is_lost(record)}

    def _is_lost(self, record: Record) -> bool:
        if not record.guest:
            return False
        try:
            with self._view.opened(record.namespace.path) as fd:
                tap = self._kernel.pod_link(fd, Wiring(record.key, record.guest["mac"], 0).tap)
        except (OSError, errors.CNIError):
            return False  # the pod is going, which others see to
        return tap is None or not tap.carrier

    def take_back(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], is_current: Callable[[], bool]
    ) -> Mapping[Key, NotReady]:
        """Have the guest let go of these interfaces; return those that it has not, each with the reason."""
        ours = _Time(is_current)
        handed_on = records if desired.vm == KUBEVIRT else [record for record in records if record.guest]
        if not handed_on:
            return {}
        try:
            with self._opened(sandbox) as fd:
                if desired.vm == KUBEVIRT:
                    uid, rest = desired.pod.uid, ours.patience()
                    return self._cleaning.waited_for(uid, handed_on, lambda: self._links(fd), rest)
                return self._unplugged(desired, sandbox, handed_on, fd, ours)
        except NotReady as problem:
            return {record.key: problem for record in handed_on}

    def _unplugged(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], fd: int, ours: _Time
    ) -> Mapping[Key, NotReady]:
        left: dict[Key, NotReady] = {}
        unanswered: dict[Key, NotReady] = {}
        for vm, theirs in _by_machine(records, lambda record: desired.vm or record.guest["vm"]).items():
            kept, silent = self._asked(vm, sandbox, theirs, ours)
            left, unanswered = left | kept, unanswered | silent
        others = [one for one in records if one.guest["vm"] != (desired.vm or one.guest["vm"]) and one.key not in left]
        others = [one for one in others if self._is_open(one, fd)]  # rule 4
        for vm, theirs in _by_machine(others, lambda record: record.guest["vm"]).items():
            kept, silent = self._asked(vm, sandbox, theirs, ours)
            left, unanswered = left | kept, unanswered | silent
        for record in records:
            if record.key in unanswered and record.key not in left and self._is_open(record, fd):
                left[record.key] = unanswered[record.key]
            if record.key not in left and (problem := self._unwired(record, fd)):
                left[record.key] = problem
        return left

    def _unwired(self, record: Record, fd: int) -> NotReady | None:
        try:
            self._kernel.remove(Wiring(record.key, record.guest["mac"], 0), fd)
        except errors.CNIError as problem:
            return NotReady("NodeError", str(problem))
        self._journal.update(replace(record, guest={}), durable=False)
        return None

    def _is_open(self, record: Record, fd: int) -> bool:
        return tap_is_open(self._kernel, record.key, record.guest["mac"], fd)

    def _links(self, fd: int) -> Mapping[str, int]:
        return {link.name: link.index for link in self._kernel.pod_links(fd)}

    # -- asking one machine to let go -------------------------------------------------------------------------------

    def _asked(
        self, vm: str, sandbox: Sandbox, records: Sequence[Record], ours: _Time
    ) -> tuple[dict[Key, NotReady], dict[Key, NotReady]]:
        """Ask; return what the machine has still, and what it could not be asked for."""
        try:
            with self._dial(sandbox, wish.parse(vm)) as machine:
                return self._let_go(vm, machine, records, ours), {}
        except (NotReady, Refused) as problem:
            return {}, {record.key: NotReady(problem.reason, str(problem)) for record in records}

    def _let_go(self, vm: str, machine: Machine, records: Sequence[Record], ours: _Time) -> dict[Key, NotReady]:
        in_order = sorted(records, key=lambda record: ASKED in record.guest)  # whoever had no turn has it first
        leaving = {record.key: Unplugging(self._journal, vm, machine, record) for record in in_order}
        left = {key: NotReady(WAITING_FOR_GUEST, "the guest has not been asked yet") for key in leaving}
        rest, is_asked = ours.patience(), False
        while True:
            for number, key in enumerate(tuple(left)):
                if number and (ours.is_over() or (is_asked and rest() <= 0)):
                    break
                if (problem := leaving[key].still_in()) is None:
                    del left[key]
                else:
                    left[key] = problem
            is_asked = True
            is_hopeless = all(problem.reason != WAITING_FOR_GUEST for problem in left.values())
            if is_hopeless or (seconds := rest()) <= 0:  # also where nothing is left
                return left
            machine.wait(min(seconds, STEP_S))

    @contextmanager
    def _opened(self, sandbox: Sandbox) -> Iterator[int]:
        """Yield a descriptor of the pod's namespace. Raises NotReady where it is gone, or what is asked of it fails."""
        try:
            with self._view.opened(sandbox.namespace.path) as fd:
                yield fd
        except OSError as problem:
            raise NotReady("SandboxGone", f"the pod's network namespace is gone: {problem.strerror}") from None
        except errors.CNIError as problem:
            raise NotReady("NodeError", str(problem)) from None


def _by_machine(records: Sequence[Record], machine_of: Callable[[Record], str]) -> Mapping[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(machine_of(record), []).append(record)
    return found
