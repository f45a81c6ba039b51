"""The device `networks`: whom it keeps waiting, for what, and what its DEL takes along."""

import json
import os
import threading
from dataclasses import replace

import pytest

from agent import primary
from agent.journal import Journal
from agent.model import (
    AttachmentOutcome,
    ContainerID,
    Desired,
    Key,
    Namespace,
    Origin,
    Outcome,
    Phase,
    Pod,
    PodUID,
    Record,
    State,
)
from agent.outcomes import Outcomes
from cni import errors, request

POD = Pod(PodUID("u1"), "ns", "p1")
ARGS = {"K8S_POD_NAMESPACE": "ns", "K8S_POD_NAME": "p1", "K8S_POD_UID": "u1"}
CAPABILITIES = {primary.CAPABILITY: True}
PREVIOUS = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}], "ips": []}
CONFIG = {"type": "hotnic", "device": "networks", "capabilities": CAPABILITIES}
SANDBOX = ContainerID("s1")


def configured(networks=None, source=None, **more):
    annotations = {primary.NETWORKS: networks, primary.SOURCE: source}
    given = {key: value for key, value in annotations.items() if value is not None}
    return {**CONFIG, "runtimeConfig": {primary.CAPABILITY: given}, **more}


# -- the decisions


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CONFIG, primary.Options(10, require=False)),
        ({**CONFIG, "waitSeconds": 0, "require": True}, primary.Options(0, require=True)),
        ({**CONFIG, "waitSeconds": 20}, primary.Options(20)),
        ({**CONFIG, "waitSeconds": None, "require": None}, primary.Options()),
    ],
)
def test_options(config, expected):
    assert primary.options(config) == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"waitSeconds": 21}, "waitSeconds"),
        ({"waitSeconds": "5"}, "waitSeconds"),
        ({"waitSeconds": -1}, "waitSeconds"),
        ({"require": "yes"}, "require"),
        ({"capabilities": {}}, primary.CAPABILITY),
        ({"capabilities": None}, primary.CAPABILITY),
        ({"capabilities": {primary.CAPABILITY: False}}, primary.CAPABILITY),
        ({"capabilities": []}, "capabilities"),
    ],
)
def test_a_wrong_option_is_named(change, named):
    with pytest.raises(errors.CNIError, match=named) as raised:
        primary.options({**CONFIG, **change})
    assert raised.value.code is errors.Code.INVALID_CONFIG


@pytest.mark.parametrize(
    ("config", "args", "expected"),
    [
        (configured("blue"), ARGS, "u1"),
        (configured('[{"name": "blue"}]', source="api"), ARGS, "u1"),
        (configured("blue", source="file"), ARGS, None),  # a static pod: the API server has it under another UID
        (configured(""), ARGS, None),
        (configured("[]"), ARGS, None),
        (configured(), ARGS, None),
        (configured('[{"name": "blue",, }]'), ARGS, None),
        (configured("blue"), {"K8S_POD_NAMESPACE": "ns"}, None),
        ({**CONFIG, "runtimeConfig": {}}, ARGS, None),
        (CONFIG, ARGS, None),
    ],
)
def test_who_is_kept_waiting(config, args, expected):
    assert primary.awaited(config, args) == expected


def outcome(*states: State, sandbox: str = "s1", settled: bool = True) -> Outcome:
    found = tuple(
        AttachmentOutcome(at, state, "ns/blue", f"x{at}", None, "Why", "why") for at, state in enumerate(states)
    )
    return Outcome(POD, "r1", settled, found, sandbox=sandbox)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (outcome(), True),
        (outcome(State.PENDING), True),
        (outcome(settled=False), False),
        (outcome(sandbox=""), False),
        (outcome(sandbox="s0"), False),
        (None, False),
    ],
)
def test_what_ends_the_waiting(what, expected):
    assert primary.is_about(what, SANDBOX) is expected


def test_what_is_missing_is_told_with_its_cause():
    everything = outcome(State.ATTACHED, State.PENDING, State.REFUSED, State.DETACHING)
    assert primary.missing(everything) == ("x1: why", "x2: why")


# -- the verbs


class Sandboxes:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def begin(self, pod, sandbox):
        self.heard.append(("begin", f"{pod.uid} {pod} {sandbox.id}"))

    def end(self, container_id):
        self.heard.append(("end", container_id))


