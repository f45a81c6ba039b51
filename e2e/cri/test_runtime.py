"""hotnic as the pods' own network, version 1.1.0, under containerd 2 and under CRI-O: ADD, DEL, STATUS, GC, hotplug."""

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import pytest

from agent.cri import Runtime
from e2e import audit, audit_command, build, networks, primary_network, runtimes
from e2e import doctor_command as doctor
from e2e.node import Node
from e2e.pods import Api, Pod

pytestmark = pytest.mark.lane

FIRST = ["sh", "-c", "ip -o addr > /tmp/first; sleep 3600"]


def wait_until(what: str, holds: Callable[[], object], timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.1)


def sandbox(node: Node, pod: Pod) -> str:
    """Return the ID of the pod's living sandbox, as the runtime says."""
    runtime = Runtime(f"unix://{node.path(node.cri_socket)}")
    try:
        (found,) = [one.id for one in runtime.sandboxes() if one.pod_uid == pod.uid and one.ready]
        return found
    finally:
        runtime.close()


def name_and_version() -> tuple[str, str]:
    """Return what the runtime is, by what it was built from."""
    name, module, source = {
        "crio": ("cri-o", "github.com/cri-o/cri-o", build.CRIO.source),
        "containerd2": ("containerd", "github.com/containerd/containerd/v2", build.CONTAINERD2.source),
    }[runtimes.chosen().name]
    (version,) = re.findall(rf"^\s*(?:require )?{module} v(\S+)", (source / "go.mod").read_text(), re.MULTILINE)
    return name, version


def stop_sandbox(node: Node, name: str) -> None:
    """Have the runtime stop a sandbox, as the kubelet would. CRI-O gives the containers all of a call's time to end."""
    with grpc.insecure_channel(f"unix://{node.path(node.cri_socket)}") as channel:
        call = channel.unary_unary("/runtime.v1.RuntimeService/StopPodSandbox")
        for _ in range(10):
            with suppress(grpc.RpcError):
                call(b"\x0a" + bytes([len(name)]) + name.encode(), timeout=3)  # field 1, a string
                return
    raise AssertionError(f"sandbox {name} is not stopped")


def condition(api: Api, node: Node) -> dict[str, Any]:
    found = api.call("read_node", node.name)["status"]["conditions"]
    ready: dict[str, Any] = next(one for one in found if one["type"] == "Ready")
    return ready


def test_pods_come_reach_each_other_and_leave_nothing(ns, node, primary):
    pods = [ns.pod(f"p{number}", wait=False) for number in range(6)]
    for pod in pods:
        pod.wait_running()
    addresses = [pod.addresses("eth0")[0].split("/")[0] for pod in pods]
    assert [pod.get()["status"]["podIP"] for pod in pods] == addresses
    assert set(addresses) <= audit.addresses(node, primary)
    assert "1 packets received" in pods[0].sh(f"ping -c 1 -W 5 {addresses[-1]}")
    for pod in pods:
        pod.delete()
    audit.wait_clean(node, {pod.uid for pod in pods})
    wait_until("the addresses are free", lambda: not set(addresses) & audit.addresses(node, primary))
    assert not audit.host_ends(node)


def test_an_annotation_is_fulfilled_before_the_start_and_at_every_edit(ns, node):
    store = f"blue-{ns.name.split('-')[0]}"
    ns.network("blue", networks.native("br-blue", name=store, ipam={"type": "host-local", "subnet": "10.121.0.0/24"}))
    ns.network("ref", networks.reference_bridge("br-ref"))
    pod = ns.pod("a", "blue@x1", command=FIRST)
    assert {line.split()[1] for line in pod.sh("cat /tmp/first").splitlines()} == {"lo", "eth0", "x1"}
    pod.wait_ready("x1")
    eth0 = pod.interfaces()["eth0"]
    pod.plug("blue@x1,ref@x2")
    pod.wait_ready("x1", "x2")
    pod.plug("ref@x2")
    pod.wait_ready("x2")
    assert (set(pod.interfaces()), audit.addresses(node, store)) == ({"eth0", "x2"}, set())
    pod.plug("blue@x3,ref@x2")
    pod.wait_ready("x2", "x3")
    assert pod.interfaces()["eth0"] == eth0
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    assert (audit.addresses(node, store), audit.host_ends(node)) == (set(), set())


def test_a_sandbox_that_is_replaced_gets_its_interfaces_again(ns, node, primary):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", "blue@x1", command=FIRST)
    pod.wait_ready("x1")
    old = sandbox(node, pod)
    stop_sandbox(node, old)

    def is_new() -> bool:
        try:
            return sandbox(node, pod) != old and "x1" in pod.interfaces()
        except (RuntimeError, ValueError):
            return False

    wait_until("the pod runs in another sandbox", is_new)
    assert {line.split()[1] for line in pod.sh("cat /tmp/first").splitlines()} == {"lo", "eth0", "x1"}
    pod.wait_ready("x1")
    wait_until("the old one's are gone", lambda: len(audit.host_ends(node)) == 2)
    assert len(audit.addresses(node, primary)) == 1


def test_without_the_runtime_what_is_plugged_stays_and_with_it_edits_go_on(ns, node):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", "blue@x1")
    pod.wait_ready("x1")
    mac = pod.interfaces()["x1"]
    node.stop_runtime()
    pod.plug("blue@x1,blue@x2")  # the sandbox is known, nobody has to be asked
    pod.wait_ready("x1", "x2")
    node.start_runtime()
    pod.plug("blue@x1,blue@x3")
    pod.wait_ready("x1", "x3")
    wait_until("a command can be executed in it", lambda: "x3" in pod.sh("ls /sys/class/net", check=False))
    assert pod.interfaces()["x1"] == mac
    later = ns.pod("b", "blue@x1")
    later.wait_ready("x1")


