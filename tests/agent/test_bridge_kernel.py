"""What the device `bridge` does besides a plain port, on the real kernel, with frames as they are on the wire."""

import json
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import delegate, options
from agent.model import ContainerID, Key
from cni import errors
from e2e import build
from tests.agent.native import CONTAINER, FakeIPAM, ip, link, ping
from tests.agent.native import Plugin as AnyPlugin
from tests.agent.wire import Wire
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns", "kernel")]

FILTERING = ("link", "add", "br0", "type", "bridge", "vlan_filtering", "1")


def Plugin(pod_netns, fake=None, **config):
    return AnyPlugin(pod_netns, fake, **{"device": "bridge", "bridge": "br0", **config})


def port(ifname="net1", container=CONTAINER) -> str:
    return options.host_name(Key(ContainerID(container), ifname))


def vlans(name: str) -> dict[int, tuple[str, ...]]:
    """{ID: flags} of one port."""
    run = subprocess.run(["bridge", "-json", "vlan", "show", "dev", name], check=True, capture_output=True, text=True)
    found: dict[int, tuple[str, ...]] = {}
    for one in (vlan for shown in json.loads(run.stdout) for vlan in shown["vlans"]):
        for number in range(one["vlan"], one.get("vlanEnd", one["vlan"]) + 1):
            found[number] = tuple(one.get("flags", ()))
    return found


def bridge_tool(*arguments: str) -> None:
    subprocess.run(["bridge", *arguments], check=True, capture_output=True)


@pytest.fixture
def wire() -> Iterator[Callable[[str, str], Wire]]:
    opened: list[Wire] = []

    def open_one(path: str, ifname: str = "net1") -> Wire:
        opened.append(Wire(path, ifname))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


NATIVE = ("PVID", "Egress Untagged")


@needs("bridge_vlan")
@pytest.mark.parametrize("before", [(), (FILTERING,), ((*FILTERING, "vlan_default_pvid", "0"),),
                                    ((*FILTERING, "vlan_default_pvid", "7"),)],
                         ids=["no-bridge", "default-1", "no-default", "default-7"])  # fmt: skip
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vlan": 100}, {100: NATIVE}),
        ({"vlan": 1}, {1: NATIVE}),
        ({"vlanTrunk": [{"id": 5}, {"minID": 100, "maxID": 102}]}, {1: NATIVE, 5: (), 100: (), 101: (), 102: ()}),
        ({"vlan": 101, "vlanTrunk": [{"minID": 100, "maxID": 103}]},
         {100: (), 101: NATIVE, 102: (), 103: ()}),
        ({"vlanTrunk": [{"minID": 1, "maxID": 4094}]}, {1: NATIVE, **dict.fromkeys(range(2, 4095), ())}),
    ],
    ids=["access", "access-1", "trunk", "both", "all"],
)  # fmt: skip
def test_a_port_has_its_vlans_and_no_other(pod_netns, before, config, expected):
    for command in before:
        ip(*command)
    plugin = Plugin(pod_netns, **config)
    result = plugin("ADD")
    assert vlans(port()) == expected
    plugin("CHECK", prevResult=result)
    for _ in range(2):
        plugin("DEL")
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]


@needs("bridge_vlan")
def test_the_default_vlan_is_kept_where_asked(pod_netns):
    Plugin(pod_netns, vlan=100, preserveDefaultVlan=True)("ADD")
    assert vlans(port()) == {1: ("Egress Untagged",), 100: NATIVE}


@needs("bridge_vlan")
def test_access_and_trunk_ports_carry_their_vlans_and_nothing_else(pod_netns, second_pod_netns, wire):
    wishes = {
        "trunk": {"vlanTrunk": [{"id": 100}, {"minID": 200, "maxID": 202}]},
        "a100": {"vlan": 100},
        "b100": {"vlan": 100},
        "a201": {"vlan": 201},
        "a300": {"vlan": 300},
        "plain": {},
    }
    for name, wish in wishes.items():
        Plugin(pod_netns, **wish)("ADD", ifname=name, container=name)
    wires = {name: wire(pod_netns, name) for name in wishes}
    trunk = wires["trunk"]
    for name, vlan in (("a100", 100), ("b100", 100), ("a201", 201), ("plain", 0)):
        trunk.await_way_to(wires[name], vlan)

    numbers = (0, 1, 99, 100, 101, 200, 201, 202, 203, 300, 4094)
    for number in numbers:
        trunk.send(b"t%d" % number, number)
    for name, vlan in (("a100", 100), ("a201", 201), ("plain", 0)):
        trunk.send(b"end", vlan)
        assert wires[name].until(b"end") == ({(0, b"t%d" % vlan)} | ({(0, b"t1")} if name == "plain" else set()))

    wires["b100"].until(b"end")
    for number in numbers:
        wires["b100"].send(b"b%d" % number, number)
    wires["b100"].send(b"end")
    assert wires["a100"].until(b"end") == {(0, b"b0"), (0, b"b100")}
    assert trunk.until(b"end") == {(100, b"b0"), (100, b"b100")}

    wires["a300"].send(b"alone")
    wires["a300"].send(b"tagged", 100)
    wires["a201"].send(b"end")
    assert trunk.until(b"end") == set()
    for one in ("a100", "plain"):
        trunk.send(b"end", 100 if one == "a100" else 0)
        assert wires[one].until(b"end") == set()


