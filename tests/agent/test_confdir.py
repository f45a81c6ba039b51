"""On-disk configurations, found by the name inside them."""

import logging
from pathlib import Path

import pytest

from agent import confdir
from cni import errors


def put(directory: Path, name: str, text: str) -> str:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    return text


def test_the_name_inside_the_file_counts(tmp_path):
    put(tmp_path, "blue.conf", '{"name": "red", "type": "a"}')
    text = put(tmp_path, "10-other.conf", '{"name": "blue", "type": "b"}')
    assert confdir.find([tmp_path], "blue") == text


def test_a_list_in_any_directory_comes_before_a_single_configuration(tmp_path):
    put(tmp_path / "a", "1.conf", '{"name": "n", "type": "single"}')
    text = put(tmp_path / "b", "2.conflist", '{"name": "n", "plugins": [{"type": "list"}]}')
    assert confdir.find([tmp_path / "a", tmp_path / "b"], "n") == text


def test_the_first_file_in_lexical_order_of_the_first_directory_wins(tmp_path):
    put(tmp_path / "a", "20.conf", '{"name": "n", "type": "second"}')
    text = put(tmp_path / "a", "10.json", '{"name": "n", "type": "first"}')
    put(tmp_path / "b", "00.conf", '{"name": "n", "type": "elsewhere"}')
    assert confdir.find([tmp_path / "a", tmp_path / "b"], "n") == text


def test_files_that_cannot_be_read_are_skipped_with_a_warning(tmp_path, caplog):
    put(tmp_path, "1.conf", "{ damaged")
    (tmp_path / "2.conf").write_bytes(b"\xff\xfe")
    (tmp_path / "3.conf").mkdir()
    (tmp_path / "4.conf").symlink_to(tmp_path / "nowhere")
    put(tmp_path, "5.conf", "[]")
    put(tmp_path, "6.conf", '{"name": 5}')
    text = put(tmp_path, "9.conf", '{"name": "n", "type": "a"}')
    with caplog.at_level(logging.WARNING):
        assert confdir.find([tmp_path], "n") == text
    assert [number for number in "123456" if f"/{number}.conf" in caplog.text] == ["1", "2", "3", "4"]


def test_other_files_are_not_looked_at(tmp_path, caplog):
    put(tmp_path, "1.conf.bak", '{"name": "n"}')
    put(tmp_path, "README", "text")
    with pytest.raises(errors.CNIError):
        confdir.find([tmp_path], "n")
    assert not caplog.text


def test_a_name_that_is_nowhere_is_told_with_the_places(tmp_path):
    with pytest.raises(errors.CNIError) as caught:
        confdir.find([tmp_path, tmp_path / "missing"], "n")
    assert caught.value.code == errors.Code.INVALID_CONFIG
    assert str(caught.value) == (f"no network configuration is named 'n': looked in {tmp_path}, {tmp_path / 'missing'}")
    with pytest.raises(errors.CNIError, match="no directory at all"):
        confdir.find([], "n")
