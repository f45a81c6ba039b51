"""hotnic on the lane's nodes: the two processes of the DaemonSet, with exactly the rights of the manifests.

Rule 1: the controller uses a token of its ServiceAccount, never an administrator's.
Rule 2: RBAC, admission, namespace, definition of the NetworkAttachmentDefinition and policy come from manifests/,
        unchanged.
Rule 3: capabilities, seccomp profile and no_new_privs are those of the DaemonSet's containers (e2e.rights). Mounts and
        the controller's user are not: e2e.installed has the DaemonSet itself, with the image.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e import rights
from e2e.cluster import Cluster
from e2e.node import Node
from e2e.process import Process

REPOSITORY = Path(__file__).parent.parent
NAMESPACE = "hotnic-system"
SERVICE_ACCOUNT = "hotnic"
METRICS = {"agent": "127.0.0.1:9414", "controller": "127.0.0.1:9415"}
BIN = Path(sys.executable).parent
OVERLAY = "manifests/overlays/without-multus"
"""The overlay that a cluster with nothing but Kubernetes needs."""


def manifests(cluster: Cluster, overlay: str = OVERLAY) -> list[dict[str, Any]]:
    """Return the objects of the overlay, as they are shipped."""
    text = cluster.kubectl("kustomize", str(REPOSITORY / overlay))
    return [one for one in yaml.safe_load_all(text) if one]


def policy(shipped: str, *, isolation: bool) -> str:
    """Return the policy as it is shipped, but for what the lane asks for, and for the plugin that the tests bring."""
    document = yaml.safe_load(shipped)
    document["namespaceIsolation"] = isolation
    document["rules"][0]["namespaces"].append("scene")  # of e2e.scene, which makes gateways
    document["rules"][-1]["plugins"].append("recorder")
    document["rules"][-1]["vnis"].append("*")
    return yaml.safe_dump(document)


def wait_established(cluster: Cluster) -> None:
    """Wait until networks can be made."""
    crd = "crd/network-attachment-definitions.k8s.cni.cncf.io"
    cluster.kubectl("wait", "--for=condition=Established", crd, "--timeout=30s")


def metrics(node: Node, role: str, path: str) -> str:
    """Return what the node's process of that role answers over HTTP; empty where it does not."""
    return node.exec(["busybox", "wget", "-q", "-O", "-", f"http://{METRICS[role]}{path}"], check=False).stdout


@dataclass
class Product:
    """What is installed in one cluster, and the processes that run on its nodes."""

    cluster: Cluster
    agent_arguments: tuple[str, ...] = ()
    isolation: bool = False
    agents: dict[str, Process] = field(default_factory=dict)
    controllers: dict[str, Process] = field(default_factory=dict)

    def install(self) -> None:
        """Apply the manifests, but for the DaemonSet, whose processes are started here instead."""
        objects = [one for one in self.manifests() if one["kind"] != "DaemonSet"]
        self.cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(objects))
        wait_established(self.cluster)
        shipped = next(one for one in objects if one["kind"] == "ConfigMap" and "policy.yaml" in one["data"])
        text = policy(shipped["data"]["policy.yaml"], isolation=self.isolation)
        for node in self.cluster.nodes:
            folder = node.path("/etc/hotnic")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "policy.yaml").write_text(text)
            self._install_executable(node)

    def manifests(self) -> list[dict[str, Any]]:
        """Return the objects of the overlay, as they are shipped."""
        return manifests(self.cluster)

    def start(self) -> None:
        """Start both processes on every node, and wait until they serve."""
        for node in self.cluster.nodes:
            self.start_agent(node)
            self.start_controller(node)

    def start_agent(self, node: Node) -> Process:
        """Start the node's agent and wait for its sockets."""
        arguments = ["--cri", f"unix://{node.cri_socket}", "--metrics-address", METRICS["agent"],
                     "--policy", "/etc/hotnic/policy.yaml", *self.agent_arguments]  # fmt: skip
        may = rights.of("agent")
        argv = (str(BIN / "hotnic-agent"), *arguments, "--controller-group", str(may.group))
        process = node.popen(may.command(argv), log=self.log("agent", node))
        self.agents[node.name] = process
        # a predecessor's sockets may still be there: what counts is one that answers
        self._serves(process, lambda: self.metrics(node, "agent", "/healthz") == "ok\n")
        return process

    def start_controller(self, node: Node) -> Process:
        """Start the node's controller and wait until it is ready."""
        token = self.cluster.token(NAMESPACE, SERVICE_ACCOUNT, node.name)
        arguments = ["node", "--node-name", node.name, "--kubeconfig", str(self.cluster.kubeconfig_for_token(token)),
                     "--policy", "/etc/hotnic/policy.yaml", "--metrics-address", METRICS["controller"]]  # fmt: skip
        command = rights.of("controller").command((str(BIN / "hotnic-controller"), *arguments))
        process = node.popen(command, log=self.log("controller", node))
        self.controllers[node.name] = process
        self._serves(process, lambda: self.metrics(node, "controller", "/readyz") == "ok\n")
        return process

    def stop(self) -> None:
        """End everything that runs."""
        for process in (*self.controllers.values(), *self.agents.values()):
            process.stop()

    def metrics(self, node: Node, role: str, path: str = "/metrics") -> str:
        """Return what the process answers over HTTP; empty where it does not."""
        return metrics(node, role, path)

    def log(self, role: str, node: Node) -> Path:
        return self.cluster.state / "log" / f"{node.name}-hotnic-{role}.log"

    def _install_executable(self, node: Node) -> None:
        target = node.path("/opt/cni/bin/hotnic")
        temporary = target.with_suffix(".new")
        temporary.write_bytes((REPOSITORY / "bin/hotnic").read_bytes())
        temporary.chmod(0o755)
        os.replace(temporary, target)  # noqa: PTH105 by rename: a runtime may be executing it

    def _serves(self, process: Process, works: Callable[[], bool], timeout: float = 20) -> None:
        end = time.monotonic() + timeout
        while not works():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"does not serve: {process.log}\n{process.output()[-4000:]}")
            time.sleep(0.05)
