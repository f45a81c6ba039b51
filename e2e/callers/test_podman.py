"""podman with its CNI backend: containers with hotnic's networks, and networks plugged while a container runs.

Each with the node's agent, and with `"agent": "none"`: which of the two it was is all the same to podman.
"""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from e2e import audit, images
from e2e.cluster import Cluster
from e2e.node import Node
from e2e.product import BIN, Product

pytestmark = pytest.mark.lane

STORAGE = ("--root", "/var/lib/containers/storage", "--runroot", "/run/containers/storage")
_numbers = itertools.count(1)

# no limit and no OOM score that a plain container may not set; a registry is named nowhere
_CONF = """\
[containers]
default_ulimits = []
log_driver = "k8s-file"

[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "{folder}/net.d"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


@dataclass(frozen=True)
class Podman:
    """podman on a node, with networks of its own."""

    node: Node
    folder: str
    agent: str

    def try_(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = (f"CONTAINERS_CONF={self.folder}/containers.conf", f"PATH={BIN}:{os.environ['PATH']}")
        return self.node.exec(["env", *environment, "podman", *STORAGE, *arguments], check=False)

    def __call__(self, *arguments: str) -> str:
        done = self.try_(*arguments)
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def network(self, bridge: str, subnet: str = "") -> str:
        """Make a network and return its name."""
        name = f"{bridge}-{self.agent}"
        plugin: dict[str, Any] = {
            "type": "hotnic",
            "device": "bridge",
            "bridge": bridge,
            "capabilities": {"ips": True, "mac": True},
            **({"agent": "none"} if self.agent == "none" else {}),
            **({"ipam": {"type": "host-local", "subnet": subnet}} if subnet else {}),
        }
        document = {"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}
        self.node.path(f"{self.folder}/net.d/{name}.conflist").write_text(json.dumps(document))
        return name

    def run(self, *networks: str) -> str:
        """Start a container that sleeps in these networks; return its name."""
        name = f"c{next(_numbers)}"
        self("run", "-d", "--name", name, "--cap-add", "NET_RAW", "--network", ",".join(networks), images.BUSYBOX,
             "sleep", "3600")  # fmt: skip
        return name

    def links(self, container: str) -> dict[str, str]:
        """Return the MACs of the interfaces in a container, by name."""
        script = "cd /sys/class/net; for i in *; do echo $i $(cat $i/address); done"
        pairs = dict(line.split() for line in self("exec", container, "sh", "-c", script).splitlines())
        return {name: mac for name, mac in pairs.items() if name != "lo"}

    def address(self, container: str, interface: str) -> str:
        (line,) = self("exec", container, "ip", "-o", "-4", "addr", "show", "dev", interface).splitlines()
        return line.split()[3].split("/")[0]

    def leftovers(self, *networks: str) -> dict[str, Any]:
        """Return everything of hotnic's and of these networks that is on the node."""
        records = [str(one) for one in self.node.path("/var/lib/hotnic").glob("**/records/*.json")]
        cached = [one.name for one in self.node.path("/var/lib/cni/results").glob("*") if one.name.startswith(networks)]
        held = [address for name in networks for address in audit.addresses(self.node, name)]
        found = {"records": records, "cache": cached, "addresses": held, "host ends": audit.host_ends(self.node)}
        return {what: left for what, left in found.items() if left}


@pytest.fixture(params=["agent", "none"])
def podman(product: Product, cluster: Cluster, node: Node, request: pytest.FixtureRequest) -> Iterator[Podman]:
    podman = Podman(node, f"{cluster.state}/podman", request.param)
    node.path(f"{podman.folder}/net.d").mkdir(parents=True, exist_ok=True)
    node.path(f"{podman.folder}/containers.conf").write_text(_CONF.format(folder=podman.folder))
    if not podman("images", "-q", images.BUSYBOX):
        for archive in images.archives():
            podman("load", "-q", "-i", str(archive))
    yield podman
    if product.agents[node.name].poll() is not None:
        product.start_agent(node)
        pytest.fail("the agent had ended and was not restarted by the test")
    podman("rm", "-f", "-t", "0", "--all")
    assert podman.leftovers() == {}


