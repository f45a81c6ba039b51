"""The relay on the real kernel: a pod's interface, bridge and tap; the machine is a fake that keeps what it is given,
and holds the tap open as a real one does. Real machines: test_qemu*, test_libvirt*, e2e/vm."""

import os
import socket
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent import netns
from agent.guests import cleaning
from agent.guests import relay as relays
from agent.guests.contract import Running, Seen, Stage
from agent.guests.relay import Relay
from agent.journal import Journal
from agent.model import (
    KUBEVIRT,
    ContainerID,
    Desired,
    Key,
    NotReady,
    Origin,
    Phase,
    Pod,
    PodUID,
    Record,
    Refused,
)  # fmt: skip
from agent.sandboxes import Sandbox
from tests.agent.native import CONTAINER, KERNELS, Plugin, ip, link

pytestmark = pytest.mark.netns

POD = Pod(PodUID("u"), "ns", "p")
VM = '{"qmp": "/run/q.sock"}'
OTHER = '{"qmp": "/run/other.sock"}'


class FakeMachine:
    """A virtual machine that does what it is told, unless the test says otherwise."""

    def __init__(self) -> None:
        self.nics, self.taps, self.leaving = {}, {}, set()
        self.running, self.is_deaf, self.is_blind, self.plugs = Running.RUNNING, False, False, 0
        self.fails: Exception | None = None

    def tap_owner(self):
        return None

    def look(self, nic):
        if nic.id not in self.nics:
            return Seen(Stage.ABSENT, self.running)
        stage = Stage.PLUGGED if self.is_blind or self.running is Running.PAUSED else Stage.VISIBLE
        return Seen(stage, self.running, nic.id in self.leaving, "rp1", "driver", "eth1")

    def plug(self, nic, opened_tap):
        if self.fails:
            raise self.fails
        self.taps[nic.id] = opened_tap()
        self.nics[nic.id], self.plugs = nic, self.plugs + 1

    def unplug(self, nic):
        self.leaving.add(nic.id)
        if not self.is_deaf and self.running is Running.RUNNING:
            self.die(nic.id)

    def die(self, *ids):
        for one in ids or tuple(self.nics):
            self.nics.pop(one, None)
            if one in self.taps:
                os.close(self.taps.pop(one))

    def wait(self, seconds):
        time.sleep(seconds)

    def close(self):
        pass


class Scene:
    """A pod with an interface, a journal, a relay, and a machine."""

    def __init__(self, pod_netns, folder):
        self.path, self.machine = pod_netns, FakeMachine()
        self.journal = Journal(folder)
        with netns.View().opened(pod_netns) as fd:
            self.sandbox = Sandbox(ContainerID(CONTAINER), netns.identify(fd, pod_netns))
        self.other = FakeMachine()
        self.machines = {"/run/q.sock": self.machine, "/run/other.sock": self.other}
        self.unreachable: Exception | None = None
        self.relay = Relay(self.journal, KERNELS[-1], netns.View(), self.dial)

    @contextmanager
    def dial(self, sandbox, wish):
        assert sandbox == self.sandbox
        machine = self.machines[wish.socket]
        if self.unreachable and machine is self.machine:
            raise self.unreachable
        yield machine

    def attached(self, ifname="net1", **config) -> Record:
        """Attach an interface as CNI does, and begin its record."""
        plugin = Plugin(self.path, **({} if "device" in config else {"device": "bridge", "bridge": "br0"}), **config)
        result = plugin("ADD", ifname)
        key, index = Key(self.sandbox.id, ifname), link(ifname, self.path)["ifindex"]
        record = Record(key, Origin.ANNOTATION, Phase.ATTACHED, "ns/blue", "{}", "{}", self.sandbox.namespace, POD,
                        result=result, ifindex=index)  # fmt: skip
        return self.journal.begin(record, durable=False)

    def desired(self, vm=VM):
        return Desired(POD, "r", vm=vm)

    def hand_on(self, *records, vm=VM):
        return self.relay.hand_on(self.desired(vm), self.sandbox, records, lambda: True)

    def take_back(self, *records, vm=VM, is_current=lambda: True):
        now = [self.journal.record(one.key) for one in records]
        return self.relay.take_back(self.desired(vm), self.sandbox, now, is_current)

    def links(self):
        return {one["ifname"] for one in ip("link", netns=self.path)} - {"lo"}


