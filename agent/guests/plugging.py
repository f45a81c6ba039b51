"""One interface on its way into the pod's guest, in one pass.

Rules
1. The journal says which machine has the NIC (`vm` of Record.guest): before one is plugged in, and once one is seen.
   A machine that has it not, while the tap is open, is not given it where the journal names another: that one has it.
2. A guest that was asked to let the NIC go (`asked` of Record.guest) may do so at any time, also hours later, when it
   runs again. Until that is seen the interface is not told to be the guest's; then it is plugged in anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

from agent import tap
from agent.guests import wish
from agent.guests.contract import Machine, Nic, Running, Seen, Stage
from agent.guests.wiring import Raised, Wiring, is_open, refuse_unsuitable
from agent.journal import Journal
from agent.model import WAITING_FOR_GUEST, Desired, Guest, Key, NotReady, Record, Refused, Standing
from agent.netlink import Kernel
from cni import errors

ASKED = "asked"  # key of Record.guest
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]+")  # what QEMU takes as an id


class Plugging:
    """The interface of `record`, and the machine that `desired` names."""

    def __init__(
        self, journal: Journal, kernel: Kernel, desired: Desired, machine: Machine, fd: int, record: Record
    ) -> None:
        self._journal, self._kernel = journal, kernel
        self._desired, self._machine, self._fd, self._record = desired, machine, fd, record
        self._nic: Nic | None = None
        self._seen: Seen | None = None
        self._problem: NotReady | Refused | None = None
        self.is_elsewhere = False  # the machine that the journal names has it

    @property
    def key(self) -> Key:
        return self._record.key

    @property
    def is_moving(self) -> bool:
        """Whether it is worth to wait for the guest."""
        is_awake = self._seen is not None and self._seen.running is Running.RUNNING
        return self._problem is None and is_awake and self._seen is not None and self._seen.stage is not Stage.VISIBLE

    def plug(self) -> None:
        """Do what is missing, as far as the machine takes it."""
        try:
            nic = self._nic = self._wired()
            seen = self._machine.look(nic)
            if seen.stage is Stage.ABSENT:
                self._refuse_elsewhere()
                if problem := _unable(seen, nic):
                    raise problem
                self._note({"vm": self._desired.vm, "mac": nic.mac})
                self._machine.plug(nic, lambda: tap.opened(self._fd, nic.tap))
                seen = self._machine.look(nic)
            elif self._record.guest["vm"] != self._desired.vm:
                self._note({**self._record.guest, "vm": self._desired.vm})  # the same one, described in other words
            self._seen = seen
        except (NotReady, Refused) as problem:
            self._problem = problem
        except errors.CNIError as problem:
            self._problem = NotReady("NodeError", str(problem))

    def look(self) -> None:
        """See how far the guest has got with what it was given."""
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
        if seen.running in {Running.MIGRATED, Running.STOPPED}:  # what its guest had taken is nobody's now
            return Standing(_told("Attached", mac, seen), self._problem or _unable(seen))
        leaving = NotReady(WAITING_FOR_GUEST, _LEAVES) if seen.is_leaving or ASKED in self._record.guest else None
        if seen.stage is Stage.VISIBLE:
            return Standing(_told("GuestVisible", mac, seen), leaving)
        return Standing(_told("Attached", mac, seen), self._problem or leaving or _silent(seen))

    def _wired(self) -> Nic:
        """Make what connects the interface with a NIC, and return that. Raises NotReady and Refused."""
        record = self._record
        link = self._kernel.pod_link_at(self._fd, record.ifindex) if record.ifindex else None
        link = link or self._kernel.pod_link(self._fd, record.key.ifname)
        if link is None:
            raise NotReady("InterfaceGone", f"interface {record.key.ifname} is not in the pod")
        refuse_unsuitable(link)
        mac = record.guest.get("mac") or mac_of(record) or link.mac
        if not record.guest:
            self._note({"vm": self._desired.vm, "mac": mac})
        wiring = Wiring(record.key, mac, link.mtu, self._machine.tap_owner())
        self._kernel.settle(wiring, wiring.interface, self._fd, lambda _: None)
        return nic_of(self._desired.vm, record, mac, link.mtu)

    def _refuse_elsewhere(self) -> None:
        """Raise NotReady where the machine that the journal names has the NIC (rule 1)."""
        guest = self._record.guest
        if guest["vm"] != self._desired.vm and tap_is_open(self._kernel, self._record.key, guest["mac"], self._fd):
            self.is_elsewhere = True
            raise used("")

    def _note(self, guest: Mapping[str, str]) -> None:
        if guest != self._record.guest:
            self._record = replace(self._record, guest=guest)
            self._journal.update(self._record, durable=False)


def tap_is_open(kernel: Kernel, key: Key, mac: str, fd: int) -> bool:
    """Whether a program has the attachment's tap open. Only one that is up shows it, so that is seen to first."""
    wiring = Wiring(key, mac, 0)
    have = kernel.read(wiring, wiring.interface, fd)
    if not wiring.has_tap(have):
        return False
    if have.pod is not None and not have.pod.up:
        have = kernel.settle(Raised(wiring.interface), wiring.interface, fd, lambda _: None)
    return is_open(have)


