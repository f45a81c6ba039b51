"""Whatever a fault or a stranger leaves in the state directory: the agent starts, keeps what is whole, says so."""

import contextlib
import json
import os
import socket
from dataclasses import replace

import pytest

from agent import codec, files
from agent.journal import Journal
from agent.model import ContainerID, Key
from agent.peers import Peers
from tests.agent.test_journal import DESIRED, POD, RECORD

OTHER = replace(RECORD, key=Key(ContainerID("c2"), "net1"))


@pytest.fixture
def left(tmp_path):
    """A state directory with two records and a desired set, and no agent."""
    journal = Journal(tmp_path)
    journal.begin(RECORD, durable=True)
    journal.begin(OTHER, durable=True)
    journal.want(POD.uid, lambda _: DESIRED)
    journal.close()
    return tmp_path


@pytest.fixture
def opened(left):
    living = []

    def open_():
        living.append(Journal(left))
        return living[-1]

    yield open_
    for journal in living:
        journal.close()


def file_of(left, container_id):
    paths = (left / "records").glob("*.json")
    return next(path for path in paths if json.loads(path.read_bytes())["containerID"] == container_id)


def assert_set_aside(left, opened, caplog, name):
    """The other record and the desired set are there, the damaged is where people find it, and an alarm says so."""
    journal = opened()
    assert [record.key for record in journal.records()] == [RECORD.key]
    assert journal.pods() == (DESIRED,)
    assert name in os.listdir(left / "damaged")
    assert name not in os.listdir(left / "records")
    assert journal.damaged() == 1
    assert any(entry.levelname == "CRITICAL" and name in entry.message for entry in caplog.records)
    begun = journal.begin(OTHER, durable=True)
    assert journal.record(OTHER.key) == begun


def test_no_beginning_of_a_file_is_taken_for_the_file(left):
    whole = file_of(left, "c2").read_bytes()
    for size in range(len(whole)):
        with pytest.raises(files.Damaged):
            files.parse(whole[:size])


@pytest.mark.parametrize("kind", ["records", "pods"])
def test_no_changed_bit_changes_what_is_believed(left, kind):
    whole = next((left / kind).iterdir()).read_bytes()
    decode = codec.decode_record if kind == "records" else codec.decode_desired
    before = decode(files.parse(whole))
    for position in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        try:
            after = decode(files.parse(bytes(changed)))
        except files.Damaged:
            continue
        assert after == before, f"bit {position}"


def test_a_file_of_an_agent_that_wrote_no_sum_is_read(left, opened):
    path = file_of(left, "c2")
    document = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "crc32"}
    path.write_text(json.dumps(document))
    assert {record.key for record in opened().records()} == {RECORD.key, OTHER.key}


DEEP = "[" * 100_000
CONTENTS = {
    "nested": f'{{"containerID": {DEEP}'.encode(),
    "closed nesting": f'{{"a": {"[" * 50_000}{"]" * 50_000}}}'.encode(),
    "no UTF-8": b'{"containerID": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a list": b"[1]",
    "a huge number": b'{"sequence": ' + b"9" * 5000 + b"}",
    "a key twice": json.dumps(codec.encode_record(OTHER)).replace('"ifindex"', '"ifindex": 3, "ifindex"').encode(),
    "zeroes, as after a power loss": bytes(4096),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_damaged_content(left, opened, caplog, content):
    path = file_of(left, "c2")
    path.write_bytes(content)
    assert_set_aside(left, opened, caplog, path.name)
    assert (left / "damaged" / path.name).read_bytes() == content


WRONG = {
    "containerID": ["c2"], "ifname": {}, "ifindex": "7", "sequence": None, "netns": ["/x", "4"], "args": [["a"]],
    "displaced": [[1, 2, 3]], "pod": {"uid": []}, "saved": [], "guest": {"a": 1}, "runtime": 5, "result": "x",
    "phase": "ready", "config": None,
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_values_of_other_types(left, opened, caplog, key):
    path = file_of(left, "c2")
    path.write_text(json.dumps({**codec.encode_record(OTHER), key: WRONG[key]}))
    assert_set_aside(left, opened, caplog, path.name)


def test_a_second_file_for_one_attachment_does_not_replace_the_first(left, opened, caplog):
    path = file_of(left, "c2")
    path.rename(left / "copy")
    document = {**codec.encode_record(replace(RECORD, ifindex=99))}
    (left / "records" / "0.json").write_text(json.dumps(document))
    assert_set_aside(left, opened, caplog, "0.json")


def test_a_huge_file_is_not_even_read(left, opened, caplog, monkeypatch):
    path = file_of(left, "c2")
    os.truncate(path, 100 << 20)
    sizes = []
    monkeypatch.setattr(files, "parse", lambda raw, parse=files.parse: sizes.append(len(raw)) or parse(raw))
    assert_set_aside(left, opened, caplog, path.name)
    assert len(sizes) == 2
    assert max(sizes) < 1 << 20


def a_folder(path):
    path.mkdir()
    path.joinpath("x").touch()


def a_socket(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as one:  # its path has 107 bytes
        one.bind(path.name)


STRANGERS = {
    "folder": a_folder,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "dangling link": lambda path: path.symlink_to("/nowhere"),
    "link to a record": lambda path: path.symlink_to(next(path.parent.glob("*.json"))),
    "pipe": os.mkfifo,
    "socket": a_socket,
    "text": lambda path: path.write_text("mine"),
}


@pytest.mark.parametrize("name", ["x.json", "lost+found", ".x.swp"])
@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_no_record_at_all(left, opened, caplog, make, name):
    file_of(left, "c2").unlink()
    make(left / "records" / name)
    assert_set_aside(left, opened, caplog, name)


@pytest.mark.parametrize("make", [a_folder, lambda path: path.symlink_to("/etc/passwd")], ids=["folder", "link"])
def test_what_looks_like_an_unfinished_write_and_is_none(left, opened, make):
    make(left / "records" / "x.tmp")
    assert len(opened().records()) == 2


def test_what_was_set_aside_before_stays(left, opened):
    path = file_of(left, "c2")
    (left / "damaged" / path.name).write_bytes(b"the first")
    (left / "damaged" / f"{path.name}.1").mkdir()
    path.write_bytes(b"the third")
    assert opened().damaged() == 3
    assert (left / "damaged" / path.name).read_bytes() == b"the first"
    assert (left / "damaged" / f"{path.name}.2").read_bytes() == b"the third"


def test_a_version_that_is_no_text_is_refused_as_a_version(left):
    (left / "format").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="reads 1 to 2"):
        Journal(left)


def test_a_failed_write_leaves_nothing_beside_the_old_file(left, opened, monkeypatch):
    journal, before = opened(), sorted(os.listdir(left / "records"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.begin(replace(OTHER, key=Key(ContainerID("c3"), "net1")), durable=True)
    assert sorted(os.listdir(left / "records")) == before
    assert len(journal.records()) == 2


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_what_was_told_of_the_underlay_is_set_aside_alike(left, caplog, content):
    (left / "damaged" / "underlay.json").write_bytes(b"of an earlier fault")
    (left / "underlay.json").write_bytes(content)
    assert Peers(left).get() is None
    assert (left / "damaged" / "underlay.json").read_bytes() == b"of an earlier fault"
    assert (left / "damaged" / "underlay.json.1").read_bytes() == content
    assert "CRITICAL" in caplog.text
