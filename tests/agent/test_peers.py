"""What was told of the underlay, on disk."""

import json

import pytest

from agent import underlay
from agent.peers import Peers

TOLD = underlay.told("192.0.2.1", {"n2": "192.0.2.2"})


def test_nothing_is_known_before_something_is_told(tmp_path):
    assert Peers(tmp_path).get() is None


def test_what_was_told_last_is_known_at_once_and_after_a_restart(tmp_path):
    peers = Peers(tmp_path)
    peers.set(TOLD)
    peers.set(underlay.told("2001:db8::1", {}))
    assert peers.get() == Peers(tmp_path).get() == underlay.told("2001:db8::1", {})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "address": "x", "peers": {}}'])
def test_a_damaged_file_is_set_aside_and_nothing_is_known(tmp_path, text):
    (tmp_path / "underlay.json").write_text(text)
    assert Peers(tmp_path).get() is None
    assert (tmp_path / "damaged/underlay.json").read_text() == text
    Peers(tmp_path).set(TOLD)
    assert Peers(tmp_path).get() == TOLD


def test_a_file_of_a_newer_version_is_refused_and_kept(tmp_path):
    text = json.dumps({"format": 2, "zones": []})
    (tmp_path / "underlay.json").write_text(text)
    with pytest.raises(ValueError, match="version 2"):
        Peers(tmp_path)
    assert (tmp_path / "underlay.json").read_text() == text


def test_what_cannot_be_written_is_not_told_and_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    peers = Peers(tmp_path)
    peers.set(TOLD)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    with pytest.raises(OSError, match="No space"):
        peers.set(underlay.told("192.0.2.9", {}))
    assert peers.get() == Peers(tmp_path).get() == TOLD
