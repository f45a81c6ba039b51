"""Pure: a pod and the networks there are -> what the pod should have, as it is sent to the agent.

Rules
1. What is wrong with one element is a Refusal; the element is not sent, the others are.
2. A network that is missing is a hold, not a refusal: the element is sent and stays attached where it is, but is
   not attached anew before the network exists. Until then what is attached under its interface name stays as well.
3. A network that policy forbids is a hold as well, and a refusal: who was attached before the policy stays so.
4. An annotation that is malformed as a whole changes nothing. Neither does anything once the pod is being deleted.
5. In KubeVirt's pods an element without an interface name is a network binding plugin's, which sees to it by itself:
   it is none of ours, and an interface `net<n>` would have KubeVirt change all names.
6. `revision` is a hash over everything that is sent: equal revision, equal wish.
7. Where hotnic is withdrawn (controller.policy) every pod is sent an empty set, whatever it asks for, and each of its
   elements is told to be refused for that. Their interfaces are not named: what is named is kept.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cni import multinet
from controller.model import Network, Pod, State
from controller.policy import Policy

NETWORK_NOT_FOUND = "NetworkNotFound"
UNINSTALLING = "Uninstalling"

# eth0 is the pod's own network (NPWG 1.3, section 4.1.2.1.4 leaves names to us); the kernel has no links of the
# names of its sysctl directories
_RESERVED = {
    "eth0": "is the pod's own network",
    "lo": "is the loopback interface",
    "all": "is a name that the kernel does not allow",
    "default": "is a name that the kernel does not allow",
}


@dataclass(frozen=True, slots=True)
class Hold:
    """The agent does not attach the element, but keeps it, and what else has its name, where that is attached."""

    state: State
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Attachment:
    element: str  # the selection element, canonical JSON
    config: str
    nad_uid: str
    nad_resource_version: str
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An element that is wrong as asked."""

    position: int  # in the annotation
    network: str
    interface: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Desired:
    revision: str
    attachments: tuple[Attachment, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    vm: str = ""
    is_kubevirts: bool = False

    @property
    def keep(self) -> tuple[str, ...]:
        """The interfaces that wrong elements name: what is attached there stays until they are mended."""
        return tuple(sorted({one.interface for one in self.refusals if one.interface}))


@dataclass(frozen=True, slots=True)
class Malformed:
    """The annotation cannot be read at all."""

    position: int
    reason: str


class NotApplicable(enum.Enum):
    """Why a pod is not to be changed, whatever its annotation says."""

    HOST_NETWORK = "the pod is in the host's network namespace"
    COMPLETED = "all its containers have ended for good"
    DELETING = "it is being deleted"


Wish = Desired | Malformed | NotApplicable


def desired(pod: Pod, lookup: Callable[[str], Network | None], policy: Policy) -> Wish:
    """Return what `pod` should have; `lookup` finds a network by `namespace/name`."""
    if pod.is_completed:
        return NotApplicable.COMPLETED
    if pod.deleting:
        return NotApplicable.DELETING
    if policy.withdrawn:
        return _withdrawn(pod)
    try:
        elements = multinet.parse(pod.networks or "", pod.ref.namespace)
    except multinet.AnnotationError as problem:
        return NotApplicable.HOST_NETWORK if pod.host_network else Malformed(problem.position, problem.reason)
    if pod.host_network and elements:
        return NotApplicable.HOST_NETWORK
    attachments: list[Attachment] = []
    refusals: list[Refusal] = []
    for position, element in enumerate(elements):
        if pod.is_kubevirts and not element.interface:
            continue  # rule 5
        if refusal := _refusal(position, element, pod.ref.namespace, policy):
            refusals.append(refusal)
        if isinstance(element, multinet.Selection) and element.interface not in _RESERVED:
            attachments.append(_attachment(element, lookup, refusal))
    revision = _revision(attachments, refusals, pod)
    return Desired(revision, tuple(attachments), tuple(refusals), pod.vm, pod.is_kubevirts)


def _withdrawn(pod: Pod) -> Desired:
    """Rule 7."""
    try:
        elements = () if pod.host_network else multinet.parse(pod.networks or "", pod.ref.namespace)
    except multinet.AnnotationError:
        elements = ()
    message = "hotnic is being uninstalled"
    refusals = [Refusal(position, one.network, "", UNINSTALLING, message) for position, one in enumerate(elements)]
    return Desired(_revision([], refusals, pod), (), tuple(refusals), pod.vm, pod.is_kubevirts)


def _refusal(
    position: int, element: multinet.Selection | multinet.Invalid, namespace: str, policy: Policy
) -> Refusal | None:
    match element:
        case multinet.Invalid():
            reason, message = "InvalidElement", f"element {position + 1}: {element.reason}"
        case multinet.Selection(interface=name) if name in _RESERVED:
            reason, message = "InterfaceReserved", f"interface name {name} {_RESERVED[name]}"
        case multinet.Selection() if not policy.allows(namespace, element.namespace):
            reason, message = "NamespaceForbidden", f"policy: no networks of namespace {element.namespace} here"
        case _:
            return None
    return Refusal(position, element.network, element.interface, reason, message)


def _attachment(
    selection: multinet.Selection, lookup: Callable[[str], Network | None], refusal: Refusal | None
) -> Attachment:
    element, network = multinet.to_json(selection), lookup(selection.network)
    if refusal is not None:
        return Attachment(element, "", "", "", Hold(State.REFUSED, refusal.reason, refusal.message))
    if network is None:
        missing = f"NetworkAttachmentDefinition {selection.network} does not exist"
        return Attachment(element, "", "", "", Hold(State.PENDING, NETWORK_NOT_FOUND, missing))
    return Attachment(element, network.config, network.uid, network.resource_version)


def _revision(attachments: list[Attachment], refusals: list[Refusal], pod: Pod) -> str:
    wanted = [(one.element, one.nad_uid, one.nad_resource_version, one.hold) for one in attachments]
    configs = {(one.nad_uid, one.nad_resource_version): one.config for one in attachments}  # long, so each once
    kept = [refusal.interface for refusal in refusals]
    text = repr((wanted, sorted(configs.items()), kept, pod.vm, pod.is_kubevirts))
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()