def used(why: str) -> NotReady:
    """Return that the machine which was named before has the interface, and why it has it still."""
    text = "the virtual machine that the annotation named before still has the interface"
    return NotReady("UsedByVM", f"{text}: {why}" if why else text)


def nic_of(vm: str, record: Record, mac: str, mtu: int) -> Nic:
    """Return the NIC of an attachment in that machine; the same at any time, in any process (contract, rule 1)."""
    asked = wish.parse(vm)
    port = asked.ports.get(record.key.ifname, "") if isinstance(asked, wish.Qemu) else ""
    ifname = record.key.ifname
    name = ifname if _IDENTIFIER.fullmatch(ifname) else hashlib.sha256(ifname.encode()).hexdigest()[:11]
    return Nic(f"ua-{name}", mac, Wiring(record.key, mac, mtu).tap, mtu, port)


def unplugged(problem: NotReady | Refused, record: Record) -> Standing:
    """Return the standing of an interface that nothing could be done for."""
    return Standing(_told("PodAttached", mac_of(record)), problem)


def mac_of(record: Record) -> str:
    """Return the MAC that CNI gave the interface in the pod; "" where the result does not say."""
    for one in (record.result or {}).get("interfaces") or ():
        if one.get("sandbox") and one.get("name") == record.key.ifname:
            return str(one.get("mac") or "")
    return ""


def _unable(seen: Seen, nic: Nic | None = None) -> NotReady | None:
    """Return why the machine can take no NIC now, if it cannot.

    One that waits for what another machine sends must have what that one has, and nothing else: it takes those NICs
    whose ports are said.
    """
    match seen.running:
        case Running.INCOMING if nic is not None and not nic.port:
            return NotReady("VMIncoming", "the virtual machine has not arrived here yet: it gets the interface then")
        case Running.MIGRATING:
            return NotReady("VMMigrating", "the virtual machine is being migrated: the interface has to wait for that")
        case Running.MIGRATED:
            return NotReady("VMMigrated", "the virtual machine has been migrated away")
        case Running.STOPPED:
            return NotReady("VMStopped", "the virtual machine does not run")
        case _:
            return None


def _silent(seen: Seen) -> NotReady:
    if problem := _unable(seen):
        return problem
    match seen.running:
        case Running.PAUSED:
            return NotReady("VMPaused", "the virtual machine is paused: its guest cannot take the interface")
        case Running.INCOMING:
            return NotReady("VMIncoming", "the virtual machine has not arrived here yet")
        case _:
            return NotReady("GuestSilent", "the machine has the NIC, and the guest has not shown that it uses it")


def _told(state: str, mac: str, seen: Seen | None = None) -> Guest:
    if seen is None:
        return Guest(state, mac=mac)
    return Guest(state, seen.guest_name, mac, seen.addresses, seen.port, seen.evidence)


_LEAVES = "the guest was asked to let the interface go: it gets it anew when it has"
