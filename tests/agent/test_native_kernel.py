"""The device `bridge` on the real kernel, between two namespaces of the test's own."""

import ipaddress
import subprocess
from pathlib import Path

import pytest

from agent import netns, options
from agent.model import ContainerID, Key
from cni import errors, result
from tests.agent.native import CONTAINER, FakeIPAM, ip, link, ping
from tests.agent.native import Plugin as AnyPlugin

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns", "kernel")]


def Plugin(pod_netns, fake=None, **config):
    return AnyPlugin(pod_netns, fake, **{"device": "bridge", "bridge": "br0", **config})


def test_an_attachment_is_whole_and_its_result_is_what_the_kernel_says(pod_netns):
    document = Plugin(pod_netns, mtu=1400, runtimeConfig={"mac": "02:11:22:33:44:55"})("ADD")
    pod, host = link("net1", pod_netns), link(options.host_name(Key(ContainerID(CONTAINER), "net1")))
    assert (pod["address"], pod["mtu"], "UP" in pod["flags"]) == ("02:11:22:33:44:55", 1400, True)
    assert (host["master"], host["mtu"], "UP" in host["flags"]) == ("br0", 1400, True)
    assert document["interfaces"][2] == {
        "name": "net1", "mac": "02:11:22:33:44:55", "mtu": 1400, "sandbox": pod_netns,
    }  # fmt: skip
    assert [one["name"] for one in document["interfaces"][:2]] == ["br0", host["ifname"]]
    assert all("sandbox" not in one for one in document["interfaces"][:2])


def test_two_pods_on_one_bridge_reach_each_other(pod_netns, second_pod_netns):
    for number, path in enumerate((pod_netns, second_pod_netns), 1):
        Plugin(path)("ADD", container=f"c{number}")
        ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=path)
    ping(pod_netns, "10.7.0.2")


def test_delete_removes_both_ends_and_a_second_and_third_do_nothing(pod_netns):
    plugin = Plugin(pod_netns)
    plugin("ADD")
    for _ in range(3):
        plugin("DEL")
    assert link("net1", pod_netns) is None
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]


def test_delete_works_when_the_pod_renamed_its_interface_and_changed_its_mac(pod_netns):
    plugin = Plugin(pod_netns)
    plugin("ADD")
    ip("link", "set", "net1", "down", netns=pod_netns)
    ip("link", "set", "net1", "name", "mine", "address", "02:00:00:00:00:77", netns=pod_netns)
    plugin("DEL")
    assert link("mine", pod_netns) is None


def test_delete_leaves_a_link_of_the_same_name_alone_that_is_not_ours(pod_netns):
    ip("link", "add", options.host_name(Key(ContainerID(CONTAINER), "net1")), "type", "veth", "peer", "name", "x")
    Plugin(pod_netns)("DEL")
    assert link("x") is not None


def test_a_name_that_is_taken_in_the_pod_is_an_error_and_the_link_there_is_unchanged(pod_netns):
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other", netns=pod_netns)
    before = link("net1", pod_netns)
    with pytest.raises(errors.CNIError) as caught:
        Plugin(pod_netns)("ADD")
    assert (caught.value.code, "net1" in caught.value.message) == (7, True)
    assert link("net1", pod_netns) == before
    assert [one["ifname"] for one in ip("link")] == ["lo"]


def test_the_nodes_own_namespace_is_refused_before_anything_is_done():
    with pytest.raises(errors.CNIError) as caught:
        Plugin("/proc/thread-self/ns/net")("ADD")
    assert caught.value.code == 8
    assert [one["ifname"] for one in ip("link")] == ["lo"]


@pytest.mark.parametrize("path", ["/run/netns/hntest-not-there", "/etc/hostname", "/"])
def test_what_is_no_namespace_is_refused(path):
    with pytest.raises(errors.CNIError) as caught:
        Plugin(path)("ADD")
    assert caught.value.code == 8


def test_something_else_under_the_bridges_name_is_refused(pod_netns):
    ip("link", "add", "br0", "type", "veth", "peer", "name", "x")
    with pytest.raises(errors.CNIError, match="not a bridge"):
        Plugin(pod_netns)("ADD")
    assert link("net1", pod_netns) is None


IPAM = {
    "cniVersion": "1.1.0",
    "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::5/64", "gateway": "fd00:9::1"}],
    "routes": [
        {"dst": "10.20.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 42},
        {"dst": "10.30.0.0/16", "gw": "10.9.0.7", "table": 100},
        {"dst": "fd00:20::/64"},
    ],
    "dns": {"nameservers": ["10.9.0.1"]},
}


