"""The monitor's client, against ends that are not QEMU."""

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.guests import contract, messages, qemu, qmp
from agent.guests.contract import Nic, Running, Stage
from agent.guests.qmp import Monitor, Refusal
from agent.model import NotReady
from tests.agent.guests import peers
from tests.agent.guests.peers import GREETING, Behaviour, Peer, hears, say

NIC = Nic("ua-net1", "02:aa:00:00:00:01", "tap1", 1500)


def in_(seconds: float) -> float:
    return time.monotonic() + seconds


def outcome(call: Callable[[Any], object], argument: object) -> str:
    """Return the reason that the call ends with, of those that the contract has; "": it is done."""
    try:
        call(argument)
    except NotReady as problem:
        return problem.reason
    return ""


@pytest.fixture
def peer() -> Iterator[Callable[[Behaviour], socket.socket]]:
    started = []

    def start(behaviour: Behaviour) -> socket.socket:
        started.append(Peer(behaviour))
        return started[-1].socket

    yield start
    for one in started:
        one.end()


def greeted(then: Behaviour) -> Behaviour:
    """A monitor that is mad only once it has been greeted."""

    def behaviour(end: socket.socket) -> None:
        say(end, GREETING)
        say(end, {"return": {}, "id": json.loads(end.makefile("rb").readline())["id"]})
        then(end)

    return behaviour


def answering(answer: Callable[[str, dict], object]) -> Behaviour:
    """A monitor that answers each command."""

    def behaviour(end: socket.socket) -> None:
        for said in hears(end):
            say(end, {"return": answer(said["execute"], said["arguments"]), "id": said["id"]})

    def greeting(end: socket.socket) -> None:
        say(end, GREETING)
        behaviour(end)

    return greeting


def test_answers_find_their_command_and_events_are_kept(peer):
    def behaviour(end):
        say(end, GREETING)
        for said in hears(end):
            say(end, {"event": "RESUME", "timestamp": {}})
            say(end, {"return": "old", "id": said["id"] - 1})
            say(end, {"event": "DEVICE_DELETED", "data": {"device": "d"}})
            if said["execute"] == "wrong":
                say(end, {"error": {"class": "DeviceNotFound", "desc": "no such thing" * 100}, "id": said["id"]})
            else:
                say(end, {"return": {"said": said["arguments"]}, "id": said["id"]})

    monitor = Monitor(peer(behaviour), in_(30))
    assert monitor.execute("right", {"a": "é"}, in_(30)) == {"said": {"a": "é"}}
    assert [(event.name, event.device) for event in monitor.heard()][-1] == ("DEVICE_DELETED", "d")
    assert monitor.heard() == []
    with pytest.raises(Refusal, match="no such thing") as caught:
        monitor.execute("wrong", {}, in_(30))
    assert (caught.value.kind, len(str(caught.value))) == ("DeviceNotFound", 500)
    monitor.close()


def test_of_many_events_the_last_are_kept(peer):
    def behaviour(end):
        for number in range(2000):
            say(end, {"event": f"E{number}"})
        say(end, {"event": 5})
        peers.mute(end)

    monitor = Monitor(peer(greeted(behaviour)), in_(30))
    while monitor.listen(in_(0.3)):
        pass
    names = [event.name for event in monitor.heard()]
    assert (names[-1], len(names)) == ("E1999", 256)


