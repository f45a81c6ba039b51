"""The device `host-device` on the real kernel. The node's interfaces are veth ends here, whose other end is a cable."""

import subprocess
from pathlib import Path

import pytest

from agent import borrowing, options, rtnl
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


@pytest.mark.parametrize("has_it", ["name", "altname"])
def test_where_another_link_has_its_name_by_now_it_comes_back_under_a_free_one_and_that_is_told(
    pod_netns, caplog, has_it
):
    plugin = Device(pod_netns)
    plugin("ADD")
    ip("link", "add", "eth1" if has_it == "name" else "eth7", "type", "veth", "peer", "name", "eth1-2")
    if has_it == "altname":
        ip("link", "property", "add", "dev", "eth7", "altname", "eth1")
    before = {one["ifname"]: one["ifindex"] for one in ip("link")}
    for _ in range(3):
        plugin("DEL")
        assert (shown("eth1-3"), link("net1", pod_netns)) == (AS_IT_WAS, None)
    assert {one["ifname"]: one["ifindex"] for one in ip("link")} == {**before, "eth1-3": link("eth1-3")["ifindex"]}
    assert [one.getMessage() for one in caplog.records] == [
        "interface eth1 comes back to the node as eth1-3: another link has its name"
    ]


@pytest.mark.parametrize("number", range(CHANGES))
def test_after_a_crash_on_the_way_back_under_another_name_the_next_delete_finishes_it(pod_netns, monkeypatch, number):
    plugin = Device(pod_netns, **WISHES)
    plugin("ADD")
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "other")
    before = link("eth1")
    crash_at(monkeypatch, number)
    with pytest.raises(MemoryError):
        plugin("DEL")
    monkeypatch.undo()
    plugin("DEL")
    assert (shown("eth1-2"), link("eth1"), link("net1", pod_netns)) == (AS_IT_WAS, before, None)


def test_a_name_that_became_free_again_before_a_delete_is_finished_is_its_own_again(pod_netns, monkeypatch):
    plugin = Device(pod_netns)
    plugin("ADD")
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "other")
    crash_at(monkeypatch, 1)  # it is on the node, and still marked
    with pytest.raises(MemoryError):
        plugin("DEL")
    monkeypatch.undo()
    ip("link", "del", "eth1")
    plugin("DEL")
    assert (shown("eth1"), link("eth1-2")) == (AS_IT_WAS, None)


NODES_OWN = [
    "addr add 10.1.0.2/24 dev eth1 label eth1:0", "addr add 10.1.0.3/24 dev eth1 noprefixroute metric 50",
    "addr add 10.1.0.9 peer 10.1.0.10 dev eth1", "addr add fd00:1::2/64 dev eth1 nodad",
    "addr add fe80::42/64 dev eth1 nodad", "route add 10.2.0.0/16 via 10.1.0.1 metric 7 mtu 1300",
    "route add 10.3.0.0/16 dev eth1 src 10.1.0.3 table 77", "route add default via 10.1.0.1 metric 9",
    "route add 10.4.0.0/16 via 192.0.2.1 dev eth1 onlink proto static",
    "-6 route add fd00:2::/64 via fd00:1::1 dev eth1 metric 33", "-6 route add fd00:3::/64 dev eth1 pref low",
]  # fmt: skip


def set_up() -> dict[str, object]:
    """What the node has set up on its interface, but for how it fares, and for what the kernel makes of it later."""
    unlike = {"tentative", "valid_life_time", "preferred_life_time", "flags"}
    found = {version: ip(version, "route", "show", "table", "all", "dev", "eth1") for version in ("-4", "-6")}
    routes = [*found["-4"], *(one for one in found["-6"] if one.get("protocol") != "kernel")]
    (shown_now,) = [one for one in ip("addr", "show", "dev", "eth1") if one]
    addresses = [one for one in shown_now["addr_info"] if one.get("protocol") != "kernel_ll"]
    return {
        what: sorted(repr(sorted((key, value) for key, value in one.items() if key not in unlike)) for one in some)
        for what, some in (("routes", routes), ("addresses", addresses))
    }