@pytest.fixture
def stage(kernel, pod_netns, tmp_path):
    made = Scene(pod_netns, tmp_path)
    yield made
    made.machine.die()
    made.other.die()
    made.journal.close()


def mac(record):
    return next(one["mac"] for one in record.result["interfaces"] if one.get("sandbox"))


def test_an_interface_is_wired_and_plugged_with_its_own_identity(stage):
    record = stage.attached(mtu=1400)
    standing = stage.hand_on(record)[record.key]
    assert standing.problem is None
    assert (standing.guest.state, standing.guest.interface, standing.guest.mac) == ("GuestVisible", "eth1", mac(record))
    (nic,) = stage.machine.nics.values()
    assert (nic.id, nic.mac, nic.tap, nic.mtu) == ("ua-net1", mac(record), "vmt-net1", 1400)
    bridge, port, tap = (link(name, stage.path) for name in ("vmb-net1", "net1", "vmt-net1"))
    assert (bridge["linkinfo"]["info_kind"], port["master"], tap["master"]) == ("bridge", "vmb-net1", "vmb-net1")
    assert {bridge["mtu"], tap["mtu"]} == {1400}
    assert mac(record) not in {bridge["address"], port["address"], tap["address"]}  # it is the guest's alone
    assert stage.journal.record(record.key).guest == {"vm": VM, "mac": mac(record)}


def test_the_pod_does_not_talk_in_the_guests_network(stage):
    record = stage.attached()
    ip("addr", "add", "10.9.0.2/24", "dev", "net1", netns=stage.path)
    stage.hand_on(record)
    for one in ip("addr", netns=stage.path):
        assert one["ifname"] == "lo" or one["addr_info"] == []


def test_again_and_after_a_restart_there_is_one_nic(stage, kernel):
    record = stage.attached()
    stage.hand_on(record)
    again = Relay(stage.journal, kernel, netns.View(), stage.dial)
    again.hand_on(stage.desired(), stage.sandbox, [stage.journal.record(record.key)], lambda: True)
    assert stage.machine.plugs == 1


def test_what_somebody_took_away_is_made_again(stage):
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.die()  # another QEMU has started in its place
    ip("link", "del", "vmb-net1", netns=stage.path)
    assert stage.hand_on(stage.journal.record(record.key))[record.key].problem is None
    assert (stage.machine.plugs, link("net1", stage.path)["master"]) == (2, "vmb-net1")


def test_taken_back_it_is_as_it_was(stage):
    record = stage.attached()
    before = link("net1", stage.path)["address"]
    stage.hand_on(record)
    assert stage.take_back(record) == {}
    assert stage.links() == {"net1"}
    assert link("net1", stage.path)["address"] == before == mac(record)
    assert stage.journal.record(record.key).guest == {}


def test_two_at_once_and_one_taken_back(stage):
    one, other = stage.attached("net1"), stage.attached("a-very-long-nm")
    assert {key: standing.problem for key, standing in stage.hand_on(one, other).items()} == {
        one.key: None,
        other.key: None,
    }
    assert stage.take_back(one) == {}
    assert set(stage.machine.nics) == {"ua-a-very-long-nm"}
    assert len(stage.links()) == 4  # net1; the other with bridge and tap


def test_a_deaf_guest_keeps_it_and_everything_stays(stage, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.1)
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.is_deaf = True
    problem = stage.take_back(record)[record.key]
    assert problem.reason == "WaitingForGuest"
    assert stage.links() == {"net1", "vmb-net1", "vmt-net1"}
    stage.machine.die()
    assert stage.take_back(record) == {}
    assert stage.links() == {"net1"}


