"""The doctor on a node: what it says of the kernel is what the kernel does, and a look changes nothing.

The node is a folder (`--host-root`) with a network namespace of its own; the executable, the container runtime's socket
and the agent's are real.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import __main__ as agent_main
from agent import delegate, formats, grpc_server
from agent.doctor import command, cover, kernel
from agent.journal import Journal
from agent.outcomes import Outcomes
from e2e.product import REPOSITORY
from tests import kernel_features
from tests.agent import test_cri, test_journal
from tests.agent.native import ip
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

# what the doctor calls it, what tests try it by (tests/kernel_features.py)
TRIED = {
    **{kind: kind for kind in ("macvlan", "ipvlan", "vlan", "dummy", "vxlan", "ifb")},
    kernel.TBF: "tbf", kernel.BRIDGE_VLANS: "bridge_vlan", kernel.TAP: "tap",
}  # fmt: skip


@functools.cache
def features() -> dict[str, str]:
    return dict(kernel.features(str))


@pytest.mark.parametrize("name", TRIED)
def test_the_kernel_is_said_to_have_what_it_can_make_and_nothing_else(name):
    assert (features()[name] == "") is (kernel_features.missing(TRIED[name]) == "")


@pytest.mark.parametrize("name", [pytest.param(one, marks=needs(TRIED[one])) for one in TRIED])
def test_what_a_whole_kernel_has_is_found_there(name):
    """Also where its module waits to be loaded."""
    assert features()[name] == ""


def test_the_links_that_this_suite_makes_everywhere_are_there():
    assert (features()["veth"], features()["bridge"]) == ("", "")


def test_a_kind_that_no_kernel_has_is_missing(monkeypatch):
    monkeypatch.setattr(kernel, "LINKS", ("hotnic-none",))
    monkeypatch.setattr(kernel, "TBF", "none")
    found = kernel.features(str)
    assert (found["hotnic-none"], found["none"]) == (kernel.NONE, kernel.NONE)


def test_a_look_makes_nothing_on_the_node():
    before = ip("link")
    kernel.features(str)
    assert ip("link") == before


def test_a_module_that_waits_to_be_loaded_is_not_loaded_for_the_question(monkeypatch, tmp_path):
    """ifb would bring two links of its own."""
    asked = []
    monkeypatch.setattr(kernel, "_ask_for_link", lambda node, kind: asked.append(kind))
    folder = tmp_path / "lib/modules" / kernel.os.uname().release
    folder.mkdir(parents=True)
    folder.joinpath("modules.dep").write_text(
        "kernel/drivers/net/ifb.ko.xz:\nkernel/net/8021q/8021q.ko: kernel/net/802/mrp.ko\n"
        "kernel/net/sched/sch-tbf.ko.zst:\n"
    )
    monkeypatch.setattr(kernel.os, "listdir", lambda path: ["dummy"])
    found = kernel.features(lambda path: f"{tmp_path}{path}")
    assert (found["ifb"], found["vlan"], found["tbf"]) == ("", "", "")
    assert set(asked) == set(kernel.LINKS) - {"ifb", "vlan"}


class Engine:
    """Of an agent that is only asked how it is."""


class Site:
    """The node, and the command on it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.root, self._monkeypatch, self._capsys = root, monkeypatch, capsys
        for folder in (
            "run/netns",
            "run/hotnic",
            "opt/cni/bin",
            "etc/cni/net.d",
            "etc/hotnic",
            "proc/1",
            "var/lib/cni",
        ):
            (root / folder).mkdir(parents=True)
        Journal(self.state).close()
        (root / "etc/hotnic/policy.yaml").write_text('rules: [{namespaces: ["*"]}]')
        (root / "etc/cni/net.d/10-lane.conflist").write_text('{"name": "lane", "plugins": [{"type": "hotnic"}]}')
        shutil.copy(REPOSITORY / "bin/hotnic", self.executable)

    @property
    def state(self) -> Path:
        return self.root / "var/lib/hotnic"

    @property
    def executable(self) -> Path:
        return self.root / "opt/cni/bin/hotnic"

    def doctor(self, *arguments: str) -> tuple[int, dict[str, list[tuple[str, str, str]]]]:
        """Return the exit status, and by topic: status, what was found, what to do."""
        status, out = self.run("--json", *arguments)
        found: dict[str, list[tuple[str, str, str]]] = {}
        for one in map(json.loads, out.splitlines()):
            found.setdefault(one["topic"], []).append((one["status"], one["found"], one["todo"]))
        return status, found

    def run(self, *arguments: str) -> tuple[int, str]:
        places = {
            "--host-root": self.root,
            "--cri": f"unix://{self.root}/cri",
            "--state-dir": self.state,
            "--run-dir": self.root / "run/hotnic",
            "--policy": self.root / "etc/hotnic/policy.yaml",
            "--executable": REPOSITORY / "bin/hotnic",
        }
        words = [str(word) for pair in places.items() for word in pair]
        self._monkeypatch.setattr(sys, "argv", ["hotnic-agent", "doctor", *words, *arguments])
        self._capsys.readouterr()
        return agent_main.main(), self._capsys.readouterr().out

    def files(self) -> dict[str, tuple[int, bytes]]:
        paths = (path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:  # not tmp_path: a Unix socket's path has 107 bytes
        yield Site(Path(folder), monkeypatch, capsys)


@pytest.fixture
def service(site: Site) -> Iterator[test_cri.Service]:
    service = test_cri.Service()
    server = test_cri.serve(service, f"unix://{site.root}/cri")
    yield service
    server.stop(0).wait()


@pytest.fixture
def agent(site: Site) -> Iterator[list[str]]:
    """Answers Health; what it waits for is in the list."""
    waiting: list[str] = []
    servicer = grpc_server.Servicer(Engine(), Outcomes(), print, lambda: tuple(waiting), agent_main.version())
    server = grpc_server.serve(servicer, site.root / "run/hotnic")
    yield waiting
    server.stop(0).wait()


def test_a_node_that_has_all_is_said_to_and_a_look_changes_no_file_and_no_link(site, service, agent):
    service.containers = [test_cri.container("virt-handler", "kubevirt/virt-handler-1", "sha256:1")]
    service.tags = {"sha256:1": ["quay.io/kubevirt/virt-handler:v1.7.0"]}
    before, links = site.files(), ip("link")
    _, found = site.doctor()
    assert (site.files(), ip("link")) == (before, links)
    assert found["container runtime"] == [("ok", f"containerd 1.6.20 answers at unix://{site.root}/cri", "")]
    assert found["KubeVirt"][0][1].startswith("kubevirt/virt-handler-1 runs quay.io/kubevirt/virt-handler:v1.7.0")
    assert found["CNI chain"][0][0] == "ok"
    assert found["CNI executable"][0] == ("ok", "/opt/cni/bin/hotnic answers VERSION, and is of this version", "")
    assert found["agent"] == [("ok", f"{agent_main.version()} answers at {site.root}/run/hotnic/agent.sock", "")]
    assert found["state directory"] == [("ok", f"{site.state}: format {formats.CURRENT}, 0 attachments", "")]
    assert [one[0] for one in found["policy"]] == ["ok"]
    # the executable itself looks for the agent's other socket, which nobody serves here
    assert found["CNI executable"][1][0] == "fail"
    assert "cannot connect to /run/hotnic/cni.sock" in found["CNI executable"][1][1]


def test_each_thing_that_is_broken_is_named(site, service, agent):
    service.error = (test_cri.grpc.StatusCode.UNAVAILABLE, "not today")
    site.executable.write_bytes(b"#!/bin/sh\n# another's\n")
    (site.root / "etc/hotnic/policy.yaml").write_text("rules: nothing")
    (site.root / "etc/cni/net.d/00-other.conflist").write_text('{"name": "x", "plugins": [{"type": "other"}]}')
    (site.state / "damaged/x.json").write_text("{")
    (site.state / "format").write_text("3\n")
    agent.append("container runtime: away")
    status, found = site.doctor()
    assert status == 1
    told = {(topic, one[0]): one[1] for topic, all_of in found.items() for one in all_of}
    assert "not today" in told["container runtime", "fail"]
    assert "not hotnic's" in told["CNI executable", "fail"]
    assert "hotnic is in /etc/cni/net.d/10-lane.conflist, which is not used" in told["CNI chain", "warn"]
    assert "not there: other" in told["CNI chain", "fail"]
    assert "rules" in told["policy", "fail"]
    assert "version '3'" in told["state directory", "fail"]
    assert "container runtime: away" in told["agent", "fail"]
    assert any("version '3'" in one[1] for one in found["leftovers"])


def test_a_node_with_nothing_at_all_is_looked_at_to_the_end(monkeypatch, capsys):
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        site = Site(Path(folder), monkeypatch, capsys)
        shutil.rmtree(site.root)
        site.root.mkdir()
        status, found = site.doctor()
        assert status == 1
        assert list(site.root.iterdir()) == []
    failed = {topic for topic, all_of in found.items() for one in all_of if one[0] == "fail"}
    assert failed == {
        "container runtime", "directory of plugins", "directory of configurations", "CNI chain", "CNI executable",
        "agent", "policy",
    }  # fmt: skip
    assert found["state directory"][0][0] == "warn"


def test_damaged_files_and_leftovers_are_counted(site, service, agent):
    journal = Journal(site.state)
    journal.begin(test_journal.RECORD, durable=False)
    journal.close()
    (site.state / "damaged/x.json").write_text("{")
    _, found = site.doctor()
    assert found["state directory"] == [
        ("warn", "files set aside as damaged: x.json", found["state directory"][0][2]),
        ("ok", f"{site.state}: format {formats.CURRENT}, 1 attachments", ""),
    ]
    assert any("damaged/x.json" in one[1] for one in found["leftovers"])


def test_an_executable_that_cannot_be_executed_is_named_with_the_reason(site, service, agent):
    site.executable.write_bytes(b"\x7fELF of another architecture, hotnic: " + (REPOSITORY / "bin/hotnic").read_bytes())
    _, found = site.doctor()
    assert found["CNI executable"][0][0] == "fail"
    assert "does not answer VERSION" in found["CNI executable"][0][1]


def test_for_people_it_prints_words_and_no_control_characters(site, service, agent):
    (site.root / "etc/cni/net.d/10-lane.conflist").write_text('{"name": "\\u001b[2J", "plugins": [{"type": "hotnic"}]}')
    status, out = site.run()
    assert status == 1
    assert "\x1b" not in out
    assert "\\x1b[2J" in out
    assert "      → " in out
    assert out.splitlines()[-1].endswith("wrong")


def test_places_are_those_of_the_agent_that_serves_unless_others_are_named(site, service, agent, monkeypatch, capsys):
    """The process that serves here is that of the tests: its command line stands for the agent's."""
    words = ["python", "-I", "/usr/bin/hotnic-agent", "--state-dir", str(site.state), "--cni-bin-dir=/opt/cni/bin",
             f"--cri=unix://{site.root}/cri", "--metrics-address", "127.0.0.1:9414", "--policy=/nowhere"]  # fmt: skip
    read = Path.read_bytes
    line = "\0".join([*words, ""]).encode()
    own = f"/proc/{os.getpid()}/cmdline"
    monkeypatch.setattr(Path, "read_bytes", lambda path: line if str(path) == own else read(path))
    said = ["--run-dir", str(site.root / "run/hotnic"), f"--policy={site.root}/etc/hotnic/policy.yaml"]
    parser = agent_main.argparse.ArgumentParser()
    agent_main._add_places(parser)
    command.add_options(parser)
    found = command.parse(parser, said)
    assert found.cri == f"unix://{site.root}/cri"
    assert found.state_dir == site.state
    assert found.cni_bin_dir == [Path("/opt/cni/bin")]
    assert found.policy == site.root / "etc/hotnic/policy.yaml"
    assert command.parse(parser, ["--run-dir", "/nowhere"]).state_dir == Path("/var/lib/hotnic")


APART = """
import sys
from pathlib import Path
from agent import grpc_server
from agent.outcomes import Outcomes
server = grpc_server.serve(grpc_server.Servicer(None, Outcomes(), print, tuple, "1"), Path(sys.argv[1]))
print("serves", flush=True)
sys.stdin.read()
server.stop(0).wait()
"""


def test_an_agent_with_mounts_of_its_own_says_nothing_of_where_things_are_for_us(site, service, mounts_of_a_pod):
    """As beside a containerised agent: what is below /host for it is not there, and our own view is not its."""
    run_dir = site.root / "run/hotnic"
    container = ["unshare", "--mount", sys.executable, "-c", APART, run_dir, "--host-root=/host", "--policy=/nowhere"]
    with subprocess.Popen(container, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout.readline() == b"serves\n"
            parser = agent_main.argparse.ArgumentParser()
            agent_main._add_places(parser)
            command.add_options(parser)
            found = command.parse(parser, ["--run-dir", str(run_dir)])
            assert (found.host_root, found.policy) == (None, None)
            _, told = site.doctor()
            assert ("warn", "the agent has mounts of its own, so its options are not taken for this look") in [
                (status, what) for status, what, _ in told["agent"]
            ]
            assert "kubelet's directory" not in told
        finally:
            running.communicate()


def test_links_lead_to_where_they_lead_on_the_node(site, service, agent):
    """k3s has links to absolute paths for plugins; a link whose target is in the container alone leads nowhere."""
    (site.root / "data").mkdir()
    site.executable.with_name("bridge").write_bytes(b"#!/bin/sh\n")
    site.executable.with_name("bridge").chmod(0o755)
    (site.root / "opt/cni/bin").rename(site.root / "data/bin")
    (site.root / "opt/cni/bin").symlink_to("/data/bin")
    (site.root / "data/bin/portmap").symlink_to("/data/bin/bridge")
    (site.root / "data/bin/host-local").symlink_to(sys.executable)
    (site.root / "etc/cni/net.d/10-lane.conflist").rename(site.root / "data/lane")
    (site.root / "etc/cni/net.d/10-lane.conflist").symlink_to("/data/lane")
    plugins = [{"type": one} for one in ("bridge", "portmap", "hotnic", "host-local")]
    (site.root / "data/lane").write_text(json.dumps({"name": "lane", "plugins": plugins}))
    _, found = site.doctor()
    assert found["directory of plugins"] == [("ok", "/opt/cni/bin is there", "")]
    assert found["CNI executable"][0] == ("ok", "/opt/cni/bin/hotnic answers VERSION, and is of this version", "")
    assert [what for status, what, _ in found["CNI chain"] if status == "fail"] == [
        "/etc/cni/net.d/10-lane.conflist names plugins that are not there: host-local"
    ]


def test_plugins_that_are_where_another_runtime_has_them_are_found_there(site, service, agent):
    """A directory that was named wrongly is made by its mount, and has hotnic in it soon."""
    (site.root / "etc/cni/net.d/10-lane.conflist").write_text('{"name": "lane", "plugins": [{"type": "flannel"}]}')
    (site.root / "usr/libexec/cni").mkdir(parents=True)
    (site.root / "data").mkdir()
    (site.root / "data/flannel").write_bytes(b"#!/bin/sh\n")
    (site.root / "data/flannel").chmod(0o755)
    (site.root / "usr/libexec/cni/flannel").symlink_to("/data/flannel")
    (site.root / "opt/nowhere").mkdir()
    for options in ((), ("--cni-bin-dir=/opt/nowhere",)):
        _, found = site.doctor(*options)
        (todo,) = [todo for status, _, todo in found["CNI chain"] if status == "fail"]
        assert "from /usr/libexec/cni, which has flannel, name that: cniBinDir" in todo


@pytest.fixture
def mounts_of_a_pod(site, monkeypatch):
    """As in the agent's container, on a node whose kubelet has another directory than the one that is covered."""
    (site.root / "k/pods/1").mkdir(parents=True)
    volume = "/k/pods/1/volumes/kubernetes.io~configmap/config"
    mounts = (cover.Mount("8:1", "/", site.root), cover.Mount("8:1", volume, Path("/etc/hotnic")))
    monkeypatch.setattr(cover, "parse", lambda _: mounts)


def test_a_kubelets_directory_that_lies_open_is_named_as_the_node_calls_it(site, service, agent, mounts_of_a_pod):
    status, found = site.doctor()
    ((_, what, todo),) = found["kubelet's directory"]
    assert (status, what.startswith("the kubelet uses /k, ")) == (1, True)
    assert "kubeletDir in settings.yaml to /k," in todo


def test_no_word_of_python_is_in_what_people_read(site, service, agent):
    """What is damaged is said in words, and what to do fits it."""
    for kind in ("records", "pods"):
        (site.state / kind / "abc.json").write_bytes(b"\xff")
    (site.root / "etc/hotnic/policy.yaml").write_bytes(b"\xff")
    (site.root / "etc/cni/net.d/00-x.conflist").write_bytes(b"\xff")
    (site.root / "etc/cni/net.d/01-x.conflist").mkdir()
    for options in ((), (f"--policy={site.root}/nowhere",)):
        _, out = site.run(*options)
        assert not re.search(r"Damaged|Error|Errno|\w\(['\"]", out), out
        assert "01-x.conflist cannot be read: Is a directory:" in out
    _, found = site.doctor()
    (one,) = [what for status, what, _ in found["state directory"] if status == "warn"]
    assert one.startswith("files that the agent cannot read: records/abc.json: ")
    assert "pods/abc.json: " in one
    assert not any(todo == "mend that, and look once more" for _, _, todo in found["leftovers"])


def test_what_is_not_ours_is_not_executed(site, service, agent, monkeypatch):
    def executed(*_: Any) -> None:
        pytest.fail("somebody else's file was executed")

    monkeypatch.setattr(delegate.Executor, "__call__", executed)
    site.executable.write_bytes(b"#!/bin/sh\n# another's\n")
    _, found = site.doctor()
    assert "is not hotnic's" in found["CNI executable"][0][1]
