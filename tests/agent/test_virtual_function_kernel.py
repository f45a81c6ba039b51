"""The device `host-device` with virtual functions of a card: the kernel's, where there is one (tests/sriov.py)."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.netlink import Kernel
from cni import errors
from tests.agent import native
from tests.agent.native import Plugin, ip, link
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("sriov"), pytest.mark.usefixtures("kernel")]

WISHES = {"mac": "02:00:00:00:02:02", "vlan": 100, "vlanQoS": 3, "spoofchk": "off", "trust": "on", "max_tx_rate": 100}
SET = {"address": "02:00:00:00:02:02", "vlan": 100, "qos": 3, "spoofchk": False, "trust": True, "max": 100}


def settings(card: str, number: int):
    """What the card says of its function, as `ip link` shows it."""
    (shown,) = ip("-d", "link", "show", "dev", card)
    one = shown["vfinfo_list"][number]
    vlan = (one.get("vlan_list") or [{}])[0]
    return {
        "address": one["address"],
        "vlan": vlan.get("vlan"),
        "qos": vlan.get("qos"),
        "spoofchk": one["spoofchk"],
        "trust": one["trust"],
        "max": one["rate"]["max_tx"],
    }


def address(name: str) -> str:
    return Path("/sys/class/net", name, "device").resolve().name


def Function(pod_netns, pci, **config):
    return Plugin(pod_netns, device="host-device", **{"pciBusID": pci, **config})


def tried(plugin, ifname: str = "net1") -> int:
    """The code of a DEL's error; 0 for none."""
    try:
        plugin("DEL", ifname=ifname)
    except errors.CNIError as problem:
        return problem.code
    return 0


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """In the guest's own namespace, where the card is (tests/sriov.py, rule 2): not in one of the test's."""
    native.KERNELS.append(Kernel())
    yield native.KERNELS[-1]
    native.KERNELS.pop().close()


@pytest.fixture
def first(virtual_functions):
    """Its PCI address."""
    return address(virtual_functions.vfs[0])


def test_the_card_sets_what_is_wished_and_what_it_had_comes_back(virtual_functions, pod_netns, first):
    card, name = virtual_functions.pf, virtual_functions.vfs[0]
    before, other = settings(card, 0), settings(card, 1)
    mac = link(name)["address"]
    plugin = Function(pod_netns, first, **WISHES)
    result = plugin("ADD")
    assert (settings(card, 0), settings(card, 1)) == (SET, other)
    assert result["interfaces"][0]["pciID"] == first
    assert (link("net1", pod_netns)["address"], link(name)) == (WISHES["mac"], None)
    plugin("CHECK", prevResult=result)
    plugin("DEL")
    plugin("DEL")
    assert settings(card, 1) == other
    assert settings(card, 0) in (before, before | {"address": mac})  # this card shows what the function says, too
    assert (link(name)["address"], link(name).get("ifalias")) == (mac, None)


def test_check_names_a_setting_that_was_changed_and_another_add_mends_it(virtual_functions, pod_netns, first):
    plugin = Function(pod_netns, first, **WISHES)
    previous = plugin("ADD")
    subprocess.run(["ip", "link", "set", virtual_functions.pf, "vf", "0", "vlan", "5"], check=True)
    with pytest.raises(errors.CNIError, match="vlan=100"):
        plugin("CHECK", prevResult=previous)
    plugin("ADD")
    assert settings(virtual_functions.pf, 0) == SET
    plugin("DEL")


def test_a_pod_that_ended_gives_it_back_by_itself_and_the_delete_restores_name_and_settings(
    virtual_functions, pod_netns, first
):
    card, name = virtual_functions.pf, virtual_functions.vfs[0]
    before = settings(card, 0)
    mac = link(name)["address"]
    plugin = Function(pod_netns, first, **WISHES)
    plugin("ADD")
    subprocess.run(["ip", "netns", "exec", Path(pod_netns).name, "ip", "link", "set", "net1", "alias", "x"], check=True)
    subprocess.run(["ip", "netns", "del", Path(pod_netns).name], check=True)
    plugin.netns = ""
    for _ in range(200):  # the kernel takes a namespace down in its own time
        if (code := tried(plugin)) != errors.Code.TRY_AGAIN:
            break
        time.sleep(0.1)
    assert code == 0
    assert settings(card, 0) in (before, before | {"address": mac})
    assert (link(name)["address"], link("net1")) == (mac, None)


