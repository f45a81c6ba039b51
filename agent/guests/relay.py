"""Interfaces of a pod on their way into the guest that runs in it, and out again.

Rules
1. What is handed on is in the journal (Record.guest) before bridge, tap or NIC are made; it is taken back before the
   interface is detached, and only then leaves the journal.
2. Nothing here is remembered besides: each pass looks what the machine and the pod have, and does what is missing. So a
   killed agent, a restarted machine and a repeated pass need no care of their own.
3. A pass waits PATIENCE_S for guests, for all its interfaces together, and no longer once there is a newer wish. What
   is not done by then is told as it is, and looked at again.
4. A NIC is gone when the machine says so. Where the machine does not answer, an open tap is a sign of its life.
5. KubeVirt hands on by itself; taken back is what its plumbing is gone from (agent.guests.kubevirt), or what it has
   not cleaned up for KUBEVIRT_S.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from agent import netns, tap
from agent.guests import kubevirt, wish
from agent.guests.contract import Machine, Nic, Running, Seen, Stage
from agent.guests.wiring import Wiring, is_open, refuse_unsuitable
from agent.journal import Journal
from agent.model import KUBEVIRT, WAITING_FOR_GUEST, Desired, Guest, Key, NotReady, Record, Refused, Standing
from agent.netlink import Kernel
from agent.sandboxes import Sandbox
from cni import errors

PATIENCE_S = 1.0
STEP_S = 0.05  # the longest that a machine is not looked at while a guest is waited for
KUBEVIRT_STEP_S = 0.02  # KubeVirt's plumbing is looked at with one message to the kernel
KUBEVIRT_S = 120.0  # guests that let go do so within a second; KubeVirt gives up and migrates much later

Dial = Callable[[Sandbox, wish.Wish], AbstractContextManager[Machine]]

log = logging.getLogger(__name__)


class Relay:
    """Hands on and takes back. The caller holds the sandbox's lock."""

    def __init__(self, journal: Journal, kernel: Kernel, view: netns.View, dial: Dial) -> None:
        self._journal = journal
        self._kernel = kernel
        self._view = view
        self._dial = dial
        self._since: dict[Key, float] = {}  # when KubeVirt was first waited for

    # -- in ---------------------------------------------------------------------------------------------------------

    def hand_on(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], is_current: Callable[[], bool]
    ) -> Mapping[Key, Standing]:
        """Bring these interfaces into the guest; return how far each has got."""
        try:
            with self._dial(sandbox, wish.parse(desired.vm)) as machine, self._opened(sandbox) as fd:
                plugging = {record.key: _Plugging(self, desired, machine, fd, record) for record in records}
                for one in plugging.values():
                    one.plug()
                deadline = time.monotonic() + PATIENCE_S
                while any(one.is_moving for one in plugging.values()) and is_current():
                    if (rest := deadline - time.monotonic()) <= 0:
                        break
                    machine.wait(min(rest, STEP_S))
                    for one in plugging.values():
                        one.look()
                return {key: one.standing() for key, one in plugging.items()}
        except (NotReady, Refused) as problem:
            return {record.key: Standing(_told("PodAttached", mac_of(record)), problem) for record in records}

    def wire(self, desired: Desired, record: Record, machine: Machine, fd: int) -> Nic:
        """Make what connects the interface with a NIC, and return that. Raises NotReady and Refused."""
        link = self._kernel.pod_link_at(fd, record.ifindex) if record.ifindex else None
        link = link or self._kernel.pod_link(fd, record.key.ifname)
        if link is None:
            raise NotReady("InterfaceGone", f"interface {record.key.ifname} is not in the pod")
        refuse_unsuitable(link)
        mac = record.guest.get("mac") or mac_of(record) or link.mac
        if not record.guest:
            self._journal.update(replace(record, guest={"vm": desired.vm, "mac": mac}), durable=False)  # rule 1
        wiring = Wiring(record.key, mac, link.mtu, machine.tap_owner())
        self._kernel.settle(wiring, wiring.interface, fd, lambda _: None)
        return nic_of(desired, record, mac, link.mtu)

    # -- out --------------------------------------------------------------------------------------------------------

    def take_back(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], is_current: Callable[[], bool]
    ) -> Mapping[Key, NotReady]:
        """Have the guest let go of these interfaces; return those that it has not, each with the reason."""
        if desired.vm == KUBEVIRT:
            return self._await_kubevirt(sandbox, records, is_current)
        waiting: dict[Key, NotReady] = {}
        by_machine: dict[str, list[Record]] = {}
        for record in records:
            if record.guest:
                by_machine.setdefault(desired.vm or record.guest["vm"], []).append(record)
        for text, theirs in by_machine.items():
            try:
                with self._opened(sandbox) as fd:
                    waiting |= self._unplug(replace(desired, vm=text), sandbox, theirs, fd, is_current)
            except (NotReady, Refused) as problem:
                waiting |= {record.key: NotReady(problem.reason, str(problem)) for record in theirs}
        return waiting

    def _unplug(
        self, desired: Desired, sandbox: Sandbox, records: Sequence[Record], fd: int, is_current: Callable[[], bool]
    ) -> Mapping[Key, NotReady]:
        try:
            with self._dial(sandbox, wish.parse(desired.vm)) as machine:
                left = self._ask_to_let_go(desired, machine, records, is_current)
        except (NotReady, Refused) as problem:
            left = {
                record.key: NotReady(problem.reason, str(problem)) for record in records if self._is_open(record, fd)
            }
        for record in records:
            if record.key not in left:
                self._unwire(record, fd)
        return left

    def _ask_to_let_go(
        self, desired: Desired, machine: Machine, records: Sequence[Record], is_current: Callable[[], bool]
    ) -> dict[Key, NotReady]:
        nics = {record.key: nic_of(desired, record, record.guest["mac"], 0) for record in records}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            left = {key: problem for key, nic in nics.items() if (problem := _still_in(machine, nic)) is not None}
            rest = deadline - time.monotonic()
            is_hopeless = all(problem.reason != WAITING_FOR_GUEST for problem in left.values())
            if not left or is_hopeless or rest <= 0 or not is_current():
                return left
            machine.wait(min(rest, STEP_S))

    def _is_open(self, record: Record, fd: int) -> bool:
        wiring = Wiring(record.key, record.guest["mac"], 0)
        return is_open(self._kernel.read(wiring, wiring.interface, fd))

    def _unwire(self, record: Record, fd: int) -> None:
        try:
            self._kernel.remove(Wiring(record.key, record.guest["mac"], 0), fd)
        except errors.CNIError as problem:
            raise NotReady("NodeError", str(problem)) from None
        self._journal.update(replace(record, guest={}), durable=False)

    def _await_kubevirt(
        self, sandbox: Sandbox, records: Sequence[Record], is_current: Callable[[], bool]
    ) -> Mapping[Key, NotReady]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with self._opened(sandbox) as fd:
                links = {link.name: link.index for link in self._kernel.pod_links(fd)}
            now = time.monotonic()
            left = [one for one in records if kubevirt.is_plumbed(one.key.ifname, one.ifindex, links)]
            overdue = {one.key for one in left if now - self._since.setdefault(one.key, now) > KUBEVIRT_S}
            for record in records:
                if record not in left or record.key in overdue:
                    self._since.pop(record.key, None)
            waiting = [one for one in left if one.key not in overdue]
            if not waiting or now >= deadline or not is_current():
                return {one.key: NotReady(WAITING_FOR_GUEST, _KUBEVIRT_WAITS) for one in waiting}
            time.sleep(KUBEVIRT_STEP_S)

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


