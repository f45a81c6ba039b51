"""Beside Multus: what it attached at a pod's creation is ours to unplug, if the annotation asked for it.

Multus' thick daemon is the real one and is never asked for anything by us; it only has the pod's creation and end.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from e2e import audit, multus_daemon, networks
from e2e.multus_daemon import Multus
from e2e.node import Node
from e2e.pods import STATUS, Api, Namespace, Pod
from e2e.product import Product

pytestmark = pytest.mark.lane

DEFAULT = "everyone"  # the default network of the tests that have one


@pytest.fixture
def default_network(api: Api, multus: Multus, node: Node) -> Iterator[str]:
    """A network that every pod gets from Multus and no annotation asks for; the name of its IPAM store."""
    namespace = Namespace(api, multus_daemon.NAMESPACE)
    namespace.network(DEFAULT, networks.reference_bridge("br-all", "10.89.0.0/24", name=DEFAULT))
    multus.restart(node, [DEFAULT])
    yield DEFAULT
    multus.restart(node)
    namespace.drop_network(DEFAULT)


@dataclass(frozen=True)
class Untouched:
    """An interface that must stay as it is, in the pod and in the status."""

    pod: Pod
    interface: str
    link: str
    entry: str

    @classmethod
    def now(cls, pod: Pod, interface: str = "eth0") -> "Untouched":
        return cls(pod, interface, _link(pod, interface), raw_entries(pod)[interface])

    def check(self) -> None:
        assert _link(self.pod, self.interface) == self.link
        assert raw_entries(self.pod)[self.interface] == self.entry


def _link(pod: Pod, interface: str) -> str:
    """Return what the kernel says of an interface: indexes, MAC, MTU, flags, addresses, routes."""
    files = " ".join(f"/sys/class/net/{interface}/{name}" for name in ("ifindex", "iflink", "address", "mtu", "flags"))
    return pod.sh(f"cat {files}; ip -o addr show dev {interface} | sed 's/ tentative//'; ip route show dev {interface}")


def raw_entries(pod: Pod) -> dict[str, str]:
    """Return the text of each status entry, to the letter, by interface; in the order of the annotation."""
    text = pod.get()["metadata"]["annotations"][STATUS]
    entries: dict[str, str] = {}
    position = text.index("{")
    while position < len(text):
        entry, end = json.JSONDecoder().raw_decode(text, position)
        entries[entry["interface"]] = text[position:end]
        position = (text.find("{", end) + 1 or len(text) + 1) - 1
    return entries


def sandbox(node: Node, pod: Pod) -> str:
    selector = f'labels."io.kubernetes.pod.uid"=={pod.uid},labels."io.cri-containerd.kind"==sandbox'
    return node.exec(["ctr", "-n", "k8s.io", "containers", "ls", "-q", selector]).stdout.strip()


def wait_until(what: str, holds: Callable[[], object], timeout: float = 40) -> None:
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.05)


def delete_and_see_nothing_left(node: Node, pods: Sequence[Pod], *stores: str) -> None:
    """Delete pods; nothing of them may be left: ours, primary addresses, those of these networks, Multus' caches."""
    containers = [sandbox(node, pod) for pod in pods]
    primary = {pod.reported()["eth0"]["ips"][0] for pod in pods}
    assert all(multus_daemon.remembered(node, one) for one in containers)
    assert primary <= audit.addresses(node, "lane")
    for pod in pods:
        pod.delete()
    audit.wait_clean(node, {pod.uid for pod in pods})
    wait_until("Multus forgets the pods", lambda: not any(multus_daemon.remembered(node, one) for one in containers))
    wait_until("their addresses are free", lambda: not primary & audit.addresses(node, "lane"))
    assert {name: audit.addresses(node, name) for name in stores} == {name: set() for name in stores}


def executable_adds(product: Product, node: Node) -> int:
    """Return how many ADDs the agent has served to the CNI executable."""
    name = 'hotnic_agent_cni_calls_total{code="0",command="ADD"}'
    lines = product.metrics(node, "agent").splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(name)))


def unique(ns: Namespace, name: str) -> str:
    """Return a network name, and so an IPAM store, that no other test uses."""
    return f"{name}-{ns.name.split('-')[0]}"


