"""hotnic taken off a node: what is in the way, what goes and stays. Detaching: e2e/tests/test_installation.py."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from agent import __main__ as agent
from agent import install, uninstall, uninstaller
from agent.journal import Journal
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Pod, PodUID, Record
from agent.uninstall import Seen

NATIVE = json.dumps({"cniVersion": "1.1.0", "name": "blue", "plugins": [{"type": "hotnic", "device": "bridge"}]})
OTHER = json.dumps({"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "ptp"}]})
RECORD = Record(
    Key(ContainerID("c" * 64), "net1"), Origin.ANNOTATION, Phase.ATTACHED, "shop/blue", "{}", NATIVE,
    Namespace("/run/netns/x"), Pod(PodUID("u"), "shop", "web"),
)  # fmt: skip


class Node:
    """A node's folders, each with something of somebody else's, and hotnic in them."""

    def __init__(self, root: Path) -> None:
        self.bin, self.conf, self.cache = root / "opt/cni/bin", root / "etc/cni/net.d", root / "var/lib/cni/results"
        self.run, self.state, self.seccomp = root / "run/hotnic", root / "var/lib/hotnic", root / "kubelet/seccomp"
        self.root = root
        for folder in (self.bin, self.conf, self.cache, self.run / "tombstones", self.seccomp / "hotnic"):
            folder.mkdir(parents=True)
        (self.bin / "hotnic").write_bytes(b"\x7fELF" + install.MARK)
        (self.bin / install.name_on_its_way("hotnic", "0123456789abcdef")).write_bytes(b"half")
        (self.bin / "ptp").write_bytes(b"theirs")
        (self.seccomp / "hotnic/agent.json").write_text("{}")
        (self.seccomp / "theirs.json").write_text("{}")
        (self.run / "cni.sock").touch()
        (self.conf / "10-pods.conflist").write_text(OTHER)
        self.journal().close()

    def journal(self, *records: Record) -> Journal:
        journal = Journal(self.state)
        for record in records:
            journal.begin(record, durable=False)
        return journal

    def remember(self, config: str, netns: Path, name: str = "blue-c-net1") -> None:
        """Have a runtime's cache say that it attached something."""
        (self.cache / name).write_text(json.dumps({
            "kind": "cniCacheV1", "containerId": "c", "networkName": "blue", "ifName": "net1", "netns": str(netns),
            "config": base64.b64encode(config.encode()).decode(),
            "cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web"]],
        }))  # fmt: skip

    def arguments(self, *more: str) -> list[str]:
        return [
            *more, f"--run-dir={self.run}", f"--state-dir={self.state}", f"--cni-bin-dir={self.bin}",
            f"--cni-conf-dir={self.conf}", f"--cni-cache-dir={self.cache}", f"--seccomp-dir={self.seccomp}",
        ]  # fmt: skip

    def uninstall(self, *more: str) -> int:
        return agent._uninstall(self.arguments(*more))

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}


THEIRS = {"opt/cni/bin/ptp", "kubelet/seccomp/theirs.json", "etc/cni/net.d/10-pods.conflist"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("mode", ["--detach", "--keep"])
def test_nothing_of_ours_stays_and_nothing_of_others_goes_and_once_more_is_fine(node, mode):
    assert node.uninstall(mode) == 0
    assert node.files() == THEIRS
    assert not any(path.exists() for path in (node.run, node.state, node.seccomp / "hotnic"))
    assert node.uninstall(mode) == 0
    assert not node.state.exists()


def test_kept_the_state_stays_while_it_says_how_anything_is_taken_down(node, capsys):
    node.journal(RECORD).close()
    assert node.uninstall("--keep") == 0
    assert f"{node.state} stays: it says how 1 attachments of 1 pods are taken down" in capsys.readouterr().out
    assert not (node.bin / "hotnic").exists()
    assert not node.run.exists()
    journal = node.journal()
    assert [one.key for one in journal.records()] == [RECORD.key]
    journal.remove(RECORD.key)
    journal.close()
    assert node.uninstall("--keep") == 0
    assert not node.state.exists()


def test_somebody_elses_executable_stays(node):
    (node.bin / "hotnic").write_bytes(b"theirs")
    assert node.uninstall("--detach") == 0
    assert node.files() == THEIRS | {"opt/cni/bin/hotnic"}


def test_what_others_still_need_is_in_the_way_and_nothing_is_changed(node, capsys, tmp_path):
    (node.conf / "05-ours.conflist").write_text(NATIVE)
    node.remember(NATIVE, tmp_path)
    node.remember(OTHER, tmp_path, "pods-c-eth0")
    node.remember(NATIVE, tmp_path / "ended", "blue-d-net1")
    before = node.files()
    assert node.uninstall("--detach") == node.uninstall("--keep") == 1
    assert node.uninstall("--detach", "--check") == 1
    told = capsys.readouterr().err.splitlines()
    assert told[: len(told) // 3] == told[len(told) // 3 * 2 :]
    assert told[: len(told) // 3] == [
        f"hotnic-agent uninstall: {node.conf}/05-ours.conflist names hotnic: pods could not start; take it out first",
        "hotnic-agent uninstall: net1 of pod shop/web was attached by a runtime, which calls hotnic when it ends:"
        " recreate the pod first",
    ]
    assert node.files() == before
    assert node.uninstall("--detach", "--force") == 0
    assert not (node.bin / "hotnic").exists()


def test_while_an_agent_runs_nothing_is_changed_but_it_says_what_would_be_in_the_way(node, capsys, monkeypatch):
    monkeypatch.setattr(uninstaller, "PATIENCE_S", 0.01)
    journal, before = node.journal(RECORD), node.files()
    try:
        assert node.uninstall("--detach") == 1
        assert "in use by another agent: end it first" in capsys.readouterr().err
        assert node.uninstall("--detach", "--check") == 0
        (node.state / "damaged/x").touch()
        assert node.uninstall("--detach", "--check") == 1
        assert f"{node.state}/damaged/x is damaged" in capsys.readouterr().err
        assert node.files() == before | {"var/lib/hotnic/damaged/x"}
    finally:
        journal.close()


def test_every_file_that_names_it_is_in_the_way_whatever_its_network_and_whoever_can_read_it(node, capsys):
    second = json.dumps({"cniVersion": "1.1.0", "name": "pods", "type": "hotnic", "device": "veth"})
    (node.conf / "20-second.conf").write_text(second)  # of a name that another file has
    (node.conf / "30-odd.conflist").write_text('{"plugins": [{"type": "hotnic"}, ')
    (node.conf / "40-odd.conflist").write_text("{")
    (node.conf / "50-gone.conf").symlink_to(node.conf / "nowhere")
    before = node.files()
    assert node.uninstall("--keep") == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"hotnic-agent uninstall: {node.conf}/").partition(":")[0] for line in told] == [
        "20-second.conf names hotnic",
        "30-odd.conflist names hotnic",
        "50-gone.conf cannot be read, and may be of a pod or a network that needs hotnic",
    ]
    assert node.files() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another root directory")
