"""The domain's XML, as libvirt 9.0 writes it."""

import re
from xml.etree import ElementTree as ET

import pytest

from agent.guests import domain_xml
from agent.guests.contract import Nic
from agent.model import NotReady

NIC = Nic("ua-net1", "02:aa:00:00:00:01", "tapnet1", 1400)


def _port(index: int) -> str:
    return (
        f"<controller type='pci' index='{index}' model='pcie-root-port'><alias name='pci.{index}'/>"
        f"<address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x{index}'/></controller>"
    )


def _nic(alias: str, bus: str) -> str:
    return (
        f"<interface type='ethernet'><target dev='tap-{alias}' managed='no'/><alias name='{alias}'/>"
        f"<address type='pci' domain='0x0000' bus='{bus}' slot='0x00' function='0x0'/></interface>"
    )


def _domain(*devices: str, root: str = "pcie-root") -> str:
    bus = f"<controller type='pci' index='0' model='{root}'><alias name='pcie.0'/></controller>"
    return f"<domain type='qemu'><name>vm</name><devices>{bus}{''.join(devices)}</devices></domain>"


def _channel(name: str, state: str) -> str:
    return f"<channel type='unix'><target type='virtio' name='{name}' state='{state}'/></channel>"


def test_a_nic_is_found_by_its_alias_with_the_port_that_its_bus_is_behind():
    seen = domain_xml.read(_domain(_port(1), _port(10), _nic("ua-net1", "0x0a"), "<interface type='user'/>"))
    assert seen.nics == {"ua-net1": "pci.10"}
    assert seen.taps == {"ua-net1": "tap-ua-net1"}


def test_a_nic_on_the_bus_itself_has_no_port_of_its_own():
    assert domain_xml.read(_domain(_nic("ua-net1", "0x00"), root="pci-root")).nics == {"ua-net1": ""}


@pytest.mark.parametrize(
    ("name", "state", "has_agent"),
    [
        ("org.qemu.guest_agent.0", "connected", True),
        ("org.qemu.guest_agent.0", "disconnected", False),
        ("com.redhat.spice.0", "connected", False),
    ],
)
def test_there_is_an_agent_where_its_channel_is_open(name, state, has_agent):
    assert domain_xml.read(_domain(_channel(name, state))).has_agent is has_agent


@pytest.mark.parametrize("text", ["", "<domain/>", "<domain><devices>", "<!DOCTYPE domain><domain><devices/></domain>"])
def test_what_is_no_domain_is_not_read(text):
    with pytest.raises(ValueError):
        domain_xml.read(text)


def test_an_index_that_is_no_number_is_no_domain_either():
    with pytest.raises(ValueError):
        domain_xml.read(
            _domain("<controller type='pci' index='x' model='pcie-root-port'><alias name='p'/></controller>")
        )


def test_the_port_that_is_asked_for_must_be_there_and_free():
    seen = domain_xml.read(_domain(_port(1), _port(2), _nic("ua-net0", "0x01")))
    assert domain_xml.bus_of(seen, Nic("ua-net1", NIC.mac, "t", 1500, "pci.2")) == 2
    for port, reason in (("pci.1", "NoFreePort"), ("pci.3", "VMRefused")):
        with pytest.raises(NotReady) as problem:
            domain_xml.bus_of(seen, Nic("ua-net1", NIC.mac, "t", 1500, port))
        assert problem.value.reason == reason


def test_not_all_ports_are_named_to_who_asks_for_one_that_there_is_not():
    seen = domain_xml.read(_domain(*(_port(number).replace("'pci.", f"'{'x' * 1000}.") for number in range(1, 900))))
    with pytest.raises(NotReady) as problem:
        domain_xml.bus_of(seen, Nic("ua-net1", NIC.mac, "t", 1500, "pci.3"))
    assert len(str(problem.value)) < 1024
    seen = domain_xml.read(_domain(_port(1), _port(2)))
    with pytest.raises(NotReady, match=r"it has pci\.1, pci\.2$"):
        domain_xml.bus_of(seen, Nic("ua-net1", NIC.mac, "t", 1500, "pci.3"))


def test_without_a_port_libvirt_chooses_as_long_as_there_is_one():
    assert domain_xml.bus_of(domain_xml.read(_domain(_port(1), _port(2), _nic("a", "0x01"))), NIC) is None
    assert domain_xml.bus_of(domain_xml.read(_domain(root="pci-root")), NIC) is None
    for full in (_domain(_port(1), _nic("a", "0x01")), _domain()):
        with pytest.raises(NotReady) as problem:
            domain_xml.bus_of(domain_xml.read(full), NIC)
        assert problem.value.reason == "NoFreePort"


def test_the_nic_is_asked_for_as_kubevirt_does():
    made = ET.fromstring(domain_xml.interface(NIC, 10))
    assert {one.tag: one.attrib for one in made} == {
        "mac": {"address": NIC.mac},
        "target": {"dev": "tapnet1", "managed": "no"},
        "model": {"type": "virtio-non-transitional"},
        "mtu": {"size": "1400"},
        "rom": {"enabled": "no"},
        "alias": {"name": "ua-net1"},
        "address": {"type": "pci", "domain": "0x0000", "bus": "0x0a", "slot": "0x00", "function": "0x0"},
    }
    assert (made.tag, made.attrib) == ("interface", {"type": "ethernet"})
    assert "address type" not in domain_xml.interface(NIC)


def test_an_alias_that_libvirt_would_drop_is_hashed():
    names = ["ua-net1", "ua-eth0.100", "ua-eth0@100", "ua-", "net1", "ua-\u00e4"]
    aliases = [domain_xml.alias(Nic(name, NIC.mac, "t", 1500)) for name in names]
    assert aliases[0] == "ua-net1"
    assert len(set(aliases)) == len(names)
    assert all(re.fullmatch("ua-[A-Za-z0-9_-]+", one) for one in aliases)


def test_no_name_breaks_out_of_the_xml():
    made = ET.fromstring(domain_xml.interface(Nic("ua-net1", NIC.mac, "'/><x a=\"&", 1500)))
    assert {one.tag for one in made} == {"mac", "target", "model", "mtu", "rom", "alias"}
    assert [one.get("dev") for one in made if one.tag == "target"] == ["'/><x a=\"&"]
