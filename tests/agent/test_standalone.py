"""A call without an agent: the real executable in both forms, the real program, on the real kernel."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import standalone
from agent.journal import Journal
from cni import wire
from e2e import build

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

ROOT = Path(__file__).parent.parent.parent
CONFIG = {
    "cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "bridge", "bridge": "br0", "agent": "none",
}  # fmt: skip
POOL = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]}
ADDRESS = {"type": "static", "addresses": [{"address": "10.9.1.5/24"}]}


@pytest.fixture(scope="session")
def tools() -> Path:
    return build.tools()


@pytest.fixture(scope="session", params=["hotnic", "hotnic.py"])
def executable(request, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("bin") / request.param
    subprocess.run([sys.executable, "-m", "cni.build", str(target)], cwd=ROOT, check=True)
    return target


class Node:
    """A state directory, the program for it in a directory of PATH, and the executable."""

    def __init__(self, folder: Path, executable: Path, plugins: Path) -> None:
        self.state, self.bin, self.executable, self.plugins = folder / "state", folder / "bin", executable, plugins
        self.bin.mkdir()
        program = self.bin / "hotnic-standalone"
        program.write_text(
            f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m agent.standalone --state-dir {self.state}\n"
        )
        program.chmod(0o755)

    def environ(self, command: str, netns: str, container: str = "c1", **more: str) -> dict[str, str]:
        return {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "net1", "CNI_NETNS": netns,
            "CNI_PATH": str(self.plugins), "PATH": f"{self.bin}:/usr/bin:/bin:/usr/sbin:/sbin",
        } | more  # fmt: skip

    def call(self, command, netns, container="c1", *, env=None, **config):
        environ = self.environ(command, netns, container, **(env or {}))
        stdin = json.dumps({**CONFIG, **config}).encode()
        done = subprocess.run(self.executable, env=environ, input=stdin, capture_output=True, timeout=90, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None

    def records(self) -> list[str]:
        folder = self.state / "records"
        return sorted(os.listdir(folder)) if folder.exists() else []

    def wait_until_idle(self) -> None:
        """Until no program works on the state directory, nor waits to."""
        while any(str(self.state).encode() in command for command in commands()):
            time.sleep(0.02)


def commands():
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                yield (entry / "cmdline").read_bytes()
            except OSError:
                continue


@pytest.fixture
def node(tmp_path, executable, tools):
    return Node(tmp_path, executable, tools)


def links(netns: str = "") -> set[str]:
    prefix = ["ip", "netns", "exec", Path(netns).name] if netns else []
    run = subprocess.run([*prefix, "ip", "-json", "link"], check=True, capture_output=True, text=True)
    return {one["ifname"] for one in json.loads(run.stdout)} - {"lo"}


def addresses(netns: str) -> set[str]:
    command = ["ip", "netns", "exec", Path(netns).name, "ip", "-json", "-4", "address", "show", "net1"]
    (link,) = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {one["local"] for one in link["addr_info"]}


def test_all_verbs(node, pod_netns):
    assert node.call("STATUS", pod_netns) == (0, None)
    code, document = node.call("ADD", pod_netns)
    assert (code, document["interfaces"][2]["name"]) == (0, "net1")
    assert document["interfaces"][2]["sandbox"] == pod_netns
    (record,) = node.records()
    assert (links(pod_netns), "none" in (node.state / "records" / record).read_text()) == ({"net1"}, False)
    assert node.call("CHECK", pod_netns, prevResult=document) == (0, None)
    assert node.call("ADD", pod_netns)[1]["code"] == 7  # the name is taken
    for _ in range(2):
        assert node.call("DEL", pod_netns, prevResult=document) == (0, None)
    assert (links(pod_netns), links(), node.records()) == (set(), {"br0"}, [])


@pytest.mark.parametrize(("ipam", "address"), [(POOL, "10.9.0.2"), (ADDRESS, "10.9.1.5")])
def test_addresses_of_the_calls_plugins(node, pod_netns, tmp_path, ipam, address):
    ipam = {**ipam, "dataDir": str(tmp_path / "leases")}
    code, document = node.call("ADD", pod_netns, ipam=ipam)
    assert (code, addresses(pod_netns)) == (0, {address})
    assert node.call("CHECK", pod_netns, ipam=ipam, prevResult=document) == (0, None)
    assert node.call("DEL", "", ipam={"type": "missing"}) == (0, None)  # the record's configuration is what counts
    assert (links(), node.records()) == ({"br0"}, [])
    assert not list((tmp_path / "leases").rglob("10.*"))


def test_gc_removes_what_is_not_listed(node, pod_netns, second_pod_netns):
    node.call("ADD", pod_netns, "c1")
    node.call("ADD", second_pod_netns, "c2")
    listed = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "net1"}]}
    assert node.call("GC", "", env={"CNI_CONTAINERID": "", "CNI_IFNAME": ""}, **listed) == (0, None)
    assert (links(pod_netns), links(second_pod_netns), len(node.records())) == (set(), {"net1"}, 1)


def test_a_failed_add_leaves_nothing(node, pod_netns):
    plugin = node.bin / "refusing"
    plugin.write_text('#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho \'{"code": 110, "msg": "none left"}\'; exit 1')
    plugin.chmod(0o755)
    code, document = node.call("ADD", pod_netns, env={"CNI_PATH": str(node.bin)}, ipam={"type": "refusing"})
    assert (code, document["code"], document["cniVersion"]) == (1, 110, "1.1.0")
    assert (links(pod_netns), links(), node.records()) == (set(), set(), [])


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "STATUS"])
def test_a_pods_call_is_refused(node, pod_netns, verb):
    """A tenant's network definition must not choose who serves it."""
    args = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=tenant;K8S_POD_NAME=a"}
    code, document = node.call(verb, pod_netns, env=args)
    assert (code, document["code"], "K8S_POD_NAMESPACE" in document["msg"]) == (1, 7, True)
    assert (links(), node.state.exists()) == (set(), False)
    assert node.call("STATUS", pod_netns, env={"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=podman"}) == (0, None)