class _Plugging:
    """One interface in one pass."""

    def __init__(self, relay: Relay, desired: Desired, machine: Machine, fd: int, record: Record) -> None:
        self._relay, self._desired, self._machine, self._fd, self._record = relay, desired, machine, fd, record
        self._nic: Nic | None = None
        self._seen: Seen | None = None
        self._problem: NotReady | Refused | None = None

    @property
    def is_moving(self) -> bool:
        """Whether it is worth to wait for the guest."""
        is_awake = self._seen is not None and self._seen.running is Running.RUNNING
        return self._problem is None and is_awake and self._seen is not None and self._seen.stage is not Stage.VISIBLE

    def plug(self) -> None:
        try:
            nic = self._nic = self._relay.wire(self._desired, self._record, self._machine, self._fd)
            seen = self._machine.look(nic)
            if seen.stage is Stage.ABSENT:
                if problem := _unable(seen.running):
                    raise problem
                self._machine.plug(nic, lambda: tap.opened(self._fd, nic.tap))
                seen = self._machine.look(nic)
            self._seen = seen
        except (NotReady, Refused) as problem:
            self._problem = problem
        except errors.CNIError as problem:
            self._problem = NotReady("NodeError", str(problem))

    def look(self) -> None:
        if self._nic is None or not self.is_moving:
            return
        try:
            self._seen = self._machine.look(self._nic)
        except NotReady as problem:
            self._problem = problem

    def standing(self) -> Standing:
        mac = self._nic.mac if self._nic else mac_of(self._record)
        seen = self._seen
        if seen is None or seen.stage is Stage.ABSENT:
            return Standing(_told("PodAttached", mac), self._problem or NotReady("GuestLost", "the NIC has gone again"))
        if seen.stage is Stage.VISIBLE:
            told = _told("GuestVisible", mac, seen)
            return Standing(told, _being_left(seen))
        return Standing(_told("Attached", mac, seen), self._problem or _silent(seen))


