"""Whose sandbox is it, and where: against a runtime that says what the test wants, and real files as namespaces."""

import os
from dataclasses import replace

import pytest

from agent import cri, netns
from agent.journal import Journal
from agent.model import ContainerID, Key, Namespace, NotReady, Origin, Phase, Pod, PodUID, Record, Refused
from agent.sandboxes import Sandbox, Sandboxes

POD = Pod(PodUID("u1"), "ns", "p1")


class Runtime:
    def __init__(self) -> None:
        self.listed: list[cri.Sandbox] = []
        self.paths: dict[str, str] = {}
        self.away = False
        self.calls = 0

    def sandboxes(self):
        self.calls += 1
        if self.away:
            raise cri.RuntimeUnavailable("connection refused")
        return tuple(self.listed)

    def netns(self, sandbox_id):
        return self.paths.get(sandbox_id, "")

    def run(
        self, name: str, path: str, *, uid: str = "u1", pod: str = "p1", attempt: int = 0, ready: bool = True
    ) -> None:
        self.listed.append(cri.Sandbox(ContainerID(name), PodUID(uid), "ns", pod, attempt, 0, ready))
        self.paths[name] = path


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def sandboxes(runtime, journal):
    return Sandboxes(runtime, journal, netns.View())


def file(tmp_path, name: str) -> str:
    (tmp_path / name).write_text("")
    return str(tmp_path / name)


def test_the_ready_sandbox_is_found_and_remembered_without_asking_again(runtime, sandboxes, tmp_path):
    runtime.run("old", file(tmp_path, "old"), ready=False)
    runtime.run("new", file(tmp_path, "new"), attempt=1)
    found = sandboxes.of(POD)
    assert (found.id, found.namespace.path) == ("new", str(tmp_path / "new"))
    status = os.stat(tmp_path / "new")
    assert (found.namespace.device, found.namespace.inode) == (status.st_dev, status.st_ino)
    calls = runtime.calls
    assert sandboxes.of(POD) == found
    assert runtime.calls == calls


def test_a_namespace_that_is_gone_is_asked_for_again(runtime, sandboxes, tmp_path):
    runtime.run("old", file(tmp_path, "old"))
    sandboxes.of(POD)
    (tmp_path / "old").unlink()
    assert sandboxes.of(POD) is None
    runtime.listed.clear()
    runtime.run("new", file(tmp_path, "new"))
    assert sandboxes.of(POD).id == "new"


def test_a_path_that_leads_elsewhere_now_is_not_the_same_namespace(runtime, sandboxes, tmp_path):
    runtime.run("old", file(tmp_path, "a"))
    sandboxes.of(POD)
    file(tmp_path, "b")
    (tmp_path / "b").replace(tmp_path / "a")
    runtime.listed.clear()
    assert sandboxes.of(POD) is None


def test_a_pod_that_bears_the_uid_of_another_does_not_get_its_sandbox(runtime, sandboxes, journal, tmp_path):
    runtime.run("s1", file(tmp_path, "s1"))
    assert sandboxes.refresh() == {"s1"}
    others = [replace(POD, namespace="evil"), replace(POD, name="evil")]
    assert [sandboxes.of(one) for one in others] == [None, None]
    assert [sandboxes.is_listed(one) for one in (POD, *others)] == [True, False, False]
    status = os.stat(tmp_path / "s1")
    namespace = Namespace(str(tmp_path / "s1"), status.st_dev, status.st_ino)
    key = Key(ContainerID("s1"), "net1")
    journal.begin(Record(key, Origin.RUNTIME, Phase.ATTACHED, "", "", "{}", namespace, POD), durable=False)
    alone = Sandboxes(None, journal, netns.View())
    assert [alone.is_listed(one) for one in (POD, *others)] == [True, False, False]
    runtime.away = True
    assert sandboxes.of(POD).id == "s1"
    for one in others:
        with pytest.raises(NotReady):
            sandboxes.of(one)
        with pytest.raises(NotReady):
            sandboxes.is_listed(one)