def test_a_pods_delete_has_nothing_to_do_and_succeeds(node, pod_netns):
    args = {"CNI_ARGS": "K8S_POD_NAMESPACE=tenant", "CNI_PATH": str(node.bin)}
    assert node.call("DEL", pod_netns, env=args, ipam={"type": "refusing"}) == (0, None)
    assert not node.state.exists()  # and nothing was executed that the configuration names


def test_what_needs_the_daemon_is_refused(node, pod_netns):
    code, document = node.call("ADD", pod_netns, device="networks", prevResult={"cniVersion": "1.1.0"})
    assert (code, document["code"], "networks" in document["msg"]) == (1, 7, True)


@pytest.mark.parametrize("config", [{"cniVersion": "9.9.9"}, {"name": "a b"}, {"bridge": "x" * 30}])
def test_a_wrong_configuration_is_told_as_the_agent_tells_it(node, pod_netns, config):
    code, document = node.call("ADD", pod_netns, **config)
    assert (code, document["code"]) == (1, 1 if "cniVersion" in config else 7)


def test_a_state_directory_that_cannot_be_used_is_an_error(node, pod_netns):
    node.state.write_text("a file")
    code, document = node.call("ADD", pod_netns)
    assert (code, document["code"], str(node.state) in document["msg"]) == (1, 5, True)


def test_eight_at_once_on_one_bridge(node, tmp_path):
    """Each with a namespace and an address of its own; no call fails, none leaves anything."""
    ipam = {**POOL, "dataDir": str(tmp_path / "leases")}
    names = [f"hntest-{os.getpid()}-{number}" for number in range(8)]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with ThreadPoolExecutor(8) as pool:

            def everywhere(command):
                return list(pool.map(lambda name: node.call(command, f"/run/netns/{name}", name, ipam=ipam), names))

            added = everywhere("ADD")
            assert [code for code, _ in added] == [0] * 8
            assert len({document["ips"][0]["address"] for _, document in added}) == 8
            assert [links(f"/run/netns/{name}") for name in names] == [{"net1"}] * 8
            assert everywhere("DEL") == [(0, None)] * 8
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=True)
    assert (links(), node.records()) == ({"br0"}, [])
    assert not list((tmp_path / "leases").rglob("10.*"))


@pytest.mark.parametrize("after_ms", [0, 5, 20, 60, 120, 180, 220, 260, 300, 350, 400, 500, 700])
def test_an_executable_that_is_killed_leaves_nothing_after_the_del(node, pod_netns, tmp_path, after_ms):
    ipam = {**POOL, "dataDir": str(tmp_path / "leases")}
    with started(node, pod_netns, ipam, after_ms) as process:
        process.kill()
    assert node.call("DEL", pod_netns, ipam=ipam) == (0, None)
    node.wait_until_idle()
    assert (links(pod_netns), links() - {"br0"}, node.records()) == (set(), set(), [])
    assert not list((tmp_path / "leases").rglob("10.*"))


@pytest.mark.parametrize("after_ms", [50, 150, 200, 230, 260, 290, 320, 360, 400, 450, 500])
def test_a_program_that_is_killed_leaves_nothing_after_the_del(node, pod_netns, tmp_path, after_ms):
    ipam = {**POOL, "dataDir": str(tmp_path / "leases")}
    with started(node, pod_netns, ipam, after_ms) as process:
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        document = json.loads(process.stdout.read())
    assert process.returncode == (1 if "code" in document else 0)
    assert node.call("DEL", pod_netns, ipam=ipam) == (0, None)
    node.wait_until_idle()
    assert (links(pod_netns), links() - {"br0"}, node.records()) == (set(), set(), [])
    assert not list((tmp_path / "leases").rglob("10.*"))


