from dataclasses import replace

import pytest

from agent import devices, options
from agent.devices.host_device import HostDevice
from agent.hardware import (
    Behind,
    Candidate,
    Chosen,
    Function,
    GiveBack,
    Hardware,
    Lend,
    Mark,
    Selection,
    SetFunction,
    Settings,
    State,
    Taken,
    VirtualFunction,
)
from agent.links import Have, Link, Where
from agent.model import ContainerID, Key
from agent.options import Call
from cni import errors

KEY = Key(ContainerID("c1"), "net1")
MARK, PCI = options.mark(KEY), "0000:3b:00.3"
CARD, VF = Function("ens1", 3), Link(7, "ens1v3", "", "02:00:00:00:00:07", 1500, up=True, bus="pci", device=PCI)
BEFORE = State("ens1v3", VF.mac, 1500, 1000, 1, "", "pci", PCI, "02:00:00:00:00:99")
HAD = VirtualFunction("00:00:00:00:00:00", 0, 0, 0x8100, 0, 0, True, False, 0)


def device(saved=None, **config) -> HostDevice:
    found = devices.parse(Call(KEY, {"device": "host-device", "pciBusID": PCI, **config}, saved=saved or {}))
    assert isinstance(found, HostDevice)
    return found


def have(of: HostDevice, *candidates: Candidate, taken=None, pod=None, settings=None, driver="igbvf") -> Have:
    """What was read: the choice is the first read, where the taken link is the second."""
    chosen, where, *others = of.reads()
    hardware = Hardware((("pci", PCI),), driver, (("pci", "0000:3b:00.0"),), 3)
    card = {read: settings for read in others if isinstance(read, Settings)}
    facts = {chosen: Selection(hardware, candidates), where: taken, Behind("pci", PCI): hardware, **card}
    return Have(pod=pod, facts=facts)


FREE = Candidate(VF, BEFORE, function=CARD, settings=HAD)


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        ({"pciBusID": "0000:3B:00.3"}, Chosen("pciBusID", PCI)),
        ({"pciBusID": "", "hostInterface": "eth1"}, Chosen("hostInterface", "eth1")),
        ({"pciBusID": "", "hwaddr": "02-00-00-00-AA-01"}, Chosen("hwaddr", "02:00:00:00:aa:01")),
        ({"pciBusID": "", "kernelpath": "/sys/devices/pci0000:00/0000:00:1f.6"},
         Chosen("kernelpath", "/sys/devices/pci0000:00/0000:00:1f.6")),
        ({"runtimeConfig": {"deviceID": PCI}}, Chosen("deviceID", PCI)),
        ({"deviceID": "mlx5_core.sf.4", "pciBusID": "mlx5_core.sf.4"}, Chosen("deviceID", "mlx5_core.sf.4")),
    ],
)  # fmt: skip
def test_one_option_chooses_the_interface_and_a_device_id_beats_what_is_derived_from_it(config, chosen):
    assert device(**config).reads()[0] == chosen


@pytest.mark.parametrize(
    "config",
    [
        {"pciBusID": ""},
        {"hostInterface": "eth1"},
        {"runtimeConfig": {"deviceID": PCI}, "hostInterface": "eth1"},
        {"pciBusID": "../../../etc"},
        {"pciBusID": 3},
        {"pciBusID": "", "hostInterface": "a/b"},
        {"pciBusID": "", "hwaddr": "02:00"},
        {"pciBusID": "", "kernelpath": "/etc"},
        {"pciBusID": "", "kernelpath": "/sys/devices/../bus"},
        {"runtimeConfig": {"deviceID": "a/../b"}},
        {"vlan": 4095},
        {"vlan": True},
        {"vlanQoS": 1},
        {"vlanProto": "802.1ad"},
        {"vlan": 0, "vlanQoS": 1},
        {"vlan": 0, "vlanProto": "802.1AD"},
        {"vlan": 1, "vlanProto": "802.1x"},
        {"spoofchk": "yes"},
        {"trust": True},
        {"link_state": "up"},
        {"min_tx_rate": -1},
        {"min_tx_rate": 9, "max_tx_rate": 5},
    ],
)
def test_what_can_never_be_is_refused_with_code_7(config):
    with pytest.raises(errors.CNIError) as caught:
        device(**config)
    assert caught.value.code == 7


def test_the_mark_comes_first_then_the_cards_settings_then_the_move():
    one = device(mac="02:00:00:00:00:42", vlan=5, max_tx_rate=10, trust="on")
    assert one.plan(one.interface, have(one, FREE)) == (
        Mark(VF, f"{MARK} ens1v3"),
        SetFunction(CARD, VirtualFunction("02:00:00:00:00:42", 5, 0, 0x8100, 0, 10, trust=True)),
        Lend(VF, Where.NODE, "net1"),
    )


def test_after_a_crash_only_what_is_left_is_done():
    one = device(vlan=5)
    marked = Link(7, "ens1v3", "", VF.mac, 1500, up=True, alias=f"{MARK} ens1v3")
    there = Candidate(marked, BEFORE, function=CARD, settings=VirtualFunction(vlan=5, qos=0, proto=0x8100))
    assert one.plan(one.interface, have(one, there)) == (Lend(marked, Where.NODE, "net1"),)
    wrong = (Link(3, "ens1v3", "", VF.mac, 1500, up=True, alias=marked.alias), Where.IN_POD)
    assert one.plan(one.interface, have(one, taken=wrong)) == (Lend(wrong[0], Where.IN_POD, "net1"),)
    right = Link(3, "net1", "", VF.mac, 1500, up=True, alias=marked.alias)
    assert one.plan(one.interface, have(one, taken=(right, Where.IN_POD), pod=right)) == ()


