"""Edit a pod's annotation, and the network is there: networks of all kinds, in every notation."""

import json

import pytest

from e2e import audit, networks
from e2e.pods import NETWORKS

pytestmark = pytest.mark.lane


def ping(pod, address: str) -> None:
    pod.wait(f"{address} answers", lambda: "bytes from" in pod.sh(f"ping -c1 -W1 {address} || true"))


def test_a_native_network_is_plugged_used_and_unplugged(ns, node):
    ns.network("blue", networks.native("br-blue", mtu=1400))
    pods = [ns.pod("a"), ns.pod("b")]
    for number, pod in enumerate(pods, 1):
        assert NETWORKS not in pod.get()["metadata"].get("annotations", {})
        pod.plug([{"name": "blue", "interface": "net1"}])
        pod.wait_ready("net1")
        pod.sh(f"ip addr add 10.50.0.{number}/24 dev net1")
    entry = pods[0].reported()["net1"]
    assert (entry["name"], entry["mac"], entry["mtu"]) == (f"{ns.name}/blue", pods[0].interfaces()["net1"], 1400)
    assert "net1" in pods[0].wait_event("AddedInterface", f"{ns.name}/a")
    ping(pods[0], "10.50.0.2")
    pods[0].plug([])
    pods[0].wait_ready()
    assert set(pods[0].interfaces()) == {"eth0"}
    assert "net1" in pods[0].wait_event("RemovedInterface", f"{ns.name}/a")
    assert len(audit.host_ends(node)) == 1


@pytest.mark.parametrize("kind", ["bridge+host-local", "macvlan", "chain bridge+tuning"])
def test_a_third_party_network_is_plugged_and_unplugged(ns, node, kind):
    name = f"t{abs(hash(ns.name)) % 10**6}"
    conf = {
        "bridge+host-local": networks.reference_bridge("br-ref", "10.60.0.0/24", name=name),
        "macvlan": networks.macvlan("eth0"),
        "chain bridge+tuning": networks.chain(
            networks.reference_bridge("br-ref2", "10.61.0.0/24"), {"type": "tuning", "mtu": 1300}, name=name
        ),
    }[kind]
    ns.network("third", conf)
    pod = ns.pod("a")
    pod.plug([{"name": "third", "interface": "net1"}])
    pod.wait_ready("net1")
    entry = pod.reported()["net1"]
    assert entry["mac"] == pod.interfaces()["net1"]
    if kind != "macvlan":
        assert [one.split("/")[0] for one in pod.addresses("net1")] == entry["ips"]
        assert audit.addresses(node, name) == set(entry["ips"])
    if "tuning" in kind:
        assert pod.sh("cat /sys/class/net/net1/mtu").strip() == "1300"
    pod.plug(None)
    pod.wait_ready()
    assert set(pod.interfaces()) == {"eth0"}
    assert audit.addresses(node, name) == set()


def test_several_interfaces_in_one_edit_come_in_order(ns):
    for name in ("one", "two", "three"):
        ns.network(name, networks.native(f"br-{name}"))
    pod = ns.pod("a")
    pod.plug(
        [{"name": "two", "interface": "b"}, {"name": "one", "interface": "a"}, {"name": "three", "interface": "c"}]
    )
    pod.wait_ready("a", "b", "c")
    assert [entry["interface"] for entry in pod.status() if entry["interface"] != "eth0"] == ["b", "a", "c"]
    indexes = {name: int(pod.sh(f"cat /sys/class/net/{name}/ifindex")) for name in "abc"}
    assert indexes["b"] < indexes["a"] < indexes["c"]


def test_the_short_form_works_as_the_json_form_does(ns):
    ns.network("blue", networks.native("br-blue"))
    ns.network("red", networks.native("br-red"))
    pod = ns.pod("a")
    pod.plug(f"blue@x1, {ns.name}/red@x2,blue")
    pod.wait_ready("x1", "x2", "net1")
    pod.plug(f"{ns.name}/red@x2")
    pod.wait_ready("x2")


def test_one_edit_costs_two_writes_however_many_interfaces(ns, product, node):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug([])
    before = writes(product, node)
    pod.plug([{"name": "blue", "interface": f"x{number}"} for number in range(8)])
    pod.wait_ready(*(f"x{number}" for number in range(8)))
    pod.wait_event("AddedInterface", "x0", "x7")
    assert writes(product, node) - before <= 2


def writes(product, node) -> float:
    lines = product.metrics(node, "controller").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("hotnic_controller_api_writes_total"))


def test_foreign_entries_of_the_status_are_kept(ns):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    foreign = [{"name": "theirs", "interface": "eth0", "default": True, "x.example/key": {"a": 1}}, {"name": "odd"}]
    body = {"metadata": {"annotations": {"k8s.v1.cni.cncf.io/network-status": json.dumps(foreign)}}}
    ns.api.call("patch_namespaced_pod", pod.name, ns.name, body)
    pod.plug("blue")
    pod.wait("net1 is published", lambda: "net1" in pod.reported())
    assert pod.status()[:2] == foreign
    pod.plug("")
    pod.wait("net1 is gone", lambda: "net1" not in pod.reported())
    assert pod.status() == foreign


def test_the_condition_can_be_waited_for_with_kubectl(ns):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug("blue")
    kubectl = ns.api.cluster.kubectl
    kubectl("wait", "--for=condition=hotnic.dev/NetworksReady", f"pod/{pod.name}", "-n", ns.name, "--timeout=10s")
    assert "net1" in pod.reported()
