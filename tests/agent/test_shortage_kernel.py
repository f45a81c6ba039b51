"""A node that is short of something: its disk is full or read-only, the agent has no descriptor left. The real agent,
in a mount namespace of its own, and the real executable.

What cannot be had is told in the system's own words; what was begun is undone, what can be taken down is; and with room
again all goes on by itself, with nothing left over.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from agent.api import agent_pb2 as api
from agent.api import agent_pb2_grpc
from tests.agent.native import link
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("tap"), pytest.mark.usefixtures("node_netns")]

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 60.0
CONFIG = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "bridge", "bridge": "br0"}
# nothing of it is on the node: what a DEL leaves in the pod stays there
TAP = {"cniVersion": "1.1.0", "name": "red", "type": "hotnic", "device": "tap"}
WITH_ADDRESS = {**TAP, "ipam": {"type": "stub"}}
POD = {"K8S_POD_NAMESPACE": "ns", "K8S_POD_NAME": "p", "K8S_POD_UID": "uid-1"}
PLUGIN = """#!/bin/sh
echo "$CNI_COMMAND $CNI_IFNAME" >> {log}
test "$CNI_COMMAND" != ADD || echo '{{"cniVersion": "1.1.0", "ips": [{{"address": "10.9.0.5/24"}}]}}'
"""


@pytest.fixture(scope="session")
def executable(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("bin") / "hotnic"
    subprocess.run([sys.executable, "-m", "cni.build", str(target)], cwd=ROOT, check=True)
    return target


class Node:
    """An agent whose state directory is a small disk of its own."""

    def __init__(self, folder: Path, executable: Path, pod_netns: str) -> None:
        self.executable, self.pod_netns, self.container = executable, pod_netns, "c1"
        self.run, self.disk, self.log, self.leases = (folder / name for name in ("run", "disk", "log", "leases"))
        plugins = folder / "plugins"
        for path in (self.run, self.disk, plugins):
            path.mkdir()
        self.leases.touch()
        (plugins / "stub").write_text(PLUGIN.format(log=self.leases))
        (plugins / "stub").chmod(0o755)
        script = 'mount -t tmpfs -o size=256k,mode=700 none "$0" && exec "$@"'
        agent = [sys.executable, "-m", "agent", "--run-dir", self.run, "--state-dir", self.disk, "--cri", ""]
        agent += ["--cni-bin-dir", plugins, "--cni-conf-dir", folder, "--cni-cache-dir", folder]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "sh", "-c", script, self.disk, *agent],
                cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        self.await_that(lambda: (self.run / "agent.sock").exists() and (self.run / "cni.sock").exists())
        self.seen_disk = Path(f"/proc/{self.process.pid}/root{self.disk}")

    def await_that(self, holds: Callable[[], object]) -> None:
        ends = time.monotonic() + PATIENCE_S
        while not holds():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < ends, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def begin(self, command: str, ifname: str, config: object = CONFIG) -> subprocess.Popen[str]:
        environ = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": self.container, "CNI_IFNAME": ifname,
            "CNI_NETNS": self.pod_netns, "CNI_PATH": "/none",
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in POD.items()),
        }  # fmt: skip
        text = json.dumps({**config, "runDir": str(self.run)})
        call = subprocess.Popen(
            [self.executable], env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert call.stdin is not None
        call.stdin.write(text)
        call.stdin.close()
        return call

    def end(self, call: subprocess.Popen[str]) -> tuple[int, str]:
        assert call.stdout is not None
        told = call.stdout.read()
        call.stdout.close()
        return call.wait(PATIENCE_S), told

    def call(self, command: str, ifname: str, config: object = CONFIG) -> tuple[int, str]:
        return self.end(self.begin(command, ifname, config))

    def works(self, command: str, ifname: str, config: object = CONFIG) -> None:
        code, told = self.call(command, ifname, config)
        assert code == 0, f"{command} {ifname}: {told}\n{self.said()}"

    def refused(self, command: str, ifname: str, words: str) -> None:
        """With code 11, to be tried again, and the system's own words."""
        code, told = self.call(command, ifname)
        assert code == 1
        document = json.loads(told)
        assert document["code"] == 11, document
        assert words in f"{document['msg']} {document.get('details')}"

    def has(self, ifname: str) -> bool:
        return link(ifname, netns=self.pod_netns) is not None

    def records(self) -> set[str]:
        paths = (self.seen_disk / "records").iterdir()
        return {json.loads(path.read_bytes())["ifname"] for path in paths}

    def tombstones(self) -> list[Path]:
        return list((self.run / "tombstones").iterdir())

    def leased(self) -> set[str]:
        """The interfaces that addresses were given for, and not taken back from."""
        held: set[str] = set()
        for line in self.leases.read_text().splitlines():
            command, ifname = line.split()
            (held.add if command == "ADD" else held.discard)(ifname)
        return held

    def mount(self, *arguments: str) -> None:
        subprocess.run(["nsenter", "-t", str(self.process.pid), "-m", *arguments], check=True)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in self.said(), self.said()


@pytest.fixture
def node(tmp_path, executable, pod_netns) -> Iterator[Node]:
    started = Node(tmp_path, executable, pod_netns)
    try:
        yield started
        started.stop()
    finally:
        started.process.kill()
        started.process.wait()


@pytest.fixture
def controller(node) -> Iterator[agent_pb2_grpc.AgentStub]:
    with grpc.insecure_channel(f"unix://{node.run}/agent.sock") as channel:
        yield agent_pb2_grpc.AgentStub(channel)


