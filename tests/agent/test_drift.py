"""Whose attachments an event is about, and when they are looked at."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent import device, devices, drift, options
from agent.drift import Drift, Map, Suspects
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Pod, PodUID, Record
from agent.needs import ADDRESS, ANY, needed, needs
from agent.options import host_name
from agent.sandboxes import Sandbox
from agent.watch import NODE, Event, What
from cni import result

WAIT_S = 10


def record(container="s1", ifname="net1", index=5, phase=Phase.ATTACHED, origin=Origin.ANNOTATION, **config):
    document = {"cniVersion": "1.1.0", "name": "n", "type": "hotnic", "device": "bridge", "bridge": "br0", **config}
    pod = Pod(PodUID(f"uid-{container}"), "ns", container)
    key = Key(ContainerID(container), ifname)
    namespace = Namespace(f"/run/netns/{container}", 4, 1)
    return Record(key, origin, phase, "ns/n", "{}", json.dumps(document), namespace, pod, ifindex=index)


# -- what an attachment stands on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"device": "bridge", "bridge": "br7"}, {"br7", "HOST"}),
        ({"device": "veth"}, {"HOST"}),
        ({"device": "veth", "hostInterface": "wan"}, {"wan"}),
        ({"device": "macvlan", "master": "m0"}, {"m0"}),
        ({"device": "macvlan"}, {ADDRESS}),
        ({"device": "macvlan", "master": "x0", "linkInContainer": True}, set()),
        ({"device": "tap"}, set()),
        ({"device": "overlay", "vni": 7}, {"hnb7", "hnv7", "HOST", ADDRESS}),
        ({"device": "ovs", "bridge": "br-ovs"}, {"br-ovs", "HOST"}),
        ({"device": "host-device", "hostInterface": "d0"}, {"d0"}),
        ({"device": "host-device", "hwaddr": "02:00:00:00:00:01"}, {ANY}),
        ({"type": "macvlan", "master": "m1"}, {"m1"}),
        ({"type": "ipvlan"}, {ADDRESS}),
        ({"type": "host-device", "device": "d1"}, {"d1"}),
        ({"device": "nonesuch"}, set()),
        ({"device": "bridge", "mtu": "wrong"}, set()),
    ],
)
def test_the_links_of_the_node_that_a_network_needs(config, names):
    key = record().key
    text = json.dumps({"cniVersion": "1.1.0", "name": "n", "type": "hotnic", **config})
    assert needed(text, "n", key) == {host_name(key) if name == "HOST" else name for name in names}


def test_a_chain_needs_what_each_of_its_plugins_needs_and_what_its_result_names():
    plugins = [{"type": "bridge", "bridge": "br-x"}, {"type": "hotnic", "device": "macvlan", "master": "m0"}]
    interfaces = [{"name": "vethabc"}, {"name": "net1", "sandbox": "/run/netns/s1"}]
    document = json.dumps({"cniVersion": "1.0.0", "name": "n", "plugins": plugins})
    one = replace(record(), config=document, result={"cniVersion": "1.0.0", "interfaces": interfaces})
    assert needs(one) == {"br-x", "m0", "vethabc"}
    assert needed("{", "n") == frozenset()


# -- what it is to be again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "mac", "mtu"),
    [
        ({"device": "bridge"}, "02:00:00:00:00:51", 1400),
        ({"device": "macvlan", "master": "m0"}, "02:00:00:00:00:51", None),
        ({"device": "macvlan", "master": "m0", "mtu": 1400}, "02:00:00:00:00:51", 1400),
        ({"device": "vlan", "master": "m0", "vlanId": 7}, "", None),
        ({"device": "vlan", "master": "m0", "vlanId": 7, "mac": "02:00:00:00:00:51"}, "02:00:00:00:00:51", None),
        ({"device": "ipvlan", "master": "m0"}, "", None),
        ({"device": "macvlan", "master": "m0", "mode": "passthru"}, "", None),
        ({"device": "host-device", "hostInterface": "d0"}, "02:00:00:00:00:51", None),
    ],
)
def test_it_has_the_mac_and_the_mtu_that_it_got_unless_it_follows_another_link(config, mac, mtu):
    one = devices.parse(options.Call(record().key, {"cniVersion": "1.1.0", "name": "n", "type": "hotnic", **config}))
    got = result.Interface("net1", "02:00:00:00:00:51", 1400, "/run/netns/s1")
    want = device._as_made(one.interface, result.Result((result.Interface("hn1"), got)), one)
    assert (want.mac, want.mtu) == (mac, mtu)


# -- the map -----------------------------------------------------------------------------------------------------------


def test_events_are_mapped_to_attachments_and_to_no_others():
    known = Map()
    one, two, macvlan = record(), record("s2", bridge="br9"), record("s3", device="macvlan", master="m0", index=8)
    known.follow([one, two, macvlan, record("s4", phase=Phase.ADDING)])
    assert set(known.on_node("br0")) == {one.key}
    assert set(known.on_node(host_name(two.key))) == {two.key}
    assert set(known.on_node("m0")) == {macvlan.key}
    assert not known.on_node("net1"), "the node's link of that name is another"
    assert list(known.in_pod(ContainerID("s1"), 5)) == [one.key]
    assert list(known.in_pod(ContainerID("s1"), 6)) == []
    assert list(known.in_pod(ContainerID("s3"), 0)) == [macvlan.key]
    known.follow([two])
    assert (known.on_node("br0"), known.on_node("m0")) == ((), ())
    assert list(known.in_pod(ContainerID("s1"), 5)) == []
    changed = record("s2", bridge="br8", index=9)
    known.follow([changed])
    assert (known.on_node("br9"), set(known.on_node("br8"))) == ((), {two.key})
    assert list(known.in_pod(ContainerID("s2"), 9)) == [two.key]


# -- when --------------------------------------------------------------------------------------------------------------


class FakeWatch:
    def __init__(self):
        self.events, self.changed, self.hears_pods, self.numbers = [], threading.Condition(), True, {}

    def say(self, *events):
        with self.changed:
            self.events += events
            self.changed.notify_all()

    def number(self, container):
        return self.numbers.setdefault(container, len(self.numbers))

    def wait(self, timeout_s):
        with self.changed:
            self.changed.wait_for(lambda: self.events, timeout_s)

    def wake(self):
        self.say(Event(NODE, What.ADDRESS))

    def read(self):
        with self.changed:
            said, self.events = self.events, []
        return said

    def close(self):
        pass


class FakeJournal(list):
    def records(self):
        return tuple(self)


class FakeView:
    @contextmanager
    def opened(self, path):
        yield path.rsplit("/", 1)[1]


class Hearing:
    """A Drift with what it has started, and when."""

    def __init__(self, *records):
        self.journal, self.watch, self.suspects = FakeJournal(records), FakeWatch(), Suspects()
        self.looked, self.came, self.runtimes = [], [], []
        self.drift = Drift(self.journal, self.watch, self.suspects, self.look, self.came.append, FakeView())
        self.drift.runtimes = lambda found: self.runtimes.extend(one.key for one in found)
        self.drift.start()
        for one in records:
            self.suspects.take(one.pod.uid)
            self.drift.enter(Sandbox(one.key.container_id, one.namespace))
        self.runtimes.clear()

    def look(self, uid):
        found = self.suspects.take(uid)
        self.looked.append((uid, {key.ifname for key in found.keys}, {key.ifname for key in found.by_others}))

    def wait(self, holds):
        end = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end, self.looked
            time.sleep(0.01)

    def settle(self):
        """Wait until all that was said so far has been heard: by an event that is the last one."""
        self.journal.append(last := record("last", bridge="br-last"))
        self.watch.say(Event(NODE, What.LINK, 9, "br-last"))
        self.wait(lambda: any(uid == last.pod.uid for uid, _, _ in self.looked))
        self.looked = [one for one in self.looked if one[0] != last.pod.uid]
        self.journal.remove(last)


@pytest.fixture
def hearing():
    made = []

    def make(*records):
        made.append(Hearing(*records))
        return made[-1]

    yield make
    for one in made:
        one.drift.close()


def test_many_events_are_one_look_at_what_they_are_about(hearing):
    one = hearing(record(), record(ifname="net2", index=6, bridge="br1"), record("s2", bridge="br1"))
    number = one.watch.numbers["s1"]
    one.watch.say(*[Event(number, What.LINK, 5, "net1") for _ in range(100)])
    one.watch.say(Event(number, What.ADDRESS, 5, gone=True), Event(NODE, What.LINK, 3, "br0"))
    one.settle()
    assert one.looked == [("uid-s1", {"net1"}, {"net1"})]


def test_what_is_about_nobody_costs_nothing(hearing):
    one = hearing(record())
    number = one.watch.numbers["s1"]
    for what in What:
        if what is not What.LOST:
            one.watch.say(Event(number, what, 1, "lo"), Event(77, what, 5, "net1"), Event(NODE, what, 5, "eth9"))
    one.watch.say(Event(NODE, What.ADDRESS, 3, "br0"), Event(NODE, What.ROUTE))  # that come
    one.settle()
    assert one.looked == []


def test_lost_events_are_a_look_at_everything_once(hearing):
    one = hearing(record(), record("s2"))
    one.watch.say(Event(NODE, What.LOST))
    one.settle()
    at_all = [("uid-s1", {"net1"}, set()), ("uid-s2", {"net1"}, set())]
    assert sorted(one.looked) == at_all
    one.watch.say(Event(NODE, What.LOST))
    one.settle()
    assert sorted(one.looked) == at_all, "who makes so many events may go on: not twice in half a minute"


def test_a_route_of_the_nodes_counts_if_it_leads_through_a_host_end_of_ours(hearing):
    one = hearing(record())
    one.watch.say(Event(NODE, What.ROUTE, 3, "br0", gone=True))
    one.settle()
    assert one.looked == []


def test_while_a_pass_runs_and_just_after_it_its_pod_is_looked_at_later_and_once(hearing, monkeypatch):
    monkeypatch.setattr(drift, "OWN_S", 1.0)
    monkeypatch.setattr(drift, "LATER_S", 1.2)
    one = hearing(record(), record("s2"))
    event = Event(one.watch.numbers["s1"], What.LINK, 5, "net1")
    with one.drift.passing(PodUID("uid-s1")):
        one.watch.say(event)
        one.settle()
        assert one.looked == []
    one.watch.say(event)
    one.settle()
    assert one.looked == []
    one.wait(lambda: one.looked)
    one.settle()
    assert one.looked == [("uid-s1", {"net1"}, set())], "nobody else was at work"


def test_a_runtimes_attachments_are_somebody_elses_to_look_at(hearing):
    one = hearing(record(), record("s2", origin=Origin.RUNTIME))
    one.watch.say(Event(NODE, What.LINK, 3, "br0", gone=True))
    one.settle()
    assert ([uid for uid, _, _ in one.looked], one.runtimes) == (["uid-s1"], [Key(ContainerID("s2"), "net1")])


def test_what_comes_to_the_node_is_told_to_who_waits_but_for_our_own_ends(hearing):
    one = hearing()
    own = host_name(Key(ContainerID("x"), "net1"))
    one.watch.say(
        Event(NODE, What.LINK, 3, "m0"), Event(NODE, What.LINK, 4, own), Event(NODE, What.LINK, 5, "m1", gone=True)
    )
    one.wait(lambda: one.came)
    assert one.came == [{"m0", ANY}]
    one.watch.say(Event(NODE, What.ADDRESS, 3, "m0"))
    one.wait(lambda: len(one.came) == 2)
    assert one.came[1] == {ADDRESS}


def test_where_pods_are_not_heard_of_everything_is_looked_at_now_and_then(hearing, monkeypatch):
    monkeypatch.setattr(drift, "RELOOK_S", 0.3)
    one = hearing(record())
    one.watch.hears_pods = False
    one.watch.wake()
    one.wait(lambda: len(one.looked) >= 2)
    assert one.looked[0] == ("uid-s1", {"net1"}, set())


def test_at_the_start_everything_is_suspect():
    journal, suspects = FakeJournal([record(), record("s2", phase=Phase.ADDING)]), Suspects()
    one = Drift(journal, FakeWatch(), suspects, lambda _: None, lambda _: None, FakeView())
    one.start()
    one.close()
    assert suspects.take(PodUID("uid-s1")).keys == {Key(ContainerID("s1"), "net1")}
    assert (suspects.take(PodUID("uid-s1")).keys, suspects.take(PodUID("uid-s2")).keys) == (set(), set())
