"""libcni's result cache, as libcni writes it."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from agent import cache

CONFIG = '{"cniVersion": "1.0.0", "name": "my-net", "type": "bridge"}'
DOCUMENT = {
    "kind": "cniCacheV1",
    "containerId": "c1",
    "config": base64.b64encode(CONFIG.encode()).decode(),
    "ifName": "net1",
    "networkName": "my-net",
    "netns": "/var/run/netns/cni-1",
    "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "p"]],
    "capabilityArgs": {"mac": "02:00:00:00:00:01"},
    "result": {"cniVersion": "1.0.0", "interfaces": [{"name": "net1"}]},
}


def put(directory: Path, name: str = "my-net-c1-net1", **changes: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    document = {key: value for key, value in (DOCUMENT | changes).items() if value is not ...}
    (directory / name).write_text(json.dumps(document))
    return directory / name


def test_an_attachment_is_read_with_all_that_its_del_needs(tmp_path):
    path = put(tmp_path)
    assert cache.read([tmp_path], "c1") == (
        cache.Cached(
            container_id="c1",
            network="my-net",
            ifname="net1",
            netns="/var/run/netns/cni-1",
            config_text=CONFIG,
            cni_args=(("IgnoreUnknown", "1"), ("K8S_POD_NAME", "p")),
            capability_args={"mac": "02:00:00:00:00:01"},
            result={"cniVersion": "1.0.0", "interfaces": [{"name": "net1"}]},
            path=path,
        ),
    )


def test_what_libcni_leaves_out_is_empty(tmp_path):
    put(tmp_path, netns=..., cniArgs=..., capabilityArgs=..., result=...)
    (found,) = cache.read([tmp_path], "c1")
    assert (found.netns, found.cni_args, found.capability_args, found.result) == ("", (), {}, {})


def test_only_the_containers_own_files_are_returned_from_all_directories(tmp_path):
    put(tmp_path / "a")
    put(tmp_path / "a", "my-net-c2-net1", containerId="c2")
    put(tmp_path / "a", "x-c1-net-c3-net1", containerId="c3", networkName="x-c1-net")
    put(tmp_path / "b", "other-c1-net2", ifName="net2", networkName="other")
    found = cache.read([tmp_path / "a", tmp_path / "missing", tmp_path / "b"], "c1")
    assert [(one.network, one.ifname) for one in found] == [("my-net", "net1"), ("other", "net2")]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "cniCacheV2"},
        {"kind": ...},
        {"containerId": ...},
        {"containerId": 5},
        {"ifName": ""},
        {"networkName": ...},
        {"config": "not base64"},
        {"config": base64.b64encode(b"\xff").decode()},
        {"config": ...},
        {"cniArgs": [["K"]]},
        {"cniArgs": "K=V"},
        {"cniArgs": 5},
        {"netns": 5},
        {"result": []},
        {"result": [1]},
        {"capabilityArgs": "x"},
    ],
)
def test_a_damaged_file_is_skipped_with_a_warning_and_hides_no_other(tmp_path, caplog, changes):
    path = put(tmp_path, "bad-c1-net1", **changes)
    put(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(cache.read([tmp_path], "c1")) == 1
    assert str(path) in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"kind": "cniCacheV1"'])
def test_a_file_that_is_half_written_is_skipped_with_a_warning(tmp_path, caplog, content):
    (tmp_path / "bad-c1-net1").write_bytes(content)
    put(tmp_path)
    assert len(cache.read([tmp_path], "c1")) == 1
    assert "bad-c1-net1" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"kind": ...}, "it has no 'kind'"),
        ({"kind": "other"}, "kind is 'other', not cniCacheV1"),
        ({"ifName": 7}, "ifName must be a string that is not empty"),
        ({"config": "&"}, "config is no text in base64"),
        ({"config": "/w=="}, "config is no text in base64"),
        ({"cniArgs": [["K", "v", "w"]]}, "cniArgs must be a list of pairs"),
        ({"cniArgs": {"K": "v"}}, "cniArgs must be a list of pairs"),
        ({"capabilityArgs": [1]}, "capabilityArgs must be an object"),
        (b"[]", "it is no JSON object"),
        (b"half", "it is no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "it is no JSON: "),
    ],
)
def test_why_a_file_cannot_be_read_is_said_in_words(tmp_path, caplog, content, said):
    path = put(tmp_path, **(content if isinstance(content, dict) else {}))
    if isinstance(content, bytes):
        path.write_bytes(content)
    found, unreadable = cache.survey([tmp_path])
    assert (found, unreadable[path].startswith(said)) == ((), True), unreadable
    assert cache.read([tmp_path], "c1") == ()
    assert f"{path} is skipped: {unreadable[path]}" in caplog.text


def test_what_is_no_file_is_skipped(tmp_path, caplog):
    (tmp_path / "dir-c1-net1").mkdir()
    (tmp_path / "gone-c1-net1").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert cache.read([tmp_path, tmp_path / "file"], "c1") == ()
    assert "dir-c1-net1" in caplog.text
    assert "gone-c1-net1" not in caplog.text  # as if its DEL came between listing and reading
