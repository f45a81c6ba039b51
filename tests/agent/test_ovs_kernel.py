"""The device `ovs` on a real switch: its ports carry what they should and nothing else, and never stay behind."""

import contextlib
import json
import resource
import socket
import struct
import time
from pathlib import Path

import pytest

from agent import netns, options, ovsdb
from agent.model import ContainerID, Key
from cni import errors
from tests.agent.native import CONTAINER, FakeIPAM, Plugin, ip, link, ping

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns", "kernel")]

HOST = options.host_name(Key(ContainerID(CONTAINER), "net1"))


@pytest.fixture
def switch(openvswitch):
    openvswitch.add_bridge("br0")
    return openvswitch


@pytest.fixture
def plugin(switch, pod_netns):
    def make(path=pod_netns, fake=None, **config):
        return Plugin(path, fake, **{"device": "ovs", "bridge": "br0", "socket_file": str(switch.socket), **config})

    return make


def column(switch, name: str, table: str = "port", row: str = HOST):
    """What the database has, as JSON."""
    answer = json.loads(switch.vsctl("--format=json", f"--columns={name}", "list", table, row))
    return answer["data"][0][0]


def test_an_attachment_is_whole_and_leaves_nothing(plugin, switch, pod_netns):
    made = plugin(mtu=1400)
    document = made("ADD")
    assert switch.vsctl("list-ports", "br0") == HOST
    assert (link("net1", pod_netns)["mtu"], link(HOST)["mtu"], link(HOST)["flags"].count("UP")) == (1400, 1400, 1)
    assert [one["name"] for one in document["interfaces"]] == [HOST, "net1"]
    made("CHECK", prevResult=document)
    for _ in range(3):
        made("DEL")
    assert (switch.vsctl("list-ports", "br0"), link(HOST), link("net1", pod_netns)) == ("", None, None)
    assert switch.vsctl("--format=json", "--columns=name", "list", "interface").count(HOST) == 0


@pytest.mark.parametrize(
    ("config", "mode", "tag", "trunks"),
    [
        ({}, "trunk", ["set", []], ["set", []]),
        ({"vlan": 5}, "access", 5, ["set", []]),
        ({"trunk": [{"id": 7}]}, "trunk", ["set", []], 7),
        ({"vlan": 5, "trunk": [{"minID": 7, "maxID": 8}]}, "native-untagged", 5, ["set", [7, 8]]),
    ],
)
def test_the_port_has_the_vlans_that_are_asked_for(plugin, switch, config, mode, tag, trunks):
    plugin(**config)("ADD")
    assert [column(switch, name) for name in ("vlan_mode", "tag", "trunks")] == [mode, tag, trunks]


class Wire:
    """Frames of one interface in a pod, as they are on its link: VLAN tags are seen, whatever strips them."""

    ALL, TAG_AVAILABLE = 0x0003, 0x10

    def __init__(self, path: str) -> None:
        with netns.View().opened(path) as fd, netns.entered(fd):
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(self.ALL))
            self.raw.bind(("net1", self.ALL))
        self.raw.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the kernel keeps the tag apart
        self.raw.settimeout(0.1)

    def send(self, vlan: int | None, text: bytes) -> None:
        tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
        self.raw.send(b"\xff" * 6 + b"\x02\0\0\0\0\x09" + tag + b"\x88\xb5" + text.ljust(50, b"\0"))

    def seen(self, texts: set[bytes], wait_s: float = 1.5) -> set[tuple[int | None, bytes]]:
        """Return (VLAN, text) of the frames that came in; stops when all texts came, or after `wait_s` seconds."""
        found: set[tuple[int | None, bytes]] = set()
        end = time.monotonic() + wait_s
        while time.monotonic() < end and {text for _, text in found} != texts:
            with contextlib.suppress(TimeoutError):
                data, ancillary, _, address = self.raw.recvmsg(2000, 200)
                if data[-52:-50] == b"\x88\xb5" and address[2] != socket.PACKET_OUTGOING:
                    found.add((self._vlan(data, ancillary), data[-50:].rstrip(b"\0")))
        return found

    def _vlan(self, data: bytes, ancillary) -> int | None:
        if data[12:14] == b"\x81\x00":
            return int.from_bytes(data[14:16], "big") & 0xFFF
        status, tci = struct.unpack_from("=I12xH", ancillary[0][2])
        return tci & 0xFFF if status & self.TAG_AVAILABLE else None


