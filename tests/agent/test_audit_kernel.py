"""The audit on real leaks: of the reference plugins, of ours, of a switch; found, mended, and the living spared.

Its node is a folder (`--host-root`) with a network namespace of its own; its container runtime is a real gRPC server.
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import __main__ as agent_main
from agent import codec, netns, options
from agent.api import cri_pb2
from agent.audit import command, nft
from agent.audit.contract import Lease, NamespaceFile, Release, RemoveNamespace
from agent.audit.look import Node
from agent.audit.mend import Mender
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Record
from cni import wire
from e2e import build
from tests.agent import test_cri
from tests.agent.native import ip

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

DEAD, ALIVE = "d" * 64, "a" * 64
LONG_AGO = time.time() - 7200


class Runtime(test_cri.Service):
    """Lists the living, and where their namespaces are."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[str, str] = {}

    def live(self, container: str, path: str) -> None:
        metadata = cri_pb2.PodSandboxMetadata(name="p", namespace="ns", uid="u")
        self.items.append(cri_pb2.PodSandbox(id=container, metadata=metadata, state=cri_pb2.SANDBOX_READY))
        self.paths[container] = path

    def PodSandboxStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answering(request, context)
        path = self.paths[request.pod_sandbox_id]
        return test_cri.answer({"runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": path}]}}})


