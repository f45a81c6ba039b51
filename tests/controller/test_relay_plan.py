"""What is changed on a VM, and what is not (yet)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import relay_plan, vm_objects
from controller.policy import Policy
from controller.vms import KubeVirt, Stage
from tests.controller import machines
from tests.controller.machines import MAC, instance, link, lists, machine, nic, plugged, register, world

NET1 = plugged("net1")
EXCHANGES = KubeVirt("kubevirt/kubevirt", exchanges_networks=True)


def plan(vm, around=None, denied=None, alone=False):
    return relay_plan.plan(vm, around or world(instance()), denied or {}, alone=alone)


def changed(vm, around=None, **how):
    """Return the changed interfaces, by name, and their networks."""
    return {
        one.name: (dict(one.interface), one.network["multus"]["networkName"]) for one in plan(vm, around, **how).changes
    }


def holds(vm, around=None, **how):
    return {one.name: (one.hold.stage, one.hold.reason) for one in plan(vm, around, **how).entries if one.hold}


def element(**parts):
    return json.dumps([{"name": "blue", "interface": "net1", **parts}])


def managed_vm(wish, *pairs, **parts):
    pairs = pairs or (NET1,)
    return machine(wish, lists(*pairs), managed=",".join(one["name"] for one, _ in pairs), **parts)


def running(*pairs, **parts):
    return instance(lists(*pairs), *(link(one["name"]) for one, _ in pairs), **parts)


# -- plug -----------------------------------------------------------------------------------------------------------


def test_an_element_becomes_an_interface_with_everything_that_kubevirt_could_fill_in():
    vm = machine("other/blue@net1")
    draft = plan(vm)
    (change,) = draft.changes
    mac = change.interface["macAddress"]
    assert change.interface == {"name": "net1", "model": "virtio", "macAddress": mac, "bridge": {}}
    assert change.network == {"name": "net1", "multus": {"networkName": "other/blue"}}
    assert mac.startswith("02:68:6e:")
    assert draft.managed == {"net1"}
    assert [one["name"] for one in draft.devices.interfaces] == ["default", "net1"]
    assert [one["name"] for one in draft.devices.networks] == ["default", "net1"]


def test_mac_and_model_are_those_asked_for():
    ((interface, _),) = changed(machine(element(mac="02:00:00:00:00:05", **{"hotnic.dev/model": "e1000e"}))).values()
    assert (interface["macAddress"], interface["model"]) == ("02:00:00:00:00:05", "e1000e")


def test_once_it_is_there_nothing_is_left_to_do():
    vm = managed_vm("blue@net1")
    for around in (world(running(NET1)), world(None), world(instance())):
        draft = plan(vm, around)
        assert (draft.changes, draft.devices, draft.managed) == ([], vm.devices, {"net1"})


def test_several_are_added_in_one_go_with_different_addresses():
    found = changed(machine("blue,blue,red"))
    assert list(found) == ["blue-1", "blue-2", "red-1"]
    assert len({interface["macAddress"] for interface, _ in found.values()}) == 3


def test_the_address_is_the_same_again_after_an_unplug():
    assert changed(machine("blue@net1")) == changed(machine("red@net9,blue@net1"), world(None, networks=["ns/blue"]))


def test_a_definition_that_does_not_exist_is_waited_for_and_the_others_are_plugged():
    vm = machine("blue@net1,green@net2")
    assert list(changed(vm)) == ["net1"]
    assert holds(vm) == {"net2": (Stage.PENDING, "NetworkNotFound")}
    assert plan(vm).managed == {"net1"}


def test_what_is_plugged_stays_when_its_definition_is_deleted():
    assert changed(managed_vm("blue@net1"), world(running(NET1), networks=[])) == {}


def test_a_vm_that_is_stopped_is_changed_all_the_same():
    assert list(changed(machine("blue@net1"), world(None))) == ["net1"]
    assert list(changed(machine("blue@net1"), world(instance(phase="Succeeded")))) == ["net1"]


def test_a_malformed_annotation_changes_nothing():
    vm = managed_vm('[{"name": "blue"')
    draft = plan(vm, world(running(NET1)))
    assert draft.malformed is not None
    assert (draft.changes, draft.devices, draft.managed) == ([], vm.devices, {"net1"})
    assert [one.name for one in draft.entries] == ["net1"]


def test_a_refused_element_keeps_its_interface():
    vm = managed_vm(element(ips=["10.0.0.1/24"]))
    assert changed(vm, world(running(NET1))) == {}
    assert holds(vm) == {"net1": (Stage.FAILED, "Unsupported")}
    assert changed(managed_vm('[{"name":"blue","interface":"net1","mac":"x"}]')) == {}


def test_networks_of_forbidden_namespaces_are_refused():
    around = world(instance(), policy=Policy(isolated=True))
    assert holds(machine("other/blue@net1"), around) == {"net1": (Stage.FAILED, "NamespaceForbidden")}


# -- the pod network that nobody wrote down -------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [{"domain": {"devices": {}}}, lists(pod=False)])
def test_a_vm_without_interfaces_keeps_the_pod_network_that_kubevirt_gives_it(spec):
    def names(around, **parts):
        return [
            (set(one) - {"name"}, one["name"])
            for one in plan(machine("blue@net1", spec, **parts), around).devices.interfaces
        ]

    plugged_too = ({"model", "macAddress", "bridge"}, "net1")
    assert names(world(instance())) == [({"masquerade"}, "default"), plugged_too]
    assert names(world(None)) == [({"bridge"}, "default"), plugged_too]
    assert names(world(None, kubevirt=KubeVirt("kubevirt/kubevirt", pod_binding="masquerade")))[0] == (
        {"masquerade"},
        "default",
    )


def test_a_vm_that_wants_no_pod_network_gets_none():
    spec = {"domain": {"devices": {"autoattachPodInterface": False}}}
    assert [one["name"] for one in plan(machine("blue@net1", spec), world(None)).devices.networks] == ["net1"]


def test_a_preference_may_decide_over_the_pod_network_so_that_is_waited_for():
    body = machines.document("blue@net1", {"domain": {"devices": {}}})
    body["spec"]["preference"] = {"name": "p"}
    vm = vm_objects.machine_from(body)
    assert holds(vm, world(None)) == {"net1": (Stage.PENDING, "PodNetworkUnknown")}
    plain = machine("blue@net1", {"domain": {"devices": {}}})
    assert holds(plain, world(None, kubevirt=KubeVirt())) == {"net1": (Stage.PENDING, "PodNetworkUnknown")}
    assert list(changed(vm, world(instance()))) == ["net1"]


# -- unplug ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [None, "", "red@net2"])
def test_what_is_not_asked_for_any_more_becomes_absent_and_is_never_deleted(wish):
    vm = managed_vm(wish)
    draft = plan(vm, world(running(NET1)))
    absent = next(one for one in draft.devices.interfaces if one["name"] == "net1")
    assert absent == nic("net1", state="absent")
    assert [one["name"] for one in draft.devices.networks][:2] == ["default", "net1"]
    assert "net1" in draft.managed


def test_it_is_ours_until_kubevirt_has_removed_it():
    gone = machine(None, managed="net1")
    assert plan(gone).managed == set()
    leaving = managed_vm(None, plugged("net1", state="absent"))
    assert plan(leaving).managed == {"net1"}
    assert plan(leaving).changes == []
    assert [one.is_wanted for one in plan(leaving).entries] == [False]


def test_what_others_made_is_never_touched():
    vm = machine(None, lists(NET1))
    assert changed(vm, world(running(NET1))) == {}
    vm = machine("red@net2", lists(NET1), managed="")
    assert list(changed(vm, world(running(NET1)))) == ["net2"]


def test_a_name_is_used_again_only_when_vm_and_instance_have_let_go_of_it():
    gone = machine("blue@net1", managed="net1")
    leaving = plugged("net1", state="absent")
    for around in (world(running(leaving)), world(instance(None, link("net1", "multus-status")))):
        assert changed(gone, around) == {}
        assert holds(gone, around) == {"net1": (Stage.DETACHING, "Replacing")}
    again = managed_vm("blue@net1", leaving)
    assert changed(again, world(running(NET1))) == {}
    assert holds(again, world(running(NET1))) == {"net1": (Stage.DETACHING, "Replacing")}
    assert list(changed(gone, world(instance()))) == ["net1"]


def test_a_dead_instance_holds_no_name():
    assert list(changed(machine("blue@net1"), world(running(NET1, phase="Failed")))) == ["net1"]


def test_an_entry_that_somebody_deleted_comes_back_as_the_guest_has_it():
    deleted = machine("blue@net1", managed="net1")
    found = changed(deleted, world(running(NET1)))
    assert found == {"net1": (nic("net1"), "ns/blue")}
    other = machine("red@net1", managed="net1")
    assert holds(other, world(running(NET1))) == {"net1": (Stage.RESTART_REQUIRED, "EntryDeleted")}


# -- adoption -------------------------------------------------------------------------------------------------------


def test_an_interface_of_that_name_on_that_network_is_adopted_unchanged():
    vm = machine("blue@net1", lists(NET1))
    draft = plan(vm, world(running(NET1)))
    assert (draft.changes, draft.managed) == ([], {"net1"})
    short = (NET1[0], {"name": "net1", "multus": {"networkName": "blue"}})
    assert plan(machine("blue@net1", lists(short))).managed == {"net1"}


@pytest.mark.parametrize(
    ("wish", "pair"),
    [
        ("red@net1", NET1),
        (element(mac="02:00:00:00:00:09"), NET1),
        ("blue@net1", (nic("net1", bridge=None) | {"sriov": {}}, NET1[1])),
        ("blue@net1", ({"name": "net1", "binding": {"name": "tap"}}, NET1[1])),
    ],
)
def test_another_interface_of_that_name_is_left_alone(wish, pair):
    pair = ({key: value for key, value in pair[0].items() if value is not None}, pair[1])
    vm = machine(wish, lists(pair))
    assert holds(vm) == {"net1": (Stage.FAILED, "NameTaken")}
    assert (plan(vm).changes, plan(vm).managed) == ([], set())
    assert holds(machine("blue@default")) == {"default": (Stage.FAILED, "NameTaken")}


# -- another network, MAC, model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wish", ["red@net1", element(mac="02:00:00:00:00:09"), element(**{"hotnic.dev/model": "e1000"})]
)
def test_a_running_guest_is_changed_by_unplug_and_plug(wish):
    ((interface, network),) = changed(managed_vm(wish), world(running(NET1))).values()
    assert (interface, network) == (nic("net1", state="absent"), "ns/blue")


def test_a_stopped_vm_is_changed_in_place():
    ((interface, network),) = changed(managed_vm("red@net1"), world(None)).values()
    assert (interface, network) == (nic("net1"), "ns/red")
    wish = element(mac="02:00:00:00:00:09", **{"hotnic.dev/model": "e1000"})
    ((interface, _),) = changed(managed_vm(wish), world(None)).values()
    assert (interface["macAddress"], interface["model"]) == ("02:00:00:00:00:09", "e1000")


def test_a_network_is_exchanged_under_the_guest_where_kubevirt_can_and_the_vm_can_be_migrated():
    migratable = running(NET1, conditions=[machines.condition("LiveMigratable")])
    for around, expected in (
        (world(migratable, kubevirt=EXCHANGES), (nic("net1"), "ns/red")),
        (world(migratable), (nic("net1", state="absent"), "ns/blue")),
        (world(running(NET1), kubevirt=EXCHANGES), (nic("net1", state="absent"), "ns/blue")),
    ):
        assert changed(managed_vm("red@net1"), around) == {"net1": expected}
    both = json.dumps([{"name": "red", "interface": "net1", "mac": "02:00:00:00:00:09"}])
    around = world(migratable, kubevirt=EXCHANGES)
    assert changed(managed_vm(both), around) == {"net1": (nic("net1", state="absent"), "ns/blue")}


def test_the_old_network_is_kept_until_the_new_one_exists():
    vm = managed_vm("green@net1")
    assert changed(vm, world(running(NET1))) == {}
    assert holds(vm, world(running(NET1))) == {"net1": (Stage.PENDING, "NetworkNotFound")}


def test_the_old_address_is_kept_when_the_new_one_is_taken():
    known = register()
    known.seen("ns/w", "vm", ["02:00:00:00:00:09"])
    vm = managed_vm(element(mac="02:00:00:00:00:09"))
    around = world(running(NET1), addresses=known)
    assert changed(vm, around) == {}
    assert holds(vm, around) == {"net1": (Stage.FAILED, "MacInUse")}
    assert plan(vm, around).missed == {"02:00:00:00:00:09"}


def test_somebodys_link_state_is_not_taken_back():
    down = plugged("net1", state="down")
    assert changed(managed_vm("blue@net1", down), world(running(down))) == {}


def test_an_interface_whose_binding_somebody_changed_is_not_unplugged():
    strange = ({"name": "net1", "macAddress": MAC, "sriov": {}}, NET1[1])
    for wish in (None, "red@net1"):
        assert changed(managed_vm(wish, strange), world(running(strange))) == {}
        assert holds(managed_vm(wish, strange), world(running(strange))) == {"net1": (Stage.FAILED, "NotUnpluggable")}


# -- MACs -----------------------------------------------------------------------------------------------------------


def test_an_address_is_refused_that_another_vm_or_another_interface_has():
    known = register()
    known.seen("ns/w", "instance", [MAC])
    draft = plan(machine(element(mac=MAC)), world(instance(), addresses=known))
    assert draft.entries[0].hold.reason == "MacInUse"
    assert "ns/w" in draft.entries[0].hold.message
    twice = json.dumps([{"name": "blue", "interface": name, "mac": MAC} for name in ("net1", "net2")])
    assert holds(machine(twice)) == {"net2": (Stage.FAILED, "MacInUse")}
    assert plan(machine(twice)).missed == set()  # nobody else will give it up
    own = instance(None, link("default", mac=MAC))
    assert holds(machine(element(mac=MAC)), world(own)) == {"net1": (Stage.FAILED, "MacInUse")}


# -- migration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["blue@net1,red@net2", None, "red@net1", element(mac="02:00:00:00:00:09")])
def test_everything_waits_for_the_end_of_a_migration(wish):
    vm = managed_vm(wish)
    assert changed(vm, world(running(NET1))) != {}
    draft = plan(vm, world(running(NET1), migration="m"))
    assert (draft.changes, draft.devices) == ([], vm.devices)
    (hold,) = (one.hold for one in draft.entries if one.hold)
    assert (hold.stage, hold.reason) == (Stage.MIGRATING, "MigrationInProgress")
    assert "migration m" in hold.message


# -- denials --------------------------------------------------------------------------------------------------------


def test_what_was_denied_is_not_asked_for_again_and_the_others_are():
    vm = machine("blue@net1,red@net2")
    first = plan(vm)
    denied = {first.changes[0].fingerprint: "because"}
    assert list(changed(vm, denied=denied)) == ["net2"]
    assert holds(vm, denied=denied) == {"net1": (Stage.FAILED, "Denied")}
    assert list(changed(vm, alone=True)) == ["net1"]
    assert list(changed(vm, denied=denied, alone=True)) == ["net2"]


# -- in general -----------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["net1", "net2", "blue-1"])
_wishes = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["blue", "red", "green"])},
        optional={
            "interface": _NAMES,
            "mac": st.sampled_from([MAC, "02:00:00:00:00:02"]),
            "ips": st.just(["10.0.0.1/24"]),
        },
    ),
    max_size=4,
)
_pairs = st.dictionaries(
    _NAMES,
    st.tuples(st.sampled_from(["ns/blue", "ns/red"]), st.sampled_from([MAC, "02:00:00:00:00:03"]),
              st.sampled_from([{}, {"state": "absent"}, {"state": "down"}])),
)  # fmt: skip


def _specs(pairs):
    return lists(*(plugged(name, network, mac, **more) for name, (network, mac, more) in pairs.items()))


@given(_wishes, _pairs, st.none() | _pairs, st.sets(_NAMES), st.booleans())
def test_whatever_the_wishes_nothing_of_others_changes_no_entry_goes_and_a_second_look_is_content(
    wishes, own, guest, managed, migrating
):
    vm = machine(json.dumps(wishes), _specs(own), managed=",".join(sorted(managed)))
    there = None if guest is None else instance(_specs(guest), *(link(name) for name in guest))
    around = world(there, migration="m" if migrating and there else "")
    draft = plan(vm, around)
    before = {one["name"]: one for one in vm.devices.interfaces}
    after = {one["name"]: one for one in draft.devices.interfaces}
    networks = [one["name"] for one in draft.devices.networks]
    assert list(after)[: len(before)] == list(before)
    assert list(after) == networks
    assert all(after[name] == one for name, one in before.items() if name not in managed)
    assert draft.managed <= after.keys()
    assert all(one["macAddress"] for name, one in after.items() if name not in before)
    second = machine(json.dumps(wishes), {"domain": {"devices": {"interfaces": list(draft.devices.interfaces)}},
                                          "networks": list(draft.devices.networks)},
                     managed=",".join(sorted(draft.managed)))  # fmt: skip
    assert plan(second, around).changes == []
