"""What goes wrong: it is told, it costs nobody else anything, and it heals when its cause is gone."""

import time

import pytest

from e2e import audit, networks
from e2e.pods import NETWORKS

pytestmark = pytest.mark.lane


@pytest.fixture(autouse=True)
def recorder(node):
    networks.install_recorder(node)
    networks.tell_recorder(node, "")
    yield
    networks.tell_recorder(node, "")


def test_one_works_and_one_fails_until_its_cause_is_gone(ns, node):
    ns.network("blue", networks.native("br-blue"))
    ns.network("rec", networks.recorder())
    networks.tell_recorder(node, "fail")
    pod = ns.pod("a")
    pod.plug([{"name": "rec", "interface": "x1"}, {"name": "blue", "interface": "x2"}])
    pod.wait_event("FailedAddingInterface", "x1", "recorder says no")
    pod.wait("x2 is published", lambda: "x2" in pod.reported())
    assert set(pod.reported()) - {"eth0"} == {"x2"}
    assert set(pod.interfaces()) == {"eth0", "x2"}
    assert (pod.condition()["status"], "recorder says no" in pod.condition()["message"]) == ("False", True)
    networks.tell_recorder(node, "")
    pod.wait_ready("x1", "x2")


def test_a_link_that_a_failing_plugin_leaves_is_removed_and_hides_no_cause(ns, node):
    ns.network("rec", networks.recorder())
    networks.tell_recorder(node, "litter")
    pod = ns.pod("a")
    pod.plug("rec@x1")
    pod.wait_event("FailedAddingInterface", "x1", "half-way")
    time.sleep(2)  # a second try has met whatever the first one left
    assert "half-way" in pod.condition()["message"]
    assert set(pod.interfaces()) == {"eth0"}
    networks.tell_recorder(node, "")
    pod.wait_ready("x1")


@pytest.mark.parametrize("kind", ["hotnic", "bridge"])
def test_a_version_that_a_plugin_does_not_speak_goes_with_its_element(ns, kind):
    """Its DEL is refused as its ADD was: an attachment that never was could not be deleted for ever."""
    conf = networks.native("br-new") if kind == "hotnic" else networks.reference_bridge("br-new", name="new")
    ns.network("new", {**conf, "cniVersion": "1.9.0"})
    pod = ns.pod("a")
    pod.plug("new@x1")
    pod.wait_event("FailedAddingInterface", "x1", "1.9.0")
    pod.plug("")
    pod.wait_ready()


def test_an_address_that_becomes_free_goes_to_who_waits_for_it(ns):
    conf = networks.reference_bridge("br-one", name=f"one{ns.name[:5]}")
    conf["ipam"] = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.66.0.0/29", "rangeStart": "10.66.0.2", "rangeEnd": "10.66.0.2"}]],
    }
    ns.network("one", conf)
    first, second = ns.pod("a"), ns.pod("b")
    first.plug("one")
    first.wait_ready("net1")
    second.plug("one")
    second.wait_event("FailedAddingInterface", "10.66.0")
    time.sleep(8)  # its own next retry is seven seconds away then
    freed = time.monotonic()
    first.plug("")
    second.wait_ready("net1")
    assert time.monotonic() - freed < 5


def test_a_network_that_comes_later_is_attached_at_once(ns):
    pod = ns.pod("a")
    pod.plug("late")
    pod.wait("the pod says what it waits for", lambda: "late" in pod.condition().get("message", ""))
    assert pod.condition()["status"] == "False"
    ns.network("late", networks.native("br-late"))
    made = time.monotonic()
    pod.wait_ready("net1")
    assert time.monotonic() - made < 10  # no retry would come: nothing was tried yet


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[{"name": "blue",, }]', "position 17:"),
        ('[\n{"name": "blue"}\n{}]', "position 19:"),
        ("[blue]", "position 1:"),
        ('{"name": "blue"}', "list"),
    ],
)
def test_a_malformed_annotation_changes_nothing_and_says_where(ns, text, where):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug("blue")
    pod.wait_ready("net1")
    mac = pod.interfaces()["net1"]
    pod.plug(text)
    pod.wait_event("InterfaceAddRejected", "annotation", where)
    pod.wait("the condition says so", lambda: pod.condition().get("reason") == "InvalidAnnotation")
    assert pod.interfaces()["net1"] == mac
    assert "net1" in pod.reported()
    pod.plug("blue")
    pod.wait_ready("net1")
    assert pod.interfaces()["net1"] == mac


