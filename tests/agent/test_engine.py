"""Stories of the engine: what is applied, what is done, what is told. Journal, plan, retries and workers are the real
ones; runtime, namespaces and plugins are small fakes that keep what they are given."""

import itertools
import json
import logging
import threading
import time
from dataclasses import replace

import pytest

from agent import cri, drift, retries, sweep
from agent import repairs as repairing
from agent.cache import Cached
from agent.engine import Engine
from agent.inspection import Found
from agent.journal import Journal
from agent.locks import Locks
from agent.model import (
    KUBEVIRT,
    ContainerID,
    Desired,
    Guest,
    Hold,
    Key,
    Namespace,
    NotReady,
    Origin,
    Phase,
    Pod,
    PodUID,
    Record,
    Refused,
    Standing,
    State,
    Wanted,
)
from agent.outcomes import Outcomes
from agent.plan import element
from agent.sandboxes import Sandbox
from agent.watch import NODE, Event, What
from cni import multinet

POD = Pod(PodUID("u1"), "ns", "p1")
SANDBOX = Sandbox(ContainerID("s1"), Namespace("/run/netns/s1", 4, 1))
WAIT_S = 10


class World:
    """What is outside of the engine: which sandboxes there are, and what is in them."""

    def __init__(self) -> None:
        self.sandboxes = {POD.uid: SANDBOX}
        self.links = {"s1": {"lo", "eth0"}}
        self.fails: dict[str, Exception] = {}  # by interface, or "del <interface>"
        self.hangs: dict[str, threading.Event] = {}
        self.cached: tuple[Cached, ...] = ()
        self.done: list[str] = []
        self.guest: Guest | None = None  # what all guests say; None: something sensible
        self.turns: int | None = None  # how many interfaces one pass hands on; None: all
        self.handings_on = 0
        self.leaving: set[str] = set()  # what the relay was last told of
        self.listed: set[Pod] = set()  # by the runtime
        self.wrong: dict[str, Found] = {}  # by interface: what others have done to it
        self.looks: list[tuple[str, bool]] = []
        self.repairs = True
        self.indexes: dict[tuple[str, str], int] = {}
        self.numbers = itertools.count(1)

    # as Sandboxes
    def of(self, pod):
        found = self.sandboxes.get(pod.uid)
        if isinstance(found, Exception):
            raise found
        return found

    def is_listed(self, pod):
        return pod in self.listed

    def known(self, pod):
        found = self.sandboxes.get(pod.uid)
        return found.id if isinstance(found, Sandbox) else ""

    def refresh(self):
        return {one.id for one in self.sandboxes.values() if isinstance(one, Sandbox)}

    # as netns.View and Kernel
    def still_there(self, namespace):
        return any(one.namespace == namespace for one in self.sandboxes.values() if isinstance(one, Sandbox))

    def opened(self, path):
        return _Opened(path.rsplit("/", 1)[1])

    def pod_links(self, sandbox):
        return tuple(_Link(name, self.index(sandbox, name)) for name in sorted(self.links[sandbox]))

    def index(self, sandbox, name):
        """Return the index of an interface; one that is made anew has another."""
        return self.indexes.setdefault((sandbox, name), next(self.numbers))

    def take(self, sandbox, name):
        """Remove an interface behind everybody's back."""
        self.links[sandbox].discard(name)
        self.indexes.pop((sandbox, name), None)


class _Opened:
    def __init__(self, sandbox: str) -> None:
        self.sandbox = sandbox

    def __enter__(self) -> str:
        return self.sandbox

    def __exit__(self, *_: object) -> None:
        return None


class _Link:
    def __init__(self, name: str, index: int) -> None:
        self.name, self.index = name, index


class FakeAttachments:
    """Journals like the real one, and changes the world instead of the kernel."""

    def __init__(self, world: World, journal: Journal) -> None:
        self.world, self.journal = world, journal

    def attach(self, pod, sandbox, step, vm):
        key = Key(sandbox.id, step.ifname)
        network, text = step.wanted.selection.network, element(step.wanted)
        record = Record(key, Origin.ANNOTATION, Phase.ADDING, network, text, step.wanted.config, sandbox.namespace, pod)
        record = self.journal.begin(record, durable=False)
        if hang := self.world.hangs.get(step.ifname):
            hang.wait(WAIT_S)
        if problem := self.world.fails.get(step.ifname):
            self.journal.remove(key)
            raise problem
        self.world.links[sandbox.id].add(step.ifname)
        self.world.done.append(f"+{step.ifname}")
        interface = {"name": step.ifname, "sandbox": sandbox.namespace.path}
        index = self.world.index(sandbox.id, step.ifname)
        document = {"cniVersion": "1.0.0", "interfaces": [interface]}
        record = replace(record, phase=Phase.ATTACHED, result=document, ifindex=index)
        self.journal.update(record, durable=False)
        return record

    def definition(self, wanted):
        return wanted.config

    def examine(self, wanted, vm):
        if problem := self.world.fails.get(f"examine {wanted.selection.mac}"):
            raise problem

    def update(self, step):
        if problem := self.world.fails.get(f"update {step.record.key.ifname}"):
            raise problem
        record = replace(step.record, element=element(step.wanted))
        self.world.done.append(f"~{record.key.ifname}")
        self.journal.update(record, durable=False)
        return record

    def detach(self, record):
        if problem := self.world.fails.get(f"del {record.key.ifname}"):
            raise problem
        if record.key.container_id in self.world.links:
            self.world.take(record.key.container_id, record.key.ifname)
        self.world.done.append(f"-{record.key.ifname}")
        self.journal.remove(record.key)