def test_links_among_the_networks_lead_to_where_they_lead_on_the_node(node, capsys):
    (node.root / "etc/theirs.conflist").write_text(NATIVE)
    (node.conf / "05-ours.conflist").symlink_to("/etc/theirs.conflist")
    inside = [f"--host-root={node.root}", "--cni-conf-dir=/etc/cni/net.d", "--cni-bin-dir=/opt/cni/bin"]
    assert agent._uninstall([*node.arguments("--keep", "--check"), *inside]) == 1
    assert "uninstall: /etc/cni/net.d/05-ours.conflist names hotnic" in capsys.readouterr().err


def test_a_directory_of_another_kind_keeps_what_is_not_hotnics(node, capsys):
    """As with `--run-dir=/run`."""
    (node.run / "theirs").mkdir()
    (node.run / "theirs/file").touch()
    (node.state / "notes").touch()
    (node.state / "underlay.json.7.tmp").touch()  # of an agent that was killed
    assert node.uninstall("--detach") == 0
    assert node.files() == THEIRS | {"run/hotnic/theirs/file", "var/lib/hotnic/notes"}
    said = capsys.readouterr().out
    assert f"{node.run} stays: theirs in it is not hotnic's" in said
    assert f"{node.state} stays: notes in it is not hotnic's" in said


def test_what_cannot_be_read_is_no_reason_to_go_on(node, capsys):
    (node.cache / "half").write_text("{")
    before = node.files()
    assert node.uninstall("--detach") == 1
    assert f"{node.cache / 'half'} cannot be read" in capsys.readouterr().err
    assert node.files() == before


def test_a_newer_agents_state_is_left_to_it(node, capsys):
    (node.state / "format").write_text("99\n")
    before = node.files()
    assert node.uninstall("--detach") == 2
    assert "99" in capsys.readouterr().err
    assert node.files() == before


@pytest.mark.parametrize(
    ("seen", "keep", "words"),
    [
        (Seen(), False, []),
        (Seen(records=(RECORD,)), False, []),
        (
            Seen(records=(replace(RECORD, guest={"port": "rp1"}),)),
            False,
            ["net1 of pod shop/web is in a virtual machine"],
        ),
        (Seen(records=(replace(RECORD, guest={"port": "rp1"}),)), True, []),
        (
            Seen(damaged=(Path("/d/1"), Path("/d/2"))),
            False,
            ["/d/1 is damaged, and tells of an attachment", "/d/2 is damaged"],
        ),
        (Seen(damaged=(Path("/d/1"),)), True, []),
        (Seen(standalone=3), True, ["3 attachments are of callers without Kubernetes"]),
        (Seen(chains=(Path("/n/1.conf"),)), True, ["/n/1.conf names hotnic"]),
    ],
)
def test_what_is_in_the_way(seen, keep, words):
    found = uninstall.obstacles(seen, keep=keep)
    assert len(found) == len(words)
    assert all(one.startswith(word) for one, word in zip(found, words, strict=True))


def test_the_last_attachment_is_detached_first():
    records = [replace(RECORD, sequence=number) for number in (2, 3, 1)]
    assert [one.sequence for one in uninstall.in_order(records)] == [3, 2, 1]


def test_in_a_pod_it_says_what_is_in_the_way_goes_on_when_that_is_gone_and_stays(node):
    (node.conf / "05-ours.conflist").write_text(NATIVE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    arguments = node.arguments("--keep", "--stay", f"--metrics-address={address}")
    code = "from agent import uninstaller, __main__\nuninstaller.AGAIN_S = 0.1\nimport sys\nsys.exit(__main__.main())"
    with subprocess.Popen([sys.executable, "-c", code, "uninstall", *arguments]) as running:
        try:
            until(lambda: "05-ours.conflist names hotnic" in ready(running, address))
            (node.conf / "05-ours.conflist").unlink()
            until(lambda: ready(running, address) == "ok\n")
            assert node.files() == THEIRS
            os.kill(running.pid, signal.SIGTERM)
            assert running.wait(60) == 0
        finally:
            running.kill()


def ready(running: subprocess.Popen[bytes], address: str) -> str:
    """Return what its readiness says, "" while it does not answer."""
    assert running.poll() is None
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.read().decode()
    except OSError:
        return ""


def until(holds) -> None:
    ends = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)
