"""The parts of `hotnic-controller cluster`: the relay to KubeVirt, led by one of however many run. Wiring only."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from controller import kube, kubevirt, macs, metrics
from controller.follow import Follower, Resource, Sink
from controller.leader import Elector
from controller.policy import Policy
from controller.relay import Relay

STOP_S = 5.0  # for what is under way; the kubelet gives 30
LEASE = "hotnic-cluster"
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

T = TypeVar("T")

log = logging.getLogger(__name__)


class ClusterRole:
    """All parts of `hotnic-controller cluster`."""

    def __init__(self, arguments: argparse.Namespace, policy: Policy) -> None:
        """Read what the arguments name. Raises OSError or ValueError where it cannot be used."""
        self._stop, self._idle = threading.Event(), threading.Event()
        settings = kube.configuration(arguments.kubeconfig)
        self._api = kube.Kube(settings, "", lambda kind: metrics.WRITES.labels(kind).inc())
        leases = kubevirt.Leases(self._api, arguments.lease_namespace or _own_namespace(), LEASE)
        self._elector = Elector(leases, f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(4)}", self._lead)
        addresses = macs.parse(arguments.mac_range)
        self._relay = Relay(kubevirt.Machines(self._api), self._elector, policy, addresses)
        known = self._inventory = self._relay.inventory
        self._threads = [
            self._follow("migrations", kubevirt.MIGRATIONS, known.migrations),
            self._follow("installations", kubevirt.INSTALLATIONS, known.installations),
            self._follow("networks", kube.NETWORKS, known.networks),
            self._follow("instances", kubevirt.INSTANCES, known.instances),
            self._follow("machines", kubevirt.MACHINES, known.machines),
        ]
        self._election = self._thread("lease", lambda: self._elector.run(self._idle))
        metrics.LEADING.set_function(lambda: float(self._elector.remaining() > 0))
        metrics.QUEUE.set_function(self._relay.depth)
        if arguments.metrics_address:
            metrics.serve(arguments.metrics_address, self._dead, known.waiting_for)

    def run(self) -> None:
        """Serve until told to stop, then finish what is under way and give the lease up."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        for thread in self._threads:
            thread.start()
        while self._inventory.waiting_for() and not self._stop.wait(0.02):
            pass
        if not self._stop.is_set():
            self._relay.start()
            self._election.start()
            log.info("serving the cluster's virtual machines, when leading")
        self._stop.wait()
        log.info("stopping: what is under way is finished")
        self._relay.close(STOP_S)
        self._idle.set()  # only now may somebody else lead
        if self._election.ident is not None:
            self._election.join(STOP_S)

    def _lead(self) -> None:
        self._relay.lead()

    def _dead(self) -> tuple[str, ...]:
        threads = (*self._threads, self._election)
        dead = [f"thread {thread.name} died" for thread in threads if thread.ident and not thread.is_alive()]
        return (*dead, *self._relay.dead())

    def _follow(self, name: str, resource: Resource[T], sink: Sink[T]) -> threading.Thread:
        follower = Follower(self._api, resource, sink, _restarted)
        return self._thread(name, lambda: follower.run(self._stop))

    @staticmethod
    def _thread(name: str, run: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=run, name=name, daemon=True)


def _restarted(path: str) -> None:
    metrics.WATCHES.labels(path.rpartition("/")[2]).inc()


def _own_namespace() -> str:
    try:
        return _NAMESPACE.read_text().strip()
    except OSError:
        raise ValueError("not in a pod, and no --lease-namespace given") from None
