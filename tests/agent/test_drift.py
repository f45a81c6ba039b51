"""Whose attachments an event is about, and when they are looked at."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent import device, devices, drift, links, network, options, suspects
from agent.drift import Drift
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Pod, PodUID, Record
from agent.needs import ADDRESS, ANY, needed, needs
from agent.options import host_name
from agent.sandboxes import Sandbox
from agent.suspects import AT_ONCE, FIRST_S, LONGEST_S, QUIET_S, Map, Suspects
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
        ({"device": "ovs", "bridge": "br-ovs"}, {"br-ovs", "HOST", "/var/run/openvswitch/db.sock"}),
        ({"device": "veth", "ingressRate": 1000, "ingressBurst": 1000}, {"HOST", "COMPANION"}),
        ({"device": "host-device", "hostInterface": "d0"}, {"d0"}),
        ({"device": "host-device", "hwaddr": "02:00:00:00:00:01"}, {ANY}),
        ({"type": "macvlan", "master": "m1"}, {"m1"}),
        ({"type": "ipvlan"}, {ADDRESS}),
        ({"type": "other", "bridge": "/run/other/other.sock"}, set()),
        ({"device": "macvlan", "master": "net1"}, {"net1"}),
        ({"device": "veth", "hostInterface": "net1"}, {"net1"}),
        ({"type": "host-device", "device": "d1"}, {"d1"}),
        ({"device": "nonesuch"}, set()),
        ({"device": "bridge", "mtu": "wrong"}, set()),
    ],
)
def test_the_links_of_the_node_that_a_network_needs(config, names):
    key = record().key
    text = json.dumps({"cniVersion": "1.1.0", "name": "n", "type": "hotnic", **config})
    own = {"HOST": host_name(key), "COMPANION": host_name(key, "hni")}
    assert needs(replace(record(), config=text)) == {own.get(name, name) for name in names}


def test_a_network_that_many_wait_for_is_read_once(monkeypatch):
    reads = []
    parse = network.parse
    monkeypatch.setattr("agent.needs.network.parse", lambda *args: (reads.append(args), parse(*args))[1])
    text = json.dumps({"cniVersion": "1.1.0", "name": "n", "type": "macvlan", "master": "m7"})
    assert [needed(text, "n") for _ in range(50)] == [{"m7"}] * 50
    assert len(reads) == 1
    large = json.dumps({"cniVersion": "1.1.0", "name": "n", "type": "macvlan", "master": "m7", "of": "x" * (64 << 10)})
    assert [needed(large, "n") for _ in range(3)] == [{"m7"}] * 3
    assert len(reads) == 4, "what is so large is not kept"


def test_a_chain_needs_what_each_of_its_plugins_needs_and_what_its_result_names():
    plugins = [{"type": "bridge", "bridge": "br-x"}, {"type": "hotnic", "device": "macvlan", "master": "m0"}]
    interfaces = [{"name": "vethabc"}, {"name": "/run/other.sock"}, {"name": "net1", "sandbox": "/run/netns/s1"}]
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


def test_what_is_to_be_set_up_is_told_to_be_down_only_if_it_is_there():
    steps = (links.Create("br0", "bridge"), links.Change("br0", up=True), links.Change("hn1", up=True))
    assert links.down(steps) == ("link br0 is missing", "link hn1 is down")


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
    assert list(known.in_pod(ContainerID("s1"), 6, host_name(one.key))) == [one.key], "it needs that link, too"
    assert list(known.in_pod(ContainerID("s2"), 6, host_name(one.key))) == []
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
        self.reads = 0

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
            self.reads += 1
            said, self.events = self.events, []
        return said

    def close(self):
        pass


class FakeSwitches:
    def __init__(self):
        self.paths, self.changed = None, None

    def follow(self, paths):
        self.paths = paths

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
        self.journal, self.watch, self.switches = FakeJournal(records), FakeWatch(), FakeSwitches()
        self.suspects, self.looked, self.came, self.runtimes, self.is_in_vain = Suspects(), [], [], [], False
        self.drift = Drift(
            self.journal, self.watch, self.switches, self.suspects, self.look, self.came.append, FakeView()
        )
        self.drift.runtimes = lambda found: self.runtimes.extend(one.key for one in found)
        self.drift.start()
        for one in records:
            self.drift.enter(Sandbox(one.key.container_id, one.namespace))
        self.wait(lambda: len(self.looked) + len(self.runtimes) >= len({one.key.container_id for one in records}))
        self.looked.clear()
        self.runtimes.clear()

    def look(self, uid):
        found = self.suspects.take(uid)
        assert found.heard >= found.to_ask
        for key in found.heard if self.is_in_vain and uid != "uid-last" else ():
            self.suspects.found(key, time.monotonic(), is_wrong=False)
        self.looked.append((uid, {key.ifname for key in found.keys}, {key.ifname for key in found.to_ask}))

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
    one.wait(lambda: len(one.looked) == 2)  # such a look is spread: it may come after the next event's
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


def test_a_link_that_went_during_a_pass_was_taken_by_somebody_else(hearing):
    """Only its plugins can tell what that means to an attachment that stays."""
    one = hearing(record())
    with one.drift.passing(PodUID("uid-s1")):
        one.watch.say(Event(NODE, What.LINK, 3, "br0", gone=True))
        one.settle()
    one.wait(lambda: one.looked)
    assert one.looked == [("uid-s1", {"net1"}, {"net1"})]


def test_what_is_heard_in_a_pod_whose_passes_never_end_is_looked_at_all_the_same(hearing, monkeypatch):
    monkeypatch.setattr(drift, "MOST_LATER_S", 0.5)
    monkeypatch.setattr(drift, "LATER_S", 1000.0)
    monkeypatch.setattr(drift, "OWN_S", 1000.0)
    one = hearing(record())
    with one.drift.passing(PodUID("uid-s1")):
        one.watch.say(Event(one.watch.numbers["s1"], What.LINK, 5, "net1"))
        one.settle()
        end = time.monotonic() + WAIT_S
        while not one.looked:
            assert time.monotonic() < end
            one.watch.wake()
            time.sleep(0.05)
    assert one.looked == [("uid-s1", {"net1"}, set())]


def test_what_is_forgotten_before_its_look_is_not_kept(hearing, monkeypatch):
    monkeypatch.setattr(drift, "OWN_S", 0.5)
    one = hearing(gone := record(), record("s2"))
    with one.drift.passing(PodUID("uid-s1")):
        one.watch.say(Event(one.watch.numbers["s1"], What.LINK, 5, "net1"))
        one.settle()
        one.journal.remove(gone)
        one.settle()
    one.wait(lambda: not one.drift._later)
    one.settle()
    assert one.looked == []
    assert one.suspects._of == {}


def test_what_nobody_can_make_sense_of_costs_a_look_at_everything_and_no_hearing(hearing):
    one = hearing(record(), record("s2", bridge="br2"))
    one.switches.changed([5])
    one.wait(lambda: len(one.looked) == 2)
    one.looked.clear()
    one.watch.say(Event(NODE, What.LINK, 3, "br2"))
    one.settle()
    assert one.looked == [("uid-s2", {"net1"}, {"net1"})]


def test_a_runtimes_attachments_are_somebody_elses_to_look_at(hearing):
    one = hearing(record(), record("s2", origin=Origin.RUNTIME))
    one.watch.say(Event(NODE, What.LINK, 3, "br0", gone=True))
    one.settle()
    assert ([uid for uid, _, _ in one.looked], one.runtimes) == (["uid-s1"], [Key(ContainerID("s2"), "net1")])


def test_what_comes_to_the_node_is_told_to_who_waits_but_for_our_own_ends(hearing):
    one = hearing()
    own = host_name(Key(ContainerID("x"), "net1"))
    one.watch.say(
        Event(NODE, What.LINK, 3, "m0", came=True), Event(NODE, What.LINK, 4, own, came=True),
        Event(NODE, What.LINK, 5, "m1", gone=True), Event(NODE, What.LINK, 6, "m2"), Event(NODE, What.QUEUE, 6, "m2"),
    )  # fmt: skip
    one.wait(lambda: one.came)
    assert one.came == [{"m0", ANY}], "m2 was there before, it is changed"
    one.watch.say(Event(NODE, What.ADDRESS, 3, "m0"))
    one.wait(lambda: len(one.came) == 2)
    one.watch.say(Event(NODE, What.LOST))
    one.wait(lambda: len(one.came) == 3)
    assert one.came[1:] == [{ADDRESS}, {ADDRESS}]


def test_where_pods_are_not_heard_of_everything_is_looked_at_now_and_then(hearing, monkeypatch):
    monkeypatch.setattr(drift, "RELOOK_S", 0.3)
    one = hearing(record())
    one.watch.hears_pods = False
    one.watch.wake()
    one.wait(lambda: len(one.looked) >= 2)
    assert one.looked[0] == ("uid-s1", {"net1"}, set())


def test_traffic_control_counts_at_our_own_ends_and_what_bandwidth_takes_besides_and_in_pods(hearing):
    one = hearing(record(ingressRate=1000, ingressBurst=1000), record("s2"))
    number, companion = one.watch.numbers["s1"], host_name(Key(ContainerID("s1"), "net1"), "hni")
    one.watch.say(Event(NODE, What.QUEUE, 3, "br0"), Event(number, What.QUEUE, 9, "eth0"))
    one.settle()
    assert one.looked == []
    for event in (
        Event(NODE, What.QUEUE, 3, host_name(Key(ContainerID("s1"), "net1"))),
        Event(NODE, What.QUEUE, 4, companion),
        Event(number, What.QUEUE, 5),
        Event(number, What.QUEUE, 9, companion),
    ):
        one.watch.say(event)
        one.settle()
        assert one.looked == [("uid-s1", {"net1"}, {"net1"})], event
        one.looked.clear()


def test_what_a_switch_tells_of_its_ports_counts_for_the_attachments_that_have_them(hearing):
    one = hearing(record(device="ovs", bridge="br-a"), record("s2", device="ovs", bridge="br-b", socket_file="/b.sock"))
    assert one.switches.paths == {"/var/run/openvswitch/db.sock", "/b.sock"}
    one.switches.changed({"other", host_name(Key(ContainerID("s2"), "net1"))})
    one.wait(lambda: one.looked)
    assert one.looked == [("uid-s2", {"net1"}, {"net1"})]


def run_until(one, looked, count):
    """Run it until there have been so many looks."""
    one.start()
    end = time.monotonic() + WAIT_S
    while len(looked) < count:
        assert time.monotonic() < end, looked
        time.sleep(0.01)
    one.close()


def test_a_look_at_everything_is_spread_and_what_is_heard_of_comes_first(monkeypatch):
    journal, watch, suspected, looked = FakeJournal(), FakeWatch(), Suspects(), []
    journal += [record(f"s{number}") for number in range(30)] + [record("half", phase=Phase.ADDING)]
    monkeypatch.setattr(drift, "SPREAD", 4)
    one = Drift(journal, watch, FakeSwitches(), suspected, lambda uid: looked.append((uid, watch.reads)),
                lambda _: None, FakeView())  # fmt: skip
    one.enter(Sandbox(ContainerID("s29"), journal[29].namespace))
    watch.say(Event(watch.numbers["s29"], What.LINK, 5, "net1"))
    run_until(one, looked, 31)
    assert looked[0][0] == "uid-s29"
    assert [uid for uid, _ in looked[1:]] == [f"uid-s{number}" for number in range(30)]
    rounds = [when for _, when in looked[1:]]
    assert max(map(rounds.count, rounds)) == 4
    assert suspected.take(PodUID("uid-s3")).keys == {Key(ContainerID("s3"), "net1")}


def test_other_plugins_are_asked_with_each_look_at_everything_a_few_at_a_time(monkeypatch):
    journal, watch, suspected, looked = FakeJournal(), FakeWatch(), Suspects(), []
    plain = [record("mute", type="other", disableCheck=True), record("old", type="other", cniVersion="0.3.1"),
             record("theirs", type="other", origin=Origin.RUNTIME), record("own"), record("torn", type=7)]  # fmt: skip
    journal += [record(f"s{number}", type="other") for number in range(5)] + plain
    monkeypatch.setattr(drift, "ASKED", 2)

    def look(uid):
        looked.append((uid, watch.reads, bool(suspected.take(uid).to_ask)))

    one = Drift(journal, watch, FakeSwitches(), suspected, look, lambda _: None, FakeView())
    run_until(one, looked, 9)
    assert {uid: asks for uid, _, asks in looked} == {
        **{f"uid-s{number}": True for number in range(5)}, "uid-mute": False, "uid-old": False, "uid-own": False,
        "uid-torn": False,
    }  # fmt: skip
    rounds = [when for _, when, asks in looked if asks]
    assert max(map(rounds.count, rounds)) == 2


def test_events_that_mean_nothing_wrong_again_and_again_wait_but_for_a_link_that_is_gone(hearing, monkeypatch):
    for name in ("FIRST_S", "LONGEST_S", "QUIET_S"):
        monkeypatch.setattr(suspects, name, 1000.0)
    one = hearing(record(), record("s2"))
    one.is_in_vain = True
    route = Event(one.watch.numbers["s1"], What.ROUTE, 5, gone=True)
    for _ in range(3 * AT_ONCE):
        one.watch.say(route)
        one.settle()
    assert one.looked == [("uid-s1", {"net1"}, {"net1"})] * AT_ONCE
    one.watch.say(Event(one.watch.numbers["s2"], What.ROUTE, 5, gone=True))
    one.settle()
    assert one.looked[AT_ONCE:] == [("uid-s2", {"net1"}, {"net1"})], "another pod's are its own"
    one.watch.say(Event(one.watch.numbers["s1"], What.LINK, 5, "net1", gone=True, renamed=True))
    one.settle()
    assert len(one.looked) == AT_ONCE + 1, "a pod may give its links names, on and on"
    one.watch.say(Event(one.watch.numbers["s1"], What.LINK, 5, "net1", gone=True))
    one.settle()
    assert one.looked[AT_ONCE + 1 :] == [("uid-s1", {"net1"}, {"net1"})]


def test_what_waits_for_its_look_has_it(hearing, monkeypatch):
    monkeypatch.setattr(suspects, "FIRST_S", 0.5)
    one = hearing(record())
    one.is_in_vain = True
    for _ in range(AT_ONCE + 1):
        one.watch.say(Event(one.watch.numbers["s1"], What.ROUTE, 5, gone=True))
        one.settle()
    one.wait(lambda: len(one.looked) == AT_ONCE + 1)


def test_looks_in_vain_wait_ever_longer_until_one_finds_something_or_it_has_been_quiet():
    suspected, now, waits = Suspects(), 1000.0, []
    key, other = record().key, record("s2").key
    for _ in range(AT_ONCE + 6):
        waits.append(suspected.not_before(key, now) - now)
        now = suspected.not_before(key, now)
        suspected.found(key, now, is_wrong=False)
    assert waits == [0] * AT_ONCE + [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, LONGEST_S, LONGEST_S, LONGEST_S]
    assert suspected.not_before(other, now) == now
    assert suspected.not_before(key, now + QUIET_S) == now + QUIET_S
    suspected.found(key, now + QUIET_S, is_wrong=False)
    assert suspected.not_before(key, now + QUIET_S) == now + QUIET_S, "it has started anew"
    for _ in range(AT_ONCE):
        suspected.found(other, now, is_wrong=False)
    assert suspected.not_before(other, now) == now + FIRST_S
    suspected.found(other, now, is_wrong=True)
    assert suspected.not_before(other, now) == now
    suspected.add(PodUID("a"), [key, other], heard=True, to_ask=True)
    suspected.add(PodUID("b"), [key])
    suspected.keep({other})
    assert (suspected.take(PodUID("a")).heard, suspected._of) == ({other}, {})
    assert suspected.not_before(key, now + QUIET_S) == now + QUIET_S
