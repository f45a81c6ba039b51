"""Whose root directory a pod's container is, with a real process and a runtime that says what the test wants."""

import os
from pathlib import Path

import pytest

from agent import cri, netns
from agent.guests.containers import Containers
from agent.model import ContainerID, Namespace, NotReady
from agent.sandboxes import Sandbox


class FakeRuntime:
    def __init__(self) -> None:
        self.running = {"vm": "c1"}
        self.pid: int | Exception = os.getpid()

    def containers(self, sandbox_id):
        assert sandbox_id == "s1"
        return self.running

    def process(self, container_id):
        if isinstance(self.pid, Exception):
            raise self.pid
        return self.pid if container_id == "c1" else 0


@pytest.fixture
def sandbox():
    """A sandbox whose network namespace is the one that the test is in."""
    own = os.stat(netns.OWN)
    return Sandbox(ContainerID("s1"), Namespace(netns.OWN, own.st_dev, own.st_ino))


def root(runtime, sandbox, name=""):
    with Containers(runtime, netns.View()).root(sandbox, name) as found:
        return [Path(found, "proc").is_dir(), found]


def refusal(runtime, sandbox, name=""):
    with pytest.raises(NotReady) as refused:
        root(runtime, sandbox, name)
    return refused.value.reason, str(refused.value)


def test_the_only_container_needs_no_name(sandbox):
    is_root, path = root(FakeRuntime(), sandbox)
    assert is_root
    assert not path.exists()  # held open for that time only


def test_one_of_several_is_named(sandbox):
    runtime = FakeRuntime()
    runtime.running = {"vm": "c1", "other": "c2"}
    assert root(runtime, sandbox, "vm")[0]
    assert "several containers (other, vm)" in refusal(runtime, sandbox)[1]


@pytest.mark.parametrize(
    ("change", "name", "told"),
    [
        ({"running": {}}, "", "no container of the pod runs"),
        ({}, "x", "container x does not run"),
        ({"pid": 0}, "vm", "container vm does not run"),
        ({"pid": 1 << 22}, "", "is gone"),
    ],
)
def test_who_is_not_there_is_told(sandbox, change, name, told):
    runtime = FakeRuntime()
    for key, value in change.items():
        setattr(runtime, key, value)
    reason, message = refusal(runtime, sandbox, name)
    assert reason == "VMUnreachable"
    assert told in message


def test_a_runtime_that_does_not_answer_is_told(sandbox):
    runtime = FakeRuntime()
    runtime.pid = cri.RuntimeUnavailable("no socket")
    assert refusal(runtime, sandbox)[0] == "RuntimeUnavailable"
    assert refusal(None, sandbox)[0] == "VMUnreachable"


@pytest.mark.netns
def test_a_process_that_took_over_the_number_is_not_the_pods(sandbox, node_netns):
    """The process has moved to another namespace since the sandbox was identified."""
    assert "is not in the pod" in refusal(FakeRuntime(), sandbox)[1]
