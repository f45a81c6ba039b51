"""What others do to attachments on the real kernel is noticed from its events, told, and repaired, and nothing else."""

import errno
import json
import os
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest

from agent import options, repairs, retries, rtnl, suspects
from agent.model import KUBEVIRT, ContainerID, Key, Origin, Phase, Record
from agent.policy import Policy, Rule
from cni import errors
from tests import openvswitch
from tests.agent.drifting import QUIET_S, Plugins, counted, running, until
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


def test_each_damage_is_found_by_its_event_and_not_by_a_look_now_and_then(node, pod, second_pod_netns):
    """One interface for each, for the second repair of one waits."""
    hosts, names = {}, [f"net{number}" for number in range(1, 10)]
    for name in names:
        pod.attach(name, mtu=1500, **bridge(pod))
        hosts[name] = pod.host(name)
    in_pod(pod, "addr", "add", FOREIGN, "dev", "net9")
    damages = (
        lambda: ip("link", "set", hosts["net1"], "down"),
        lambda: ip("link", "set", hosts["net2"], "nomaster"),
        lambda: ip("link", "set", hosts["net3"], "address", "02:00:00:00:00:98"),
        lambda: ip("link", "set", hosts["net4"], "netns", second_pod_netns),
        lambda: ip("link", "set", hosts["net5"], "mtu", "1300"),
        lambda: in_pod(pod, "link", "set", "net6", "address", "02:00:00:00:00:99"),
        lambda: in_pod(pod, "addr", "del", "10.57.0.7/24", "dev", "net7"),
        lambda: ip("link", "del", hosts["net8"]),
        lambda: in_pod(pod, "link", "set", "net9", "name", "other"),
    )
    before = {name: state(pod, name) for name in names}
    for number, damage in enumerate(damages):
        pod.settled()
        events, looks = counted("repaired", "event"), counted("repaired", "look")
        damage()
        until(
            lambda events=events: counted("repaired", "event") > events, f"{names[number]}: {pod.told(names[number])}"
        )
        assert counted("repaired", "look") == looks, names[number]
        pod.repaired(names[number])
    for name in names:
        until(lambda name=name: state(pod, name) == before[name], f"{name}: {pod.told(name)}")
        found = link(hosts[name])
        assert (found.get("master"), "UP" in found["flags"]) == ("br0", True), name
    assert "is in another network namespace" in pod.told("net4")[2]
    assert "has MAC 02:00:00:00:00:98, not" in pod.told("net3")[2]
    assert FOREIGN in pod.addresses("net9")


@pytest.mark.parametrize("change", [("name", "theirs"), ("address", "02:00:00:00:00:97")])
def test_a_host_end_that_was_moved_and_renamed_or_given_another_mac_comes_back(node, pod, second_pod_netns, change):
    ip("link", "add", "theirs", "type", "bridge")
    pod.attach("net1", **bridge(pod))
    pod.settled()
    host, before = pod.host("net1"), link(pod.host("net1"))["address"]
    with node.locks.held([pod.sandbox.id]):  # nobody mends it half-way
        ip("link", "set", host, "netns", second_pod_netns)
        ip("link", "set", host, *change, netns=second_pod_netns)
    until(lambda: (link(host) or {}).get("address") == before and link(host).get("master") == "br0", pod.told("net1"))
    until(lambda: "UP" in link(host)["flags"])
    assert not [one for one in ("theirs", host) if link(one, second_pod_netns)]
    assert link("theirs")["linkinfo"]["info_kind"] == "bridge"


@pytest.mark.parametrize("where", ["here", "moved"])
def test_an_end_that_has_neither_the_name_nor_the_mac_of_ours_is_told_and_not_touched(
    node, pod, second_pod_netns, where
):
    pod.attach("net1", **bridge(pod))
    pod.settled()
    host, place = pod.host("net1"), second_pod_netns if where == "moved" else ""
    with node.locks.held([pod.sandbox.id]):
        if place:
            ip("link", "set", host, "netns", place)
        for change in ("down",), ("name", "theirs"), ("address", "02:00:00:00:00:97"):
            ip("link", "set", host if change[0] != "address" else "theirs", *change, netns=place)
    pod.drifted("net1", "delete net1 in the pod")
    assert link("theirs", place)["address"] == "02:00:00:00:00:97"
    in_pod(pod, "link", "del", "net1")
    until(lambda: (link(host) or {}).get("master") == "br0")


