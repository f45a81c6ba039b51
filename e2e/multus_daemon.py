"""Multus' thick plugin on the lane's nodes: the daemon as a process, the shim in front of the primary network.

Rule 1: it is set up as its own DaemonSet does it: the daemon writes the shim's configuration from the primary
        network's, and reaches the API as from a pod, by a token of its ServiceAccount where a pod has it.
Rule 2: killed with -9 it leaves that configuration, so new pods wait for its return. Asked nicely it removes it,
        and new pods would bypass Multus: that is not done here.
Rule 3: its configuration is that of the shipped manifest, without the paths that only its container has. What is in
        it beats the shim's configuration in every call, so `defaultNetworks` is set there.
Rule 4: the primary network is given to it as a single configuration: of a list, this version of Multus keeps only
        types for the DEL, so that no pod would give its address back (multus-cni issue 1449).
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from e2e import build, components
from e2e.cluster import Cluster
from e2e.node import Node
from e2e.process import Process

NAMESPACE = "kube-system"
ACCOUNT = "multus"
CACHE = "/var/lib/cni/multus"
_SHIM_CONFIG = "/etc/cni/net.d/00-multus.conf"
_DAEMON_CONFIG = "/etc/cni/net.d/multus.d/daemon-config.json"
_PRIMARY = "/etc/cni/multus/primary"
_SOCKET = "/run/multus/multus.sock"
_CREDENTIALS = "/run/secrets/kubernetes.io/serviceaccount"
_RULES = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["update"]},
    {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["network-attachment-definitions"],
     "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
)  # fmt: skip


@dataclass
class Multus:
    """What is installed in one cluster, and the daemons that run on its nodes."""

    cluster: Cluster
    daemons: dict[str, Process] = field(default_factory=dict)

    def install(self) -> None:
        """Give it its rights, and put shim and token on the nodes. The network definitions' CRD must be there."""
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(_objects()))
        for node in self.cluster.nodes:
            shutil.copy(build.tools() / "multus-shim", node.path("/opt/cni/bin/multus-shim"))
            _write_primary(node)
            credentials = node.path(_CREDENTIALS)
            credentials.mkdir(parents=True, exist_ok=True)
            (credentials / "token").write_text(self.cluster.token(NAMESPACE, ACCOUNT))
            shutil.copy(self.cluster.state / "pki/ca.crt", credentials / "ca.crt")

    def start(self, node: Node, default_networks: Sequence[str] = ()) -> None:
        """Start the node's daemon, and wait until it serves and its configuration is the node's first."""
        config = {
            "cniVersion": "0.3.1",
            "logLevel": "verbose",
            "logToStderr": True,
            "cniConfigDir": "/etc/cni/net.d",
            "multusAutoconfigDir": _PRIMARY,
            "multusConfigFile": "auto",
            "socketDir": os.path.dirname(_SOCKET) + "/",  # noqa: PTH120 with the slash that the manifest has
            **({"defaultNetworks": list(default_networks)} if default_networks else {}),
        }
        path = node.path(_DAEMON_CONFIG)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
        node.path(_SOCKET).unlink(missing_ok=True)  # of one that was killed
        environment = {
            "KUBERNETES_SERVICE_HOST": components.SERVICE_IP,
            "KUBERNETES_SERVICE_PORT": "443",
            "MULTUS_NODE_NAME": node.name,
        }
        command = [str(build.tools() / "multus-daemon"), "-config", _DAEMON_CONFIG]
        process = self.daemons[node.name] = node.popen(command, env=environment)
        end = time.monotonic() + 30
        while not (node.path(_SOCKET).exists() and node.path(_SHIM_CONFIG).exists()):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Multus does not serve: {process.log}\n{process.output()[-4000:]}")
            time.sleep(0.05)

    def kill(self, node: Node) -> None:
        """End the node's daemon with -9 (rule 2)."""
        self.daemons[node.name].kill()

    def restart(self, node: Node, default_networks: Sequence[str] = ()) -> None:
        """Kill the node's daemon and start it with these default networks, which every pod gets from then on."""
        self.kill(node)
        self.start(node, default_networks)

    def is_running(self, node: Node) -> bool:
        return self.daemons[node.name].poll() is None


def remembered(node: Node, sandbox: str) -> list[str]:
    """Return what Multus has cached of a sandbox: its delegates, and their results."""
    found = [*node.path(CACHE).glob("*"), *node.path(f"{CACHE}/results").glob("*")]
    return sorted(path.name for path in found if sandbox in path.name)


def _write_primary(node: Node) -> None:
    network = json.loads(node.path("/etc/cni/net.d/10-lane.conflist").read_text())
    (plugin,) = network.pop("plugins")
    folder = node.path(_PRIMARY)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "10-lane.conf").write_text(json.dumps({**network, **plugin}))


def _objects() -> list[object]:
    name = {"name": ACCOUNT}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    version = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**name, "namespace": NAMESPACE}},
        {"apiVersion": version, "kind": "ClusterRole", "metadata": name, "rules": list(_RULES)},
        {"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": name, "roleRef": role, "subjects": [subject]},
    ]