@needs("bridge_vlan")
def test_check_names_each_vlan_that_is_missing_or_other(pod_netns):
    plugin = Plugin(pod_netns, vlan=100, vlanTrunk=[{"minID": 200, "maxID": 202}])
    result = plugin("ADD")
    bridge_tool("vlan", "add", "dev", port(), "vid", "7")  # another's: no mismatch
    plugin("CHECK", prevResult=result)
    bridge_tool("vlan", "del", "dev", port(), "vid", "201")
    bridge_tool("vlan", "add", "dev", port(), "vid", "100", "untagged")
    with pytest.raises(errors.CNIError) as caught:
        plugin("CHECK", prevResult=result)
    message = str(caught.value)
    assert "VLAN 100 untagged, not untagged and PVID" in message
    assert "no VLAN 201" in message
    assert "200" not in message
    ip("link", "set", "br0", "type", "bridge", "vlan_filtering", "0")
    with pytest.raises(errors.CNIError, match="br0 has no VLAN filtering"):
        plugin("CHECK", prevResult=result)


@needs("bridge_vlan")
@pytest.mark.parametrize("config", [{"vlan": 100}, {"vlanTrunk": [{"id": 100}]}], ids=["access", "trunk"])
def test_a_bridge_without_vlan_filtering_is_refused_and_left_as_it_is(pod_netns, config):
    ip("link", "add", "br0", "type", "bridge")
    before = link("br0")
    for verb, code in (("ADD", 7), ("STATUS", 50)):
        with pytest.raises(errors.CNIError) as caught:
            Plugin(pod_netns, **config)(verb)
        assert caught.value.code == code
        for named in ("'br0'", "vlan", "ip link set br0 type bridge vlan_filtering 1"):
            assert named in caught.value.message
    assert link("br0") == before
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]
    assert link("net1", pod_netns) is None


@needs("bridge_vlan")
def test_what_a_crash_has_left_half_done_is_completed(pod_netns):
    plugin = Plugin(pod_netns, vlan=100, vlanTrunk=[{"minID": 200, "maxID": 202}], hairpinMode=True, macspoofchk=True)
    result = plugin("ADD")
    bridge_tool("vlan", "del", "dev", port(), "vid", "200-202")
    bridge_tool("vlan", "add", "dev", port(), "vid", "1", "pvid", "untagged")
    bridge_tool("link", "set", "dev", port(), "hairpin", "off")
    subprocess.run(["tc", "qdisc", "del", "dev", port(), "clsact"], check=True)
    plugin("ADD")
    assert vlans(port()) == {100: NATIVE, 200: (), 201: (), 202: ()}
    plugin("CHECK", prevResult=result)
    ip("link", "set", port(), "nomaster")
    plugin("ADD")
    assert vlans(port()) == {100: NATIVE, 200: (), 201: (), 202: ()}


@needs("bridge_vlan")
def test_twenty_at_once_with_vlans_make_one_bridge(pod_netns):
    plugin = Plugin(pod_netns)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: plugin("ADD", f"n{number}", f"c{number}", vlan=100 + number), range(20)))
    for number in range(20):
        assert vlans(port(f"n{number}", f"c{number}")) == {100 + number: NATIVE}


