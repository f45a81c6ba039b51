"""Virtual machines as KubeVirt's user handles them, and what their guests say.

Rule 1: a VM is changed only as a user may: by JSON patches of the VirtualMachine, and by migration objects.
Rule 2: what a guest has is what the guest says: on its console, or through the agent that runs in it. What libvirt or
        KubeVirt believe is asked for by other names.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from e2e.kubevirt import console, guest, images
from e2e.kubevirt.installation import CPU
from e2e.pods import Namespace, Pod
from e2e.timeline import Seen

GROUP, VERSION = "kubevirt.io", "v1"
LAUNCHER = "kubevirt.io=virt-launcher"
TIMEOUT_S = 180.0
_SOCKET = "qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock"
# With limited CPU KubeVirt migrates by one connection. By several, Debian 12's QEMU 7.2 may take a wrong one for the
# first, as KubeVirt's proxies do not keep them in order, and wait for ever.
_ONE_MIGRATION_THREAD = {"requests": {"cpu": "50m"}, "limits": {"cpu": "4"}}
_INTERFACES = "/spec/template/spec/domain/devices/interfaces"
_NETWORKS = "/spec/template/spec/networks"


@dataclass(frozen=True)
class VirtualMachine:
    """One VirtualMachine, with whatever runs it at the moment."""

    namespace: Namespace
    name: str

    # -- the API's objects

    def get(self) -> dict[str, Any]:
        """Return the VirtualMachine."""
        return self._read("virtualmachines", self.name)

    def instance(self) -> dict[str, Any]:
        """Return the VirtualMachineInstance; empty while there is none."""
        try:
            return self._read("virtualmachineinstances", self.name)
        except ApiException as problem:
            if problem.status == 404:
                return {}
            raise

    def patch(self, *operations: Mapping[str, Any]) -> None:
        """Change the VirtualMachine. Raises ApiException with what the webhooks say."""
        self._api.patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace.name, "virtualmachines", self.name, list(operations),
            _content_type="application/json-patch+json",
        )  # fmt: skip

    def annotate(self, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of the VirtualMachine, or remove those that are None."""
        self._api.patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace.name, "virtualmachines", self.name,
            {"metadata": {"annotations": dict(annotations)}}, _content_type="application/merge-patch+json",
        )  # fmt: skip

    def launchers(self) -> list[Pod]:
        """Return the pods that run it or are about to, the oldest first; in a migration there are two."""
        selector = f"{LAUNCHER},vm.kubevirt.io/name={self.name}"
        found = self.namespace.api.call("list_namespaced_pod", self.namespace.name, label_selector=selector)["items"]
        living = [one for one in found if one["status"]["phase"] in {"Pending", "Running"}]
        living.sort(key=lambda one: str(one["metadata"]["creationTimestamp"]))
        return [Pod(self.namespace, one["metadata"]["name"], one["metadata"]["uid"]) for one in living]

    def launcher(self) -> Pod:
        """Return the pod that the guest runs in. Raises LookupError while there is none."""
        node = self.instance().get("status", {}).get("nodeName")
        for pod in self.launchers():
            if pod.get()["spec"].get("nodeName") == node:
                return pod
        raise LookupError(f"{self.name} runs nowhere")

    def interface(self, name: str) -> dict[str, Any]:
        """Return the instance's status of the interface `name`; empty where it has none."""
        told = self.instance().get("status", {}).get("interfaces", [])
        return next((one for one in told if one.get("name") == name), {})

    # -- what the guest says

    def console(self) -> Path:
        """Return the file that libvirt writes the guest's serial console to, in this launcher."""
        launcher, uid = self.launcher(), self.instance()["metadata"]["uid"]
        name = launcher.get()["spec"]["nodeName"]
        node = next(node for node in self.namespace.api.cluster.nodes if node.name == name)
        volumes = f"/var/lib/kubelet/pods/{launcher.uid}/volumes/kubernetes.io~empty-dir"
        return node.path(f"{volumes}/private/{uid}/virt-serial0-log")

    def told(self) -> dict[str, str]:
        """Return the MACs of the NICs by name, as the guest told on its console when they last changed."""
        path = self.console()
        told = list(console.told(path.read_text(errors="replace"))) if path.exists() else []
        return told[-1] if told else {}

    @contextmanager
    def listening(self) -> Iterator[Seen]:
        """Note when MACs come and go, as the guest tells it from now on."""
        with console.listening(self.console(), self.told()) as seen:
            yield seen

    def nics(self) -> dict[str, str]:
        """Return the MACs of the NICs by name, as the guest sees them now."""
        text = self.sh("cd /sys/class/net; for i in *; do echo $i $(cat $i/address 2>/dev/null); done")
        pairs = dict(words for line in text.splitlines() if len(words := line.split()) == 2)  # one may just be going
        return {name: mac for name, mac in pairs.items() if name != "lo"}

    def sh(self, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """Run a shell command in the guest; return what it printed. Raises AssertionError with it if it fails."""
        arguments = {"path": "/bin/sh", "arg": ["-c", f"exec 2>&1; {command}"], "capture-output": True}
        pid = self._ask_agent("guest-exec", arguments)["pid"]
        end = time.monotonic() + timeout
        while not (state := self._ask_agent("guest-exec-status", {"pid": pid}))["exited"]:
            if time.monotonic() > end:
                raise AssertionError(f"{self.name}: in the guest not within {timeout} s: {command}")
            time.sleep(0.1)
        output = base64.b64decode(state.get("out-data", "")).decode(errors="replace")
        if check and state.get("exitcode") != 0:
            raise AssertionError(f"{self.name}: in the guest: {command}: {state}\n{output}")
        return output

    def _ask_agent(self, command: str, arguments: Mapping[str, Any]) -> Any:
        text = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(self.virsh("qemu-agent-command", "--timeout", "30", self.domain, text))["return"]

    @property
    def domain(self) -> str:
        """Its name in libvirt."""
        return f"{self.namespace.name}_{self.name}"

    def virsh(self, *arguments: str) -> str:
        """Ask the libvirt of the launcher."""
        kubectl = self.namespace.api.cluster.kubectl
        command = ("virsh", "-q", "-c", _SOCKET, *arguments)
        return kubectl("exec", "-n", self.namespace.name, self.launcher().name, "-c", "compute", "--", *command)

    def pod_links(self) -> set[str]:
        """Return the names of the links in the launcher's network namespace."""
        kubectl = self.namespace.api.cluster.kubectl
        command = (
            "exec",
            "-n",
            self.namespace.name,
            self.launcher().name,
            "-c",
            "compute",
            "--",
            "ip",
            "-json",
            "link",
        )
        return {one["ifname"] for one in json.loads(kubectl(*command))}

    # -- changes

    def plug(self, name: str, network: str, mac: str = "") -> None:
        """Give it a NIC in KubeVirt's own way: one interface and one network more in its specification."""
        interface = {"name": name, "bridge": {}, **({"macAddress": mac} if mac else {})}
        self.patch(
            {"op": "add", "path": f"{_INTERFACES}/-", "value": interface},
            {"op": "add", "path": f"{_NETWORKS}/-", "value": {"name": name, "multus": {"networkName": network}}},
        )

    def unplug(self, name: str) -> None:
        """Take the NIC away in KubeVirt's own way: its state becomes `absent`."""
        interfaces = self.get()["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]
        place = next(number for number, one in enumerate(interfaces) if one["name"] == name)
        path = f"{_INTERFACES}/{place}"
        self.patch(
            {"op": "test", "path": f"{path}/name", "value": name},
            {"op": "add", "path": f"{path}/state", "value": "absent"},
        )

    def names(self) -> list[str]:
        """Return the names of the interfaces in its specification."""
        return [one["name"] for one in self.get()["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]]

    def start(self) -> None:
        """Have it run."""
        self.patch({"op": "replace", "path": "/spec/runStrategy", "value": "Always"})

    def stop(self) -> None:
        """Have it stopped, and wait until its last launcher is gone."""
        self.patch({"op": "replace", "path": "/spec/runStrategy", "value": "Halted"})
        self.wait("it has stopped", lambda: not self.instance() and not self.launchers())

    def migrate(self) -> str:
        """Have it moved to another node, without waiting; return the migration's name."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "VirtualMachineInstanceMigration",
            "metadata": {"generateName": f"{self.name}-"},
            "spec": {"vmiName": self.name},
        }
        plural = "virtualmachineinstancemigrations"
        made = self._api.create_namespaced_custom_object(GROUP, VERSION, self.namespace.name, plural, body)
        return str(made["metadata"]["name"])

    def migration(self, name: str) -> str:
        """Return the phase of a migration."""
        return str(self._read("virtualmachineinstancemigrations", name).get("status", {}).get("phase"))

    # -- waiting

    def wait(self, what: str, holds: Callable[[], Any], timeout: float = TIMEOUT_S) -> None:
        """Wait until something holds; say what did not, with all that is known about the VM."""
        end = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"{self.name}: not within {timeout} s: {what}\n{self.describe()}")
            time.sleep(0.1)

    def wait_booted(self) -> None:
        """Wait until the guest has told its NICs and its agent answers."""
        self.wait("it runs", lambda: self.instance().get("status", {}).get("phase") == "Running")
        self.wait("the guest has booted", self.told)
        self.wait("the guest's agent is there", lambda: self._has_condition("AgentConnected"))

    def wait_migrated(self, name: str) -> None:
        """Wait for the end of a migration, which must be its success."""
        self.wait(f"{name} has ended", lambda: self.migration(name) in {"Succeeded", "Failed"})
        if self.migration(name) != "Succeeded":
            raise AssertionError(f"{name} failed\n{self.describe()}")

    def _has_condition(self, kind: str) -> bool:
        conditions = self.instance().get("status", {}).get("conditions", [])
        return any(one["type"] == kind and one["status"] == "True" for one in conditions)

    def describe(self) -> str:
        """Return all that is known about it."""
        kubectl = self.namespace.api.cluster.kubectl
        status = self.instance().get("status", {})
        known = {key: status.get(key) for key in ("phase", "conditions", "interfaces", "migrationState")}
        events = kubectl("get", "events", "-n", self.namespace.name, "--sort-by=.lastTimestamp", check=False)
        pods = kubectl("get", "pods", "-n", self.namespace.name, "-o", "wide", check=False)
        launchers = "\n".join(f"{pod.name}: {pod.describe()}" for pod in self.launchers())
        return f"{json.dumps(known, indent=1)}\n{pods}\n{launchers}\n{events}"

    def _read(self, plural: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._api.get_namespaced_custom_object(
            GROUP, VERSION, self.namespace.name, plural, name
        )
        return found

    @property
    def _api(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.namespace.api.core.api_client)


def create(namespace: Namespace, name: str, *, running: bool = True, memory: str = "128Mi") -> VirtualMachine:
    """Make a VM with one NIC in the pods' own network, and do not wait for its guest."""
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {"runStrategy": "Always" if running else "Halted", "template": {"spec": _template(memory)}},
    }
    api = client.CustomObjectsApi(namespace.api.core.api_client)
    api.create_namespaced_custom_object(GROUP, VERSION, namespace.name, "virtualmachines", body)
    return VirtualMachine(namespace, name)


def _template(memory: str) -> dict[str, Any]:
    files = {"image": images.GUEST, "kernelPath": guest.KERNEL_PATH, "initrdPath": guest.INITRD_PATH}
    return {
        "terminationGracePeriodSeconds": 0,
        "domain": {
            "cpu": {"model": CPU, "cores": 1},
            "resources": _ONE_MIGRATION_THREAD,
            "memory": {"guest": memory},
            "firmware": {
                "kernelBoot": {
                    "container": {**files, "imagePullPolicy": "IfNotPresent"},
                    "kernelArgs": "console=ttyS0 quiet panic=-1",
                }
            },
            "devices": {
                "interfaces": [{"name": "default", "masquerade": {}}],
                "autoattachGraphicsDevice": False,
                "autoattachMemBalloon": False,
                "logSerialConsole": True,
            },
        },
        "networks": [{"name": "default", "pod": {}}],
    }
