"""Who tries again when something has come or has become free, and who does not."""

import json

import pytest

from agent.attempts import HASTE_S, WOKEN, Attempts
from agent.model import ContainerID, Desired, Key, Namespace, Origin, Phase, Pod, PodUID, Record, State, Wanted
from agent.progress import Progress
from agent.retries import Retries
from cni import multinet


class FakeWorkers:
    def __init__(self):
        self.touched, self.later = [], []

    def touch(self, uid):
        self.touched.append(uid)

    def touch_after(self, uid, seconds):
        self.later.append((uid, seconds))


class FakeJournal(dict):
    desired = dict.get


class FakeAttachments:
    def detach(self, record):
        pass

    def definition(self, wanted):
        return wanted.config


class World:
    """Pods that wait, each for one network."""

    def __init__(self):
        self.retries, self.journal, self.workers = Retries(), FakeJournal(), FakeWorkers()
        self.attempts = Attempts(FakeAttachments(), self.retries, self.journal, self.workers)

    def waits(self, name, network="n", reason="TryAgainLater", tries=1, state=State.PENDING, **config):
        uid = PodUID(name)
        text = json.dumps({"cniVersion": "1.1.0", "name": network, "type": "hotnic", "device": "macvlan", **config})
        wanted = Wanted(multinet.Selection("ns", network), text)
        self.journal[uid] = Desired(Pod(uid, "ns", name), "r", (wanted,))
        for _ in range(tries):
            self.retries.failed(uid, "w", state, reason, "m", 1e9)
        return uid

    def detach(self, network="n"):
        pod = Pod(PodUID("leaver"), "ns", "leaver")
        record = Record(
            Key(ContainerID("s"), "net1"),
            Origin.ANNOTATION,
            Phase.ATTACHED,
            f"ns/{network}",
            "{}",
            "{}",
            Namespace("x"),
            pod,
        )
        assert self.attempts.detach(Progress(Desired(pod, "r"), "s", 0.0), record)

    def is_due(self, uid, now=1e9 - 1):
        return self.retries.is_due(uid, "w", now)


@pytest.fixture
def world():
    return World()


def test_what_is_freed_is_for_those_that_have_tried_most_often_and_not_for_all(world):
    waiting = [world.waits(f"p{number}", tries=1 + number % 7) for number in range(100)]
    world.detach()
    assert len(world.workers.touched) == WOKEN
    tries = {uid: 1 + number % 7 for number, uid in enumerate(waiting)}
    assert {tries[uid] for uid in world.workers.touched} == {7}
    assert all(world.is_due(uid) == (uid in world.workers.touched) for uid in waiting)


def test_who_waits_for_another_network_or_for_what_nobody_frees_is_left_alone(world):
    mine = world.waits("mine")
    world.waits("other", network="other")
    world.waits("hopeless", reason="IncompatibleVersion")
    world.waits("refused", state=State.REFUSED)
    world.detach()
    assert world.workers.touched == [mine]


def test_a_try_that_was_hastened_still_counts(world):
    uid = world.waits("p", tries=9)
    before = world.retries.last(uid, "w")
    world.detach()
    assert world.retries.last(uid, "w").attempts == before.attempts == 9
    assert world.retries.failed(uid, "w", State.PENDING, "R", "m", 0.0).not_before > 90


def test_a_link_that_comes_is_for_who_needs_it_and_for_a_storm_once_a_second(world, monkeypatch):
    now = 100.0
    monkeypatch.setattr("agent.attempts.time.monotonic", lambda: now)
    uid = world.waits("p", master="m0")
    world.waits("other", master="m1")
    world.attempts.came({"eth9", "*"})
    assert world.workers.later == []
    for _ in range(50):
        world.attempts.came({"m0", "*"})
    assert [(who, round(seconds, 1)) for who, seconds in world.workers.later] == [(uid, 0.0), (uid, HASTE_S)]
    assert world.is_due(uid, now)
    now += 3 * HASTE_S
    world.attempts.came({"m0"})
    assert len(world.workers.later) == 3


def test_where_an_address_or_the_default_route_decides_it_is_that_which_is_waited_for(world):
    uid = world.waits("p")  # no master: that of the default route
    world.attempts.came({"eth9", "*"})
    assert world.workers.later == []
    world.attempts.came({"@"})
    assert [who for who, _ in world.workers.later] == [uid]


def test_who_waits_in_vain_does_not_keep_the_next_ones_from_their_turn(world):
    stuck = [world.waits(f"stuck{number}", tries=50) for number in range(WOKEN)]
    others = [world.waits(f"other{number}") for number in range(WOKEN + 3)]
    for _ in range(3):
        world.workers.touched.append("|")
        world.detach()
        for uid in stuck:
            world.waits(uid)  # and fails again
    first, second, third = " ".join(world.workers.touched).strip("| ").split(" | ")
    assert set(first.split()) == set(stuck)
    assert set(second.split()) < set(others)
    assert set(third.split()) >= set(others) - set(second.split()), "all have had their turn before anybody's second"


def test_a_try_that_is_forgotten_while_it_is_hastened_is_no_harm():
    retries, uid = Retries(), PodUID("p")

    class Meanwhile(float):
        def __lt__(self, when):
            retries.forget(uid)
            return float(self) < when

    for wish in ("a", "b"):
        retries.failed(uid, wish, State.PENDING, "R", "m", 100.0)
    retries.hasten(uid, Meanwhile(1.0))
    assert (retries.last(uid, "a"), list(retries.waiting())) == (None, [])
