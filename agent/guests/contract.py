"""What the agent asks of a virtual machine, whoever runs it: QEMU by its monitor, or libvirt.

Rules
1. A NIC is known by its `id`, which is derived from the attachment: asking twice asks for the same NIC, and two never
   come from one wish. `plug` and `unplug` may be repeated at any time, also by another process after a crash.
2. `plug` and `unplug` ask; they do not wait for the guest. What came of it is seen by `look`, never assumed.
3. VISIBLE needs evidence: the guest's agent lists the NIC, or its driver has taken the device. A machine that has
   the device, and a guest that shows nothing, is PLUGGED.
4. Every call ends within CALL_S and raises NotReady: `VMUnreachable` where nobody answers, `VMMigrating` where the
   machine moves, `NoFreePort` where there is no place for a NIC, `VMRefused` for any other word of the machine.
5. What answers is not trusted: it is the pod's. Sizes and times are bounded, and no path of the node is opened for it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC as it is asked for."""

    id: str  # of the device in the machine, such as `ua-net1`; its backend is `host` and this
    mac: str
    tap: str  # the name of the tap in the pod's network namespace; it exists
    mtu: int  # bytes, told to the guest
    port: str = ""  # the id of the root port that it must sit in; "": any free one


class Stage(enum.Enum):
    """How far a NIC has got."""

    ABSENT = "absent"  # the machine has no such device
    PLUGGED = "plugged"  # it has; the guest has shown nothing yet
    VISIBLE = "visible"  # there is evidence that the guest has it (rule 3)


class Running(enum.Enum):
    """What the machine does."""

    RUNNING = "running"
    PAUSED = "paused"  # a guest that stands still can neither take a NIC nor let one go
    INCOMING = "incoming"  # waits for, or receives, what another machine sends: devices may be added, nobody takes them
    MIGRATING = "migrating"  # sends itself to another machine: no device can come or go
    MIGRATED = "migrated"  # has been sent away: it will never run again
    STOPPED = "stopped"  # crashed, or shut down


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found out about one NIC."""

    stage: Stage
    running: Running = Running.RUNNING
    is_leaving: bool = False  # the guest was asked to let it go and has not
    port: str = ""  # the id of the root port that it sits in, as far as known
    evidence: str = ""  # of VISIBLE: "guest agent" or "driver"
    guest_name: str = ""  # the guest's own name of it, from its agent
    addresses: tuple[str, ...] = ()  # with prefix length, from the guest's agent


class Machine(Protocol):
    """A connection to one running virtual machine; one thread uses it at a time."""

    def tap_owner(self) -> tuple[int, int] | None:
        """Return (uid, gid) of the process that opens taps by their name; None: it is given a descriptor."""
        ...

    def look(self, nic: Nic) -> Seen: ...

    def plug(self, nic: Nic, opened_tap: Callable[[], int]) -> None:
        """Attach it, live and for the machine's next start where there is such a thing.

        `opened_tap`: returns a descriptor of the tap, which this call closes.
        """
        ...

    def unplug(self, nic: Nic) -> None:
        """Ask the guest to let it go; where the guest has, remove what is left of it in the machine."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until the machine tells of anything that may have changed a NIC, at most so long."""
        ...

    def close(self) -> None: ...
