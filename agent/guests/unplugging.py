"""One interface on its way out of the pod's guest, in one pass.

Rules
1. That a guest was asked is in the journal before it is (`asked` of Record.guest): what was asked cannot be taken back.
2. What a machine refused to ask its guest, for it was being migrated or the like, was not asked; nor was one that has
   no such NIC: another machine may have it, which is asked next.
"""

from __future__ import annotations

from dataclasses import replace

from agent.guests.contract import Machine, Running, Stage
from agent.guests.plugging import ASKED, nic_of
from agent.journal import Journal
from agent.model import WAITING_FOR_GUEST, NotReady, Record


class Unplugging:
    """The interface of `record`, and a machine that has it, or may have it: `vm`, as the annotation says it."""

    def __init__(self, journal: Journal, vm: str, machine: Machine, record: Record) -> None:
        self._journal, self._machine, self._record = journal, machine, record
        self._nic = nic_of(vm, record, record.guest["mac"], 0)

    def still_in(self) -> NotReady | None:
        """Ask for the NIC to be let go; return why it is not gone yet."""
        was_asked = ASKED in self._record.guest
        self._note(is_asked=True)
        try:
            self._machine.unplug(self._nic)
        except NotReady as problem:
            self._note(is_asked=was_asked or problem.reason == "VMUnreachable")  # nobody knows what it has heard
            return problem
        try:
            seen = self._machine.look(self._nic)
        except NotReady as problem:
            return problem
        if seen.stage is Stage.ABSENT or seen.running is Running.MIGRATED:
            self._note(is_asked=was_asked)
            return None
        return NotReady(*_LEAVING.get(seen.running, _WAITING))

    def _note(self, *, is_asked: bool) -> None:
        guest = {key: value for key, value in self._record.guest.items() if key != ASKED}
        if is_asked:
            guest[ASKED] = "yes"
        if guest != self._record.guest:
            self._record = replace(self._record, guest=guest)
            self._journal.update(self._record, durable=False)


_WAITING = (WAITING_FOR_GUEST, "the guest has not let the interface go yet")
_LEAVING = {
    Running.PAUSED: ("VMPaused", "the virtual machine is paused: its guest cannot let the interface go"),
    Running.MIGRATING: ("VMMigrating", "the virtual machine is being migrated: it lets the interface go afterwards"),
    Running.STOPPED: ("VMStopped", "the virtual machine has stopped: nobody lets the interface go"),
}
