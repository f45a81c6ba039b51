"""From the annotation of a VirtualMachine to the NIC in its guest, by real KubeVirt: `python -m benchmarks.kubevirt`.

What is measured, in milliseconds:
  guest        from just before the PATCH of the VM until the guest has told of the NIC on its console
  our share    from the launcher's annotation, which KubeVirt has written, until the status, both as a watch shows them
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks.run import row
from e2e import networks
from e2e.cluster import Cluster
from e2e.kubevirt import installation, machines, parts
from e2e.kubevirt.machines import VirtualMachine
from e2e.kubevirt.test_hotplug import hashed
from e2e.pods import NETWORKS, STATUS, Api
from e2e.product import Product
from e2e.relay import scene
from e2e.timeline import annotated

AIM = {"plug guest": 500.0, "plug our share": 25.0}
MAC = "02:00:00:00:be:02"


def main() -> int:
    """Bring KubeVirt up, measure and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kubevirt", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="plugs and unplugs of one NIC (default 20)")
    rounds = parser.parse_args().rounds
    if not os.environ.get("HOTNIC_LANE"):
        parts.prepare()
        again = [sys.executable, "-m", "benchmarks.kubevirt", "--rounds", str(rounds)]
        return subprocess.run([sys.executable, "-m", "e2e.lane", "run", "--", *again], check=False).returncode
    cluster = Cluster.from_environment()
    installation.install(cluster)
    product = Product(cluster)
    product.install()
    product.start()
    scene.install(cluster)
    relay = scene.Controller.start(cluster, 1)
    namespace = Api(cluster).namespace("bench")
    namespace.network("blue", networks.native("br-blue"))
    vm = machines.create(namespace, "guest")
    vm.wait_booted()
    print_table(measured(vm, rounds), rounds)
    relay.end()
    product.stop()
    return 0


def measured(vm: VirtualMachine, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds by what was waited for."""
    figures: dict[str, list[float]] = {}
    name, pod = hashed("blue"), vm.launcher()
    wishes = {"plug": json.dumps([{"name": "blue", "interface": "blue", "mac": MAC}]), "unplug": None}
    with vm.listening() as guest, annotated(pod, NETWORKS, name) as asked, annotated(pod, STATUS, name) as told:
        for _ in range(rounds):
            for verb, wish in wishes.items():
                is_plug, begun = verb == "plug", time.perf_counter()
                vm.annotate({NETWORKS: wish})
                figures.setdefault(f"{verb} guest", []).append(guest.wait(MAC, begun, present=is_plug))
                after = told.wait(name, begun, present=is_plug) - asked.wait(name, begun, present=is_plug)
                if is_plug:  # to unplug is to wait for the guest and for KubeVirt
                    figures.setdefault("plug our share", []).append(after)
                vm.wait("KubeVirt is done", lambda: (len(vm.names()) == 2) == is_plug)  # noqa: B023 waited for here
                time.sleep(0.5)
    return figures


def print_table(figures: dict[str, list[float]], rounds: int) -> None:
    print(f"\none NIC of a VM of KubeVirt, {rounds} times; milliseconds")
    row("", "min", "median", "max", "aim")
    for name, values in figures.items():
        middle = statistics.median(values)
        row(name, f"{min(values):.1f}", f"{middle:.1f}", f"{max(values):.1f}", AIM.get(name, "-"))


if __name__ == "__main__":
    sys.exit(main())