def test_a_pair_that_bears_the_index_which_ours_has_had_is_not_touched(node, pod):
    pod.attach("net1", **bridge(pod))
    pod.settled()
    host, index = pod.host("net1"), str(pod.link("net1")["ifindex"])
    with node.locks.held([pod.sandbox.id]), subprocess.Popen(["sleep", "60"]) as here:
        in_pod(pod, "link", "del", "net1")
        in_pod(pod, "link", "add", "net1", "index", index, "type", "veth", "peer", "name", "cali123")
        in_pod(pod, "link", "set", "cali123", "netns", str(here.pid))
        here.kill()
    pod.drifted("net1", "cali123", "neither the name nor the MAC")
    assert link("cali123") is not None
    assert link(host) is None


def test_a_host_end_that_somebody_uses_elsewhere_is_left_there_and_told(node, pod, second_pod_netns):
    """Another pod's interface, whatever it is called and marked by now; and one with a name of the user's choice."""
    other = node.pod("b", second_pod_netns)
    pod.attach("net1", device="veth", hostInterface="cable0")
    other.attach("net1", device="host-device", hostInterface="cable0")
    pod.drifted("net1", "cable0 is in another network namespace", "left to them")
    pod.attach("net2", **bridge(pod))
    pod.attach("net3", **bridge(pod))
    with ExitStack() as held:
        with node.locks.held([pod.sandbox.id]):
            ip("link", "set", pod.host("net2"), "nomaster")
            other.attach("net2", device="host-device", hostInterface=pod.host("net2"), allowInUse=True)
            held.enter_context(node.locks.held([other.sandbox.id]))  # its own repair would mark it again
            ip("link", "set", "net2", "alias", "", netns=other.netns)
        pod.drifted("net2", "another's by now")
    ip("link", "set", pod.host("net3"), "netns", second_pod_netns)
    pod.repaired("net3")
    time.sleep(QUIET_S)
    assert pod.told("net2")[1] == "Drifted"
    assert all(link(name, second_pod_netns) for name in ("net1", "net2"))


