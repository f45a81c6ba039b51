"""/sys as a folder of the test's, with the links that the kernel has there."""

from pathlib import Path

import pytest

from agent import sysfs
from agent.hardware import Hardware

CARD, FUNCTION, VIRTIO = "0000:3b:00.0", "0000:3b:00.3", "0000:00:05.0"


@pytest.fixture
def root(tmp_path):
    """A card with two functions, a virtio card, and an auxiliary device of the card."""
    below = tmp_path / "devices/pci0000:3a"
    for bus in ("pci", "virtio", "auxiliary"):
        (tmp_path / "bus" / bus / "devices").mkdir(parents=True)
        (tmp_path / "bus" / bus / "drivers/some-driver").mkdir(parents=True)

    def made(place: Path, bus: str) -> Path:
        place.mkdir(parents=True)
        (place / "subsystem").symlink_to(tmp_path / "bus" / bus)
        (tmp_path / "bus" / bus / "devices" / place.name).symlink_to(place)
        return place

    card, other, function = (made(below / name, "pci") for name in (CARD, "0000:3b:00.2", FUNCTION))
    (card / "virtfn0").symlink_to(other)
    (card / "virtfn1").symlink_to(function)
    (function / "physfn").symlink_to(card)
    (function / "driver").symlink_to(tmp_path / "bus/pci/drivers/some-driver")
    made(made(tmp_path / "devices/pci0000:00" / VIRTIO, "pci") / "virtio2", "virtio")
    made(card / "mlx5_core.sf.4", "auxiliary")
    return tmp_path


def test_a_function_is_known_with_its_card_its_number_and_its_driver(root):
    found = sysfs.pci(root, FUNCTION)
    assert found == Hardware((("pci", FUNCTION),), "some-driver", (("pci", CARD),), 1)


def test_a_virtio_cards_link_is_its_childs(root):
    assert sysfs.pci(root, VIRTIO).links == (("pci", VIRTIO), ("virtio", "virtio2"))


def test_a_device_id_is_a_pci_address_or_an_auxiliary_device(root):
    assert sysfs.device(root, CARD).links == (("pci", CARD),)
    assert sysfs.device(root, "mlx5_core.sf.4").links == (("auxiliary", "mlx5_core.sf.4"),)


def test_a_path_and_what_is_behind_a_link_lead_to_the_same(root):
    path = f"/sys/devices/pci0000:3a/{FUNCTION}"
    assert sysfs.at(root, path) == sysfs.behind(root, "pci", FUNCTION) == sysfs.pci(root, FUNCTION)


@pytest.mark.parametrize(
    "identifier", ["", "..", "../..", f"{CARD}/..", f"x/../{CARD}", "0000:3b:00.9", "mlx5_core.sf.5"]
)
def test_what_is_no_device_is_none_and_no_path_is_made_of_it(root, identifier):
    assert sysfs.device(root, identifier) is sysfs.pci(root, identifier) is None


@pytest.mark.parametrize("path", ["/sys/devices/../bus/pci", "/sys/devices/escape", "/sys/bus/pci/devices", "/etc", ""])
def test_no_path_leads_out_of_the_devices(root, path):
    (root / "devices/escape").symlink_to("/")
    assert sysfs.at(root, path) is None


def test_a_link_without_a_device_has_nothing_behind_it(root):
    assert sysfs.behind(root, "", "") is None
