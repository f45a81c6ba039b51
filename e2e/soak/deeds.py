"""Does what a plan says: one function for each kind of action.

Rule 1: an action may meet nothing: a pod that another action has deleted, an API server that is away. It says so, and
        is no failure of anything.
Rule 2: what comes out is not judged here, but by the auditor.
"""

import json
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from e2e import networks
from e2e.auditor.finding import LACK, LEAK, Finding
from e2e.auditor.node import BUNDLES
from e2e.cluster import Cluster
from e2e.node import Node
from e2e.pods import NETWORKS, Api
from e2e.process import Process
from e2e.product import Product
from e2e.soak import scene
from e2e.soak.plan import ROLES, Action

_RUNTIMES = ("lane/", "lane-", "cni-loopback-")  # what the pod's own network is called
_POD = {
    "terminationGracePeriodSeconds": 0,
    "containers": [{"name": "c", "image": "hotnic.test/busybox:1", "command": ["sleep", "36000"]}],
}


class Missed(Exception):
    """There was nothing to do it to."""


@dataclass
class Deeds:
    """One cluster's. `lost`: the addresses whose leases were taken away."""

    cluster: Cluster
    api: Api
    node: Node
    product: Product
    lost: set[str] = field(default_factory=set)

    def do(self, action: Action) -> str:
        """Do it; return why it met nothing, "" where it did."""
        role = action.kind.partition("-")[2]
        try:
            if action.kind.startswith("kill-") and role in ROLES:
                self.kill(role)
            else:
                getattr(self, action.kind.replace("-", "_"))(*action.arguments)
        except ApiException as problem:
            return f"{problem.status} {problem.reason}"
        except (Missed, urllib3.exceptions.HTTPError, OSError) as problem:
            return f"{type(problem).__name__}: {problem}"[:120]
        return ""

    def excuses(self, one: Finding) -> bool:
        """Whether the finding is what an action did.

        A containerd that is stopped while it makes or ends a sandbox may leave that one's namespace, and the pod's own
        network with it: it comes back without a memory of it.
        """
        is_lost = (one.kind, one.what) == (LACK, "lease") and one.where.rpartition("/")[2] in self.lost
        is_of_runtime = one.what == "netns" or (one.what in ("lease", "cache") and one.where.startswith(_RUNTIMES))
        return is_lost or (one.kind == LEAK and (is_of_runtime or "cni0" in one.why))

    # -- users

    def create(self, name: str, text: str) -> None:
        body = {"metadata": {"name": name, "annotations": {NETWORKS: text}}, "spec": _POD}
        self.api.call("create_namespaced_pod", scene.NAMESPACE, body)

    def plug(self, name: str, text: str) -> None:
        body = {"metadata": {"annotations": {NETWORKS: text}}}
        self.api.call("patch_namespaced_pod", name, scene.NAMESPACE, body)

    def delete(self, name: str) -> None:
        self.api.call("delete_namespaced_pod", name, scene.NAMESPACE, grace_period_seconds=1)

    def force_delete(self, name: str) -> None:
        self.api.call("delete_namespaced_pod", name, scene.NAMESPACE, grace_period_seconds=0)

    def restart_container(self, name: str) -> None:
        self._kill_in(name, "container")

    def kill_sandbox(self, name: str) -> None:
        self._kill_in(name, "sandbox")

    def define_network(self, name: str, mtu: int = 1350) -> None:
        """Make the definition, or change it."""
        body = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name},
            "spec": {"config": json.dumps(scene.network(name, mtu))},
        }
        try:
            self._definitions("create_namespaced_custom_object", body)
        except ApiException as problem:
            if problem.status != 409:
                raise
            self._definitions("patch_namespaced_custom_object", name, body)

    def edit_network(self, name: str, mtu: int) -> None:
        self.define_network(name, mtu)

    def lose_network(self, name: str) -> None:
        self._definitions("delete_namespaced_custom_object", name)

    # -- the node's own trouble

    def mood(self, what: str) -> None:
        networks.tell_recorder(self.node, what)

    def delete_link(self, name: str, number: int) -> None:
        """Delete one of the pod's interfaces by hand."""
        enter = ["nsenter", "-t", str(self._main_pid(name, "sandbox")), "-n", "ip", "link"]
        found = self.node.exec([*enter[:-1], "-o", "link"], check=False).stdout
        links = sorted(
            word for line in found.splitlines() if (word := line.split()[1].split("@")[0].strip(":"))[0] == "i"
        )
        if not links:
            raise Missed("no interface of ours")
        self.node.exec([*enter, "del", links[number % len(links)]], check=False)

    def lose_lease(self, name: str) -> None:
        """Take away the file that holds an address of the pod."""
        status = self.api.call("read_namespaced_pod", name, scene.NAMESPACE)["metadata"]["annotations"]
        for entry in json.loads(status.get("k8s.v1.cni.cncf.io/network-status", "[]")):
            for address in entry.get("ips", ()):
                for folder in ("soak1", "soak2"):
                    path = self.node.path(f"/var/lib/cni/networks/{folder}/{address}")
                    if path.exists():
                        self.lost.add(address)
                        path.unlink(missing_ok=True)
                        return
        raise Missed("no address")

    # -- outages

    def stop_apiserver(self) -> None:
        self.cluster.stop_apiserver()

    def start_apiserver(self) -> None:
        self.cluster.start_apiserver()

    def stop_runtime(self) -> None:
        self.node.stop_runtime()

    def kill_runtime(self) -> None:
        self.node.stop_runtime(signal.SIGKILL)

    def start_runtime(self) -> None:
        self.node.start_runtime()

    def stop_kubelet(self) -> None:
        self.node.stop_kubelet()

    def start_kubelet(self) -> None:
        self.node.start_kubelet()

    def kill(self, role: str) -> None:
        """Kill agent or controller, whatever it is doing, and start it again at once."""
        running = self.running(role)
        running[self.node.name].kill()
        running[self.node.name] = running[self.node.name].again()

    def running(self, role: str) -> dict[str, Process]:
        """Return the processes of that role, by node."""
        return self.product.agents if role == "agent" else self.product.controllers

    def put_right(self) -> None:
        """Bring back whatever an action may have left away (plan, rule 3)."""
        self.start_apiserver()
        self.start_runtime()
        self.start_kubelet()
        self.mood("")

    # -- where things are

    def _definitions(self, verb: str, *arguments: Any) -> None:
        custom = client.CustomObjectsApi(self.api.core.api_client)
        where = ("k8s.cni.cncf.io", "v1", scene.NAMESPACE, "network-attachment-definitions")
        getattr(custom, verb)(*where, *arguments, _request_timeout=20)

    def _kill_in(self, name: str, kind: str) -> None:
        self.node.exec(["kill", "-KILL", str(self._main_pid(name, kind))], check=False)

    def _main_pid(self, name: str, kind: str) -> int:
        """Return the pid, on the node, of the pod's sandbox or of its container."""
        for folder in self.node.path(BUNDLES).iterdir():
            with suppress(FileNotFoundError, ValueError):
                notes = json.loads((folder / "config.json").read_text())["annotations"]
                where = (notes.get("io.kubernetes.cri.sandbox-namespace"), notes.get("io.kubernetes.cri.sandbox-name"))
                if where == (scene.NAMESPACE, name) and notes["io.kubernetes.cri.container-type"] == kind:
                    return int((folder / "init.pid").read_text())
        raise Missed(f"no {kind}")