@pytest.mark.parametrize("how", ["deleted", "edited"])
def test_a_network_that_is_changed_before_the_unplug_is_removed_as_it_was_added(ns, node, how):
    name = f"was{ns.name[:5]}"
    ns.network("was", networks.reference_bridge("br-was", "10.67.0.0/24", name=name))
    pod = ns.pod("a")
    pod.plug("was")
    pod.wait_ready("net1")
    assert len(audit.addresses(node, name)) == 1
    if how == "deleted":
        ns.drop_network("was")
    else:
        ns.network("was", networks.recorder())
    time.sleep(0.5)
    assert "net1" in pod.interfaces()
    pod.plug([])
    pod.wait_ready()
    assert set(pod.interfaces()) == {"eth0"}
    assert audit.addresses(node, name) == set()


def test_a_delegate_that_hangs_delays_no_other_and_dies_with_all_its_children(ns, node):
    ns.network("rec", networks.recorder())
    ns.network("blue", networks.native("br-blue"))
    slow, quick = ns.pod("slow"), ns.pod("quick")
    networks.tell_recorder(node, "hang")
    slow.plug([{"name": "blue", "interface": "x0"}, {"name": "rec", "interface": "x1"}])
    slow.wait("the plugin hangs", lambda: len(sleepers(node)) == 2)
    hanging = sleepers(node)
    begun = time.monotonic()
    quick.plug("blue")
    quick.wait_ready("net1")
    assert time.monotonic() - begun < 4
    slow.wait("what works is published meanwhile", lambda: "x0" in slow.reported(), timeout=4)
    slow.wait_event("FailedAddingInterface", "x1", "5 s")
    networks.tell_recorder(node, "")
    assert not hanging & sleepers(node)
    slow.wait_ready("x0", "x1")


def test_an_agent_that_restarts_into_a_hanging_delegate_serves_the_others_at_once(ns, node, product):
    ns.network("rec", networks.recorder())
    ns.network("blue", networks.native("br-blue"))
    slow, quick = ns.pod("slow"), ns.pod("quick")
    networks.tell_recorder(node, "hang")
    slow.plug("rec@x1")
    slow.wait("the plugin hangs", lambda: len(sleepers(node)) == 2)
    product.agents[node.name].kill()
    hanging = sleepers(node)
    product.start_agent(node)
    assert not hanging & sleepers(node)  # what a killed agent's plugins left is killed before anything else
    slow.wait("the plugin hangs again", lambda: len(sleepers(node)) == 2)
    begun = time.monotonic()
    quick.plug("blue@x2")
    quick.wait_ready("x2")
    assert time.monotonic() - begun < 4
    networks.tell_recorder(node, "")
    slow.wait_ready("x1")


def sleepers(node) -> set[str]:
    """The recorder and its child that left its session, while it hangs."""
    lines = node.exec(["ps", "-eo", "pid,args"]).stdout.splitlines()
    return {line.split()[0] for line in lines if line.endswith("sleep 600")}


def links(node) -> set[str]:
    """Return the names only: carriers of what earlier tests have left come and go."""
    return {line.split()[0] for line in node.exec(["ip", "-br", "link"]).stdout.splitlines()}


def test_a_host_network_pod_is_told_and_left_alone(ns, node):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", hostNetwork=True)
    before = links(node)
    pod.plug("blue")
    pod.wait_event("InterfaceAddRejected", "host")
    assert pod.condition().get("status") == "False"
    assert links(node) == before


def test_a_completed_pod_loses_its_interfaces_and_says_so(ns, node):
    name = f"com{ns.name[:5]}"
    ns.network("ref", networks.reference_bridge("br-com", "10.69.0.0/24", name=name))
    pod = ns.pod("a", "ref", wait=False, command=["sleep", "4"], restartPolicy="Never")
    pod.wait_ready("net1")
    pod.wait("it is over", lambda: pod.get()["status"]["phase"] == "Succeeded")
    audit.wait_clean(node, {pod.uid})
    assert audit.addresses(node, name) == set()
    pod.wait("its status is empty", lambda: "net1" not in pod.reported())
    assert (pod.condition()["status"], pod.condition()["reason"]) == ("False", "PodCompleted")
    pod.plug("ref,ref")
    time.sleep(1)
    audit.wait_clean(node, {pod.uid})