def test_access_ports_and_trunks_carry_what_they_should_and_nothing_else(plugin, pod_netns, second_pod_netns):
    plugin(vlan=5)("ADD", container="access")
    plugin(second_pod_netns, trunk=[{"id": 5}, {"id": 6}])("ADD", container="trunk")
    access, trunk = Wire(pod_netns), Wire(second_pod_netns)
    with access.raw, trunk.raw:
        for vlan in (None, 5, 6, 7):
            trunk.send(vlan, b"%d" % (vlan or 0))
        assert access.seen({b"5"}) == {(None, b"5")}  # untagged, and of its own VLAN only
        assert access.seen({b"never"}, 0.5) == set()
        access.send(None, b"up")
        access.send(6, b"smuggled")
        assert trunk.seen({b"up"}) == {(5, b"up")}
        assert trunk.seen({b"never"}, 0.5) == set()


def test_pods_of_one_vlan_reach_each_other(plugin, pod_netns, second_pod_netns):
    for number, path in enumerate((pod_netns, second_pod_netns), 1):
        plugin(path, vlan=5)("ADD", container=f"c{number}")
        ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=path)
    ping(pod_netns, "10.7.0.2")


def test_a_port_that_is_another_owners_is_a_conflict_and_is_left_alone(plugin, switch, pod_netns):
    ip("link", "add", HOST, "type", "veth", "peer", "name", "x")
    switch.vsctl("add-port", "br0", HOST)
    with pytest.raises(errors.CNIError, match="not ours"):
        plugin()("ADD")
    plugin()("DEL")
    assert (switch.vsctl("list-ports", "br0"), link("net1", pod_netns)) == (HOST, None)


def test_without_the_bridge_nothing_is_made_and_status_says_so(plugin, switch, pod_netns):
    for verb, code in (("ADD", 7), ("STATUS", 50)):
        with pytest.raises(errors.CNIError, match="nonesuch") as caught:
            plugin(bridge="nonesuch")(verb)
        assert caught.value.code == code
    assert (link("net1", pod_netns), link(HOST)) == (None, None)
    plugin()("STATUS")


def test_without_a_switch_add_is_to_be_tried_again_and_delete_succeeds(pod_netns, tmp_path):
    plugin = Plugin(pod_netns, device="ovs", bridge="br0", socket_file=str(tmp_path / "none.sock"))
    for verb, code in (("ADD", 11), ("STATUS", 51)):
        with pytest.raises(errors.CNIError, match="no Open vSwitch answers") as caught:
            plugin(verb)
        assert caught.value.code == code
    plugin("DEL")


def test_a_port_whose_link_a_reboot_took_is_removed_by_delete(plugin, switch):
    made = plugin()
    made("ADD")
    ip("link", "del", HOST)
    assert switch.vsctl("list-ports", "br0") == HOST
    made("DEL")
    assert switch.vsctl("list-ports", "br0") == ""


def test_dead_ports_of_ours_leave_with_the_next_attachment_and_foreign_ones_stay(plugin, switch):
    plugin()("ADD")
    ip("link", "del", HOST)
    switch.vsctl("--no-wait", "add-port", "br0", "foreign")  # without a link
    plugin()("ADD", ifname="net2", container="other")
    assert HOST not in switch.vsctl("list-ports", "br0").split()
    assert "foreign" in switch.vsctl("list-ports", "br0").split()