@needs("bridge_vlan")
def test_no_plugin_without_vlans_wins_the_race_for_a_bridge_unseen(pod_netns):
    """Whoever makes it first: with VLANs or without. No port with VLANs is ever on a bridge that ignores them."""
    plugin = Plugin(pod_netns)

    def add(number: int) -> int:
        wish = {"vlan": 100} if number % 2 else {}
        try:
            plugin("ADD", f"n{number}", f"c{number}", **wish)
        except errors.CNIError as problem:
            return int(problem.code)
        return 0

    with ThreadPoolExecutor(10) as pool:
        codes = list(pool.map(add, range(10)))
    filtering = link("br0")["linkinfo"]["info_data"]["vlan_filtering"]
    assert codes == [0] * 10 if filtering else codes == [0, 7] * 5


def test_vlans_on_a_kernel_without_them_are_an_error_before_anything_is_made(pod_netns, monkeypatch):
    monkeypatch.setattr("agent.vlans.supported", lambda _: False)
    for verb in ("ADD", "STATUS"):
        with pytest.raises(errors.CNIError) as caught:
            Plugin(pod_netns, vlan=100)(verb)
        assert (caught.value.code, "vlan=100" in caught.value.message) == (50, True)
    assert [one["ifname"] for one in ip("link")] == ["lo"]
    Plugin(pod_netns, vlan=0)("ADD")
    Plugin(pod_netns, vlan=100)("DEL")
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]


def test_only_frames_from_its_own_mac_leave_a_pod_that_is_checked(pod_netns, second_pod_netns, wire):
    Plugin(pod_netns, macspoofchk=True)("ADD", container="checked")
    Plugin(second_pod_netns)("ADD", container="other")
    checked, other = wire(pod_netns), wire(second_pod_netns)
    checked.await_way_to(other)
    for source in (other.mac, "02:00:00:00:00:99", checked.mac[:-1] + ("0" if checked.mac[-1] != "0" else "1"),
                   ("06" if checked.mac[:2] != "06" else "02") + checked.mac[2:]):  # fmt: skip
        for vlan in (0, 5):
            checked.send(b"spoofed", vlan, source)
    checked.send(b"own")
    checked.send(b"tagged", 5)
    checked.send(b"end")
    assert other.until(b"end") == {(0, b"own"), (5, b"tagged")}
    other.send(b"foreign", source="02:00:00:00:00:99")  # not checked, and nothing on the way in
    other.send(b"end")
    assert checked.until(b"end") == {(0, b"foreign")}


@pytest.mark.parametrize("way", ["delete", "namespace-gone"])
def test_nothing_is_left_of_the_check(pod_netns, way):
    plugin = Plugin(pod_netns, macspoofchk=True)
    plugin("ADD")
    assert "bpf" in filters(port())
    if way == "namespace-gone":
        subprocess.run(["ip", "netns", "del", Path(pod_netns).name], check=True)
        plugin.netns = ""
    plugin("DEL")
    plugin("DEL")
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]
    nft = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True)
    assert nft.stdout == ""


def filters(name: str) -> str:
    run = subprocess.run(["tc", "filter", "show", "dev", name, "ingress"], check=True, capture_output=True, text=True)
    return run.stdout


@pytest.mark.parametrize("hook", ["clsact", "ingress"])
def test_the_check_comes_back_beside_the_traffic_control_of_others(pod_netns, hook):
    plugin = Plugin(pod_netns, macspoofchk=True)
    result = plugin("ADD")
    subprocess.run(["tc", "qdisc", "del", "dev", port(), "clsact"], check=True)
    with pytest.raises(errors.CNIError, match="does not check source MACs"):
        plugin("CHECK", prevResult=result)
    everything = "parent ffff:fff2 prio 9 protocol ip u32 match u32 0 0 flowid 1:1"
    for command in (f"qdisc add dev {port()} {hook}", f"filter add dev {port()} {everything}"):
        subprocess.run(["tc", *command.split()], check=True)
    plugin("ADD")
    plugin("CHECK", prevResult=result)
    assert "u32" in filters(port())


def test_the_check_follows_the_mac(pod_netns, second_pod_netns, wire):
    plugin = Plugin(pod_netns, macspoofchk=True)
    plugin("ADD", container="checked")
    Plugin(second_pod_netns)("ADD", container="other")
    plugin("ADD", container="checked", runtimeConfig={"mac": "02:11:22:33:44:55"})
    checked, other = wire(pod_netns), wire(second_pod_netns)
    assert checked.mac == "02:11:22:33:44:55"
    checked.await_way_to(other)


