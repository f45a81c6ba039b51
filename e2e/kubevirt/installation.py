"""KubeVirt in a lane: installed as an administrator does it, by its operator and one object.

Rule 1: nothing of KubeVirt is made by hand: its operator makes certificates, webhooks, rights and workloads itself.
Rule 2: no registry: the nodes have the images before anything asks for them.
Rule 3: guests are emulated (`useEmulation`), as there is no hardware for them to be had here.
"""

import functools
import json
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from e2e import build, runtimes, services
from e2e.cluster import Cluster
from e2e.kubevirt import images
from e2e.node import Node
from e2e.progress import step

NAMESPACE = "kubevirt"
CPU = "Penryn"
"""The guests' CPU, which QEMU emulates on any machine."""
# KubeVirt's own labels tell of a CPU that KVM would emulate, as this kernel has a /dev/kvm, though nobody here may use
# it; no second node would be found for a guest with that. So the administrator says what the nodes have.
_NO_MORE_LABELS = "node-labeller.kubevirt.io/skip-node="
_CPU_LABEL = f"cpu-model.node.kubevirt.io/{CPU}=true"
_LABELLED = "machine-type.node.kubevirt.io/q35"
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane="
_TIMEOUT_S = 900.0


def _ready_soon(name: str, kind: str) -> dict[str, str]:
    """Return a patch of one of KubeVirt's workloads, which else is looked at first after 15 s, by its own means."""
    probe = {"initialDelaySeconds": 1, "periodSeconds": 2}
    container = {"name": name, "readinessProbe": probe}
    patch = json.dumps({"spec": {"template": {"spec": {"containers": [container]}}}})
    return {"resourceName": name, "resourceType": kind, "type": "strategic", "patch": patch}


_PROBED = {"virt-api": "Deployment", "virt-controller": "Deployment", "virt-handler": "DaemonSet"}
_KUBEVIRT = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "KubeVirt",
    "metadata": {"name": "kubevirt", "namespace": NAMESPACE},
    "spec": {
        "imagePullPolicy": "IfNotPresent",
        "infra": {"replicas": 1},
        "configuration": {
            "developerConfiguration": {"useEmulation": True},
            "imagePullPolicy": "IfNotPresent",
            "vmRolloutStrategy": "LiveUpdate",
        },
        "customizeComponents": {"patches": [_ready_soon(name, kind) for name, kind in _PROBED.items()]},
    },
}


def install(cluster: Cluster) -> None:
    """Install KubeVirt unless that was done, and wait until it says that it is deployed.

    Raises StartError with what is known if it never says so.
    """
    if _phase(cluster) != "Deployed":
        archives = images.archives()
        with step("importing KubeVirt's images"), ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: _import(node, archives), cluster.nodes))
        for node in cluster.nodes:
            cluster.kubectl("label", "--overwrite", "node", node.name, _CONTROL_PLANE)
        cluster.kubectl("apply", "--server-side", "-f", "-", input=_operator())
        cluster.kubectl("wait", "--for=condition=Established", "crd/kubevirts.kubevirt.io", "--timeout=60s")
        cluster.kubectl("apply", "-f", "-", input=json.dumps(_KUBEVIRT))
        _wait(cluster, "KubeVirt to be deployed", lambda: _phase(cluster) == "Deployed")
        for node in cluster.nodes:
            _wait(cluster, f"{node.name}'s labels", functools.partial(_is_labelled, cluster, node))
            cluster.kubectl("annotate", "--overwrite", "node", node.name, _NO_MORE_LABELS)
            cluster.kubectl("label", "--overwrite", "node", node.name, _CPU_LABEL)


def _wait(cluster: Cluster, what: str, holds: Callable[[], bool]) -> None:
    try:
        services.wait_for(what, holds, (), _TIMEOUT_S)
    except services.StartError as error:
        raise services.StartError(f"{error}\n{_explain(cluster)}") from None


def _is_labelled(cluster: Cluster, node: Node) -> bool:
    return bool(cluster.kubectl("get", "node", "-o", "name", "-l", f"{_LABELLED},kubernetes.io/hostname={node.name}"))


def _import(node: Node, archives: Iterable[Path]) -> None:
    for archive in archives:
        node.exec(runtimes.chosen().load(archive), timeout=300)


def _operator() -> str:
    command = [str(build.ensure(build.KUBEVIRT) / build.KUBEVIRT.name), "-namespace", NAMESPACE]
    command += ["-repository", images.REPOSITORY, "-version", images.VERSION]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _phase(cluster: Cluster) -> str:
    path = ("get", "kubevirt", "kubevirt", "-n", NAMESPACE, "-o", "jsonpath={.status.phase}")
    return cluster.kubectl(*path, check=False)


def _explain(cluster: Cluster) -> str:
    asked = (("get", "pods", "-A", "-o", "wide"), ("get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp"))
    return "\n".join(cluster.kubectl(*one, check=False) for one in asked)
