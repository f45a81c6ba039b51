"""Passes over VirtualMachines: from the networks annotation to KubeVirt's own API, and what became of it back.

Rules
1. A pass starts from what is known now, not from what happened. So it can be repeated at any time, and whoever leads
   next takes over by making all of them.
2. A VM is read only after a conflict (controller.inventory has the rest).
3. Nothing is written without the lease: it is looked at right before each write, and the write's deadline ends with it.
   A write that is late all the same tests what it was decided upon (controller.relay_patch).
4. What admission denies, or takes back, is not asked for again before the annotation or the VM changes, or DENIED_S
   are over. One element's denial is its own: the changes are then made one by one.
5. The event comes after the patch: whoever dies in between tells nothing twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from controller import relay_patch, relay_plan, relay_status
from controller.inventory import Inventory
from controller.macs import Range
from controller.model import NETWORKS, Event
from controller.policy import Policy
from controller.reconcile import Conflict, Gone
from controller.relay_plan import Plan
from controller.relay_status import Report
from controller.report import EVENT_BYTES, shortened
from controller.vms import Instance, Machine
from controller.workers import Unavailable, Workers

TRIES = 6  # at a patch, when others write the same VM
DENIED_S = 300.0  # until admission is asked again: policies change too
ROUNDS = 32  # patches in one pass, until nothing is left to be written

log = logging.getLogger(__name__)


class Denied(Exception):
    """Admission refuses the change, and would again. `str()` says why."""


class Deposed(Exception):
    """The lease is over."""


class Cluster(Protocol):
    """The API server. Every call may raise Unavailable; `seconds` is how long a call may last."""

    def find_machine(self, namespace: str, name: str) -> Machine | None: ...

    def patch_machine(self, machine: Machine, operations: Sequence[relay_patch.Operation], seconds: float) -> Machine:
        """Return the VM as it is then. Raises Conflict, Denied and Gone."""
        ...

    def tell_of(self, about: Machine | Instance, event: Event, seconds: float) -> None:
        """Create the event. One that the API server refuses is lost."""
        ...


class Lease(Protocol):
    """Who may write."""

    def remaining(self) -> float:
        """Return for how many seconds still; 0 or less: not now."""
        ...


@dataclass(frozen=True, slots=True)
class _Denials:
    """What was denied, by fingerprint, while the VM was as it was. `until`: on the monotonic clock."""

    machine: tuple[object, ...]
    causes: Mapping[str, str]
    until: float

    def hold_for(self, machine: Machine) -> bool:
        return self.machine == _as_admitted(machine) and time.monotonic() < self.until


class Relay:
    """Owns what is known of the cluster's VMs, and the passes over it."""

    def __init__(self, cluster: Cluster, lease: Lease, policy: Policy, addresses: Range) -> None:
        self._cluster = cluster
        self._lease = lease
        self._workers: Workers[str] = Workers("relay", self._pass)
        self.inventory = Inventory(policy, addresses, self._workers.touch)
        self._denials: dict[str, _Denials] = {}
        self._untold: dict[str, tuple[Event, ...]] = {}
        self._unsupported: dict[str, tuple[str, str]] = {}  # instances without a VM: the UID and annotation told of

    def start(self) -> None:
        """Start the passes. Everything must be listed."""
        self._workers.start()

    def close(self, seconds: float) -> None:
        """Start no more passes; wait at most so long for those under way."""
        self._workers.close(seconds)

    def lead(self) -> None:
        """Take over: look at everything (rule 1)."""
        self.inventory.touch_all()

    def depth(self) -> int:
        """Return how many passes wait for a thread."""
        return self._workers.depth()

    def dead(self) -> tuple[str, ...]:
        """Return which threads died; none should."""
        return self._workers.dead()

    # -- passes ---------------------------------------------------------------------------------------------------

    def _pass(self, key: str, since: float) -> None:  # noqa: ARG002 the workers' signature
        try:
            machine, instance = self.inventory.machines.get(key), self.inventory.instances.get(key)
            if machine is None:
                self._forget(key)
            if instance is None:
                self._unsupported.pop(key, None)
            self._seconds()
            if instance is not None and (machine is None or instance.owner != machine.uid):
                self._refuse(instance)
            if machine is not None and not machine.deleting:
                self._relay(key)
        except Deposed:
            log.debug("%s: left to whoever leads", key)

    def _relay(self, key: str) -> None:
        """Write until nothing is left to be written."""
        conflicts, is_alone, altered = 0, False, frozenset[str]()
        for _ in range(ROUNDS):
            machine = self.inventory.machines.get(key)
            if machine is None:
                return
            self._tell(machine)
            draft, news = self._decide(machine, is_alone=is_alone)
            if again := [one.fingerprint for one in draft.changes if one.fingerprint in altered]:
                self._remember(machine, dict.fromkeys(again, "admission takes it back as soon as it is written"))
                continue
            operations = relay_patch.operations(machine, draft.devices, news.annotations)
            if not operations or (not draft.changes and "" in self._causes(machine)):
                return
            try:
                newer = self._cluster.patch_machine(machine, operations, self._seconds())
            except Conflict as problem:
                conflicts += 1
                if conflicts >= TRIES:
                    raise Unavailable(f"VM {key} cannot be written: {problem}") from None
                self._read_again(machine)
            except Denied as problem:
                is_alone = is_alone or len(draft.changes) > 1
                self._deny(machine, draft, str(problem))
            except Gone:
                return
            else:
                self._written(machine, newer, news)
                altered = frozenset(one.fingerprint for one in draft.changes if not one.is_in(newer.devices))
        raise Unavailable(f"VM {key} does not come to rest: somebody changes what is written")

    def _decide(self, machine: Machine, *, is_alone: bool) -> tuple[Plan, Report]:
        world = self.inventory.world(machine)
        draft = relay_plan.plan(machine, world, self._causes(machine), alone=is_alone)
        self.inventory.planned(machine, draft)
        return draft, relay_status.report(machine, draft, world)

    def _written(self, machine: Machine, newer: Machine, news: Report) -> None:
        self.inventory.learn(newer)
        denials = self._denials.get(machine.key)
        if denials is not None and denials.hold_for(machine):  # it was not somebody else who changed the VM
            self._denials[machine.key] = replace(denials, machine=_as_admitted(newer))
        if news.events:
            self._untold[machine.key] = news.events
        self._tell(newer)

    def _tell(self, about: Machine) -> None:
        while events := self._untold.get(about.key):
            self._cluster.tell_of(about, events[0], self._seconds())
            self._untold[about.key] = events[1:]
        self._untold.pop(about.key, None)

    def _read_again(self, machine: Machine) -> None:
        found = self._cluster.find_machine(machine.namespace, machine.name)
        if found is not None and found.uid == machine.uid:  # else the watch will say so
            self.inventory.learn(found)

    # -- what cannot be done --------------------------------------------------------------------------------------

    def _causes(self, machine: Machine) -> Mapping[str, str]:
        denials = self._denials.get(machine.key)
        return denials.causes if denials is not None and denials.hold_for(machine) else {}

    def _deny(self, machine: Machine, draft: Plan, cause: str) -> None:
        """Remember a denial; "" is that of the status itself, which only an event can tell of."""
        if len(draft.changes) > 1:
            return  # each is tried alone
        fingerprint = draft.changes[0].fingerprint if draft.changes else ""
        if not fingerprint:
            text = shortened(f"vm [{machine.key}]: {cause}", EVENT_BYTES)
            self._untold[machine.key] = (Event("InterfaceAddRejected", text, warning=True),)
        self._remember(machine, {fingerprint: cause})

    def _remember(self, machine: Machine, causes: Mapping[str, str]) -> None:
        causes = {**self._causes(machine), **causes}
        self._denials[machine.key] = _Denials(_as_admitted(machine), causes, time.monotonic() + DENIED_S)
        self._workers.touch_after(machine.key, DENIED_S)
        log.info("VM %s: denied: %s", machine.key, "; ".join(causes.values()))

    def _refuse(self, instance: Instance) -> None:
        if instance.annotation is None:
            return
        told = instance.uid, instance.annotation
        if self._unsupported.get(instance.key) == told:
            return
        text = (
            f"vmi [{instance.key}]: annotation {NETWORKS} does nothing for an instance without a VirtualMachine:"
            " KubeVirt takes changes of interfaces from VirtualMachines only"
        )
        self._cluster.tell_of(instance, Event("Unsupported", text, warning=True), self._seconds())
        self._unsupported[instance.key] = told

    def _forget(self, key: str) -> None:
        self.inventory.forget(key)
        for memory in (self._denials, self._untold):
            memory.pop(key, None)

    def _seconds(self) -> float:
        """Return how long a call to the API server may take. Raises Deposed (rule 3)."""
        seconds = self._lease.remaining()
        if seconds <= 0:
            raise Deposed
        return seconds


def _as_admitted(machine: Machine) -> tuple[object, ...]:
    """Return what admission may have denied a change for, as far as the VM shows it."""
    return machine.uid, machine.generation, machine.annotations.get(NETWORKS), machine.busy
