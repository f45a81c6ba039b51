"""KubeVirt's objects as they are in the API -> the relay's views of them.

Rule 1: a VirtualMachineInstance is its VirtualMachine's only where the owner reference says so, by UID.
"""

from __future__ import annotations

import re

from controller.model import NETWORK_STATUS, NETWORKS
from controller.vms import (
    BRIDGE,
    MANAGED,
    READY,
    REASON,
    Devices,
    Instance,
    KubeVirt,
    Link,
    Machine,
    Migration,
    Raw,
)

_LIVE_UPDATE_OF_NETWORKS = (1, 9)  # enhancement 140: general there, behind a feature gate before


def machine_from(document: Raw) -> Machine:
    """Read a VirtualMachine. Raises KeyError for what no API server sends."""
    metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    annotations = metadata.get("annotations") or {}
    template = (spec.get("template") or {}).get("spec") or {}
    devices = (template.get("domain") or {}).get("devices")
    failure = _condition(status, "Failure")
    return Machine(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=int(metadata.get("generation") or 0),
        deleting="deletionTimestamp" in metadata,
        annotated=bool(annotations),
        annotations={
            key: annotations[key] for key in (NETWORKS, NETWORK_STATUS, MANAGED, READY, REASON) if key in annotations
        },
        devices=_devices(template),
        has_device_map=devices is not None,
        attaches_pod_network=(devices or {}).get("autoattachPodInterface") is not False,
        has_preference=bool(spec.get("preference")),
        failure=failure.get("message") or "" if failure.get("reason") == "HotPlugNetworkInterfaceError" else "",
        busy=status.get("snapshotInProgress") or status.get("restoreInProgress") or "",
    )


def instance_from(document: Raw) -> Instance:
    """Read a VirtualMachineInstance. Raises KeyError for what no API server sends."""
    metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    owners = metadata.get("ownerReferences") or ()
    trouble = _condition(status, "Synchronized")
    return Instance(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        owner=next((one["uid"] for one in owners if one.get("kind") == "VirtualMachine" and one.get("controller")), ""),
        phase=status.get("phase") or "",
        deleting="deletionTimestamp" in metadata,
        annotation=(metadata.get("annotations") or {}).get(NETWORKS),
        devices=_devices(spec),
        links=tuple(_link(one) for one in status.get("interfaces") or () if one.get("name")),
        migrating=_is_migrating(status.get("migrationState") or {}),
        migratable=_condition(status, "LiveMigratable").get("status") == "True",
        migration_required=_condition(status, "MigrationRequired").get("status") or "",
        trouble=trouble.get("message") or "" if trouble.get("status") == "False" else "",
    )


def migration_from(document: Raw) -> Migration:
    """Read a VirtualMachineInstanceMigration. Raises KeyError for what no API server sends."""
    metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    return Migration(
        namespace=metadata["namespace"],
        name=metadata["name"],
        resource_version=metadata["resourceVersion"],
        instance=spec.get("vmiName") or "",
        phase=status.get("phase") or "",
    )


def kubevirt_from(document: Raw) -> KubeVirt:
    """Read a KubeVirt, the installation's own object. Raises KeyError for what no API server sends."""
    metadata, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    settings = spec.get("configuration") or {}
    gates = (settings.get("developerConfiguration") or {}).get("featureGates") or ()
    version = re.match(r"v?(\d{1,9})\.(\d{1,9})", status.get("observedKubeVirtVersion") or "")
    is_live = settings.get("vmRolloutStrategy", "LiveUpdate") == "LiveUpdate"
    migrates = "LiveMigrate" in ((spec.get("workloadUpdateStrategy") or {}).get("workloadUpdateMethods") or ())
    knows = "LiveUpdateNADRef" in gates or (
        version is not None and (int(version[1]), int(version[2])) >= _LIVE_UPDATE_OF_NETWORKS
    )
    return KubeVirt(
        key=f"{metadata['namespace']}/{metadata['name']}",
        resource_version=metadata["resourceVersion"],
        pod_binding=(settings.get("network") or {}).get("defaultNetworkInterface") or BRIDGE,
        exchanges_networks=is_live and migrates and knows,
    )


def _devices(spec: Raw) -> Devices:
    interfaces = ((spec.get("domain") or {}).get("devices") or {}).get("interfaces")
    networks = spec.get("networks")
    return Devices(
        None if interfaces is None else tuple(interfaces),
        None if networks is None else tuple(networks),
    )


def _link(status: Raw) -> Link:
    address = status.get("ipAddress")
    return Link(
        name=status["name"],
        mac=str(status.get("mac") or "").lower(),
        ips=tuple(status.get("ipAddresses") or ([address] if address else ())),
        pod_interface=status.get("podInterfaceName") or "",
        guest_interface=status.get("interfaceName") or "",
        sources=frozenset(filter(None, (part.strip() for part in (status.get("infoSource") or "").split(",")))),
        link_state=status.get("linkState") or "",
    )


def _is_migrating(state: Raw) -> bool:
    return bool(state.get("startTimestamp")) and not (
        state.get("endTimestamp") or state.get("completed") or state.get("failed")
    )


def _condition(status: Raw, kind: str) -> Raw:
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})