class FakeRelay:
    """Stands for all guests: what they have got, and what they do not give back."""

    def __init__(self, world: World, journal: Journal) -> None:
        self.world, self.journal = world, journal

    def leaves(self, uid, records):
        self.world.leaving = {record.key.ifname for record in records}

    def hand_on(self, desired, sandbox, records, is_current):
        standings = {}
        self.world.handings_on += 1
        for record in list(records)[: self.world.turns]:
            problem = self.world.fails.get(f"guest {record.key.ifname}")
            if problem is None and not record.guest:
                self.world.done.append(f">{record.key.ifname}")
                self.journal.update(replace(record, guest={"vm": desired.vm, "mac": "m"}), durable=False)
            told = self.world.guest or Guest("PodAttached" if problem else "GuestVisible", "eth1")
            standings[record.key] = Standing(told, problem)
        return standings

    def lost(self):
        return {POD.uid} if "lost" in self.world.fails else set()

    def take_back(self, desired, sandbox, records, is_current):
        left = {}
        for record in records:
            if problem := self.world.fails.get(f"leave {record.key.ifname}"):
                left[record.key] = problem
            else:
                self.world.done.append(f"<{record.key.ifname}")
                self.journal.update(replace(record, guest={}), durable=False)
        return left


class FakeInspector:
    """Finds what the world says is wrong, and repairs it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def repairs(self, record):
        return self.world.repairs

    def has_others(self, record):
        return False

    def look(self, record, *, shared, repair):
        self.world.looks.append((record.key.ifname, shared))
        wrong = self.world.wrong.get(record.key.ifname)
        if isinstance(wrong, Exception):
            raise wrong
        if wrong is None:
            return Found()
        if repair and not wrong.problem:
            del self.world.wrong[record.key.ifname]
        return wrong


class FakeWatch:
    """Tells what a test says. The number of a sandbox is that in its name."""

    hears_pods = True

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._woken = False

    def number(self, sandbox):
        return int(sandbox.removeprefix("s"))

    def say(self, *events: Event) -> None:
        with self._changed:
            self._events += events
            self._changed.notify_all()

    def wait(self, timeout_s):
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._woken, timeout_s)
            self._woken = False

    def wake(self):
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def read(self):
        with self._changed:
            said, self._events = self._events, []
        return said

    def close(self):
        pass


class Story:
    """An engine in a world; restartable on the same journal."""

    def __init__(self, folder) -> None:
        self.folder, self.world = folder, World()
        self.engine = None

    def start(self) -> "Story":
        self.journal, self.outcomes, self.watch = Journal(self.folder), Outcomes(), FakeWatch()
        attachments = FakeAttachments(self.world, self.journal)
        world = self.world
        self.engine = Engine(
            self.journal, world, attachments, world, self.outcomes, Locks(), world, lambda _: world.cached,
            FakeRelay(world, self.journal), FakeInspector(world), self.watch,
        )  # fmt: skip
        self.engine.start()
        return self

    def stop(self) -> None:
        self.engine.close()
        self.journal.close()

    def between(self, change) -> None:
        """Change the journal while no agent runs."""
        journal = Journal(self.folder)
        change(journal)
        journal.close()

    def apply(self, revision: str, *wishes: Wanted, pod: Pod = POD, **more) -> None:
        self.engine.apply(Desired(pod, revision, wishes, **more))

    def outcome(self, holds, pod: Pod = POD):
        """Wait for an outcome of the pod for which `holds`."""
        end = time.monotonic() + WAIT_S
        with self.outcomes.listen() as listener:
            while time.monotonic() < end:
                found = listener.next(0.1)
                if found is not None and found.pod == pod and holds(found):
                    return found
        pytest.fail(f"no such outcome; latest: {self.outcomes.latest()}")

    def settled(self, revision: str, pod: Pod = POD):
        return self.outcome(lambda one: one.revision == revision and one.settled, pod)


@pytest.fixture
def story(tmp_path):
    made = Story(tmp_path).start()
    yield made
    made.stop()


def wish(name: str, interface: str = "", config: str = "{}", hold: Hold | None = None) -> Wanted:
    return Wanted(multinet.Selection("ns", name, interface=interface), config, hold=hold)


def states(outcome) -> list[tuple[str, str, str]]:
    return [(one.interface, one.state.value, one.reason) for one in outcome.attachments]


def test_a_desired_set_is_attached_and_told(story):
    story.apply("r1", wish("a", "x1"), wish("b"))
    outcome = story.settled("r1")
    assert states(outcome) == [("x1", "Attached", ""), ("net1", "Attached", "")]
    assert outcome.attachments[0].result["cniVersion"] == "1.1.0"
    assert (outcome.sandbox, outcome.released, story.world.done) == ("s1", (), ["+x1", "+net1"])


def test_a_pod_that_bears_the_uid_of_another_changes_nothing_of_it(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    evil = replace(POD, namespace="evil")
    for desired in (Desired(evil, "r2", (wish("b", "x2"),)), Desired(evil, "", ended=True)):
        with pytest.raises(Refused, match="not of evil/"):
            story.engine.apply(desired)
    assert story.journal.desired(POD.uid).pod == POD
    assert story.world.done == ["+x1"]


def test_a_uid_is_the_pods_whose_sandbox_the_runtime_lists_whoever_came_first(story):
    evil = replace(POD, namespace="evil")
    story.engine.apply(Desired(evil, "r0", ()))
    with pytest.raises(Refused):
        story.apply("r1", wish("a", "x1"))
    story.world.listed.add(POD)
    story.apply("r1", wish("a", "x1"))
    assert states(story.settled("r1")) == [("x1", "Attached", "")]
    with pytest.raises(Refused):
        story.engine.apply(Desired(evil, "r0", ()))


def test_what_is_no_longer_wanted_is_detached_and_released(story):
    story.apply("r1", wish("a", "x1"), wish("b", "x2"))
    story.settled("r1")
    story.apply("r2", wish("b", "x2"))
    outcome = story.settled("r2")
    assert (states(outcome), outcome.released) == ([("x2", "Attached", "")], ("x1 ns/a",))
    story.apply("r3", wish("b", "x2"), wish("c", "x1"))
    assert story.settled("r3").released == ("x1 ns/a",)  # of that network; x1 is another's now


OURS = '{"cniVersion": "1.1.0", "type": "hotnic", "device": "bridge", "capabilities": {"mac": true}}'


def with_mac(mac: str) -> Wanted:
    return Wanted(multinet.Selection("ns", "a", interface="x1", mac=mac), OURS)


def test_a_change_that_can_be_made_in_place_detaches_nothing(story):
    story.apply("r1", with_mac("02:00:00:00:00:01"))
    story.settled("r1")
    story.apply("r2", with_mac("02:00:00:00:00:02"))
    outcome = story.settled("r2")
    assert (states(outcome), outcome.released) == ([("x1", "Attached", "")], ())
    assert story.world.done == ["+x1", "~x1"]
    story.apply("r3", with_mac("02:00:00:00:00:02"))
    story.settled("r3")
    assert story.world.done == ["+x1", "~x1"]


@pytest.mark.parametrize("config", [OURS, "{}"], ids=["in-place", "replacement"])
def test_a_change_that_is_known_to_be_refused_changes_nothing(story, config):
    before, after = (Wanted(multinet.Selection("ns", "a", interface="x1", mac=mac), config) for mac in ("", "wrong"))
    story.apply("r1", before)
    story.settled("r1")
    story.world.fails["examine wrong"] = Refused("PolicyForbids", "not for you")
    story.apply("r2", after)
    outcome = story.settled("r2")
    assert (states(outcome), outcome.released) == ([("x1", "Refused", "PolicyForbids")], ())
    assert story.world.done == ["+x1"]
    del story.world.fails["examine wrong"]
    story.apply("r3", after)
    assert states(story.settled("r3")) == [("x1", "Attached", "")]


def test_a_change_in_place_that_fails_becomes_a_replacement(story):
    story.apply("r1", with_mac("02:00:00:00:00:01"))
    story.settled("r1")
    story.world.fails["update x1"] = NotReady("PluginFailed", "the kernel says no")
    story.apply("r2", with_mac("02:00:00:00:00:02"))
    assert states(story.settled("r2")) == [("x1", "Attached", "")]
    assert story.world.done == ["+x1", "-x1", "+x1"]


def test_the_failure_of_one_is_its_own_and_is_retried_until_it_works(story):
    story.world.fails["x1"] = NotReady("TryAgainLater", "pool is empty")
    story.apply("r1", wish("a", "x1"), wish("b", "x2"))
    assert states(story.settled("r1")) == [("x1", "Pending", "TryAgainLater"), ("x2", "Attached", "")]
    del story.world.fails["x1"]
    outcome = story.outcome(lambda one: all(part.state is State.ATTACHED for part in one.attachments))
    assert [one.interface for one in outcome.attachments] == ["x1", "x2"]


def test_a_refusal_is_told_and_not_tried_again_until_the_annotation_changes(story):
    story.world.fails["x1"] = Refused("CapabilityNotDeclared", "mac")
    story.apply("r1", wish("a", "x1"))
    assert states(story.settled("r1")) == [("x1", "Refused", "CapabilityNotDeclared")]
    del story.world.fails["x1"]
    time.sleep(1)
    assert story.world.done == []
    story.apply("r2", wish("a", "x1"))
    assert states(story.settled("r2")) == [("x1", "Attached", "")]


def test_applying_the_same_set_again_does_not_end_the_waiting(story):
    story.world.fails["x1"] = NotReady("R", "m")
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    attempts = max(one.attempts for one in story.settled("r1").attachments)
    for _ in range(20):
        story.apply("r1", wish("a", "x1"))
    assert max(one.attempts for one in story.settled("r1").attachments) <= attempts + 1


def test_a_detach_that_fails_keeps_its_entry_and_its_name_until_it_works(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.fails["del x1"] = NotReady("PluginFailed", "switch is away")
    story.apply("r2", wish("b", "x1"))
    outcome = story.settled("r2")
    assert states(outcome) == [("x1", "Pending", "Replacing"), ("x1", "Detaching", "PluginFailed")]
    assert outcome.released == ()
    del story.world.fails["del x1"]
    story.outcome(lambda one: states(one) == [("x1", "Attached", "")])
    assert story.world.done == ["+x1", "-x1", "+x1"]


def test_a_freed_network_wakes_who_waits_for_it(story, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_S", 60.0)
    other = Pod(PodUID("u2"), "ns", "p2")
    story.world.sandboxes[other.uid] = Sandbox(ContainerID("s2"), Namespace("/run/netns/s2", 4, 2))
    story.world.links["s2"] = {"lo"}
    story.apply("r1", wish("one", "x1"))
    story.settled("r1")
    story.world.fails["y1"] = NotReady("TryAgainLater", "no address")
    story.apply("r1", wish("one", "y1"), pod=other)
    story.outcome(lambda one: one.attachments and one.attachments[0].attempts == 1, other)
    del story.world.fails["y1"]
    story.apply("r2")
    story.outcome(lambda one: states(one) == [("y1", "Attached", "")], other)


def test_what_waits_is_tried_at_once_when_the_engine_is_told_to(story, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_S", 60.0)
    story.world.fails["x1"] = NotReady("TryAgainLater", "the nodes' addresses are not known yet")
    story.apply("r1", wish("a", "x1"))
    story.outcome(lambda one: one.attachments and one.attachments[0].attempts == 1)
    del story.world.fails["x1"]
    story.engine.retry()
    story.outcome(lambda one: states(one) == [("x1", "Attached", "")])


def test_a_pod_without_a_sandbox_is_served_as_soon_as_it_has_one(story):
    story.world.sandboxes[POD.uid] = None
    story.apply("r1", wish("a", "x1"))
    assert states(story.settled("r1")) == [("x1", "Pending", "NoSandbox")]
    story.world.sandboxes[POD.uid] = SANDBOX
    story.outcome(lambda one: states(one) == [("x1", "Attached", "")])


def test_a_replaced_sandbox_gets_its_interfaces_and_the_dead_one_loses_its_records(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.links["s9"] = {"lo", "eth0"}
    story.world.sandboxes[POD.uid] = Sandbox(ContainerID("s9"), Namespace("/run/netns/s9", 4, 9))
    outcome = story.outcome(lambda one: one.sandbox == "s9")
    assert states(outcome) == [("x1", "Attached", "")]
    assert [one.key for one in story.journal.records()] == [Key(ContainerID("s9"), "x1")]


def test_a_runtime_that_is_away_makes_wait_and_touches_nothing(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.sandboxes[POD.uid] = NotReady("RuntimeUnavailable", "connection refused")
    story.apply("r2")
    outcome = story.settled("r2")
    assert (outcome.attachments, outcome.released) == ((), ())
    assert story.world.done == ["+x1"]
    story.apply("r3", wish("a", "x1"), wish("b", "x2"))
    assert states(story.settled("r3")) == [("x1", "Attached", ""), ("x2", "Pending", "RuntimeUnavailable")]
    story.apply("r4")
    story.world.sandboxes[POD.uid] = SANDBOX
    story.outcome(lambda one: one.released == ("x1 ns/a",))


def test_a_defect_of_ours_is_told_and_tried_again(story):
    story.world.fails["x1"] = RuntimeError("a bug")
    story.apply("r1", wish("a", "x1"))
    assert states(story.settled("r1")) == [("x1", "Pending", "InternalError")]
    del story.world.fails["x1"]
    story.outcome(lambda one: states(one) == [("x1", "Attached", "")])


def test_nothing_is_attached_where_nobody_can_tell_what_is_there(story):
    """A failed ADD under a taken name would be undone by deleting what is not ours."""
    links = story.world.links.pop("s1")
    story.world.pod_links = lambda _: (_ for _ in ()).throw(OSError("no such namespace"))
    story.apply("r1", wish("a", "x1"))
    assert states(story.settled("r1")) == [("x1", "Pending", "SandboxUnreadable")]
    assert story.world.done == []
    story.world.links["s1"] = links
    del story.world.pod_links
    story.outcome(lambda one: states(one) == [("x1", "Attached", "")])


def test_a_host_network_pod_is_refused(story):
    story.world.sandboxes[POD.uid] = Refused("HostNetwork", "node's own")
    story.apply("r1", wish("a", "x1"))
    assert states(story.settled("r1")) == [("x1", "Refused", "HostNetwork")]


def test_an_ended_pod_is_detached_and_forgotten(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.apply("end", ended=True)
    assert story.outcome(lambda one: one.forgotten).attachments == ()
    assert (story.journal.pods(), story.journal.records()) == ((), ())
    assert story.outcomes.latest() == ()


def test_an_ended_pod_whose_delete_fails_is_told_once_and_not_looked_at_all_the_time(story, caplog):
    """A pod that waits for its sandbox is looked at several times a second; a look at this one would find nothing."""
    caplog.set_level(logging.INFO)
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.fails["del x1"] = NotReady("PluginFailed", "no")
    story.world.sandboxes.clear()
    passes, over = [], story.engine._pass_over
    story.engine._pass_over = lambda uid: (passes.append(uid), over(uid))
    caplog.clear()
    story.apply("r2", ended=True)
    story.settled("r2")
    time.sleep(10 * sweep.TICK_S)
    assert 1 <= len(passes) < 6
    assert caplog.text.count("detach x1") == 1
    del story.world.fails["del x1"]
    story.outcome(lambda one: one.forgotten)


def test_an_ended_pod_is_forgotten_before_the_runtime_has_removed_its_own_attachment(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    key = Key(SANDBOX.id, "eth0")
    own = Record(key, Origin.RUNTIME, Phase.ATTACHED, "", "", "{}", SANDBOX.namespace, POD)
    story.journal.begin(own, durable=False)
    story.apply("end", ended=True)
    story.outcome(lambda one: one.forgotten)
    assert story.journal.pods() == ()
    assert [record.key for record in story.journal.records()] == [key]


def test_what_a_runtime_has_left_is_tried_again_and_told_once(story, monkeypatch, caplog):
    monkeypatch.setattr(sweep, "SWEEP_S", 0.0)
    gone, tries, detach = Namespace("/run/netns/gone", 4, 9), [], FakeAttachments.detach
    monkeypatch.setattr(FakeAttachments, "detach", lambda self, record: (tries.append(record), detach(self, record)))
    story.world.fails["del eth0"] = NotReady("PluginFailed", "no")
    record = Record(Key(ContainerID("dead"), "eth0"), Origin.RUNTIME, Phase.ATTACHED, "", "", "{}", gone, POD)
    story.journal.begin(record, durable=False)
    until(lambda: len(tries) > 2)
    assert caplog.text.count("left by a runtime") == 1
    del story.world.fails["del eth0"]
    until(lambda: story.journal.records() == ())


def test_a_pod_that_never_was_ends_at_once(story):
    with story.outcomes.listen() as listener:
        story.apply("end", ended=True)
        assert listener.next(WAIT_S).forgotten
    assert story.journal.pods() == ()


def test_a_slow_attachment_does_not_hide_what_works(story):
    story.world.hangs["x2"] = threading.Event()
    story.apply("r1", wish("a", "x1"), wish("b", "x2"))
    outcome = story.outcome(lambda one: not one.settled)
    assert states(outcome) == [("x1", "Attached", ""), ("x2", "Pending", "InProgress")]
    story.world.hangs["x2"].set()
    assert states(story.settled("r1")) == [("x1", "Attached", ""), ("x2", "Attached", "")]


def test_after_a_restart_whole_attachments_stay_and_half_ones_are_made_anew(story):
    story.apply("r1", wish("a", "x1"), wish("b", "x2"))
    story.settled("r1")
    half = next(one for one in story.journal.records() if one.key.ifname == "x2")
    story.stop()
    story.between(lambda journal: journal.update(replace(half, phase=Phase.ADDING, result=None), durable=False))
    story.world.done.clear()
    story.start()
    assert states(story.settled("r1")) == [("x1", "Attached", ""), ("x2", "Attached", "")]
    assert story.world.done == ["-x2", "+x2"]
    assert story.engine.caught_up()


def test_a_crash_between_the_delete_and_the_telling_still_releases_the_name(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.fails["del x1"] = NotReady("R", "m")
    story.apply("r2")
    story.settled("r2")
    story.stop()
    # the DEL had come to its end, the telling had not
    story.between(lambda journal: journal.remove(Key(ContainerID("s1"), "x1")))
    del story.world.fails["del x1"]
    story.start()
    assert story.settled("r2").released == ("x1 ns/a",)


CONFIG = json.dumps({"cniVersion": "1.0.0", "name": "blue", "type": "bridge"})


def cached(network: str, ifname: str) -> Cached:
    config = json.dumps({"cniVersion": "1.0.0", "name": network, "type": "bridge"})
    return Cached("s1", network, ifname, "/run/netns/s1", config, (), {}, {"cniVersion": "1.0.0"}, None)


def test_what_a_runtime_attached_because_the_annotation_asked_is_adopted_and_can_be_unplugged(story):
    story.world.cached = (cached("blue", "net1"), cached("default-net", "net2"))
    story.world.links["s1"] |= {"net1", "net2"}
    story.apply("r1", wish("blue", config=CONFIG))
    assert states(story.settled("r1")) == [("net1", "Attached", "")]
    assert story.world.done == []
    story.apply("r2")
    assert story.settled("r2").released == ("net1 ns/blue",)
    assert story.world.done == ["-net1"]
    assert story.world.links["s1"] == {"lo", "eth0", "net2"}


def test_what_was_asked_for_before_the_sandbox_came_is_adopted_though_the_annotation_changed_since(story):
    story.world.sandboxes[POD.uid] = None
    story.apply("r1", wish("blue", "x1", config=CONFIG))
    story.settled("r1")
    story.apply("r2", wish("red", "x2"))
    story.settled("r2")
    story.world.cached = (cached("blue", "x1"),)
    story.world.links["s1"] |= {"x1"}
    story.world.sandboxes[POD.uid] = SANDBOX
    story.outcome(lambda one: states(one) == [("x2", "Attached", "")] and one.released == ("x1 ns/blue",))
    assert story.world.links["s1"] == {"lo", "eth0", "x2"}


def test_what_a_runtime_attached_before_anyone_told_us_is_adopted_when_it_is_asked_for(story):
    story.world.cached = (cached("blue", "x1"),)
    story.world.links["s1"] |= {"x1"}
    story.apply("r1", wish("red", "x2", config=CONFIG.replace("blue", "red")))
    story.settled("r1")
    story.apply("r2", wish("blue", "x1", config=CONFIG))
    assert states(story.settled("r2")) == [("x1", "Attached", "")]
    assert story.world.done == ["+x2", "-x2"]


def test_a_wish_that_is_fulfilled_claims_no_second_interface_when_another_meets_one(story):
    """Both are of that CNI network, and only one was asked for: the other is a default network of Multus."""
    story.world.cached = (cached("blue", "net1"), cached("blue", "net2"))
    story.world.links["s1"] |= {"net1", "net2"}
    story.apply("r1", wish("blue", config=CONFIG))
    assert states(story.settled("r1")) == [("net2", "Attached", "")]
    red = wish("red", "net1", config=CONFIG.replace("blue", "red"))
    story.apply("r2", wish("blue", config=CONFIG), red)
    assert states(story.settled("r2")) == [("net2", "Attached", ""), ("net1", "Pending", "InterfaceExists")]
    assert story.world.done == []


def test_what_is_there_when_nothing_was_asked_for_is_not_claimed_by_a_later_wish(story):
    story.world.cached = (cached("blue", "net1"),)
    story.world.links["s1"] |= {"net1"}
    story.apply("r1")
    story.settled("r1")
    story.apply("r2", wish("blue", config=CONFIG))
    assert states(story.settled("r2")) == [("net2", "Attached", "")]
    assert story.world.done == ["+net2"]


def test_a_dead_sandboxs_failing_delete_does_not_keep_the_living_one_waiting(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.fails["del x1"] = NotReady("R", "switch is away")
    story.world.links["s9"] = {"lo", "eth0"}
    story.world.sandboxes[POD.uid] = Sandbox(ContainerID("s9"), Namespace("/run/netns/s9", 4, 9))
    outcome = story.outcome(lambda one: one.sandbox == "s9")
    assert states(outcome)[0] == ("x1", "Attached", "")
    del story.world.fails["del x1"]
    story.outcome(lambda one: len(one.attachments) == 1)


def test_a_held_element_keeps_what_is_attached(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    hold = Hold(State.PENDING, "NetworkNotFound", "gone")
    story.apply("r2", wish("a", "x1", hold=hold), wish("b", "x2", hold=hold))
    assert states(story.settled("r2")) == [("x1", "Attached", ""), ("x2", "Pending", "NetworkNotFound")]


def test_a_held_element_keeps_what_it_would_replace_until_it_is_attached(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.apply("r2", wish("b", "x1", hold=Hold(State.PENDING, "NetworkNotFound", "not there")))
    outcome = story.settled("r2")
    assert (states(outcome), outcome.released) == ([("x1", "Pending", "NetworkNotFound")], ())
    story.apply("r3", wish("b", "x1"))
    outcome = story.settled("r3")
    assert (states(outcome), outcome.released) == ([("x1", "Attached", "")], ("x1 ns/a",))


def test_the_current_sandbox_is_the_ready_one_of_the_last_attempt():
    def one(name: str, attempt: int, *, ready: bool) -> cri.Sandbox:
        return cri.Sandbox(ContainerID(name), POD.uid, "ns", "p1", attempt, 0, ready)

    assert cri.current([one("a", 0, ready=False), one("b", 1, ready=True)], POD.uid).id == "b"
    assert cri.current([one("a", 0, ready=False)], POD.uid) is None


# -- virtual machines ------------------------------------------------------------------------------------------

VM = '{"qmp": "/q"}'


def test_what_is_attached_is_handed_on_to_the_guest(story):
    story.apply("r1", wish("a", "x1"), wish("b", "x2"), vm=VM)
    outcome = story.settled("r1")
    assert states(outcome) == [("x1", "Attached", ""), ("x2", "Attached", "")]
    assert {one.guest.state for one in outcome.attachments} == {"GuestVisible"}
    assert story.world.done == ["+x1", "+x2", ">x1", ">x2"]


def test_what_the_guest_has_not_got_is_pending_with_its_result_and_tried_again(story):
    story.world.fails["guest x1"] = NotReady("VMUnreachable", "no socket")
    story.apply("r1", wish("a", "x1"), wish("b", "x2"), vm=VM)
    outcome = story.settled("r1")
    assert states(outcome) == [("x1", "Pending", "VMUnreachable"), ("x2", "Attached", "")]
    assert outcome.attachments[0].result is not None
    assert (outcome.attachments[0].guest.state, outcome.attachments[0].attempts) == ("PodAttached", 0)
    del story.world.fails["guest x1"]
    story.outcome(lambda one: states(one)[0] == ("x1", "Attached", ""))
    assert story.world.done == ["+x1", "+x2", ">x2", ">x1"]


def test_what_had_no_turn_has_it_at_once_and_first_in_the_next_pass(story):
    story.world.turns = 1
    story.apply("r1", wish("a", "x1"), wish("b", "x2"), vm=VM)
    outcome = story.outcome(lambda one: all(each.state is State.ATTACHED for each in one.attachments))
    assert {one.guest.state for one in outcome.attachments} == {"GuestVisible"}
    before = story.world.handings_on
    time.sleep(0.5)
    assert story.world.handings_on - before <= 1  # nothing is urgent any more


def test_what_a_guest_or_its_machine_says_is_cut_to_size(story):
    huge = "\ud800" + "x" * 1_000_000
    story.world.fails["guest x1"] = NotReady("VMRefused", huge)
    story.world.guest = Guest("PodAttached", huge, addresses=(huge,) * 1000, port=huge)
    story.apply("r1", wish("a", "x1"), wish("b", "x2"), vm=VM)
    one, two = story.settled("r1").attachments
    for text, size in ((one.message, 1024), (two.guest.interface, 64), (two.guest.port, 64)):
        assert text.startswith("?xx")
        assert len(text.encode()) == size
    assert len(two.guest.addresses) == 32
    assert {len(address) for address in two.guest.addresses} == {64}
    story.world.fails["leave x2"] = NotReady("VMRefused", huge)
    story.apply("r2", wish("a", "x1"), vm=VM)
    (left,) = [each for each in story.settled("r2").attachments if each.state is State.DETACHING]
    assert len(left.message.encode()) == 1024


def test_in_each_pass_the_relay_knows_what_leaves(story):
    story.apply("r1", wish("a", "podx"), vm=KUBEVIRT)
    story.settled("r1")
    story.world.fails["leave podx"] = NotReady("WaitingForGuest", "still there")
    story.apply("r2", vm=KUBEVIRT)
    story.settled("r2")
    assert story.world.leaving == {"podx"}
    story.apply("r3", wish("a", "podx"), vm=KUBEVIRT)
    story.settled("r3")
    assert story.world.leaving == set()


def test_what_a_guest_cannot_have_is_refused(story):
    story.world.fails["guest x1"] = Refused("UnsuitableForVM", "a macvlan")
    story.apply("r1", wish("a", "x1"), vm=VM)
    assert states(story.settled("r1")) == [("x1", "Refused", "UnsuitableForVM")]


def test_the_guest_lets_go_before_the_interface_goes(story):
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.world.fails["leave x1"] = NotReady("WaitingForGuest", "still there")
    story.apply("r2", vm=VM)
    outcome = story.settled("r2")
    assert states(outcome) == [("x1", "Detaching", "WaitingForGuest")]
    assert (outcome.attachments[0].guest.state, outcome.attachments[0].attempts) == ("Detaching", 0)
    assert outcome.released == ()
    assert story.world.done == ["+x1", ">x1"]
    del story.world.fails["leave x1"]
    assert story.outcome(lambda one: not one.attachments).released == ("x1 ns/a",)
    assert story.world.done == ["+x1", ">x1", "<x1", "-x1"]


def test_between_two_looks_at_a_guest_nothing_is_detached(story):
    """A pass that is started by anything else comes in between, when it is nobody's turn."""
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.world.fails["leave x1"] = NotReady("WaitingForGuest", "still there")
    story.apply("r2", vm=VM)
    story.settled("r2")
    for number in range(20):
        story.engine.look(POD.uid)
        time.sleep(0.02 * (number % 3))
    assert "-x1" not in story.world.done