@pytest.mark.parametrize(
    ("option", "lose"),
    [
        ("hairpinMode", ("bridge", "link", "set", "dev", "{port}", "hairpin", "off")),
        ("portIsolation", ("bridge", "link", "set", "dev", "{port}", "isolated", "off")),
        ("promiscMode", ("ip", "link", "set", "br0", "promisc", "off")),
    ],
)
def test_a_setting_that_is_lost_is_named_and_set_again(pod_netns, option, lose):
    plugin = Plugin(pod_netns, **{option: True})
    result = plugin("ADD")
    plugin("CHECK", prevResult=result)
    subprocess.run([word.format(port=port()) for word in lose], check=True)
    with pytest.raises(errors.CNIError, match="promiscuous" if option == "promiscMode" else option):
        plugin("CHECK", prevResult=result)
    plugin("ADD")
    plugin("CHECK", prevResult=result)


def test_a_capture_on_the_bridge_stands_for_nothing(pod_netns):
    plugin = Plugin(pod_netns, promiscMode=True)
    result = plugin("ADD")
    ip("link", "set", "br0", "promisc", "off")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as capture:
        request = struct.pack("iHH8s", socket.if_nametoindex("br0"), 1, 0, b"")  # PACKET_MR_PROMISC
        capture.setsockopt(263, 1, request)
        assert link("br0")["promiscuity"] == 1
        with pytest.raises(errors.CNIError, match="promiscuous"):
            plugin("CHECK", prevResult=result)
        plugin("ADD")
        plugin("CHECK", prevResult=result)
    plugin("DEL")
    assert link("br0")["promiscuity"] == 1  # it is every pod's


LAYER_3 = {"ips": [{"address": "10.9.0.5/24"}, {"address": "fd00:9::5/64"}]}


def global_addresses(name: str, netns: str = "") -> set[str]:
    shown = ip("addr", "show", "dev", name, "scope", "global", netns=netns)
    return {f"{one['local']}/{one['prefixlen']}" for entry in shown for one in entry.get("addr_info", [])
            if "local" in one}  # fmt: skip


def test_the_bridge_is_the_gateway_and_the_default_route_goes_through_it(pod_netns):
    plugin = Plugin(pod_netns, FakeIPAM(LAYER_3), ipam={"type": "fake"}, isDefaultGateway=True)
    result = plugin("ADD")
    assert global_addresses("br0") == {"10.9.0.1/24", "fd00:9::1/64"}
    assert [one["gateway"] for one in result["ips"]] == ["10.9.0.1", "fd00:9::1"]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, {"dst": "::/0", "gw": "fd00:9::1"}]
    for family, gateway in (("-4", "10.9.0.1"), ("-6", "fd00:9::1")):
        assert ip(family, "route", "show", "default", netns=pod_netns)[0]["gateway"] == gateway
    plugin("CHECK", prevResult=result)
    ip("addr", "del", "10.9.0.1/24", "dev", "br0")
    subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=0"], check=True)
    with pytest.raises(errors.CNIError) as caught:
        plugin("CHECK", prevResult=result)
    assert "10.9.0.1/24" in str(caught.value)
    assert "ip_forward" in str(caught.value)
    plugin("DEL")
    assert global_addresses("br0") == {"fd00:9::1/64"}  # every pod's


@needs("bridge_vlan")
def test_the_gateway_of_a_vlan_is_a_link_of_its_own(pod_netns, second_pod_netns):
    wish = {"ipam": {"type": "fake"}, "isGateway": True, "vlan": 100}
    plugin = Plugin(pod_netns, FakeIPAM(LAYER_3), **wish)
    result = plugin("ADD")
    plugin("CHECK", prevResult=result)
    assert global_addresses("br0.100") == {"10.9.0.1/24", "fd00:9::1/64"}
    assert global_addresses("br0") == set()
    assert "br0.100" in [one["name"] for one in result["interfaces"]]
    ping(pod_netns, "10.9.0.1")
    (gateways_port,) = (one["ifname"] for one in ip("link") if one["ifname"].startswith("hg"))
    assert vlans(gateways_port) == {100: NATIVE}
    bridge_tool("vlan", "add", "dev", gateways_port, "vid", "200", "pvid", "untagged")
    with pytest.raises(errors.CNIError, match="VLAN 100"):
        plugin("CHECK", prevResult=result)
    other = {"ips": [{"address": "10.9.0.6/24"}]}
    Plugin(second_pod_netns, FakeIPAM(other), **wish)("ADD", container="second")
    assert vlans(gateways_port) == {100: NATIVE}
    plugin("CHECK", prevResult=result)
    for _ in range(2):
        plugin("DEL")
    ping(second_pod_netns, "10.9.0.1")


