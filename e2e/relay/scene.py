"""VirtualMachines in a cluster that has KubeVirt's definitions but no KubeVirt, and the controllers that relay to it.

Rule 1: the controllers have exactly the rights of the manifests.
Rule 2: what KubeVirt does to VM and instance is done by the test, as its virt-controller does it, in as many steps.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from e2e import rights
from e2e.cluster import Cluster
from e2e.pods import NETWORKS, STATUS
from e2e.product import BIN, NAMESPACE, REPOSITORY
from e2e.relay import definitions

READY, REASON, MANAGED = (
    "hotnic.dev/networks-ready",
    "hotnic.dev/networks-ready-reason",
    "hotnic.dev/managed-interfaces",
)
ACCOUNT = "hotnic-cluster"
LEASE = "hotnic-cluster"
TIMEOUT_S = 60.0
_GROUP = ("kubevirt.io", "v1")
_NAD = "network-attachment-definitions.k8s.cni.cncf.io"


def objects(cluster: Cluster) -> list[dict[str, Any]]:
    """Return what is installed beside KubeVirt."""
    text = cluster.kubectl("kustomize", str(REPOSITORY / "manifests/overlays/kubevirt"))
    return [one for one in yaml.safe_load_all(text) if one]


def install(cluster: Cluster) -> None:
    """Apply the manifests, but for what would run as pods."""
    found = [one for one in objects(cluster) if one["kind"] not in {"DaemonSet", "Deployment"}]
    cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(found))
    cluster.kubectl(
        "apply", "--server-side", "-f", str(REPOSITORY / "manifests/components/crd/network-attachment-definition.yaml")
    )
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{_NAD}", "--timeout=60s")


def define_machines(cluster: Cluster) -> None:
    """Give the cluster KubeVirt's definitions."""
    found = definitions.load()
    cluster.kubectl(
        "apply", "--server-side", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    )
    for one in found:
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{one['metadata']['name']}", "--timeout=60s")


def install_kubevirt(cluster: Cluster, namespace: str) -> None:
    """Make the object that says how KubeVirt is installed."""
    document = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": namespace},
        "spec": {"configuration": {"network": {"defaultNetworkInterface": "masquerade"}}},
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(document))


@dataclass
class Controller:
    """One process of `hotnic-controller cluster`."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics: str

    @classmethod
    def start(cls, cluster: Cluster, number: int, *arguments: str) -> "Controller":
        """Start it, and wait until it follows everything."""
        metrics = f"127.0.0.1:{9500 + number}"
        log = cluster.state / "log" / f"hotnic-cluster-{number}-{time.monotonic_ns()}.log"
        kubeconfig = cluster.kubeconfig_for_token(cluster.token(NAMESPACE, ACCOUNT))
        argv = (str(BIN / "hotnic-controller"), "cluster", "--kubeconfig", str(kubeconfig),
                "--lease-namespace", NAMESPACE, "--metrics-address", metrics, *arguments)  # fmt: skip
        command = rights.of("controller", rights.CLUSTER).command(argv)
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        one = cls(process, log, metrics)
        try:
            wait("the controller is ready", lambda: one.ask("/readyz") == "ok\n", one.output)
        except AssertionError:
            one.end()
            raise
        return one

    def ask(self, path: str) -> str:
        """Return what it answers over HTTP; empty where it does not."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"http://{self.metrics}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def counts(self) -> dict[str, float]:
        """Return its counters and gauges."""
        lines = (line.rpartition(" ") for line in self.ask("/metrics").splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def leads(self) -> bool:
        return self.counts().get("hotnic_controller_leading") == 1.0

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal that ends it; return its exit status."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@dataclass
class Cast:
    """Everybody who may lead, and the VMs of one namespace."""

    cluster: Cluster
    namespace: str
    controllers: dict[int, Controller] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.custom = client.CustomObjectsApi(config.new_client_from_config(str(self.cluster.kubeconfig)))
        self.core = client.CoreV1Api(self.custom.api_client)

    def leader(self) -> Controller:
        found: list[Controller] = []

        def one_leads() -> bool:
            found[:] = [one for one in self.controllers.values() if one.process.poll() is None and one.leads()]
            return len(found) == 1

        wait("one leads", one_leads, lambda: "\n".join(one.output() for one in self.controllers.values()))
        return found[0]

    def machine(self, name: str, wish: str | None = None, spec: Mapping[str, Any] | None = None) -> "Machine":
        """Make a VirtualMachine with the pod network; nobody starts it."""
        body = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": name, "annotations": {} if wish is None else {NETWORKS: wish}},
            "spec": {"runStrategy": "Manual", "template": {"spec": spec or template()}},
        }
        made = self.custom.create_namespaced_custom_object(*_GROUP, self.namespace, "virtualmachines", body)
        return Machine(self, name, made["metadata"]["uid"])

    def network(self, name: str) -> None:
        document = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"config": json.dumps({"cniVersion": "1.1.0", "name": name, "type": "hotnic", "device": "bridge"})},
        }
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(document))