def test_a_host_end_that_was_moved_where_it_is_not_taken_from_is_told_with_what_helps(node, pod):
    """Out of the pod itself least of all: it may be a pair of the pod's own making."""
    for name in ("net1", "net2"):
        pod.attach(name, **bridge(pod))
    pod.settled()
    ip("link", "set", pod.host("net2"), "netns", pod.netns)
    pod.drifted("net2", "is in another network namespace", "delete net2 in the pod")
    nameless = subprocess.Popen(["unshare", "--net", "sleep", "120"])
    try:
        until(lambda: os.readlink(f"/proc/{nameless.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        ip("link", "set", pod.host("net1"), "netns", str(nameless.pid))
        pod.drifted("net1", "is in another network namespace", "delete net1 in the pod")
        for name in ("net1", "net2"):
            in_pod(pod, "link", "del", name)
            until(lambda name=name: (link(pod.host(name)) or {}).get("master") == "br0")
    finally:
        nameless.kill()
        nameless.wait()


def test_a_host_end_whose_name_somebody_has_taken_is_told_and_comes_back_when_it_is_free(node, pod):
    pod.attach("net1", device="bridge", bridge="br0")
    pod.settled()
    host = pod.host("net1")
    script = f"link set {host} down\nlink set {host} name theirs\nlink add {host} type bridge\n"
    with node.locks.held([pod.sandbox.id]):  # nobody mends it half-way
        subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True)
    pod.drifted("net1", "File exists")
    ip("link", "del", host)
    until(lambda: (link(host) or {}).get("master") == "br0")


@pytest.mark.parametrize("is_old", [False, True])
def test_a_link_that_gets_its_name_back_has_all_that_the_pod_gave_it(node, pod, monkeypatch, is_old):
    """Kernels before 6.2 rename no link that is up."""
    do = rtnl.Socket.do

    def old(self, kind, fields, attributes, flags=0):
        is_rename = kind == rtnl.SETLINK and [name for name, _ in attributes] == ["IFLA_IFNAME"] and "index" in fields
        if is_rename and self.get(rtnl.GETLINK, {"index": fields["index"]}, []).flags & 1:
            raise rtnl.KernelError(errno.EBUSY, "")
        do(self, kind, fields, attributes, flags)

    if is_old:
        monkeypatch.setattr(rtnl.Socket, "do", old)
    pod.attach("net1", **bridge(pod))
    pod.settled()
    script = (
        "link set net1 down\nlink set net1 name other up\n"
        f"addr add fd99::9/64 dev other\naddr add {FOREIGN} dev other\n"
        "addr add fd98::9/64 dev other valid_lft 500 preferred_lft 500\n"
        "route add 10.98.0.0/16 dev other\nroute add 10.99.0.0/16 via 10.98.0.1\n"
        "route add fd97::/64 via fd99::1 dev other metric 77\n"
        "route add 10.96.0.0/16 nexthop via 10.51.0.2 dev other nexthop via 10.51.0.3 dev other\n"
        "route add fd96::/64 nexthop via fd99::1 dev other nexthop via fd99::2 dev other\n"
    )
    batch = ["ip", "-n", pod.netns.rpartition("/")[2], "-batch", "-"]
    with node.locks.held([pod.sandbox.id]):  # else it has its name back at once
        subprocess.run(batch, input=script, text=True, check=True)
    until(lambda: pod.link("net1") and "UP" in pod.link("net1")["flags"])
    pod.repaired("net1")
    until(lambda: {"fd99::9/64", FOREIGN, "fd51::7/64", "10.51.0.7/24"} <= pod.addresses("net1"))
    assert {"10.98.0.0/16", "10.99.0.0/16", "10.61.0.0/16"} <= pod.routes("net1")
    six = {one["dst"]: one for one in ip("-6", "route", "show", netns=pod.netns)}
    assert six["fd97::/64"]["metric"] == 77
    ways = [
        one for one in (*ip("route", "show", netns=pod.netns), *six.values()) if one["dst"][:6] in {"10.96.", "fd96::"}
    ]
    assert [{hop["dev"] for hop in one["nexthops"]} for one in ways] == [{"net1"}] * 2
    assert ("fd98::9/64" in pod.addresses("net1")) == (not is_old), "what expires is its router's to give again"


@pytest.mark.parametrize("kind", KINDS)
def test_the_alias_that_a_pod_gives_its_interface_is_the_pods(node, pod, kind):
    pod.attach("net1", **kind(pod))
    pod.settled()
    right = mac(pod, "net1")
    in_pod(pod, "link", "set", "net1", "alias", "lan")
    time.sleep(QUIET_S)
    assert pod.told("net1") == ("Attached", "", "")
    in_pod(pod, "link", "set", "net1", "address", "02:00:00:00:00:99")
    pod.repaired("net1", "has MAC 02:00:00:00:00:99, not")
    assert (mac(pod, "net1"), pod.link("net1")["ifalias"]) == (right, "lan")
    pod.drop("net1")
    assert pod.link("net1") is None


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


def test_a_link_that_is_made_anew_with_the_second_try_only_is_told_all_the_same(node, pod, monkeypatch):
    pod.attach("net1", **bridge(pod))
    pod.settled()
    refusals, addresses = [errors.CNIError(errors.Code.TRY_AGAIN, "no room now")], Plugins._addresses

    def refuse_once(self, ifname):
        if refusals:
            raise refusals.pop()
        return addresses(self, ifname)

    monkeypatch.setattr(Plugins, "_addresses", refuse_once)
    in_pod(pod, "link", "del", "net1")
    pod.repaired("net1", "interface net1 was gone, and has been made anew")
    assert not refusals
    pod.drop("net1")
    pod.attach("net1", **bridge(pod))
    assert pod.told("net1") == ("Attached", "", "")


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
    told = [pod.repaired("net1"), pod.repaired("net2"), other.repaired("net1")]
    assert any("link br0 is missing" in one and "br0 is down" not in one for one in told), "who came first knows"
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


# -- bandwidth ---------------------------------------------------------------------------------------------------------

SHAPED = {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 4_000_000, "egressBurst": 80_000}


def tc(*arguments, netns=""):
    inside = ["ip", "netns", "exec", netns.rpartition("/")[2]] if netns else []
    return subprocess.run([*inside, "tc", *arguments], check=True, capture_output=True, text=True).stdout


@needs("tbf", "ifb")
def test_bandwidth_that_others_take_off_comes_back(node, pod):
    damages = {
        "net1": lambda host, _: ("qdisc", "del", "dev", host, "root"),
        "net2": lambda host, _: ("qdisc", "change", "dev", host, "root", "tbf", "rate", "1mbit", "burst", "10k",
                                 "latency", "50ms"),
        "net3": lambda host, _: ("filter", "del", "dev", host, "ingress"),
        "net4": lambda _, companion: ("qdisc", "del", "dev", companion, "root"),
    }  # fmt: skip
    whole = {}
    for name in (*damages, "net5"):
        pod.attach(name, **bridge(pod), **SHAPED)
        ends = (pod.host(name), options.host_name(pod.key(name), "hni"))
        whole[name] = lambda ends=ends: (
            [tc("qdisc", "show", "dev", end, "root").split(" root ")[1] for end in ends if link(end)],
            ends[1] in tc("filter", "show", "dev", ends[0], "ingress"),
        )
    before = {name: one() for name, one in whole.items()}
    for name, damage in (*damages.items(), ("net5", None)):
        pod.settled()
        events, companion = counted("repaired", "event"), options.host_name(pod.key(name), "hni")
        if damage:
            tc(*damage(pod.host(name), companion))
        else:
            ip("link", "del", companion)
        until(lambda name=name: whole[name]() == before[name], f"{name}: {pod.told(name)}")
        pod.repaired(name, "gress is not shaped to")
        assert counted("repaired", "event") > events


@needs("tbf", "ifb", "macvlan")
def test_bandwidth_that_is_shaped_in_the_pod_comes_back(node, pod):
    pod.attach("net1", **macvlan(pod), **SHAPED)
    companion = options.host_name(pod.key("net1"), "hni")
    for damage in (("qdisc", "del", "dev", "net1", "root"), ("qdisc", "del", "dev", companion, "root")):
        pod.settled()
        tc(*damage, netns=pod.netns)
        until(lambda damage=damage: "tbf" in tc("qdisc", "show", "dev", damage[3], netns=pod.netns))
        pod.repaired("net1", "is not shaped to")


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


def test_a_long_fight_is_told_once_and_its_end_too(node, pod, monkeypatch):
    for name, seconds in (("FIRST_S", 0.2), ("LONGEST_S", 0.4), ("QUIET_S", 3.0)):
        monkeypatch.setattr(repairs, name, seconds)
    pod.attach("net1", device="bridge", bridge="br0")
    pod.settled()
    right, told = mac(pod, "net1"), []
    publish = node.outcomes.publish
    monkeypatch.setattr(node.outcomes, "publish", lambda outcome: (told.append(outcome), publish(outcome))[1])
    for number in range(12):
        in_pod(pod, "link", "set", "net1", "address", f"02:00:00:00:00:{number:02x}")
        until(lambda: mac(pod, "net1") == right)
    pod.drifted("net1", "changed again and again, and repaired each time")
    for name in ("FIRST_S", "LONGEST_S"):
        monkeypatch.setattr(repairs, name, 300.0)  # what is whole is told so, however long a repair would wait
    words = [(one.reason, one.message) for outcome in told for one in outcome.attachments]
    news = [one for one, before in zip(words, [None, *words], strict=False) if one != before]
    assert len(news) <= 2 * repairs.STORM + 1, news
    pod.repaired("net1", "has MAC 02:00:00:00:00:00, not")


def test_a_pod_that_changes_its_own_routes_on_and_on_costs_few_looks_and_is_still_repaired(node, pod, monkeypatch):
    pod.attach("net1", **bridge(pod))
    pod.settled()
    looks, inspector = [], node.engine._mending._inspector
    look = inspector.look
    monkeypatch.setattr(inspector, "look", lambda *args, **more: (looks.append(1), look(*args, **more))[1])
    monkeypatch.setattr(suspects, "FIRST_S", 2.0)
    for number in range(16):
        in_pod(pod, "route", "add", f"10.{100 + number}.0.0/16", "via", "10.51.0.3")
        in_pod(pod, "route", "del", f"10.{100 + number}.0.0/16", "via", "10.51.0.3")
        time.sleep(0.3)
    took_s = 16 * 0.3
    assert 1 <= len(looks) <= suspects.AT_ONCE + 1 + took_s / suspects.FIRST_S
    in_pod(pod, "route", "del", "10.71.0.0/16")
    until(lambda: "10.71.0.0/16" in pod.routes("net1"))


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


def test_after_a_restart_other_plugins_are_asked_at_once_and_what_was_told_is_told_again(tmp_path, pod_netns):
    """Nothing happens that an event would tell of: it has happened while nobody listened."""
    plugins = Plugins()
    with running(tmp_path, plugins=plugins) as node:
        pod = node.pod("a", pod_netns)
        pod.attach("net1", type="other")
        pod.attach("net2", type="other", disableCheck=True)
    plugins.check = errors.CNIError(errors.Code.INTERNAL, "br-red not found")
    with running(tmp_path, plugins=plugins, pods=[pod]):
        first = until(pod.outcome).attachments[0]
        assert (first.reason, "br-red not found" in first.message) == ("Drifted", True), "not told for as it should be"
        pod.drifted("net1", "br-red not found")
        assert pod.told("net2") == ("Attached", "", "")
    plugins.check = None
    with running(tmp_path, plugins=plugins, pods=[pod]):
        until(lambda: pod.told("net1") == ("Attached", "", ""))
        plugins.calls.clear()
        time.sleep(QUIET_S)
    assert ("other", "DEL") not in plugins.calls


def test_a_plugin_whose_trouble_no_event_tells_is_asked_now_and_then(tmp_path, pod_netns, monkeypatch):
    monkeypatch.setattr("agent.mending.CHECK_S", 0.5)
    monkeypatch.setattr("agent.drift.RARELY_S", 1.0)
    monkeypatch.setattr("agent.drift.RELOOK_S", 1.0)
    with running(tmp_path) as node:
        pod = node.pod("a", pod_netns)
        pod.attach("net1", type="other")
        node.plugins.check = errors.CNIError(errors.Code.INTERNAL, "its far end is lost")
        pod.drifted("net1", "its far end is lost")


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


def test_what_is_changed_in_the_switchs_database_alone_is_undone(node, pod, switch):
    for name in ("net1", "net2", "net3"):
        pod.attach(name, device="ovs", bridge="br0", vlan=5, socket_file=str(switch.socket))
    switch.add_bridge("br1")
    for name, damage in (
        ("net1", ("set", "port", pod.host("net1"), "tag=9")),
        ("net2", ("--", "--if-exists", "del-port", pod.host("net2"))),
        ("net3", ("del-port", pod.host("net3"), "--", "add-port", "br1", pod.host("net3"))),
    ):
        pod.settled()
        events = counted("repaired", "event")
        switch.vsctl(*damage)
        if name == "net3":
            pod.drifted(name, "is not ours")  # it is another's now, as far as its marks say
            switch.vsctl("del-port", pod.host(name))
        until(
            lambda name=name: switch.vsctl("--if-exists", "get", "port", pod.host(name), "tag") == "5", pod.told(name)
        )
        pod.repaired(name)
        assert counted("repaired", "event") > events or name == "net3"
    assert switch.vsctl("list-ports", "br1") == ""


def _shown(switch) -> str:
    try:
        return switch.ofctl("show", "br0")
    except subprocess.CalledProcessError:
        return ""  # the daemon has just started