def test_a_guest_that_is_long_silent_is_told_as_a_failure(story):
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.world.fails["leave x1"] = NotReady("WaitingForGuest", "still there")
    story.apply("r2", vm=VM)
    story.outcome(lambda one: any(each.attempts > 3 for each in one.attachments))


def test_a_dead_sandbox_has_no_guest(story):
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.world.fails["leave x1"] = NotReady("WaitingForGuest", "still there")
    story.world.sandboxes.clear()
    story.apply("r2", ended=True, vm=VM)
    assert story.settled("r2").forgotten
    assert story.world.done == ["+x1", ">x1", "-x1"]


def test_an_interface_that_a_guest_has_is_replaced_not_changed_in_place(story):
    story.apply("r1", with_mac("02:00:00:00:00:01"), vm=VM)
    story.settled("r1")
    story.apply("r2", with_mac("02:00:00:00:00:02"), vm=VM)
    story.settled("r2")
    assert story.world.done == ["+x1", ">x1", "<x1", "-x1", "+x1", ">x1"]


def test_in_kubevirts_pods_nothing_is_handed_on_and_leaving_is_waited_for(story):
    story.apply("r1", wish("a", "podx"), vm=KUBEVIRT)
    assert [(one.state, one.guest) for one in story.settled("r1").attachments] == [(State.ATTACHED, None)]
    story.world.fails["leave podx"] = NotReady("WaitingForGuest", "still there")
    story.apply("r2", vm=KUBEVIRT)
    assert states(story.settled("r2")) == [("podx", "Detaching", "WaitingForGuest")]
    assert story.world.done == ["+podx"]
    del story.world.fails["leave podx"]
    story.outcome(lambda one: not one.attachments)
    assert story.world.done == ["+podx", "<podx", "-podx"]


