"""What a pass looks at, and how many of other plugins' CHECKs run at once."""

import json
import threading
import time
from collections import Counter

import pytest

from agent import mending
from agent.inspection import Found
from agent.mending import CHECKS, Mending
from agent.model import ContainerID, Desired, Key, Namespace, Origin, Phase, Pod, PodUID, Record
from agent.plan import Keep
from agent.progress import Progress
from agent.suspects import AT_ONCE, Suspects

WAIT_S = 20


class FakeInspector:
    """Counts; a CHECK ends when the test says so."""

    def __init__(self):
        self.looks, self.checks, self.at_once, self.running = Counter(), Counter(), 0, 0
        self.has_others_said, self.found = True, Found()
        self.go_on, self.lock = threading.Event(), threading.Lock()

    def repairs(self, record):
        return True

    def look(self, record, *, shared, repair):
        self.looks[record.key.container_id] += 1
        return self.found

    def has_others(self, record):
        return self.has_others_said

    def check(self, record):
        with self.lock:
            self.checks[record.key.container_id] += 1
            self.running += 1
            self.at_once = max(self.at_once, self.running)
        assert self.go_on.wait(WAIT_S)
        with self.lock:
            self.running -= 1
        return Found()


class World:
    """Pods, each with one attachment of another plugin. A pass that is asked for is noted, and made by the test."""

    def __init__(self):
        self.inspector, self.suspects, self.asked = FakeInspector(), Suspects(), []
        self.mending = Mending(self.inspector, self.suspects, None, lambda uid, _: self.asked.append(uid))

    def run(self, name, suspected=False):
        uid, key = PodUID(name), Key(ContainerID(name), "net1")
        pod = Pod(uid, "ns", name)
        record = Record(key, Origin.ANNOTATION, Phase.ATTACHED, "ns/n", "{}", json.dumps({}), Namespace("x"), pod)
        if suspected:
            self.suspects.add(uid, [key], heard=True, to_ask=True)
        progress = Progress(Desired(pod, "r"), name, 0.0)
        self.mending.mend(progress, [Keep(0, record)])

    def start(self, name):
        thread = threading.Thread(target=self.run, args=(name, True))
        thread.start()
        return thread


@pytest.fixture
def world():
    return World()


def test_at_the_start_the_first_pass_over_a_pod_looks_and_asks_and_the_next_one_does_not(world):
    world.inspector.go_on.set()
    for _ in range(2):
        for name in ("a", "b"):
            world.run(name)
    assert world.inspector.looks == world.inspector.checks == {"a": 1, "b": 1}


def test_a_first_pass_that_comes_later_leaves_the_look_to_whoever_spreads_them(world, monkeypatch):
    monkeypatch.setattr(mending, "START_S", 0.0)
    world.run("a")
    assert not world.inspector.looks


def test_at_the_start_a_pass_waits_for_its_turn_so_that_nothing_is_told_before(world, monkeypatch):
    monkeypatch.setattr(mending, "START_S", WAIT_S)
    started = [world.start(f"p{number}") for number in range(3 * CHECKS)]
    time.sleep(0.2)
    world.inspector.go_on.set()
    for thread in started:
        thread.join()
    assert (sum(world.inspector.checks.values()), world.inspector.at_once, world.asked) == (3 * CHECKS, CHECKS, [])


def test_who_waits_for_a_turn_is_not_looked_at_again_and_is_called_when_one_ends(world):
    first = [world.start(f"first{number}") for number in range(CHECKS)]
    end = time.monotonic() + WAIT_S
    while world.inspector.running < CHECKS:
        assert time.monotonic() < end
        time.sleep(0.01)
    for _ in range(20):  # other reasons for a pass
        for name in ("a", "b"):
            world.run(name, suspected=not world.inspector.looks[name])
    assert (world.inspector.looks["a"], world.inspector.checks["a"]) == (1, 0)
    world.asked.clear()
    world.inspector.go_on.set()
    for thread in first:
        thread.join()
    assert sorted(set(world.asked)) == ["a", "b"], "each turn that ends calls one"
    for uid in ("a", "b"):
        world.run(uid)
    assert (world.inspector.checks["a"], world.inspector.checks["b"], world.inspector.at_once) == (1, 1, CHECKS)


def test_a_link_that_stays_gone_because_its_detaching_failed_is_not_told_to_be_made_anew(world):
    uid, key = PodUID("a"), Key(ContainerID("a"), "net1")
    pod = Pod(uid, "ns", "a")
    record = Record(key, Origin.ANNOTATION, Phase.ATTACHED, "ns/n", "{}", "{}", Namespace("x"), pod, ifindex=5)
    desired = Desired(pod, "r")
    assert world.mending.with_the_gone(desired, ContainerID("a"), [record], {}) == {}, "it is to be made anew"
    assert world.mending.with_the_gone(desired, ContainerID("a"), [record], {}) == {"net1 (gone)": 5}, "it waits"
    progress = Progress(desired, "a", 0.0)
    progress.in_pod[key] = 0
    world.mending.made_anew(progress)
    standing = world.mending._of[uid].standing(key)
    assert (standing.reason, standing.is_gone) == ("Drifted", True)


def test_a_turn_comes_back_from_who_fails(world, monkeypatch):
    def fail(_record):
        raise mending.NotReady("R", "m")

    world.inspector.go_on.set()
    monkeypatch.setattr(world.inspector, "check", fail)
    for number in range(CHECKS + 1):
        world.run(f"p{number}", suspected=True)
    monkeypatch.undo()
    world.run("after", suspected=True)
    assert world.inspector.checks["after"] == 1


def test_looks_because_of_events_that_find_nothing_are_noted_and_those_that_find_something_too(world):
    world.inspector.has_others_said = False
    key = Key(ContainerID("a"), "net1")
    for _ in range(AT_ONCE):
        world.run("a", suspected=True)
    assert world.suspects.not_before(key, 0.0) > 0.0
    world.inspector.found = Found(("it is down",), "")
    world.run("a", suspected=True)
    assert world.suspects.not_before(key, 0.0) == 0.0
