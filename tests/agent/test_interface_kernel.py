"""The options that every kind of device has, on the real kernel: what the plugin `tuning` does elsewhere."""

import subprocess
from pathlib import Path

import pytest

from cni import errors
from tests.agent import kinds
from tests.agent.native import FakeIPAM, Plugin, ip, link
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns", "kernel")]

IPAM = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
        "routes": [{"dst": "10.20.0.0/16"}]}  # fmt: skip


@pytest.fixture(params=["veth", pytest.param("macvlan", marks=needs("macvlan"))])
def attach(request, pod_netns):
    """An attachment with these options."""
    kind = kinds.KINDS[request.param][0]
    kind.prepare()
    return lambda fake=None, **config: Plugin(pod_netns, fake, **{"device": request.param, **kind.config, **config})


def setting(netns: str, path: str) -> str:
    command = ["ip", "netns", "exec", Path(netns).name, "cat", f"/proc/sys/net/{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def flags(netns: str) -> list[str]:
    return link("net1", netns)["flags"]


def test_settings_are_the_pods_and_check_names_one_that_was_changed(attach, pod_netns):
    wanted = {"net.ipv4.conf.IFNAME.arp_filter": "1", "net/ipv4/conf/net1/rp_filter": "2", "net.core.somaxconn": "555"}
    plugin = attach(sysctl=wanted)
    node = Path("/proc/sys/net/core/somaxconn").read_text()
    document = plugin("ADD")
    assert setting(pod_netns, "ipv4/conf/net1/arp_filter") == "1"
    assert setting(pod_netns, "ipv4/conf/net1/rp_filter") == "2"
    assert setting(pod_netns, "core/somaxconn") == "555"
    assert Path("/proc/sys/net/core/somaxconn").read_text() == node != "555\n"
    plugin("CHECK", prevResult=document)
    command = [
        "ip",
        "netns",
        "exec",
        Path(pod_netns).name,
        "sh",
        "-c",
        "echo 0 > /proc/sys/net/ipv4/conf/net1/arp_filter",
    ]
    subprocess.run(command, check=True)
    with pytest.raises(errors.CNIError, match="arp_filter is '0', not '1'"):
        plugin("CHECK", prevResult=document)


def test_those_of_args_win(attach, pod_netns):
    name = "net.ipv4.conf.IFNAME.arp_filter"
    attach(sysctl={name: "0"}, args={"cni": {"sysctl": {name: "1"}}})("ADD")
    assert setting(pod_netns, "ipv4/conf/net1/arp_filter") == "1"


def test_a_setting_that_the_kernel_has_not_got_is_an_error_and_nothing_is_left(attach, pod_netns):
    before = ip("link")
    with pytest.raises(errors.CNIError, match="no_such_thing"):
        attach(sysctl={"net.ipv4.conf.IFNAME.no_such_thing": "1"})("ADD")
    assert (link("net1", pod_netns), [one["ifname"] for one in ip("link")]) == (None, [one["ifname"] for one in before])


@pytest.mark.parametrize(("option", "shown"), [("promisc", "PROMISC"), ("allmulti", "ALLMULTI")])
def test_modes_are_set_and_taken_back_in_place_and_left_alone_where_not_said(attach, pod_netns, option, shown):
    attach(**{option: True})("ADD")
    assert shown in flags(pod_netns)
    attach()("ADD")
    assert shown in flags(pod_netns)
    attach(**{option: False})("ADD")
    assert shown not in flags(pod_netns)


def test_the_queue_has_the_length_that_is_asked_for_and_a_new_one_in_place(attach, pod_netns):
    for length in (77, 99):
        attach(txQLen=length)("ADD")
        assert link("net1", pod_netns)["txqlen"] == length


def test_a_link_that_shall_be_down_is_down_with_its_address_and_comes_up_with_its_routes(attach, pod_netns):
    down = attach(FakeIPAM(IPAM), ipam={"type": "fake"}, runtimeConfig={"linkState": "down"})
    document = down("ADD")
    assert "UP" not in flags(pod_netns)
    assert ip("addr", "show", "dev", "net1", netns=pod_netns)[0]["addr_info"][0]["local"] == "10.9.0.5"
    down("CHECK", prevResult=document)
    attach(FakeIPAM(IPAM), ipam={"type": "fake"})("ADD")
    assert "UP" in flags(pod_netns)
    assert "10.20.0.0/16" in [one["dst"] for one in ip("route", netns=pod_netns)]
    attach(FakeIPAM(IPAM), ipam={"type": "fake"}, linkState="down")("ADD")
    assert "UP" not in flags(pod_netns)


def test_a_mac_is_changed_in_place(attach, pod_netns):
    attach()("ADD")
    index = link("net1", pod_netns)["ifindex"]
    document = attach(runtimeConfig={"mac": "02:11:22:33:44:66"})("ADD")
    made = link("net1", pod_netns)
    assert (made["ifindex"], made["address"], "UP" in made["flags"]) == (index, "02:11:22:33:44:66", True)
    assert document["interfaces"][-1]["mac"] == "02:11:22:33:44:66"