def test_in_kubevirts_pods_a_changed_wish_costs_the_guest_nothing(story):
    story.apply("r1", wish("a", "podx"), vm=KUBEVIRT)
    story.settled("r1")
    story.apply("r2", wish("b", "podx"), vm=KUBEVIRT)
    outcome = story.settled("r2")
    assert (states(outcome), outcome.released) == ([("podx", "Pending", "UsedByVM")], ())
    assert story.world.done == ["+podx"]


def test_after_a_restart_the_guest_is_still_asked_first(story):
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.stop()
    story.start()
    story.apply("r2", vm=VM)
    story.settled("r2")
    assert story.world.done == ["+x1", ">x1", "<x1", "-x1"]


def test_while_the_runtime_is_away_a_guest_is_told_to_have_what_it_had(story):
    story.apply("r1", wish("a", "x1"), vm=VM)
    before = story.settled("r1").attachments
    story.world.sandboxes[POD.uid] = NotReady("RuntimeUnavailable", "no socket")
    story.apply("r2", wish("a", "x1"), wish("b", "x2"), vm=VM)
    outcome = story.settled("r2")
    assert outcome.attachments[0] == before[0]
    assert states(outcome)[1] == ("x2", "Pending", "RuntimeUnavailable")


def test_a_machine_that_has_lost_a_nic_by_itself_is_looked_at(story, monkeypatch):
    monkeypatch.setattr(sweep, "SWEEP_S", 0.1)
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.world.fails |= {"lost": NotReady("", ""), "guest x1": NotReady("VMUnreachable", "it has ended")}
    story.outcome(lambda one: states(one) == [("x1", "Pending", "VMUnreachable")])


