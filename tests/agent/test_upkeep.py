"""The upkeep: which attachments are looked at, and when."""

import json
import logging
import threading
import time

import pytest

from agent.inspection import Found
from agent.journal import Journal
from agent.locks import Locks
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Record
from agent.upkeep import Upkeep
from cni import errors

OVERLAY = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "overlay", "vni": 7}


class Native:
    """Says what it was asked to mend."""

    def __init__(self):
        self.mended, self.problem, self.said = [], None, threading.Condition()

    def mend(self, key, config):
        with self.said:
            self.mended.append((key.container_id, config["name"], config["device"]))
            self.said.notify_all()
        if self.problem:
            raise self.problem

    def wait(self, number):
        with self.said:
            assert self.said.wait_for(lambda: len(self.mended) >= number, 5), self.mended


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    yield journal
    journal.close()


@pytest.fixture
def native(journal):
    return Native()


class Inspector:
    """Says what it has looked at; what is found is repaired unless it has a problem."""

    def __init__(self):
        self.looked, self.found, self.repaired = [], Found(), []

    def repairs(self, record):
        return record.network != "quiet/red"

    def look(self, record, *, shared, repair):
        self.looked.append((record.key.container_id, shared))
        found = self.found
        if repair:
            self.repaired.append(record.key.container_id)
            self.found = Found()
        return found


@pytest.fixture
def inspector():
    return Inspector()


@pytest.fixture
def locks():
    return Locks()


@pytest.fixture
def upkeep(journal, native, inspector, locks):
    upkeep = Upkeep(journal, native, inspector, locks)
    yield upkeep
    upkeep.close()


def begin(journal, container, config, phase=Phase.ATTACHED, origin=Origin.ANNOTATION, network="ns/red"):
    key = Key(ContainerID(container), "net1")
    record = Record(key, origin, phase, network, "", json.dumps(config), Namespace("/run/netns/x"))
    return journal.begin(record, durable=False)


def test_native_attachments_are_looked_at_in_the_order_of_their_adds(journal, native, upkeep):
    begin(journal, "c1", OVERLAY)
    begin(journal, "c2", {"cniVersion": "1.1.0", "plugins": [{"type": "tuning"}, {**OVERLAY, "name": ""}]})
    begin(journal, "foreign", {**OVERLAY, "type": "bridge"})
    begin(journal, "under-way", {**OVERLAY, "vni": 8}, Phase.ADDING)
    upkeep.start()
    native.wait(3)
    assert native.mended == [("c1", "blue", "overlay"), ("c2", "red", "overlay"), ("under-way", "blue", "overlay")]


def test_one_attachment_of_each_configuration_comes_first(journal, native, upkeep):
    for number, config in enumerate((OVERLAY, OVERLAY, {**OVERLAY, "vni": 8, "name": "green"}, OVERLAY)):
        begin(journal, f"c{number}", config)
    upkeep.start()
    native.wait(4)
    assert [container for container, _, _ in native.mended] == ["c0", "c2", "c1", "c3"]


def test_a_touch_has_everything_looked_at_at_once(journal, native, upkeep):
    begin(journal, "c1", OVERLAY)
    upkeep.start()
    native.wait(1)
    started = time.monotonic()
    upkeep.touch()
    native.wait(2)
    assert time.monotonic() - started < 10


def test_one_that_cannot_be_mended_is_told_once_and_keeps_none_from_its_turn(journal, native, upkeep, caplog):
    begin(journal, "c1", OVERLAY)
    begin(journal, "c2", OVERLAY)
    native.problem = errors.CNIError(errors.Code.TRY_AGAIN, "no link has 192.0.2.1")
    with caplog.at_level(logging.WARNING):
        upkeep.start()
        native.wait(2)
        upkeep.touch()
        native.wait(4)
        native.problem = errors.CNIError(errors.Code.INTERNAL, "Out of memory")
        upkeep.touch()
        native.wait(6)
        upkeep.close()
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "no link has 192.0.2.1", "no link has 192.0.2.1", "Out of memory", "Out of memory",
    ]  # fmt: skip


def test_a_defect_does_not_end_it(journal, native, upkeep, caplog):
    begin(journal, "c1", OVERLAY)
    native.problem = RuntimeError("a bug")
    upkeep.start()
    native.wait(1)
    upkeep.touch()
    native.wait(2)
    assert "a bug" in caplog.text


def until(holds):
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_a_runtime_attached_is_repaired_on_the_nodes_side_when_it_is_suspect(journal, inspector, upkeep, caplog):
    caplog.set_level(logging.WARNING)
    config = {**OVERLAY, "device": "bridge"}
    records = [
        begin(journal, "theirs", config, origin=Origin.RUNTIME),
        begin(journal, "quiet", config, origin=Origin.RUNTIME, network="quiet/red"),
        begin(journal, "ours", config),
        begin(journal, "half", config, Phase.ADDING, Origin.RUNTIME),
    ]
    inspector.found = Found(("it is no port",))
    upkeep.start()
    upkeep.look(records[:1])
    until(lambda: inspector.repaired == ["theirs"])
    inspector.found = Found(("it is no port",))
    upkeep.look(records[1:])
    until(lambda: len(inspector.looked) == 3)
    upkeep.close()
    assert inspector.looked == [("theirs", True), ("theirs", True), ("quiet", True)]
    assert inspector.repaired == ["theirs"]
    assert caplog.text.count("it is no port") == 2


def test_a_look_at_what_a_runtime_attached_mends_nothing_else_and_is_told(journal, native, inspector, upkeep):
    record = begin(journal, "theirs", OVERLAY, origin=Origin.RUNTIME)
    told = []
    upkeep.found = lambda key, now, *, is_wrong: told.append((key, is_wrong))
    upkeep.start()
    native.wait(1)
    for number, found in enumerate((Found(), Found(("it is no port",))), 1):
        inspector.found = found
        upkeep.look([record])
        until(lambda number=number: len(told) == number)
    upkeep.close()
    assert told == [(record.key, False), (record.key, True)]
    assert len(native.mended) == 1


def test_what_others_undo_again_is_not_repaired_at_once_again(journal, inspector, upkeep):
    record = begin(journal, "theirs", {**OVERLAY, "device": "bridge"}, origin=Origin.RUNTIME)
    upkeep.start()
    for _ in range(5):
        inspector.found = Found(("it is no port",))
        upkeep.look([record])
        time.sleep(0.1)
    upkeep.close()
    assert inspector.repaired == ["theirs"]


def test_a_sandbox_that_somebody_works_on_is_not_waited_for_and_has_its_turn_afterwards(
    journal, native, inspector, upkeep, locks, monkeypatch
):
    monkeypatch.setattr("agent.upkeep.BUSY_S", 0.05)
    config = {**OVERLAY, "device": "bridge"}
    records = [begin(journal, name, config, origin=Origin.RUNTIME) for name in ("busy", "other")]
    inspector.found = Found(("it is no port",))
    with locks.held(["busy"]):
        upkeep.look(records)
        upkeep.start()
        native.wait(1)
        until(lambda: inspector.repaired == ["other"])
        inspector.found = Found(("it is no port",))
    until(lambda: inspector.repaired == ["other", "busy"])
    upkeep.close()
    assert len(native.mended) == len(records), "that one comes later is nothing to the others"
