"""Which attachments of a runtime an annotation asked for."""

import json

import pytest

from agent.adopt import Candidate, Claim, claims, remember
from agent.model import Asked


def asked(network: str, interface: str = "") -> Asked:
    element = {"name": network, "namespace": "ns"} | ({"interface": interface} if interface else {})
    return Asked(json.dumps(element), network)


@pytest.mark.parametrize(
    ("wishes", "there", "links", "claimed"),
    [
        ([asked("blue")], [Candidate("blue", "net1"), Candidate("blue", "net2")], ["net1", "net2"], ["net2"]),
        ([asked("blue", "x1")], [Candidate("blue", "x1")], ["x1"], ["x1"]),
        ([asked("blue", "x1")], [Candidate("red", "x1")], ["x1"], []),
        ([asked("blue", "x1")], [Candidate("blue", "x2")], ["x2"], []),
        ([asked("blue", "x1")], [Candidate("blue", "x1")], [], []),
        ([], [Candidate("default-net", "net1")], ["net1"], []),
        ([asked("blue")], [Candidate("blue", "net1")], ["net1"], ["net1"]),
        ([asked("blue")], [Candidate("blue", "eth5")], ["eth5"], []),
        ([asked("blue")], [Candidate("blue", "eth0")], ["eth0"], []),
        ([asked("eth", "eth0")], [Candidate("eth", "eth0")], ["eth0"], []),
        ([asked("blue"), asked("blue")], [Candidate("blue", "net10"), Candidate("blue", "net2")], ["net2", "net10"],
         ["net2", "net10"]),
        ([asked("blue"), asked("blue", "net1")], [Candidate("blue", "net1")], ["net1"], ["net1"]),
    ],
    ids=["same-network-as-default", "named", "other-network", "other-interface", "link-gone", "nobody-asked",
         "unnamed", "not-counted", "unnamed-eth0", "named-eth0", "counted-in-order", "explicit-name-first"],
)  # fmt: skip
def test_only_what_was_asked_for_and_is_there_is_claimed(wishes, there, links, claimed):
    assert [claim.ifname for claim in claims(wishes, there, links)] == claimed


def test_an_explicit_name_wins_over_an_unnamed_element():
    wishes = [asked("blue"), asked("blue", "net1")]
    assert claims(wishes, [Candidate("blue", "net1")], ["net1"]) == (Claim(wishes[1], "net1"),)


def test_what_an_earlier_edit_asked_for_is_remembered_as_often_as_it_asked():
    blue, red = asked("blue"), asked("red")
    first = remember((), [blue, blue])
    assert remember(first, [red, blue]) == (blue, blue, red)
    assert remember(first, [blue, blue, blue]) == (blue, blue, blue)


def test_memory_is_bounded():
    many = [asked(f"n{number}") for number in range(300)]
    assert remember((), many) == tuple(many[-256:])
