"""The CNI executable and the agent's server together, on the real kernel: two real halves, no Kubernetes."""

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from agent import cni_connection, cni_server, delegate, netns, primary
from agent.attach import Attachments, Settings
from agent.calls import Calls
from agent.device import Native
from agent.journal import Journal
from agent.locks import Locks
from agent.model import Origin
from agent.netlink import Kernel
from agent.outcomes import Outcomes
from agent.policy import Policy, Rule
from agent.sandboxes import Sandboxes
from cni import errors

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

ROOT = Path(__file__).parent.parent.parent
CONFIG = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "bridge", "bridge": "br0"}


@pytest.fixture(scope="session")
def executable(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("bin") / "hotnic"
    subprocess.run([str(ROOT / ".venv/bin/python"), "-m", "cni.build", str(target)], cwd=ROOT, check=True)
    return target


class Agent:
    """The parts of an agent that serve CNI; can be ended and started again on the same state."""

    def __init__(self, folder: Path) -> None:
        self.bin_dirs: tuple[Path, ...] = ()
        self.folder, self.run_dir, self.waiting, self.policy = folder, folder / "run", (), Policy()
        self.run_dir.mkdir()
        self.start()

    def start(self) -> None:
        self.kernel, self.journal, locks = Kernel(), Journal(self.folder / "state"), Locks()
        view = netns.View()
        native = Native(self.kernel, self.ipam, view, self.journal)
        settings = Settings(self.bin_dirs, (self.folder / "net.d",), view, policy=self.policy)
        self.attachments = Attachments(self.journal, self.kernel, native, self.ipam, settings)
        sandboxes = Sandboxes(None, self.journal, view)
        networks = primary.Networks(self.journal, sandboxes, Outcomes(), lambda _: None)
        calls = Calls(self.journal, native, self.attachments, locks, lambda: self.waiting, networks)
        self.handle = calls.handle
        # threads of the server are born in this thread's namespace, the test's own
        self.server = cni_server.Server(self.run_dir, self._handle)
        self.server.start()

    def _handle(self, *call):
        return self.handle(*call)  # looked up at each call: a test puts another one in its place

    def stop(self) -> None:
        self.server.close()
        self.kernel.close()
        self.journal.close()
        (self.run_dir / "cni.sock").unlink(missing_ok=True)

    def ipam(self, plugin_type, command, env, config, deadline_s):
        if plugin_type == "missing":
            raise delegate.Missing("no plugin 'missing' on this node")
        raise errors.CNIError(errors.Code.NOT_AVAILABLE, f"no plugin {plugin_type!r}")


@pytest.fixture
def agent(tmp_path):
    started = Agent(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def call(agent, executable, pod_netns):
    def run(command: str, ifname: str = "net1", *, env: dict[str, str] | None = None, **config):
        environ = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": ifname, "CNI_NETNS": pod_netns,
            "CNI_PATH": "/nowhere", **(env or {}),
        }  # fmt: skip
        stdin = json.dumps({**CONFIG, "runDir": str(agent.run_dir), **config})
        done = subprocess.run(
            [executable], env=environ, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None

    return run


def links(netns_path: str = "") -> set[str]:
    prefix = ["ip", "netns", "exec", Path(netns_path).name] if netns_path else []
    run = subprocess.run([*prefix, "ip", "-json", "link"], check=True, capture_output=True, text=True)
    return {one["ifname"] for one in json.loads(run.stdout)} - {"lo"}


def test_add_check_status_delete(call, agent, pod_netns):
    code, document = call("ADD")
    assert (code, document["interfaces"][2]["name"]) == (0, "net1")
    assert document["interfaces"][2]["sandbox"] == pod_netns
    assert [(str(one.key), one.origin) for one in agent.journal.records()] == [("c1/net1", Origin.RUNTIME)]
    assert call("CHECK", prevResult=document) == (0, None)
    assert call("STATUS") == (0, None)
    for _ in range(2):
        assert call("DEL", prevResult=document) == (0, None)
    assert (links(pod_netns), links(), agent.journal.records()) == (set(), {"br0"}, ())


def test_a_second_add_is_an_error_and_changes_nothing(call, agent, pod_netns):
    call("ADD")
    before = agent.journal.records()
    code, document = call("ADD")
    assert (code, document["code"]) == (1, 7)
    assert (agent.journal.records(), links(pod_netns)) == (before, {"net1"})


def test_an_add_under_a_taken_name_fails_and_the_link_there_is_not_harmed(call, agent, pod_netns):
    inside = ["ip", "netns", "exec", Path(pod_netns).name, "ip"]
    subprocess.run([*inside, "link", "add", "net1", "type", "veth", "peer", "name", "theirs"], check=True)
    before = subprocess.run([*inside, "-o", "link"], check=True, capture_output=True).stdout
    code, document = call("ADD")
    assert (code, document["code"], "net1" in document["msg"]) == (1, 7, True)
    assert subprocess.run([*inside, "-o", "link"], check=True, capture_output=True).stdout == before
    assert agent.journal.records() == ()


def test_a_network_that_the_policy_forbids_to_the_pods_namespace_is_refused(call, agent, pod_netns):
    agent.stop()
    agent.policy = Policy((Rule(("tenant",), plugins=("hotnic",), devices=("macvlan",)),))
    agent.start()
    for namespace, expected in (("tenant", "device='bridge'"), ("other", "no rule")):
        code, document = call("ADD", env={"CNI_ARGS": f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=a"})
        assert (code, document["code"], expected in document["msg"]) == (1, 7, True)
    assert (links(pod_netns), links(), agent.journal.records()) == (set(), set(), ())
    assert call("ADD")[0] == 0  # nobody's: the administrator's own
    agent.policy = Policy((Rule(("tenant",)),))
    agent.stop()
    agent.start()
    assert call("DEL", env={"CNI_ARGS": "K8S_POD_NAMESPACE=tenant"})[0] == 0  # what was allowed once, is removed


def test_a_network_on_the_nodes_disk_is_the_administrators_whoevers_pod_asks(call, agent):
    agent.stop()
    agent.policy = Policy((Rule(("tenant",)),))
    (agent.folder / "net.d").mkdir()
    own = {key: value for key, value in CONFIG.items() if key not in ("name", "cniVersion")}
    plugins = [{**own, "runDir": str(agent.run_dir), "isGateway": True}]
    network = {"cniVersion": "1.1.0", "name": CONFIG["name"], "plugins": plugins}
    (agent.folder / "net.d/10-primary.conflist").write_text(json.dumps(network))
    agent.start()
    tenant = {"CNI_ARGS": "K8S_POD_NAMESPACE=tenant"}
    assert call("ADD", env=tenant, isGateway=True)[0] == 0
    code, document = call("ADD", "net2", env=tenant, isGateway=True, bridge="br1")
    assert (code, document["code"]) == (1, 7)


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_nothing_that_the_policy_forbids_is_executed_whatever_the_verb(call, agent, verb):
    agent.stop()
    rule = Rule(("tenant",), plugins=("hotnic",), ipam=("static",), devices=("*",), bridges=("*",), paths=("*",))
    agent.policy = Policy((rule,))
    executed = []
    agent.ipam = lambda plugin, *_: executed.append(plugin)
    agent.start()
    previous = {"cniVersion": "1.1.0"}
    call(verb, env={"CNI_ARGS": "K8S_POD_NAMESPACE=tenant"}, ipam={"type": "evil"}, prevResult=previous)
    assert executed == []
    call(verb, env={"CNI_ARGS": "K8S_POD_NAMESPACE=tenant"}, ipam={"type": "static"}, prevResult=previous)
    assert "static" in executed


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_we_are_no_ipam_plugin_of_our_own(call, agent, verb):
    """The nested call would wait for the sandbox that its caller holds."""
    begun = time.monotonic()
    code, document = call(verb, ipam={"type": "hotnic", "device": "dummy"})
    assert (code, (document or {}).get("code")) == ((1, 7) if verb == "ADD" else (0, None))
    assert (time.monotonic() - begun < 10, agent.journal.records()) == (True, ())


def test_a_link_that_the_pod_renamed_is_removed(call, agent, pod_netns):
    subprocess.run(["ip", "link", "add", "m0", "type", "veth", "peer", "name", "m1"], check=True)
    assert call("ADD", device="macvlan", master="m0", bridge="")[0] == 0
    inside = ["ip", "netns", "exec", Path(pod_netns).name, "ip"]
    subprocess.run([*inside, "link", "set", "net1", "name", "mine"], check=True)
    assert call("DEL", device="macvlan", master="m0", bridge="") == (0, None)
    assert links(pod_netns) == set()


def test_a_failed_add_leaves_neither_link_nor_record(call, agent, pod_netns):
    code, document = call("ADD", ipam={"type": "missing"})
    assert (code, document["code"], document["cniVersion"]) == (1, 50, "1.1.0")
    assert links(pod_netns) == set()


def test_an_ipam_plugin_that_is_missing_has_given_nothing_and_is_asked_for_nothing(call, agent, pod_netns):
    code, document = call("ADD", ipam={"type": "missing"})
    assert (code, document["code"], "missing" in document["msg"]) == (1, 50, True)
    assert (links(pod_netns), links(), agent.journal.records()) == (set(), set(), ())
    assert call("DEL", ipam={"type": "missing"}) == (0, None)


def test_an_ipam_plugin_that_is_missing_by_the_time_of_the_delete_is_an_error(call, agent):
    """Its lease would be lost for ever."""
    agent.ipam = lambda *_: {"cniVersion": "1.1.0", "ips": [{"address": "10.1.1.2/24"}]}
    agent.stop()
    agent.start()
    assert call("ADD", ipam={"type": "missing"})[0] == 0
    del agent.ipam
    agent.stop()
    agent.start()
    assert call("DEL", ipam={"type": "missing"})[0] == 1
    assert len(agent.journal.records()) == 1


def test_delete_runs_with_the_configuration_of_the_add(call, agent, pod_netns):
    call("ADD")
    assert call("DEL", device="nonsense", bridge="a/b") == (0, None)
    assert (links(pod_netns), agent.journal.records()) == (set(), ())


def test_delete_without_a_namespace_removes_everything(call, agent, pod_netns):
    call("ADD")
    assert call("DEL", env={"CNI_NETNS": ""}) == (0, None)
    assert (links(pod_netns), agent.journal.records()) == (set(), ())


def test_delete_does_not_touch_another_container_of_the_same_interface_name(call, agent, pod_netns):
    call("ADD")
    assert call("DEL", env={"CNI_CONTAINERID": "c2"}) == (0, None)
    assert links(pod_netns) == {"net1"}


def test_a_missing_and_the_nodes_own_namespace_are_refused_with_code_8(call):
    for path in ("/run/netns/hntest-not-there", "/proc/self/ns/net"):
        code, document = call("ADD", env={"CNI_NETNS": path})
        assert (code, document["code"]) == (1, 8)
    assert links() == set()


def test_a_namespace_that_is_a_symbolic_link_is_fine(call, tmp_path, pod_netns):
    link = tmp_path / "ns"
    link.symlink_to(pod_netns)
    code, document = call("ADD", env={"CNI_NETNS": str(link)})
    assert (code, document["interfaces"][2]["sandbox"]) == (0, str(link))


def test_gc_removes_what_is_not_listed_of_this_network_only(call, agent, pod_netns):
    call("ADD", "n1")
    call("ADD", "n2")
    call("ADD", "n3", name="other")
    assert call("GC", **{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "n2"}]}) == (0, None)
    assert links(pod_netns) == {"n2", "n3"}
    code, document = call("GC")
    assert (code, document["code"], links(pod_netns)) == (1, 7, {"n2", "n3"})
    assert call("GC", **{"cni.dev/valid-attachments": None}) == (0, None)
    assert links(pod_netns) == {"n3"}


def test_status_says_what_the_agent_waits_for(call, agent):
    agent.waiting = ("container runtime: connection refused",)
    code, document = call("STATUS")
    assert (code, document["code"], "connection refused" in document["msg"]) == (1, 50, True)


def test_without_an_agent_add_is_to_be_tried_again_and_delete_is_replayed_later(call, agent, pod_netns):
    call("ADD")
    agent.stop()
    begun = time.monotonic()
    code, document = call("ADD", "n2")
    assert (code, document["code"]) == (1, 11)
    code, document = call("STATUS")
    assert (code, document["code"]) == (1, 50)
    assert call("DEL") == (0, None)
    assert time.monotonic() - begun < 10
    assert links(pod_netns) == {"net1"}
    agent.start()
    end = time.monotonic() + 10
    while list((agent.run_dir / "tombstones").iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert (links(pod_netns), agent.journal.records()) == (set(), ())
    assert list((agent.run_dir / "tombstones").iterdir()) == []


@pytest.mark.parametrize("stdin", [b'{"a":' * 100000, b"[" * 100000], ids=["objects", "lists"])
def test_a_configuration_that_is_nested_too_deeply_is_told_as_such(agent, executable, pod_netns, stdin):
    environ = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_PATH": "/nowhere"}
    answer = agent._handle(environ, stdin, None)
    assert (answer.exit_code, json.loads(answer.stdout)["code"]) == (1, 6)


def test_a_tombstone_that_cannot_be_told_of_keeps_no_other_from_its_turn(call, agent, pod_netns):
    call("ADD")
    agent.stop()
    assert call("DEL") == (0, None)
    (grave,) = (agent.run_dir / "tombstones").glob("*.bin")
    grave.with_name("0-first.bin").write_bytes(grave.read_bytes())
    calls = []

    def poisoned(*call):
        calls.append(call)
        if len(calls) == 1:
            raise RecursionError("poison")
        return agent.handle(*call)

    agent._handle = poisoned
    agent.start()
    end = time.monotonic() + 10
    while list((agent.run_dir / "tombstones").glob("*.bin")) and time.monotonic() < end:
        time.sleep(0.05)
    assert [one.name for one in (agent.run_dir / "tombstones").iterdir()] == ["0-first.damaged"]


def test_an_add_whose_caller_is_gone_is_undone(agent, executable, pod_netns):
    entered, leave, made = threading.Event(), threading.Event(), threading.Event()
    real = agent.handle

    def slowly(*call):
        entered.set()
        leave.wait(10)
        answer = real(*call)
        made.set()
        return answer

    agent.handle = slowly
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "net1",
        "CNI_NETNS": pod_netns,
        "CNI_PATH": "/x",
    }
    caller = subprocess.Popen([executable], env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    caller.stdin.write(json.dumps({**CONFIG, "runDir": str(agent.run_dir)}).encode())
    caller.stdin.close()
    assert entered.wait(10)
    caller.kill()
    caller.wait()
    leave.set()
    assert made.wait(10)
    end = time.monotonic() + 10
    while (links(pod_netns) or agent.journal.records()) and time.monotonic() < end:
        time.sleep(0.05)
    assert (links(pod_netns), agent.journal.records()) == (set(), ())


def test_a_caller_who_is_not_root_is_refused():
    name = f"\0hotnic-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(name)
        listener.listen()
        dial = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name!r}); s.recv(1)"
        with subprocess.Popen(["/usr/bin/python3", "-c", dial], user=65534) as stranger:
            connection, _ = listener.accept()
            with connection, pytest.raises(PermissionError, match="65534"):
                cni_connection.refuse_strangers(connection)
            stranger.wait(10)


def test_the_socket_is_for_root_only(agent):
    assert (agent.run_dir / "cni.sock").stat().st_mode & 0o777 == 0o600


def test_sixteen_at_once_in_one_pod_and_none_left_after(call, agent, pod_netns):
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 used by this test only

    with ThreadPoolExecutor(16) as pool:
        names = [f"n{number}" for number in range(32)]
        assert {code for code, _ in pool.map(lambda name: call("ADD", name), names)} == {0}
        assert links(pod_netns) == set(names)
        assert {code for code, _ in pool.map(lambda name: call("DEL", name), names)} == {0}
    assert (links(pod_netns), links(), agent.journal.records()) == (set(), {"br0"}, ())
