"""KubeVirt's objects, and the lease, in the API server: what the cluster role lists, watches, reads and writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from controller.follow import Resource
from controller.kube import Kube, event_document
from controller.leader import Record
from controller.model import Event
from controller.reconcile import Conflict, Gone
from controller.relay import Denied
from controller.relay_patch import Operation
from controller.vm_objects import instance_from, kubevirt_from, machine_from, migration_from
from controller.vms import Instance, KubeVirt, Machine, Migration

_GROUP = "/apis/kubevirt.io/v1"
MACHINES: Resource[Machine] = Resource(f"{_GROUP}/virtualmachines", machine_from)
INSTANCES: Resource[Instance] = Resource(f"{_GROUP}/virtualmachineinstances", instance_from)
MIGRATIONS: Resource[Migration] = Resource(f"{_GROUP}/virtualmachineinstancemigrations", migration_from)
INSTALLATIONS: Resource[KubeVirt] = Resource(f"{_GROUP}/kubevirts", kubevirt_from)

_READ_S = 10.0
_COMPONENT = "hotnic"
_KINDS = {Machine: "VirtualMachine", Instance: "VirtualMachineInstance"}

log = logging.getLogger(__name__)


class Machines:
    """The API server as the relay uses it."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def find_machine(self, namespace: str, name: str) -> Machine | None:
        """Return the VM of that name, whichever its UID."""
        try:
            return machine_from(self._kube.read(_path(namespace, name), _READ_S))
        except Gone:
            return None

    def patch_machine(self, machine: Machine, operations: Sequence[Operation], seconds: float) -> Machine:
        """Return the VM as it is then. Raises Conflict, Denied and Gone."""
        path = _path(machine.namespace, machine.name)
        return machine_from(self._kube.write("vm", "PATCH", path, operations, seconds))

    def tell_of(self, about: Machine | Instance, event: Event, seconds: float) -> None:
        """Create the event. One that the API server refuses is lost."""
        path = f"/api/v1/namespaces/{quote(about.namespace)}/events"
        try:
            self._kube.write("event", "POST", path, _event(about, event), seconds)
        except (Conflict, Denied, Gone) as problem:
            log.warning("%s: event not taken: %s", about.key, problem)


class Leases:
    """One Lease of coordination.k8s.io/v1."""

    def __init__(self, kube: Kube, namespace: str, name: str) -> None:
        self._kube = kube
        self._name = name
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace)}/leases"

    def read_lease(self) -> Record | None:
        """Return what the Lease says; None where there is none."""
        try:
            return _record(self._kube.read(f"{self._all}/{quote(self._name)}", _READ_S))
        except Gone:
            return None

    def write_lease(self, record: Record, seconds: float) -> Record:
        """Make it, or replace the version that `record` names. Raises Conflict and Gone."""
        body = self._document(record)
        try:
            if not record.version:
                return _record(self._kube.write("lease", "POST", self._all, body, seconds))
            return _record(self._kube.write("lease", "PUT", f"{self._all}/{quote(self._name)}", body, seconds))
        except Denied as problem:
            raise Conflict(str(problem)) from None

    def _document(self, record: Record) -> Mapping[str, Any]:
        version = {"resourceVersion": record.version} if record.version else {}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, **version},
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": record.duration_s,
                "acquireTime": record.acquired,
                "renewTime": record.renewed,
                "leaseTransitions": record.transitions,
            },
        }


def _record(document: Mapping[str, Any]) -> Record:
    spec = document.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration_s=int(spec.get("leaseDurationSeconds") or 0),
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        transitions=int(spec.get("leaseTransitions") or 0),
        version=document["metadata"]["resourceVersion"],
    )


def _path(namespace: str, name: str) -> str:
    return f"{_GROUP}/namespaces/{quote(namespace)}/virtualmachines/{quote(name)}"


def _event(about: Machine | Instance, event: Event) -> Mapping[str, Any]:
    involved = {
        "apiVersion": "kubevirt.io/v1",
        "kind": _KINDS[type(about)],
        "namespace": about.namespace,
        "name": about.name,
        "uid": about.uid,
        "resourceVersion": about.resource_version,
    }
    return event_document(involved, event, {"component": _COMPONENT})