@pytest.mark.parametrize("interface", ["boot", ""])
def test_what_multus_attached_through_hotnic_is_unplugged_and_more_is_plugged(ns, node, product, interface):
    store = unique(ns, "blue")
    ns.network("blue", networks.native("br-blue", name=store, ipam={"type": "host-local", "subnet": "10.81.0.0/24"}))
    for name in ("red", "green"):
        ns.network(name, networks.native(f"br-{name}"))
    element = {"name": "blue", **({"interface": interface} if interface else {})}
    boot = interface or "net1"
    calls = executable_adds(product, node)
    pod = ns.pod("a", [element])
    assert executable_adds(product, node) == calls + 1
    by_multus = raw_entries(pod)
    assert list(by_multus) == ["eth0", boot]
    assert json.loads(by_multus["eth0"])["default"] is True
    assert json.loads(by_multus[boot])["name"] == f"{ns.name}/blue"
    assert any(boot in name for name in multus_daemon.remembered(node, sandbox(node, pod)))
    pod.wait_ready(boot)
    eth0, kept = Untouched.now(pod), Untouched.now(pod, boot)
    assert audit.addresses(node, store) == set(pod.reported()[boot]["ips"])
    assert pod.addresses(boot)

    pod.plug([element, {"name": "red", "interface": "x1"}, {"name": "green"}])
    other = "net1" if interface else "net2"
    pod.wait_ready(boot, "x1", other)
    assert list(raw_entries(pod)) == ["eth0", boot, "x1", other]
    assert set(pod.interfaces()) == {"eth0", boot, "x1", other}
    kept.check()
    eth0.check()

    pod.plug([{"name": "red", "interface": "x1"}, {"name": "green"}])
    pod.wait_ready("x1", other)
    assert set(pod.interfaces()) == {"eth0", "x1", other}
    assert audit.addresses(node, store) == set()
    assert "blue" in pod.wait_event("RemovedInterface", boot)
    eth0.check()

    pod.plug([])
    pod.wait_ready()
    assert (set(pod.interfaces()), audit.host_ends(node)) == ({"eth0"}, set())
    pod.plug([element])
    pod.wait_ready(boot)
    assert len(audit.addresses(node, store)) == 1
    eth0.check()
    delete_and_see_nothing_left(node, [pod], store)


@pytest.mark.parametrize("interface", ["x1", ""])
def test_what_multus_attached_through_another_plugin_is_adopted_and_unplugged(ns, node, interface):
    stores = [unique(ns, name) for name in ("one", "two")]
    ns.network("one", networks.reference_bridge("br-one", "10.82.1.0/24", name=stores[0]))
    ns.network("two", networks.reference_bridge("br-two", "10.82.2.0/24", name=stores[1]))
    ns.network("blue", networks.native("br-blue"))
    one, two = ({"name": name, **({"interface": interface} if interface else {})} for name in ("one", "two"))
    name = interface or "net1"
    pod = ns.pod("a", [one])
    assert raw_entries(pod)[name]
    pod.wait_ready(name)
    eth0 = Untouched.now(pod)
    assert audit.addresses(node, stores[0]) == set(pod.reported()[name]["ips"])
    pod.plug([])
    pod.wait_ready()
    assert set(pod.interfaces()) == {"eth0"}
    assert (audit.addresses(node, stores[0]), audit.host_ends(node)) == (set(), set())
    eth0.check()
    pod.plug([one, {"name": "blue", "interface": "b1"}])
    pod.wait_ready(name, "b1")
    assert len(audit.addresses(node, stores[0])) == 1
    pod.plug([two, {"name": "blue", "interface": "b1"}])
    pod.wait("the name has the other network", lambda: pod.reported().get(name, {}).get("name") == f"{ns.name}/two")
    pod.wait_ready(name, "b1")
    assert [len(audit.addresses(node, store)) for store in stores] == [0, 1]
    eth0.check()
    delete_and_see_nothing_left(node, [pod], *stores)


def test_a_chain_that_multus_attached_gives_its_address_back(ns, node):
    """Multus keeps too little of a chain for its own DEL (issue 1449); we have it whole."""
    store = unique(ns, "chain")
    bridge = networks.reference_bridge("br-chain", "10.92.0.0/24")
    ns.network("chain", networks.chain(bridge, {"type": "tuning", "mtu": 1300}, name=store))
    pods = [ns.pod(name, "chain@x1") for name in ("a", "b")]
    for pod in pods:
        pod.wait_ready("x1")
        assert pod.sh("cat /sys/class/net/x1/mtu").strip() == "1300"
    assert len(audit.addresses(node, store)) == 2
    pods[0].plug("")
    pods[0].wait_ready()
    assert set(pods[0].interfaces()) == {"eth0"}
    assert len(audit.addresses(node, store)) == 1
    for pod in pods:
        pod.delete()
    audit.wait_clean(node, {pod.uid for pod in pods})
    assert (audit.addresses(node, store), audit.host_ends(node)) == (set(), set())


