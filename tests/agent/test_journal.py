"""The state directory: what is written is read back, and one bad file hides nothing else."""

import json
from dataclasses import replace

import pytest

from agent import codec
from agent.journal import Journal
from agent.model import (
    Asked,
    ContainerID,
    Desired,
    Displaced,
    Hold,
    Key,
    Namespace,
    Origin,
    Phase,
    Pod,
    PodUID,
    Record,
    State,
    Wanted,
)
from cni import multinet

POD = Pod(PodUID("uid-1"), "ns", "pod")
RECORD = Record(
    key=Key(ContainerID("c1"), "net1"),
    origin=Origin.ADOPTED,
    phase=Phase.ATTACHED,
    network="ns/blue",
    element='{"name":"blue"}',
    config='{"type":"x"}',
    namespace=Namespace("/run/netns/a", 4, 4026532),
    pod=POD,
    args=(("IgnoreUnknown", "true"), ("K8S_POD_NAME", "pod")),
    runtime={"mac": "02:00:00:00:00:01"},
    cni_args={"a": {"b": 1}},
    device_id="0000:01:00.0",
    result={"cniVersion": "1.1.0"},
    ifindex=7,
    displaced=(Displaced("10.0.0.1", "eth0", 100),),
    nad_uid="n1",
    nad_resource_version="12",
)


@pytest.fixture
def opened(tmp_path):
    """Open the journal as a new agent does, after the one before has ended."""
    living: list[Journal] = []

    def open_() -> Journal:
        while living:
            living.pop().close()
        living.append(Journal(tmp_path))
        return living[-1]

    yield open_
    while living:
        living.pop().close()


DESIRED = Desired(
    pod=POD,
    revision="r1",
    attachments=(
        Wanted(multinet.Selection("ns", "blue", interface="net1"), '{"type":"x"}', "n1", "12"),
        Wanted(multinet.Selection("ns", "red"), "", hold=Hold(State.PENDING, "NetworkNotFound", "no red")),
    ),
    keep=("typo",),
    asked=(Asked('{"name":"blue"}', "blue"),),
    released=("net9",),
    examined=(ContainerID("c1"),),
)


def test_everything_of_a_record_and_of_a_desired_set_survives_a_restart(opened, tmp_path):
    before = opened()
    record = before.begin(RECORD, durable=True)
    before.want(POD.uid, lambda _: DESIRED)
    after = opened()
    assert after.records() == (record,)
    assert after.pods() == (DESIRED,)


def test_records_keep_the_order_of_their_adds_over_a_restart(opened, tmp_path):
    before = opened()
    for ifname in ("b", "a"):
        before.begin(replace(RECORD, key=Key(ContainerID("c1"), ifname)), durable=False)
    after = opened()
    after.begin(replace(RECORD, key=Key(ContainerID("c1"), "0")), durable=False)
    assert [one.key.ifname for one in after.of_sandbox(ContainerID("c1"))] == ["b", "a", "0"]


def test_a_removed_record_is_gone_and_removing_it_again_is_fine(opened, tmp_path):
    journal = opened()
    journal.begin(RECORD, durable=False)
    journal.remove(RECORD.key)
    journal.remove(RECORD.key)
    assert (journal.records(), opened().records()) == ((), ())


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"containerID": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_set_aside_with_an_alarm_and_the_others_are_read(opened, tmp_path, caplog, damage):
    journal = opened()
    kept = journal.begin(RECORD, durable=False)
    journal.begin(replace(RECORD, key=Key(ContainerID("c2"), "net1")), durable=False)
    path = next(
        path for path in (tmp_path / "records").iterdir() if json.loads(path.read_bytes())["containerID"] == "c2"
    )
    path.write_bytes(damage)
    assert opened().records() == (kept,)
    assert (tmp_path / "damaged" / path.name).read_bytes() == damage
    assert any(entry.levelname == "CRITICAL" and str(path) in entry.message for entry in caplog.records)


def test_an_unfinished_write_is_dropped(opened, tmp_path):
    journal = opened()
    (tmp_path / "records" / "x.json.1.tmp").write_bytes(b"{")
    assert opened().records() == journal.records() == ()
    assert list((tmp_path / "records").iterdir()) == []


def test_a_failed_write_changes_neither_disk_nor_memory(opened, tmp_path):
    journal = opened()
    kept = journal.begin(RECORD, durable=False)
    with pytest.raises(TypeError):
        journal.update(replace(kept, result={"not": object()}), durable=False)
    assert journal.record(RECORD.key) == kept
    assert opened().records() == (kept,)


def test_a_directory_of_a_newer_version_is_refused_and_untouched(opened, tmp_path):
    opened().begin(RECORD, durable=False)
    (tmp_path / "format").write_text("3\n")
    with pytest.raises(ValueError, match="says version '3'"):
        opened()
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_a_long_container_id_has_a_record_too(opened, tmp_path):
    journal = opened()
    journal.begin(replace(RECORD, key=Key(ContainerID("x" * 300), "net1")), durable=False)
    assert len(opened().records()) == 1


def test_encoding_is_json_and_decoding_is_its_inverse():
    assert codec.decode_record(json.loads(json.dumps(codec.encode_record(RECORD)))) == RECORD
    assert codec.decode_desired(json.loads(json.dumps(codec.encode_desired(DESIRED)))) == DESIRED


def test_a_directory_that_another_agent_uses_is_refused(opened, tmp_path):
    opened()
    with pytest.raises(ValueError, match="in use by another agent"):
        Journal(tmp_path)


def test_a_start_that_was_killed_before_it_wrote_the_version_is_no_other_version(tmp_path):
    tmp_path.joinpath("format").touch()
    Journal(tmp_path).close()
    assert (tmp_path / "format").read_text().strip() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "format", "lock", "pods", "records"]