@pytest.mark.parametrize(
    ("running", "reason"),
    [(Running.PAUSED, "VMPaused"), (Running.MIGRATING, "VMMigrating"), (Running.STOPPED, "VMStopped")],
)
def test_a_guest_that_cannot_let_go_is_not_waited_for(stage, running, reason):
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.running = running
    begun = time.monotonic()
    assert stage.take_back(record)[record.key].reason == reason
    assert time.monotonic() - begun < relays.PATIENCE_S


def test_a_machine_that_was_migrated_away_keeps_nothing(stage):
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.running, stage.machine.is_deaf = Running.MIGRATED, True
    assert stage.take_back(record) == {}
    assert stage.links() == {"net1"}


def test_a_machine_that_does_not_answer_is_alive_while_its_tap_is_open(stage):
    record = stage.attached()
    stage.hand_on(record)
    stage.unreachable = NotReady("VMUnreachable", "nobody answers")
    assert stage.take_back(record)[record.key].reason == "VMUnreachable"
    assert stage.links() == {"net1", "vmb-net1", "vmt-net1"}
    stage.machine.die()
    assert stage.take_back(record) == {}
    assert stage.links() == {"net1"}


@pytest.mark.parametrize(
    ("running", "reason", "plugs"),
    [
        (Running.PAUSED, "VMPaused", 1),
        (Running.INCOMING, "VMIncoming", 0),
        (Running.MIGRATING, "VMMigrating", 0),
        (Running.MIGRATED, "VMMigrated", 0),
        (Running.STOPPED, "VMStopped", 0),
    ],
)
def test_what_the_machine_does_decides(stage, running, reason, plugs):
    record = stage.attached()
    stage.machine.running = running
    problem = stage.hand_on(record)[record.key].problem
    assert (problem.reason if problem else "", stage.machine.plugs) == (reason, plugs)


@pytest.mark.parametrize(
    ("running", "reason"),
    [
        (Running.PAUSED, "VMPaused"),
        (Running.INCOMING, "VMIncoming"),
        (Running.MIGRATING, "VMMigrating"),
        (Running.MIGRATED, "VMMigrated"),
        (Running.STOPPED, "VMStopped"),
    ],
)
def test_a_nic_whose_guest_cannot_show_that_it_has_it_is_told_with_the_cause(stage, running, reason):
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.running, stage.machine.is_blind = running, True
    standing = stage.hand_on(record)[record.key]
    assert (standing.guest.state, standing.problem.reason) == ("Attached", reason)


def test_a_guest_that_shows_nothing_is_not_said_to_have_it(stage, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.1)
    record = stage.attached()
    stage.machine.is_blind = True
    standing = stage.hand_on(record)[record.key]
    assert (standing.guest.state, standing.problem.reason) == ("Attached", "GuestSilent")


def test_a_newer_wish_ends_the_waiting(stage):
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.is_deaf = True
    begun = time.monotonic()
    assert record.key in stage.take_back(record, is_current=lambda: False)
    assert time.monotonic() - begun < relays.PATIENCE_S


def test_a_refused_nic_and_an_unreachable_machine_are_told(stage):
    record = stage.attached()
    stage.machine.fails = NotReady("NoFreePort", "no free port")
    standing = stage.hand_on(record)[record.key]
    assert (standing.guest.state, standing.problem.reason) == ("PodAttached", "NoFreePort")
    stage.unreachable = NotReady("VMUnreachable", "no socket")
    assert stage.hand_on(record)[record.key].problem.reason == "VMUnreachable"
    wrong = stage.hand_on(record, vm="{}")[record.key].problem
    assert isinstance(wrong, Refused)


def test_what_cannot_carry_a_guests_frames_is_refused(stage):
    ip("link", "add", "m0", "type", "bridge")
    ip("link", "set", "m0", "up")
    record = stage.attached(device="macvlan", master="m0")
    problem = stage.hand_on(record)[record.key].problem
    assert isinstance(problem, Refused)
    assert "macvlan" in str(problem)
    assert stage.links() == {"net1"}
    assert stage.journal.record(record.key).guest == {}