def test_containers_reach_each_other_and_leave_nothing(podman):
    network = podman.network("br-one", "10.131.0.0/24")
    first, second = podman.run(network), podman.run(network)
    (told,) = json.loads(podman("inspect", first))[0]["NetworkSettings"]["Networks"].values()
    assert (told["IPAddress"], told["MacAddress"]) == (podman.address(first, "eth0"), podman.links(first)["eth0"])
    assert "1 packets received" in podman("exec", second, "ping", "-c", "1", "-W", "5", told["IPAddress"])
    assert set(podman.leftovers(network)) == {"records", "cache", "addresses", "host ends"}
    podman("rm", "-f", "-t", "0", first, second)
    assert podman.leftovers(network) == {}


def test_a_network_is_connected_to_a_running_container_and_disconnected(podman):
    own, more = podman.network("br-own", "10.132.1.0/24"), podman.network("br-more", "10.132.2.0/24")
    plain = podman.network("br-plain")
    container, other = podman.run(own), podman.run(more)
    pid = podman("inspect", container, "--format", "{{.State.Pid}}")
    before = podman.links(container)
    podman("network", "connect", plain, container)
    podman("network", "connect", "--ip", "10.132.2.77", "--mac-address", "02:00:00:00:0d:01", more, container)
    assert set(podman.links(container)) == {"eth0", "eth1", "eth2"}
    assert (podman.address(container, "eth2"), podman.links(container)["eth2"]) == ("10.132.2.77", "02:00:00:00:0d:01")
    assert "1 packets received" in podman("exec", other, "ping", "-c", "1", "-W", "5", "10.132.2.77")

    podman("network", "disconnect", more, container)
    assert set(podman.links(container)) == {"eth0", "eth1"}
    assert audit.addresses(podman.node, more) == {podman.address(other, "eth0")}
    podman("network", "disconnect", plain, container)
    assert podman.links(container) == before
    assert podman("inspect", container, "--format", "{{.State.Pid}}") == pid
    podman("rm", "-f", "-t", "0", container, other)
    assert podman.leftovers(own, plain, more) == {}


def test_an_address_that_is_taken_is_refused_and_the_container_stays_as_it_is(podman):
    own, more = podman.network("br-own", "10.133.1.0/24"), podman.network("br-more", "10.133.2.0/24")
    container, other = podman.run(own), podman.run(more)
    before = podman.links(container)
    taken = podman.address(other, "eth0")
    done = podman.try_("network", "connect", "--ip", taken, more, container)
    assert (done.returncode != 0, taken in done.stderr) == (True, True), done.stderr
    assert podman.links(container) == before
    assert audit.addresses(podman.node, more) == {taken}


@pytest.mark.parametrize("end", ["kill", "stop -t 0"])
def test_a_container_that_ends_leaves_nothing_and_starts_again(podman, end):
    network, more = podman.network("br-own", "10.134.1.0/24"), podman.network("br-more", "10.134.2.0/24")
    container = podman.run(network)
    podman("network", "connect", more, container)
    podman(*end.split(), container)
    podman("wait", container)
    podman("container", "cleanup", container)
    assert podman.leftovers(network, more) == {}
    podman("start", container)
    assert set(podman.links(container)) == {"eth0", "eth1"}
    podman("rm", "-f", "-t", "0", container)
    assert podman.leftovers(network, more) == {}


def test_what_needs_the_agent_says_so_and_what_does_not_goes_on_without(podman, product):
    own, more = podman.network("br-own", "10.135.1.0/24"), podman.network("br-more")
    container = podman.run(own)
    product.agents[podman.node.name].stop()
    done = podman.try_("network", "connect", more, container)
    if podman.agent == "none":
        assert (done.returncode, set(podman.links(container))) == (0, {"eth0", "eth1"})
    else:
        assert (done.returncode != 0, "hotnic agent" in done.stderr) == (True, True), done.stderr
    podman("rm", "-f", "-t", "0", container)  # which waits for no agent; what it has to undo, it does when it is back
    product.start_agent(podman.node)
    end = time.monotonic() + 20
    while left := podman.leftovers(own, more):
        assert time.monotonic() < end, left
        time.sleep(0.1)
