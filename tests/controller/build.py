"""Pods, networks and outcomes for tests, as short as can be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from controller.model import NETWORK_STATUS, NETWORKS, Network, Outcome, Pod, PodRef, PodUID, Progress, State, pod_from

STATIC: Mapping[str, Any] = {  # what a kubelet writes into the mirror of a static pod
    "annotations": {
        "kubernetes.io/config.hash": "hash-of-the-file",
        "kubernetes.io/config.mirror": "hash-of-the-file",
        "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
        "kubernetes.io/config.source": "file",
    },
    "owners": [{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "uid-node-1", "controller": True}],
}


def document(name: str = "p", **parts: Any) -> dict[str, Any]:
    """Return a v1 Pod. `networks` and `status`: texts of the annotations; the rest as the names say."""
    annotations = {NETWORKS: parts.get("networks"), NETWORK_STATUS: parts.get("status"), **parts.get("annotations", {})}
    annotations = {key: value for key, value in annotations.items() if value is not None}
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "ns",
        "uid": parts.get("uid", f"uid-{name}"),
        "resourceVersion": str(parts.get("version", 1)),
    }
    if annotations:
        metadata["annotations"] = annotations
    if parts.get("labels"):
        metadata["labels"] = parts["labels"]
    if parts.get("owners"):
        metadata["ownerReferences"] = parts["owners"]
    if parts.get("deleting"):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: dict[str, Any] = {"phase": parts.get("phase", "Running")}
    if parts.get("conditions"):
        status["conditions"] = list(parts["conditions"])
    spec = {"nodeName": parts.get("node", "node-1"), "hostNetwork": parts.get("host_network", False)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def pod(name: str = "p", **parts: Any) -> Pod:
    return pod_from(document(name, **parts))


def ready(status: str, reason: str, message: str = "", since: str = "2026-01-01T00:00:00Z") -> Mapping[str, Any]:
    return {
        "type": "hotnic.dev/NetworksReady",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }


def network(name: str = "blue", namespace: str = "ns", version: int = 1) -> Network:
    return Network(namespace, name, f"uid-{name}", str(version), json.dumps({"type": "hotnic", "name": name}))


def attached(interface: str, network: str = "ns/blue", position: int = 0, **address: str) -> Progress:
    link = {"name": interface, "mac": address.get("mac", "02:00:00:00:00:01"), "sandbox": "/netns"}
    ips = [{"address": address.get("ip", "10.9.0.7/24"), "interface": 0}]
    result = json.dumps({"cniVersion": "1.1.0", "interfaces": [link], "ips": ips})
    return Progress(position, State.ATTACHED, network, interface, result)


def lacking(state: State, interface: str, reason: str, message: str, **parts: Any) -> Progress:
    return Progress(
        parts.get("position", 0), state, parts.get("network", "ns/blue"), interface, "", reason, message,
        parts.get("attempts", 1),
    )  # fmt: skip


def outcome(*attachments: Progress, **parts: Any) -> Outcome:
    return Outcome(
        PodRef(PodUID("uid-p"), "ns", "p"),
        parts.get("revision", "r"),
        parts.get("settled", True),
        attachments,
        tuple(parts.get("released", ())),
        sandbox=parts.get("sandbox", "sandbox-1"),
    )


def entries(*interfaces: str, network: str = "ns/blue") -> str:
    """Return a network-status as hotnic writes it for `attached` interfaces, after the default network's entry."""
    default = {"name": "cni0", "interface": "eth0", "ips": ["10.244.0.5"], "default": True, "dns": {}}
    ours = [
        {"name": network, "interface": name, "ips": ["10.9.0.7"], "mac": "02:00:00:00:00:01", "dns": {}}
        for name in interfaces
    ]
    return json.dumps([default, *ours])