def test_several_from_the_start_are_told_apart(ns, node):
    store = unique(ns, "ref")
    ns.network("ref", networks.reference_bridge("br-ref", "10.83.0.0/24", name=store))
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", "blue,ref@x1,blue,ref")
    pod.wait_ready("net1", "x1", "net3", "net4")
    eth0, rest = Untouched.now(pod), [Untouched.now(pod, name) for name in ("net1", "x1")]
    pod.plug("blue,ref@x1,ref")
    pod.wait_ready("net1", "x1", "net4")
    pod.plug("blue,ref@x1")
    pod.wait_ready("net1", "x1")
    assert set(pod.interfaces()) == {"eth0", "net1", "x1"}
    assert list(raw_entries(pod)) == ["eth0", "net1", "x1"]
    assert audit.addresses(node, store) == set(pod.reported()["x1"]["ips"])
    for one in (eth0, *rest):
        one.check()
    delete_and_see_nothing_left(node, [pod], store)


def test_an_interface_that_no_annotation_asked_for_is_never_touched(ns, node, default_network):
    store = unique(ns, "ref")
    ns.network("ref", networks.reference_bridge("br-ref", "10.84.0.0/24", name=store))
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", [{"name": "blue"}, {"name": "ref"}])
    assert list(raw_entries(pod)) == ["eth0", "net1", "net2", "net3"]
    pod.wait("it is ready", pod.is_ready)
    untouched = [Untouched.now(pod), Untouched.now(pod, "net1")]
    assert json.loads(untouched[1].entry)["name"] == f"{multus_daemon.NAMESPACE}/{default_network}"
    edits = (
        ("blue", {"net2"}),
        ("blue@x1,ref@x2", {"x1", "x2"}),
        ("blue,ref,blue", {"net2", "net3", "net4"}),
        ("ref@net2", {"net2"}),
        ("", set()),
        (None, set()),
    )
    for text, names in edits:
        pod.plug(text)
        pod.wait_ready("net1", *names)
        assert set(pod.interfaces()) == {"eth0", "net1", *names}
        for one in untouched:
            one.check()
    assert audit.addresses(node, store) == set()
    pod.plug("blue@net1,blue@x9")
    pod.wait("the other is there", lambda: "x9" in pod.reported() and not pod.is_ready())
    assert (pod.condition()["reason"], "net1" in pod.condition()["message"]) == ("InterfaceExists", True)
    for one in untouched:
        one.check()
    pod.plug("")
    pod.wait_ready("net1")
    for one in untouched:
        one.check()
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    wait_until("its address is free", lambda: not audit.addresses(node, default_network))
    assert audit.host_ends(node) == set()


def test_a_pod_that_asks_for_the_network_that_it_has_by_default_keeps_the_one_it_did_not_ask_for(
    ns, node, default_network
):
    """Both are of the CNI network of that name: what is unplugged is what was asked for."""
    ns.network(DEFAULT, networks.reference_bridge("br-mine", "10.85.0.0/24", name=DEFAULT))
    pod = ns.pod("a", DEFAULT)
    pod.wait("it is ready", pod.is_ready)
    assert list(raw_entries(pod)) == ["eth0", "net1", "net2"]
    default = Untouched.now(pod, "net1")
    pod.plug("")
    pod.wait_ready("net1")
    default.check()
    assert set(pod.interfaces()) == {"eth0", "net1"}
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    wait_until("its address is free", lambda: not audit.addresses(node, default_network))


def test_a_pod_that_later_asks_for_the_network_that_it_has_by_default_gets_another_interface(ns, node, default_network):
    pod = ns.pod("a")
    assert list(raw_entries(pod)) == ["eth0", "net1"]
    untouched = [Untouched.now(pod), Untouched.now(pod, "net1")]
    pod.plug(f"{multus_daemon.NAMESPACE}/{DEFAULT}")
    pod.wait_ready("net1", "net2")
    assert len(audit.addresses(node, default_network)) == 2
    pod.plug("")
    pod.wait_ready("net1")
    for one in untouched:
        one.check()
    assert set(pod.interfaces()) == {"eth0", "net1"}
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    wait_until("its address is free", lambda: not audit.addresses(node, default_network))


