"""Latency and throughput of an edit, on a real cluster: `python -m benchmarks.run [--rounds N]`.

What is measured, each from just before the PATCH of the annotation is sent:
  link     until the kernel tells of the link in the pod's namespace (netlink notification, no polling)
  status   until a watch shows the published network-status
Beside it stand the figures that the incumbent (Multus thick + multus-dynamic-networks-controller) had on a machine of
this size; they were measured once, elsewhere, and are printed as such. These machines are noisy: read the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

from e2e import networks
from e2e.cluster import Cluster
from e2e.node import Node
from e2e.pods import STATUS, Api, Namespace, Pod
from e2e.process import Process
from e2e.product import Product
from e2e.timeline import lines, pod_links, published

INCUMBENT = {"plug link": 17.9, "plug status": 601.0, "rate": 5.0}
AIM = {"plug link": 10.0, "plug status": 25.0, "rate": 150.0}
PODS, INTERFACES = 20, 4


def main() -> int:
    """Run all measurements and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="plugs and unplugs of one interface (default 30)")
    arguments = parser.parse_args()
    if not os.environ.get("HOTNIC_LANE"):
        again = [sys.executable, "-m", "benchmarks.run", "--rounds", str(arguments.rounds)]
        return subprocess.run([sys.executable, "-m", "e2e.lane", "run", "--", *again], check=False).returncode
    cluster = Cluster.from_environment()
    product = Product(cluster)
    product.install()
    product.start()
    node = cluster.nodes[0]
    processes = {"agent": product.agents[node.name], "controller": product.controllers[node.name]}
    namespace = Api(cluster).namespace("bench")
    for number in range(INTERFACES):
        namespace.network(f"blue{number}", networks.native(f"br-blue{number}"))
    print_idle(processes)
    one_interface(namespace, node, arguments.rounds, processes)
    burst(namespace, processes)
    product.stop()
    return 0


def one_interface(namespace: Namespace, node: Node, rounds: int, processes: dict[str, Process]) -> None:
    pod = namespace.pod("one")
    pod.plug("")
    time.sleep(6)  # the agent's sweep has seen the sandbox, as it has of any pod that is older than that
    used = cpu(processes)
    figures: dict[str, list[float]] = {}
    with pod_links(node, pod, "net1") as links, published(pod, "net1") as status:
        for _ in range(rounds):
            for verb, text in (("plug", "blue0@net1"), ("unplug", "")):
                present = verb == "plug"
                begun = time.perf_counter()
                pod.plug(text)
                figures.setdefault(f"{verb} link", []).append(links.wait("net1", begun, present=present))
                figures.setdefault(f"{verb} status", []).append(status.wait("net1", begun, present=present))
                time.sleep(0.05)
    print(f"\none interface, {rounds} times; milliseconds from the PATCH of the annotation")
    row("", "min", "median", "p95", "max", "aim", "incumbent", "ratio")
    for name, values in figures.items():
        middle = statistics.median(values)
        peer = INCUMBENT.get(name)
        row(name, f"{min(values):.1f}", f"{middle:.1f}", f"{percentile(values, 95):.1f}", f"{max(values):.1f}",
            AIM.get(name, "-"), peer or "-", f"{peer / middle:.1f}x" if peer else "-")  # fmt: skip
    print_cpu("for each edit", processes, used, 2 * rounds)
    pod.delete()


def burst(namespace: Namespace, processes: dict[str, Process]) -> None:
    pods = [namespace.pod(f"p{number}", wait=False) for number in range(PODS)]
    for pod in pods:
        pod.wait_running(120)
    time.sleep(6)
    rates = []
    used = cpu(processes)
    rounds = 3
    for _ in range(rounds):
        text = ",".join(f"blue{number}@x{number}" for number in range(INTERFACES))
        rates.append(PODS * INTERFACES / edit_all(namespace, pods, text, INTERFACES))
        edit_all(namespace, pods, "", 0)
    middle = statistics.median(rates)
    print(f"\nburst: {PODS} pods x {INTERFACES} interfaces edited at once, until every status is published")
    row("", "min", "median", "max", "aim", "incumbent", "ratio")
    row("attachments/s", f"{min(rates):.0f}", f"{middle:.0f}", f"{max(rates):.0f}", AIM["rate"], INCUMBENT["rate"],
        f"{middle / INCUMBENT['rate']:.0f}x")  # fmt: skip
    print_cpu("for each attachment and its removal", processes, used, rounds * PODS * INTERFACES)
    print_idle(processes)


def edit_all(namespace: Namespace, pods: list[Pod], text: str, count: int) -> float:
    """Edit all pods from four threads; return the seconds until all statuses have `count` interfaces of ours."""
    api = namespace.api
    response = api.core.list_namespaced_pod(namespace.name, _preload_content=False)
    version = json.loads(response.data)["metadata"]["resourceVersion"]
    watch = api.core.list_namespaced_pod(
        namespace.name, watch=True, resource_version=version, timeout_seconds=120, _preload_content=False
    )
    begun = time.perf_counter()
    threads = [threading.Thread(target=plug_all, args=(pods[at::4], text)) for at in range(4)]
    for thread in threads:
        thread.start()
    done: set[str] = set()
    for line in lines(watch):
        found = json.loads(line)["object"]
        entries = json.loads(found["metadata"].get("annotations", {}).get(STATUS) or "[]")
        ready = sum(1 for entry in entries if entry.get("interface", "").startswith("x")) == count
        done = done | {found["metadata"]["name"]} if ready else done - {found["metadata"]["name"]}
        if len(done) == len(pods):
            break
    took = time.perf_counter() - begun
    for thread in threads:
        thread.join()
    watch.close()
    return took


def plug_all(pods: list[Pod], text: str) -> None:
    for pod in pods:
        pod.plug(text)


def cpu(processes: dict[str, Process]) -> dict[str, float]:
    """Return the CPU seconds that each process has used."""
    tick = os.sysconf("SC_CLK_TCK")
    stats = {name: open(f"/proc/{one.pid}/stat").read().rpartition(")")[2].split() for name, one in processes.items()}  # noqa: PTH123, SIM115
    return {name: (int(stat[11]) + int(stat[12])) / tick for name, stat in stats.items()}


def memory(process: Process) -> float:
    """Return the resident MiB."""
    with open(f"/proc/{process.pid}/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def print_cpu(what: str, processes: dict[str, Process], before: dict[str, float], count: int) -> None:
    for name, now in cpu(processes).items():
        print(f"  {name}: {(now - before[name]) / count * 1000:.2f} ms of CPU {what}")


def print_idle(processes: dict[str, Process]) -> None:
    before, begun = cpu(processes), time.perf_counter()
    time.sleep(5)
    took = time.perf_counter() - begun
    for name, now in cpu(processes).items():
        print(f"  {name}: idle {(now - before[name]) / took * 100:.1f} % of a core, {memory(processes[name]):.0f} MiB")


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def row(*cells: object) -> None:
    print("  " + f"{cells[0]!s:<14}" + "".join(f"{cell!s:>11}" for cell in cells[1:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