@pytest.fixture
def busy(eth1):
    """The interface as one of the node's own; what it had is returned."""
    for command in NODES_OWN:
        ip(*command.split())
    return set_up()


def test_addresses_and_routes_that_the_node_had_on_it_are_there_again(pod_netns, busy):
    ip("addr", "add", "10.8.0.2/24", "dev", "eth1", "valid_lft", "1000", "preferred_lft", "900")
    plugin = Device(pod_netns, allowInUse=True)
    plugin("ADD")
    assert [one["addr_info"] for one in ip("-4", "addr", "show", "dev", "net1", netns=pod_netns) if one] == []
    for _ in range(3):
        plugin("DEL")
        assert (shown("eth1"), set_up()) == (AS_IT_WAS, busy)


def test_routes_by_another_interface_as_well_are_left_to_who_made_them(pod_netns, busy):
    ip("addr", "add", "10.9.0.2/24", "dev", "cable")
    both = ("nexthop", "via", "10.1.0.1", "nexthop", "via", "10.9.0.1")
    ip("route", "add", "10.5.0.0/16", *both)
    plugin = Device(pod_netns, allowInUse=True)
    plugin("ADD")
    plugin("DEL")
    assert set_up()["addresses"] == busy["addresses"]
    assert [one for one in busy["routes"] if one not in set_up()["routes"]] == []


def test_what_cannot_be_put_back_is_told_and_hinders_nothing(pod_netns, busy, caplog):
    plugin = Device(pod_netns, allowInUse=True)
    plugin("ADD")
    key = next(iter(plugin.notes))
    plugin.notes[key]["setup"]["routes"] = ("02400000fe03fd0100000000",)  # of a family that has no such prefix
    plugin("DEL")
    assert (shown("eth1"), set_up()["addresses"]) == (AS_IT_WAS, busy["addresses"])
    assert "a route that an interface had on the node is not put back" in caplog.text


def every_change(monkeypatch, number: int) -> list[int]:
    """As crash_at, but for messages that are encoded by hand as well."""
    done, exchange = crash_at(monkeypatch, number), rtnl.Socket.exchange

    def counted(self, kind, body, flags=0):
        if flags & rtnl.ACK and len(done) >= number:
            raise MemoryError
        answer = exchange(self, kind, body, flags)
        if flags & rtnl.ACK:
            done.append(1)
        return answer

    monkeypatch.setattr(rtnl.Socket, "exchange", counted)
    return done


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_wherever_a_crash_is_addresses_and_routes_come_back_whole(pod_netns, busy, monkeypatch, verb):
    for number in range(40):
        plugin = Device(pod_netns, **WISHES, allowInUse=True)
        if verb == "DEL":
            plugin("ADD")
        with monkeypatch.context() as patch:
            done = every_change(patch, number)
            try:
                plugin(verb)
            except MemoryError:
                assert len(done) == number
        plugin("DEL")
        assert (shown("eth1"), set_up(), link("net1", pod_netns)) == (AS_IT_WAS, busy, None), number
        if len(done) < number:
            assert number > len(NODES_OWN) or verb == "ADD"
            return
    pytest.fail("so many changes?")


def impostor(netns: str, alias: str, *, name: str = "eth1", index: int = 0) -> None:
    """A link of the pod's own that poses as the card."""
    at = ("index", str(index)) if index else ()
    ip("link", "add", name, *at, "address", BEFORE["address"], "type", "veth", "peer", "name", "tap0", netns=netns)
    ip("link", "set", name, "alias", alias, netns=netns)


@pytest.mark.parametrize("hidden", ["", "mine"])
def test_a_link_of_the_pods_own_with_the_cards_mark_and_name_does_not_come_to_the_node_in_its_place(
    pod_netns, busy, hidden
):
    plugin = Device(pod_netns, allowInUse=True)
    previous = plugin("ADD")
    mark = link("net1", pod_netns)["ifalias"]
    if hidden:
        ip("link", "set", "net1", "down", netns=pod_netns)
        ip("link", "set", "net1", "alias", "", "name", hidden, netns=pod_netns)
    impostor(pod_netns, mark, name="net1" if hidden else "eth1")
    if hidden:
        with pytest.raises(errors.CNIError, match="not the device"):
            plugin("CHECK", prevResult=previous)
    for _ in range(2):
        plugin("DEL")
        assert (shown("eth1"), set_up(), link("eth1")["link"]) == (AS_IT_WAS, busy, "cable")
    assert {one["ifname"] for one in ip("link", netns=pod_netns)} == {"lo", "tap0", "net1" if hidden else "eth1"}


