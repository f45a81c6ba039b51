"""VLANs of a bridge's port as netlink has them: one message, however many."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import links, rtnl, vlans
from agent.ports import Vlan

PVID, UNTAGGED, BEGIN, END = 2, 4, 8, 16


class Node:
    """In place of the kernel."""

    def __init__(self, answers=(), error=0):
        self.answers, self.error, self.sent = answers, error, []

    def exchange(self, kind, body, flags=0):
        self.sent.append((kind, body))
        if self.error:
            raise rtnl.KernelError(self.error, "")
        return list(self.answers)


def infos(body: bytes) -> list[tuple[int, int]]:
    """(flags, ID) of a request, as the kernel reads them."""
    spec = links.attribute(body[16:], 26)
    assert spec is not None
    return [struct.unpack("=HH", value) for kind, value in links.attributes(spec) if kind == 2]


def expanded(found: list[tuple[int, int]]) -> set[Vlan]:
    """As the kernel does it (br_process_vlan_info): a range must be ended by the next one, without PVID, upwards."""
    vlans, begin = set(), None
    for flags, number in found:
        bare = flags & ~(BEGIN | END)
        if flags & BEGIN:
            assert begin is None
            assert not flags & PVID
            begin = number
        elif flags & END:
            assert begin is not None
            assert begin < number
            vlans |= {Vlan(one, bool(bare & PVID), bool(bare & UNTAGGED)) for one in range(begin, number + 1)}
            begin = None
        else:
            assert begin is None
            vlans.add(Vlan(number, bool(bare & PVID), bool(bare & UNTAGGED)))
    assert begin is None
    return vlans


def test_a_trunk_is_one_message_and_neighbours_are_one_range():
    node = Node()
    vlans.change(node, 7, (Vlan(1, pvid=True, untagged=True), Vlan(5), *map(Vlan, range(100, 4095))), ())
    ((kind, body),) = node.sent
    assert kind == rtnl.SETLINK
    assert struct.unpack_from("=BxHi", body) == (7, 0, 7)  # AF_BRIDGE
    assert infos(body) == [(PVID | UNTAGGED, 1), (0, 5), (BEGIN, 100), (END, 4094)]


@given(st.dictionaries(st.integers(1, 4094), st.booleans(), max_size=60), st.integers(1, 4094))
def test_what_is_encoded_is_what_was_asked_for(tagging, native):
    wanted = {Vlan(number, untagged=untagged) for number, untagged in tagging.items() if number != native}
    wanted.add(Vlan(native, pvid=True, untagged=True))
    node = Node()
    vlans.change(node, 7, wanted, ())
    assert expanded(infos(node.sent[0][1])) == wanted


def test_what_goes_goes_first_and_in_one_message():
    node = Node()
    vlans.change(node, 7, (Vlan(100, pvid=True, untagged=True),), (1, 20, 21, 22))
    assert [kind for kind, _ in node.sent] == [rtnl.DELLINK, rtnl.SETLINK]
    assert infos(node.sent[0][1]) == [(0, 1), (BEGIN, 20), (END, 22)]


def test_a_vlan_that_is_gone_already_is_fine_and_another_refusal_is_not():
    vlans.change(Node(error=errno.ENOENT), 7, (), (1,))
    with pytest.raises(rtnl.KernelError):
        vlans.change(Node(error=errno.EPERM), 7, (), (1,))
    with pytest.raises(rtnl.KernelError):
        vlans.change(Node(error=errno.ENOENT), 7, (Vlan(1),), ())


def entry(flags: int, first: int, last: int = 0) -> bytes:
    info = struct.pack("=HHHH", 8, 1, flags, first) + (struct.pack("=HHHxx", 6, 2, last) if last else b"")
    return struct.pack("=HH", len(info) + 4, 1 | 0x8000) + info


def test_ranges_are_read_whole():
    header = struct.pack("=BBHI", 7, 0, 0, 9)
    node = Node([header + entry(PVID | UNTAGGED, 1) + entry(0, 100, 102), header + entry(UNTAGGED, 4094)])
    assert vlans.read(node, 9) == {
        Vlan(1, pvid=True, untagged=True), Vlan(100), Vlan(101), Vlan(102), Vlan(4094, untagged=True),
    }  # fmt: skip
    assert node.sent == [(rtnl.GETVLAN, header)]  # of this port alone


def test_what_is_no_port_has_none_and_a_kernel_without_vlans_is_told_from_it():
    assert vlans.read(Node(error=errno.EINVAL), 9) is None
    assert vlans.supported(Node(error=errno.EINVAL))
    assert vlans.read(Node(error=errno.EOPNOTSUPP), 9) is None  # a DEL reads too, and must not fail for it
    with pytest.raises(rtnl.KernelError):
        vlans.supported(Node(error=errno.EPERM))
