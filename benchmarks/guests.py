"""From the edit of a pod's annotation to the NIC in its guest: `python -m benchmarks.guests [--rounds N]`.

QEMU (q35, emulated) in a pod of a real cluster. What is measured, each from just before the PATCH is sent:
  guest    until the guest itself lists the NIC, or no longer does (asked every 5 ms over a serial line)
  status   until a watch shows the published network-status
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from benchmarks.run import row
from e2e import networks, prepare
from e2e.cluster import Cluster
from e2e.pods import Api
from e2e.product import Product
from e2e.timeline import published
from e2e.vm import machines

AIM = {"plug guest": 150.0}
MAC = "02:00:00:00:be:01"


def main() -> int:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guests", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="plugs and unplugs of one NIC (default 20)")
    arguments = parser.parse_args()
    if not os.environ.get("HOTNIC_LANE"):
        prepare.debian()  # the lane has no network
        again = [sys.executable, "-m", "benchmarks.guests", "--rounds", str(arguments.rounds)]
        return subprocess.run([sys.executable, "-m", "e2e.lane", "run", "--", *again], check=False).returncode
    product = Product(Cluster.from_environment())
    product.install()
    product.start()
    namespace = Api(product.cluster).namespace("bench")
    namespace.network("blue", networks.native("br-blue", capabilities={"mac": True}))
    with machines.running(namespace, "vm") as machine:
        print_table(measured(machine, arguments.rounds))
    product.stop()
    return 0


def measured(machine: machines.Machine, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds by what was waited for."""
    figures: dict[str, list[float]] = {}
    element = [{"name": "blue", "interface": "net1", "mac": MAC}]
    with published(machine.pod, "net1") as status:
        for _ in range(rounds):
            for verb, wish in (("plug", element), ("unplug", "")):
                begun = time.perf_counter()
                machine.pod.plug(wish)
                machine.wait_nic(MAC, there=verb == "plug")
                figures.setdefault(f"{verb} guest", []).append((time.perf_counter() - begun) * 1000)
                figures.setdefault(f"{verb} status", []).append(status.wait("net1", begun, present=verb == "plug"))
                time.sleep(0.2)
    return figures


def print_table(figures: dict[str, list[float]]) -> None:
    rounds = len(next(iter(figures.values())))
    print(f"\none NIC of a guest, {rounds} times; milliseconds from the PATCH of the pod's annotation")
    row("", "min", "median", "max", "aim")
    for name, values in figures.items():
        middle = statistics.median(values)
        row(name, f"{min(values):.1f}", f"{middle:.1f}", f"{max(values):.1f}", AIM.get(name, "-"))


if __name__ == "__main__":
    sys.exit(main())