@dataclass(frozen=True)
class Machine:
    cast: Cast
    name: str
    uid: str

    # -- as its user sees and edits it

    def get(self, plural: str = "virtualmachines") -> dict[str, Any]:
        found: dict[str, Any] = self.cast.custom.get_namespaced_custom_object(
            *_GROUP, self.cast.namespace, plural, self.name
        )
        return found

    def annotate(self, wish: str | None) -> None:
        self.merge({"metadata": {"annotations": {NETWORKS: wish}}})

    def merge(self, body: Mapping[str, Any], plural: str = "virtualmachines") -> None:
        """Merge patch (RFC 7396)."""
        with_type = {"_content_type": "application/merge-patch+json"}
        self.cast.custom.patch_namespaced_custom_object(
            *_GROUP, self.cast.namespace, plural, self.name, body, **with_type
        )

    def replace(self, change: Callable[[dict[str, Any]], None], plural: str = "virtualmachines") -> None:
        """Change and PUT it, as a controller does that read it before."""
        while True:
            body = self.get(plural)
            change(body)
            with contextlib.suppress(ApiException):
                self.cast.custom.replace_namespaced_custom_object(*_GROUP, self.cast.namespace, plural, self.name, body)
                return

    def add_foreign(self, name: str) -> None:
        """Add an interface as its owner does. Raises ApiException where that is denied."""
        body = self.get()
        spec = body["spec"]["template"]["spec"]
        spec["domain"]["devices"]["interfaces"] = [
            *template()["domain"]["devices"]["interfaces"],
            {"name": name, "bridge": {}},
        ]
        spec["networks"] = [*template()["networks"], {"name": name, "multus": {"networkName": "red"}}]
        self.cast.custom.replace_namespaced_custom_object(
            *_GROUP, self.cast.namespace, "virtualmachines", self.name, body
        )

    def interfaces(self) -> dict[str, dict[str, Any]]:
        devices = self.get()["spec"]["template"]["spec"]["domain"]["devices"]
        return {one["name"]: one for one in devices.get("interfaces", [])}

    def networks(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.get()["spec"]["template"]["spec"].get("networks", [])}

    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.get()["metadata"].get("annotations", {})
        return found

    def status(self) -> dict[str, dict[str, Any]]:
        entries = json.loads(self.annotations().get(STATUS, "[]"))
        return {one.get("hotnic.dev/name", ""): one for one in entries}

    def stage(self, name: str) -> str:
        return str(self.status().get(name, {}).get("hotnic.dev/state", ""))

    def events(self) -> list[tuple[str, str]]:
        """Return reason and message of its events."""
        selector = f"involvedObject.uid={self.uid}"
        found = self.cast.core.list_namespaced_event(self.cast.namespace, field_selector=selector).items
        return [(one.reason, one.message) for one in found]

    def wait(self, what: str, holds: Callable[[], Any], timeout: float = TIMEOUT_S) -> None:
        wait(what, holds, self.describe, timeout)

    def describe(self) -> str:
        logs = {number: one.output()[-1500:] for number, one in self.cast.controllers.items()}
        return json.dumps({"vm": self.get(), "events": self.events(), "logs": logs}, indent=1)

    # -- as KubeVirt does

    def start(self, *links: Mapping[str, Any]) -> None:
        """Make its instance, as virt-controller does."""
        spec = self.get()["spec"]["template"]["spec"]
        owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": self.name, "uid": self.uid,
                 "controller": True, "blockOwnerDeletion": True}  # fmt: skip
        body = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {"name": self.name, "ownerReferences": [owner]},
            "spec": spec,
            "status": {"phase": "Running", "interfaces": list(links)},
        }
        self.cast.custom.create_namespaced_custom_object(*_GROUP, self.cast.namespace, "virtualmachineinstances", body)

    def hand_over(self) -> None:
        """Hand new interfaces and the wish to unplug over to the instance."""
        spec = self.get()["spec"]["template"]["spec"]
        lists = {
            "networks": spec["networks"],
            "domain": {"devices": {"interfaces": spec["domain"]["devices"]["interfaces"]}},
        }
        self.merge({"spec": lists}, "virtualmachineinstances")

    def report(self, *links: Mapping[str, Any], **status: Any) -> None:
        """Write the instance's status: its interfaces, and whatever is named."""
        self.merge({"status": {"interfaces": list(links), **status}}, "virtualmachineinstances")

    def clear(self) -> None:
        """Forget what is absent, first in the instance and then in the VM."""

        def forget(spec: dict[str, Any]) -> None:
            devices = spec["domain"]["devices"]
            devices["interfaces"] = [one for one in devices["interfaces"] if one.get("state") != "absent"]
            names = {one["name"] for one in devices["interfaces"]}
            spec["networks"] = [one for one in spec["networks"] if one["name"] in names]

        self.replace(lambda body: forget(body["spec"]), "virtualmachineinstances")
        self.replace(lambda body: forget(body["spec"]["template"]["spec"]))


def template() -> dict[str, Any]:
    return {
        "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}]}},
        "networks": [{"name": "default", "pod": {}}],
    }


def link(name: str, sources: str, **parts: Any) -> dict[str, Any]:
    return {"name": name, "infoSource": sources, **parts}


def wait(what: str, holds: Callable[[], Any], describe: Callable[[], str], timeout: float = TIMEOUT_S) -> None:
    """Wait until something holds; say what did not, and all that is known."""
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}\n{describe()}")
        time.sleep(0.02)


@contextlib.contextmanager
def frozen(controller: Controller) -> Iterator[None]:
    """Stop the process, as a machine does that is paused."""
    os.kill(controller.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(controller.process.pid, signal.SIGCONT)
