"""Pure: a libvirt domain as its XML describes it, and the NIC that is asked of it (formatdomain.html).

Rules
1. A NIC is known by its alias. libvirt keeps one that begins with `ua-` and has no characters but letters, digits, "_"
   and "-"; any other it drops in silence, and gives its own. So those with others in them are hashed.
2. A port is known by the alias of its controller, such as `pci.5`; a NIC in it has the controller's index as its bus.
3. The text comes from the pod: one with a document type, which libvirt never sends, is not read at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from agent.guests.contract import Nic
from agent.model import NotReady

_ROOM = ("pcie-root-port", "pcie-switch-downstream-port")  # where one device can be plugged in
_NAMED, _NAME = 16, 32  # ports that are named to people, and the characters of each


@dataclass(frozen=True, slots=True)
class Domain:
    """What of a domain concerns its NICs."""

    nics: Mapping[str, str]  # by alias: the id of the port that it sits in; "" where it has none of its own
    taps: Mapping[str, str]  # by alias: the name of its tap
    ports: Mapping[str, int]  # by id: the index of the bus behind it
    taken: frozenset[int]  # buses that have a device
    is_pcie: bool  # its devices need a port each
    has_agent: bool  # the guest's agent has its channel open


def read(text: str) -> Domain:
    """Read the domain's XML. Raises ValueError for what is none."""
    if "<!DOCTYPE" in text:
        raise ValueError("it has a document type")
    try:
        devices = ET.fromstring(text).find("devices")  # noqa: S314 rule 3, and its length is bounded
    except ET.ParseError as problem:
        raise ValueError(str(problem)) from None
    if devices is None:
        raise ValueError("it has no devices")
    controllers = [one for one in devices.iter("controller") if one.get("type") == "pci"]
    ports = {_of(one, "alias", "name"): _number(one.get("index")) for one in controllers if one.get("model") in _ROOM}
    by_bus = {bus: port for port, bus in ports.items()}
    nics = {name: one for one in devices.iter("interface") if (name := _of(one, "alias", "name"))}
    return Domain(
        {name: by_bus.get(_bus(one), "") for name, one in nics.items()},
        {name: _of(one, "target", "dev") for name, one in nics.items()},
        ports,
        frozenset(_bus(one) for one in devices),
        any(one.get("model") == "pcie-root" for one in controllers),
        any(
            channel.get("name") == "org.qemu.guest_agent.0" and channel.get("state") == "connected"
            for channel in devices.iterfind("channel/target")
        ),
    )


def alias(nic: Nic) -> str:
    """Return the alias of the NIC (rule 1)."""
    if re.fullmatch(r"ua-[A-Za-z0-9_-]+", nic.id):
        return nic.id
    return f"ua-{hashlib.sha256(nic.id.encode()).hexdigest()[:32]}"


def bus_of(domain: Domain, nic: Nic) -> int | None:
    """Return the bus that the NIC has to be on; None: whichever libvirt chooses.

    Raises NotReady: NoFreePort, or VMRefused for a port that there is not.
    """
    if nic.port:
        if nic.port not in domain.ports:
            raise NotReady("VMRefused", f"the domain has no port {nic.port}; it has {_some(domain.ports)}")
        if domain.ports[nic.port] in domain.taken:
            raise NotReady("NoFreePort", f"port {nic.port} has another device in it")
        return domain.ports[nic.port]
    if domain.is_pcie and domain.taken.issuperset(domain.ports.values()):
        raise NotReady("NoFreePort", f"none of the domain's {len(domain.ports)} PCIe root ports is free")
    return None


def interface(nic: Nic, bus: int | None = None) -> str:
    """Return the XML of the NIC: on a tap that is there and stays there, whoever ends."""
    made = ET.Element("interface", type="ethernet")
    ET.SubElement(made, "mac", address=nic.mac)
    ET.SubElement(made, "target", dev=nic.tap, managed="no")
    ET.SubElement(made, "model", type="virtio-non-transitional")
    ET.SubElement(made, "mtu", size=str(nic.mtu))
    ET.SubElement(made, "rom", enabled="no")
    ET.SubElement(made, "alias", name=alias(nic))
    if bus is not None:
        place = {"type": "pci", "domain": "0x0000", "bus": f"{bus:#04x}", "slot": "0x00", "function": "0x0"}
        ET.SubElement(made, "address", place)
    return ET.tostring(made, encoding="unicode")


def _some(names: Collection[str]) -> str:
    some = [name[:_NAME] for name in sorted(names)[:_NAMED]]
    return ", ".join([*some, *(["..."] if len(names) > len(some) else [])])


def _of(element: ET.Element, child: str, attribute: str) -> str:
    found = element.find(child)
    return "" if found is None else found.get(attribute, "")


def _bus(device: ET.Element) -> int:
    address = device.find("address")
    return _number(address.get("bus")) if address is not None and address.get("type") == "pci" else -1


def _number(text: str | None) -> int:
    return int(text, 0) if text else -1