def test_what_a_guest_has_it_keeps_when_the_way_to_it_is_no_longer_said(story):
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.apply("r2", wish("a", "x1"), wish("b", "x2"))
    one, other = story.settled("r2").attachments
    assert (one.guest.state, other.guest) == ("GuestVisible", None)
    story.apply("r3", wish("b", "x2"))
    story.settled("r3")
    assert story.world.done == ["+x1", ">x1", "+x2", "<x1", "-x1"]


# -- what others do to what is attached -------------------------------------------------------------------------------


def damage(story, ifname: str, *differences: str, problem: str = "", at: str = "s1") -> None:
    """Have somebody damage an interface, and the kernel tell of it."""
    time.sleep(drift.OWN_S + drift.BATCH_S + 0.1)  # else it could be our own doing
    story.world.wrong[ifname] = Found(differences, problem)
    index = next(one.ifindex for one in story.journal.of_sandbox(ContainerID(at)) if one.key.ifname == ifname)
    story.watch.say(Event(int(at.removeprefix("s")), What.LINK, index, ifname))


def standing(outcome) -> list[tuple[str, str, str]]:
    return [
        (one.state.value, one.reason, one.message.partition("Z: ")[2] or one.message) for one in outcome.attachments
    ]


def test_a_damage_is_repaired_and_told_and_nothing_else_is_looked_at(story):
    story.apply("r1", wish("a", "x1"), wish("b", "x2"))
    story.settled("r1")
    damage(story, "x2", "it is down")
    outcome = story.outcome(lambda one: one.attachments[1].reason)
    assert standing(outcome) == [("Attached", "", ""), ("Attached", "DriftRepaired", "it is down")]
    assert outcome.attachments[1].result is not None
    assert story.world.looks == [("x2", False), ("x2", False)]
    assert story.world.done == ["+x1", "+x2"]


