"""What others do to attachments on the real kernel is noticed from its events, told, and repaired, and nothing else."""

import json
import subprocess
import time
from dataclasses import replace

import pytest

from agent import retries
from agent.model import KUBEVIRT, ContainerID, Key, Origin, Phase, Record
from agent.policy import Policy, Rule
from cni import errors
from tests import openvswitch
from tests.agent.drifting import QUIET_S, Plugins, running, until
from tests.agent.native import ip, link
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

IPAM = {"ipam": {"type": "addresses"}}


@pytest.fixture
def node(tmp_path):
    with running(tmp_path) as one:
        yield one


@pytest.fixture
def switch(openvswitch):
    openvswitch.add_bridge("br0")
    return openvswitch


@pytest.fixture
def pod(node, pod_netns):
    return node.pod("a", pod_netns)


def uplink(name="m0", address=""):
    """A link that is up and has a carrier, if it is not there yet."""
    if link(name):
        return
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}x")
    if address:
        ip("addr", "add", address, "dev", name)
    for one in (name, f"{name}x"):
        ip("link", "set", one, "up")


def in_pod(pod, *arguments):
    return ip(*arguments, netns=pod.netns)


def mac(pod, ifname):
    return pod.link(ifname)["address"]


# -- what is done, for every kind of link that can be had here: one interface for each damage, for the second repair of
#    one waits a second


def bridge(pod, number=1):
    return {"device": "bridge", "bridge": "br0", **IPAM}


def veth(pod, number=1):
    pod.node.plugins.plain = True  # the host end is a gateway of each
    return {"device": "veth", **IPAM}


def macvlan(pod, number=1):
    uplink()
    return {"device": "macvlan", "master": "m0", **IPAM}


def tap(pod, number=1):
    return {"device": "tap", **IPAM}


def overlay(pod, number=1):
    uplink(address="192.0.2.1/24")
    return {"device": "overlay", "vni": 5001, "peers": ["192.0.2.1", "192.0.2.2"], **IPAM}


def host_device(pod, number=1):
    uplink(f"d{number}")
    ip("link", "set", f"d{number}", "address", f"02:00:00:00:01:0{number}")
    return {"device": "host-device", "hostInterface": f"d{number}", **IPAM}


KINDS = [
    bridge,
    veth,
    pytest.param(macvlan, marks=needs("macvlan")),
    pytest.param(tap, marks=needs("tap")),
    pytest.param(overlay, marks=needs("vxlan")),
    host_device,
]
FOREIGN = "192.0.2.77/32"  # which the pod has added itself


def state(pod, ifname):
    """Return all that there is to be told of an interface that is up; None: it is not."""
    found = pod.link(ifname)
    if not found or "UP" not in found["flags"]:
        return None
    return found["address"], found["mtu"], frozenset(pod.addresses(ifname) - {FOREIGN}), frozenset(pod.routes(ifname))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_done_to_the_end_in_the_pod_is_undone(node, pod, kind):
    damages = {
        "net1": ("link", "set", "net1", "address", "02:00:00:00:00:99"),
        "net2": ("link", "set", "net2", "down"),
        "net3": ("addr", "flush", "dev", "net3"),
        "net4": ("link", "set", "net4", "name", "other"),
        **({"net5": ("link", "set", "net5", "mtu", "1300")} if kind in (bridge, veth, overlay) else {}),
    }
    for number, name in enumerate(damages, 1):
        pod.attach(name, **kind(pod, number))
        in_pod(pod, "addr", "add", FOREIGN, "dev", name)
    before = {name: state(pod, name) for name in damages}
    indexes = {name: pod.link(name)["ifindex"] for name in damages}
    pod.settled()
    in_pod(pod, "link", "set", "net4", "down")
    for damage in damages.values():
        in_pod(pod, *damage)
    for name, words in {
        "net1": "has MAC 02:00:00:00:00:99, not",
        "net2": "is down",
        "net3": ".0.7/24 is missing",
    }.items():
        pod.repaired(name, words)
    for name in damages:
        until(lambda name=name: state(pod, name) == before[name], f"{name}: {pod.told(name)}")
    assert {name: pod.link(name)["ifindex"] for name in damages} == indexes, "none was attached anew"
    assert all(FOREIGN in pod.addresses(name) for name in ("net1", "net4"))