def test_links_of_others_under_our_names_are_not_touched(stage):
    record = stage.attached()
    ip("link", "add", "vmb-net1", "type", "bridge", netns=stage.path)
    problem = stage.hand_on(record)[record.key].problem
    assert "vmb-net1" in str(problem)
    stage.take_back(record)
    assert "vmb-net1" in stage.links()


def test_kubevirts_plumbing_is_waited_for(stage, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.1)
    record = stage.attached("podabc")
    ip("link", "set", "podabc", "down", netns=stage.path)
    ip("link", "set", "podabc", "name", "abc-nic", netns=stage.path)
    for name in ("podabc", "k6t-abc", "tapabc"):
        ip("link", "add", name, "type", "bridge", netns=stage.path)
    for name in ("tapabc", "k6t-abc", "podabc"):
        assert stage.take_back(record, vm=KUBEVIRT)[record.key].reason == "WaitingForGuest"
        ip("link", "del", name, netns=stage.path)
    assert stage.take_back(record, vm=KUBEVIRT) == {}


def test_kubevirt_is_not_waited_for_without_an_end(stage, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.05)
    monkeypatch.setattr(cleaning, "KUBEVIRT_S", 0.2)
    record = stage.attached("podabc")
    ip("link", "add", "k6t-abc", "type", "bridge", netns=stage.path)
    assert record.key in stage.take_back(record, vm=KUBEVIRT)
    time.sleep(0.3)
    for _ in range(2):  # its DEL failed
        stage.relay.leaves(POD.uid, [record])
        assert stage.take_back(record, vm=KUBEVIRT) == {}


def test_an_unplug_that_was_undone_does_not_count_for_the_next_one(stage, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.05)
    monkeypatch.setattr(cleaning, "KUBEVIRT_S", 0.5)
    record, other = stage.attached("podabc"), stage.attached("poddef")
    for name in ("k6t-abc", "k6t-def"):
        ip("link", "add", name, "type", "bridge", netns=stage.path)
    stage.take_back(record, other, vm=KUBEVIRT)
    stage.relay.leaves(POD.uid, [other])  # a pass in which the first is wanted again
    time.sleep(0.6)
    stage.relay.leaves(POD.uid, [record, other])
    assert set(stage.take_back(record, other, vm=KUBEVIRT)) == {record.key}


# -- a machine that the annotation named before ------------------------------------------------------------------


def test_the_machine_that_has_it_is_asked_whichever_the_annotation_names_now(stage):
    record = stage.attached()
    stage.hand_on(record)
    assert stage.take_back(record, vm=OTHER) == {}
    assert (stage.machine.nics, stage.links()) == ({}, {"net1"})


def test_what_the_machine_named_before_keeps_stays(stage, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.1)
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.is_deaf = True
    assert stage.take_back(record, vm=OTHER)[record.key].reason == "WaitingForGuest"
    stage.unreachable = NotReady("VMUnreachable", "nobody answers")
    assert stage.take_back(record, vm=OTHER)[record.key].reason == "VMUnreachable"
    assert stage.links() == {"net1", "vmb-net1", "vmt-net1"}
    stage.machine.die()
    assert stage.take_back(record, vm=OTHER) == {}
    assert stage.links() == {"net1"}


def test_while_the_machine_named_now_is_silent_and_the_tap_is_open_it_stays(stage):
    record = stage.attached()
    stage.hand_on(record, vm=OTHER)
    stage.unreachable = NotReady("VMUnreachable", "nobody answers")
    stage.other.nics.clear()  # it says that it has none
    stage.other.is_deaf = True
    assert stage.take_back(record)[record.key].reason == "VMUnreachable"
    assert "vmt-net1" in stage.links()


def test_it_moves_from_the_machine_named_before_to_the_one_named_now(stage):
    record = stage.attached()
    stage.hand_on(record)
    again = stage.journal.record(record.key)
    assert stage.hand_on(again, vm=OTHER)[record.key].problem is None
    assert (set(stage.machine.nics), set(stage.other.nics)) == (set(), {"ua-net1"})
    assert stage.journal.record(record.key).guest == {"vm": OTHER, "mac": mac(record)}