def test_addresses_and_routes_of_ipam_are_in_the_kernel_with_all_their_attributes(pod_netns):
    ipam = FakeIPAM(IPAM)
    document = Plugin(pod_netns, ipam, ipam={"type": "fake"})("ADD")
    addresses = {
        f"{one['local']}/{one['prefixlen']}": one
        for shown in ip("addr", "show", "dev", "net1", netns=pod_netns) for one in shown["addr_info"]
    }  # fmt: skip
    assert {"10.9.0.5/24", "fd00:9::5/64"} <= set(addresses)
    assert not addresses["fd00:9::5/64"].get("tentative")
    route = next(one for one in ip("-d", "route", netns=pod_netns) if one["dst"] == "10.20.0.0/16")
    assert (route["gateway"], route["metric"]) == ("10.9.0.1", 42)
    assert route["metrics"] == [{"mtu": 1300, "advmss": 1200}]
    assert ip("route", "show", "table", "100", netns=pod_netns)[0]["gateway"] == "10.9.0.7"
    assert ip("-6", "route", "show", "fd00:20::/64", netns=pod_netns)[0]["gateway"] == "fd00:9::1"
    assert {one["interface"] for one in document["ips"]} == {2}
    assert result.decode(document).dns.nameservers == ("10.9.0.1",)
    assert ipam.calls == [("fake", "ADD", "ADD", {"type": "fake"})]


@pytest.mark.parametrize(
    "answer",
    [errors.CNIError(11, "pool is empty"), {"cniVersion": "1.1.0", "ips": []}],
    ids=["ipam-fails", "ipam-has-no-address"],
)
def test_without_an_address_nothing_is_left_and_ipam_is_told(pod_netns, answer):
    ipam = FakeIPAM(answer)
    with pytest.raises(errors.CNIError):
        Plugin(pod_netns, ipam, ipam={"type": "fake"})("ADD")
    assert [call[1] for call in ipam.calls] == ["ADD", "DEL"]
    assert link("net1", pod_netns) is None
    assert [one["ifname"] for one in ip("link")] == ["lo"]


def test_a_link_that_cannot_be_made_releases_the_address(pod_netns):
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other", netns=pod_netns)
    ipam = FakeIPAM(IPAM)
    with pytest.raises(errors.CNIError):
        Plugin(pod_netns, ipam, ipam={"type": "fake"})("ADD")
    assert [call[1] for call in ipam.calls] == ["ADD", "DEL"]


def test_delete_releases_the_address_though_the_link_and_the_namespace_are_gone():
    ipam = FakeIPAM(IPAM)
    Plugin("", ipam, ipam={"type": "fake"})("DEL")
    assert [call[1] for call in ipam.calls] == ["DEL"]


def test_check_passes_right_after_add_and_names_what_was_broken_since(pod_netns):
    plugin = Plugin(pod_netns, FakeIPAM(IPAM), ipam={"type": "fake"})
    previous = plugin("ADD")
    plugin("CHECK", prevResult=previous)
    ip("addr", "add", "10.99.0.1/24", "dev", "net1", netns=pod_netns)
    plugin("CHECK", prevResult=previous)
    ip("addr", "del", "10.9.0.5/24", "dev", "net1", netns=pod_netns)
    with pytest.raises(errors.CNIError, match=r"10\.9\.0\.5/24 is missing"):
        plugin("CHECK", prevResult=previous)


def test_check_passes_for_a_layer_two_network(pod_netns):
    plugin = Plugin(pod_netns)
    plugin("CHECK", prevResult=plugin("ADD"))


def test_a_chained_plugin_keeps_what_was_before_it(pod_netns):
    before = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": pod_netns}],
        "ips": [{"address": "10.0.0.9/24", "interface": 0}],
    }
    document = Plugin(pod_netns, FakeIPAM(IPAM), ipam={"type": "fake"})("ADD", prevResult=before)
    assert [one["name"] for one in document["interfaces"]][0::3] == ["eth0", "net1"]
    assert [(one["address"], one["interface"]) for one in document["ips"]] == [
        ("10.0.0.9/24", 0), ("10.9.0.5/24", 3), ("fd00:9::5/64", 3),
    ]  # fmt: skip