@pytest.mark.parametrize("kind", [bridge, veth, pytest.param(overlay, marks=needs("vxlan"))])
def test_what_is_done_to_the_end_on_the_node_is_undone(node, pod, kind):
    names = ("net1", "net2", "net3")
    for number, name in enumerate(names, 1):
        pod.attach(name, **kind(pod, number))
    before = {name: state(pod, name) for name in names}
    index = pod.link("net3")["ifindex"]
    pod.settled()
    ip("link", "set", pod.host("net1"), "down")
    ip("link", "set", pod.host("net2"), "down")
    ip("link", "set", pod.host("net2"), "name", "elsewhere")
    ip("link", "del", pod.host("net3"))
    pod.repaired("net1", f"link {pod.host('net1')} is down")
    until(lambda: all("UP" in (link(pod.host(name)) or {"flags": ()})["flags"] for name in names))
    pod.repaired("net3", "was gone, and has been made anew")
    assert link("elsewhere") is None
    assert pod.link("net3")["ifindex"] != index
    for name in names:
        until(lambda name=name: state(pod, name) == before[name], name)


def test_a_route_that_is_gone_comes_back_and_what_the_pod_added_stays(node, pod):
    pod.attach("net1", **bridge(pod))
    pod.settled()
    in_pod(pod, "route", "add", "10.99.0.0/16", "via", "10.51.0.3")
    in_pod(pod, "addr", "add", FOREIGN, "dev", "net1")
    in_pod(pod, "route", "del", "10.71.0.0/16")
    pod.repaired("net1", "route to 10.71.0.0/16 is missing")
    assert {"10.61.0.0/16", "10.71.0.0/16", "10.99.0.0/16", "10.51.0.0/24"} <= pod.routes("net1")
    in_pod(pod, "addr", "del", "10.51.0.7/24", "dev", "net1")
    until(lambda: pod.addresses("net1") == {"10.51.0.7/24", "fd51::7/64", FOREIGN})
    until(lambda: {"10.61.0.0/16", "10.71.0.0/16"} <= pod.routes("net1"))


def test_a_link_that_is_moved_into_another_namespace_is_made_anew(node, pod, second_pod_netns):
    pod.attach("net1", **bridge(pod))
    pod.settled()
    in_pod(pod, "link", "set", "net1", "netns", second_pod_netns)
    pod.repaired("net1", "interface net1 was gone, and has been made anew")
    assert "10.51.0.7/24" in pod.addresses("net1")
    assert link("net1", second_pod_netns) is None


def test_a_port_that_is_taken_off_its_bridge_and_has_lost_its_settings_gets_both_back(node, pod):
    pod.attach("net1", device="bridge", bridge="br0", hairpinMode=True, portIsolation=True)
    pod.settled()
    host = pod.host("net1")
    ip("link", "set", host, "nomaster")
    until(lambda: link(host).get("master") == "br0")
    pod.repaired("net1", f"host end {host} is not a port of bridge br0")
    ip("link", "set", host, "type", "bridge_slave", "hairpin", "off", "isolated", "off")
    until(lambda: [link(host)["linkinfo"]["info_slave_data"][one] for one in ("hairpin", "isolated")] == [True, True])


def test_a_deleted_bridge_comes_back_with_all_its_ports(node, pod, second_pod_netns):
    other = node.pod("b", second_pod_netns)
    for one, name in ((pod, "net1"), (pod, "net2"), (other, "net1")):
        one.attach(name, device="bridge", bridge="br0")
    ip("link", "add", "br9", "type", "bridge")
    pod.settled()
    ip("link", "del", "br0")
    hosts = (pod.host("net1"), pod.host("net2"), other.host("net1"))
    until(lambda: link("br0") and all(link(host).get("master") == "br0" for host in hosts))
    until(lambda: "UP" in link("br0")["flags"])
    pod.repaired("net1")
    other.repaired("net1")
    assert "UP" not in link("br9")["flags"]


@needs("vxlan")
def test_a_segments_links_come_back(node, pod):
    pod.attach("net1", **overlay(pod))
    pod.settled()
    ip("link", "del", "hnv5001")
    until(lambda: (link("hnv5001") or {}).get("master") == "hnb5001" and "UP" in link("hnv5001")["flags"])
    pod.repaired("net1", "link hnv5001 is missing")
    until(lambda: (ip("link", "del", "hnb5001"), True)[1])
    until(lambda: all((link(one) or {}).get("master") == "hnb5001" for one in ("hnv5001", pod.host("net1"))))


# -- parents -----------------------------------------------------------------------------------------------------------