def test_a_pod_of_the_nodes_own_network_is_refused(runtime, sandboxes, tmp_path):
    runtime.run("host", "")
    with pytest.raises(Refused, match="own network"):
        sandboxes.of(POD)
    runtime.paths["host"] = netns.OWN
    with pytest.raises(Refused, match="own network"):
        sandboxes.of(POD)


def test_a_sandbox_that_went_while_it_was_looked_at_is_no_host_network_pod(runtime, sandboxes):
    runtime.run("gone", "")
    answers = [tuple(runtime.listed), ()]
    runtime.sandboxes = lambda: answers.pop(0)
    assert sandboxes.of(POD) is None


def test_a_runtime_that_is_away_is_said_unless_our_own_calls_know_the_sandbox(runtime, sandboxes, journal, tmp_path):
    runtime.away = True
    with pytest.raises(NotReady, match="connection refused"):
        sandboxes.of(POD)
    path = file(tmp_path, "ns")
    status = os.stat(path)
    namespace = Namespace(path, status.st_dev, status.st_ino)
    record = Record(Key(ContainerID("c1"), "net1"), Origin.RUNTIME, Phase.ATTACHED, "", "", "{}", namespace, POD)
    journal.begin(record, durable=False)
    assert (sandboxes.of(POD).id, sandboxes.of(POD).namespace) == ("c1", namespace)
    journal.update(replace(record, namespace=Namespace(path, 0, 0)), durable=False)
    with pytest.raises(NotReady):
        sandboxes.of(POD)


def test_a_refresh_learns_all_and_names_the_living(runtime, sandboxes, tmp_path):
    runtime.run("a", file(tmp_path, "a"))
    runtime.run("b", file(tmp_path, "b"), uid="u2", ready=False)
    runtime.run("host", "", uid="u3")
    assert sandboxes.refresh() == {"a", "host"}
    assert (
        sandboxes.known(POD),
        sandboxes.known(Pod(PodUID("u2"), "ns", "p1")),
        sandboxes.known(Pod(PodUID("u3"), "ns", "p1")),
    ) == ("a", "", "")
    runtime.away = True
    assert sandboxes.refresh() is None


def begun(tmp_path, name: str) -> Sandbox:
    path = file(tmp_path, name)
    with open(path, "rb") as opened:  # noqa: PTH123 only a descriptor that can be looked at
        return Sandbox(ContainerID(name), netns.identify(opened.fileno(), path))


def test_a_sandbox_that_the_runtime_is_making_is_the_pods_before_it_is_listed(runtime, sandboxes, tmp_path):
    runtime.run("old", file(tmp_path, "old"))
    assert sandboxes.of(POD).id == "old"
    new = begun(tmp_path, "new")
    sandboxes.begin(POD, new)
    assert (sandboxes.of(POD), sandboxes.known(POD)) == (new, "new")
    sandboxes.refresh()
    (tmp_path / "new").unlink()  # it came to nothing
    assert sandboxes.of(POD).id == "old"


def test_a_sandbox_that_the_runtime_takes_down_is_nobodys_though_it_is_listed(runtime, sandboxes, tmp_path):
    runtime.run("s1", file(tmp_path, "s1"))
    assert sandboxes.of(POD).id == "s1"
    sandboxes.end(ContainerID("s1"))
    assert (sandboxes.of(POD), sandboxes.known(POD)) == (None, "")
    sandboxes.refresh()
    assert (sandboxes.of(POD), sandboxes.known(POD)) == (None, "")
    sandboxes.begin(POD, begun(tmp_path, "s1"))  # a caller may use an ID again
    assert sandboxes.of(POD).id == "s1"


def test_a_sandbox_that_is_taken_down_is_not_found_by_our_own_calls_either(journal, tmp_path):
    alone = Sandboxes(None, journal, netns.View())
    sandbox = begun(tmp_path, "s1")
    key = Key(sandbox.id, "eth0")
    journal.begin(Record(key, Origin.RUNTIME, Phase.ATTACHED, "", "", "{}", sandbox.namespace, POD), durable=False)
    assert alone.of(POD) == sandbox
    alone.end(sandbox.id)
    assert alone.of(POD) is None
