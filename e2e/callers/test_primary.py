"""Without Multus: hotnic, last in the chain of the pods' own network, attaches before their containers start."""

import time
from collections.abc import Iterator

import pytest

from e2e import audit, networks, primary_network
from e2e.node import Node
from e2e.pods import Api, Namespace, Pod
from e2e.product import Product

pytestmark = pytest.mark.lane

WAIT_S = 4
# what a container's first command sees is kept, then it sleeps
WATCHFUL = ["sh", "-c", "ip -o addr > /tmp/first; sleep 3600"]


@pytest.fixture(scope="module", autouse=True)
def primary(product: Product, api: Api, node: Node) -> Iterator[None]:
    """The node's primary network with hotnic behind it; put back afterwards."""
    before = primary_network.read(node)
    attach = {
        "type": "hotnic",
        "device": "networks",
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
        "waitSeconds": WAIT_S,
    }
    primary_network.write(node, primary_network.with_plugins(before, [*before["plugins"], attach], "1.0.0"))
    primary_network.wait_until_taken(api, product, node, "probe-primary")
    yield
    primary_network.write(node, before)


def first(pod: Pod) -> set[str]:
    """Return the interfaces that the container's first command saw."""
    return {line.split()[1] for line in pod.sh("cat /tmp/first").splitlines()} - {"lo"}


def watchful(ns: Namespace, name: str, asked: object, **more: object) -> Pod:
    return ns.pod(name, asked, command=WATCHFUL, **more)


def unique(ns: Namespace, name: str) -> str:
    return f"{name}-{ns.name.split('-')[0]}"


def test_a_containers_first_command_sees_what_the_annotation_asks_for(ns, node):
    store = unique(ns, "ref")
    address = {"ipam": {"type": "host-local", "subnet": "10.111.1.0/24"}}
    ns.network("blue", networks.native("br-blue", name=unique(ns, "blue"), **address))
    ns.network("ref", networks.reference_bridge("br-ref", "10.111.2.0/24", name=store))
    pod = watchful(ns, "a", [{"name": "blue"}, {"name": "ref", "interface": "x1"}])
    assert first(pod) == {"eth0", "net1", "x1"}
    pod.wait_ready("net1", "x1")
    pod.plug("ref@x1,blue@x2")
    pod.wait_ready("x1", "x2")
    assert len(audit.addresses(node, store)) == 1
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    assert [audit.addresses(node, name) for name in (store, unique(ns, "blue"))] == [set(), set()]
    assert audit.host_ends(node) == set()


def test_a_network_that_takes_its_time_is_waited_for(ns, node):
    networks.install_recorder(node)
    networks.tell_recorder(node, "slow")  # longer than a container takes to start
    ns.network("rec", networks.recorder())
    pod = watchful(ns, "a", "rec@x1")
    networks.tell_recorder(node, "")
    assert first(pod) == {"eth0", "x1"}


def test_all_pods_of_a_burst_have_theirs_from_the_start(ns):
    ns.network("blue", networks.native("br-blue"))
    pods = [watchful(ns, f"p{number}", "blue@x1", wait=False) for number in range(10)]
    for pod in pods:
        pod.wait_running()
    assert [first(pod) for pod in pods] == [{"eth0", "x1"}] * len(pods)


def test_a_sandbox_that_is_replaced_starts_with_them_again(ns, node):
    store = unique(ns, "blue")
    ns.network("blue", networks.native("br-blue", name=store, ipam={"type": "host-local", "subnet": "10.112.0.0/24"}))
    pod = watchful(ns, "a", "blue@x1")
    pod.wait_ready("x1")
    before = pod.interfaces()["x1"]
    selector = f'labels."io.kubernetes.pod.uid"=={pod.uid},labels."io.cri-containerd.kind"==sandbox'
    sandbox = node.exec(["ctr", "-n", "k8s.io", "containers", "ls", "-q", selector]).stdout.strip()
    node.exec(["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", sandbox])
    pod.wait("it runs in another sandbox", lambda: mac(pod) not in ("", before), timeout=60)
    assert first(pod) == {"eth0", "x1"}
    pod.wait_ready("x1")
    assert (len(audit.host_ends(node)), len(audit.addresses(node, store))) == (1, 1)


