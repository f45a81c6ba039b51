"""Pure: where in a machine a NIC can sit.

Rules
1. A PCI Express machine (q35, arm's virt) takes a device while it runs below a root port or a switch's downstream
   port only, and one below each. QEMU accepts a second one and the guest never sees it, so a port is chosen here.
2. The old chipset (i440FX) takes them on its one bus, where QEMU finds a slot by itself. Such a place is named by the
   slot, as in "0x5".
3. Ports are read from the device tree (`qom-list`). `query-pci` shows what the guest has set up: a port below which
   sits a device is free there until the guest's firmware has run, and in the destination of a migration always.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.model import NotReady

PORT_KINDS = ("pcie-root-port", "ioh3420", "xio3130-downstream")
_SLOTS = 32
_CHILD = re.compile(r"child<(.+)>")
_NUMBER = re.compile("([0-9]+)")
_SLOT = re.compile(r"0x[0-9a-f]{1,2}")


def ports(peripherals: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the ports, in the order that people number them, from the list of /machine/peripheral."""
    kinds = {str(one.get("name")): _CHILD.fullmatch(str(one.get("type"))) for one in peripherals}
    found = [name for name, kind in kinds.items() if kind and kind[1] in PORT_KINDS]
    return sorted(found, key=_as_people_number)


def _as_people_number(name: str) -> list[tuple[int, str]]:
    """Return what sorts rp2 before rp10. The number stays text: the machine may write one of any length."""
    parts = _NUMBER.split(name)  # text and number by turns
    return [(len(part.lstrip("0")), part) if position % 2 else (0, part) for position, part in enumerate(parts)]


def is_taken(bus: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a device sits on the bus, from the list of its properties."""
    return any(str(one.get("name", "")).startswith("child[") for one in bus)


def choose(asked: str, there: list[str], is_free: Callable[[str], bool]) -> dict[str, str]:
    """Return where the NIC goes, as arguments of `device_add`: the port asked for, or the first one that is free.

    Raises NotReady(NoFreePort).
    """
    if asked and asked not in there:
        raise NotReady("NoFreePort", f"the virtual machine has no root port {asked}, among {len(there)} that it has")
    if free := next((port for port in ([asked] if asked else there) if is_free(port)), None):
        return {"bus": free}
    if asked:
        raise NotReady("NoFreePort", f"root port {asked} of the virtual machine is taken")
    raise NotReady("NoFreePort", f"none of the virtual machine's {len(there)} root ports is free for a NIC")


def slot(asked: str) -> dict[str, str]:
    """Return where the NIC goes in a machine of the old chipset (rule 2). Raises NotReady(NoFreePort)."""
    if not asked:
        return {}
    if not _SLOT.fullmatch(asked):
        raise NotReady("NoFreePort", f"{asked!r} is no slot of the virtual machine's PCI bus, such as 0x5")
    return {"addr": asked}


def place(parent_bus: str, addr: int) -> str:
    """Return the name of the place that a device has, from its properties: a port's id, or a slot."""
    bus = parent_bus.rpartition("/")[2]
    return f"0x{addr >> 3:x}" if bus.startswith("pci.") else bus


def is_full(buses: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the old chipset's bus has no slot left, from `query-pci`, which shows that bus whole."""
    devices = next((bus.get("devices") for bus in buses if bus.get("bus") == 0), None)
    slots = [one.get("slot") for one in devices if isinstance(one, Mapping)] if isinstance(devices, list) else []
    used = {slot for slot in slots if isinstance(slot, int)}
    return len(used) >= _SLOTS
