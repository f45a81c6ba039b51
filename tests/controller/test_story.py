"""Stories: what a user does, what the agent is asked, what the user reads.

A real gRPC agent without a kernel, a cluster without a server; everything between them is the real thing.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from agent.api import agent_pb2 as api
from controller import reconcile
from controller.agents import Agents
from controller.model import Pod
from controller.policy import Policy
from controller.reconcile import Reconciler
from tests.controller import build
from tests.controller.fake_agent import FakeAgent, serving
from tests.controller.fake_cluster import FakeCluster


class Meter:
    def applied(self, seconds: float) -> None: ...

    def published(self, seconds: float) -> None: ...


class Story:
    """One node: cluster, agent, and a controller that can be started and killed."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.cluster = FakeCluster()
        self.agent = FakeAgent()
        self.policy = Policy()
        self._stops: list[Callable[[], None]] = []

    def start(self) -> None:
        """Start a controller that knows nothing yet."""
        agents, stop = Agents(self.target), threading.Event()
        controller = self.controller = Reconciler("node-1", self.cluster, agents, self.policy, Meter())
        self.cluster.changed, self.cluster.deleted = controller.pods.change, controller.pods.delete
        controller.networks.list([build.network("blue"), build.network("red")])
        controller.pods.list(self.cluster.pods())
        controller.start()
        thread = threading.Thread(target=agents.follow, args=(controller, stop), daemon=True)
        thread.start()

        def end() -> None:
            stop.set()
            self.cluster.changed = self.cluster.deleted = lambda _: None
            controller.close(2)
            agents.close()
            thread.join(2)

        self._stops.append(end)
        until(lambda: not controller.waiting_for())

    def stop(self) -> None:
        while self._stops:
            self._stops.pop()()

    def pod(self, name: str = "p") -> Pod:
        return self.cluster.pod(name)

    def published(self, name: str = "p") -> list[str]:
        return [entry["interface"] for entry in json.loads(self.pod(name).network_status or "[]")]

    def condition(self, name: str = "p") -> tuple[bool, str]:
        condition = self.pod(name).condition
        return (condition.ready, condition.reason) if condition else (False, "")

    def links(self, name: str = "p") -> list[str]:
        pod = self.agent.pods.get(f"uid-{name}")
        return sorted(pod.links) if pod else []

    def events(self) -> list[str]:
        return [event.reason for event in self.cluster.events]

    def rest(self) -> None:
        """Wait until nobody has anything to do; times of a retry do not count."""
        until(lambda: self.controller.depth() == 0)
        time.sleep(0.05)
        until(lambda: self.controller.depth() == 0)


def until(is_so: Callable[[], object], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.002)


@pytest.fixture
def story(tmp_path) -> Iterator[Story]:
    one = Story(f"unix://{tmp_path}/agent.sock")
    one.cluster.put(build.document(conditions=[{"type": "Ready", "status": "True"}]))
    with serving(one.agent, one.target):
        one.start()
        yield one
        one.stop()


# -- plug and unplug ------------------------------------------------------------------------------------------------


def test_an_annotation_becomes_an_interface_a_status_and_an_event_in_two_writes(story):
    story.cluster.annotate("p", networks="blue@net1,red@net2,blue,red")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    assert story.published() == ["net1", "net2", "net3", "net4"]
    assert story.cluster.writes == ["status", "event"]
    assert story.events() == ["AddedInterface"]


def test_an_unplug_takes_the_entry_away_and_leaves_those_of_others(story):
    story.cluster.annotate("p", networks="blue@net1", network_status=build.entries())
    until(lambda: story.published() == ["eth0", "net1"])
    story.cluster.annotate("p", networks=None)
    until(lambda: story.published() == ["eth0"])
    story.rest()
    assert story.condition() == (True, "NoNetworks")
    assert story.events() == ["AddedInterface", "RemovedInterface"]
    assert story.links() == []


def test_fifty_edits_in_a_row_settle_on_the_last(story):
    for number in range(50):
        story.cluster.annotate("p", networks=f"blue@net{number % 7 + 1},red@net{number % 5 + 10}")
    until(lambda: story.published() == ["net1", "net14"])
    story.rest()
    assert story.links() == ["net1", "net14"]
    assert story.condition() == (True, "AllAttached")


