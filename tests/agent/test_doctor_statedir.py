"""What the doctor reads of a state directory: what the agent could not read at its next start, in words."""

import json
from dataclasses import replace

import pytest

from agent import codec
from agent.doctor import statedir
from agent.journal import Journal
from agent.model import Desired
from tests.agent import test_journal

RECORD = test_journal.RECORD


@pytest.fixture
def directory(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(RECORD, durable=False)
    journal.want(RECORD.pod.uid, lambda _: Desired(RECORD.pod, "1", ()))
    journal.close()
    return tmp_path


def test_what_the_journal_has_written_is_read(directory):
    seen = statedir.look(directory)
    assert (seen.there, seen.format, seen.refusal, seen.problem, seen.records) == (True, "2", "", "", 1)
    assert (seen.damaged, seen.unreadable, seen.strangers) == ((), (), ())


@pytest.mark.parametrize("kind", ["pods", "records"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b"\xff{}", "is no JSON"),
        (b"[]", "is no JSON object"),
        (b"{}", "it has no '"),
        (b'{"a":1,"crc32":"00000000"}', "its sum is not that of its bytes"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_in_words(directory, kind, content, words):
    (directory / kind / "abc.json").write_bytes(content)
    (one,) = statedir.look(directory).unreadable
    assert one.startswith(f"{kind}/abc.json: ")
    assert words in one
    assert "Error" not in one
    assert "Damaged(" not in one


def test_a_value_of_another_kind_is_damage(directory):
    document = {**codec.encode_desired(Desired(RECORD.pod, "1", ())), "revision": 5}
    (directory / "pods/abc.json").write_text(json.dumps(document))
    (one,) = statedir.look(directory).unreadable
    assert "revision" in one


def test_what_is_no_file_of_hotnics_is_a_stranger_and_a_write_under_way_is_not(directory):
    for name in ("foo.tmp", "notes", "format.7.tmp", "pods/x.json.7.tmp", "damaged/y.json"):
        (directory / name).write_text("x")
    seen = statedir.look(directory)
    assert (seen.strangers, seen.damaged, seen.unreadable) == (("foo.tmp", "notes"), ("y.json",), ())


def test_a_newer_directory_is_not_read_further(directory):
    (directory / "format").write_text("9\n")
    (directory / "pods/abc.json").write_text("{")
    seen = statedir.look(directory)
    assert ("'9'" in seen.refusal, seen.unreadable) == (True, ())


def test_one_that_cannot_be_read_says_why_and_is_not_called_newer(directory, monkeypatch):
    def broken(_):
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(statedir.files, "listed", broken)
    seen = statedir.look(directory)
    assert (seen.problem, seen.refusal) == ("Permission denied", "")


def test_one_that_is_not_there(tmp_path):
    assert not statedir.look(tmp_path / "x").there
    assert replace(statedir.look(tmp_path / "x"), directory="") == replace(statedir.look(tmp_path / "y"), directory="")