class Site:
    """The node, and the command on it."""

    def __init__(self, root: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.root, self.runtime, self._monkeypatch, self._capsys = root, runtime, monkeypatch, capsys
        for folder in ("run/netns", "var/lib/cni/networks", "var/lib/cni/results", "var/lib/cni/multus/results",
                       "var/lib/hotnic/records", "run/hotnic", "opt/cni/bin", "etc/cni/net.d"):  # fmt: skip
            (root / folder).mkdir(parents=True)
        self.process = root / "proc" / str(os.getpid())  # the machine's first may not be asked in a container
        self.process.parent.mkdir()
        self.process.symlink_to(f"/proc/{os.getpid()}")

    def place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def audit(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Run the command; return its exit status and what it has told."""
        status, out = self.run("--json", *arguments)
        return status, [json.loads(line) for line in out.splitlines()]

    def run(self, *arguments: str) -> tuple[int, str]:
        places = {
            "--host-root": self.root,
            "--cri": f"unix://{self.root}/cri",
            "--state-dir": self.place("var/lib/hotnic"),
            "--run-dir": self.place("run/hotnic"),
        }
        places = [str(word) for pair in places.items() for word in pair]
        self._monkeypatch.setattr(command, "LEAST_GUARD_S", 0.0)  # a namespace's age cannot be set
        self._monkeypatch.setattr(sys, "argv", ["hotnic-agent", "audit", *places, *arguments])
        self._capsys.readouterr()
        return agent_main.main(), self._capsys.readouterr().out

    def lease(self, container: str, address: str, network: str = "blue") -> Path:
        path = self.place(f"/var/lib/cni/networks/{network}/{address}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{container}\r\nnet1" if container else "")
        return aged(path)

    def journal(self, container: str, path: str) -> None:
        """A record as an agent has it, of an attachment that a runtime without pods asked for."""
        key, config = Key(ContainerID(container), "net1"), json.dumps({"type": "hotnic", "name": "blue"})
        record = Record(key, Origin.RUNTIME, Phase.ATTACHED, "", "", config, Namespace(path))
        self.place("/var/lib/hotnic/records/x.json").write_text(json.dumps(codec.encode_record(record)))

    def cache(self, container: str, config: dict[str, Any], path: str = "") -> Path:
        file = self.place(f"/var/lib/cni/results/{config['name']}-{container}-net1")
        text = json.dumps(config).encode()
        args = [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "ns"], ["K8S_POD_NAME", "p"]]
        document = {
            "kind": "cniCacheV1", "containerId": container, "ifName": "net1", "networkName": config["name"],
            "config": base64.b64encode(text).decode(), "cniArgs": args, "result": {},
        }  # fmt: skip
        file.write_text(json.dumps({**document, "netns": path} if path else document))
        return aged(file)


def aged(path: Path) -> Path:
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:  # not tmp_path: a Unix socket's path has 107 bytes
        runtime = Runtime()
        server = test_cri.serve(runtime, f"unix://{folder}/cri")
        yield Site(Path(folder), runtime, monkeypatch, capsys)
        server.stop(0).wait()


BLUE = {"cniVersion": "1.0.0", "name": "blue", "type": "bridge", "bridge": "br-blue", "macspoofchk": True,
        "ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}}  # fmt: skip


def reference_bridge(site: Site, container: str, netns_path: str) -> None:
    """An attachment by the reference plugin: a lease, a veth, rules."""
    config = {**BLUE, "ipam": {**BLUE["ipam"], "dataDir": str(site.place("/var/lib/cni/networks"))}}
    env = {
        **os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_IFNAME": "net1",
        "CNI_NETNS": netns_path, "CNI_PATH": str(build.tools()),
    }  # fmt: skip
    plugin = [build.tools() / "bridge"]
    run = subprocess.run(plugin, input=json.dumps(config), env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def ours(container: str) -> tuple[str, str]:
    """What a native device of ours may leave on the node: a host end, and the companion that shapes it."""
    key = Key(ContainerID(container), "net1")
    end, companion = options.host_name(key), options.companion(key).companion
    peer = f"p{hashlib.sha256(container.encode()).hexdigest()[:8]}"
    ip("link", "add", end, "address", options.derived_mac(key, "host"), "type", "veth", "peer", "name", peer)
    ip("link", "add", companion, "address", options.derived_mac(key, "companion"), "type", "ifb")
    return end, companion


def shaper(container: str) -> str:
    name = ("bwp" + hashlib.sha512(f"blue{container}".encode()).hexdigest())[:15]
    ip("link", "add", name, "type", "ifb")
    return name


def links() -> set[str]:
    return {one["ifname"] for one in ip("link")}


def rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout


def plant(site: Site, container: str, netns_path: str) -> set[str]:
    """Everything that an attachment of this container may leave; return its links on the node."""
    before = links()
    reference_bridge(site, container, netns_path)
    site.cache(container, BLUE, netns_path)
    aged_scratch = site.place(f"/var/lib/cni/multus/{container}")
    aged_scratch.write_text("[]")
    aged(aged_scratch)
    ours(container)
    shaper(container)
    for path in site.place("/var/lib/cni/networks/blue").glob("10.*"):
        aged(path)
    return links() - before - {"br-blue"}


def traces(site: Site, container: str) -> set[str]:
    """The files that name a container, in their name or in their text."""
    files = [path for path in site.place("/var").rglob("*") if path.is_file()]
    return {path.name for path in files if container in path.name or container in path.read_text()}


def test_every_leak_of_the_dead_is_found_and_mended_and_the_living_keep_theirs(site, pod_netns, second_pod_netns):
    for plugin in ("bridge", "host-local"):
        shutil.copy(build.tools() / plugin, site.place(f"/opt/cni/bin/{plugin}"))
    living = f"/run/netns/cni-{uuid.uuid4()}"
    site.place(living).symlink_to(pod_netns)
    site.runtime.live(ALIVE, f"/var{living}")
    kept = plant(site, ALIVE, pod_netns)
    site.journal(ALIVE, living)
    files = traces(site, ALIVE)
    gone = plant(site, DEAD, second_pod_netns)
    site.cache(DEAD, BLUE, "/run/netns/long-gone")
    subprocess.run(["ip", "netns", "del", Path(second_pod_netns).name], check=True)
    nobodys = site.lease("", "10.7.0.99")
    pinned = site.place(f"/run/netns/cni-{uuid.uuid4()}")
    pinned.touch()
    subprocess.run(["unshare", "--net", "mount", "--bind", "/proc/self/ns/net", pinned], check=True)
    try:
        time.sleep(1.1)  # a namespace's age cannot be set
        status, told = site.audit("--guard", "1")
        assert status == 1
        kinds = sorted((one["what"], one["container"]) for one in told)
        assert kinds == sorted(
            [("delegates kept by Multus", DEAD), ("host-local lease", ""), ("host-local lease", DEAD),
             ("link of ours", DEAD), ("link of ours", DEAD), ("link of the plugin bandwidth", DEAD),
             ("network namespace", ""), ("result cache file", DEAD), ("rules of nftables", DEAD)]
        )  # fmt: skip
        assert DEAD in rules()
        assert nobodys.exists()
        status, told = site.audit("--repair", "--guard", "1")
        assert ({one["outcome"] for one in told}, status) == ({"mended"}, 0), told
        assert site.audit() == (0, [])
        assert not pinned.exists()
    finally:
        subprocess.run(["umount", pinned], check=False, capture_output=True)
    assert (traces(site, DEAD), nobodys.exists()) == (set(), False)
    assert (links() & gone, DEAD in rules()) == (set(), False)
    assert (traces(site, ALIVE), links() & kept) == (files, kept)
    assert rules().count(f"cni-br-iface-{ALIVE}-net1") > 3
    (address,) = [one["local"] for one in ip("addr", "show", "net1", netns=pod_netns)[0]["addr_info"]
                  if one["family"] == "inet"]  # fmt: skip
    assert site.place(f"/var/lib/cni/networks/blue/{address}").exists()


def test_a_repair_that_is_ended_after_each_of_its_steps_can_always_be_gone_on_with(site, pod_netns, monkeypatch):
    """Whose a link is, only a lease or a result cache may tell: they go last."""
    for plugin in ("bridge", "host-local"):
        shutil.copy(build.tools() / plugin, site.place(f"/opt/cni/bin/{plugin}"))
    before = links()
    plant(site, DEAD, pod_netns)
    subprocess.run(["ip", "netns", "del", Path(pod_netns).name], check=True)
    perform, done = Mender.perform, []

    class Killed(BaseException):
        pass

    def one_step(self, repair):
        if done:
            raise Killed
        done.append(repair)
        return perform(self, repair)

    monkeypatch.setattr(Mender, "perform", one_step)
    for _ in range(20):
        done.clear()
        with contextlib.suppress(Killed):
            assert (site.audit("--repair")[0], len(done)) == (0, 1), "what is left cannot be mended any more"
            break
    assert (traces(site, DEAD), links() - before - {"br-blue"}, DEAD in rules()) == (set(), set(), False)


def test_people_are_told_what_is_where_whose_it_was_how_that_is_known_and_what_can_be_done(site):
    site.place("/var/lib/hotnic/damaged").mkdir()
    damaged = site.place("/var/lib/hotnic/damaged/x.json")
    damaged.write_text("{")
    path = site.lease(DEAD, "10.7.0.2")
    evidence = "the runtime does not list it, no network namespace of it is in use, no process runs in it"
    lease = f"""\
host-local lease: {path}
    of        container {DEAD}, interface net1, network blue
    evidence  {evidence}
    repair    remove it, under the lock of the store
"""
    other = f"""\
file set aside by the agent: {damaged}
    evidence  it could not be read
    repair    nothing: look at it and delete it
"""
    assert site.run() == (1, f"{lease}{other}2 found, 0 mended, 1 can be mended by --repair\n")
    mended = f"{lease}    done      mended\n{other}2 found, 1 mended, 0 can be mended by --repair\n"
    assert site.run("--repair") == (1, mended)
    damaged.unlink()
    assert site.run() == (0, "nothing is left of anybody\n")


def test_without_the_runtime_or_the_processes_nothing_is_called_dead_and_the_status_says_that_it_could_not_look(site):
    path = site.lease(DEAD, "10.7.0.2")
    site.runtime.error = (grpc.StatusCode.UNAVAILABLE, "not now")
    assert site.audit("--repair") == (2, [])
    assert path.exists()
    site.runtime.error = None
    site.process.rename(site.process.with_name("none"))
    assert site.audit("--repair") == (2, [])
    site.process.with_name("none").rename(site.process)
    assert site.audit("--repair")[0] == 0
    assert not path.exists()


@pytest.mark.parametrize("damage", ["", "half of it"])
def test_what_a_plugin_does_not_delete_stays_and_is_told(site, damage):
    file = site.cache(DEAD, {"cniVersion": "1.0.0", "name": "red", "type": "missing"})
    if damage:
        file.write_text(damage)
    scratch = site.place(f"/var/lib/cni/multus/{DEAD}")
    scratch.write_text("[]")
    aged(scratch)
    status, told = site.audit("--repair")
    assert (status, file.exists(), scratch.exists()) == (1, True, True)
    assert ("missing" in told[0]["outcome"]) is not bool(damage)
    assert str(file) in told[1]["outcome"]


def test_a_del_that_a_runtime_without_pods_forgot_is_called_of_the_agent(site):
    """No agent serves here: what arrives is the tombstone that the plugin writes for it."""
    shutil.copy(Path(__file__).parent.parent.parent / "bin/hotnic", site.place("/opt/cni/bin/hotnic"))
    below = site.place(str(site.root))
    below.mkdir(parents=True)
    (below / "run").symlink_to("../../run")
    site.place("/run/hotnic/tombstones").mkdir(mode=0o700)
    site.journal(DEAD, "/run/netns/gone")
    status, told = site.audit("--repair")
    assert (status, [one["outcome"] for one in told]) == (0, ["mended"]), told
    (tombstone,) = site.place("/run/hotnic/tombstones").glob("*.bin")
    environ, stdin = wire.decode_request(tombstone.read_bytes())
    assert (environ["CNI_COMMAND"], environ["CNI_CONTAINERID"], environ["CNI_IFNAME"]) == ("DEL", DEAD, "net1")
    assert json.loads(stdin)["name"] == "blue"


def test_damaged_files_are_told_and_never_removed(site):
    site.place("/var/lib/hotnic/damaged").mkdir()
    site.place("/var/lib/hotnic/damaged/x.json").write_text("{")
    unreadable = site.place(f"/var/lib/cni/results/red-{DEAD}-net1")
    unreadable.write_text("half of it")
    status, told = site.audit("--repair")
    assert (status, [one["repair"] for one in told]) == (1, ["", ""])
    assert unreadable.exists()


def test_a_lease_is_removed_under_the_lock_of_its_store_and_only_if_it_is_still_the_same(site, kernel):
    path = site.lease(DEAD, "10.7.0.2")
    lease = Lease(path, "blue", path.read_text(), DEAD, "net1", 3600.0)
    node = Node(netns.View(site.root), None, kernel, site.root, site.root, (), ())
    outcome: list[str] = []
    with path.with_name("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: outcome.append(Mender(node, None, ()).perform(Release(lease))))
        waiting.start()
        time.sleep(0.2)
        assert (path.exists(), outcome) == (True, [])
        path.write_text(f"{ALIVE}\r\nnet1")
    waiting.join(30)
    assert (path.exists(), "somebody else" in outcome[0]) == (True, True)
    path.write_text(lease.text)
    assert (Mender(node, None, ()).perform(Release(lease)), path.exists()) == ("", False)


IDS = [f"{number:064x}" for number in range(6)]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    alive=st.sets(st.sampled_from(IDS)), young=st.sets(st.sampled_from(IDS)), has_cache=st.sets(st.sampled_from(IDS))
)
def test_whatever_the_mix_the_files_of_the_living_stay_and_those_of_the_dead_go(site, alive, young, has_cache):
    site.runtime.items.clear()
    for container in sorted(alive):
        site.runtime.live(container, f"/run/netns/{container}")
    files: dict[str, set[Path]] = {}
    for number, container in enumerate(IDS):
        files[container] = {site.lease(container, f"10.7.0.{number + 2}")}
        if container in has_cache:
            files[container].add(site.cache(container, {"cniVersion": "1.0.0", "name": "blue", "type": "missing"}))
        if container in young:
            for path in files[container]:
                os.utime(path)
    before = {path for one in files.values() for path in one}
    site.audit("--repair")
    spared = alive | young
    for container, its in files.items():
        left = {path for path in its if path.exists()}
        dead_lease_only = {path for path in its if "networks" not in path.parts}  # of the missing plugin: it stays
        assert left == (its if container in spared else dead_lease_only)
    for path in before:
        path.unlink(missing_ok=True)


def test_ports_of_a_switch_without_a_link_go_if_they_say_whose_they_were(site, openvswitch):
    folder = site.place("/run/openvswitch")
    folder.mkdir()
    (folder / "db.sock").symlink_to(openvswitch.socket)
    openvswitch.add_bridge("br0")
    ids = {
        "gone": ["external_ids:owner=hotnic", f"external_ids:containerID={DEAD}"],
        "theirs": ["external_ids:owner=ovs-cni.network.kubevirt.io", "external_ids:contNetns=/var/run/netns/gone"],
        "living": ["external_ids:owner=hotnic", f"external_ids:containerID={ALIVE}"],
        "later": [],
    }
    site.runtime.live(ALIVE, "/run/netns/x")
    for name, told in ids.items():
        openvswitch.vsctl("--no-wait", "add-port", "br0", name, *(["--", "set", "port", name, *told] if told else []))
    status, told = site.audit("--repair")
    assert {one["where"]: one["outcome"] for one in told} == {
        "br0 gone": "mended", "br0 theirs": "mended", "br0 living": "", "br0 later": "",
    }  # fmt: skip
    assert (status, sorted(openvswitch.vsctl("list-ports", "br0").split())) == (1, ["later", "living"])


def test_rules_of_which_a_del_has_removed_some_go_with_the_rest(site):
    """One transaction takes all or nothing: what is not there any more may not keep the rest."""
    chain, comment = f"cni-br-iface-{DEAD}-net1", f'comment "macspoofchk-{DEAD}-net1"'
    text = f"""add table bridge nat
add chain bridge nat PREROUTING {{ type filter hook prerouting priority -300; }}
add chain bridge nat {chain}
add chain bridge nat {chain}-mac
add rule bridge nat PREROUTING jump {chain} {comment}
add rule bridge nat {chain} jump {chain}-mac {comment}
add rule bridge nat {chain}-mac drop {comment}
"""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
    seen = [one for one in nft.rules() if DEAD in (one.chain + one.text)]
    subprocess.run(["nft", "flush", "chain", "bridge", "nat", "PREROUTING"], check=True)
    nft.remove(seen)
    nft.remove(seen)  # nothing is left of them
    assert (DEAD in rules(), "PREROUTING" in rules()) == (False, True)


@pytest.mark.parametrize("folder", ["var/lib/hotnic/records", "run/netns"])
def test_what_is_not_where_it_should_be_is_not_taken_for_nothing(site, folder):
    """With the wrong paths nobody has a record, or a namespace."""
    site.place(folder).rmdir()
    its, other = site.lease(DEAD, "10.7.0.2"), site.lease("vm-7", "10.7.0.3")
    status, told = site.audit("--repair")
    assert (status, its.exists(), other.exists()) == (2, False, True)
    assert [one["repair"] != "" for one in told] == [True, False]


def test_where_the_mounts_of_namespaces_do_not_arrive_nobody_is_taken_for_dead(site):
    path = f"/run/netns/cni-{uuid.uuid4()}"
    site.place(path).touch()
    site.runtime.live(ALIVE, path)
    other = site.lease("vm-7", "10.7.0.3")
    assert site.audit("--repair")[0] == 2
    assert (site.place(path).exists(), other.exists()) == (True, True)


def test_a_namespace_is_never_taken_for_an_empty_file(site, kernel, pod_netns):
    path = f"/run/netns/cni-{uuid.uuid4()}"
    site.place(path).symlink_to(pod_netns)
    node = Node(netns.View(site.root), None, kernel, site.root, site.root, (), ())
    repair = RemoveNamespace(NamespaceFile(path, 0, 7200, used=False))
    assert "no empty file" in Mender(node, None, ()).perform(repair)
    assert site.place(path).exists()


def test_the_namespace_of_a_sandbox_that_is_only_stopped_is_the_runtimes_still(site, pod_netns):
    path = f"/run/netns/cni-{uuid.uuid4()}"
    site.place(path).symlink_to(pod_netns)
    site.runtime.live(DEAD, path)
    site.runtime.items[0].state = cri_pb2.SANDBOX_NOTREADY
    lease = site.lease(DEAD, "10.7.0.2")
    assert site.audit("--repair", "--guard", "0") == (0, [])
    assert lease.exists()
    site.runtime.items.clear()
    assert sorted(one["what"] for one in site.audit("--guard", "0")[1]) == ["host-local lease", "network namespace"]