def test_a_half_made_attachment_is_completed_by_a_retry(plugin, switch, pod_netns):
    made = plugin(vlan=5)
    made("ADD")
    switch.vsctl("del-port", "br0", HOST)
    document = made("ADD")
    assert (column(switch, "tag"), link("net1", pod_netns)["ifname"]) == (5, "net1")
    switch.vsctl("add-br", "br1", "--", "set", "bridge", "br1", f"datapath_type={switch.datapath}")
    switch.vsctl("set", "port", HOST, "tag=6")
    with pytest.raises(errors.CNIError, match="access tag=6, not access tag=5"):
        made("CHECK", prevResult=document)
    made("ADD")
    made("CHECK", prevResult=document)


def test_check_names_what_is_missing(plugin, switch):
    made = plugin()
    document = made("ADD")
    switch.vsctl("del-port", "br0", HOST)
    with pytest.raises(errors.CNIError, match="is not a port of bridge br0"):
        made("CHECK", prevResult=document)
    switch.vsctl("del-br", "br0")
    with pytest.raises(errors.CNIError, match="bridge br0 is not in the database"):
        made("CHECK", prevResult=document)
    made("DEL")
    assert link(HOST) is None


def test_a_failing_ipam_leaves_no_port(plugin, switch, pod_netns):
    with pytest.raises(errors.CNIError, match="pool is empty"):
        plugin(fake=FakeIPAM(errors.CNIError(11, "pool is empty")), ipam={"type": "fake"})("ADD")
    assert (switch.vsctl("list-ports", "br0"), link("net1", pod_netns)) == ("", None)


def test_an_openflow_number_is_given(plugin, switch):
    plugin(ofport_request=77)("ADD")
    assert column(switch, "ofport", "interface") == 77


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"bridge": None}, 7, "bridge="),
        ({"vlan": 4095}, 7, "vlan=4095"),
        ({"trunk": [{"minID": 9, "maxID": 3}]}, 7, "trunk="),
        ({"ofport_request": -1}, 7, "ofport_request=-1"),
        ({"interface_type": "dpdk"}, 2, "interface_type='dpdk'"),
        ({"interface_type": "x"}, 7, "interface_type='x'"),
        ({"socket_file": "relative"}, 7, "socket_file='relative'"),
        ({"socket_file": "/" + "a" * 200}, 7, "socket_file="),
        ({"configuration_path": "/etc/x"}, 2, "configuration_path="),
        ({"deviceID": "0000:00:03.0"}, 2, "deviceID="),
    ],
)
def test_a_wrong_option_is_refused_and_named(pod_netns, config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        Plugin(pod_netns, **{"device": "ovs", "bridge": "br0", **config})("ADD")
    assert (caught.value.code, named in caught.value.message) == (code, True)


def test_twenty_at_once(plugin, switch, pod_netns):
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 used by this test only

    made = plugin()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: made("ADD", f"n{number}", f"c{number}"), range(20)))
        assert len(switch.vsctl("list-ports", "br0").split()) == 20
        list(pool.map(lambda number: made("DEL", f"n{number}", f"c{number}"), range(20)))
    assert switch.vsctl("list-ports", "br0") == ""
    assert Path(pod_netns).exists()


def test_without_descriptors_no_living_port_is_taken_for_one_without_a_link(plugin, switch, monkeypatch):
    """Which ports have no link is asked right before the next one is made: "cannot tell" is no "gone"."""
    plugin()("ADD")
    select, (soft, hard) = ovsdb._Database.select, resource.getrlimit(resource.RLIMIT_NOFILE)

    def then_short(self, table, where, columns):
        rows = select(self, table, where, columns)
        if columns == ["_uuid", "name"]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        return rows

    monkeypatch.setattr(ovsdb._Database, "select", then_short)
    try:
        with pytest.raises(errors.CNIError) as caught:
            plugin()("ADD", ifname="net2", container="other")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.undo()
    assert caught.value.code == errors.Code.TRY_AGAIN
    assert HOST in switch.vsctl("list-ports", "br0").split()