def test_an_agent_that_has_just_started_finds_the_sandbox(ns, node, product):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    product.agents[node.name].stop()
    product.start_agent(node)
    pod.plug("blue@x1")
    pod.wait_ready("x1")
    assert set(pod.interfaces()) == {"eth0", "x1"}


def test_a_host_network_pod_is_told_apart(ns, node):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", hostNetwork=True)
    runtime = Runtime(f"unix://{node.path(node.cri_socket)}")
    assert runtime.netns(sandbox(node, pod)) == ""
    runtime.close()
    pod.plug("blue")
    pod.wait_event("InterfaceAddRejected", "host")


def test_the_nodes_readiness_is_the_agents(ns, node, product, api):
    """STATUS: the kubelet says of the node what the runtime is told. containerd asks each time, CRI-O at its start."""
    pod = ns.pod("a")
    product.agents[node.name].stop()
    if runtimes.chosen().name == "crio":
        node.stop_runtime()
        node.start_runtime()
    wait_until("the node is not ready", lambda: condition(api, node)["status"] == "False")
    told = condition(api, node)
    assert (told["reason"], "hotnic agent" in told["message"]) == ("KubeletNotReady", True), told
    assert pod.get()["status"]["phase"] == "Running"
    product.start_agent(node)
    wait_until("the node is ready", lambda: condition(api, node)["status"] == "True")
    ns.pod("b")


def plant(node: Node, network: dict[str, Any], container: str, *, args: str = "") -> str:
    """Make an attachment of the pods' own network that no pod has; return its address."""
    node.exec(["ip", "netns", "add", container])
    config = {"cniVersion": network["cniVersion"], "name": network["name"], **network["plugins"][0]}
    variables = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container,
        "CNI_NETNS": f"/run/netns/{container}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": args,
    }
    pairs = [f"{name}={value}" for name, value in variables.items()]
    done = node.exec(["env", *pairs, "/opt/cni/bin/hotnic"], input=json.dumps(config))
    return str(json.loads(done.stdout)["ips"][0]["address"].split("/")[0])


def test_gc_collects_what_no_pod_has_and_nothing_else(ns, node, primary, product):
    if runtimes.chosen().name != "crio":
        pytest.skip("containerd 2.2.0 calls no GC; CRI-O does, at its start")
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", "blue@x1")
    pod.wait_ready("x1")
    stale = plant(node, primary_network.read(node), "stale-1")
    assert stale in audit.addresses(node, primary)
    try:
        before = primary_network.executable_calls(product, node, "GC")
        node.stop_runtime()
        node.start_runtime()
        wait_until("GC was called", lambda: primary_network.executable_calls(product, node, "GC") > before)
        wait_until("the stale address is free", lambda: stale not in audit.addresses(node, primary), 20)
        assert "eth0" not in node.exec(["ip", "-n", "stale-1", "-br", "link"]).stdout
        assert pod.get()["status"]["podIP"] in audit.addresses(node, primary)
        wait_until("a command can be executed in it", lambda: "x1" in pod.sh("ls /sys/class/net", check=False))
        assert set(pod.interfaces()) == {"eth0", "x1"}
    finally:
        node.exec(["ip", "netns", "del", "stale-1"])


def test_the_audit_leaves_what_lives_alone(ns, node):
    """Each runtime has its own signs of life: what it lists, where its namespaces are, how it names control groups."""
    store = f"live{ns.name.split('-')[0]}"
    ns.network("ref", networks.reference_bridge("br-ref", "10.122.0.0/24", name=store))
    pod = ns.pod("a", "ref@x1")
    pod.wait_ready("x1")
    before = (pod.interfaces(), audit.addresses(node, store))
    audit_command.wait_clean(node)
    assert audit_command.repair(node) == (0, [], "")
    assert (pod.interfaces(), audit.addresses(node, store)) == before


def test_the_doctor_names_the_runtime_and_the_chain_and_nothing_to_be_done(ns, node):
    ns.pod("a").wait_running()
    told = doctor.run(node)
    assert (told.status, told.to_do) == (0, [])
    name, version = name_and_version()
    found = told.of("container runtime", "ok")
    assert re.fullmatch(rf"{name} v?{re.escape(version)}(\+\S+)? answers at unix://{node.cri_socket}\W*", found), found
    assert "network pods, plugins hotnic → hotnic: hotnic comes last" in told.of("CNI chain", "ok")
    assert doctor.run(node, cri=None, policy=None).findings == told.findings  # it has asked the agent
    told = doctor.run(node, cri="unix:///run/nobody.sock")
    assert told.wrong == {"container runtime"}
    assert f"say --cri unix://{node.cri_socket}, which is there" in told.of("container runtime", "fail")


def test_what_a_runtime_forgets_to_remove_is_removed(ns, node, primary):
    """No DEL and no GC: the sandbox is not among the runtime's, and its namespace is gone."""
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={ns.name};K8S_POD_NAME=gone;K8S_POD_UID=0a-1b"
    stale = plant(node, primary_network.read(node), "stale-2", args=args)
    assert stale in audit.addresses(node, primary)
    node.exec(["ip", "netns", "del", "stale-2"])
    wait_until("its address is free", lambda: stale not in audit.addresses(node, primary))
