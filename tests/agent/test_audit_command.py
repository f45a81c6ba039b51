"""`hotnic-agent audit` as the doctor and the documents name it: it looks where the agent beside it looks."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __main__ as agent_main
from agent.audit import command
from agent.audit.look import Node

AGENT = (
    "python", "-I", "/usr/bin/hotnic-agent", "--host-root=/host", "--cri", "unix:///host/run/crio/crio.sock",
    "--cni-bin-dir", "/usr/libexec/cni", "/opt/cni/bin", "--policy=/nowhere", "--controller-group=65532",
)  # fmt: skip


@pytest.fixture
def run_dir(monkeypatch) -> Iterator[Path]:
    """An agent serves there. Its process is that of the tests, whose command line stands for the agent's."""
    read, own = Path.read_bytes, f"/proc/{os.getpid()}/cmdline"
    line = "\0".join([*AGENT, ""]).encode()
    monkeypatch.setattr(Path, "read_bytes", lambda path: line if str(path) == own else read(path))
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as serving:
        serving.bind(f"{folder}/agent.sock")
        serving.listen()
        yield Path(folder)


@pytest.fixture
def asked(monkeypatch) -> list:
    found = []
    monkeypatch.setattr(command, "run", lambda arguments: found.append(arguments) or 0)
    return found


def test_places_are_those_of_the_agent_that_serves(run_dir, asked):
    assert agent_main._audit([f"--run-dir={run_dir}"]) == 0
    assert asked[0].host_root == Path("/host")
    assert asked[0].cri == "unix:///host/run/crio/crio.sock"
    assert asked[0].cni_bin_dir == [Path("/usr/libexec/cni"), Path("/opt/cni/bin")]
    assert (asked[0].repair, asked[0].run_dir) == (False, run_dir)


def test_what_is_named_counts_more(run_dir, asked):
    assert agent_main._audit([f"--run-dir={run_dir}", "--cri=unix:///other", "--repair"]) == 0
    assert (asked[0].cri, asked[0].host_root, asked[0].repair) == ("unix:///other", Path("/host"), True)


def test_where_no_agent_serves_places_are_the_usual_ones(tmp_path, asked):
    assert agent_main._audit([f"--run-dir={tmp_path}"]) == 0
    assert (asked[0].cri, asked[0].host_root) == ("unix:///run/containerd/containerd.sock", None)


def test_what_a_record_lacks_is_said_in_words(tmp_path):
    journal = tmp_path / "records"
    journal.mkdir()
    (journal / "x.json").write_text('{"key": ["c1", "net1"]}')
    node = Node(None, None, None, tmp_path, tmp_path, (), ())
    assert list(node._records(tmp_path)) == []
    assert len(node.blind) == 1
    assert node.blind[0].startswith(f"journal {journal}/x.json: it has no '")