def test_a_pod_without_a_sandbox_waits_and_is_served_when_it_has_one(ns, cluster, node):
    ns.network("blue", networks.native("br-blue"))
    later = {
        "volumes": [{"name": "v", "configMap": {"name": "later"}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }
    pod = ns.pod("a", "blue", wait=False, **later)
    pod.wait("it is on the node", lambda: pod.get()["spec"].get("nodeName"))
    time.sleep(1)
    pod.plug("blue@x1")
    time.sleep(1)
    assert (pod.status(), audit.host_ends(node)) == ([], set())
    cluster.kubectl("create", "configmap", "later", "-n", ns.name, "--from-literal=a=b")
    pod.wait_ready("x1", timeout=150)  # the kubelet tries the volume again with growing pauses


def test_a_pod_that_asks_from_the_start_is_served_without_multus(ns):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", [{"name": "blue", "interface": "x1"}])
    assert pod.get()["metadata"]["annotations"][NETWORKS]
    pod.wait_ready("x1")


def test_a_slip_of_the_pen_in_one_element_does_not_unplug_it(ns):
    ns.network("blue", networks.native("br-blue", capabilities={"mac": True}))
    pod = ns.pod("a")
    element = {"name": "blue", "interface": "x1", "mac": "02:00:00:00:12:34"}
    pod.plug([element])
    pod.wait_ready("x1")
    before = pod.sh("cat /sys/class/net/x1/ifindex")
    pod.plug([{**element, "mac": "02:00:00:00:12:3Z"}])
    pod.wait_event("InterfaceAddRejected", "x1", "12:3Z")
    pod.wait("the condition says so", lambda: pod.condition()["status"] == "False")
    assert pod.sh("cat /sys/class/net/x1/ifindex") == before
    assert "x1" in pod.reported()
    pod.plug([element])
    pod.wait_ready("x1")
    assert pod.sh("cat /sys/class/net/x1/ifindex") == before


KINDS = {
    "native": lambda name: networks.native("br-own", name=name),
    "delegate": lambda name: networks.reference_bridge("br-own2", "10.68.0.0/24", name=name),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interface_that_the_pod_renamed_is_unplugged_all_the_same(ns, node, kind):
    ns.network("own", KINDS[kind](f"ren{ns.name[:5]}"))
    pod = ns.pod("a")
    pod.plug("own@x1")
    pod.wait_ready("x1")
    pod.sh("ip link set x1 down; ip link set x1 name mine; ip link set mine up")
    pod.plug("")
    pod.wait_ready()
    assert set(pod.interfaces()) == {"eth0"}
    assert (audit.addresses(node, f"ren{ns.name[:5]}"), audit.host_ends(node)) == (set(), set())


@pytest.mark.parametrize("kind", KINDS)
def test_an_interface_that_took_the_name_of_ours_is_not_harmed(ns, node, kind):
    ns.network("own", KINDS[kind](f"tak{ns.name[:5]}"))
    pod = ns.pod("a")
    pod.plug("own@x1")
    pod.wait_ready("x1")
    # ours is made anew within milliseconds, and may be back before the other has its name
    pod.sh(
        "ip link add y1 type bridge;for _ in 1 2 3 4 5 6 7 8 9; do ip link del x1; ip link set y1 name x1 && exit; done"
    )
    mine = pod.sh("cat /sys/class/net/x1/ifindex")
    pod.plug("")
    pod.wait_ready()
    assert pod.sh("cat /sys/class/net/x1/ifindex") == mine
    assert audit.addresses(node, f"tak{ns.name[:5]}") == set()


@pytest.mark.parametrize("kind", KINDS)
def test_an_interface_that_was_deleted_by_hand_comes_back_with_the_next_look(ns, kind):
    ns.network("own", KINDS[kind](f"del{ns.name[:5]}"))
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug("own@x1")
    pod.wait_ready("x1")
    pod.sh("ip link del x1")
    pod.plug("own@x1,blue@x2")
    pod.wait_ready("x1", "x2")
    assert set(pod.interfaces()) == {"eth0", "x1", "x2"}
