"""The device `host-device` on the real kernel. The node's interfaces are veth ends here, whose other end is a cable."""

import subprocess
from pathlib import Path

import pytest

from agent import options, rtnl
from agent.device import Native
from agent.journal import Journal
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Record
from agent.netns import View
from cni import errors
from tests.agent.native import CONTAINER, FakeIPAM, Plugin, ip, link, ping

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns", "kernel", "eth1")]

KEY = Key(ContainerID(CONTAINER), "net1")
MARK = options.mark(KEY)
BEFORE = {"mtu": 1400, "address": "02:00:00:00:01:01", "ifalias": "mine", "txqlen": 77}
WISHES = {"mac": "02:00:00:00:02:02", "mtu": 1300, "txQLen": 99, "promisc": True}


@pytest.fixture
def eth1(node_netns):
    """An interface of the node, with a cable to `cable`, and its own ways in everything."""
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "cable")
    ip("link", "set", "eth1", "alias", "mine")
    ip(
        "link",
        "set",
        "eth1",
        "mtu",
        "1400",
        "address",
        BEFORE["address"],
        "txqueuelen",
        "77",
        "allmulticast",
        "on",
        "up",
    )
    ip("link", "set", "cable", "up")


def shown(name: str, netns: str = ""):
    """What has to be the same after all."""
    there = link(name, netns)
    return there and {
        **{key: there.get(key) for key in BEFORE},
        "flags": {"UP", "PROMISC", "ALLMULTI"} & set(there["flags"]),
    }


AS_IT_WAS = {**BEFORE, "flags": {"UP", "ALLMULTI"}}


def Device(pod_netns, fake=None, **config):
    return Plugin(pod_netns, fake, **{"device": "host-device", "hostInterface": "eth1", **config})


def test_the_interface_moves_into_the_pod_and_comes_back_as_it_was(pod_netns):
    plugin = Device(pod_netns, **WISHES)
    result = plugin("ADD")
    assert (link("eth1"), shown("net1", pod_netns)["mtu"]) == (None, 1300)
    assert result["interfaces"] == [{"name": "net1", "mac": "02:00:00:00:02:02", "mtu": 1300, "sandbox": pod_netns}]
    plugin("CHECK", prevResult=result)
    for _ in range(3):
        plugin("DEL")
        assert (shown("eth1"), link("net1", pod_netns)) == (AS_IT_WAS, None)


def test_without_wishes_it_keeps_its_own_ways_and_carries_frames(pod_netns):
    Device(pod_netns, FakeIPAM({"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.1/24"}]}), ipam={"type": "f"})("ADD")
    there = shown("net1", pod_netns)
    assert (there["mtu"], there["address"], there["flags"]) == (1400, BEFORE["address"], {"UP", "ALLMULTI"})
    ip("addr", "add", "10.7.0.2/24", "dev", "cable")
    ping(pod_netns, "10.7.0.2")


@pytest.mark.parametrize(
    "choice", [{"hostInterface": "eth1"}, {"hwaddr": "02:00:00:00:01:01"}, {"hwaddr": "02-00-00-00-01-01"}]
)
def test_it_is_found_by_name_and_by_mac(pod_netns, choice):
    Plugin(pod_netns, device="host-device", **choice)("ADD")
    assert link("net1", pod_netns)["address"] == BEFORE["address"]


def crash_at(monkeypatch, number: int) -> list[int]:
    """Let the process die at its change of the kernel of this number; what it has counted is returned."""
    done, performed = [], rtnl.Socket.do

    def do(self, *arguments, **keywords):
        if len(done) >= number:
            raise MemoryError
        performed(self, *arguments, **keywords)
        done.append(1)

    monkeypatch.setattr(rtnl.Socket, "do", do)
    monkeypatch.setattr(Native, "_undo", lambda *_: None)  # nobody is there to undo it
    return done


CHANGES = 5  # an ADD makes with these wishes, and a DEL; a test says so if they are more


@pytest.mark.parametrize("number", range(CHANGES))
@pytest.mark.parametrize("then", ["DEL", "ADD"])
def test_after_a_crash_at_any_change_of_an_add_it_comes_back_or_the_add_is_whole(pod_netns, monkeypatch, number, then):
    plugin = Device(pod_netns, **WISHES)
    crash_at(monkeypatch, number)
    with pytest.raises(MemoryError):
        plugin("ADD")
    monkeypatch.undo()
    if then == "ADD":
        plugin("CHECK", prevResult=plugin("ADD"))
        assert shown("net1", pod_netns)["mtu"] == 1300
    plugin("DEL")
    assert (shown("eth1"), link("net1", pod_netns)) == (AS_IT_WAS, None)