@pytest.mark.parametrize("ended", [False, True])
def test_functions_whose_marks_the_pod_has_swapped_come_back_each_as_itself(virtual_functions, pod_netns, ended):
    names = virtual_functions.vfs[:2]
    devices = [link(name)["parentdev"] for name in names]
    lent = {f"net{number}": Function(pod_netns, device) for number, device in enumerate(devices)}
    for ifname, plugin in lent.items():
        plugin("ADD", ifname=ifname)
    marks = [link(ifname, pod_netns)["ifalias"] for ifname in lent]
    for ifname, mark in zip(lent, reversed(marks), strict=True):
        ip("link", "set", ifname, "alias", mark, netns=pod_netns)
    if ended:
        subprocess.run(["ip", "netns", "del", Path(pod_netns).name], check=True)
    for ifname, plugin in lent.items():
        plugin.netns = "" if ended else pod_netns
        for _ in range(200):  # as above
            if (code := tried(plugin, ifname)) != errors.Code.TRY_AGAIN:
                break
            time.sleep(0.1)
        assert code == 0
    assert [link(name)["parentdev"] for name in names] == devices


@pytest.mark.parametrize("key", ["hostInterface", "deviceID", "kernelpath"])
def test_it_is_found_by_other_names_too(virtual_functions, pod_netns, first, key):
    name = virtual_functions.vfs[0]
    choices = {
        "hostInterface": {"hostInterface": name},
        "deviceID": {"runtimeConfig": {"deviceID": first}, "pciBusID": first},
        "kernelpath": {"kernelpath": str(Path("/sys/class/net", name, "device").resolve())},
    }
    plugin = Plugin(pod_netns, device="host-device", vlan=7, **choices[key])
    plugin("ADD")
    assert settings(virtual_functions.pf, 0)["vlan"] == 7
    plugin("DEL")
    assert link(name)


def test_what_the_card_cannot_set_is_an_error_and_everything_is_as_it_was(virtual_functions, pod_netns, first):
    before = settings(virtual_functions.pf, 0)
    with pytest.raises(errors.CNIError, match="function 0"):
        Function(pod_netns, first, vlan=9, link_state="disable")("ADD")
    assert (settings(virtual_functions.pf, 0), link(virtual_functions.vfs[0])["ifname"]) == (
        before,
        virtual_functions.vfs[0],
    )


def test_wishes_for_what_is_no_function_are_refused(virtual_functions, pod_netns):
    with pytest.raises(errors.CNIError, match="no virtual function") as caught:
        Function(pod_netns, address(virtual_functions.peer), vlan=9)("ADD")
    assert caught.value.code == 7


def test_a_device_whose_driver_has_no_interface_is_refused_by_the_drivers_name(virtual_functions, pod_netns, first):
    device, drivers = Path("/sys/bus/pci/devices", first), Path("/sys/bus/pci")
    subprocess.run(["modprobe", "uio_pci_generic"], check=True)
    (device / "driver/unbind").write_text(first)
    try:
        (device / "driver_override").write_text("uio_pci_generic")
        (drivers / "drivers_probe").write_text(first)
        with pytest.raises(errors.CNIError, match="is bound to uio_pci_generic") as caught:
            Function(pod_netns, first)("ADD")
        assert caught.value.code == 7
    finally:
        if (device / "driver").exists():
            (device / "driver/unbind").write_text(first)
        (device / "driver_override").write_text("\n")
        (drivers / "drivers_probe").write_text(first)