def test_twenty_at_once_on_a_bridge_that_is_not_there_yet_make_one_bridge(pod_netns):
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 used by this test only

    plugin = Plugin(pod_netns)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: plugin("ADD", f"n{number}", f"c{number}"), range(20)))
    ports = [one for one in ip("link") if one.get("master") == "br0"]
    assert len(ports) == 20
    assert [one["ifname"] for one in ip("-d", "link") if one.get("linkinfo", {}).get("info_kind") == "bridge"] == [
        "br0"
    ]


def test_default_routes_move_to_the_interface_that_asks_and_come_back(pod_netns, kernel):
    for name, net in (("eth0", "10.1.0"), ("net1", "10.2.0")):
        ip("link", "add", name, "type", "veth", "peer", "name", f"p{name}", netns=pod_netns)
        for one in (name, f"p{name}"):
            ip("link", "set", one, "up", netns=pod_netns)
        ip("addr", "add", f"{net}.5/24", "dev", name, netns=pod_netns)
    ip("route", "add", "default", "via", "10.1.0.1", "metric", "7", netns=pod_netns)
    with netns.View().opened(pod_netns) as fd:
        displaced = kernel.default_routes(fd, ("10.2.0.1",))
        kernel.replace_default_routes(fd, "net1", ("10.2.0.1",))
        assert [(one["dev"], one["gateway"]) for one in ip("route", "show", "default", netns=pod_netns)] == [
            ("net1", "10.2.0.1")
        ]
        ip("link", "del", "net1", netns=pod_netns)
        for route in displaced:
            kernel.restore_default_route(fd, route)
    back = ip("route", "show", "default", netns=pod_netns)
    assert [(one["dev"], one["gateway"], one["metric"]) for one in back] == [("eth0", "10.1.0.1", 7)]


def test_ports_are_isolated_and_hairpinned_where_asked(pod_netns):
    Plugin(pod_netns, portIsolation=True, hairpinMode=True)("ADD")
    host = link(options.host_name(Key(ContainerID(CONTAINER), "net1")))
    data = host["linkinfo"]["info_slave_data"]
    assert (data["isolated"], data["hairpin"]) == (True, True)


def test_an_ipv6_address_is_given_where_ipv6_is_off(pod_netns):
    subprocess.run(["ip", "netns", "exec", Path(pod_netns).name, "sh", "-c",
                    "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"], check=True)  # fmt: skip
    Plugin(pod_netns, FakeIPAM(IPAM), ipam={"type": "fake"})("ADD")
    shown = ip("-6", "addr", "show", "dev", "net1", "scope", "global", netns=pod_netns)
    found = [
        ipaddress.ip_address(one["local"]) for entry in shown for one in entry.get("addr_info", []) if "local" in one
    ]
    assert ipaddress.ip_address("fd00:9::5") in found


def test_mac_mtu_addresses_and_state_change_in_place(pod_netns):
    first = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24"}, {"address": "10.9.0.6/24"}]}
    second = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.6/24"}, {"address": "fd00:9::5/64"}]}
    ipam = FakeIPAM(first)
    plugin = Plugin(pod_netns, ipam, ipam={"type": "static"})
    before = plugin("ADD")
    index = link("net1", pod_netns)["ifindex"]
    ip("addr", "add", "10.99.0.1/24", "dev", "net1", netns=pod_netns)
    ipam.answer = second
    wishes = {"runtimeConfig": {"mac": "02:11:22:33:44:55"}, "args": {"cni": {"mtu": 1300}}}
    after = plugin.update(before, **wishes)
    now = link("net1", pod_netns)
    assert (now["ifindex"], now["address"], now["mtu"]) == (index, "02:11:22:33:44:55", 1300)
    assert link(options.host_name(Key(ContainerID(CONTAINER), "net1")))["mtu"] == 1300
    shown = ip("addr", "show", "dev", "net1", netns=pod_netns)[0]["addr_info"]
    addresses = {f"{one['local']}/{one['prefixlen']}" for one in shown if one["scope"] == "global"}
    assert addresses == {"10.9.0.6/24", "10.99.0.1/24", "fd00:9::5/64"}  # another's address stays
    assert (after["interfaces"][2]["mac"], after["interfaces"][2]["mtu"]) == ("02:11:22:33:44:55", 1300)
    plugin.update(after, args={"cni": {"linkState": "down"}})
    assert "UP" not in link("net1", pod_netns)["flags"]


def test_what_is_gone_cannot_be_updated(pod_netns):
    plugin = Plugin(pod_netns)
    before = plugin("ADD")
    ip("link", "del", "net1", netns=pod_netns)
    with pytest.raises(errors.CNIError, match="net1 is gone"):
        plugin.update(before)
    assert link("net1", pod_netns) is None
