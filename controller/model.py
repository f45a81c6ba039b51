"""What the controller knows of pods, networks and the agent's answers. Values only, no effects.

Rules
1. API objects become these views at once; nothing of them travels further. Only what decides is kept.
2. A pod's `uid` is the one that the container runtime knows. For the mirror of a static pod that is not the API
   object's own: it is in the annotation kubernetes.io/config.mirror. Anybody can write that into a pod, so it counts
   only beside all else that a kubelet writes there, and no pod is told from others by its `uid` alone: by its PodRef.
3. Texts of annotations stay as they are. Who decides over them parses them.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

from cni.status import by_interface

NETWORKS = "k8s.v1.cni.cncf.io/networks"
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
READY = "hotnic.dev/NetworksReady"
VM = "hotnic.dev/vm"
_KUBEVIRT_LABEL = ("kubevirt.io", "virt-launcher")
_MIRROR = "kubernetes.io/config.mirror"
_HASH = "kubernetes.io/config.hash"
_SOURCE = "kubernetes.io/config.source"

PodUID = NewType("PodUID", str)


@dataclass(frozen=True, slots=True)
class PodRef:
    """Which pod: by all three (rule 2)."""

    uid: PodUID
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Condition:
    """Our own condition of a pod: hotnic.dev/NetworksReady."""

    ready: bool
    reason: str
    message: str
    since: str  # lastTransitionTime


@dataclass(frozen=True, slots=True)
class Pod:
    ref: PodRef
    api_uid: str
    resource_version: str
    node: str
    host_network: bool
    phase: str
    deleting: bool
    annotated: bool  # whether there are annotations at all
    networks: str | None
    network_status: str | None
    conditions: tuple[Mapping[str, Any], ...]  # as they are in the API object, so that a patch can test them
    sandbox_hint: str  # changes when the pod may have got another sandbox
    vm: str = ""  # the annotation that says how the virtual machine in it is reached
    is_kubevirts: bool = False  # KubeVirt runs the virtual machine in it, and hands interfaces on by itself

    @property
    def condition(self) -> Condition | None:
        for item in self.conditions:
            if item.get("type") == READY:
                return Condition(
                    ready=item.get("status") == "True",
                    reason=item.get("reason") or "",
                    message=item.get("message") or "",
                    since=item.get("lastTransitionTime") or "",
                )
        return None

    @property
    def is_completed(self) -> bool:
        return self.phase in {"Succeeded", "Failed"}

    def has_interfaces(self) -> bool:
        """Whether its status tells of interfaces besides the default network's, whoever made them."""
        return bool(by_interface(self.network_status))

    def says_the_same(self, other: Pod) -> bool:
        """Whether nothing that matters here differs. Most updates of a pod are the kubelet's and none of ours."""
        return _what_matters(self) == _what_matters(other)


@dataclass(frozen=True, slots=True)
class Network:
    """A NetworkAttachmentDefinition."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    config: str  # "": the configuration of that name on the node's disk

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


class State(enum.Enum):
    """Where an attachment stands; the words of the agent's API."""

    PENDING = "Pending"
    ATTACHED = "Attached"
    REFUSED = "Refused"
    DETACHING = "Detaching"


@dataclass(frozen=True, slots=True)
class Guest:
    """What the agent says of an attachment in the pod's virtual machine."""

    state: str
    interface: str = ""
    mac: str = ""
    addresses: tuple[str, ...] = ()
    port: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the agent says of one attachment."""

    position: int  # in what was sent; -1 when no longer wanted
    state: State
    network: str
    interface: str = ""
    result: str = ""  # the CNI result, JSON
    reason: str = ""
    message: str = ""
    attempts: int = 0
    guest: Guest | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the agent says of one pod: complete in itself, a later one replaces it."""

    pod: PodRef
    revision: str
    settled: bool = True
    attachments: tuple[Progress, ...] = ()
    released: tuple[str, ...] = ()
    forgotten: bool = False
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event about a pod, as far as it is ours to decide."""

    reason: str
    message: str
    warning: bool


def pod_from(document: Mapping[str, Any]) -> Pod:
    """Read a v1 Pod. Raises KeyError for what no API server sends."""
    metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    annotations = metadata.get("annotations") or {}
    conditions = tuple(status.get("conditions") or ())
    key, value = _KUBEVIRT_LABEL
    is_kubevirts = (metadata.get("labels") or {}).get(key) == value
    return Pod(
        ref=PodRef(_uid(metadata, spec, annotations), metadata["namespace"], metadata["name"]),
        api_uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        node=spec.get("nodeName") or "",
        host_network=bool(spec.get("hostNetwork")),
        phase=status.get("phase") or "",
        deleting="deletionTimestamp" in metadata,
        annotated=bool(annotations),
        networks=annotations.get(NETWORKS),
        network_status=annotations.get(NETWORK_STATUS),
        conditions=conditions,
        sandbox_hint=_sandbox_hint(status, conditions),
        vm="" if is_kubevirts else annotations.get(VM, ""),
        is_kubevirts=is_kubevirts,
    )


def network_from(document: Mapping[str, Any]) -> Network:
    """Read a NetworkAttachmentDefinition. Raises KeyError for what no API server sends."""
    metadata, spec = document["metadata"], document.get("spec")
    config = spec.get("config") if isinstance(spec, Mapping) else None
    return Network(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        # where the CRD has no schema, `config` may be anything: as text, the agent can say what is wrong with it
        config=config if isinstance(config, str) else json.dumps(config) if config else "",
    )


def _uid(metadata: Mapping[str, Any], spec: Mapping[str, Any], annotations: Mapping[str, str]) -> PodUID:
    """Return the UID of the pod's sandboxes (rule 2)."""
    mirror = annotations.get(_MIRROR)
    is_static = annotations.get(_SOURCE) in {"file", "http"} and any(
        (owner.get("kind"), owner.get("name"), owner.get("controller")) == ("Node", spec.get("nodeName"), True)
        for owner in metadata.get("ownerReferences") or ()
    )
    return PodUID(mirror if mirror and mirror == annotations.get(_HASH) and is_static else metadata["uid"])


def _sandbox_hint(status: Mapping[str, Any], conditions: tuple[Mapping[str, Any], ...]) -> str:
    ready = next((item for item in conditions if item.get("type") == "PodReadyToStartContainers"), {})
    restarts = sum(int(item.get("restartCount") or 0) for item in status.get("containerStatuses") or ())
    parts = (ready.get("status"), ready.get("lastTransitionTime"), status.get("podIP"), restarts)
    return " ".join(str(part or "-") for part in parts)


def _what_matters(pod: Pod) -> tuple[object, ...]:
    return (
        pod.api_uid, pod.phase, pod.deleting, pod.networks, pod.vm, pod.is_kubevirts, pod.network_status, pod.condition,
        pod.sandbox_hint,
    )  # fmt: skip
