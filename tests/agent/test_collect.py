"""Garbage collection: a list that lacks one attachment takes a living pod's address away, so none is made in doubt."""

import base64
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import delegate, netns
from agent.attach import Attachments, Settings
from agent.calls import Calls, _left
from agent.collect import PERIOD_S, RETRY_S, Collector
from agent.gates import Busy, Gates
from agent.journal import Journal
from agent.locks import Locks
from agent.model import ContainerID, Desired, Key, Namespace, Origin, Phase, Pod, PodUID, Record, Wanted
from cni import errors, multinet

VALID = "cni.dev/valid-attachments"
POD = Pod(PodUID("u1"), "ns", "p")
CONFIG = {"cniVersion": "1.1.0", "name": "blue", "type": "recorder"}


class Recorder:
    """In place of all plugins, ours and others: writes down what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.failing: errors.CNIError | None = None
        self.meanwhile = lambda: None

    def __call__(self, plugin_type, command, env, config, deadline_s):
        self.calls.append((plugin_type, command, config))
        self.meanwhile()
        if self.failing:
            raise self.failing

    def lists(self) -> list[list[tuple[str, str]]]:
        """The list of each GC, sorted."""
        return [sorted((one["containerID"], one["ifname"]) for one in config[VALID])
                for _, command, config in self.calls if command == "GC"]  # fmt: skip


class Runtime:
    """What sandboxes there are."""

    def __init__(self) -> None:
        self.living: set[str] | None = {"c1", "c2"}
        self.of_pods = {"u1": "c1"}
        self.namespaces: dict[str, int] = {}

    def refresh(self):
        return self.living

    def inodes(self, containers):
        return {inode for container, inode in self.namespaces.items() if container in containers}

    def known(self, pod: Pod) -> str:
        return self.of_pods.get(pod.uid, "")


class Scene:
    """A collector with all around it."""

    def __init__(self, folder: Path) -> None:
        self.journal, self.plugins, self.runtime = Journal(folder / "state"), Recorder(), Runtime()
        self.caches, self.conf_dir = folder / "results", folder / "net.d"
        self.caches.mkdir()
        self.conf_dir.mkdir()
        self.folder = folder
        settings = Settings((Path("/opt/cni/bin"),), (self.conf_dir,), netns.View())
        self.attachments = Attachments(self.journal, None, self._native, self.plugins, settings)
        self.node = folder / "node"
        (self.node / "run/netns").mkdir(parents=True)
        self.collector = Collector(
            self.journal, self.runtime, self.attachments, netns.View(self.node), (self.caches,), (self.conf_dir,)
        )

    def _native(self, command, env, config, deadline_s, netns_fd=None):
        return self.plugins("hotnic", command, env, config, deadline_s)

    def record(self, container: str = "c1", ifname: str = "net1", **changes: Any) -> Record:
        config = json.dumps(changes.pop("config", CONFIG))
        key = Key(ContainerID(container), ifname)
        one = Record(key, Origin.ANNOTATION, Phase.ATTACHED, "ns/blue", "", config, Namespace("/run/netns/none"), POD)
        self.journal.update(replace(one, **changes), durable=False)
        return one

    def cache(self, container: str, ifname: str = "net1", *, uid: str = "u1", path: str = "") -> None:
        document = {
            "kind": "cniCacheV1", "containerId": container, "ifName": ifname, "networkName": "blue",
            "config": base64.b64encode(json.dumps(CONFIG).encode()).decode(),
            "cniArgs": [["K8S_POD_UID", uid]], "result": {},
        }  # fmt: skip
        (self.caches / f"blue-{container}-{ifname}").write_text(
            json.dumps({**document, "netns": path} if path else document)
        )

    def collected(self, now: float = 0.0) -> list[list[tuple[str, str]]]:
        self.plugins.calls.clear()
        self.collector.look(now)
        return self.plugins.lists()


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.journal.close()


# -- on our own account -----------------------------------------------------------------------------------------


def test_what_the_journal_has_and_what_a_runtime_has_is_valid(scene):
    scene.record("c1", "net1")
    scene.record("c1", "net2", phase=Phase.ADDING)
    scene.record("c1", "net3", config={**CONFIG, "name": "red"})
    scene.cache("c1", "eth7")
    assert ([("c1", "eth7"), ("c1", "net1"), ("c1", "net2")]) in scene.collected()
    assert [config["name"] for _, _, config in scene.plugins.calls] == ["blue", "red"]


def test_of_a_runtimes_attachments_only_those_are_not_valid_whose_sandbox_and_namespace_are_gone(scene, tmp_path):
    scene.record()
    scene.journal.want(POD.uid, lambda _: Desired(POD, "r"))
    (scene.node / "ns").touch()
    scene.cache("c2", "unlisted-namespace")
    scene.cache("gone", "a", path=str(tmp_path / "no"))
    scene.cache("gone", "b", path="/ns")
    scene.cache("gone", "c")
    assert scene.collected() == [[("c1", "net1"), ("c2", "unlisted-namespace"), ("gone", "b"), ("gone", "c")]]


def no_runtime(scene: Scene) -> None:
    scene.runtime.living = None


def unreadable(scene: Scene) -> None:
    (scene.caches / "blue-c9-net1").write_text("half of it")


def nodes_own(scene: Scene) -> None:
    (scene.conf_dir / "10-blue.conflist").write_text(json.dumps({"name": "blue", "plugins": [CONFIG]}))


def strangers(scene: Scene) -> None:
    scene.cache("c2", uid="nobody we know")


def on_its_way(scene: Scene) -> None:
    wanted = Wanted(multinet.Selection("ns", "blue"), json.dumps(CONFIG))
    scene.journal.want(PodUID("u2"), lambda _: Desired(Pod(PodUID("u2"), "ns", "q"), "r", (wanted,)))


def in_the_making(scene: Scene) -> None:
    (scene.node / "run/netns/cni-1").touch()


def no_folder_of_namespaces_to_be_read(scene: Scene) -> None:
    folder = scene.node / "run/netns"
    folder.rmdir()
    folder.symlink_to(folder)


_DOUBTS = [
    no_runtime, unreadable, nodes_own, strangers, on_its_way, in_the_making, no_folder_of_namespaces_to_be_read,
]  # fmt: skip


@pytest.mark.parametrize("doubt", _DOUBTS)
def test_in_doubt_there_is_no_list_and_no_collection(scene, doubt):
    scene.record()
    doubt(scene)
    assert scene.collected() == []


def test_a_young_namespace_is_no_doubt_once_its_sandbox_is_listed_and_an_old_one_is_none(scene):
    scene.record()
    in_the_making(scene)
    born = scene.node / "run/netns/cni-1"
    scene.runtime.namespaces["c9"] = born.stat().st_ino  # known by its ADD, and not listed
    assert scene.collected(0) == []
    scene.runtime.living.add("c9")
    assert scene.collected(RETRY_S) == [[("c1", "net1")]]
    scene.runtime.living.remove("c9")
    os.utime(born, (0, 0))
    assert scene.collected(2 * PERIOD_S) == [[("c1", "net1")]]


def test_what_a_runtime_attaches_before_the_gate_is_closed_is_on_the_list(scene):
    scene.record()
    scene.journal.want(POD.uid, lambda _: Desired(POD, "r"))
    begun = threading.Event()

    def attach() -> None:
        with scene.attachments.gates.changing("blue"):
            begun.set()
            time.sleep(0.1)
            scene.cache("c2")

    thread = threading.Thread(target=attach)
    thread.start()
    assert begun.wait(30)
    found = scene.collected()
    thread.join()
    assert found in ([[("c1", "net1"), ("c2", "net1")]], [])  # on a slow machine it gives way


def test_a_text_that_a_network_had_and_no_attachment_has_is_not_collected(scene):
    """A network may be edited at will; what it says then is one more text."""
    for number in range(50):
        scene.record(config={**CONFIG, "mtu": 1000 + number})
        scene.collector.look(0.0)
    assert scene.collected(PERIOD_S) == [[("c1", "net1")]]
    assert len(scene.collector._known["blue"]) == 1


def test_what_went_by_itself_is_not_kept_in_memory(scene):
    for number in range(600):
        scene.record(config={**CONFIG, "name": f"n{number}", "cniVersion": "1.0.0"})
        scene.runtime.living = set()
        scene.collector.look(0.0)
    kept = scene.collector
    assert max(map(len, (kept._known, kept._collected, kept._put_off, kept._lost))) < 300


def test_the_definitions_of_one_name_share_one_deadline_and_one_that_fails_ends_none(scene, monkeypatch, caplog):
    for number in range(4):
        scene.record("c1", f"net{number}", config={**CONFIG, "mtu": 1000 + number})
    scene.plugins.failing = errors.CNIError(errors.Code.INTERNAL, "no")
    assert len(scene.collected(0)) == 4
    scene.plugins.failing = None
    monkeypatch.setattr("agent.collect.DEADLINE_S", 0.3)
    scene.plugins.meanwhile = lambda: time.sleep(0.4)
    assert len(scene.collected(PERIOD_S)) == 1
    assert "no time was left" in caplog.text


def test_who_attaches_does_not_wait_for_ever_with_the_sandbox_in_its_hands(monkeypatch):
    monkeypatch.setattr("agent.gates.PATIENCE_S", 0.01)
    gates = Gates()
    with (
        gates.collecting("blue", 0),
        pytest.raises(errors.CNIError, match="collected") as refused,
        gates.changing("blue"),
    ):
        raise AssertionError
    assert refused.value.code == errors.Code.TRY_AGAIN


def test_a_pod_that_asks_and_has_its_sandbox_is_no_doubt(scene):
    scene.record()
    on_its_way(scene)
    scene.runtime.of_pods["u2"] = "c2"
    assert scene.collected() == [[("c1", "net1")]]


@pytest.mark.parametrize("config", [{**CONFIG, "cniVersion": "1.0.0"}, {**CONFIG, "disableGC": True}])
def test_networks_that_know_no_collection_or_do_not_allow_it_are_left_alone(scene, config):
    scene.record(config=config)
    assert scene.collected() == []


def test_it_is_done_at_the_start_hourly_and_after_a_sandbox_ended_without_its_del(scene):
    scene.record("c1")
    scene.record("c2")
    assert len(scene.collected(0)) == 1
    assert len(scene.collected(60)) == 0
    scene.runtime.living = {"c1"}
    assert [scene.collected(now) for now in (120, 140)] == [[], []]  # its DEL comes first
    scene.journal.remove(Key(ContainerID("c2"), "net1"))
    assert scene.collected(180) == [[("c1", "net1")]]
    assert len(scene.collected(240)) == 0
    assert len(scene.collected(180 + PERIOD_S)) == 1


def test_a_network_whose_last_record_has_gone_is_collected_once_more(scene):
    scene.record()
    scene.collected(0)
    scene.journal.remove(Key(ContainerID("c1"), "net1"))
    assert scene.collected(20) == [[]]
    assert scene.collected(9 * PERIOD_S) == []


@pytest.mark.parametrize("failure", [errors.CNIError(errors.Code.INTERNAL, "no"), delegate.Missing("no plugin")])
def test_a_collection_that_fails_is_told_and_not_tried_all_the_time(scene, failure, caplog):
    scene.record()
    scene.plugins.failing = failure
    assert (len(scene.collected(0)), len(scene.collected(20))) == (1, 0)
    assert "blue" in caplog.text


def test_every_plugin_of_a_chain_gets_the_list(scene):
    scene.record(config={"cniVersion": "1.1.0", "name": "blue", "plugins": [{"type": "a"}, {"type": "hotnic"}]})
    assert scene.collected() == [[("c1", "net1")]] * 2
    assert [plugin for plugin, _, _ in scene.plugins.calls] == ["a", "hotnic"]


# -- nobody adds meanwhile --------------------------------------------------------------------------------------


def test_while_a_network_is_collected_an_attachment_to_it_waits_and_another_does_not(scene):
    scene.record()
    entered = threading.Event()

    def attach(network: str) -> threading.Thread:
        def change() -> None:
            with scene.attachments.gates.changing(network):
                entered.set()

        thread = threading.Thread(target=change, daemon=True)
        thread.start()
        return thread

    def meanwhile() -> None:
        attach("red").join(30)
        assert entered.is_set()
        entered.clear()
        waiting.append(attach("blue"))
        assert not entered.wait(0.2)

    waiting: list[threading.Thread] = []
    scene.plugins.meanwhile = meanwhile
    assert len(scene.collected()) == 1
    waiting[0].join(30)
    assert entered.is_set()


def test_who_collects_gives_way_to_who_attaches(scene):
    scene.record()
    with scene.attachments.gates.changing("blue"):
        assert scene.collected(0) == []
    assert (scene.collected(RETRY_S - 1), len(scene.collected(RETRY_S))) == ([], 1)


def test_a_gate_is_left_also_by_who_fails():
    gates = Gates()
    with pytest.raises(RuntimeError), gates.changing("blue"):
        raise RuntimeError
    with pytest.raises(RuntimeError), gates.collecting("blue", 0):
        raise RuntimeError
    with gates.collecting("blue", 0), pytest.raises(Busy), gates.collecting("blue", 0):
        raise AssertionError


# -- asked for by a runtime -------------------------------------------------------------------------------------


@pytest.fixture
def gc(scene):
    calls = Calls(scene.journal, scene._native, scene.attachments, Locks(), tuple, None)

    def call(valid: Any, **config: Any) -> dict[str, Any]:
        scene.plugins.calls.clear()
        stdin = json.dumps({**CONFIG, "type": "hotnic", "device": "bridge", VALID: valid, **config})
        answer = calls.handle({"CNI_COMMAND": "GC", "CNI_PATH": "/x"}, stdin.encode(), None)
        return json.loads(answer.stdout or b"{}")

    return call


def listed(*containers: str) -> list[dict[str, str]]:
    return [{"containerID": container, "ifname": "net1"} for container in containers]


def test_what_annotations_asked_for_is_no_victim_of_a_runtimes_list_and_is_told_to_the_ipam_plugin(scene, gc):
    """A kubelet's runtime lists its own attachments only; ours of the same network are the second actor's."""
    scene.record("c1")
    scene.record("c2", origin=Origin.ADOPTED)
    scene.record("c3", origin=Origin.RUNTIME)
    scene.record("c4", origin=Origin.RUNTIME)
    scene.record("c5", origin=Origin.RUNTIME, config={**CONFIG, "name": "red"})
    assert gc(listed("c3", "c9")) == {}
    assert sorted(one.key.container_id for one in scene.journal.records()) == ["c1", "c2", "c3", "c5"]
    assert scene.plugins.lists() == [[("c1", "net1"), ("c2", "net1"), ("c3", "net1"), ("c9", "net1")]]
    assert [command for _, command, _ in scene.plugins.calls] == ["DEL", "GC"]


def test_without_a_list_nothing_is_collected_and_null_is_an_empty_one(scene, gc):
    scene.record("c3", origin=Origin.RUNTIME)
    assert gc(None) == {}
    assert (scene.journal.records(), scene.plugins.lists()) == ((), [[]])


def test_what_could_not_be_deleted_is_told_and_keeps_its_address(scene, gc):
    scene.record("c3", origin=Origin.RUNTIME, config={**CONFIG, "type": "other"})
    scene.plugins.failing = None
    failing = errors.CNIError(errors.Code.INTERNAL, "no")

    def only_at_del() -> None:
        if scene.plugins.calls[-1][1] == "DEL":
            raise failing

    scene.plugins.meanwhile = only_at_del
    assert "c3/net1" in gc([])["msg"]
    assert scene.plugins.lists() == [[("c3", "net1")]]
    assert len(scene.journal.records()) == 1


def test_an_attachment_whose_add_ends_while_a_runtime_collects_is_no_victim(scene):
    """Its caller made the list before, and could not know."""
    locks = Locks()
    calls = Calls(scene.journal, scene._native, scene.attachments, locks, tuple, None)
    adding = scene.record("c3", origin=Origin.RUNTIME, phase=Phase.ADDING)
    stdin = json.dumps({**CONFIG, "type": "hotnic", "device": "bridge", VALID: []}).encode()
    request = {"CNI_COMMAND": "GC", "CNI_PATH": "/x"}
    with locks.held({adding.key.container_id}):
        collecting = threading.Thread(target=calls.handle, args=(request, stdin, None))
        collecting.start()
        time.sleep(0.2)
        scene.journal.update(replace(adding, phase=Phase.ATTACHED), durable=False)
    collecting.join(30)
    assert [one.key.container_id for one in scene.journal.records()] == ["c3"]
    assert scene.plugins.lists() == [[("c3", "net1")]]


def test_an_add_has_no_more_time_because_it_waited(monkeypatch):
    monkeypatch.setattr("agent.calls.time.monotonic", lambda: 100.0)
    assert _left(110.0) == 10.0
    with pytest.raises(errors.CNIError) as refused:
        _left(100.0)
    assert refused.value.code == errors.Code.TRY_AGAIN


def test_a_network_that_is_in_use_all_the_time_is_to_be_collected_later(scene, gc, monkeypatch):
    monkeypatch.setattr("agent.calls._GC_PATIENCE_S", 0.01)
    with scene.attachments.gates.changing("blue"):
        assert gc([])["code"] == errors.Code.TRY_AGAIN
    assert scene.plugins.lists() == []