def test_what_the_machine_named_before_does_not_give_is_not_given_to_another(stage, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.1)
    record, fresh = stage.attached("net1"), stage.attached("net2")
    stage.hand_on(record)
    stage.machine.is_deaf = True
    for problem in (None, NotReady("VMUnreachable", "nobody answers")):
        stage.unreachable = problem
        now = [stage.journal.record(one.key) for one in (record, fresh)]
        standings = stage.hand_on(*now, vm=OTHER)
        assert (standings[record.key].problem.reason, standings[fresh.key].problem) == ("UsedByVM", None)
    assert "nobody answers" in str(standings[record.key].problem)
    assert set(stage.other.nics) == {"ua-net2"}
    assert stage.journal.record(record.key).guest["vm"] == VM
    stage.machine.die()  # it has ended, and answers no more
    assert stage.hand_on(stage.journal.record(record.key), vm=OTHER)[record.key].problem is None


def test_the_same_machine_in_other_words_keeps_its_nic(stage):
    record = stage.attached()
    stage.hand_on(record)
    words = '{"qmp": "/run/q.sock", "container": "qemu"}'
    assert stage.hand_on(stage.journal.record(record.key), vm=words)[record.key].problem is None
    assert (stage.machine.plugs, stage.journal.record(record.key).guest["vm"]) == (1, words)


def test_an_open_tap_that_was_set_down_is_still_a_sign_of_life(stage):
    record = stage.attached()
    stage.hand_on(record)
    stage.unreachable = NotReady("VMUnreachable", "nobody answers")
    ip("link", "set", "vmt-net1", "down", netns=stage.path)
    assert stage.take_back(record)[record.key].reason == "VMUnreachable"
    stage.machine.die()
    ip("link", "set", "vmt-net1", "down", netns=stage.path)
    assert stage.take_back(record) == {}


# -- an unplug that was undone -----------------------------------------------------------------------------------


def test_a_guest_that_was_asked_to_let_go_is_not_said_to_have_it_until_it_has_it_anew(stage):
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.running = Running.PAUSED
    assert stage.take_back(record)[record.key].reason == "VMPaused"
    for stage.machine.running in (Running.PAUSED, Running.RUNNING):  # each pass has a new connection
        stage.machine.leaving.clear()
        problem = stage.hand_on(stage.journal.record(record.key))[record.key].problem
        assert (problem.reason, "gets it anew" in str(problem)) == ("WaitingForGuest", True)
    stage.machine.die()  # now it does as it was told
    assert stage.hand_on(stage.journal.record(record.key))[record.key].problem is None
    assert (stage.machine.plugs, "asked" in stage.journal.record(record.key).guest) == (2, False)


def test_a_guest_that_could_not_be_asked_keeps_what_it_has(stage, monkeypatch):
    record = stage.attached()
    stage.hand_on(record)

    def refuse(nic):
        raise NotReady("VMMigrating", "it moves")

    monkeypatch.setattr(stage.machine, "unplug", refuse)
    assert stage.take_back(record)[record.key].reason == "VMMigrating"
    assert stage.hand_on(stage.journal.record(record.key))[record.key].problem is None


def test_a_machine_that_had_nothing_to_let_go_was_not_asked(stage):
    record = stage.attached()
    stage.hand_on(record)
    stage.unreachable = NotReady("VMUnreachable", "nobody answers")
    assert stage.take_back(record, vm=OTHER)[record.key].reason == "VMUnreachable"
    stage.unreachable = None
    assert stage.hand_on(stage.journal.record(record.key))[record.key].problem is None


# -- time --------------------------------------------------------------------------------------------------------