def test_the_journal_has_all_that_is_changed_before_it_is_and_once():
    one = device(vlan=5, min_tx_rate=1)
    note = one.memory(have(one, FREE))
    assert note["was"] == BEFORE.note()
    assert note["function"] == {"card": "ens1", "number": 3}
    kept = {name: value for name, value in note["settings"].items() if value is not None}
    assert kept == {"vlan": 0, "qos": 0, "proto": 0x8100, "min_rate": 0, "max_rate": 0}
    again = device(note)
    assert again.memory(have(again, FREE)) is None


def test_a_device_is_claimed_under_every_name_that_chooses_it():
    one = device()
    assert set(one.memory(have(one, FREE))["claims"]) == {
        f"pciBusID {PCI}", f"device pci/{PCI}", "hostInterface ens1v3", "hwaddr 02:00:00:00:00:07",
    }  # fmt: skip
    other = device()
    assert set(other.memory(have(other))["claims"]) == {f"pciBusID {PCI}", f"device pci/{PCI}"}


SAVED = {"claims": [], "was": BEFORE.note(), "function": {"card": "ens1", "number": 3}, "settings": {"vlan": 0}}


@pytest.mark.parametrize(
    ("name", "where", "alias"),
    [
        ("net1", Where.IN_POD, f"{MARK} ens1v3"),
        ("other", Where.IN_POD, "the pod's"),
        ("net1", Where.NODE, "the pod's"),
        ("ens1v3", Where.NODE, f"{MARK} ens1v3"),
    ],
)
def test_a_delete_restores_the_card_and_gives_back_the_link_wherever_it_is(name, where, alias):
    one = device(SAVED)
    link = Link(9, name, "", VF.mac, 1500, up=False, alias=alias, bus="pci", device=PCI)
    assert one.removal(have(one, taken=(link, where))) == (
        SetFunction(CARD, VirtualFunction(vlan=0)),
        GiveBack(link, where, BEFORE, Taken(MARK, replace(BEFORE, permanent=""))),
    )


def test_a_delete_leaves_alone_what_was_never_taken_or_is_back():
    one = device(SAVED)
    assert one.removal(have(one, taken=(VF, Where.NODE))) == ()


@pytest.mark.parametrize("driver", ["", "vfio-pci"])
def test_a_delete_waits_for_the_link_of_a_device_that_has_one(driver):
    one = device(SAVED)
    with pytest.raises(errors.CNIError, match="not come back") as caught:
        one.removal(have(one))
    assert caught.value.code == 11
    assert one.removal(have(one, driver=driver)) == ()
    assert Behind("pci", PCI) in one.reads()
    assert device().removal(have(device())) == ()


def test_a_delete_looks_for_the_mark_and_for_the_hardware():
    assert device(SAVED).reads()[1] == Taken(MARK, replace(BEFORE, permanent=""))
    assert device({"was": BEFORE.note()}).reads()[1] == Taken(MARK, BEFORE)
    assert device().reads()[1] == Taken(MARK)


def test_what_is_remembered_is_what_the_link_is_known_by_at_once():
    one = device()
    one.memory(have(one, replace(FREE, function=None)))
    assert one.reads()[1] == Taken(MARK, BEFORE)


def test_of_a_link_that_was_marked_already_what_proves_it_is_remembered_and_what_may_have_changed_is_not():
    one = device()
    marked = replace(VF, name="later", alias=f"{MARK} ens1v3")
    note = one.memory(have(one, Candidate(marked, replace(BEFORE, name="later", alias=marked.alias, kind="veth"))))
    assert note["was"] == State("ens1v3", bus="pci", device=PCI, permanent=BEFORE.permanent, kind="veth").note()


def test_check_names_settings_that_are_others_by_now():
    one = device(SAVED, vlan=5)
    pod = Link(9, "net1", "", VF.mac, 1500, up=True, alias=f"{MARK} ens1v3")
    right, wrong = (VirtualFunction(vlan=vlan, qos=0, proto=0x8100) for vlan in (5, 6))
    seen = [
        one.mismatches(one.interface, have(one, taken=(pod, Where.IN_POD), pod=pod, settings=now))
        for now in (right, wrong)
    ]
    assert (seen[0], len(seen[1])) == ((), 1)
    assert Settings(CARD) in one.reads()


@pytest.mark.parametrize(
    ("candidates", "driver", "why"),
    [
        ((), "vfio-pci", "bound to vfio-pci"),
        ((), "igbvf", "no interface of this node"),
        ((FREE, FREE), "igbvf", "several interfaces"),
    ],
)
def test_a_choice_that_is_no_one_interface_is_refused_with_the_reason(candidates, driver, why):
    one = device()
    chosen, where = one.reads()
    with pytest.raises(errors.CNIError, match=why) as caught:
        one.plan(one.interface, Have(facts={chosen: Selection(Hardware((), driver), candidates), where: None}))
    assert caught.value.code == 7