def test_a_plugin_that_outlives_a_killed_program_is_dead_after_the_del(node, pod_netns, tmp_path):
    plugin = node.bin / "slow"
    plugin.write_text(
        f"#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho $$ > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/begun\n"
        "exec sleep 60\n"
    )
    plugin.chmod(0o755)
    node.plugins = node.bin
    with started(node, pod_netns, {"type": "slow"}, 0) as process:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
    assert node.call("DEL", pod_netns, ipam={"type": "slow"}) == (0, None)
    assert b"sleep" not in b"".join(run_as(int((tmp_path / "begun").read_text())))


@contextmanager
def started(node, pod_netns, ipam, for_ms):
    """An ADD that has run for a while; it is waited for at the end."""
    env = node.environ("ADD", pod_netns)
    with subprocess.Popen(node.executable, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(json.dumps({**CONFIG, "ipam": ipam}).encode())
        process.stdin.close()
        time.sleep(for_ms / 1000)
        yield process


def run_as(pid: int):
    """What the process runs: nothing where it is gone, or waits to be reaped."""
    try:
        yield Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# the program by itself


def serve(state: Path, environ: dict[str, str], *, hang_up: bool = False):
    """Hand one call to the program's own function; return its reply, None where nobody waited for it."""
    ours, its = socket.socketpair()
    stdin = json.dumps(CONFIG).encode()
    with ours:
        fd = os.open(environ["CNI_NETNS"], os.O_RDONLY)
        wire.send_request(ours, wire.encode_request({k.encode(): v.encode() for k, v in environ.items()}, stdin), fd)
        os.close(fd)
        if hang_up:
            ours.close()
        standalone.serve(its, state)
        return None if hang_up else wire.receive_reply(ours)


def environ(netns: str, command: str = "ADD") -> dict[str, str]:
    return {
        "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_NETNS": netns, "CNI_PATH": "/none",
    }  # fmt: skip


def test_nothing_is_begun_for_a_caller_that_is_gone(tmp_path, pod_netns):
    assert serve(tmp_path / "state", environ(pod_netns), hang_up=True) is None
    assert (links(), links(pod_netns)) == (set(), set())


def test_an_add_whose_caller_goes_meanwhile_is_undone(tmp_path, pod_netns, monkeypatch):
    gone = iter([False, False, True])  # looked at before its turn, before the work, and before the answer
    monkeypatch.setattr(standalone.cni_connection, "hung_up", lambda _: next(gone))
    ours, its = socket.socketpair()
    with ours:
        fd = os.open(pod_netns, os.O_RDONLY)
        request = wire.encode_request(
            {k.encode(): v.encode() for k, v in environ(pod_netns).items()}, json.dumps(CONFIG).encode()
        )
        wire.send_request(ours, request, fd)
        os.close(fd)
        standalone.serve(its, tmp_path / "state")
        assert ours.recv(1) == b""
    assert (links(), links(pod_netns), os.listdir(tmp_path / "state" / "records")) == ({"br0"}, set(), [])


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("STATUS", 50)])
def test_who_does_not_get_his_turn_in_time_is_told_to_come_again(tmp_path, pod_netns, monkeypatch, command, code):
    monkeypatch.setattr(standalone.calls, "DEADLINES_S", {})
    monkeypatch.setattr(standalone.calls, "OTHERS_S", 0.1)
    other = Journal(tmp_path / "state")
    exit_code, stdout = serve(tmp_path / "state", environ(pod_netns, command))
    other.close()
    assert (exit_code, json.loads(stdout)["code"]) == (1, code)
    assert "in use" in json.loads(stdout)["msg"]


def test_it_waits_for_its_turn(node, pod_netns):
    node.state.mkdir()
    with (node.state / "lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        called = pool.submit(node.call, "ADD", pod_netns)
        time.sleep(1)
        assert (called.done(), links(pod_netns)) == (False, set())
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert called.result()[0] == 0


def test_nothing_heavy_is_imported_that_one_call_does_not_need():
    program = "import sys, agent.standalone; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"grpc", "google.protobuf", "prometheus_client", "http.server", "kubernetes"} & set(done.stdout.split())


def test_by_hand_it_says_what_it_is_for():
    done = subprocess.run(
        [sys.executable, "-m", "agent.standalone"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, "CNI plugin" in done.stderr) == (2, "", True)
