"""hotnic-controller: the API side of hotnic. Wires the parts together; decides nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from controller import kube, macs, metrics, policy
from controller.agents import Agents, Listeners
from controller.cluster import ClusterRole
from controller.follow import Follower
from controller.reconcile import Reconciler
from controller.underlay import Surveyor

STOP_S = 5.0  # for what is under way; the kubelet gives 30

log = logging.getLogger("controller")


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit status 0 then, 2 for unusable arguments."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        role = Node(arguments) if arguments.role == "node" else ClusterRole(arguments, _policy(arguments.policy))
    except (OSError, ValueError) as problem:
        print(f"hotnic-controller: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    role.run()
    return 0


class Node:
    """All parts of `hotnic-controller node`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read what the arguments name. Raises OSError or ValueError where it cannot be used."""
        self._name: str = arguments.node_name
        self._stop = threading.Event()
        self._agents = Agents(arguments.agent)
        settings = kube.configuration(arguments.kubeconfig)
        api = kube.Kube(settings, self._name, lambda kind: metrics.WRITES.labels(kind).inc())
        rules = replace(_policy(arguments.policy), withdrawn=arguments.withdraw)
        reconciler = Reconciler(self._name, api, self._agents, rules, metrics.Meter())
        pods = Follower(api, kube.pods_of(self._name), reconciler.pods, _restarted)
        networks = Follower(api, kube.NETWORKS, reconciler.networks, _restarted)
        surveyor = Surveyor(self._name, self._agents)
        nodes = Follower(api, kube.NODES, surveyor.nodes, _restarted)
        listeners = Listeners(reconciler, surveyor)
        self._threads = [
            self._thread("pods", lambda: pods.run(self._stop)),
            self._thread("networks", lambda: networks.run(self._stop)),
            self._thread("nodes", lambda: nodes.run(self._stop)),
            self._thread("agent", lambda: self._agents.follow(listeners, self._stop)),
        ]
        self._reconciler = reconciler
        self._surveyor = surveyor
        if arguments.metrics_address:
            metrics.QUEUE.set_function(reconciler.depth)
            metrics.serve(arguments.metrics_address, self._dead, reconciler.waiting_for)

    def run(self) -> None:
        """Serve until told to stop, then finish what is under way."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        for thread in self._threads:
            thread.start()
        self._surveyor.start()
        while not self._is_listed() and not self._stop.wait(0.02):
            pass
        if not self._stop.is_set():
            self._reconciler.start()
            log.info("serving the pods of node %s", self._name)
        self._stop.wait()
        log.info("stopping: what is under way is finished")
        self._reconciler.close(STOP_S)
        self._surveyor.close(STOP_S)
        self._agents.close()

    def _is_listed(self) -> bool:
        return self._reconciler.pods.listed_once.is_set() and self._reconciler.networks.listed_once.is_set()

    def _dead(self) -> tuple[str, ...]:
        dead = [f"thread {thread.name} died" for thread in self._threads if thread.ident and not thread.is_alive()]
        return (*dead, *self._reconciler.dead(), *self._surveyor.dead())

    @staticmethod
    def _thread(name: str, run: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=run, name=name, daemon=True)


def _restarted(path: str) -> None:
    metrics.WATCHES.labels(path.rpartition("/")[2]).inc()


def _policy(path: Path | None) -> policy.Policy:
    if path is None:
        return policy.Policy()
    try:
        return policy.parse(path.read_text())
    except policy.PolicyError as problem:
        raise ValueError(f"--policy {path}: {problem}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hotnic-controller", description="Has the interfaces plugged that pods' annotations ask for."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {importlib.metadata.version('hotnic')}")
    roles = parser.add_subparsers(dest="role", required=True, metavar="ROLE")
    node = roles.add_parser("node", help="serve the pods of one node, together with its agent")
    add = node.add_argument
    add("--node-name", required=True, metavar="NAME", help="the node's name in the API")
    add("--agent", default="unix:///run/hotnic/agent.sock", metavar="TARGET", help="the node agent's gRPC address")
    add(
        "--withdraw",
        action="store_true",
        help="detach everything and attach nothing, before hotnic is uninstalled; ready when it is done and told",
    )
    cluster = roles.add_parser("cluster", help="plug into KubeVirt's virtual machines; one leads of however many run")
    cluster.add_argument(
        "--mac-range",
        default=macs.DEFAULT_RANGE,
        metavar="MAC/BITS",
        help="interfaces that ask for no address get one that begins so; each cluster its own (default %(default)s)",
    )
    cluster.add_argument("--lease-namespace", metavar="NAME", help="of the Lease; default: the pod's own")
    for role in (node, cluster):
        _add_common(role.add_argument)
    return parser


def _add_common(add: Callable[..., object]) -> None:
    add("--kubeconfig", metavar="FILE", help="default: what the pod's service account is given")
    add("--policy", type=Path, metavar="FILE", help="namespaceIsolation and globalNamespaces, YAML; default: neither")
    add("--metrics-address", default="", metavar="HOST:PORT", help="/metrics, /healthz, /readyz; default: none")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))


if __name__ == "__main__":
    sys.exit(main())
