"""A node that has too much to do: an edit loop, delegates that hang, very many attachments. Tests judge the figures.

    python -m tests.faults.overload edits|hanging|memory|controller [SIZE]        as root; the full size is the default

Rule 1: agent, kernel, delegates and gRPC are the real ones (tests.faults.node); pods are namespaces.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.faults.desk import Desk
from tests.faults.node import Node, status
from tests.faults.programs import PROGRAMS
from tests.faults.trials import isolated
from tests.faults.victims import Nursery

ELEMENTS = 8
RATE = 1000  # edits a second, as far as they can be sent
ATTACHED_S = 600.0

BLUE = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "bridge", "bridge": "br-blue"}
VETH = {"cniVersion": "1.1.0", "name": "pairs", "type": "hotnic", "device": "veth"}
HANGING = {"cniVersion": "1.1.0", "name": "hanging", "type": "hangs"}


def edits(node: Node, seconds: int) -> Mapping[str, float]:
    """One pod is edited in a loop; others come meanwhile, one after the other."""
    alone = [_latency(node) for _ in range(10)]
    busy, sent, stop = node.pod(), [0], threading.Event()
    blue = [{"config": BLUE, "element": {"interface": "net1"}}]

    def loop() -> None:
        began = time.monotonic()
        while not stop.is_set():
            node.ask(busy, blue if sent[0] % 2 else [])
            sent[0] += 1
            time.sleep(max(0.0, began + sent[0] / RATE - time.monotonic()))

    thread = threading.Thread(target=loop)
    thread.start()
    began, meanwhile = time.monotonic(), []
    while time.monotonic() < began + seconds:
        meanwhile.append(_latency(node))
    stop.set()
    thread.join()
    took = time.monotonic() - began
    node.settle(busy, blue)
    return {
        "edits a second": sent[0] / took, "others": len(meanwhile), "alone, slowest s": max(alone),
        "meanwhile, median s": sorted(meanwhile)[len(meanwhile) // 2], "meanwhile, slowest s": max(meanwhile),
    }  # fmt: skip


def hanging(node: Node, pods: int) -> Mapping[str, float]:
    """So many pods whose delegates hang; then one whose network is well."""
    before = _latency(node)
    shared = node.pod()
    for number in range(pods):
        other = node.beside(shared, f"hang-{number}")
        node.ask(other, [{"config": HANGING, "element": {}}])
    latencies = [_latency(node) for _ in range(3)]
    held = status(node.living().pid)
    return {
        "before s": before, "first after s": latencies[0], "third after s": latencies[2],
        "threads": held["Threads"], "MiB": held["VmRSS"] / 1024, "delegates": len(node.delegates()),
    }  # fmt: skip


def memory(node: Node, pods: int) -> Mapping[str, float]:
    """So many pods with ELEMENTS interfaces each: what the agent takes for each of them, and gives back."""
    wanted = [{"config": VETH, "element": {"interface": f"net{number}"}} for number in range(1, ELEMENTS + 1)]
    for one in [node.pod() for _ in range(5)]:
        node.settle(one, wanted)  # what is made once is made
    made = [node.pod() for _ in range(pods)]
    before, began = status(node.living().pid), time.monotonic()
    for one in made:
        node.ask(one, wanted)
    node.await_attached(made, ELEMENTS, ATTACHED_S)
    took, after = time.monotonic() - began, status(node.living().pid)
    count = pods * ELEMENTS
    return {
        "attachments": count, "attachments a second": count / took, "MiB before": before["VmRSS"] / 1024,
        "MiB after": after["VmRSS"] / 1024, "KiB each": (after["VmRSS"] - before["VmRSS"]) / count,
        "threads": after["Threads"],
    }  # fmt: skip


def controller(desk: Desk, pods: int) -> Mapping[str, float]:
    """So many pods with ELEMENTS interfaces each: what the controller takes for each of them."""
    asked = ",".join(f"blue@net{number}" for number in range(1, ELEMENTS + 1))
    desk.living()
    desk.settle(desk.pod(), asked)
    before, began = status(desk.living().pid), time.monotonic()
    names = [desk.pod() for _ in range(pods)]
    for name in names:
        desk.cluster.annotate(name, networks=asked)
    for name in names:
        desk.await_published(name, asked)
    took, after = time.monotonic() - began, status(desk.living().pid)
    return {
        "elements": pods * ELEMENTS, "pods a second": pods / took, "MiB before": before["VmRSS"] / 1024,
        "MiB after": after["VmRSS"] / 1024, "KiB each": (after["VmRSS"] - before["VmRSS"]) / (pods * ELEMENTS),
        "threads": after["Threads"],
    }  # fmt: skip


def _latency(node: Node) -> float:
    """Attach one to a new pod; return how long that took, and end it."""
    pod = node.pod()
    began = time.monotonic()
    node.settle(pod, [{"config": BLUE, "element": {}}])
    took = time.monotonic() - began
    node.end(pod)
    node.end_sandbox(pod.sandbox)
    return took


def _on_a_node(story: Callable[[Node, int], Mapping[str, float]], size: int) -> Mapping[str, float]:
    nursery, folder, plugins = Nursery(PROGRAMS), Path("/run/overload/world"), Path("/run/plugins")
    plugins.mkdir()
    (plugins / "hangs").write_text("#!/bin/sh\nexec sleep 10000\n")
    (plugins / "hangs").chmod(0o755)
    node = Node(nursery, folder, plugins, [])
    node.start()
    figures = story(node, size)
    node.close()
    return figures


def _at_a_desk(story: Callable[[Desk, int], Mapping[str, float]], size: int) -> Mapping[str, float]:
    folder = Path("/run/overload/world")
    nursery = Nursery(PROGRAMS)
    folder.mkdir(parents=True)
    desk = Desk(nursery, folder, [])
    figures = story(desk, size)
    desk.close()
    return figures


FULL: Mapping[str, int] = {"edits": 10, "hanging": 600, "memory": 500, "controller": 500}
_STORIES: Mapping[str, Callable[[int], Mapping[str, float]]] = {
    "edits": lambda size: _on_a_node(edits, size),
    "hanging": lambda size: _on_a_node(hanging, size),
    "memory": lambda size: _on_a_node(memory, size),
    "controller": lambda size: _at_a_desk(controller, size),
}


def measured(name: str, size: int) -> Mapping[str, float]:
    """Return the figures, of a node in namespaces of its own that is gone then; none where it failed."""
    said = isolated(lambda: _STORIES[name](size))()
    return json.loads(said) if said else {}


def told(name: str, size: int, figures: Mapping[str, float]) -> str:
    return f"{name}, {size}: " + ", ".join(f"{what} {value:.3g}" for what, value in figures.items())


def main(arguments: Sequence[str]) -> int:
    name = arguments[0]
    size = int(arguments[1]) if arguments[1:] else FULL[name]
    figures = measured(name, size)
    print(told(name, size, figures))
    return 0 if figures else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
