"""The relay to KubeVirt, on a real API server with KubeVirt's definitions: `python -m benchmarks.relay [--machines N]`.

All VMs' annotations are edited at once. What is measured is from just before the first edit is sent until a watch has
shown the interface in every VM's spec; there are no guests. Calls to the API server are the API server's own count.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import urllib3
from kubernetes import client, config

from benchmarks.run import row
from e2e.cluster import Cluster
from e2e.pods import NETWORKS, Api
from e2e.relay import definitions, scene
from e2e.relay.scene import Cast, Controller
from e2e.timeline import lines

THREADS = 8
_PATH = "/apis/kubevirt.io/v1/namespaces/bench/virtualmachines"


def main() -> int:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--machines", type=int, default=1000, help="how many VMs (default 1000)")
    count = parser.parse_args().machines
    if not os.environ.get("HOTNIC_LANE"):
        definitions.ensure()
        again = [sys.executable, "-m", "benchmarks.relay", "--machines", str(count)]
        return subprocess.run([sys.executable, "-m", "e2e.lane", "run", "--", *again], check=False).returncode
    cluster = Cluster.from_environment()
    scene.install(cluster)
    scene.define_machines(cluster)
    cast = Cast(cluster, Api(cluster).namespace("bench").name)
    cast.network("blue")
    in_threads(count, lambda number: cast.machine(f"v{number}"))
    controller = Controller.start(cluster, 1)
    cast.controllers[1] = controller
    cast.leader()
    print(f"\n{count} VMs edited at once by {THREADS} threads, until every VM's spec has its interface")
    row("", "seconds", "edits took", "VMs/s", "PATCH/VM", "GET/VM", "events/VM")
    for verb, wish in (("plug", "blue@net1"), ("unplug", "")):
        measure(cast, count, verb, wish)
    print(f"  controller: {memory(controller):.0f} MiB resident")
    return controller.end()


def measure(cast: Cast, count: int, verb: str, wish: str) -> None:
    before = calls(cast.cluster)
    edits = Edits(cast.cluster, wish)
    response = cast.custom.list_namespaced_custom_object(
        "kubevirt.io", "v1", cast.namespace, "virtualmachines", limit=1, _preload_content=False
    )
    version = json.loads(response.data)["metadata"]["resourceVersion"]
    watch = edits.api.urlopen("GET", f"{edits.host}{_PATH}?watch=1&resourceVersion={version}", preload_content=False)
    begun = time.perf_counter()
    sending = threading.Thread(target=in_threads, args=(count, edits.send))
    sending.start()
    done: set[str] = set()
    for line in lines(watch):
        found = json.loads(line)["object"]
        if is_done(found, verb):
            done.add(found["metadata"]["name"])
        if len(done) == count:
            break
    took = time.perf_counter() - begun
    sending.join()
    watch.close()
    settle(cast)
    now = calls(cast.cluster)
    used = {kind: (now.get(kind, 0) - before.get(kind, 0)) / count for kind in ("PATCH", "GET", "events")}
    row(verb, f"{took:.2f}", f"{edits.ended - begun:.2f}", f"{count / took:.0f}", f"{used['PATCH'] - 1:.2f}",
        f"{used['GET']:.2f}", f"{used['events']:.2f}")  # fmt: skip


class Edits:
    """Sends the edits as fast as one process can."""

    def __init__(self, cluster: Cluster, wish: str) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(cluster.kubeconfig), client_configuration=settings)
        self.host = settings.host
        self.api = urllib3.PoolManager(
            maxsize=THREADS + 2, ca_certs=settings.ssl_ca_cert, cert_file=settings.cert_file, key_file=settings.key_file
        )
        self.ended = 0.0
        self._body = json.dumps({"metadata": {"annotations": {NETWORKS: wish}}})

    def send(self, number: int) -> None:
        """Edit one VM's annotation."""
        headers = {"Content-Type": "application/merge-patch+json"}
        answer = self.api.request("PATCH", f"{self.host}{_PATH}/v{number}", body=self._body, headers=headers)
        assert answer.status == 200, answer.data
        self.ended = time.perf_counter()


def is_done(found: dict[str, object], verb: str) -> bool:
    interfaces = found["spec"]["template"]["spec"]["domain"]["devices"].get("interfaces", [])  # type: ignore[index]
    ours = next((one for one in interfaces if one["name"] == "net1"), None)
    return ours is not None and (ours.get("state") == "absent") == (verb == "unplug")


def settle(cast: Cast) -> None:
    """Wait until nobody writes any more."""
    last = -1.0
    while (now := sum(calls(cast.cluster).values())) != last:
        last = now
        time.sleep(1)


def calls(cluster: Cluster) -> dict[str, float]:
    """Return how many calls the API server has counted: for VMs by verb, and events that were made."""
    found: dict[str, float] = {}
    for line in cluster.kubectl("get", "--raw", "/metrics").splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        kind = {"virtualmachines": labels["verb"], "events": "events"}.get(labels["resource"], "")
        if kind in {"PATCH", "GET"} or (kind == "events" and labels["verb"] == "POST"):
            found[kind] = found.get(kind, 0.0) + float(line.rpartition(" ")[2])
    return found


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Do `work` for each number, in threads."""
    threads = [
        threading.Thread(target=lambda first=first: [work(number) for number in range(first, count, THREADS)])
        for first in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def memory(controller: Controller) -> float:
    """Return the resident MiB."""
    with open(f"/proc/{controller.process.pid}/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    sys.exit(main())
