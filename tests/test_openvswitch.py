"""The switch that the tests of the device `ovs` run against carries frames, VLAN by VLAN, and goes with its test."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.openvswitch import OpenVSwitch, running

pytestmark = pytest.mark.netns


@pytest.fixture
def pods(openvswitch: OpenVSwitch, pod_netns: str) -> Iterator[Callable[[str, str], bool]]:
    """Two hosts in a namespace each, and whether one's ping reaches the other with these ports in the switch."""
    openvswitch.add_bridge("br0")
    other = f"{Path(pod_netns).name}-b"
    subprocess.run(["ip", "netns", "add", other], check=True)

    def reaches(first: str, second: str) -> bool:
        for number, (netns, options) in enumerate(((Path(pod_netns).name, first), (other, second)), 1):
            peer = ["peer", "name", "eth0", "netns", netns]
            subprocess.run(["ip", "link", "add", f"p{number}", "type", "veth", *peer], check=True)
            subprocess.run(["ip", "link", "set", f"p{number}", "up"], check=True)
            subprocess.run(["ip", "-n", netns, "addr", "add", f"10.8.0.{number}/24", "dev", "eth0"], check=True)
            subprocess.run(["ip", "-n", netns, "link", "set", "eth0", "up"], check=True)
            openvswitch.vsctl("add-port", "br0", f"p{number}", *options.split())
        ping = ["ip", "netns", "exec", other, "busybox", "ping", "-c", "1", "-W", "1", "10.8.0.1"]
        return any(subprocess.run(ping, capture_output=True, check=False).returncode == 0 for _ in range(3))

    yield reaches
    subprocess.run(["ip", "netns", "del", other], check=True)


@pytest.mark.parametrize(
    ("first", "second", "reached"),
    [("tag=5", "tag=5", True), ("tag=5", "tag=6", False), ("", "", True)],
    ids=["one VLAN", "two VLANs", "no VLAN"],
)
def test_ports_reach_each_other_in_one_vlan_only(pods, openvswitch, first, second, reached):
    assert pods(first, second) is reached
    assert openvswitch.vsctl("get", "bridge", "br0", "datapath_type") == openvswitch.datapath
    assert openvswitch.vsctl("get", "interface", "p1", "error") == "[]"


def test_it_ends_with_its_test_and_leaves_no_link(node_netns, tmp_path):
    with running(tmp_path, "netdev") as switch:
        switch.add_bridge("br0")
        assert len(_processes_of(tmp_path)) == 2
        assert "br0" in _links()
    assert _processes_of(tmp_path) == set()
    assert _links() == {"lo"}


def test_a_switch_that_does_not_start_says_why(node_netns, tmp_path):
    (tmp_path / "vswitchd.ctl").mkdir()
    with pytest.raises(RuntimeError, match="ovs-vswitchd does not start"), running(tmp_path, "netdev"):
        pytest.fail("it runs without its control socket")
    assert _processes_of(tmp_path) == set()


def _links() -> set[str]:
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True).stdout
    return {one["ifname"] for one in json.loads(shown)}


def _processes_of(folder: Path) -> set[str]:
    """The processes that have the switch's folder in their command line."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(folder) in path.read_bytes():
                found.add(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
