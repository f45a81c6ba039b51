"""The agent's vocabulary: what is wanted, what is recorded, what came of it. Values only, no effects.

Rules
1. An attachment is keyed by (container ID, interface name), never by a pod's name: a late DEL for an old
   sandbox must not touch the new one.
2. A record holds everything that its DEL needs, as it was at ADD: later edits of annotation or network
   definition change nothing in it.
3. Who asked decides what may be removed. ANNOTATION and ADOPTED attachments were asked for by an annotation;
   RUNTIME ones came through the CNI executable and belong to the runtime until an annotation claims them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from cni import multinet

KUBEVIRT = "kubevirt"  # in place of how a virtual machine is reached: KubeVirt hands on by itself

PodUID = NewType("PodUID", str)
ContainerID = NewType("ContainerID", str)


@dataclass(frozen=True, slots=True)
class Pod:
    uid: PodUID
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class State(enum.Enum):
    """Where an attachment stands; the words of the agent's API."""

    PENDING = "Pending"
    ATTACHED = "Attached"
    REFUSED = "Refused"
    DETACHING = "Detaching"


@dataclass(frozen=True, slots=True)
class Hold:
    """Do not attach, but keep what is attached; said by the controller (policy, missing definition)."""

    state: State
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """One element of a pod's annotation with the network definition that it names."""

    selection: multinet.Selection
    config: str  # text of the network configuration; "": the on-disk one of that name
    nad_uid: str = ""
    nad_resource_version: str = ""
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """An element that some edit of the annotation asked for; evidence for adoption, kept past the edit."""

    element: str  # canonical JSON of the selection element
    network_name: str  # name of the CNI network, as a runtime's result cache knows it


@dataclass(frozen=True, slots=True)
class Desired:
    """The whole desired set of one pod, and what is remembered about the pod besides."""

    pod: Pod
    revision: str
    attachments: tuple[Wanted, ...] = ()
    ended: bool = False
    keep: tuple[str, ...] = ()  # interfaces that wrong elements name: what is attached there stays
    vm: str = ""  # the virtual machine in the pod: KUBEVIRT, or the text that says how it is reached (agent.guests)
    asked: tuple[Asked, ...] = ()
    released: tuple[str, ...] = ()  # "<interface> <network>", once attached from the annotation and gone now
    examined: tuple[ContainerID, ...] = ()  # sandboxes whose result cache was looked at for adoption


class Origin(enum.Enum):
    """Who asked for an attachment (rule 3)."""

    ANNOTATION = "annotation"
    ADOPTED = "adopted"
    RUNTIME = "runtime"


class Phase(enum.Enum):
    """ADDING: the ADD may have had any part of its effect. ATTACHED: it is whole."""

    ADDING = "adding"
    ATTACHED = "attached"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace: where it was found, and what it is (`stat` of the nsfs file, and the kernel's cookie).

    An inode is given to another namespace when its own has ended; a cookie is not, before the node reboots. Then both
    begin anew, and a runtime may use the same path again: no namespace outlives the boot that it was made in.
    """

    path: str
    device: int = 0
    inode: int = 0
    cookie: int = 0  # 0: not known, by older kernels and older records
    boot: str = ""  # the kernel's name for the boot; "": not known, by older records

    def is_same(self, other: Namespace) -> bool:
        """Whether both are one namespace, wherever it was found."""
        same = (self.device, self.inode) == (other.device, other.inode)
        return same and _agree(self.cookie, other.cookie) and _agree(self.boot, other.boot)


def _agree(one: object, other: object) -> bool:
    """Whether both are equal as far as they are known."""
    return not one or not other or one == other


@dataclass(frozen=True, slots=True)
class Key:
    container_id: ContainerID
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id[:12]}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class Displaced:
    """A default route that an attachment with `default-route` took away, to be put back at its DEL."""

    gateway: str
    ifname: str
    metric: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One attachment in the journal (rule 2)."""

    key: Key
    origin: Origin
    phase: Phase
    network: str  # namespace/name of the definition; "" where a runtime asked
    element: str  # canonical JSON of the selection element; "" where a runtime asked
    config: str  # text of the CNI configuration or list that was executed
    namespace: Namespace
    pod: Pod | None = None
    args: tuple[tuple[str, str], ...] = ()
    runtime: Mapping[str, Any] = field(default_factory=dict)  # capability arguments
    cni_args: Mapping[str, Any] | None = None
    device_id: str = ""
    result: Mapping[str, Any] | None = None
    ifindex: int = 0  # of the interface in the pod, once attached
    displaced: tuple[Displaced, ...] = ()
    saved: Mapping[str, Any] = field(default_factory=dict)  # what a device has to give back (devices.contract, rule 4)
    guest: Mapping[str, str] = field(default_factory=dict)  # what it was handed on to (agent.guests.relay, rule 1)
    nad_uid: str = ""
    nad_resource_version: str = ""
    sequence: int = 0  # order of the ADDs on this node


@dataclass(frozen=True, slots=True)
class Guest:
    """How far an attachment has got in the pod's virtual machine."""

    state: str  # PodAttached, Attached, GuestVisible, Detaching
    interface: str = ""  # the guest's own name of it
    mac: str = ""
    addresses: tuple[str, ...] = ()
    port: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class AttachmentOutcome:
    position: int  # in the desired set; -1 when no longer wanted
    state: State
    network: str
    interface: str = ""
    result: Mapping[str, Any] | None = None
    reason: str = ""
    message: str = ""
    attempts: int = 0
    guest: Guest | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a pod's desired set: complete in itself, a later one replaces it."""

    pod: Pod
    revision: str
    settled: bool = False
    attachments: tuple[AttachmentOutcome, ...] = ()
    released: tuple[str, ...] = ()
    forgotten: bool = False
    sandbox: str = ""


class Refused(Exception):
    """The wish is wrong as it stands and is not retried until it changes."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotReady(Exception):
    """The wish is fine, the world is not: retried until it is."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# reasons of what is attached: it is not as it should be; it was not, and has been repaired
DRIFTED, DRIFT_REPAIRED = "Drifted", "DriftRepaired"
WAITING_FOR_GUEST = "WaitingForGuest"
GUEST_FAILURES = frozenset({"VMRefused", "NoFreePort", "NodeError", "InterfaceGone"})  # more than having to wait


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an interface has got in the pod's virtual machine. `problem` None: the guest has it."""

    guest: Guest
    problem: NotReady | Refused | None = None