def test_without_multus_hotplug_goes_on(ns, node, multus):
    store = unique(ns, "ref")
    ns.network("ref", networks.reference_bridge("br-ref", "10.86.0.0/24", name=store))
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", "ref,blue@x1")
    pod.wait_ready("net1", "x1")
    eth0 = Untouched.now(pod)
    multus.kill(node)
    pod.plug("blue@x2")
    pod.wait_ready("x2")
    assert set(pod.interfaces()) == {"eth0", "x2"}
    assert audit.addresses(node, store) == set()
    pod.plug("ref@x3,blue@x2")
    pod.wait_ready("x2", "x3")
    multus.start(node)
    pod.plug("ref@x3,blue@x1")
    pod.wait_ready("x1", "x3")
    eth0.check()
    delete_and_see_nothing_left(node, [pod], store)


def test_a_pod_that_is_deleted_while_multus_is_dead_leaves_nothing_of_ours(ns, node, multus):
    stores = [unique(ns, name) for name in ("ref", "own")]
    ns.network("ref", networks.reference_bridge("br-ref", "10.87.1.0/24", name=stores[0]))
    ns.network("own", networks.native("br-own", name=stores[1], ipam={"type": "host-local", "subnet": "10.87.2.0/24"}))
    pod = ns.pod("a", "ref,own")
    pod.wait_ready("net1", "net2")
    pod.plug("ref,own,own@x1")
    pod.wait_ready("net1", "net2", "x1")
    multus.kill(node)
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    assert [audit.addresses(node, store) for store in stores] == [set(), set()]
    multus.start(node)


@pytest.mark.parametrize("last", ["ref@x1,blue", "blue@x1", ""])
def test_an_edit_while_multus_is_attaching_is_not_lost(ns, node, last):
    store = unique(ns, "ref")
    ns.network("ref", networks.reference_bridge("br-ref", "10.88.0.0/24", name=store))
    ns.network("blue", networks.native("br-blue"))
    wanted = {"ref@x1,blue": {"x1", None}, "blue@x1": {"x1"}, "": set()}[last]
    pods = []
    for number in range(6):
        pod = ns.pod(f"p{number}", "ref,blue@x2", wait=False)
        pods.append(pod)
        time.sleep(0.12 * number)
        pod.plug(last)
    for pod in pods:
        pod.wait("it runs", lambda pod=pod: pod.get()["status"]["phase"] == "Running")
        pod.wait("the status is complete", lambda pod=pod: len(pod.status()) == len(wanted) + 1)
        # none at all where the edit was first: the pod never asked for anything then
        pod.wait("it is ready", lambda pod=pod: pod.is_ready() or not (wanted or pod.condition()))
        assert set(pod.interfaces()) == set(pod.reported())
        assert wanted - {None} <= set(pod.reported())
        assert "x2" not in pod.interfaces()
    assert len(audit.addresses(node, store)) == len(pods) * ("ref" in last)
    assert len(audit.host_ends(node)) == len(pods) * len(wanted)
    delete_and_see_nothing_left(node, pods, store)


def test_a_pod_that_is_deleted_while_the_agent_is_down_is_cleaned_up_at_its_start(ns, node, product):
    store = unique(ns, "blue")
    ns.network("blue", networks.native("br-blue", name=store, ipam={"type": "host-local", "subnet": "10.90.0.0/24"}))
    adopted, plain = ns.pod("a", "blue"), ns.pod("b", "blue@x1")
    for pod, name in ((adopted, "net1"), (plain, "x1")):
        pod.wait_ready(name)
    assert len(audit.addresses(node, store)) == 2
    product.agents[node.name].kill()
    containers = [sandbox(node, pod) for pod in (adopted, plain)]
    for pod in (adopted, plain):
        pod.delete()
    graves = node.path("/run/hotnic/tombstones")
    wait_until("two tombstones", lambda: len(list(graves.glob("*.bin"))) == 2)
    assert len(audit.addresses(node, store)) == 2
    product.start_agent(node)
    audit.wait_clean(node, {adopted.uid, plain.uid})
    wait_until("the tombstones are replayed", lambda: not list(graves.iterdir()))
    assert (audit.addresses(node, store), audit.host_ends(node)) == (set(), set())
    wait_until("Multus forgets the pods", lambda: not any(multus_daemon.remembered(node, one) for one in containers))


def test_a_pod_that_is_made_while_the_agent_is_down_runs_once_it_is_back(ns, node, product):
    ns.network("blue", networks.native("br-blue"))
    product.agents[node.name].kill()
    pod = ns.pod("a", "blue@x1", wait=False)
    events = ns.api.call
    pod.wait("the kubelet tells of it", lambda: any(
        "hotnic agent" in one["message"] for one in events("list_namespaced_event", ns.name)["items"]
    ))  # fmt: skip
    product.start_agent(node)
    pod.wait_ready("x1", timeout=60)
    assert set(pod.interfaces()) == {"eth0", "x1"}
    delete_and_see_nothing_left(node, [pod])
