"""One node of a lane: namespaces of its own, a container runtime, a kubelet, a primary network.

Rule 1: a node is reached as a machine is: over its link, its API, or a command executed on it. Its files are seen
        through its init's root.
Rule 2: what a real node keeps over a reboot (/var/lib, /etc/cni, /opt/cni) it keeps; /run, processes, links and
        mounts it loses.
Rule 3: the primary network is the reference bridge plugin with host-local, one subnet per node, routed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from e2e import build, cgroups, components, images, kernel, namespaces, network, node_config, runtimes, services
from e2e.process import Process
from e2e.services import Service

_ENTER = 'for group in $1; do echo $$ >"$group" || exit 125; done; shift; exec "$@"'
_NOT_PLUGINS = frozenset({"cnitool", "multus-daemon", "multus-shim"})


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its number, which starts at 1."""

    index: int

    @property
    def name(self) -> str:
        """Its name, in Kubernetes and as its hostname."""
        return f"node-{self.index}"

    @property
    def ip(self) -> str:
        """Its address on the lane's bridge."""
        return f"172.30.0.{10 + self.index}"

    @property
    def pod_subnet(self) -> str:
        """The primary network's addresses of its pods."""
        return f"10.244.{self.index}.0/24"

    @property
    def cri_socket(self) -> str:
        """The CRI endpoint, as a path on the node."""
        return runtimes.chosen().socket

    @property
    def folder(self) -> Path:
        """What the lane keeps of this node, seen from the lane and the node alike."""
        return namespaces.STATE / "nodes" / self.name

    @property
    def init(self) -> int:
        """The pid of its init, as the lane sees it."""
        pid = self._init_service.pid
        if pid is None:
            raise services.StartError(f"{self.name} is down\n{services.tail(self._init_service.log)}")
        return pid

    def path(self, path: str) -> Path:
        """Return the path by which the lane sees the node's file `path`."""
        return Path(f"/proc/{self.init}/root") / path.lstrip("/")

    # -- commands on the node

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """Return the command line that executes `argv` in all of the node's namespaces and in its cgroups."""
        groups = " ".join(map(str, cgroups.members(cgroups.hierarchies(), self.name)))
        enter = ("nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", "--")
        return ("sh", "-c", _ENTER, "sh", groups, *enter, "env", "-C", str(Path.cwd()), *argv)

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        input: str | None = None,  # noqa: A002
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the node to its end."""
        done = subprocess.run(
            self.command(argv), input=input, timeout=timeout, capture_output=True, text=True, check=False
        )
        done.args = list(argv)
        if check and done.returncode:
            raise RuntimeError(f"on {self.name}: {' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def popen(self, argv: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Start a long-running process on the node, appending its output to `log`; `env` is added to ours."""
        output = log or namespaces.STATE / "log" / f"{self.name}-{Path(argv[0]).name}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        return Process.of(services.launch(self.command(argv), output, {**os.environ, **(env or {})}), output)

    # -- its services

    @property
    def _init_service(self) -> Service:
        argv = (sys.executable, "-m", "e2e.node_init", self.name, str(self.folder))
        return Service(f"{self.name}-init", argv, inner=True)

    @property
    def runtime(self) -> Service:
        """Its container runtime."""
        kind = runtimes.chosen()
        return Service(f"{self.name}-{kind.name}", self.command(kind.command(self.folder)), inner=True)

    @property
    def kubelet(self) -> Service:
        """Its kubelet."""
        argv = (
            build.component("kubelet"),
            f"--config={self.folder}/kubelet.yaml",
            f"--kubeconfig={namespaces.STATE}/pki/{self.name}.kubeconfig",
            f"--hostname-override={self.name}",
            f"--node-ip={self.ip}",
            "--v=2",
        )
        return Service(f"{self.name}-kubelet", self.command(argv), inner=True)

    def stop_kubelet(self, signal_number: int = signal.SIGTERM) -> None:
        """End the kubelet; pods go on."""
        self.kubelet.stop(signal_number)

    def start_kubelet(self) -> None:
        """Start the kubelet again."""
        self.kubelet.start()

    def stop_runtime(self, signal_number: int = signal.SIGTERM) -> None:
        """End the container runtime; containers go on."""
        self.runtime.stop(signal_number)

    def start_runtime(self) -> None:
        """Start the container runtime, and wait until it answers."""
        runtime = self.runtime
        runtime.start()
        services.wait_for(f"{self.name}'s container runtime", self._has_runtime, (runtime,), 30)

    # -- its life

    def configure(self, credentials: components.Credentials) -> None:
        """Write every file that the node is made of."""
        root = self.folder / "root"
        ours = node_config.files(self.folder, self.pod_subnet, self.cri_socket, credentials)
        for name, text in {**ours, **runtimes.chosen().files(self.folder)}.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        credentials.authority.issue(f"{self.name}-serving", self.name, hosts=(self.name, self.ip))
        credentials.user(self.name, f"system:node:{self.name}", "system:nodes")
        plugins = root / "opt-cni/bin"
        plugins.mkdir(parents=True)
        for plugin in build.tools().iterdir():
            if plugin.name not in _NOT_PLUGINS:
                shutil.copy(plugin, plugins / plugin.name)

    def power_on(self) -> None:
        """Start the node up to its container runtime, with the lane's images."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        init = self._init_service
        init.start()
        services.wait_for(f"{self.name}'s namespaces", ready.exists, (init,), 20)
        self._connect()
        self.start_runtime()
        for archive in images.archives():
            self.exec(runtimes.chosen().load(archive))

    def power_off(self) -> None:
        """End the node as a power cut does, which leaves no cgroup either: kubelet would look into them for minutes."""
        init = os.pidfd_open(self.init)
        signal.pidfd_send_signal(init, signal.SIGKILL)
        kernel.has_ended(init, 20)
        os.close(init)
        cgroups.remove_below(cgroups.hierarchies(), self.name)
        subprocess.run(["ip", "link", "del", self.name], capture_output=True, check=False)

    def reboot(self) -> None:
        """Cut the power, start again, kubelet too."""
        self.power_off()
        self.power_on()
        self.start_kubelet()

    def _has_runtime(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.connect(str(self.path(self.cri_socket)))
            return True
        return False

    def _connect(self) -> None:
        """Join the node to the lane's bridge, and route its pods there."""
        pid = str(self.init)
        network.ip(
            f"link add {self.name} type veth peer name eth0 netns {pid}",
            f"link set {self.name} master {network.BRIDGE} up",
            f"route replace {self.pod_subnet} via {self.ip}",
        )
        network.ip(
            "link set lo up",
            f"addr add {self.ip}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {components.LANE_IP}",
            enter=("nsenter", "-t", pid, "-n"),
        )


def existing() -> tuple[Node, ...]:
    """Return the nodes of the lane that this process is in, in the order of their numbers."""
    folders = (namespaces.STATE / "nodes").glob("node-*")
    return tuple(Node(index) for index in sorted(int(folder.name.removeprefix("node-")) for folder in folders))