@needs("bridge_vlan")
def test_a_link_of_the_name_of_a_vlans_gateway_is_taken_as_it_is(pod_netns):
    ip(*FILTERING)
    ip("link", "add", "br0.100", "type", "veth", "peer", "name", "admins")
    Plugin(pod_netns, FakeIPAM(LAYER_3), ipam={"type": "fake"}, isGateway=True, vlan=100)("ADD")
    assert global_addresses("br0.100") == {"10.9.0.1/24", "fd00:9::1/64"}
    assert not [one["ifname"] for one in ip("link") if one["ifname"].startswith("hg")]


@needs("bridge_vlan")
def test_twenty_at_once_make_one_gateway_of_a_vlan(pod_netns):
    plugins = [
        Plugin(pod_netns, FakeIPAM({"ips": [{"address": f"10.9.0.{number}/24"}]}), ipam={"type": "fake"},
               isGateway=True, vlan=100)
        for number in range(10, 30)
    ]  # fmt: skip
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda item: item[1]("ADD", f"n{item[0]}", f"c{item[0]}"), enumerate(plugins)))
    assert global_addresses("br0.100") == {"10.9.0.1/24"}
    assert {tuple(vlans(one["ifname"])) for one in ip("link") if one["ifname"].startswith("h")} == {(100,)}


def test_a_bridge_with_another_address_is_refused_unless_forced(pod_netns):
    ip("link", "add", "br0", "type", "bridge")
    ip("addr", "add", "10.8.0.1/24", "dev", "br0")
    ipam = FakeIPAM(LAYER_3)
    with pytest.raises(errors.CNIError) as caught:
        Plugin(pod_netns, ipam, ipam={"type": "fake"}, isGateway=True)("ADD")
    assert (caught.value.code, "10.8.0.1/24" in caught.value.message) == (7, True)
    assert [call[1] for call in ipam.calls] == ["ADD", "DEL"]
    assert link("net1", pod_netns) is None
    assert global_addresses("br0") == {"10.8.0.1/24"}
    Plugin(pod_netns, ipam, ipam={"type": "fake"}, isGateway=True, forceAddress=True)("ADD")
    assert global_addresses("br0") == {"10.9.0.1/24", "fd00:9::1/64"}


def test_twenty_at_once_make_one_gateway(pod_netns):
    plugins = [
        Plugin(pod_netns, FakeIPAM({"ips": [{"address": f"10.9.0.{number}/24"}]}), ipam={"type": "fake"},
               isGateway=True)
        for number in range(10, 30)
    ]  # fmt: skip
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda item: item[1]("ADD", f"n{item[0]}", f"c{item[0]}"), enumerate(plugins)))
    assert global_addresses("br0") == {"10.9.0.1/24"}


def test_an_address_is_whole_when_add_with_duplicate_detection_returns(pod_netns):
    plugin = Plugin(pod_netns, FakeIPAM(LAYER_3), ipam={"type": "fake"}, enabledad=True)
    result = plugin("ADD")
    (shown,) = ip("-6", "addr", "show", "dev", "net1", "scope", "global", netns=pod_netns)
    (address,) = filter(None, shown["addr_info"])
    assert not address.get("tentative")
    assert not address.get("nodad")  # it has been detected, and was not just said to be
    plugin("CHECK", prevResult=result)


def test_an_address_that_another_host_has_fails_the_add(pod_netns, second_pod_netns):
    Plugin(second_pod_netns, FakeIPAM(LAYER_3), ipam={"type": "fake"})("ADD", container="first")
    with pytest.raises(errors.CNIError, match="fd00:9::5 is in use by another host"):
        Plugin(pod_netns, FakeIPAM(LAYER_3), ipam={"type": "fake"}, enabledad=True)("ADD")
    assert link("net1", pod_netns) is None


def test_the_interface_is_left_down_where_asked(pod_netns):
    plugin = Plugin(pod_netns, disableContainerInterface=True)
    result = plugin("ADD")
    assert "UP" not in link("net1", pod_netns)["flags"]
    plugin("CHECK", prevResult=result)