class Node:
    """A journal, outcomes, and an engine of one function: what it does at a look is the test's."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.outcomes, self.sandboxes = journal, Outcomes(), Sandboxes()
        self.looks: list[str] = []
        self.at_look = lambda: None
        self.networks = primary.Networks(journal, self.sandboxes, self.outcomes, self._look)

    def _look(self, uid):
        self.looks.append(uid)
        self.at_look()

    def add(self, config):
        with open(os.devnull, "rb") as namespace:  # noqa: PTH123 only a descriptor that can be looked at
            return self.networks.add(call("ADD", config), namespace.fileno())


def call(command: str, config) -> request.Request:
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": SANDBOX,
        "CNI_NETNS": "/run/netns/s1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in ARGS.items()),
    }
    document = {"cniVersion": "1.1.0", "name": "pods", "prevResult": PREVIOUS, **config}
    return request.parse(environ, json.dumps(document).encode())


@pytest.fixture
def node(tmp_path):
    journal = Journal(tmp_path / "state")
    yield Node(journal)
    journal.close()


def test_add_passes_the_result_on_once_the_pass_is_done(node):
    node.journal.want(POD.uid, lambda _: Desired(POD, "r1"))
    later = threading.Timer(0.2, lambda: node.outcomes.publish(outcome(State.ATTACHED)))
    node.at_look = later.start
    assert node.add(configured("blue")) == PREVIOUS
    assert later.finished.is_set()
    assert (node.looks, node.sandboxes.heard) == (["u1"], [("begin", "u1 ns/p1 s1")])


def test_add_waits_for_no_pod_without_networks(node):
    assert node.add(configured()) == PREVIOUS
    assert (node.looks, node.sandboxes.heard) == ([], [("begin", "u1 ns/p1 s1")])


@pytest.mark.parametrize("state", [State.PENDING, State.REFUSED])
def test_what_cannot_be_attached_keeps_a_pod_from_its_start_only_if_that_is_required(node, state):
    node.journal.want(POD.uid, lambda _: Desired(POD, "r1"))
    node.outcomes.publish(outcome(State.ATTACHED, state))
    assert node.add(configured("blue")) == PREVIOUS
    with pytest.raises(errors.CNIError, match="x1: why") as raised:
        node.add(configured("blue", require=True))
    assert raised.value.code is errors.Code.TRY_AGAIN


def test_without_a_controller_nobody_waits_for_a_pod_that_was_never_told_of(node):
    node.at_look = lambda: None
    assert node.add(configured("blue", waitSeconds=20)) == PREVIOUS
    with pytest.raises(errors.CNIError, match="controller is not connected"):
        node.add(configured("blue", require=True))


def test_a_controller_that_says_nothing_is_waited_for_as_long_as_configured(node):
    with node.outcomes.listen():
        assert node.add(configured("blue", waitSeconds=1)) == PREVIOUS
        with pytest.raises(errors.CNIError, match="in 1 s"):
            node.add(configured("blue", waitSeconds=1, require=True))


def test_an_outcome_of_another_sandbox_is_not_taken_for_this_ones(node):
    node.journal.want(POD.uid, lambda _: Desired(POD, "r1"))
    node.outcomes.publish(outcome(State.ATTACHED, sandbox="s0"))
    with pytest.raises(errors.CNIError, match="in 0 s"):
        node.add(configured("blue", waitSeconds=0, require=True))


def test_add_goes_behind_others(node):
    with pytest.raises(errors.CNIError, match="prevResult") as raised:
        node.add({**configured("blue"), "prevResult": None})
    assert raised.value.code is errors.Code.INVALID_CONFIG
    assert node.sandboxes.heard == []


RECORD = Record(
    Key(SANDBOX, "net1"), Origin.ANNOTATION, Phase.ATTACHED, "ns/blue", "{}", "{}", Namespace("/run/netns/s1"), POD
)


def test_del_has_everything_of_the_sandbox_detached_and_waits_for_it(node):
    node.journal.begin(RECORD, durable=False)
    node.journal.begin(replace(RECORD, key=Key(SANDBOX, "eth0"), origin=Origin.RUNTIME), durable=False)

    def detach() -> None:
        node.journal.remove(RECORD.key)
        node.outcomes.publish(outcome(sandbox=""))

    later = threading.Timer(0.2, detach)
    node.at_look = later.start
    node.networks.delete(call("DEL", configured("blue")))
    assert later.finished.is_set()
    assert (node.looks, node.sandboxes.heard) == (["u1"], [("end", "s1")])
    assert [record.key.ifname for record in node.journal.records()] == ["eth0"]


def test_del_does_not_wait_for_what_cannot_be_detached(node, monkeypatch):
    monkeypatch.setattr(primary, "DETACH_S", 0.2)
    node.journal.begin(RECORD, durable=False)
    node.networks.delete(call("DEL", configured("blue")))
    assert node.journal.record(RECORD.key) is not None


def test_del_of_a_sandbox_that_has_nothing_is_fine_as_often_as_one_likes(node):
    for _ in range(2):
        node.networks.delete(call("DEL", configured()))
    assert node.looks == []