def nic_of(desired: Desired, record: Record, mac: str, mtu: int) -> Nic:
    """Return the NIC of an attachment; the same at any time, in any process (contract, rule 1)."""
    asked = wish.parse(desired.vm)
    port = asked.ports.get(record.key.ifname, "") if isinstance(asked, wish.Qemu) else ""
    return Nic(f"ua-{record.key.ifname}", mac, Wiring(record.key, mac, mtu).tap, mtu, port)


def mac_of(record: Record) -> str:
    """Return the MAC that CNI gave the interface in the pod; "" where the result does not say."""
    for one in (record.result or {}).get("interfaces") or ():
        if one.get("sandbox") and one.get("name") == record.key.ifname:
            return str(one.get("mac") or "")
    return ""


def _still_in(machine: Machine, nic: Nic) -> NotReady | None:
    """Ask for the NIC to be let go; return why it is not gone yet."""
    try:
        machine.unplug(nic)
        seen = machine.look(nic)
    except NotReady as problem:
        return problem
    if seen.stage is Stage.ABSENT or seen.running is Running.MIGRATED:
        return None
    return NotReady(*_LEAVING.get(seen.running, _WAITING))


def _unable(running: Running) -> NotReady | None:
    """Return why the machine can take no NIC now, if it cannot."""
    match running:
        case Running.MIGRATING:
            return NotReady("VMMigrating", "the virtual machine is being migrated: the interface has to wait for that")
        case Running.MIGRATED:
            return NotReady("VMMigrated", "the virtual machine has been migrated away")
        case Running.STOPPED:
            return NotReady("VMStopped", "the virtual machine does not run")
        case _:
            return None


def _silent(seen: Seen) -> NotReady:
    if problem := _unable(seen.running):
        return problem
    match seen.running:
        case Running.PAUSED:
            return NotReady("VMPaused", "the virtual machine is paused: its guest cannot take the interface")
        case Running.INCOMING:
            return NotReady("VMIncoming", "the virtual machine has not arrived here yet")
        case _:
            return NotReady("GuestSilent", "the machine has the NIC, and the guest has not shown that it uses it")


def _being_left(seen: Seen) -> NotReady | None:
    """The guest was asked to let it go, by an earlier wish, and may do so at any time."""
    if not seen.is_leaving:
        return None
    return NotReady(WAITING_FOR_GUEST, "the guest was asked to let the interface go: it gets it anew when it has")


def _told(state: str, mac: str, seen: Seen | None = None) -> Guest:
    if seen is None:
        return Guest(state, mac=mac)
    return Guest(state, seen.guest_name, mac, seen.addresses, seen.port, seen.evidence)


_WAITING = (WAITING_FOR_GUEST, "the guest has not let the interface go yet")
_LEAVING = {
    Running.PAUSED: ("VMPaused", "the virtual machine is paused: its guest cannot let the interface go"),
    Running.MIGRATING: ("VMMigrating", "the virtual machine is being migrated: it lets the interface go afterwards"),
    Running.STOPPED: ("VMStopped", "the virtual machine has stopped: nobody lets the interface go"),
}
_KUBEVIRT_WAITS = "KubeVirt has not cleaned up after the interface yet: its guest still has it"
