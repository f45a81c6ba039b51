"""Edits that change an interface in place: it stays the same link, and the status tells of it as it is now."""

import pytest

from e2e import networks

pytestmark = pytest.mark.lane

CAPABILITIES = {"mac": True, "ips": True, "bandwidth": True}


def known(pod, name: str) -> str:
    return pod.sh(f"cat /sys/class/net/net1/{name}").strip()


def test_mac_mtu_and_addresses_change_and_the_link_stays(ns):
    ns.network("blue", networks.native("br-blue", capabilities=CAPABILITIES, ipam={"type": "static"}))
    pod = ns.pod("a")
    pod.plug([{"name": "blue", "interface": "net1", "ips": ["10.81.0.5/24"]}])
    pod.wait_ready("net1")
    index = known(pod, "ifindex")
    mac = "02:00:00:81:00:01"
    pod.plug([{"name": "blue", "interface": "net1", "mac": mac, "ips": ["10.81.0.6/24"], "cni-args": {"mtu": 1300}}])
    pod.wait("the status has the MAC", lambda: pod.reported().get("net1", {}).get("mac") == mac)
    assert [known(pod, name) for name in ("ifindex", "address", "mtu")] == [index, mac, "1300"]
    assert (pod.reported()["net1"]["ips"], pod.addresses("net1")) == (["10.81.0.6"], ["10.81.0.6/24"])


def test_a_lease_is_not_swapped_in_place(ns):
    conf = networks.native("br-pool", capabilities=CAPABILITIES, ipam={"type": "host-local", "subnet": "10.82.0.0/24"})
    ns.network("pool", conf)
    pod = ns.pod("a")
    pod.plug([{"name": "pool", "interface": "net1", "ips": ["10.82.0.5/24"]}])
    pod.wait_ready("net1")
    pod.plug([{"name": "pool", "interface": "net1", "ips": ["10.82.0.6/24"]}])
    pod.wait("the new address is told", lambda: pod.reported().get("net1", {}).get("ips") == ["10.82.0.6"])
    assert pod.addresses("net1") == ["10.82.0.6/24"]
    other = ns.pod("b", [{"name": "pool", "interface": "net1", "ips": ["10.82.0.5/24"]}])  # it is free again
    other.wait_ready("net1")
