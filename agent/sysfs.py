"""What /sys says of devices: which links they have, whose functions they are, which driver has them. Read only.

Rules
1. No path is made of what a configuration says, but of what is a PCI address, an auxiliary device's name, or a path
   that leads to a device below /sys/devices.
2. Links themselves are not looked up here: /sys shows those of one network namespace only. The kernel says over route
   netlink which device is behind a link (IFLA_PARENT_DEV_NAME), in any namespace.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.hardware import Hardware

PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_AUXILIARY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.\d+")  # module.kind.number
_FUNCTION = "virtfn"


def pci(root: Path, address: str) -> Hardware | None:
    """Return the device of a PCI address; None where there is none."""
    return _hardware(root / "bus/pci/devices" / address) if PCI_ADDRESS.fullmatch(address) else None


def device(root: Path, identifier: str) -> Hardware | None:
    """Return the device that a device plugin calls so: a PCI address, or the name of an auxiliary device."""
    if found := pci(root, identifier):
        return found
    return _hardware(root / "bus/auxiliary/devices" / identifier) if _AUXILIARY.fullmatch(identifier) else None


def at(root: Path, path: str) -> Hardware | None:
    """Return the device at a path below /sys/devices; None where it leads elsewhere, or to nothing."""
    if not path.startswith("/sys/devices/") or "\0" in path:
        return None
    below = (root / "devices").resolve()
    place = (root / path.removeprefix("/sys/")).resolve()
    return _hardware(place) if place.is_relative_to(below) else None


def behind(root: Path, bus: str, name: str) -> Hardware | None:
    """Return the device that the kernel says is behind a link; None for a link that has none."""
    return _hardware(root / "bus" / bus / "devices" / name) if bus and name else None


def _hardware(place: Path) -> Hardware | None:
    here = _identity(place)
    if here is None:
        return None
    card = place / "physfn"
    return Hardware(
        links=_with_children(place, here),
        driver=_target(place / "driver"),
        card=_with_children(card, pf) if (pf := _identity(card)) else (),
        number=_number(card, place) if pf else 0,
    )


def _identity(place: Path) -> tuple[str, str] | None:
    """Return the bus, and the device's name there."""
    return (_target(place / "subsystem"), place.resolve().name) if place.is_dir() else None


def _with_children(place: Path, here: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """A virtio card's links are those of the virtio device that the PCI device has below it."""
    return here, *(("virtio", child.name) for child in sorted(place.glob("virtio[0-9]*")))


def _number(card: Path, function: Path) -> int:
    own = function.resolve()
    for link in card.glob(f"{_FUNCTION}*"):
        if link.resolve() == own:
            return int(link.name.removeprefix(_FUNCTION))
    return 0


def _target(link: Path) -> str:
    return link.resolve().name if link.exists() else ""