@pytest.mark.parametrize("number", range(CHANGES))
@pytest.mark.parametrize("pod", ["there", "gone"])
def test_after_a_crash_at_any_change_of_a_delete_the_next_one_finishes_it(pod_netns, monkeypatch, number, pod):
    plugin = Device(pod_netns, **WISHES)
    plugin("ADD")
    crash_at(monkeypatch, number)
    with pytest.raises(MemoryError):
        plugin("DEL")
    monkeypatch.undo()
    if pod == "gone" and number:  # before that it would die with the pod
        subprocess.run(["ip", "netns", "del", Path(pod_netns).name], check=True)
    plugin("DEL")
    assert shown("eth1") == AS_IT_WAS


def test_an_add_makes_no_more_changes_than_the_tests_of_crashes_know(pod_netns, monkeypatch):
    done = crash_at(monkeypatch, 1000)
    plugin = Device(pod_netns, **WISHES)
    plugin("ADD")
    assert len(done) == CHANGES
    done.clear()
    plugin("DEL")
    assert len(done) == CHANGES


def test_a_pod_that_renames_it_and_changes_its_mac_loses_it_all_the_same(pod_netns):
    plugin = Device(pod_netns)
    plugin("ADD")
    ip("link", "set", "net1", "down", netns=pod_netns)
    ip("link", "set", "net1", "name", "mine", "address", "02:00:00:00:00:77", netns=pod_netns)
    plugin("DEL")
    assert (shown("eth1"), link("mine", pod_netns)) == (AS_IT_WAS, None)


def test_its_name_comes_back_though_the_pod_has_an_interface_of_that_name(pod_netns):
    plugin = Device(pod_netns)
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "other", netns=pod_netns)
    result = plugin("ADD")
    plugin("CHECK", prevResult=result)
    plugin("DEL")
    assert (shown("eth1"), link("eth1", pod_netns)["ifname"]) == (AS_IT_WAS, "eth1")


def test_a_name_that_is_taken_in_the_pod_is_an_error_and_nothing_is_changed(pod_netns):
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other", netns=pod_netns)
    before = link("net1", pod_netns)
    with pytest.raises(errors.CNIError) as caught:
        Device(pod_netns)("ADD")
    assert (caught.value.code, "net1" in caught.value.message) == (7, True)
    assert (shown("eth1"), link("net1", pod_netns)) == (AS_IT_WAS, before)


def test_an_index_that_the_pod_has_already_makes_no_difference(pod_netns):
    index = link("eth1")["ifindex"]
    ip("link", "add", "other", "index", str(index), "type", "veth", "peer", "name", "x", netns=pod_netns)
    plugin = Device(pod_netns)
    plugin("ADD")
    assert link("net1", pod_netns)["ifindex"] != index
    plugin("DEL")
    assert (shown("eth1"), link("other", pod_netns)["ifindex"]) == (AS_IT_WAS, index)


def test_a_name_that_the_node_gave_away_meanwhile_is_told_and_neither_is_touched(pod_netns):
    plugin = Device(pod_netns)
    plugin("ADD")
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "other")
    before = link("eth1")
    with pytest.raises(errors.CNIError, match="another eth1"):
        plugin("DEL")
    assert (link("eth1"), link("net1", pod_netns) is not None) == (before, True)
    ip("link", "del", "eth1")
    plugin("DEL")
    assert shown("eth1") == AS_IT_WAS


def test_a_delete_without_journal_and_configuration_gives_back_the_name(pod_netns):
    Device(pod_netns)("ADD")
    Plugin(pod_netns, device="nonsense")("DEL")
    assert (link("eth1")["ifname"], link("eth1").get("ifalias"), link("net1", pod_netns)) == ("eth1", None, None)


def test_a_delete_without_any_add_takes_nothing(pod_netns):
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other", netns=pod_netns)
    Device(pod_netns)("DEL")
    assert (shown("eth1"), link("net1", pod_netns)["ifname"]) == (AS_IT_WAS, "net1")


@pytest.mark.parametrize("netns", ["", "/run/netns/hntest-gone"])
def test_a_delete_without_a_namespace_releases_the_address_and_is_no_error(netns):
    ipam = FakeIPAM({})
    Device(netns, ipam, ipam={"type": "fake"})("DEL")
    assert ([call[1] for call in ipam.calls], shown("eth1")) == (["DEL"], AS_IT_WAS)


def test_a_virtual_interface_dies_with_its_pod_and_the_delete_is_content(pod_netns):
    plugin = Device(pod_netns)
    plugin("ADD")
    subprocess.run(["ip", "netns", "del", Path(pod_netns).name], check=True)
    plugin("DEL")
    assert link("eth1") is None