def wish(controller, *interfaces: str, revision: str = "r1") -> None:
    pod = api.Pod(uid=POD["K8S_POD_UID"], namespace="ns", name="p")
    elements = [json.dumps({"name": "blue", "namespace": "ns", "interface": name}) for name in interfaces]
    attachments = [api.Attachment(element=one, config=json.dumps(CONFIG), nad_uid="n") for one in elements]
    controller.Apply(api.ApplyRequest(pod=pod, revision=revision, attachments=attachments), timeout=PATIENCE_S)


def outcome(controller):
    (told,) = controller.List(api.ListRequest(), timeout=PATIENCE_S).outcomes or (api.Outcome(),)
    return told


def fill(folder: Path) -> None:
    """Until not one byte more goes in."""
    with (folder / "filler").open("ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_full_disk(node, controller):
    for name in ("net0", "net5"):
        node.works("ADD", name)
    fill(node.seen_disk)

    node.refused("ADD", "net2", "No space left on device")
    assert not node.has("net2")
    assert node.records() == {"net0", "net5"}

    wish(controller, "net1")
    node.await_that(lambda: any("No space left" in one.message for one in outcome(controller).attachments))
    (pending,) = outcome(controller).attachments
    assert (pending.state, pending.reason) == (api.PENDING, "NodeError")
    assert not node.has("net1")

    node.works("DEL", "net5")
    assert not node.has("net5")
    assert node.records() == {"net0"}

    (node.seen_disk / "filler").unlink()
    node.await_that(lambda: [one.state for one in outcome(controller).attachments] == [api.ATTACHED])
    assert node.has("net1")
    assert len(list((node.seen_disk / "pods").iterdir())) == 1, "the wish that the disk did not take is there by now"
    node.works("ADD", "net2")

    fill(node.seen_disk)  # what takes away must go, though the wish cannot be written
    wish(controller, revision="r2")
    node.await_that(lambda: not node.has("net1"))
    node.works("DEL", "net2")
    node.works("DEL", "net0")
    assert node.records() == set()


def test_a_read_only_disk(node, controller):
    node.works("ADD", "net0")
    node.works("ADD", "net5")
    node.mount("mount", "--bind", str(node.disk), str(node.disk))
    node.mount("mount", "-o", "remount,bind,ro", str(node.disk))

    node.refused("ADD", "net2", "Read-only file system")
    assert not node.has("net2")
    wish(controller, "net1")
    node.await_that(lambda: any("Read-only" in one.message for one in outcome(controller).attachments))
    assert outcome(controller).attachments[0].reason == "NodeError"
    node.works("DEL", "net5")
    assert not node.has("net5")
    node.works("DEL", "net5")

    node.mount("umount", str(node.disk))
    node.await_that(lambda: [one.state for one in outcome(controller).attachments] == [api.ATTACHED])
    node.await_that(lambda: node.records() == {"net0", "net1"})
    node.works("ADD", "net5")
    assert node.records() == {"net0", "net1", "net5"}


@contextmanager
def descriptors(node, spare: int) -> Iterator[None]:
    """The agent can open so many more."""
    before = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{node.process.pid}/fd")}
    limit = next(number for number in range(4096) if number - len([one for one in taken if one < number]) == spare)
    resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_calls_wait_and_are_served_later(node, controller):
    node.works("ADD", "net0")
    with descriptors(node, 0):
        node.refused("ADD", "net2", "")  # the next one to be accepted has its descriptor already, but none for the rest
        call = node.begin("ADD", "net1")
        node.await_that(lambda: "Too many open files" in node.said())
        assert call.poll() is None
    code, told = node.end(call)
    assert code == 0, told
    assert node.has("net1")
    wish(controller, "net5")
    node.await_that(lambda: [one.state for one in outcome(controller).attachments] == [api.ATTACHED])


def test_with_too_few_descriptors_nothing_is_left_and_nothing_forgotten(node):
    """However far an ADD or a DEL comes, until it has what it needs. A DEL without an answer is kept, and replayed."""
    node.works("ADD", "net0", WITH_ADDRESS)
    node.works("DEL", "net0", WITH_ADDRESS)
    served = {"ADD": 0, "DEL": 0}
    for spare in range(1, 16):
        node.container = f"c{spare}"  # a DEL that is replayed late is not for the next one
        with descriptors(node, spare):
            code, told = node.call("ADD", "net1", WITH_ADDRESS)
        if code:
            assert json.loads(told)["code"] in (5, 11), told
            assert node.records() or not (node.has("net1") or node.leased()), told
            node.works("DEL", "net1", WITH_ADDRESS)
        else:
            assert node.has("net1")
            served["ADD"] += 1
            node.works("DEL", "net1", WITH_ADDRESS)
        for name, config in (("net3", WITH_ADDRESS), ("net4", TAP)):
            node.works("ADD", name, config)
            with descriptors(node, spare):
                code, told = node.call("DEL", name, config)
            assert not code or json.loads(told)["code"] in (5, 11), told
            assert node.records() or not (node.has(name) or node.leased()), f"{spare}: {told}"
            served["DEL"] += not code and not node.tombstones()
            node.await_that(lambda: not node.tombstones())
            node.works("DEL", name, config)
        left = (*map(node.has, ("net1", "net3", "net4")), node.records(), node.leased())
        assert left == (False, False, False, set(), set()), f"{spare}: {node.said()}"
    assert 0 < served["ADD"] < 15, f"the shortage was none, or did not end: {served}"
    assert 0 < served["DEL"] < 30, f"the shortage was none, or did not end: {served}"
