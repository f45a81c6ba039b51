"""The stories: what happens on a node, from an attachment to the end of its pod; each is told again for each fault.

Rule 1: a story ends with nothing left, whatever happened in it, or raises Wrong.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from agent import formats
from tests.faults.desk import Desk
from tests.faults.injection import ERROR, Fault
from tests.faults.node import Node, Wrong, links

TRIES = 5


def networks(node: Node) -> Mapping[str, Mapping[str, Any]]:
    """Our own bridge, a delegate with addresses that is defined on the node's disk, a bridge of ours with addresses."""

    def pool(name: str, subnet: str) -> Mapping[str, Any]:
        return {"type": "host-local", "ranges": [[{"subnet": subnet}]], "dataDir": str(node.folder / "leases")}

    own = {"cniVersion": "1.1.0", "type": "hotnic", "device": "bridge", "capabilities": {"mac": True}}
    red = {
        "cniVersion": "1.0.0",
        "name": "red",
        "type": "bridge",
        "bridge": "br-red",
        "ipam": pool("red", "10.8.0.0/16"),
    }
    node.define(red)
    return {
        "blue": {**own, "name": "blue", "bridge": "br-blue"},
        "green": {**own, "name": "green", "bridge": "br-green", "ipam": pool("green", "10.7.0.0/16")},
        "red": {"name": "red"},
    }


def hotplug(node: Node, fault: Fault) -> Mapping[str, int]:
    """Attach two, change one in place, replace one, detach one; a new sandbox; the pod's end. Returns the calls."""
    known, pod = networks(node), node.pod()
    agent = node.living()
    agent.arm(fault)
    node.tell_underlay(f"192.0.2.{pod.sandbox.number % 250 + 1}")
    blue, mac = {"config": known["blue"], "element": {"interface": "net1"}}, "02:00:00:00:00:99"
    red, green = ({"config": known[name], "element": {"interface": "net2"}} for name in ("red", "green"))
    changed = {**blue, "element": {"interface": "net1", "mac": mac}}
    node.settle(pod, [blue, red])
    node.settle(pod, [changed, red])
    node.settle(pod, [changed, green])
    node.settle(pod, [green])
    node.recreate(pod)
    node.settle(pod, [green])
    node.end(pod)
    node.end_sandbox(pod.sandbox)
    return agent.counted() if not agent.is_dead else {}


def guest(node: Node, fault: Fault) -> Mapping[str, int]:
    """A machine gets a NIC, another one, loses the first; the pod's end."""
    known, pod = networks(node), node.pod()
    machine = node.machine(pod)
    agent = node.living()
    agent.arm(fault)
    blue = {"config": known["blue"], "element": {"interface": "net1"}}
    second = {"config": {**known["blue"], "name": "second"}, "element": {"interface": "net2"}}
    node.settle(pod, [blue])
    node.settle(pod, [blue, second])
    node.settle(pod, [second])
    node.end(pod)
    machine.end()
    node.end_sandbox(pod.sandbox)
    return agent.counted() if not agent.is_dead else {}


def executable(node: Node, fault: Fault) -> Mapping[str, int]:
    """A runtime's ADD and DEL, each repeated where it fails as runtimes do; then a DEL while the agent is away.

    The fault's number goes on from one call to the next.
    """
    pod, counted, agent = node.pod(), Counter[str](), node.living()
    agent.arm(fault)

    def call(verb: str, *, is_up: bool) -> bool:
        rest = Fault(fault.effect, max(fault.number - counted[fault.effect], 0), fault.kind)
        if is_up:
            node.living()
        is_done, calls = node.call(verb, pod, rest)
        counted.update(calls)
        if not is_done:
            counted[fault.effect] = max(counted[fault.effect], fault.number)  # it has happened
        return is_done

    def until_done(verb: str, *, is_up: bool = True) -> None:
        for _ in range(TRIES):
            if call(verb, is_up=is_up):
                return
            if verb == "ADD":
                until_done("DEL")
        raise Wrong(f"{verb} fails for ever: {node.log()}")

    until_done("ADD")
    if "net1" not in links(pod.sandbox.netns):
        raise Wrong("ADD succeeds, and there is no interface")
    until_done("DEL")
    node.await_tombstones()
    if "net1" in links(pod.sandbox.netns):
        raise Wrong("DEL succeeds, and the interface is there")
    until_done("ADD")
    calls = Counter(agent.counted() if not agent.is_dead else {})
    node.living().end()
    until_done("DEL", is_up=False)
    agent = node.start(fault)
    node.await_tombstones()
    node.end_sandbox(pod.sandbox)
    calls.update(agent.counted() if not agent.is_dead else {})
    return calls + counted


def start(node: Node, fault: Fault) -> Mapping[str, int]:
    """An agent starts with a pod in an older version's journal, half of whose wishes are fulfilled."""
    known, pod = networks(node), node.pod()
    wanted = [{"config": known[name], "element": {}} for name in ("blue", "green")]
    node.settle(pod, wanted[:1])
    node.living().end()
    (node.folder / "state/format").write_text(f"{formats.OLDEST}\n")
    agent = node.start(fault)
    node.settle(pod, wanted)
    node.end(pod)
    node.end_sandbox(pod.sandbox)
    return agent.counted() if not agent.is_dead else {}


def damage(node: Node, fault: Fault) -> Mapping[str, int]:
    """An agent starts with files in its state that cannot be read: they are set aside, and nobody suffers."""
    known, pod = networks(node), node.pod()
    wanted = [{"config": known[name], "element": {}} for name in ("blue", "green")]
    node.settle(pod, wanted[:1])
    node.living().end()
    damaged = [node.folder / "state" / name for name in ("records/a.json", "pods/b.json", "underlay.json")]
    for path in damaged:
        path.write_text("{")
    agent = node.start(fault)
    node.settle(pod, wanted)
    calls = agent.counted() if not agent.is_dead else {}
    if fault.kind == ERROR:  # what stayed where it was is tried again at the next start
        node.living().end()
        node.start()
    node.settle(pod, wanted)
    node.take_aside(len(damaged))
    node.end(pod)
    node.end_sandbox(pod.sandbox)
    return calls


def controller(desk: Desk, fault: Fault) -> Mapping[str, int]:
    """A controller starts; a user wishes for an interface, for another, for the first no more; the pod's end."""
    name = desk.pod()
    desk.agent.underlays.clear()
    process = desk.restart(fault)
    desk.await_underlay()
    desk.settle(name, "blue@net1")
    desk.settle(name, "blue@net1,red@net2")
    desk.settle(name, "red@net2")
    desk.end(name)
    return process.counted() if not process.is_dead else {}