def test_what_takes_too_long_has_its_turn_in_the_next_pass(stage, monkeypatch):
    records = [stage.attached(name) for name in ("net1", "net2", "net3")]
    monkeypatch.setattr(relays, "ASKING_S", 0.0)
    assert list(stage.hand_on(*records)) == [records[0].key]  # one at least
    assert stage.machine.plugs == 1
    monkeypatch.setattr(relays, "ASKING_S", 60.0)
    now = [stage.journal.record(one.key) for one in records]
    assert len(stage.hand_on(*now)) == 3
    stage.machine.is_deaf = True
    monkeypatch.setattr(relays, "ASKING_S", 0.0)
    monkeypatch.setattr(relays, "PATIENCE_S", 0.1)
    for asked in (1, 2, 3):  # whoever had no turn is the first of the next pass
        assert {one.reason for one in stage.take_back(*records).values()} == {"WaitingForGuest"}
        assert len(stage.machine.leaving) == asked


def test_a_newer_wish_ends_the_plugging(stage):
    records = [stage.attached(name) for name in ("net1", "net2")]
    assert len(stage.relay.hand_on(stage.desired(), stage.sandbox, records, lambda: False)) == 1


def test_a_pod_that_is_gone_is_told(stage):
    record = stage.attached()
    stage.hand_on(record)
    missing = replace(stage.sandbox, namespace=replace(stage.sandbox.namespace, path="/run/netns/none"))
    stage.sandbox = missing
    assert stage.hand_on(record)[record.key].problem.reason == "SandboxGone"


def test_frames_pass_both_ways_also_where_both_ends_of_the_pair_have_one_index(stage):
    """Such a pair may be slow to be seen as up, and a bridge forwards nothing to a port that is not."""
    record = stage.attached(device="veth")
    (host,) = [one for one in ip("-d", "link") if one["ifname"] != "lo"]
    assert host["ifindex"] == record.ifindex
    stage.hand_on(record)
    (tap,) = stage.machine.taps.values()
    os.set_blocking(tap, False)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind((host["ifname"], 0))
        wire.settimeout(0.05)
        guest, peer = bytes.fromhex(mac(record).replace(":", "")), bytes.fromhex("020000000099")
        assert eventually(lambda: _passes(lambda frame: os.write(tap, HEADER + frame), wire.recv, peer + guest))
        assert eventually(lambda: _passes(wire.send, lambda size: os.read(tap, size)[len(HEADER) :], guest + peer))


HEADER = bytes(10)  # of virtio, before each frame of a tap that carries them


def _passes(send, receive, addresses: bytes) -> bool:
    frame = addresses + b"\x88\xb5" + b"probe" * 12
    send(frame)
    try:
        return receive(2000).startswith(frame)
    except (TimeoutError, BlockingIOError):
        return False


def eventually(holds) -> bool:
    end = time.monotonic() + 10
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.01)
    return held


def test_a_machine_that_has_ended_is_noticed_by_its_tap(stage):
    record = stage.attached()
    assert stage.relay.lost() == set()
    stage.hand_on(record)
    assert stage.relay.lost() == set()
    stage.machine.die()
    assert stage.relay.lost() == {POD.uid}
    stage.hand_on(stage.journal.record(record.key))
    assert stage.relay.lost() == set()


@pytest.mark.parametrize("running", [Running.MIGRATED, Running.STOPPED])
def test_what_runs_no_more_has_no_guest_that_sees_a_nic(stage, running):
    record = stage.attached()
    stage.hand_on(record)
    stage.machine.running = running
    standing = stage.hand_on(stage.journal.record(record.key))[record.key]
    assert (standing.guest.state, standing.problem.reason) == ("Attached", f"VM{running.value.capitalize()}")


def test_a_machine_that_waits_for_another_takes_what_that_one_has_and_no_more(stage):
    record = stage.attached()
    stage.machine.running = Running.INCOMING
    assert stage.hand_on(record)[record.key].problem.reason == "VMIncoming"
    assert stage.machine.plugs == 0
    stage.hand_on(stage.journal.record(record.key), vm='{"qmp": "/run/q.sock", "ports": {"net1": "rp1"}}')
    assert stage.machine.plugs == 1


def test_a_name_that_is_no_identifier_has_one_all_the_same(stage):
    record = stage.attached("net+1")
    assert stage.hand_on(record)[record.key].problem is None
    (nic,) = stage.machine.nics
    assert nic.removeprefix("ua-").isalnum()