def test_nor_does_one_that_was_made_under_the_index_of_the_card_after_that_was_deleted(pod_netns, busy, caplog):
    plugin = Device(pod_netns, allowInUse=True)
    plugin("ADD")
    there = link("net1", pod_netns)
    ip("link", "del", "net1", netns=pod_netns)
    impostor(pod_netns, there["ifalias"], index=there["ifindex"])
    before = [one["ifname"] for one in ip("link")]
    plugin("DEL")
    assert (link("eth1"), [one["ifname"] for one in ip("link")]) == (None, before)
    assert link("eth1", pod_netns)["ifalias"] == there["ifalias"]
    assert "link eth1 of a pod bears the mark of interface eth1, and is not proven to be it" in caplog.text


def test_a_swap_between_look_and_move_is_undone_before_the_node_sends_anything_there(pod_netns, busy, monkeypatch):
    plugin = Device(pod_netns, allowInUse=True)
    plugin("ADD")
    there, move = link("net1", pod_netns), borrowing.move

    def swapped(*arguments, **keywords):
        monkeypatch.undo()
        ip("link", "del", "net1", netns=pod_netns)
        impostor(pod_netns, there["ifalias"], index=there["ifindex"])
        move(*arguments, **keywords)

    monkeypatch.setattr(borrowing, "move", swapped)
    with pytest.raises(errors.CNIError, match="is not the one that was lent") as caught:
        plugin("DEL")
    assert (caught.value.code, link("eth1"), link("net1", pod_netns)["link"]) == (11, None, "tap0")
    plugin("DEL")
    assert link("eth1") is None


def test_a_card_whose_other_end_is_neither_on_the_node_nor_in_the_pod_is_told_from_an_impostor_too(
    pod_netns, second_pod_netns
):
    ip("link", "set", "cable", "netns", Path(second_pod_netns).name)
    plugin = Device(pod_netns)
    plugin("ADD")
    mark = link("net1", pod_netns)["ifalias"]
    ip("link", "set", "net1", "alias", "", netns=pod_netns)
    impostor(pod_netns, mark)
    plugin("DEL")
    assert (shown("eth1"), link("net1", pod_netns), link("eth1", pod_netns)["link"]) == (AS_IT_WAS, None, "tap0")


@pytest.mark.parametrize("number", range(CHANGES))
def test_a_crash_on_the_way_back_of_a_card_whose_mark_the_pod_took_off_is_finished_too(
    pod_netns, busy, monkeypatch, number
):
    plugin = Device(pod_netns, **WISHES, allowInUse=True)
    plugin("ADD")
    ip("link", "set", "net1", "alias", "", netns=pod_netns)
    crash_at(monkeypatch, number)
    with pytest.raises(MemoryError):
        plugin("DEL")
    monkeypatch.undo()
    plugin("DEL")
    assert (shown("eth1"), set_up()) == (AS_IT_WAS, busy)


def test_an_add_does_not_take_a_link_that_the_pod_has_marked_for_the_card(pod_netns):
    impostor(pod_netns, f"{MARK} eth1", name="net1")
    with pytest.raises(errors.CNIError, match="net1"):
        Device(pod_netns)("ADD")
    assert (shown("eth1"), link("net1", pod_netns)["link"]) == (AS_IT_WAS, "tap0")


def test_a_delete_without_journal_and_configuration_leaves_a_virtual_link_in_the_pod_for_nothing_proves_it(pod_netns):
    Device(pod_netns)("ADD")
    Plugin(pod_netns, device="nonsense")("DEL")
    assert (link("eth1"), link("net1", pod_netns)["ifalias"]) == (None, f"{MARK} eth1")


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
