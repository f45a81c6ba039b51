"""The device `tap` on the real kernel: a program that holds it, who may, and the reference plugin beside it."""

import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from agent import netns, tap
from cni import errors
from tests.agent import reference
from tests.agent.native import FakeIPAM, ip, link
from tests.agent.native import Plugin as AnyPlugin
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("tap"), pytest.mark.usefixtures("node_netns", "kernel")]

_TUNSETIFF, _TAP, _MULTI_QUEUE, _NO_PI = 0x400454CA, 0x0002, 0x0100, 0x1000


def Plugin(pod_netns, fake=None, **config):
    return AnyPlugin(pod_netns, fake, **{"device": "tap", **config})


def opened(pod_netns: str, name: str = "net1", flags: int = _TAP | _NO_PI) -> int:
    """What the virtual machine holds: a descriptor of one queue."""
    with netns.View().opened(pod_netns) as fd, netns.entered(fd):
        queue = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(queue, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return queue


def test_frames_go_through_it_both_ways(pod_netns):
    Plugin(pod_netns)("ADD")
    queue = opened(pod_netns)
    try:
        with netns.View().opened(pod_netns) as fd, netns.entered(fd):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
        with wire:
            wire.bind(("net1", 0x88B5))
            wire.settimeout(5)
            frame = b"\xff" * 6 + b"\x02\0\0\0\0\x07" + b"\x88\xb5" + b"down to the machine".ljust(60, b".")
            wire.send(frame)
            os.set_blocking(queue, True)
            while (read := os.read(queue, 2048))[12:14] != b"\x88\xb5":
                pass  # the kernel's own neighbour discovery
            assert read == frame
            os.write(queue, frame.replace(b"down to", b"up from"))
            assert b"up from the machine" in wire.recv(2048)
    finally:
        os.close(queue)


def test_owner_group_and_queues_are_as_asked_and_check_names_others(pod_netns):
    plugin = Plugin(pod_netns, owner=1234, group=54321, multiQueue=True)
    document = plugin("ADD")
    data = link("net1", pod_netns)["linkinfo"]["info_data"]
    assert (data["user"], data["group"], data["multi_queue"], data["persist"]) == (1234, 54321, True, True)
    plugin("CHECK", prevResult=document)
    for other, named in (({"owner": 5}, "owner"), ({"group": 6}, "group"), ({"multiQueue": False}, "many queues")):
        with pytest.raises(errors.CNIError, match=named):
            plugin("CHECK", prevResult=document, **other)


def test_many_queues_are_opened_where_asked_for(pod_netns):
    Plugin(pod_netns, multiQueue=True)("ADD")
    queues = [opened(pod_netns, flags=_TAP | _NO_PI | _MULTI_QUEUE) for _ in range(3)]
    assert link("net1", pod_netns)["linkinfo"]["info_data"]["numqueues"] == 3
    for queue in queues:
        os.close(queue)


@pytest.mark.parametrize(("uid", "gid", "works"), [(1234, 107, True), (1234, 5, False), (5, 107, False)])
def test_with_owner_and_group_both_must_match(pod_netns, uid, gid, works):
    Plugin(pod_netns, owner=1234, group=107)("ADD")
    program = (
        "import fcntl, os, struct; fd = os.open('/dev/net/tun', os.O_RDWR);"
        f"os.setgroups([]); os.setgid({gid}); os.setuid({uid});"
        f"fcntl.ioctl(fd, {_TUNSETIFF}, struct.pack('16sH22x', b'net1', {_TAP | _NO_PI}))"
    )
    command = ["ip", "netns", "exec", Path(pod_netns).name, "python3", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == works, done.stderr


def test_it_joins_a_bridge_of_the_pod(pod_netns):
    with pytest.raises(errors.CNIError, match="bridge='br1' must be a bridge in the container"):
        Plugin(pod_netns, bridge="br1")("ADD")
    assert link("net1", pod_netns) is None
    ip("link", "add", "br1", "type", "bridge", netns=pod_netns)
    plugin = Plugin(pod_netns, bridge="br1")
    document = plugin("ADD")
    assert link("net1", pod_netns)["master"] == "br1"
    plugin("CHECK", prevResult=document)
    ip("link", "set", "net1", "nomaster", netns=pod_netns)
    with pytest.raises(errors.CNIError, match="not a port of bridge br1"):
        plugin("CHECK", prevResult=document)
    assert plugin("ADD") == document
    assert link("net1", pod_netns)["master"] == "br1"


def test_a_tap_that_somebody_else_made_is_not_taken_over(pod_netns):
    """The kernel hands out an existing tap to whom asks for its name."""
    ip("tuntap", "add", "mode", "tap", "name", "net1", netns=pod_netns)
    before = link("net1", pod_netns)
    with pytest.raises(errors.CNIError) as caught:
        Plugin(pod_netns)("ADD")
    assert (caught.value.code, link("net1", pod_netns)) == (7, before)


def test_a_tap_that_is_made_meanwhile_is_not_taken_over_either(pod_netns, kernel):
    from agent.links import CreateTap  # noqa: PLC0415 used by this test only
    from agent.netlink import _inside  # noqa: PLC0415 the socket that the step gets

    ip("tuntap", "add", "mode", "tap", "name", "net1", netns=pod_netns)
    with netns.View().opened(pod_netns) as fd, _inside(fd) as pod, pytest.raises(errors.CNIError) as caught:
        tap.create(pod, fd, CreateTap("net1", (("IFLA_ADDRESS", "02:00:00:00:00:01"),)))
    assert (caught.value.code, "net1" in caught.value.message) == (7, True)
    assert link("net1", pod_netns)["address"] != "02:00:00:00:00:01"


def test_without_the_driver_add_and_status_say_what_is_missing(pod_netns, monkeypatch, tmp_path):
    monkeypatch.setattr(tap, "DRIVER", tmp_path / "tun")
    for command in ("ADD", "STATUS"):
        with pytest.raises(errors.CNIError, match="is not there") as caught:
            Plugin(pod_netns)(command)
        assert caught.value.code == 50
    assert link("net1", pod_netns) is None


def test_a_failure_half_way_leaves_no_tap(pod_netns):
    with pytest.raises(errors.CNIError, match="cannot create tap net1"):
        Plugin(pod_netns, mtu=65535)("ADD")  # the driver's limit is lower
    assert link("net1", pod_netns) is None


def test_no_descriptor_is_left_open(pod_netns):
    plugin = Plugin(pod_netns)
    plugin("ADD")
    before = len(os.listdir("/proc/self/fd"))
    plugin("DEL")
    plugin("ADD")
    assert len(os.listdir("/proc/self/fd")) == before


IPAM = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
        "routes": [{"dst": "10.20.0.0/16"}]}  # fmt: skip
STATIC = {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
          "routes": [{"dst": "10.20.0.0/16"}]}  # fmt: skip


@pytest.mark.parametrize("layer", [2, 3])
@pytest.mark.parametrize("options", [{}, {"multiQueue": True, "mtu": 1400}, {"owner": 1234}, {"group": 107}])
def test_it_is_what_the_reference_plugin_makes(pod_netns, second_pod_netns, layer, options):
    config = {**options, **({"ipam": STATIC} if layer == 3 else {})}
    theirs = reference.call("tap", "ADD", second_pod_netns, config)
    ours = Plugin(pod_netns, FakeIPAM(IPAM), **config)("ADD")
    assert reference.normal(ours, pod_netns) == reference.normal(theirs, second_pod_netns)
    assert reference.facts(pod_netns) == reference.facts(second_pod_netns)