STATIC = {
    "type": "static",
    "addresses": [{"address": "10.9.0.5/24"}, {"address": "fd00:9::5/64"}],
}
OTHER_GATEWAY = {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.254"}]}


@pytest.mark.parametrize("ipam", [
    STATIC,
    {**STATIC, "routes": [{"dst": "10.20.0.0/16"}, {"dst": "fd00:20::/64", "gw": "fd00:9::7"}]},
    {**STATIC, "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.9"}]},
    OTHER_GATEWAY,
], ids=["plain", "routes", "own-default", "own-gateway"])  # fmt: skip
@pytest.mark.parametrize(
    "config",
    [{}, {"isGateway": True}, {"isDefaultGateway": True}, {"isDefaultGateway": True, "forceAddress": True},
     {"isGateway": True, "hairpinMode": True}, {"isGateway": True, "promiscMode": True},
     {"dns": {"nameservers": ["10.9.0.2"], "search": ["a.b"]}},
     pytest.param({"isDefaultGateway": True, "vlan": 100}, marks=needs("bridge_vlan"))],
    ids=lambda config: "-".join(config) or "none",
)  # fmt: skip
def test_the_result_and_the_kernel_are_as_with_the_reference_plugin(pod_netns, second_pod_netns, ipam, config):
    """One option after the other, in the same configuration: changing the type is the whole migration."""
    execute = delegate.Executor([build.tools()])
    wanted = {"cniVersion": "1.0.0", "name": "n", "bridge": "br0", "ipam": ipam, **config}
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_NETNS": pod_netns,
           "CNI_PATH": str(build.tools())}  # fmt: skip
    theirs = execute("bridge", "ADD", env, {**wanted, "type": "bridge"}, 20.0)
    there = seen(pod_netns)
    execute("bridge", "DEL", {**env, "CNI_COMMAND": "DEL"}, {**wanted, "type": "bridge"}, 20.0)
    for gone in ("br0", "br0.100"):
        subprocess.run(["ip", "link", "del", gone], check=False, capture_output=True)
    for knob in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        subprocess.run(["sysctl", "-qw", f"{knob}=0"], check=True)
    plugin = AnyPlugin(second_pod_netns, execute, **{**wanted, "device": "bridge"})
    ours = plugin("ADD")
    assert normal(ours) == normal(theirs)
    assert seen(second_pod_netns) == there
    plugin("CHECK", prevResult=ours)


def normal(result) -> dict:
    """Without what differs from call to call: MACs, the namespace, the host end's name, where in the list the pod's is.

    Ours tells of a route as it is in the kernel, with the gateway that the reference sets as well and leaves out.
    """
    names = [one["name"] for one in result["interfaces"]]
    gateways = {":" in one["address"]: one["gateway"] for one in reversed(result["ips"]) if "gateway" in one}
    routes = [
        {**({"gw": gateway} if (gateway := gateways.get(":" in one["dst"])) else {}), **one}
        for one in result.get("routes", [])
    ]
    named = sorted(name for name in names if name == "net1" or name.startswith("br0"))
    ips = [{**one, "interface": names[one["interface"]]} for one in result["ips"]]
    return {**result, "routes": routes, "ips": ips, "interfaces": [*named, len(names)]}


def seen(pod_netns: str) -> dict:
    knobs = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
    routes = [route for family in ("-4", "-6") for route in ip(family, "route", netns=pod_netns)]
    return {
        "pod": global_addresses("net1", pod_netns),
        "bridge": {one["ifname"]: global_addresses(one["ifname"]) for one in ip("link") if "br0" in one["ifname"]},
        "routes": sorted((one["dst"], one.get("gateway", "")) for one in routes),
        "promiscuous": "PROMISC" in link("br0")["flags"],
        "knobs": {knob: Path("/proc/sys", knob).read_text().strip() for knob in knobs},
    }


@needs("tbf", "ifb")
def test_the_check_and_a_bandwidth_stand_side_by_side(pod_netns, second_pod_netns, wire):
    """What is shaped is redirected at the same place where the check is: it must come to the check first."""
    rates = {"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000}
    plugin = Plugin(pod_netns, macspoofchk=True, **rates)
    result = plugin("ADD")
    plugin("CHECK", prevResult=result)
    Plugin(second_pod_netns)("ADD", container="other")
    checked, other = wire(pod_netns), wire(second_pod_netns)
    checked.await_way_to(other)
    checked.send(b"spoofed", source="02:00:00:00:00:99")
    checked.send(b"end")
    assert other.until(b"end") == set()
    plugin("DEL")
    assert [one["ifname"] for one in ip("link") if one.get("master") is None] == ["lo", "br0"]
