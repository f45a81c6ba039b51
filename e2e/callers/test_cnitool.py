"""A libcni client: cnitool runs [hotnic, tuning, bandwidth], and the three see each other's results.

Each with the node's agent, and with `"agent": "none"`.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from e2e import audit, build
from e2e.cluster import Cluster
from e2e.node import Node
from e2e.product import BIN, Product

pytestmark = pytest.mark.lane

RESULTS = "/var/lib/cni/results"
RATE = 1_000_000
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Cnitool:
    """One network, one namespace, one interface."""

    node: Node
    folder: str
    network: str
    namespace: str
    agent: str

    def configure(self, document: Mapping[str, Any]) -> None:
        if self.agent == "none":
            ours, *others = document["plugins"]
            document = {**document, "plugins": [{**ours, "agent": "none"}, *others]}
        path = self.node.path(f"{self.folder}/{self.network}.conflist")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": self.network, **document}))

    def try_(self, verb: str, **capabilities: Any) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "CNI_PATH": "/opt/cni/bin",
            "NETCONFPATH": self.folder,
            "CNI_IFNAME": "x1",
            **({"CAP_ARGS": json.dumps(capabilities)} if capabilities else {}),
        }
        command = [str(build.tools() / "cnitool"), verb, self.network, f"/run/netns/{self.namespace}"]
        pairs = [f"{name}={value}" for name, value in variables.items()]
        return self.node.exec(["env", *pairs, *command], check=False)

    def __call__(self, verb: str, **capabilities: Any) -> dict[str, Any]:
        done = self.try_(verb, **capabilities)
        assert done.returncode == 0, f"{verb}: {done.stdout}{done.stderr}"
        result: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return result

    def inside(self, *command: str, check: bool = True) -> str:
        return self.node.exec(["ip", "netns", "exec", self.namespace, *command], check=check).stdout

    def cached(self) -> list[dict[str, Any]]:
        """Return what libcni remembers of this network."""
        return [json.loads(path.read_text()) for path in self.node.path(RESULTS).glob(f"{self.network}-*")]

    def leftovers(self) -> dict[str, Any]:
        """Return everything of this network that is on the node: empty, once it is gone."""
        known = self.node.path("/var/lib/hotnic").glob("**/records/*.json")
        records = [path for path in known if f'"{self.network}\\"' in path.read_text()]
        links = json.loads(self.node.exec(["ip", "-json", "-d", "link"]).stdout)
        shapers = [one["ifname"] for one in links if one.get("linkinfo", {}).get("info_kind") == "ifb"]
        found = {
            "cache": self.cached(),
            "addresses": audit.addresses(self.node, self.network),
            "host ends": audit.host_ends(self.node),
            "shapers": [one for one in shapers if one not in {"ifb0", "ifb1"}],  # these two come with the module
            "records": records,
        }
        return {what: left for what, left in found.items() if left}


def chain(bridge: str, subnet: str, *, version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    hotnic = {
        "type": "hotnic",
        "device": "bridge",
        "bridge": bridge,
        "capabilities": {"mac": True, "ips": True},
        "ipam": {"type": "host-local", "subnet": subnet},
    }
    tuning = {"type": "tuning", "mtu": 1300, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}
    bandwidth = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    return {"cniVersion": version, "plugins": [hotnic, tuning, bandwidth], **more}


@pytest.fixture(params=["agent", "none"])
def tool(product: Product, cluster: Cluster, node: Node, request: pytest.FixtureRequest) -> Iterator[Cnitool]:
    name = f"t{next(_numbers)}"
    node.exec(["ip", "netns", "add", name])
    tool = Cnitool(node, f"{cluster.state}/cnitool", f"net{name}", name, request.param)
    yield tool
    if product.agents[node.name].poll() is not None:
        product.start_agent(node)
        pytest.fail("the agent had ended and was not restarted by the test")
    tool.try_("del")
    node.exec(["ip", "netns", "del", name], check=False)
    assert tool.leftovers() == {}


def test_a_chain_is_added_checked_and_removed_whole(tool, node):
    tool.configure(chain("br-tool", "10.101.0.0/24"))
    shape = {"ingressRate": RATE, "ingressBurst": RATE, "egressRate": RATE, "egressBurst": RATE}
    result = tool("add", mac="02:00:00:00:0a:01", bandwidth=shape)

    bridge, host, pod = result["interfaces"][:3]
    assert (bridge["name"], host.get("sandbox"), pod["name"], pod["sandbox"]) == (
        "br-tool", None, "x1", f"/run/netns/{tool.namespace}",
    )  # fmt: skip
    assert {ip["interface"] for ip in result["ips"]} == {2}
    link = json.loads(tool.inside("ip", "-json", "addr", "show", "x1"))[0]
    assert (link["address"], link["mtu"], link["operstate"]) == ("02:00:00:00:0a:01", 1300, "UP")
    assert result["ips"][0]["address"] == f"{link['addr_info'][0]['local']}/24"
    assert tool.inside("cat", "/proc/sys/net/ipv4/conf/x1/arp_filter").strip() == "1"
    for shaped in (host["name"], result["interfaces"][3]["name"]):
        assert "tbf" in node.exec(["tc", "qdisc", "show", "dev", shaped]).stdout
    (cache,) = tool.cached()
    assert (cache["result"]["interfaces"], cache["capabilityArgs"]["mac"]) == (
        result["interfaces"], "02:00:00:00:0a:01",
    )  # fmt: skip

    assert set(tool.leftovers()) == {"cache", "addresses", "host ends", "shapers", "records"}
    tool("check", mac="02:00:00:00:0a:01", bandwidth=shape)
    tool("del", mac="02:00:00:00:0a:01", bandwidth=shape)
    assert tool.leftovers() == {}
    assert "x1" not in tool.inside("ip", "-br", "link")
    tool("del")  # as often as the caller likes


def test_a_check_says_what_is_missing(tool):
    tool.configure(chain("br-tool", "10.102.0.0/24"))
    tool("add")
    tool.inside("ip", "addr", "flush", "dev", "x1")
    done = tool.try_("check")
    assert (done.returncode, "10.102.0" in done.stderr) == (1, True), done.stderr
    tool.inside("ip", "link", "del", "x1")
    done = tool.try_("check")
    assert (done.returncode, "x1" in done.stderr) == (1, True), done.stderr


def test_what_was_added_is_removed_though_the_configuration_has_another_address_plugin_now(tool):
    tool.configure(chain("br-tool", "10.103.0.0/24"))
    tool("add")
    tool.configure({"cniVersion": "1.1.0", "plugins": [{"type": "hotnic", "device": "bridge", "bridge": "br-other"}]})
    tool("del")
    assert tool.leftovers() == {}


@pytest.mark.parametrize("lost", ["the cache", "the namespace", "both"])
def test_a_del_needs_neither_cache_nor_namespace(tool, node, lost):
    tool.configure(chain("br-tool", "10.104.0.0/24"))
    tool("add")
    if lost != "the namespace":
        for path in node.path(RESULTS).glob(f"{tool.network}-*"):
            path.unlink()
    if lost != "the cache":
        node.exec(["ip", "netns", "del", tool.namespace])
    tool("del")
    assert tool.leftovers() == {}


def test_a_second_add_of_the_same_interface_is_refused_and_harms_nothing(tool, node):
    tool.configure(chain("br-tool", "10.105.0.0/24"))
    tool("add")
    before = tool.inside("ip", "-json", "link", "show", "x1")
    done = tool.try_("add")
    assert (done.returncode, "x1" in done.stderr) == (1, True), done.stderr
    assert tool.inside("ip", "-json", "link", "show", "x1") == before
    assert len(audit.addresses(node, tool.network)) == 1


def test_status_is_the_agents_if_there_shall_be_one(tool, product, node):
    tool.configure(chain("br-tool", "10.106.0.0/24"))
    tool("status")
    product.agents[node.name].stop()
    if tool.agent == "none":
        tool("status")
        tool("add")
        product.start_agent(node)
        return
    done = tool.try_("status")
    assert (done.returncode, "hotnic" in done.stderr) == (1, True), done.stderr
    done = tool.try_("add")
    assert (done.returncode, "hotnic" in done.stderr) == (1, True), done.stderr
    product.start_agent(node)
    tool("status")
    tool("add")


def test_gc_removes_what_its_caller_remembers_and_guesses_nothing(tool, node):
    """It has no list of what to keep: libcni removes what is in its cache, and hotnic asks for a list."""
    tool.configure(chain("br-tool", "10.107.0.0/24"))
    tool("add")
    done = tool.try_("gc")
    assert "GC needs cni.dev/valid-attachments; nothing was removed" in done.stderr
    assert tool.leftovers() == {}
    tool("add")
    for path in node.path(RESULTS).glob(f"{tool.network}-*"):
        path.unlink()
    assert tool.try_("gc").returncode == 1
    assert "x1" in tool.inside("ip", "-br", "link")


VERSIONS = {
    "0.3.1": {"version": "0.3.1"},
    "0.4.0": {"version": "0.4.0"},
    "1.0.0": {"version": "1.0.0"},
    "1.1.0": {"version": "1.1.0"},
    "the highest of several": {"version": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "0.3.1"]},
}


@pytest.mark.parametrize("versions", VERSIONS)
def test_every_version_is_spoken(tool, versions):
    document = chain("br-tool", "10.108.0.0/24", **VERSIONS[versions])
    spoken = max([document["cniVersion"], *document.get("cniVersions", ())])
    tool.configure(document)
    result = tool("add")
    assert result["cniVersion"] == spoken
    assert ("version" in result["ips"][0]) == (spoken < "1.0.0")
    assert ("mtu" in result["interfaces"][2]) == (spoken >= "1.1.0")
    if spoken >= "0.4.0":
        tool("check")
    tool("del")
    assert tool.leftovers() == {}
