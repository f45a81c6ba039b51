import pytest

from agent.guests import pci
from agent.model import NotReady

TREE = [
    {"name": "type", "type": "string"},
    {"name": "rp10", "type": "child<pcie-root-port>"},
    {"name": "rp2", "type": "child<pcie-root-port>"},
    {"name": "ua-net1", "type": "child<virtio-net-pci>"},
    {"name": "down", "type": "child<xio3130-downstream>"},
    {"name": "up", "type": "child<x3130-upstream>"},
    {"name": "rp1", "type": "child<ioh3420>"},
    {},
]
PORTS = ["down", "rp1", "rp2", "rp10"]


def test_ports_are_those_that_take_one_device_while_the_machine_runs():
    assert pci.ports(TREE) == PORTS


def test_a_bus_is_taken_by_any_device_whatever_its_number():
    free = [{"name": "type"}, {"name": "realized"}, {"name": "hotplug-handler"}]
    assert not pci.is_taken(free)
    assert pci.is_taken([*free, {"name": "child[7]", "type": "link<virtio-net-pci>"}])


def test_the_first_free_port_is_chosen_or_the_one_asked_for():
    assert pci.choose("", PORTS, lambda port: port in ("rp2", "rp10")) == {"bus": "rp2"}
    assert pci.choose("rp10", PORTS, lambda port: True) == {"bus": "rp10"}


@pytest.mark.parametrize(
    ("asked", "there", "message"),
    [
        ("", PORTS, "none of the virtual machine's 4 root ports is free"),
        ("", [], "none of the virtual machine's 0 root ports is free"),
        ("rp2", PORTS, "root port rp2 of the virtual machine is taken"),
        ("rp3", PORTS, "no root port rp3, among 4"),
    ],
)
def test_without_a_free_port_it_says_how_many_there_are(asked, there, message):
    with pytest.raises(NotReady, match=message) as caught:
        pci.choose(asked, there, lambda port: False)
    assert caught.value.reason == "NoFreePort"


def test_a_slot_is_named_as_it_is_told():
    assert (pci.slot(""), pci.slot("0x18")) == ({}, {"addr": "0x18"})
    assert pci.slot(pci.place("/machine/i440fx/pci.0", 24)) == {"addr": "0x3"}
    assert pci.place("/machine/peripheral/rp1/rp1", 0) == "rp1"
    for asked in ("rp1", "0x", "0x123", "3", "0x3,bus=x"):
        with pytest.raises(NotReady):
            pci.slot(asked)


def test_a_bus_is_full_with_32_slots_however_many_functions_they_have():
    devices = [{"slot": number // 2, "function": number % 2} for number in range(62)]
    assert not pci.is_full([{"bus": 0, "devices": devices}])
    assert pci.is_full([{"bus": 1, "devices": []}, {"bus": 0, "devices": [*devices, {"slot": 31}]}])
    for odd in ([], [{}], [{"bus": 0}], [{"bus": 0, "devices": "none"}]):
        assert not pci.is_full(odd)
