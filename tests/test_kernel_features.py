"""A feature that is missing skips on the machine and fails in the guest, and the guest has each of them.

The tests marked `netns` run in both places, so here they prove that nothing is skipped twice.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import kernel_features, sriov
from tests.kernel_features import FEATURES, needs
from tests.sriov import VirtualFunctions


def item(*marks: pytest.MarkDecorator) -> SimpleNamespace:
    return SimpleNamespace(iter_markers=lambda name: [one.mark for one in marks if one.name == name])


@pytest.fixture
def without_ipvlan(monkeypatch):
    monkeypatch.delenv("HOTNIC_FULL_KERNEL", raising=False)
    monkeypatch.setattr(kernel_features, "missing", {"ipvlan": "Unknown device type.", "vlan": ""}.__getitem__)


def test_a_missing_feature_skips_and_says_what_runs_it(without_ipvlan):
    with pytest.raises(pytest.skip.Exception, match="no ipvlan; `make test-kernel` runs it"):
        kernel_features.require(item(needs("vlan", "ipvlan")))


def test_a_missing_feature_fails_where_the_whole_kernel_is_promised(without_ipvlan, monkeypatch):
    monkeypatch.setenv("HOTNIC_FULL_KERNEL", "1")
    with pytest.raises(pytest.fail.Exception, match=r"ipvlan: Unknown device type\."):
        kernel_features.require(item(needs("vlan"), needs("ipvlan")))


def test_what_is_there_or_not_asked_for_neither_skips_nor_fails(without_ipvlan):
    kernel_features.require(item(needs("vlan"), pytest.mark.netns))
    kernel_features.require(item())


def test_a_feature_that_nobody_knows_is_an_error_where_it_is_written():
    with pytest.raises(ValueError, match="no such kernel feature: vlam"):
        needs("vlan", "vlam")


@pytest.mark.netns
@pytest.mark.parametrize("feature", [pytest.param(name, marks=needs(name)) for name in FEATURES])
def test_the_guest_has_every_feature(feature):
    assert kernel_features.missing(feature) == ""


@pytest.mark.netns
def test_a_thing_that_no_kernel_has_is_missing(monkeypatch):
    monkeypatch.setattr(kernel_features, "FEATURES", {"nothing": "ip link add name n0 type hotnic-nothing"})
    assert "nknown device type" in kernel_features.missing("nothing")


@pytest.mark.netns
@needs("bridge_vlan", "vlan")
def test_frames_of_one_vlan_of_a_bridge_do_not_reach_another(node_netns, two_pods):
    ip("link", "add", "name", "br0", "type", "bridge", "vlan_filtering", "1", "vlan_default_pvid", "0")
    ip("link", "set", "br0", "up")
    for port, vid in zip(two_pods, (7, 8), strict=True):
        ip("link", "set", port, "master", "br0")
        bridge_vlan("add", port, vid)
    assert not reaches(two_pods[0], "10.8.0.2")
    bridge_vlan("del", two_pods[1], 8)
    bridge_vlan("add", two_pods[1], 7)
    assert reaches(two_pods[0], "10.8.0.2")


@pytest.mark.netns
@needs("sriov")
def test_a_virtual_function_reaches_the_wire_with_the_address_and_vlan_that_its_card_gives_it(
    virtual_functions: VirtualFunctions, pod_netns: str
):
    pf, vf, peer, pod = virtual_functions.pf, virtual_functions.vfs[1], virtual_functions.peer, Path(pod_netns).name
    ip("link", "set", pf, "vf", "1", "mac", "02:00:00:00:aa:01", "vlan", "7", "spoofchk", "on", "trust", "off")
    ip("link", "set", vf, "netns", pod)
    ip("-n", pod, "link", "set", vf, "address", "02:00:00:00:aa:01", "up")
    ip("-n", pod, "address", "add", "10.8.1.1/24", "dev", vf)
    ip("address", "add", "10.8.1.2/24", "dev", peer)
    sriov.await_carrier(vf, pod)
    assert not reaches(pod, "10.8.1.2")
    ip("address", "flush", "dev", peer)
    ip("link", "add", "link", peer, "name", "wire7", "type", "vlan", "id", "7")
    try:
        ip("address", "add", "10.8.1.2/24", "dev", "wire7")
        ip("link", "set", "wire7", "up")
        assert reaches(pod, "10.8.1.2")
        neighbours = json.loads(ip("-json", "neighbour", "show", "10.8.1.1", "dev", "wire7"))
        assert [one["lladdr"] for one in neighbours] == ["02:00:00:00:aa:01"]
    finally:
        ip("link", "del", "wire7")


@pytest.mark.netns
@needs("sriov")
def test_virtual_functions_go_with_their_test_wherever_they_are(pod_netns):
    before, pod = links(), Path(pod_netns).name
    with sriov.made(2) as functions:
        assert links() == before | set(functions.vfs)
        ip("link", "set", functions.vfs[0], "netns", pod)
    assert links() == before
    assert links("-n", pod) == {"lo"}


@pytest.fixture
def two_pods(pod_netns: str) -> Iterator[tuple[str, ...]]:
    """The node's ends of two veth pairs, each named as the namespace that its other end is in."""
    names = tuple(f"hn{pod_netns[-8:]}{letter}" for letter in "ab")
    for number, name in enumerate(names, 1):
        ip("netns", "add", name)
        ip("link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", name, "up")
        ip("-n", name, "address", "add", f"10.8.0.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
    yield names
    for name in names:
        ip("netns", "del", name)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def links(*where: str) -> set[str]:
    return {one["ifname"] for one in json.loads(ip(*where, "-json", "link"))}


def bridge_vlan(verb: str, port: str, vid: int) -> None:
    tags = ["pvid", "untagged"] if verb == "add" else []
    subprocess.run(["bridge", "vlan", verb, "dev", port, "vid", str(vid), *tags], check=True)


def reaches(netns: str, address: str) -> bool:
    ping = ["ip", "netns", "exec", netns, "busybox", "ping", "-c", "1", "-W", "1", address]
    return any(subprocess.run(ping, capture_output=True, check=False).returncode == 0 for _ in range(3))