def test_of_an_event_no_more_is_kept_than_its_name_and_its_device(peer):
    huge = "x" * (messages.LINE_BYTES // 4)

    def behaviour(end):
        for device in (huge, {"a": huge}, None):
            say(end, {"event": huge, "data": {"device": device, "more": huge}})
        say(end, {"event": "E", "data": huge})
        peers.mute(end)

    monitor = Monitor(peer(greeted(behaviour)), in_(30))
    for _ in range(4):
        assert monitor.listen(in_(30))
    events = monitor.heard()
    assert [(len(one.name), len(one.device)) for one in events] == [(128, 128), (128, 0), (128, 0), (1, 0)]
    monitor.close()


def test_a_machine_that_tells_without_an_end_is_left(peer):
    told = []

    def behaviour(end):
        while True:
            say(end, {"event": "E", "data": "x" * 100_000})
            told.append(100_000)

    monitor = Monitor(peer(greeted(behaviour)), in_(30))
    monitor.allow()
    with pytest.raises(NotReady, match="more than anybody asked for"):
        monitor.execute("query-status", {}, in_(600))
    assert sum(told) < 2 * qmp.CALL_BYTES


def test_each_call_has_its_own_bytes(peer):
    def answer(command, arguments):
        return {"status": "x" * 900_000} if command == "query-status" else []

    machine = qemu.Qemu(peer(answering(answer)), None, "", in_(30))
    for _ in range(12):
        assert machine.look(NIC).stage is Stage.ABSENT
    machine.close()


def test_slow_answers_about_many_devices_do_not_add_up(peer, monkeypatch):
    """None of them has a driver, so all are looked at while one of them is waited for."""
    slow, asked = threading.Event(), []

    def answer(command, arguments):
        if command == "qom-list":
            return [{"name": f"d{number}"} for number in range(200)]
        if command == "x-query-virtio-status":
            asked.append(arguments["path"])
            slow.is_set() and time.sleep(0.1)
            return {"status": {"statuses": []}}
        return {"status": "running"} if command == "query-status" else {}

    machine = qemu.Qemu(peer(answering(answer)), None, "", in_(30))
    for number in range(200):
        assert machine.look(Nic(f"d{number}", NIC.mac, "t", 1500)).stage is Stage.PLUGGED
    slow.set()
    asked.clear()
    machine.wait(0.25)
    assert len(asked) < 100
    machine.close()


def test_a_descriptor_goes_along_also_to_one_that_answers_and_is_gone(peer, monkeypatch):
    read, write = os.pipe()
    send_fds = socket.send_fds

    def slow(connected, *sent):
        done = send_fds(connected, *sent)
        poller = select.poll()
        poller.register(connected, select.POLLRDHUP)
        assert poller.poll(30_000)
        return done

    monkeypatch.setattr(messages.socket, "send_fds", slow)

    def behaviour(end):
        data, descriptors, _, _ = socket.recv_fds(end, 65536, 4)
        for one in descriptors:
            os.write(one, b"through it")
            os.close(one)
        say(end, {"return": len(descriptors), "id": json.loads(data)["id"]})

    monitor = Monitor(peer(greeted(behaviour)), in_(30))
    assert monitor.execute("getfd", {"fdname": "x"}, in_(30), fd=write) == 1
    assert os.read(read, 100) == b"through it"
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("behaviour", peers.MAD)
def test_a_mad_greeting_ends_in_not_ready(peer, behaviour):
    with pytest.raises(NotReady) as caught:
        Monitor(peer(behaviour), in_(0.3))
    assert caught.value.reason == "VMUnreachable"


@pytest.mark.parametrize("behaviour", peers.MAD)
def test_a_mad_answer_ends_in_not_ready_and_so_does_all_that_follows(peer, behaviour):
    monitor = Monitor(peer(greeted(behaviour)), in_(30))
    for end in (0.3, 600):
        with pytest.raises(NotReady) as caught:
            monitor.execute("query-status", {}, in_(end))
        assert caught.value.reason == "VMUnreachable"


@pytest.mark.parametrize("behaviour", peers.MAD)
def test_waiting_for_a_mad_machine_ends(peer, behaviour):
    machine = qemu.Qemu(peer(greeted(behaviour)), None, "", in_(30))
    assert outcome(machine.wait, 0.3) in ("", "VMUnreachable")
    machine.close()


def test_one_that_takes_nothing_is_not_waited_for(peer):
    def behaviour(end):
        while time.monotonic() < give_up:
            time.sleep(0.05)

    give_up = in_(1)
    monitor = Monitor(peer(greeted(behaviour)), in_(30))
    with pytest.raises(NotReady, match="does not take"):
        monitor.execute("big", {"x": "x" * (8 << 20)}, in_(0.2))


@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_the_end_is_noticed_while_nobody_asks_anything(peer, seconds):
    machine = qemu.Qemu(peer(greeted(peers.gone)), None, "", in_(30))

    def wait() -> None:
        while True:
            machine.wait(seconds)

    with pytest.raises(NotReady, match="closed the connection"):
        wait()


def test_what_the_machine_tells_between_two_looks_ends_the_wait_at_once(peer):
    def answer(command, arguments):
        return {"status": "running"} if command == "query-status" else {} if command == "query-migrate" else []

    def behaviour(end):
        for said in hears(end):
            say(end, {"return": answer(said["execute"], said["arguments"]), "id": said["id"]})
            if said["execute"] == "qom-list":
                say(end, {"event": "DEVICE_DELETED", "data": {}})
                say(end, {"event": "RTC_CHANGE", "data": {}})

    machine = qemu.Qemu(peer(greeted(behaviour)), None, "", in_(30))
    assert machine.look(NIC) == contract.Seen(Stage.ABSENT)
    machine.wait(600)
    assert machine.look(NIC) == contract.Seen(Stage.ABSENT)
    machine.wait(600)
    machine.wait(0.05)


STATES = {
    "running": Running.RUNNING, "paused": Running.PAUSED, "prelaunch": Running.PAUSED, "io-error": Running.PAUSED,
    "suspended": Running.PAUSED, "inmigrate": Running.INCOMING, "finish-migrate": Running.MIGRATING,
    "postmigrate": Running.MIGRATED, "shutdown": Running.STOPPED, "guest-panicked": Running.STOPPED,
    "internal-error": Running.STOPPED, "of a later version": Running.PAUSED,
}  # fmt: skip


@pytest.mark.parametrize(("status", "running"), STATES.items())
def test_each_state_of_the_machine_is_told_as_one_of_the_contracts(peer, status, running):
    def answer(command, arguments):
        return {"query-status": {"status": status}, "query-migrate": {"status": "completed"}}.get(command, [])

    machine = qemu.Qemu(peer(answering(answer)), None, "", in_(30))
    assert machine.look(NIC) == contract.Seen(Stage.ABSENT, running)
    if running in (Running.STOPPED, Running.MIGRATED, Running.MIGRATING):
        with pytest.raises(NotReady) as caught:
            machine.plug(NIC, lambda: pytest.fail("the tap is opened"))
        assert caught.value.reason == ("VMRefused" if running is Running.STOPPED else "VMMigrating")
    machine.close()


@pytest.mark.parametrize("status", ["setup", "active", "postcopy-active", "pre-switchover", "device", "cancelling"])
def test_a_migration_on_its_way_is_told_also_of_a_machine_that_stands_still(peer, status):
    for state in ("running", "paused"):

        def answer(command, arguments, state=state):
            return {"query-status": {"status": state}, "query-migrate": {"status": status}}.get(command, [])

        machine = qemu.Qemu(peer(answering(answer)), None, "", in_(30))
        assert machine.look(NIC).running is Running.MIGRATING
        machine.close()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["ua-net1", "active", "type", "child<x>", "\ud800", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "status", "statuses", "vlan", "filename", "type", "id"]), inner)
    ),
    max_leaves=6,
)


