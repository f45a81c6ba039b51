"""Targets: what virtual machines, and those who run in them, say to the agent. They are the pod's, and hostile."""

import itertools
import json
import os
import socket
import time
from contextlib import suppress

from agent.guests import bounds, domain_xml, guest_agent, messages, pci, qemu, qmp, wish
from agent.guests.contract import Nic
from agent.model import Guest, NotReady, Refused, Standing
from tests.fuzz.target import TABLE, as_text, sendable

NIC = Nic("ua-net1", "02:00:00:00:00:01", "tap0", 1500)
LISTED = [
    {
        "name": "eth0",
        "hardware-address": "02:00:00:00:00:01",
        "ip-addresses": [
            {"ip-address": "10.0.0.1", "ip-address-type": "ipv4", "prefix": 24},
            {"ip-address": "fe80::1", "prefix": 64},
        ],
    },
    {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": []},
]
PERIPHERALS = [
    {"name": "rp1", "type": "child<pcie-root-port>"},
    {"name": "rp10", "type": "child<ioh3420>"},
    {"name": "ua-net1", "type": "x"},
]
RUNNING, QUIET = {"status": "running", "running": True}, {"status": "none"}


@TABLE.text(
    "guests.wish",
    '{"qmp": "/q", "guestAgent": "/g", "container": "c", "ports": {"net1": "rp1"}}',
    '{"libvirt": "/l", "domain": "vm1"}',
)
def vm_wish(data: bytes) -> None:
    try:
        asked = wish.parse(as_text(data))
    except Refused as problem:
        sendable(str(problem))
        return
    for path in (asked.socket, getattr(asked, "guest_agent", "")):
        assert not path or (path.startswith("/") and "\0" not in path and len(path.encode()) <= wish.PATH_BYTES)


@TABLE.json("guests.agent", LISTED, [LISTED[1]])
def interfaces(document: object) -> None:
    found = guest_agent.find(document, NIC.mac)
    if found is not None:
        cut = bounds.standing(Standing(Guest("GuestVisible", found.name, NIC.mac, found.addresses)))
        sendable([cut.guest.interface, cut.guest.addresses])


@TABLE.json(
    "guests.pci", PERIPHERALS, [{"name": "child[0]", "bus": 0, "devices": [{"slot": 1}]}], [{"name": "pci.5", "bus": 1}]
)
def places(document: object) -> None:
    told = qemu._objects(document)
    there = pci.ports(told)
    pci.is_taken(told)
    pci.is_full(told)
    for asked in ("", *there[:2], "0x5"):
        for choose in (lambda name=asked: pci.choose(name, there, lambda _: False), lambda name=asked: pci.slot(name)):
            with suppress(NotReady):
                choose()
    for one in told[:3]:
        addr = one.get("addr")
        pci.place(str(one.get("name")), addr if isinstance(addr, int) else 0)


@TABLE.json(
    "guests.qmp",
    [RUNNING, QUIET, PERIPHERALS, {"status": {"statuses": ["DRIVER_OK"]}}, "/machine/pci.5", 40],
    [RUNNING, QUIET, [], {"error": {"class": "DeviceNotFound", "desc": "no"}}],
    [{"event": "DEVICE_DELETED", "data": {"device": "ua-net1"}}, RUNNING],
    [{"status": "inmigrate"}, [{"name": "i440fx"}]],
    [
        RUNNING,
        QUIET,
        PERIPHERALS,
        [],
        PERIPHERALS,
        True,
        {},
        {},
        [{"name": "host_mtu"}],
        {"error": {"class": "X", "desc": "n"}},
        [],
    ],
)
def monitor(document: object) -> None:
    """A whole monitor's answers to the questions of one call, in their order; an error or an event as it stands."""
    if not isinstance(document, list):
        return
    numbers = itertools.count(2)
    said = [{"QMP": {}}, {"return": {}, "id": 1}]
    for one in document:
        whole = isinstance(one, dict) and ("error" in one or "event" in one)
        said.append({"id": next(numbers), **one} if whole else {"id": next(numbers), "return": one})
    heard = b"".join(json.dumps(one).encode() + b"\n" for one in said)
    for act in (lambda one: one.look(NIC), lambda one: one.unplug(NIC), lambda one: one.wait(0.0), _plug):
        _spoken(heard, act)


@TABLE.bytes(
    "guests.lines",
    b'{"QMP": {}}\n{"return": {}, "id": 1}\n{"event": "STOP"}\n',
    b'\xff{"return": 5}\n\xff{}\n',
    words=[b'{"return":', b"\n", b"\xff", b'"id": 1', b'"QMP"'],
)
def lines(data: bytes) -> None:
    _spoken(data, lambda one: one.look(NIC))
    ours, its = socket.socketpair()
    with its:
        its.sendall(data[:65536])
        its.shutdown(socket.SHUT_WR)
        read = messages.Lines(ours, "it")
        with suppress(NotReady):
            while read.receive(time.monotonic() + 1, skip_to=b"\xff") is not None:
                pass
        read.close()


def _plug(machine: qemu.Qemu) -> None:
    machine.plug(NIC, lambda: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def _spoken(heard: bytes, act: object) -> None:
    ours, its = socket.socketpair()
    with its:
        its.sendall(heard[:65536])
        its.shutdown(socket.SHUT_WR)
        try:
            with suppress(NotReady, qmp.Refusal):
                machine = qemu.Qemu(ours, None, "", time.monotonic() + 5)
                try:
                    act(machine)  # type: ignore[operator]
                finally:
                    machine.close()
        finally:
            ours.close()


DOMAIN = """
<domain type="qemu"><devices>
<controller type="pci" index="5" model="pcie-root-port"><alias name="pci.5"/></controller>
<controller type="pci" index="0" model="pcie-root"/>
<interface type="ethernet"><alias name="ua-net1"/><target dev="tap0"/>
<address type="pci" bus="0x05" slot="0"/></interface>
<channel><target name="org.qemu.guest_agent.0" state="connected"/></channel>
</devices></domain>
"""


@TABLE.bytes(
    "guests.domain_xml",
    DOMAIN,
    "<domain/>",
    "<!DOCTYPE a []><domain/>",
    words=[
        b"<devices>",
        b"</devices>",
        b"<alias name=",
        b"<address type='pci' bus='",
        b"&#0;",
        b"&lt;",
        b"<![CDATA[",
        b"<?xml version='1.0'?>",
        b"0x",
        b"'",
        b"<interface>",
    ],
)
def domain(data: bytes) -> None:
    try:
        found = domain_xml.read(as_text(data))
    except ValueError:
        return
    for nic in (NIC, Nic("x y", NIC.mac, "t", 1, next(iter(found.ports), "none"))):
        with suppress(NotReady):
            domain_xml.interface(nic, domain_xml.bus_of(found, nic))
    sendable([list(found.nics), list(found.taps)])