def test_what_cannot_be_repaired_is_told_and_tried_again_until_it_can(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    damage(story, "x1", "it has no master", problem="the master is gone")
    outcome = story.outcome(lambda one: one.attachments[0].reason)
    assert standing(outcome) == [("Attached", "Drifted", "it has no master; the master is gone")]
    story.world.wrong["x1"] = Found(("it has no master",))
    outcome = story.outcome(lambda one: one.attachments[0].reason == "DriftRepaired")
    assert outcome.settled


def test_where_drift_is_only_told_nothing_is_changed_and_what_is_gone_is_not_told_as_attached(story):
    story.world.repairs = False
    story.apply("r1", wish("a", "x1"), wish("b", "x2"))
    story.settled("r1")
    damage(story, "x1", "it is down")
    outcome = story.outcome(lambda one: one.attachments[0].reason)
    assert standing(outcome)[0] == ("Attached", "Drifted", "it is down; left as it is, as the policy says")
    story.world.take("s1", "x2")
    damage(story, "x2", "gone")
    outcome = story.outcome(lambda one: one.attachments[1].reason)
    assert standing(outcome)[1] == ("Pending", "Drifted", "interface x2 is gone; left as it is, as the policy says")
    assert (outcome.attachments[1].result, outcome.released) == (None, ("x2 ns/b",))
    story.apply("r2", wish("a", "x1"), wish("b", "x2"))
    assert standing(story.settled("r2")) == standing(outcome)
    assert story.world.done == ["+x1", "+x2"]
    story.apply("r3", wish("a", "x1"))
    story.settled("r3")
    assert story.world.done[2:] == ["-x2"]


def test_a_link_that_is_gone_is_made_anew_as_often_as_is_reasonable(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.take("s1", "x1")
    damage(story, "x1", "gone")
    outcome = story.outcome(lambda one: one.attachments[0].reason == "DriftRepaired")
    assert standing(outcome)[0][2] == "interface x1 was gone, and has been made anew"
    del story.world.wrong["x1"]
    story.world.take("s1", "x1")
    story.engine.look(POD.uid)
    outcome = story.outcome(lambda one: one.attachments[0].reason == "Drifted")
    assert standing(outcome)[0] == ("Pending", "Drifted", f"interface x1 is gone; {repairing.FOUGHT}")
    story.outcome(lambda one: one.attachments[0].reason == "DriftRepaired")
    assert story.world.done == ["+x1", *["-x1", "+x1"] * 2]


@pytest.mark.parametrize("repairs", [True, False], ids=["repair", "report"])
def test_who_changes_an_interface_on_and_on_gives_nobody_anything_to_write(story, repairs):
    story.world.repairs = repairs
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    told = set()
    index = story.world.index("s1", "x1")
    with story.outcomes.listen() as listener:
        for number in range(100):
            story.world.wrong["x1"] = Found((f"its MAC is {number}",))
            story.watch.say(Event(1, What.LINK, index, "x1"))
            while one := listener.next(0.01):
                told.add(standing(one)[0])
    assert 2 <= len(told) <= 10
    assert len(story.world.looks) < 20


def test_what_cannot_be_looked_at_is_looked_at_again(story):
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    story.world.wrong["x1"] = NotReady("NodeError", "too many open files")
    story.watch.say(Event(NODE, What.LOST))
    until(lambda: len(story.world.looks) >= 2)
    story.world.wrong["x1"] = Found(("it is down",))
    outcome = story.outcome(lambda one: one.attachments[0].reason)
    assert standing(outcome) == [("Attached", "DriftRepaired", "it is down")]


def test_a_look_that_finds_nothing_is_told_nobody(story, monkeypatch):
    monkeypatch.setattr(drift, "LOST_S", 0.0)
    story.apply("r1", wish("a", "x1"))
    story.settled("r1")
    with story.outcomes.listen() as listener:
        assert listener.next(WAIT_S)
        for looks in (1, 2):
            story.watch.say(Event(NODE, What.LOST))
            until(lambda looks=looks: len(story.world.looks) == looks)
        assert listener.next(0.5) is None


def test_what_a_guest_has_is_looked_at_on_the_nodes_side_only(story):
    story.apply("r1", wish("a", "x1"), vm=VM)
    story.settled("r1")
    story.watch.say(Event(NODE, What.LOST))
    until(lambda: story.world.looks)
    assert set(story.world.looks) == {("x1", True)}


def until(holds) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
