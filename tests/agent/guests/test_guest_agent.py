"""The guest's agent: a courtesy that must cost nothing when it is not done."""

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from agent.guests import guest_agent
from agent.guests.guest_agent import GuestAgent, Interface
from agent.model import NotReady
from tests.agent.guests import peers
from tests.agent.guests.peers import Behaviour, Peer, say

MAC = "02:AA:00:00:00:01"
LISTED = [
    {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": []},
    {"name": "sit0"},
    "odd",
    {
        "name": "enp1s0",
        "hardware-address": "02:aa:00:00:00:01",
        "ip-addresses": [
            {"ip-address": "10.9.1.2", "ip-address-type": "ipv4", "prefix": 24},
            {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
            {"ip-address": "no address", "prefix": 24},
            {"ip-address": "10.9.1.3"},
            {"ip-address": ["10.9.1.4"], "prefix": 24},
            7,
        ],
    },
]


class Agents:
    """Makes connections, each to an agent that behaves as the test says, and counts them."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = sane()
        self.peers: list[Peer] = []

    def __call__(self, deadline: float) -> socket.socket:
        self.peers.append(Peer(self.behaviour))
        return self.peers[-1].socket


@pytest.fixture
def agents() -> Iterator[Agents]:
    made = Agents()
    yield made
    for peer in made.peers:
        peer.end()


def sane(listed: object = LISTED, before: bytes = b"") -> Behaviour:
    """An agent; `before`: what it says first of all, left over from an earlier client."""

    def behaviour(end: socket.socket) -> None:
        end.sendall(before)
        first = True
        for said in peers.hears(end):
            if said["execute"] == "guest-sync-delimited":
                end.sendall(b"\xff")
                say(end, {"return": said["arguments"]["id"]})
                first = False
            elif not first:
                say(end, {"return": listed})

    return behaviour


def test_the_interface_is_found_by_its_mac(agents):
    agent = GuestAgent(agents)
    for _ in range(3):
        assert agent.interface(MAC) == Interface("enp1s0", ("10.9.1.2/24", "fe80::1/64"))
    assert agent.interface("02:aa:00:00:00:09") is None
    assert len(agents.peers) == 1
    agent.close()
    assert agent.interface(MAC) is not None
    assert len(agents.peers) == 2


@pytest.mark.parametrize(
    "before",
    [
        b'{"return": [{"name": "old", "hardware-address": "02:aa:00:00:00:01"}]}\n',
        b'{"return": 1}\n\xff{"return": 12345}\n{"return": {}}\n',
        b'{"return": [{"name": "old", ',
        b"\x00\x01 garbage\n",
        b'{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}\n',
    ],
)
def test_what_an_earlier_client_left_is_passed_over(agents, before):
    agents.behaviour = sane(before=before)
    assert GuestAgent(agents).interface(MAC).name == "enp1s0"


def refusing(end: socket.socket) -> None:
    for said in peers.hears(end):
        if said["execute"] == "guest-sync-delimited":
            end.sendall(b"\xff")
            say(end, {"return": said["arguments"]["id"]})
        else:
            say(end, {"error": {"class": "CommandNotFound", "desc": "has been disabled"}})


def wrong_sync(end: socket.socket) -> None:
    for _ in peers.hears(end):
        end.sendall(b'\xff{"return": 5}\n')


def mad_later(behaviour: Behaviour) -> Behaviour:
    def later(end: socket.socket) -> None:
        said = next(peers.hears(end))
        end.sendall(b"\xff")
        say(end, {"return": said["arguments"]["id"]})
        behaviour(end)

    return later


MAD = [*peers.MAD, refusing, wrong_sync]
MAD_LATER = [mad_later(one) for one in peers.MAD if one is not peers.other_answers]


def test_one_that_was_greeted_is_asked_on_the_same_connection(agents):
    agent = GuestAgent(agents)
    for _ in range(2):
        agent.greet()
    assert agent.interface(MAC).name == "enp1s0"
    agent.greet()
    assert len(agents.peers) == 1


@pytest.mark.parametrize("behaviour", MAD)
def test_one_that_was_greeted_and_is_mad_is_no_failure_either(agents, behaviour):
    agents.behaviour = behaviour
    agent = GuestAgent(agents)
    agent.greet()
    assert agent.interface(MAC) is None
    agent.greet()
    assert len(agents.peers) == 1


@pytest.mark.parametrize("behaviour", MAD + MAD_LATER)
def test_a_deaf_or_mad_one_is_no_failure_and_not_asked_again_for_a_while(agents, behaviour):
    agents.behaviour = behaviour
    agent = GuestAgent(agents)
    assert agent.interface(MAC) is None
    agents.behaviour = sane()
    assert agent.interface(MAC) is None
    assert len(agents.peers) == 1
    assert eventually(lambda: agent.retry() or agent.interface(MAC))  # it has a third of a second for its answer


def eventually(holds) -> bool:
    end = time.monotonic() + 10
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(held)


def test_one_that_is_not_there_is_no_failure(agents, monkeypatch):
    def refused(deadline: float) -> socket.socket:
        calls.append(deadline)
        raise NotReady("VMUnreachable", "refused")

    calls: list[float] = []
    agent = GuestAgent(refused)
    agent.greet()
    for _ in range(3):
        assert agent.interface(MAC) is None
        agent.greet()
    assert len(calls) == 1
    assert calls[0] <= time.monotonic() + guest_agent.ANSWER_S
    monkeypatch.setattr(guest_agent, "SILENCE_S", 0.0)
    agent.retry()
    for _ in range(3):
        agent.interface(MAC)
    assert len(calls) == 4


def one(**changes: object) -> Callable[[], object]:
    return [{"name": "e", "hardware-address": MAC, "ip-addresses": [], **changes}]


@pytest.mark.parametrize(
    ("listed", "interface"),
    [
        (one(name="x" * 1000), Interface("x" * 64, ())),
        (one(name="a\nb"), Interface("", ())),
        (one(name=5), Interface("", ())),
        (one(**{"ip-addresses": {"a": 1}}), Interface("e", ())),
        (one(**{"ip-addresses": [{"ip-address": f"10.0.0.{n}", "prefix": 8} for n in range(99)]}),
         Interface("e", tuple(f"10.0.0.{n}/8" for n in range(16)))),
        ({"name": "e"}, None),
        (None, None),
        ([one()], None),
    ],
)  # fmt: skip
def test_what_it_says_is_cut_to_size(agents, listed, interface):
    agents.behaviour = sane(listed)
    assert GuestAgent(agents).interface(MAC) == interface
