"""Whole CNI calls through Multus' thick plugin, on a real cluster: `python -m benchmarks.multus_calls [--rounds N]`.

What is measured is the process `multus-shim`, from its start to its end, for a pod without networks of its own: Multus
asks the API about the pod, and delegates to the primary network, the reference `bridge` with host-local. Beside it
stands that plugin itself, and hotnic with the same options, called in the same node in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.cni_calls import Plugin, agent, call, netns, participants, row
from e2e.cluster import Cluster
from e2e.multus_daemon import Multus
from e2e.pods import Api
from e2e.product import Product


def main() -> int:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multus_calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="calls of each plugin (default 30)")
    parser.add_argument("--in-node", metavar="CNI_ARGS", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_node:
        return measure(arguments.in_node, arguments.rounds)
    if not os.environ.get("HOTNIC_LANE"):
        again = [sys.executable, "-m", "benchmarks.multus_calls", "--rounds", str(arguments.rounds)]
        return subprocess.run([sys.executable, "-m", "e2e.lane", "run", "--", *again], check=False).returncode
    cluster = Cluster.from_environment()
    Product(cluster).install()
    node = cluster.nodes[0]
    multus = Multus(cluster)
    multus.install()
    multus.start(node)
    pod = Api(cluster).namespace("bench").pod("a")
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=a;K8S_POD_UID={pod.uid}"
    command = [sys.executable, "-m", "benchmarks.multus_calls", "--rounds", str(arguments.rounds), "--in-node", args]
    print(node.exec(command).stdout)
    pod.delete()
    return 0


def measure(args: str, rounds: int) -> int:
    shim = json.loads(Path("/etc/cni/net.d/00-multus.conf").read_text())
    with agent(Path("/run/benchmark")) as run_dir:
        compared = [one for one in participants(run_dir) if one.name in ("hotnic host-local", "bridge host-local")]
        plugins = [Plugin("Multus + bridge", Path("/opt/cni/bin/multus-shim"), shim), *compared]
        for number in range(rounds + 3):
            for plugin in plugins:
                with netns(f"m{number}") as path:
                    for verb in ("ADD", "DEL"):
                        took = call(plugin, verb, f"m{number}", path, f"{args};K8S_POD_INFRA_CONTAINER_ID=m{number}")
                        if number >= 3:
                            plugin.times.setdefault(verb, []).append(took)
    print(f"one call at a time, {rounds} of each; milliseconds of the whole process")
    row("", "min", "median", "max")
    for plugin in plugins:
        for verb, times in plugin.times.items():
            row(f"{verb} {plugin.name}", f"{min(times):.1f}", f"{statistics.median(times):.1f}", f"{max(times):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
