"""What looks like drift and is somebody's purpose is left alone, on the real kernel."""

import subprocess
import time
from dataclasses import replace

import pytest

from agent import mending
from agent.model import Origin
from tests.agent.drifting import QUIET_S, running, until
from tests.agent.native import ip, link
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

BRIDGE = {"device": "bridge", "bridge": "br0", "ipam": {"type": "addresses"}}


@pytest.fixture
def node(tmp_path):
    with running(tmp_path) as one:
        yield one


@pytest.fixture
def pod(node, pod_netns):
    return node.pod("a", pod_netns)


def in_pod(pod, *arguments):
    return ip(*arguments, netns=pod.netns)


def test_a_link_that_a_runtime_made_is_made_anew_only_if_the_pod_outlives_it(node, pod, monkeypatch):
    """The runtime's DEL comes before we hear that the pod ends."""
    pod.attach("net1", **BRIDGE)
    node.journal.update(replace(node.journal.record(pod.key("net1")), origin=Origin.ADOPTED), durable=False)
    in_pod(pod, "link", "del", "net1")
    until(lambda: pod.told("net1")[1] == "Drifted")
    time.sleep(QUIET_S)
    assert (pod.link("net1"), "may be about to end" in pod.told("net1")[2]) == (None, True)
    monkeypatch.setattr(mending, "LEAVING_S", 0.0)
    until(lambda: pod.link("net1"), "it is not made anew")


@pytest.mark.parametrize("feature", [pytest.param("macvlan", marks=needs("macvlan"))])
def test_a_link_that_would_have_to_be_another_one_is_not_repaired_in_place(node, pod, feature):
    """Its record would know one that is gone."""
    ip("link", "add", "m0", "up", "type", "veth", "peer", "name", "m0x")
    pod.attach("net1", device=feature, master="m0")
    before = pod.link("net1")["ifindex"]
    ip("link", "set", "m0", "down")
    ip("link", "set", "m0", "name", "old0")
    ip("link", "add", "m0", "up", "type", "veth", "peer", "name", "m1x")
    until(lambda: pod.told("net1")[1] == "Drifted")
    time.sleep(QUIET_S)
    assert pod.link("net1")["ifindex"] == before
    assert node.journal.record(pod.key("net1")).ifindex == before


def test_what_a_later_plugin_of_the_network_changed_stays(pod):
    pod.attach("net1", chain=({"type": "later"},), mtu=1500, **BRIDGE)
    in_pod(pod, "link", "set", "net1", "mtu", "1400")
    ip("link", "set", pod.host("net1"), "down")
    until(lambda: "UP" in (link(pod.host("net1")) or {"flags": ()})["flags"], "the node's end is ours")
    time.sleep(QUIET_S)
    assert pod.link("net1")["mtu"] == 1400


def test_what_the_pod_has_put_into_its_own_bridge_is_the_pods(pod):
    pod.attach("net1", **BRIDGE)
    in_pod(pod, "link", "add", "inner0", "type", "bridge")
    in_pod(pod, "link", "set", "net1", "master", "inner0")
    in_pod(pod, "link", "set", "net1", "address", "02:00:00:00:77:77")
    subprocess.run(["ip", "-n", pod.netns.rpartition("/")[2], "addr", "flush", "dev", "net1"], check=True)
    time.sleep(2 * QUIET_S)
    found = pod.link("net1")
    assert (found["address"], pod.addresses("net1")) == ("02:00:00:00:77:77", set())
    assert pod.told("net1")[0] == "Attached"


def test_a_route_of_the_nodes_through_a_host_end_comes_back(node, pod):
    node.plugins.plain = True
    pod.attach("net1", device="veth", ipam={"type": "addresses"})
    before = [one["dst"] for one in ip("route", "show", "dev", pod.host("net1"))]
    assert before
    ip("route", "del", before[0], "dev", pod.host("net1"))
    until(lambda: [one["dst"] for one in ip("route", "show", "dev", pod.host("net1"))] == before)
