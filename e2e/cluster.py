"""The cluster as tests, benchmarks and the demo use it, from a command that runs in a lane.

Rule 1: what a test can do here, a person can do on a real cluster: kubectl, a token, a command on a node, a node's
        power switch, the API server's. There is no back door into Kubernetes.
Rule 2: with KUBECONFIG set and no lane, the cluster is that one, and it has no nodes that could be entered.
"""

import functools
import os
import signal
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from e2e import build, components, namespaces, network, node, pki, progress, runtimes, services
from e2e.components import Api, Credentials


class NoCluster(Exception):
    """There is no cluster to be used here."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster, by its administrator's kubeconfig."""

    kubeconfig: Path
    in_lane: bool

    @classmethod
    def from_environment(cls) -> "Cluster":
        """Return the cluster of the lane that this process is in, or that of KUBECONFIG."""
        if os.environ.get("HOTNIC_LANE"):
            return cls(_credentials().config("admin"), in_lane=True)
        if path := os.environ.get("KUBECONFIG"):
            return cls(Path(path), in_lane=False)
        raise NoCluster("neither in a lane (python -m e2e.lane run -- COMMAND) nor is KUBECONFIG set")

    @property
    def state(self) -> Path:
        """The lane's state folder, where files that nodes should see may be put."""
        return namespaces.STATE

    @property
    def nodes(self) -> tuple[node.Node, ...]:
        """The nodes that can be entered."""
        return node.existing() if self.in_lane else ()

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True, timeout: float = 120) -> str:  # noqa: A002
        """Run kubectl as administrator and return what it printed."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True, check=False, timeout=timeout)
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def token(self, namespace: str, serviceaccount: str, node: str = "") -> str:
        """Return a token of the ServiceAccount, good for a day; with `node` one bound to that, as a pod's is."""
        bound = ("--bound-object-kind=Node", f"--bound-object-name={node}") if node else ()
        return self.kubectl("create", "token", serviceaccount, "-n", namespace, "--duration=24h", *bound).strip()

    def kubeconfig_for_token(self, token: str) -> Path:
        """Write a kubeconfig that has exactly the token's rights, readable in the lane and on its nodes."""
        credentials = _credentials()
        path = namespaces.STATE / "tokens" / f"{uuid.uuid4()}.kubeconfig"
        return pki.kubeconfig(path, components.SERVER, credentials.authority.pair.cert, {"token": token})

    def stop_apiserver(self) -> None:
        """End the API server as a crash does (asked nicely it first waits for its watchers); etcd keeps the data."""
        components.apiserver(_credentials()).stop(signal.SIGKILL)

    def start_apiserver(self) -> None:
        """Start the API server on the same data, and wait until it is ready."""
        _start_apiserver(_credentials())

    def end_pauses(self) -> None:
        """Start controller manager, scheduler and kubelets anew: after a long outage of the API server it can be more
        than a minute before they ask it again.
        """
        credentials = _credentials()
        for waiting in (components.controller_manager(credentials), components.scheduler(credentials)):
            waiting.stop(signal.SIGKILL)
            waiting.start()
        for each in self.nodes:
            each.stop_kubelet()
        _start_kubelets(self.nodes)

    def add_node(self) -> node.Node:
        """Start one more node, and wait until pods can be scheduled to it."""
        added = node.Node(max((n.index for n in self.nodes), default=0) + 1)
        added.configure(_credentials())
        added.power_on()
        _start_kubelets((added,))
        return added


def bring_up(count: int, runtime: str) -> Cluster:
    """Start control plane and `count` nodes with that runtime in the lane that this process has just become."""
    runtimes.choose(runtime)
    credentials = _credentials()
    with progress.step(f"starting the control plane and {count} node(s)"):
        network.create()
        credentials.create()
        nodes = tuple(node.Node(index + 1) for index in range(count))
        for each in nodes:
            each.configure(credentials)
        components.etcd().start()
        components.apiserver(credentials).start()
        with ThreadPoolExecutor() as pool:
            powered = pool.map(node.Node.power_on, nodes)
            _start_apiserver(credentials)
            for manager in (components.controller_manager(credentials), components.scheduler(credentials)):
                manager.start()
            list(powered)
        _start_kubelets(nodes)
    return Cluster(credentials.config("admin"), in_lane=True)


def _credentials() -> Credentials:
    return Credentials(namespaces.STATE / "pki")


def _start_apiserver(credentials: Credentials) -> None:
    apiserver = components.apiserver(credentials)
    apiserver.start()
    services.wait_for("the API server", Api(credentials).is_ready, (components.etcd(), apiserver))


def _start_kubelets(nodes: tuple[node.Node, ...]) -> None:
    """Start the kubelets, and wait until a pod could run on each of the nodes."""
    credentials = _credentials()
    api = Api(credentials)
    for each in nodes:
        each.start_kubelet()
    needed = (components.apiserver(credentials), components.controller_manager(credentials))
    for each in nodes:
        ready = functools.partial(api.is_node_ready, each.name)
        services.wait_for(f"{each.name} to be Ready", ready, (*needed, each.kubelet))
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    services.wait_for("the default ServiceAccount", lambda: api.exists(account), needed)


def environment() -> dict[str, str]:
    """Return what the environment of a command in the lane has more than ours."""
    folder = namespaces.STATE / "bin"
    folder.mkdir(exist_ok=True)
    kubectl = folder / "kubectl"
    if not kubectl.exists():
        kubectl.symlink_to(build.component("kubectl"))
    scratch = namespaces.STATE / "tmp"
    scratch.mkdir(exist_ok=True)
    return {
        "HOTNIC_LANE": str(namespaces.STATE),
        "KUBECONFIG": str(_credentials().config("admin")),
        "KUBECACHEDIR": str(namespaces.STATE / "kubecache"),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TMPDIR": str(scratch),
    }