@example([None, {"status": []}])
@given(st.lists(json_values, min_size=1, max_size=6))
def test_whatever_it_answers_every_call_ends_as_the_contract_says(answers):
    def behaviour(end):
        say(end, GREETING)
        for number, said in enumerate(hears(end)):
            value = answers[number % len(answers)]
            known = [{"name": "ua-net1"}] if number % 3 else value  # often enough it seems to be there
            key = "error" if number % 7 == 6 and isinstance(value, dict) else "return"
            say(end, {key: known if key == "return" else value, "id": said["id"]})

    one = Peer(behaviour)
    try:
        machine = qemu.Qemu(one.socket, None, "/run/qga.sock", in_(30))
        for call in (machine.look, machine.unplug, lambda nic: machine.plug(nic, lambda: os.open("/dev/null", 0))):
            assert outcome(call, NIC) in ("", "VMUnreachable", "VMMigrating", "NoFreePort", "VMRefused")
        machine.close()
    finally:
        one.end()


def test_a_whole_line_may_be_as_long_as_the_bound_and_no_longer(peer):
    def behaviour(end):
        say(end, {"return": "x" * (messages.LINE_BYTES - 200), "id": 2})
        mute = hears(end)
        next(mute)
        next(mute)
        say(end, {"return": "x" * (2 * messages.LINE_BYTES), "id": 3})

    monitor = Monitor(peer(greeted(behaviour)), in_(30))
    assert len(monitor.execute("long", {}, in_(30))) == messages.LINE_BYTES - 200
    with pytest.raises(NotReady, match="longer than"):
        monitor.execute("longer", {}, in_(30))
