"""Networks of device `overlay` on a real cluster: nodes that come and go, and the loss of what told of them."""

import json
import time
from collections.abc import Callable

import pytest

from e2e.node import Node
from e2e.pods import Namespace, Pod

pytestmark = pytest.mark.lane

VNI = 5001
EVERYBODY = "00:00:00:00:00:00"
BLUE = {"cniVersion": "1.1.0", "type": "hotnic", "device": "overlay", "vni": VNI}


def pod_on(ns: Namespace, node: Node, number: int) -> Pod:
    """A pod on the node, which gets the network while it runs."""
    pod = ns.pod(f"on-{node.name}-{number}", nodeName=node.name)
    pod.plug("blue")
    pod.wait_ready("net1")
    pod.sh(f"ip addr add 10.7.0.{number}/24 dev net1; ip addr add fd00:7::{number}/64 dev net1")
    pod.sh("while ip addr show dev net1 | grep -q tentative; do sleep 0.1; done")
    return pod


def reach(one: Pod, other: Pod) -> None:
    """Both families, both ways."""
    for here, there in ((one, other), (other, one)):
        number = there.name.rpartition("-")[2]
        here.sh(f"ping -c 1 -w 5 10.7.0.{number} && ping -6 -c 1 -w 5 fd00:7::{number}")


def peers(node: Node) -> set[str]:
    """The nodes that this one's tunnel leads to."""
    text = node.exec(["bridge", "-json", "fdb", "show", "dev", f"hnv{VNI}"], check=False).stdout
    return {one["dst"] for one in json.loads(text or "[]") if one["mac"] == EVERYBODY and "dst" in one}


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_pods_of_two_nodes_are_on_one_segment(ns, cluster):
    first, second = cluster.nodes[:2]
    ns.network("blue", BLUE)
    one, two = pod_on(ns, first, 1), pod_on(ns, second, 2)
    assert peers(first) == {second.ip}
    assert one.sh("cat /sys/class/net/net1/mtu").strip() == "1450"
    reach(one, two)
    two.plug(None)
    two.wait_ready()
    assert f"hnv{VNI}" not in second.exec(["ip", "link"]).stdout
    assert peers(first) == {second.ip}


def test_an_mtu_that_does_not_fit_is_told_with_both_numbers(ns, cluster):
    ns.network("blue", {**BLUE, "mtu": 1500})
    pod = ns.pod("a", nodeName=cluster.nodes[0].name)
    pod.plug("blue")
    pod.wait_event("FailedAddingInterface", "mtu=1500", "1450")


def test_what_somebody_deletes_comes_back(ns, cluster):
    first, second = cluster.nodes[:2]
    ns.network("blue", BLUE)
    one, two = pod_on(ns, first, 1), pod_on(ns, second, 2)
    first.exec(["ip", "link", "del", f"hnv{VNI}"])
    first.exec(["ip", "link", "del", f"hnb{VNI}"])
    assert within(30, lambda: peers(first) == {second.ip})
    reach(one, two)


def test_it_works_without_the_api_server_and_over_an_agents_restart(ns, cluster, product):
    first, second = cluster.nodes[:2]
    ns.network("blue", BLUE)
    one, two = pod_on(ns, first, 1), pod_on(ns, second, 2)
    cluster.stop_apiserver()
    try:
        product.controllers[first.name].kill()
        product.agents[first.name].kill()
        first.exec(["ip", "link", "del", f"hnv{VNI}"])
        product.start_agent(first)
        assert within(10, lambda: peers(first) == {second.ip})  # of its own memory: there is nobody who could tell
    finally:
        cluster.start_apiserver()
    reach(one, two)
    product.start_controller(first)


def test_a_node_joins_and_leaves(ns, cluster, product):
    first, second = cluster.nodes[:2]
    ns.network("blue", BLUE)
    one, two = pod_on(ns, first, 1), pod_on(ns, second, 2)
    third = cluster.add_node()
    assert within(10, lambda: third.ip in peers(first) & peers(second))  # it is Ready, and long known
    product.install()
    product.start_agent(third)
    product.start_controller(third)
    three = pod_on(ns, third, 3)
    for pod in (one, two):
        reach(pod, three)
    third.stop_kubelet()
    unready = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "KubeletStopped"}]}}
    cluster.kubectl("patch", "node", third.name, "--subresource=status", "-p", json.dumps(unready))
    assert not within(1, lambda: third.ip not in peers(first))  # its kernel still forwards
    one.sh("ping -c 1 -w 5 10.7.0.3")
    third.power_off()
    three.namespace.api.call("delete_namespaced_pod", three.name, ns.name, grace_period_seconds=0)
    cluster.kubectl("delete", "node", third.name)
    assert within(10, lambda: peers(first) == {second.ip} and peers(second) == {first.ip})
    reach(one, two)
