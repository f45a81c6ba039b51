"""KubeVirt's objects for tests, as short as can be, and a world around a VM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller import macs, relay_plan, vm_objects, vms
from controller.policy import Policy
from controller.vms import Instance, KubeVirt, Machine

WISH = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
MANAGED = "hotnic.dev/managed-interfaces"
MAC = "02:00:00:00:00:01"


def nic(name: str, mac: str = MAC, **parts: Any) -> dict[str, Any]:
    return {"name": name, "model": "virtio", "macAddress": mac, "bridge": {}, **parts}


def net(name: str, network: str = "ns/blue") -> dict[str, Any]:
    return {"name": name, "multus": {"networkName": network}}


POD_NIC, POD_NET = {"name": "default", "masquerade": {}}, {"name": "default", "pod": {}}


def lists(*pairs: tuple[dict[str, Any], dict[str, Any]], pod: bool = True) -> dict[str, Any]:
    """Return the spec of an instance, with the pod network first."""
    pairs = ((POD_NIC, POD_NET), *pairs) if pod else pairs
    return {
        "domain": {"devices": {"interfaces": [one for one, _ in pairs]}},
        "networks": [one for _, one in pairs],
    }


def plugged(name: str, network: str = "ns/blue", mac: str = MAC, **parts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an interface and its network."""
    return nic(name, mac, **parts), net(name, network)


def document(wish: str | None = None, spec: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    """Return a VirtualMachine. `spec`: its template's; `managed`, `status`, `annotations`, `conditions`."""
    annotations = {WISH: wish, MANAGED: parts.get("managed"), STATUS: parts.get("status")}
    annotations |= parts.get("annotations", {})
    annotations = {key: value for key, value in annotations.items() if value is not None}
    metadata = {
        "name": parts.get("name", "v"),
        "namespace": parts.get("namespace", "ns"),
        "uid": parts.get("uid", f"uid-{parts.get('name', 'v')}"),
        "resourceVersion": str(parts.get("version", 1)),
        "generation": parts.get("generation", 1),
    }
    if annotations:
        metadata["annotations"] = annotations
    if parts.get("deleting"):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": metadata,
        "spec": {"runStrategy": "Always", "template": {"spec": lists() if spec is None else spec}},
        "status": {"conditions": list(parts.get("conditions", ())), **parts.get("state", {})},
    }


def machine(wish: str | None = None, spec: dict[str, Any] | None = None, **parts: Any) -> Machine:
    return vm_objects.machine_from(document(wish, spec, **parts))


def instance_document(spec: dict[str, Any] | None = None, *links: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """Return the VM's instance: running, and as its spec says. `conditions`, `phase`, `migration`, `owner`."""
    name = parts.get("name", "v")
    owner = parts.get("owner", f"uid-{name}")
    owners = [{"kind": "VirtualMachine", "name": name, "uid": owner, "controller": True}] if owner else []
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "ns",
        "uid": f"vmi-{name}",
        "resourceVersion": str(parts.get("version", 1)),
        "ownerReferences": owners,
        "annotations": parts.get("annotations", {}),
    }
    status = {
        "phase": parts.get("phase", "Running"),
        "interfaces": list(links),
        "conditions": list(parts.get("conditions", ())),
        "migrationState": parts.get("migration"),
    }
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": metadata,
        "spec": lists() if spec is None else spec,
        "status": status,
    }


def instance(spec: dict[str, Any] | None = None, *links: dict[str, Any], **parts: Any) -> Instance:
    return vm_objects.instance_from(instance_document(spec, *links, **parts))


def link(name: str, sources: str = "domain, multus-status", mac: str = MAC, **parts: Any) -> dict[str, Any]:
    return {"name": name, "infoSource": sources, "mac": mac, "podInterfaceName": vms.pod_interface(name), **parts}


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def register() -> macs.Register:
    return macs.Register(macs.parse(macs.DEFAULT_RANGE), lambda _: None)


def world(
    instance: Instance | None = None,
    migration: str = "",
    networks: Iterable[str] = ("ns/blue", "ns/red", "other/blue"),
    kubevirt: KubeVirt | None = None,
    policy: Policy | None = None,
    addresses: relay_plan.Addresses | None = None,
) -> relay_plan.World:
    return relay_plan.World(
        instance, migration, kubevirt or KubeVirt("kubevirt/kubevirt"), set(networks).__contains__, policy or Policy(),
        addresses or register(),
    )  # fmt: skip