def in_use(*commands: str):
    return [command.split() for command in commands]


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        (in_use("addr add 10.1.0.2/24 dev eth1", "route add default via 10.1.0.1"), "default route"),
        (in_use("addr add 10.1.0.2/24 dev eth1"), "10.1.0.2/24"),
        (in_use("link add br0 type bridge", "link set eth1 master br0"), "is a port"),
        (in_use("link add link eth1 name child type macvlan"), "carries child"),
        (in_use("link add link eth1 name child type vxlan id 5 dev eth1 dstport 4789"), "carries child"),
    ],
)
def test_what_the_node_needs_is_refused_unless_the_configuration_insists(pod_netns, commands, why):
    for command in commands:
        ip(*command)
    with pytest.raises(errors.CNIError) as caught:
        Device(pod_netns)("ADD")
    assert (caught.value.code, why in caught.value.message, "allowInUse" in caught.value.message) == (7, True, True)
    assert shown("eth1") == AS_IT_WAS
    Device(pod_netns, allowInUse=True)("ADD")
    assert link("net1", pod_netns)


@pytest.mark.parametrize("allowed", [True, False])
def test_the_loopback_and_links_that_are_not_there_are_refused(pod_netns, allowed):
    for name, why in (("lo", "stays"), ("eth7", "no interface of this node")):
        with pytest.raises(errors.CNIError, match=why) as caught:
            Device(pod_netns, hostInterface=name, allowInUse=allowed)("ADD")
        assert caught.value.code == 7


def test_a_bridge_with_ports_and_the_host_end_of_another_attachment_are_refused(pod_netns, second_pod_netns):
    Plugin(second_pod_netns, device="bridge", bridge="br0")("ADD", container="other")
    host = options.host_name(Key(ContainerID("other"), "net1"))
    for name, why in (("br0", f"carries {host}"), (host, "is a port")):
        with pytest.raises(errors.CNIError, match=why):
            Device(pod_netns, hostInterface=name)("ADD")
    ip("link", "set", host, "nomaster")
    with pytest.raises(errors.CNIError, match="host end of an attachment"):
        Device(pod_netns, hostInterface=host)("ADD")


def record(container: str, netns: str) -> Record:
    key = Key(ContainerID(container), "net1")
    return Record(key, Origin.RUNTIME, Phase.ADDING, "", "", "{}", Namespace(netns, 1, 1), None)


def test_who_asks_for_an_interface_that_is_held_is_told_by_whom(pod_netns, second_pod_netns, tmp_path, kernel):
    journal = Journal(tmp_path)
    first, second = Device(pod_netns), Device(second_pod_netns)
    for plugin, container in ((first, "one"), (second, "two")):
        plugin.native = Native(kernel, FakeIPAM({}), View(), journal)
        journal.begin(record(container, plugin.netns), durable=False)
    first("ADD", container="one")
    for choice in ({}, {"hostInterface": "", "hwaddr": BEFORE["address"]}):
        with pytest.raises(errors.CNIError, match="held by one/net1") as caught:
            second("ADD", container="two", **choice)
        assert caught.value.code == 7
    assert link("net1", pod_netns)
    first("DEL", container="one")
    journal.remove(Key(ContainerID("one"), "net1"))
    second("ADD", container="two")
    assert link("net1", second_pod_netns)


def test_a_mark_of_another_attachment_is_respected_without_a_journal(pod_netns, second_pod_netns):
    ip("link", "set", "eth1", "alias", options.mark(Key(ContainerID("other"), "net1")) + " eth1")
    with pytest.raises(errors.CNIError, match="held by another attachment"):
        Device(pod_netns, allowInUse=True)("ADD")


def test_check_says_that_another_interface_has_the_name(pod_netns):
    plugin = Device(pod_netns)
    previous = plugin("ADD")
    ip("link", "del", "net1", netns=pod_netns)
    with pytest.raises(errors.CNIError, match="missing"):
        plugin("CHECK", prevResult=previous)
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other", netns=pod_netns)
    with pytest.raises(errors.CNIError, match="not the device"):
        plugin("CHECK", prevResult=previous)


def test_check_names_a_mac_that_changed_though_none_was_chosen(pod_netns):
    plugin = Device(pod_netns)
    previous = plugin("ADD")
    ip("link", "set", "net1", "address", "02:00:00:00:00:77", netns=pod_netns)
    with pytest.raises(errors.CNIError, match=f"02:00:00:00:00:77, not {BEFORE['address']}"):
        plugin("CHECK", prevResult=previous)


def test_what_was_shaped_in_the_pod_is_free_on_the_node(pod_netns):
    shaped = {"ingressRate": 10**7, "ingressBurst": 10**6, "egressRate": 10**7, "egressBurst": 10**6}
    plugin = Device(pod_netns, **shaped)
    plugin("CHECK", prevResult=plugin("ADD"))
    plugin("DEL")
    disciplines = subprocess.run(["tc", "qdisc", "show", "dev", "eth1"], check=True, capture_output=True, text=True)
    assert ("tbf" in disciplines.stdout, "clsact" in disciplines.stdout) == (False, False)
    assert [one["ifname"] for one in ip("link", netns=pod_netns)] == ["lo"]


def test_status_needs_no_device_that_is_free(pod_netns):
    Device(pod_netns)("ADD")
    Device("")("STATUS")
