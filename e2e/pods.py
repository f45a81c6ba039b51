"""Pods and networks as a user handles them: through the API, by name."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from e2e.cluster import Cluster

NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
CONDITION = "hotnic.dev/NetworksReady"
IMAGE = "hotnic.test/busybox:1"
TIMEOUT_S = 30.0
_MAY_CONFIGURE = {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}  # tests give addresses and ping


class Api:
    """The API as an administrator, in raw JSON."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.core = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))

    def call(self, verb: str, *arguments: Any, **named: Any) -> Any:
        """Call one of the client's functions and return the JSON of its answer."""
        answer = getattr(self.core, verb)(*arguments, _preload_content=False, _request_timeout=20, **named)
        return json.loads(answer.data)

    def namespace(self, name: str) -> "Namespace":
        """Make a namespace, and wait until pods can be made in it."""
        self.call("create_namespace", {"metadata": {"name": name}})
        end = time.monotonic() + 60
        while not self.call("list_namespaced_service_account", name)["items"]:
            if time.monotonic() > end:
                raise AssertionError(f"namespace {name} has no ServiceAccount after a minute")
            time.sleep(0.05)
        return Namespace(self, name)


@dataclass(frozen=True)
class Namespace:
    api: Api
    name: str

    def network(self, name: str, spec: Mapping[str, Any] | str) -> None:
        """Make or change a network: a NetworkAttachmentDefinition with this configuration."""
        text = spec if isinstance(spec, str) else json.dumps(spec)
        document = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {"config": text} if text else {},
        }
        self.api.cluster.kubectl("apply", "-f", "-", input=json.dumps(document))

    def drop_network(self, name: str) -> None:
        self.api.cluster.kubectl("delete", "net-attach-def", name, "-n", self.name)

    def pod(self, name: str, networks: Any = None, *, wait: bool = True, **spec: Any) -> "Pod":
        """Make a pod that sleeps; `networks`: its annotation from the start, `annotations`: others."""
        annotations = spec.pop("annotations", {}) | ({} if networks is None else {NETWORKS: as_text(networks)})
        container = {"name": "c", "image": IMAGE, "command": ["sleep", "3600"], "securityContext": _MAY_CONFIGURE}
        container |= {
            key: spec.pop(key) for key in ("command", "env", "securityContext", "volumeMounts") if key in spec
        }
        body = {
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [container],
                **spec,
            },
        }
        document = self.api.call("create_namespaced_pod", self.name, body)
        pod = Pod(self, name, document["metadata"]["uid"])
        if wait:
            pod.wait_running()
        return pod

    def drop(self) -> None:
        """Delete the namespace and all in it, without waiting."""
        self.api.call("delete_namespace", self.name)


@dataclass(frozen=True)
class Pod:
    namespace: Namespace
    name: str
    uid: str

    def get(self) -> dict[str, Any]:
        found: dict[str, Any] = self.namespace.api.call("read_namespaced_pod", self.name, self.namespace.name)
        return found

    def plug(self, networks: Any) -> None:
        """Edit the annotation: a list of elements, a text as it is, None to remove it."""
        text = None if networks is None else as_text(networks)
        body = {"metadata": {"annotations": {NETWORKS: text}}}
        self.namespace.api.call("patch_namespaced_pod", self.name, self.namespace.name, body)

    def status(self) -> list[dict[str, Any]]:
        """Return the published network-status."""
        text = self.get()["metadata"].get("annotations", {}).get(STATUS)
        entries: list[dict[str, Any]] = json.loads(text) if text else []
        return entries

    def reported(self) -> dict[str, dict[str, Any]]:
        """Return the published entries by interface."""
        return {entry.get("interface", ""): entry for entry in self.status()}

    def condition(self) -> dict[str, Any]:
        """Return the condition NetworksReady; empty while there is none."""
        conditions = self.get()["status"].get("conditions", [])
        return next((one for one in conditions if one["type"] == CONDITION), {})

    def is_ready(self) -> bool:
        return bool(self.condition().get("status") == "True")

    def events(self, reason: str = "") -> list[str]:
        """Return the messages of the pod's events of ours, all or of one reason."""
        selector = f"involvedObject.uid={self.uid}"
        found = self.namespace.api.call("list_namespaced_event", self.namespace.name, field_selector=selector)
        ours = [one for one in found["items"] if one.get("source", {}).get("component", "").startswith("hotnic")
                or one.get("reportingComponent", "").startswith("hotnic")]  # fmt: skip
        return [one["message"] for one in ours if reason in ("", one["reason"])]

    def sh(self, command: str, *, check: bool = True) -> str:
        """Run a shell command in the container."""
        kubectl = self.namespace.api.cluster.kubectl
        return kubectl("exec", "-n", self.namespace.name, self.name, "--", "sh", "-c", command, check=check)

    def interfaces(self) -> dict[str, str]:
        """Return the MACs of the interfaces that are in the pod, by name."""
        text = self.sh("cd /sys/class/net; for i in *; do echo $i $(cat $i/address 2>/dev/null); done")
        pairs = dict(words for line in text.splitlines() if len(words := line.split()) == 2)  # one may just be going
        return {name: mac for name, mac in pairs.items() if name != "lo"}

    def addresses(self, interface: str) -> list[str]:
        text = self.sh(f"ip -o -4 addr show dev {interface}")
        return [line.split()[3] for line in text.splitlines()]

    def delete(self, *, grace: int = 0) -> None:
        """Delete the pod and wait until it is gone."""
        self.namespace.api.call("delete_namespaced_pod", self.name, self.namespace.name, grace_period_seconds=grace)
        self.wait("it is gone", lambda: not self.exists())

    def exists(self) -> bool:
        try:
            return bool(self.get()["metadata"]["uid"] == self.uid)
        except ApiException as problem:
            if problem.status == 404:
                return False
            raise

    def wait(self, what: str, holds: Callable[[], Any], timeout: float = TIMEOUT_S) -> None:
        """Wait until something holds; say what did not, with all that is known about the pod."""
        end = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"{self.name}: not within {timeout} s: {what}\n{self.describe()}")
            time.sleep(0.02)

    def wait_running(self, timeout: float = TIMEOUT_S) -> None:
        self.wait("it runs", lambda: self.get()["status"]["phase"] == "Running", timeout)

    def wait_ready(self, *interfaces: str, timeout: float = TIMEOUT_S) -> None:
        """Wait until exactly these interfaces (besides eth0) are published and the condition is True."""

        def settled() -> bool:
            return set(self.reported()) - {"eth0"} == set(interfaces) and self.is_ready()

        self.wait(f"{', '.join(interfaces) or 'nothing'} is published and ready", settled, timeout)

    def wait_event(self, reason: str, *parts: str, timeout: float = TIMEOUT_S) -> str:
        """Wait for an event of that reason whose message has all the parts; return the message."""
        found: list[str] = []

        def told() -> bool:
            found[:] = [one for one in self.events(reason) if all(part in one for part in parts)]
            return bool(found)

        self.wait(f"event {reason} with {parts}", told, timeout)
        return found[0]

    def describe(self) -> str:
        if not self.exists():
            return "the pod is gone"
        return json.dumps({"status": self.status(), "condition": self.condition(), "events": self.events()}, indent=1)


def as_text(networks: Any) -> str:
    return networks if isinstance(networks, str) else json.dumps(networks)