def test_a_pod_that_asks_for_nothing_is_left_alone(story):
    story.cluster.edit("p", lambda document: document["status"].update(podIP="10.0.0.9"))
    story.rest()
    assert story.agent.applied == []
    assert story.cluster.writes == []


def test_a_pod_that_has_interfaces_without_asking_is_made_known_to_the_agent_and_left_alone(story):
    """Multus attaches default networks: an edit that asks for such a one later must not be taken for their cause."""
    story.cluster.annotate("p", network_status=build.entries())
    story.rest()
    assert story.agent.applied == []
    story.cluster.annotate("p", network_status=build.entries("net1", network="kube-system/everyone"))
    until(lambda: story.agent.applied)
    story.rest()
    assert len(story.agent.applied) == 1
    assert story.cluster.writes == []
    story.cluster.delete("p")
    until(lambda: story.agent.requests("uid-p")[-1].ended)
    story.rest()


def test_updates_of_the_kubelet_cause_no_request(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    before = len(story.agent.applied)
    for number in range(5):
        story.cluster.edit("p", lambda document, number=number: document["status"].update(message=str(number)))
    story.rest()
    assert len(story.agent.applied) == before
    assert story.cluster.writes == ["status", "event"]


def test_a_new_sandbox_is_looked_at(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    before = len(story.agent.applied)
    condition = {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    story.cluster.edit("p", lambda document: document["status"]["conditions"].append(condition))
    until(lambda: len(story.agent.applied) == before + 1)


# -- failures ---------------------------------------------------------------------------------------------------------


def test_one_works_one_fails_and_joins_when_its_cause_is_gone(story):
    story.agent.failures["ns/red"] = (api.PENDING, "AddFailed", "no address left")
    story.cluster.annotate("p", networks="blue@net1,red@net2")
    until(lambda: story.condition() == (False, "AddFailed"))
    assert story.published() == ["net1"]
    for _ in range(3):
        story.agent.settle("uid-p")
    story.rest()
    assert story.cluster.writes == ["status", "event", "event"]
    del story.agent.failures["ns/red"]
    story.agent.settle("uid-p")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    assert story.events() == ["FailedAddingInterface", "AddedInterface", "AddedInterface"]


def test_an_edit_that_adds_refuses_and_removes_is_an_event_of_each_and_one_write_of_the_status(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    story.cluster.refuses_events = True
    story.cluster.annotate("p", networks="red@net2,red@eth0,blue@net3,ghost@net4")
    until(lambda: story.condition() == (False, "InterfaceReserved"))
    story.cluster.refuses_events = False
    until(lambda: len(story.cluster.events) == 5)
    story.rest()
    told = {event.reason: event.message for event in story.cluster.events[1:]}
    assert {reason: re.findall(r"interface (\w+) (?:to|from) network", text) for reason, text in told.items()} == {
        "InterfaceAddRejected": ["eth0"],
        "FailedAddingInterface": ["net4"],
        "AddedInterface": ["net2", "net3"],
        "RemovedInterface": ["net1"],
    }
    assert story.cluster.writes == ["status", "event", "status", *["event"] * 4]


def test_of_several_events_none_is_told_twice_where_the_api_server_goes_away_between_them(story):
    told, tell = [], story.cluster.tell

    def tell_and_go(pod, event):
        tell(pod, event)
        told.append(event.reason)
        story.cluster.is_down = len(told) == 1

    story.cluster.tell = tell_and_go
    story.cluster.annotate("p", networks="blue@net1,red@eth0")
    until(lambda: told)
    time.sleep(0.05)
    assert told == ["InterfaceAddRejected"]
    story.cluster.is_down = False
    until(lambda: len(told) == 2)
    story.rest()
    assert told == ["InterfaceAddRejected", "AddedInterface"]


def test_a_network_that_appears_is_attached_at_once(story):
    story.cluster.annotate("p", networks="ghost@net1")
    until(lambda: story.condition() == (False, "NetworkNotFound"))
    story.controller.networks.change(build.network("ghost", version=500))
    until(lambda: story.published() == ["net1"])
    story.rest()
    assert story.events() == ["FailedAddingInterface", "AddedInterface"]


def test_a_network_that_disappears_leaves_what_is_attached(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.controller.networks.delete(build.network("blue"))
    until(lambda: story.agent.requests("uid-p")[-1].attachments[0].HasField("hold"))
    story.rest()
    assert (story.published(), story.condition()) == (["net1"], (True, "AllAttached"))
    assert story.cluster.writes == ["status", "event"]


def test_a_network_that_is_not_there_costs_no_interface_and_takes_its_place_when_it_comes(story):
    story.cluster.annotate("p", networks="blue@net1,red@net2")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    before = story.pod().network_status
    story.cluster.annotate("p", networks="ghost@net1,red@net2")
    until(lambda: story.condition() == (False, "NetworkNotFound"))
    story.rest()
    assert story.pod().network_status == before
    assert "net1 (ns/ghost): NetworkNotFound: " in story.pod().condition.message
    assert story.events() == ["AddedInterface", "FailedAddingInterface"]
    story.controller.networks.change(build.network("ghost", version=500))
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    assert {one["interface"]: one["name"] for one in json.loads(story.pod().network_status)} == {
        "net1": "ns/ghost", "net2": "ns/red",
    }  # fmt: skip


def test_a_malformed_annotation_changes_nothing_and_is_told(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    before = len(story.agent.applied)
    story.cluster.annotate("p", networks='[{"name": "blue"')
    until(lambda: story.condition() == (False, "InvalidAnnotation"))
    story.rest()
    assert len(story.agent.applied) == before
    assert story.published() == ["net1"]
    assert story.events() == ["AddedInterface", "InterfaceAddRejected"]
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))


def test_eth0_is_refused_and_the_rest_is_attached(story):
    story.cluster.annotate("p", networks="blue@eth0,red@net1")
    until(lambda: story.published() == ["net1"])
    story.rest()
    assert story.condition() == (False, "InterfaceReserved")
    assert story.events() == ["InterfaceAddRejected", "AddedInterface"]
    assert [json.loads(one.element)["name"] for one in story.agent.requests("uid-p")[-1].attachments] == ["red"]


def test_an_annotation_with_nothing_right_in_it_is_told_without_the_agent(story):
    story.cluster.annotate("p", networks="blue@eth0")
    until(lambda: story.condition() == (False, "InterfaceReserved"))
    assert story.agent.applied == []


def test_a_host_network_pod_is_told_once_and_nothing_is_sent(story):
    story.cluster.put(build.document("host", host_network=True, networks="blue"))
    until(lambda: story.condition("host") == (False, "HostNetwork"))
    story.cluster.edit("host", lambda document: document["status"].update(podIP="10.0.0.1"))
    story.rest()
    assert story.events() == ["InterfaceAddRejected"]
    assert story.agent.applied == []


# -- ends -------------------------------------------------------------------------------------------------------------


def test_a_deleted_pod_is_ended_when_it_is_gone_and_not_before(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.cluster.edit("p", lambda document: document["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    story.cluster.annotate("p", networks="red@net2")
    story.rest()
    assert story.links() == ["net1"]
    story.cluster.delete("p")
    until(lambda: story.agent.requests("uid-p")[-1].ended)
    until(lambda: "uid-p" not in story.agent.pods)
    assert story.cluster.writes == ["status", "event"]


def test_a_completed_pod_is_ended_once_and_its_status_goes_with_its_interfaces(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.rest()
    writes = list(story.cluster.writes)
    story.cluster.edit("p", lambda document: document["status"].update(phase="Succeeded"))
    until(lambda: story.agent.requests("uid-p")[-1].ended)
    until(lambda: story.condition() == (False, "PodCompleted"))
    story.cluster.edit("p", lambda document: document["status"].update(podIP=""))
    story.rest()
    assert sum(request.ended for request in story.agent.requests("uid-p")) == 1
    assert story.published() == []
    assert story.cluster.writes == [*writes, "status", "event"]


def test_pods_that_ended_while_nobody_looked_are_ended_at_the_start(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.stop()
    story.cluster.delete("p")
    story.start()
    until(lambda: "uid-p" not in story.agent.pods)


def test_a_new_pod_of_the_same_name_is_another_pod(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.cluster.delete("p")
    story.cluster.put(build.document("p", uid="uid-2", networks="red@net7"))
    until(lambda: story.published() == ["net7"])
    until(lambda: "uid-p" not in story.agent.pods)
    assert sorted(story.agent.pods["uid-2"].links) == ["net7"]


def test_a_pod_that_the_agent_knows_and_another_node_runs_is_left_alone(story, caplog):
    """What a wrong --node-name looks like."""
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.cluster.edit("p", lambda document: document["spec"].update(nodeName="node-2"))
    story.controller.pods.list([])
    story.rest()
    assert story.links() == ["net1"]
    assert "is on node node-2 and this is node node-1" in caplog.text


def test_an_annotation_that_was_removed_while_nobody_looked_is_caught_up(story):
    story.cluster.annotate("p", networks="blue@net1,red@net2")
    until(lambda: story.published() == ["net1", "net2"])
    story.stop()
    story.cluster.annotate("p", networks=None)
    story.start()
    until(lambda: story.published() == [])
    assert story.links() == []


# -- restarts and outages -------------------------------------------------------------------------------------------


def test_a_restart_tells_nothing_twice(story):
    story.agent.failures["ns/red"] = (api.PENDING, "AddFailed", "no address left")
    story.cluster.annotate("p", networks="blue@net1,red@net2,blue@eth0")
    story.cluster.put(build.document("host", host_network=True, networks="blue"))
    until(lambda: len(story.cluster.events) == 4)
    story.rest()
    writes = list(story.cluster.writes)
    story.stop()
    story.start()
    until(lambda: len(story.agent.requests("uid-p")) == 2)
    story.rest()
    assert story.cluster.writes == writes


def test_an_agent_that_comes_back_empty_is_told_everything_again(story, monkeypatch):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.rest()
    writes = list(story.cluster.writes)
    story.agent.pods.clear()
    story.controller.lost()
    story.controller.synced([])
    until(lambda: story.links() == ["net1"])
    story.rest()
    assert story.cluster.writes == writes


def test_edits_while_the_agent_is_away_are_made_when_it_is_back(tmp_path):
    story = Story(f"unix://{tmp_path}/agent.sock")
    story.cluster.put(build.document())
    with serving(story.agent, story.target) as kill:
        story.start()
        kill()
        until(lambda: "the node agent" in story.controller.waiting_for())
        story.cluster.annotate("p", networks="blue@net1")
        story.rest()
        assert story.published() == []
    with serving(story.agent, story.target):
        until(lambda: story.published() == ["net1"])
        story.stop()


def test_an_edit_that_stays_without_an_answer_is_not_ready(story, monkeypatch):
    monkeypatch.setattr(reconcile, "OVERDUE_S", 0.1)
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.agent.is_silent = True
    story.cluster.annotate("p", networks="red@net1")
    until(lambda: story.condition() == (False, "NoAnswer"))
    assert story.published() == ["net1"]
    story.agent.is_silent = False
    story.agent.settle("uid-p")
    until(lambda: story.condition() == (True, "AllAttached"))


def test_a_slow_pass_is_published_as_far_as_it_got(story):
    story.agent.is_silent = True
    story.cluster.annotate("p", networks="blue@net1,red@net2")
    until(lambda: story.agent.applied)
    request = story.agent.requests("uid-p")[-1]
    result = build.attached("net1").result
    progress = [
        api.AttachmentOutcome(position=0, state=api.ATTACHED, network="ns/blue", interface="net1", result=result),
        api.AttachmentOutcome(position=1, state=api.PENDING, network="ns/red", interface="net2", reason="InProgress"),
    ]
    for _ in range(5):  # as the agent does while a pass takes long
        story.agent.say(
            api.Outcome(pod=request.pod, revision=request.revision, attachments=progress, sandbox="sandbox-1")
        )
    until(lambda: story.condition() == (False, "InProgress"))
    story.rest()
    assert story.published() == ["net1"]
    assert story.cluster.writes == ["status", "event"]
    assert story.events() == ["AddedInterface"]


def test_an_answer_to_an_older_wish_is_not_published(story):
    story.agent.is_silent = True
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.agent.applied)
    old = story.agent.requests("uid-p")[-1]
    story.cluster.annotate("p", networks="red@net2")
    until(lambda: len(story.agent.applied) == 2)
    progress = api.AttachmentOutcome(
        position=0, state=api.ATTACHED, network="ns/blue", interface="net1", result=build.attached("net1").result
    )
    story.agent.say(
        api.Outcome(pod=old.pod, revision=old.revision, settled=True, attachments=[progress], sandbox="sandbox-1")
    )
    story.rest()
    assert story.cluster.writes == []


def test_an_agent_that_fails_once_is_asked_again(story):
    story.agent.refuse = grpc.StatusCode.INTERNAL
    story.cluster.annotate("p", networks="blue@net1")
    time.sleep(0.05)
    story.agent.refuse = None
    until(lambda: story.published() == ["net1"])


def test_edits_amid_an_outage_of_the_api_are_caught_up(story):
    story.cluster.is_down = True
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.links() == ["net1"])
    time.sleep(0.1)
    story.cluster.is_down = False
    until(lambda: story.published() == ["net1"])
    story.rest()
    assert story.cluster.writes == ["status", "event"]


def test_an_api_server_that_hangs_delays_no_edit_on_its_way_to_the_agent(story):
    names = [f"p{number}" for number in range(20)]
    for name in names:
        story.cluster.put(build.document(name))
    release = threading.Event()
    story.cluster.before_patch = lambda: release.wait(5)
    for name in names:
        story.cluster.annotate(name, networks="blue@net1")
    until(lambda: all(story.links(name) == ["net1"] for name in names), 2)
    release.set()
    until(lambda: all(story.published(name) == ["net1"] for name in names))


def test_an_event_that_could_not_be_told_is_told_later_and_once(story):
    story.cluster.refuses_events = True
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    time.sleep(0.05)
    story.cluster.refuses_events = False
    until(lambda: story.events() == ["AddedInterface"])
    story.rest()
    assert story.cluster.writes == ["status", "event"]


@pytest.mark.parametrize("lags", [False, True])
def test_a_patch_whose_answer_was_lost_is_told_all_the_same_and_once(story, lags):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.events() == ["AddedInterface"])
    story.rest()
    story.cluster.loses_answers = 1
    story.agent.is_silent = True
    story.cluster.annotate("p", networks="")
    until(lambda: story.agent.requests("uid-p")[-1].revision != story.agent.requests("uid-p")[0].revision)
    story.cluster.lags = lags
    story.agent.settle("uid-p")
    until(lambda: story.events() == ["AddedInterface", "RemovedInterface"])
    story.cluster.catch_up()
    story.rest()
    assert story.cluster.writes == ["status", "event"] * 2


# -- other writers ----------------------------------------------------------------------------------------------------


def test_a_watch_that_lags_causes_neither_a_second_write_nor_a_lost_one(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.links() == ["net1"])
    story.rest()
    story.cluster.lags = True
    story.agent.settle("uid-p")
    story.agent.settle("uid-p")
    story.rest()
    story.cluster.catch_up()
    story.rest()
    assert story.cluster.writes == ["status", "event"]


def test_an_edit_that_only_the_answer_to_our_write_shows_is_made(story):
    """The watch has it too, but later, and is then no news."""
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.rest()
    story.cluster.lags = True
    story.cluster.annotate("p", networks="blue@net1,red@net2")
    story.agent.failures["ns/blue"] = (api.PENDING, "AddFailed", "gone")
    story.agent.pods["uid-p"].links.clear()
    story.agent.settle("uid-p")
    until(lambda: story.links() == ["net2"])
    story.cluster.catch_up()


def test_what_another_writes_meanwhile_is_kept(story):
    """Multus writes the default network's entry in the moment in which ours is on its way."""

    def interfere() -> None:
        story.cluster.before_patch = lambda: None
        story.cluster.lags = True
        story.cluster.annotate("p", network_status=build.entries())

    story.cluster.before_patch = interfere
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["eth0", "net1"])
    story.cluster.catch_up()
    story.rest()
    assert story.events() == ["AddedInterface"]


def test_an_entry_that_another_drops_is_written_again(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    story.cluster.annotate("p", network_status=build.entries())
    until(lambda: story.published() == ["eth0", "net1"])


def test_two_controllers_leave_one_condition(story):
    """The old and the new one of a rolling update."""
    story.start()
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.rest()
    assert sum("hotnic" in one["type"] for one in story.pod().conditions) == 1


def test_a_pod_that_goes_while_its_status_is_written_is_no_failure(story, caplog):
    story.cluster.before_patch = lambda: "p" in story.cluster._documents and story.cluster.delete("p")
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.agent.requests("uid-p") and story.agent.requests("uid-p")[-1].ended)
    story.rest()
    assert "Traceback" not in caplog.text


# -- policy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owners", [[], build.STATIC["owners"]], ids=["annotations", "all-marks"])
def test_a_pod_that_names_the_uid_of_another_harms_it_in_no_way(story, owners, caplog):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.published() == ["net1"])
    uid = {"kubernetes.io/config.hash": "uid-p", "kubernetes.io/config.mirror": "uid-p"}
    marks = {**uid, "kubernetes.io/config.source": "file"}
    evil = story.cluster.put(build.document("evil", networks="red@net7", annotations=marks, owners=owners))
    until(lambda: any(request.pod.name == "evil" for _, request in story.agent.applied))
    story.cluster.annotate("p", networks="blue@net1,red@net2")
    until(lambda: story.published() == ["net1", "net2"])
    story.cluster.delete("evil")
    until(lambda: any(request.pod.name == "evil" and request.ended for _, request in story.agent.applied))
    story.rest()
    assert story.links() == ["net1", "net2"]
    assert not [one for one in caplog.records if "tried again" in one.getMessage()]
    until(lambda: not story.controller._dialogue.knows(evil.ref))  # the agent's answer may be on its way yet
    assert {request.pod.name for request in story.agent.requests("uid-p")} == ({"p", "evil"} if owners else {"p"})


def test_networks_of_other_namespaces_are_refused_where_policy_says_so(story):
    story.stop()
    story.policy = Policy(isolated=True)
    story.start()
    story.cluster.annotate("p", networks="other/blue@net1,red@net2")
    until(lambda: story.published() == ["net2"])
    story.rest()
    assert story.condition() == (False, "NamespaceForbidden")
    assert story.events() == ["InterfaceAddRejected", "AddedInterface"]


# -- before hotnic is uninstalled -----------------------------------------------------------------------------------


def withdraw(story: Story) -> None:
    story.stop()
    story.policy = Policy(withdrawn=True)
    story.start()


def test_withdrawn_everything_is_detached_told_to_be_so_and_only_then_ready(story):
    story.cluster.put(build.document("q", networks="[not json"))
    story.cluster.annotate("p", networks="blue@net1,red", network_status=build.entries())
    until(lambda: story.condition() == (True, "AllAttached"))
    story.cluster.annotate("q", networks="blue@net1")
    until(lambda: story.links("q") == ["net1"])
    story.cluster.annotate("q", networks="[not json")  # else: what cannot be read changes nothing
    withdraw(story)
    assert (story.links("p"), story.links("q")) == ([], [])
    assert story.published() == ["eth0"]
    assert story.published("q") == []
    assert story.condition() == (False, "Uninstalling")
    story.cluster.annotate("p", networks="blue@net7")
    until(lambda: "ns/blue" in story.pod().condition.message)
    assert story.links() == []


def test_a_pod_whose_interface_stays_keeps_the_withdrawal_from_being_ready(story):
    story.cluster.annotate("p", networks="blue@net1")
    until(lambda: story.condition() == (True, "AllAttached"))
    story.stop()
    story.policy = Policy(withdrawn=True)
    story.agent.is_silent = True
    with pytest.raises(AssertionError, match="did not happen"):
        story.start()
    assert story.controller.waiting_for() == ("pod ns/p to be detached",)
    story.agent.is_silent = False
    story.agent.settle("uid-p")
    until(lambda: story.controller.waiting_for() == ())
    assert story.published() == []
