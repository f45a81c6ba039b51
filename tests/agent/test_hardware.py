import struct

import pytest

from agent import borrowing
from agent.hardware import State, Taken, VirtualFunction, remembered
from agent.journal import Journal
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Record
from agent.rtnl import LinkMessage
from cni import errors

HAD = VirtualFunction("02:00:00:00:00:01", 7, 2, 0x8100, 10, 20, True, None, 0)


def test_what_the_kernel_takes_only_together_is_changed_and_restored_together():
    wish = VirtualFunction(max_rate=30, qos=2, vlan=8, proto=0x8100, trust=True)
    assert wish.changes(HAD) == VirtualFunction(vlan=8, qos=2, proto=0x8100, min_rate=10, max_rate=30, trust=True)
    assert HAD.of(wish) == VirtualFunction(vlan=7, qos=2, proto=0x8100, min_rate=10, max_rate=20)
    assert VirtualFunction(vlan=7, max_rate=20).changes(HAD) == VirtualFunction()


def test_a_memory_is_read_back_as_it_was_written():
    was = State("eth1", "02:00:00:00:00:01", 1500, 1000, 1, "mine", "pci", "0000:3b:00.0", "02:00:00:00:00:02")
    saved = {"was": was.note(), "function": {"card": "ens1", "number": 3}, "settings": HAD.note()}
    assert remembered(saved) == (was, borrowing.Function("ens1", 3), HAD)
    assert remembered({}) == (None, None, VirtualFunction())


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def test_the_cards_settings_are_read_of_the_right_function_and_a_switch_that_is_missing_is_unknown():
    def function(number: int, vlan: int) -> bytes:
        return attribute(
            1,
            attribute(1, struct.pack("=I32s", number, b"\2\0\0\0\0\1"))
            + attribute(2, struct.pack("=III", number, vlan, 2))
            + attribute(4, struct.pack("=II", number, 1))
            + attribute(5, struct.pack("=II", number, 0))
            + attribute(6, struct.pack("=III", number, 10, 20))
            + attribute(9, struct.pack("=II", number, 0xFFFFFFFF))
            + attribute(12, attribute(1, struct.pack("=III", number, vlan, 2) + b"\x81\0\0\0")),
        )

    message = LinkMessage(
        1, 0, "ens1", "", "", 0, 0, 0, 0, "", 0, b"", b"", "", "", "", False, function(0, 6) + function(1, 7)
    )
    assert (borrowing.settings(message, 1), borrowing.settings(message, 2)) == (HAD, None)


def test_what_is_claimed_is_refused_to_another_until_the_record_goes(tmp_path):
    journal = Journal(tmp_path)
    one, two = (Key(ContainerID(name), "net1") for name in ("one", "two"))
    for key in (one, two):
        record = Record(key, Origin.RUNTIME, Phase.ADDING, "", "", "{}", Namespace("", 1, 1), None)
        journal.begin(record, durable=False)
    journal.save(one, {"claims": ["device pci/a", "hostInterface eth1"]})
    journal.save(one, {"claims": ["hostInterface eth1"]})
    with pytest.raises(errors.CNIError, match="hostInterface eth1 is held by one/net1") as caught:
        journal.save(two, {"claims": ["hostInterface eth1", "device pci/b"]})
    assert (caught.value.code, journal.saved(two)) == (7, {})
    journal.save(two, {"claims": ["device pci/a"]})
    journal.remove(one)
    journal.save(two, {"claims": ["hostInterface eth1"]})


PCI, MAC, MARK = "0000:3b:00.0", "02:00:00:00:00:01", "hotnic ab"
CARD = State("eth1", bus="pci", device=PCI, permanent=MAC)


def seen(alias: str = "", device: str = "", permanent: str = "", kind: str = "", parent: int = 0, netns: int = -1):
    bus = "pci" if device else ""
    return LinkMessage(
        1, 0, "x", kind, "", 0, 0, parent, 0, alias, 0, b"", b"", bus, device, permanent, netns >= 0, b"", netns
    )  # fmt: skip


def is_taken(was: State | None, message: LinkMessage) -> bool:
    """The pod calls the node's namespace 3, and 5 what the node calls 8."""
    names = {3: -1, 5: 8}
    return borrowing.is_taken_in_pod(message, Taken(MARK, was), names.get)


def test_a_card_is_proven_by_its_hardware_in_the_pod_and_on_the_node_and_never_by_its_mark():
    wrong = (seen(f"{MARK} eth1"), seen(f"{MARK} eth1", PCI, "02:00:00:00:00:02"), seen("", "0000:3b:00.1", MAC),
             seen(f"{MARK} eth1", PCI, MAC, kind="ipoib"))  # fmt: skip
    for message in wrong:
        assert (is_taken(CARD, message), borrowing.is_taken_on_node(message, Taken(MARK, CARD))) == (False, False)
        assert not borrowing.is_it(message, Taken(MARK, CARD))
    assert is_taken(CARD, seen("", PCI, MAC))
    assert borrowing.is_it(seen("", PCI, MAC), Taken(MARK, CARD))


@pytest.mark.parametrize(("netns_then", "netns"), [(-1, 3), (8, 5)])
def test_a_virtual_link_is_proven_by_what_it_is_made_on_outside_the_pod(netns_then, netns):
    was = State("eth1", kind="veth", parent=7, parent_netns=netns_then)
    assert is_taken(was, seen(kind="veth", parent=7, netns=netns))
    for message in (
        seen(f"{MARK} eth1", kind="veth", parent=7),
        seen(f"{MARK} eth1", kind="veth", parent=7, netns=8 - netns),
        seen(f"{MARK} eth1", kind="veth", parent=7, netns=4),
        seen(f"{MARK} eth1", kind="veth", parent=6, netns=netns),
        seen(f"{MARK} eth1", kind="macvlan", parent=7, netns=netns),
        seen(f"{MARK} eth1", PCI, kind="veth", parent=7, netns=netns),
    ):
        assert not is_taken(was, message)


@pytest.mark.parametrize(("kind", "proven"), [("dummy", True), ("ifb", True), ("tun", False), ("vxlan", False)])
def test_of_links_that_are_made_on_nothing_only_those_that_lead_nowhere_come_back_by_their_mark(kind, proven):
    was = State("eth1", kind=kind)
    assert is_taken(was, seen(f"{MARK} eth1", kind=kind)) is proven
    assert not is_taken(was, seen(kind=kind))
    assert not is_taken(was, seen("hotnic abc eth1", kind=kind))
    assert not is_taken(was, seen(f"{MARK} eth1", kind="veth", parent=3))


def test_of_a_link_that_nothing_is_known_about_the_mark_counts_for_hardware_alone():
    assert is_taken(None, seen(f"{MARK} eth1", PCI))
    for message in (seen("", PCI), seen(f"{MARK} eth1", PCI, kind="ipoib"), seen(f"{MARK} eth1", kind="dummy")):
        assert not is_taken(None, message)