def mac(pod: Pod) -> str:
    try:
        return pod.interfaces().get("x1", "")
    except RuntimeError:
        return ""


def test_a_pod_starts_without_a_controller_and_is_served_when_there_is_one(ns, product, node):
    ns.network("blue", networks.native("br-blue"))
    product.controllers[node.name].stop()
    pod = watchful(ns, "a", "blue@x1")
    assert first(pod) == {"eth0"}
    product.start_controller(node)
    pod.wait_ready("x1")


def test_a_pod_starts_and_ends_without_an_agent(ns, product, node):
    store = unique(ns, "blue")
    ns.network("blue", networks.native("br-blue", name=store, ipam={"type": "host-local", "subnet": "10.114.0.0/24"}))
    before = watchful(ns, "a", "blue@x1")
    product.agents[node.name].stop()
    pod = watchful(ns, "b", "blue@x1")
    assert first(pod) == {"eth0"}
    before.delete()
    product.start_agent(node)
    pod.wait_ready("x1")
    audit.wait_clean(node, {before.uid})
    assert (len(audit.host_ends(node)), len(audit.addresses(node, store))) == (1, 1)


def test_a_controller_that_does_not_answer_is_waited_for_but_not_for_ever(ns, product, node):
    ns.network("blue", networks.native("br-blue"))
    controller = product.controllers[node.name]
    controller.freeze()
    try:
        pod = watchful(ns, "a", "blue@x1", wait=False)
        time.sleep(WAIT_S / 2)
        assert pod.get()["status"]["phase"] == "Pending"
        pod.wait_running()
        assert first(pod) == {"eth0"}
        # who asks for nothing is not kept waiting
        plain = watchful(ns, "b", None)
        assert first(plain) == {"eth0"}
        log = product.log("agent", node).read_text()
        assert (f"pod {pod.uid} starts without" in log, f"pod {plain.uid} starts without" in log) == (True, False)
    finally:
        controller.thaw()
    pod.wait_ready("x1")


def test_a_network_that_is_not_there_keeps_no_pod_from_its_start(ns):
    ns.network("blue", networks.native("br-blue"))
    pod = watchful(ns, "a", "late@x1,blue@x2")
    assert first(pod) == {"eth0", "x2"}
    pod.wait("it says what it waits for", lambda: "late" in pod.condition().get("message", ""))
    ns.network("late", networks.native("br-late"))
    pod.wait_ready("x1", "x2")


def test_where_networks_are_required_a_pod_starts_once_they_are_there(ns, api: Api, node: Node):
    ns.network("blue", networks.native("br-blue"))
    before = primary_network.read(node)
    *others, attach = before["plugins"]
    primary_network.write(node, {**before, "plugins": [*others, {**attach, "require": True}]})
    try:
        time.sleep(1)  # the runtime notices within milliseconds, but nothing tells of it
        pod = watchful(ns, "a", "late@x1,blue@x2", wait=False)
        selector = f"involvedObject.uid={pod.uid},reason=FailedCreatePodSandBox"

        def told() -> bool:
            events = api.call("list_namespaced_event", ns.name, field_selector=selector)["items"]
            return any("late" in one["message"] and "does not exist" in one["message"] for one in events)

        pod.wait("the kubelet says why it does not start", told)
        assert pod.get()["status"]["phase"] == "Pending"
        ns.network("late", networks.native("br-late"))
        pod.wait_running(90)
        assert first(pod) == {"eth0", "x1", "x2"}
        pod.wait_ready("x1", "x2")
        assert len(audit.host_ends(node)) == 2
    finally:
        primary_network.write(node, before)


def test_an_agent_that_restarts_between_the_sandbox_and_its_end_leaves_nothing(ns, product, node):
    store = unique(ns, "blue")
    ns.network("blue", networks.native("br-blue", name=store, ipam={"type": "host-local", "subnet": "10.113.0.0/24"}))
    pod = watchful(ns, "a", "blue@x1")
    assert first(pod) == {"eth0", "x1"}
    product.agents[node.name].kill()
    product.start_agent(node)
    pod.plug("blue@x1,blue@x2")
    pod.wait_ready("x1", "x2")
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    assert (audit.host_ends(node), audit.addresses(node, store)) == (set(), set())
