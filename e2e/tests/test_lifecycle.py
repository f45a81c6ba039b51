"""Pods come and go, edits come fast, processes die: it ends in the desired state, without a duplicate or a leak."""

import random
import time

import pytest

from e2e import audit, networks

pytestmark = pytest.mark.lane


def test_a_pod_that_is_deleted_leaves_nothing(ns, node):
    name = f"gone{ns.name[:5]}"
    ns.network("ref", networks.reference_bridge("br-gone", "10.70.0.0/24", name=name))
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug("ref,blue")
    pod.wait_ready("net1", "net2")
    assert len(audit.addresses(node, name)) == 1
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    assert (audit.addresses(node, name), audit.host_ends(node)) == (set(), set())


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_pod_that_is_deleted_while_the_agent_is_down_leaves_nothing_either(ns, node, product, how):
    name = f"down{ns.name[:5]}"
    ns.network("ref", networks.reference_bridge("br-down", "10.71.0.0/24", name=name))
    pod = ns.pod("a")
    pod.plug("ref")
    pod.wait_ready("net1")
    process = product.agents[node.name]
    process.stop() if how == "stopped" else process.kill()
    pod.delete()
    assert len(audit.addresses(node, name)) == 1
    product.start_agent(node)
    audit.wait_clean(node, {pod.uid})
    assert audit.addresses(node, name) == set()


def test_an_edit_while_the_pod_is_being_created_is_not_lost(ns):
    for name in ("blue", "red"):
        ns.network(name, networks.native(f"br-{name}"))
    for number in range(5):
        pod = ns.pod(f"p{number}", "blue", wait=False)
        time.sleep(0.15 * number)
        pod.plug("red@x1")
        pod.wait_ready("x1")
        pod.wait_running()  # the interface is there before the container is
        assert set(pod.interfaces()) == {"eth0", "x1"}


def test_fifty_edits_in_a_row_settle_on_the_last(ns):
    for name in ("blue", "red"):
        ns.network(name, networks.native(f"br-{name}"))
    pod = ns.pod("a")
    for number in range(50):
        pod.plug(f"{random.choice(('blue', 'red'))}@y{number % 7}")
    pod.plug("blue@last")
    pod.wait_ready("last")
    assert set(pod.interfaces()) == {"eth0", "last"}


def test_a_hundred_plugs_and_unplugs(ns, node):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    for _ in range(100):
        pod.plug("blue@x1")
        pod.wait("x1 is published", lambda: "x1" in pod.reported())
        pod.plug("")
        pod.wait("x1 is gone", lambda: "x1" not in pod.reported())
    assert set(pod.interfaces()) == {"eth0"}
    assert audit.host_ends(node) == set()


@pytest.mark.parametrize("role", ["agent", "controller"])
def test_killed_at_any_moment_of_an_edit_it_ends_in_the_desired_state(ns, node, product, role):
    name = f"kill{ns.name[:5]}"
    ns.network("ref", networks.reference_bridge("br-kill", "10.72.0.0/24", name=name))
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    for round_ in range(12):
        wanted = {"blue@x1": {"x1"}, "ref@x2": {"x2"}, "blue@x1,ref@x2": {"x1", "x2"}}
        text, names = list(wanted.items())[round_ % 3]
        pod.plug(text)
        time.sleep(0.004 * round_)
        (product.agents if role == "agent" else product.controllers)[node.name].kill()
        (product.start_agent if role == "agent" else product.start_controller)(node)
        pod.wait_ready(*names)
        assert set(pod.interfaces()) == {"eth0", *names}
        assert len(audit.host_ends(node)) == len(names)
        assert len(audit.addresses(node, name)) == int("x2" in names)
        assert len(audit.records(node)) == len(names)


def test_both_killed_and_the_pod_edited_meanwhile(ns, node, product):
    for name in ("blue", "red"):
        ns.network(name, networks.native(f"br-{name}"))
    pod = ns.pod("a")
    pod.plug("blue@x1")
    pod.wait_ready("x1")
    product.agents[node.name].kill()
    product.controllers[node.name].kill()
    pod.plug("red@x2")
    product.start_agent(node)
    product.start_controller(node)
    pod.wait_ready("x2")
    assert set(pod.interfaces()) == {"eth0", "x2"}


def test_an_api_server_that_is_away_for_a_minute_amid_edits_is_caught_up_with(ns, cluster):
    for name in ("blue", "red"):
        ns.network(name, networks.native(f"br-{name}"))
    pods = [ns.pod(f"p{number}") for number in range(4)]
    for pod in pods:
        pod.plug("blue@x1")
    cluster.stop_apiserver()
    time.sleep(60)
    cluster.start_apiserver()
    for pod in pods:
        pod.wait("its edit is published", lambda pod=pod: "x1" in reported(pod), timeout=60)
        pod.plug("red@x2")
    for pod in pods:
        pod.wait_ready("x2")
        assert set(pod.interfaces()) == {"eth0", "x2"}
    cluster.end_pauses()  # for who comes next


def reported(pod):
    try:
        return pod.reported()
    except Exception:  # noqa: BLE001 the API server may still be finding its feet
        return {}


def test_a_sandbox_that_is_replaced_gets_its_interfaces_again(ns, node):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", terminationGracePeriodSeconds=0)
    pod.plug("blue@x1")
    pod.wait_ready("x1")
    before = pod.interfaces()["x1"]
    selector = f'labels."io.kubernetes.pod.uid"=={pod.uid},labels."io.cri-containerd.kind"==sandbox'
    sandbox = node.exec(["ctr", "-n", "k8s.io", "containers", "ls", "-q", selector]).stdout.strip()
    node.exec(["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", sandbox])
    pod.wait("the pod has another sandbox", lambda: _mac(pod) not in ("", before), timeout=90)
    pod.wait_ready("x1", timeout=60)
    assert len(audit.host_ends(node)) == 1


def _mac(pod) -> str:
    try:
        return str(pod.interfaces().get("x1", ""))
    except RuntimeError:
        return ""