@needs("macvlan")
def test_what_vanishes_with_its_parent_comes_back_with_it(node, pod, second_pod_netns, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_S", 300.0)  # no try of its own would come in time
    other = node.pod("b", second_pod_netns)
    uplink()
    for one in (pod, other):
        one.attach("net1", device="macvlan", master="m0", **IPAM)
    address = mac(pod, "net1")
    ip("link", "del", "m0")
    until(lambda: pod.told("net1")[0] == other.told("net1")[0] == "Pending", "it is told that it is gone")
    assert "master='m0' is not there" in pod.told("net1")[2]
    assert pod.link("net1") is None
    uplink()
    begun = time.monotonic()
    for one in (pod, other):
        one.attached("net1")
        assert "10.51.0.7/24" in one.addresses("net1")
    print(f"back after {time.monotonic() - begun:.2f} s")
    assert mac(pod, "net1") == address


@needs("macvlan")
def test_a_parent_of_another_plugin_is_waited_for_by_its_name(node, pod, monkeypatch):
    problem, tries = errors.CNIError(errors.Code.INTERNAL, "no m7"), []
    made = Plugins.__call__

    def add(self, plugin_type, command, env, config, deadline_s):
        tries.append((plugin_type, command))
        if command == "ADD" and link("m7") is None:
            raise problem
        return made(self, plugin_type, command, env, config, deadline_s)

    monkeypatch.setattr(Plugins, "__call__", add)
    monkeypatch.setattr(retries, "FIRST_S", 300.0)
    pod.wish("net1", type="other", master="m7")
    until(lambda: pod.told("net1")[:2] == ("Pending", "PluginFailed"))
    uplink("m8")
    time.sleep(QUIET_S)
    assert sum(call == ("other", "ADD") for call in tries) == 1, "m8 is nothing to it"
    uplink("m7")
    pod.attached("net1")


# -- who must not be fought --------------------------------------------------------------------------------------------


def test_a_fighter_is_not_fought(node, pod):
    pod.attach("net1", device="bridge", bridge="br0")
    pod.settled()
    right, repaired, looks = mac(pod, "net1"), [], []
    inspector = node.engine._mending._inspector
    look = inspector.look
    inspector.look = lambda *args, **more: (looks.append(1), look(*args, **more))[1]
    for number in range(3):
        in_pod(pod, "link", "set", "net1", "address", f"02:00:00:00:00:{number:02x}")
        until(lambda: mac(pod, "net1") == right)
        repaired.append(time.monotonic())
    message = pod.repaired("net1", "02:00:00:00:00:00, not")
    first, second = repaired[1] - repaired[0], repaired[2] - repaired[1]
    assert (first > 0.5, second > 1.5) == (True, True), "one second, two seconds"
    assert len(looks) < 20
    in_pod(pod, "link", "set", "net1", "address", "02:00:00:00:00:99")
    pod.drifted("net1", "has MAC 02:00:00:00:00:99", "the next repair waits")
    assert "00:00, not" in message, "one incident, told once"


def test_a_link_that_was_asked_to_be_down_stays_so_and_one_that_the_pod_promiscs_too(node, pod):
    pod.attach("net1", device="bridge", bridge="br0", element={"cni_args": {"linkState": "down"}})
    pod.attach("net2", device="bridge", bridge="br0")
    pod.settled()
    in_pod(pod, "link", "set", "net2", "promisc", "on")
    time.sleep(QUIET_S)
    assert "UP" not in pod.link("net1")["flags"]
    assert "PROMISC" in pod.link("net2")["flags"]
    in_pod(pod, "link", "set", "net1", "up")
    until(lambda: "UP" not in pod.link("net1")["flags"])


def test_a_default_route_that_was_asked_for_comes_back_unless_there_is_another(node, pod):
    in_pod(pod, "link", "add", "eth0", "type", "veth", "peer", "name", "x0")
    in_pod(pod, "link", "set", "eth0", "up")
    in_pod(pod, "addr", "add", "10.1.0.2/24", "dev", "eth0")
    in_pod(pod, "route", "add", "default", "via", "10.1.0.1")
    pod.attach("net1", **bridge(pod), element={"default_route": ("10.51.0.1",)})
    defaults = lambda: [one["gateway"] for one in ip("route", "show", "default", netns=pod.netns)]  # noqa: E731
    assert defaults() == ["10.51.0.1"]
    pod.settled()
    in_pod(pod, "link", "set", "net1", "down")
    until(lambda: defaults() == ["10.51.0.1"], "it goes with the link, and comes back with it")
    pod.settled()
    in_pod(pod, "route", "replace", "default", "via", "10.1.0.1")
    time.sleep(QUIET_S)
    assert defaults() == ["10.1.0.1"]


def test_events_of_others_and_of_our_own_cost_no_looks(node, pod, second_pod_netns):
    looks, passes = [], []
    inspector, made = node.engine._mending._inspector, node.engine._pass_over
    look = inspector.look
    inspector.look = lambda record, **more: (looks.append(record.key), look(record, **more))[1]
    node.engine._pass_over = lambda uid: (passes.append(uid), made(uid))[1]
    for name in ("net1", "net2"):
        pod.attach(name, device="bridge", bridge="br0")
    until(lambda: {pod.key("net1"), pod.key("net2")} <= set(looks), "what was made is looked at once")
    pod.settled()
    assert len(looks) <= 3
    looks.clear()
    passes.clear()
    script = "".join(
        f"link add o{number} type veth peer name p{number}\nlink set o{number} up\nlink set o{number} master br0\n"
        f"addr add 10.80.{number}.1/24 dev p{number}\n"
        + f"link set p{number} mtu 1400\nlink set p{number} mtu 1500\n"
        * 5
        for number in range(50)
    )
    for batch in ([], ["-n", second_pod_netns.rsplit("/", 1)[1]]):
        text = script if not batch else script.replace(" master br0", " mtu 1400")
        subprocess.run(["ip", *batch, "-batch", "-"], input=text, text=True, check=True)
    time.sleep(QUIET_S)
    assert (looks, passes) == ([], [])
    third = node.pod("c", second_pod_netns)
    third.attach("net1", device="bridge", bridge="br0")
    until(lambda: looks)
    time.sleep(QUIET_S)
    assert looks == [third.key("net1")]


def test_what_kubevirt_has_plumbed_is_left_to_it_and_the_nodes_side_is_repaired(node, pod):
    pod.vm = KUBEVIRT
    pod.attach("net1", device="bridge", bridge="br0", hairpinMode=True, **IPAM)
    pod.settled()
    host = pod.host("net1")
    in_pod(pod, "addr", "flush", "dev", "net1")
    for damage in (
        ("set", "net1", "down"), ("set", "net1", "name", "1-nic"), ("set", "1-nic", "address", "02:00:00:00:00:99"),
        ("set", "1-nic", "mtu", "1400"), ("set", "1-nic", "up"), ("add", "net1", "type", "veth", "peer", "name", "x1"),
    ):  # fmt: skip
        in_pod(pod, "link", *damage)
    ip("link", "set", host, "nomaster", "down")
    until(lambda: link(host).get("master") == "br0" and "UP" in link(host)["flags"])
    until(lambda: link(host)["linkinfo"]["info_slave_data"]["hairpin"])
    pod.repaired("net1", "is not a port of bridge br0")
    ip("link", "del", "br0")
    until(lambda: link(host).get("master") == "br0")
    plumbed = pod.link("1-nic")
    assert (plumbed["address"], plumbed["mtu"], pod.addresses("1-nic")) == ("02:00:00:00:00:99", 1400, set())
    assert "UP" not in pod.link("net1")["flags"], "the placeholder"
    pod.vm = ""


# -- policy ------------------------------------------------------------------------------------------------------------


def test_where_the_policy_says_so_it_is_told_and_left_alone(tmp_path, pod_netns):
    anything = {"plugins": ("*",), "devices": ("*",), "bridges": ("*",), "interfaces": ("*",), "ipam": ("*",)}
    rules = (Rule(("quiet",), **anything, drift="report"), Rule(("*",), **anything))
    with running(tmp_path, Policy(rules)) as node:
        pod = node.pod("a", pod_netns)
        for name, namespace in (("net1", "quiet"), ("net2", "ns"), ("net3", "quiet")):
            pod.attach(name, namespace=namespace, device="bridge", bridge="br0")
        pod.settled()
        for name in ("net1", "net2"):
            in_pod(pod, "link", "set", name, "address", "02:00:00:00:00:99")
        pod.repaired("net2")
        state, _, _ = pod.drifted("net1", "has MAC 02:00:00:00:00:99", "as the policy says")
        assert (state, mac(pod, "net1")) == ("Attached", "02:00:00:00:00:99")
        ip("link", "del", pod.host("net3"))
        state, _, _ = pod.drifted("net3", "is gone")
        assert state == "Pending", "what is not there is not told as attached"
        outcome = next(one for one in pod.outcome().attachments if one.interface == "net3")
        assert (outcome.result, pod.outcome().released) == (None, ("net3 quiet/n",))
        pod.apply()
        time.sleep(QUIET_S)
        assert (link(pod.host("net3")), mac(pod, "net1")) == (None, "02:00:00:00:00:99")
        right = node.journal.record(pod.key("net1")).result["interfaces"][-1]["mac"]
        in_pod(pod, "link", "set", "net1", "address", right)
        until(lambda: pod.told("net1") == ("Attached", "", ""), "somebody has repaired it")
        for name in ("net1", "net2", "net3"):
            pod.drop(name)


# -- other plugins -----------------------------------------------------------------------------------------------------


def test_what_another_plugin_made_is_checked_told_and_not_touched(node, pod, monkeypatch):
    monkeypatch.setattr("agent.mending.CHECK_S", 1.0)
    pod.attach("net1", type="other")
    time.sleep(QUIET_S)
    assert ("other", "CHECK") not in node.plugins.calls, "not for what its ADD has caused"
    node.plugins.check = errors.CNIError(errors.Code.INTERNAL, "MAC is not mine")
    in_pod(pod, "link", "set", "net1", "address", "02:00:00:00:00:99")
    state, _, _ = pod.drifted("net1", "MAC is not mine", "its plugins alone know")
    assert (state, mac(pod, "net1")) == ("Attached", "02:00:00:00:00:99")
    node.plugins.check = None
    until(lambda: pod.told("net1") == ("Attached", "", ""))
    checks = node.plugins.calls.count(("other", "CHECK"))
    for number in range(20):
        in_pod(pod, "link", "set", "net1", "address", f"02:00:00:00:01:{number:02x}")
        time.sleep(0.05)
    time.sleep(QUIET_S)
    assert 1 <= node.plugins.calls.count(("other", "CHECK")) - checks <= 4
    assert ("other", "DEL") not in node.plugins.calls
    ip("link", "del", "dlg-net1")
    pod.repaired("net1", "made anew")


def test_a_plugin_that_has_no_check_is_not_asked(node, pod):
    node.plugins.check = errors.CNIError(errors.Code.INTERNAL, "unasked")
    pod.attach("net1", type="other", cniVersion="0.3.1")
    pod.attach("net2", type="other", disableCheck=True)
    pod.settled()
    for name in ("net1", "net2"):
        in_pod(pod, "link", "set", name, "address", "02:00:00:00:00:99")
    time.sleep(QUIET_S)
    assert pod.told("net1") == pod.told("net2") == ("Attached", "", "")


def test_of_what_a_runtime_attached_the_nodes_side_is_repaired_and_the_pods_is_not(node, pod_netns):
    config = {"cniVersion": "1.1.0", "name": "n", "type": "hotnic", "device": "bridge", "bridge": "br0"}
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_NETNS": pod_netns}
    pod = node.pod("c", pod_netns)
    key = Key(ContainerID("c1"), "net1")
    record = Record(key, Origin.RUNTIME, Phase.ADDING, "", "", json.dumps(config), pod.sandbox.namespace)
    node.journal.begin(record, durable=False)
    document = node.native("ADD", env, config, 10.0)
    node.journal.update(replace(node.journal.record(key), phase=Phase.ATTACHED, result=document), durable=False)
    host = document["interfaces"][1]["name"]
    in_pod(pod, "link", "set", "net1", "address", "02:00:00:00:00:99")
    ip("link", "set", host, "nomaster")
    until(lambda: link(host).get("master") == "br0")
    ip("link", "del", "br0")
    time.sleep(1)
    assert mac(pod, "net1") == "02:00:00:00:00:99"
    node.native("DEL", env, config, 10.0)


# -- Open vSwitch ------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_off_the_switch_comes_back_and_after_a_restart_all_is_whole(node, pod, switch):
    pod.attach("net1", device="ovs", bridge="br0", vlan=5, socket_file=str(switch.socket))
    pod.settled()
    host = pod.host("net1")
    ports = lambda: switch.vsctl("list-ports", "br0").split()  # noqa: E731
    switch.vsctl("del-port", "br0", host)
    until(lambda: host in ports())
    pod.repaired("net1", "is not a port of bridge br0")
    switch.vsctl("del-br", "br0")
    pod.drifted("net1", "does not exist")
    switch.add_bridge("br0")
    until(lambda: host in ports())
    until(lambda: pod.told("net1")[:2] == ("Attached", "DriftRepaired"))
    with openvswitch.restarted(switch):
        until(lambda: f"({host})" in _shown(switch), "the switch has its ports again")
        ip("link", "set", host, "down")
        until(lambda: "UP" in link(host)["flags"], "what happens after the restart is still heard of")
        until(lambda: pod.told("net1")[0] == "Attached" and pod.told("net1")[1] != "Drifted")
        assert host in ports()


def _shown(switch) -> str:
    try:
        return switch.ofctl("show", "br0")
    except subprocess.CalledProcessError:
        return ""  # the daemon has just started
