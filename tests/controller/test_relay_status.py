"""What the VM's user reads: how far each interface is, whether all is well, and what happened."""

import json

import pytest

from controller import relay_plan, relay_status, vm_objects, vms
from controller.vms import KubeVirt, Stage
from tests.controller import machines
from tests.controller.machines import (
    MAC,
    MANAGED,
    STATUS,
    condition,
    instance,
    link,
    lists,
    machine,
    plugged,
    world,
)  # fmt: skip

READY, REASON = "hotnic.dev/networks-ready", "hotnic.dev/networks-ready-reason"
NET1 = plugged("net1")


def told(vm, around=None, denied=None):
    around = around or world(instance())
    return relay_status.report(vm, relay_plan.plan(vm, around, denied or {}, alone=False), around)


def entries(vm, around=None, **how):
    return json.loads(told(vm, around, **how).annotations[STATUS])


def stage(vm, around=None):
    (entry,) = entries(vm, around)
    return entry["hotnic.dev/state"], entry.get("hotnic.dev/reason", "")


def readiness(vm, around=None, **how):
    annotations = told(vm, around, **how).annotations
    return annotations[READY], annotations[REASON]


def vm_with(wish="blue@net1", pair=NET1, **parts):
    return machine(wish, lists(pair), managed="net1", **parts)


def guest(*links, spec=NET1, **parts):
    return world(instance(lists(spec), *links, **parts))


def rewritten(vm, news):
    """Return the VM with what was told."""
    body = machines.document(None, {"domain": {"devices": {"interfaces": list(vm.devices.interfaces)}},
                                    "networks": list(vm.devices.networks)})  # fmt: skip
    merged = {**vm.annotations, **news.annotations}
    body["metadata"]["annotations"] = {key: text for key, text in merged.items() if text is not None}
    return vm_objects.machine_from(body)


# -- one interface, from the wish to the guest -------------------------------------------------------------------------


def test_the_entry_is_of_the_shape_of_a_pods_and_says_how_far_it_is():
    agent = link("net1", "domain, guest-agent, multus-status", interfaceName="eth1", linkState="up",
                 ipAddress="10.9.0.7", ipAddresses=["10.9.0.7", "fe80::1"])  # fmt: skip
    assert entries(vm_with(), guest(agent)) == [
        {
            "name": "ns/blue",
            "interface": "eth1",
            "ips": ["10.9.0.7", "fe80::1"],
            "mac": MAC,
            "hotnic.dev/name": "net1",
            "hotnic.dev/state": "GuestVisible",
            "hotnic.dev/pod-interface": vms.pod_interface("net1"),
            "hotnic.dev/link-state": "up",
        }
    ]


def test_the_name_in_the_pod_is_kubevirts():
    names = {name: vms.pod_interface(name) for name in ("net-first", "dyniface1", "iface1")}
    assert names == {"net-first": "poda1363d52898", "dyniface1": "pod9a6a0c3b4d8", "iface1": "pod7e0055a6880"}


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        (world(None), ("Pending", "VMNotRunning")),
        (world(instance(lists(NET1), phase="Succeeded")), ("Pending", "VMNotRunning")),
        (world(instance()), ("Pending", "WaitingForKubeVirt")),
        (guest(phase="Scheduling"), ("Pending", "VMStarting")),
        (guest(), ("Pending", "WaitingForPod")),
        (guest(conditions=[condition("MigrationRequired", "False")]), ("Pending", "WaitingForPod")),
        (guest(conditions=[condition("MigrationRequired")]), ("Migrating", "MigrationRequired")),
        (guest(link("net1", "multus-status")), ("PodAttached", "WaitingForGuest")),
        (guest(link("net1", "domain, multus-status")), ("Attached", "")),
        (guest(link("net1", "domain")), ("Attached", "")),
        (guest(link("net1", "domain, guest-agent, multus-status")), ("GuestVisible", "")),
        (guest(link("net1"), conditions=[condition("MigrationRequired")]), ("Attached", "")),
        (guest(link("net1"), conditions=[condition("Synchronized", "False", message="broken")]), ("Attached", "")),
        (guest(spec=plugged("net1", mac="02:00:00:00:00:09")), ("RestartRequired", "SpecChanged")),
        (guest(spec=plugged("net1", "ns/red")), ("RestartRequired", "SpecChanged")),
        (guest(spec=plugged("net1", state="absent")), ("Detaching", "Replacing")),
    ],
)
def test_what_kubevirt_says_becomes_a_state(around, expected):
    assert stage(vm_with(), around) == expected


def test_what_is_about_to_be_added_is_told_as_added():
    assert stage(machine("blue@net1")) == ("Pending", "WaitingForKubeVirt")
    assert stage(machine("blue@net1"), world(None)) == ("Pending", "VMNotRunning")
    (entry,) = entries(machine("blue@net1"))
    assert entry["mac"].startswith("02:68:6e:")
    assert "interface" not in entry


def test_an_exchanged_network_is_a_migration():
    around = guest(link("net1"), spec=NET1, conditions=[condition("LiveMigratable")])
    exchanges = KubeVirt("kubevirt/kubevirt", exchanges_networks=True)
    around = relay_plan.World(around.instance, "", exchanges, around.has_network, around.policy, around.addresses)
    assert stage(vm_with("red@net1"), around) == ("Migrating", "NetworkChanged")
    moved = guest(link("net1"), conditions=[condition("LiveMigratable"), condition("MigrationRequired")]).instance
    around = relay_plan.World(moved, "", around.kubevirt, around.has_network, around.policy, around.addresses)
    assert stage(vm_with(), around) == ("Migrating", "MigrationRequired")


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        (world(None), ("Detaching", "VMNotRunning")),
        (guest(), ("Detaching", "WaitingForKubeVirt")),
        (guest(link("net1")), ("Detaching", "WaitingForGuest")),
        (guest(link("net1", "multus-status")), ("Detaching", "WaitingForPod")),
        (guest(link("net1") | {"podInterfaceName": "net1"}), ("RestartRequired", "OrdinalNames")),
    ],
)
def test_what_leaves_is_told_until_it_is_gone(around, expected):
    leaving = vm_with(None, plugged("net1", state="absent"))
    assert stage(leaving, around) == expected
    assert readiness(leaving, around)[0] == "False"


# -- trouble --------------------------------------------------------------------------------------------------------


def test_kubevirts_complaints_are_causes():
    failed = condition("Failure", "True", "HotPlugNetworkInterfaceError", "patch refused")
    assert entries(vm_with(conditions=[failed]))[0]["hotnic.dev/message"] == "patch refused"
    assert stage(vm_with(conditions=[failed])) == ("Failed", "HotPlugNetworkInterfaceError")
    assert stage(vm_with(conditions=[condition("Failure", "True", "FailedCreate", "no disk")]))[0] == "Pending"
    slots = condition("Synchronized", "False", message="No more available PCI slots")
    for source in ((), (link("net1", "multus-status"),)):
        around = guest(*source, conditions=[slots])
        assert stage(vm_with(), around) == ("Failed", "NotSynchronized")
        assert "PCI slots" in readiness(vm_with(), around)[1]
    leaving = vm_with(None, plugged("net1", state="absent"))
    assert "PCI slots" in entries(leaving, guest(link("net1"), conditions=[slots]))[0]["hotnic.dev/message"]


@pytest.mark.parametrize("text", ["setup of net2 failed", f"tap{vms.pod_interface('net2')[3:]}: File exists"])
def test_a_complaint_that_names_interfaces_is_about_those(text):
    pairs = NET1, plugged("net2", mac="02:00:00:00:00:02")
    vm = machine("blue@net1,blue@net2", lists(*pairs), managed="net1,net2")
    around = world(instance(lists(*pairs), conditions=[condition("Synchronized", "False", message=text)]))
    assert [one["hotnic.dev/state"] for one in entries(vm, around)] == ["Pending", "Failed"]


# -- whether all is well --------------------------------------------------------------------------------------------


def test_ready_is_when_everything_asked_for_is_in_the_guest_and_nothing_else():
    assert readiness(vm_with(), guest(link("net1"))) == ("True", "AllAttached: 1")
    assert readiness(machine("", managed="net1")) == ("True", "NoNetworks")
    ready, reason = readiness(vm_with("blue@net1,green@net2"), guest(link("net1")))
    assert ready == "False"
    assert reason.startswith("NetworkNotFound: net2 (ns/green): Pending: ")


def test_the_gravest_gives_the_reason():
    vm = machine('[{"name":"green"},{"name":"blue","interface":"net1","ips":["10.0.0.1/24"]}]')
    ready, reason = readiness(vm)
    assert (ready, reason.partition(":")[0]) == ("False", "Unsupported")
    assert "green-1 (ns/green)" in reason


def test_a_malformed_annotation_is_told_and_what_is_plugged_stays_told():
    vm = vm_with("[{")
    ready, reason = readiness(vm, guest(link("net1")))
    assert (ready, reason.partition(":")[0]) == ("False", "InvalidAnnotation")
    assert stage(vm, guest(link("net1"))) == ("Attached", "")


def test_a_vm_that_never_asked_is_told_nothing():
    assert told(machine(None, lists(NET1))) == relay_status.Report({}, ())


def test_when_the_last_interface_has_gone_only_that_is_left_to_tell():
    vm = machine(
        "", status='[{"name":"ns/blue","hotnic.dev/name":"net1","hotnic.dev/state":"Detaching"}]', managed="net1"
    )
    assert told(vm).annotations == {MANAGED: None, STATUS: None, READY: "True", REASON: "NoNetworks"}


def test_entries_of_others_stay_as_they_are():
    foreign = {"name": "x", "interface": "eth0", "default": True, "org.example/a": [1, {"b": None}]}
    vm = vm_with(status=json.dumps([foreign]))
    assert entries(vm)[0] == foreign
    assert entries(rewritten(vm, told(vm)))[0] == foreign
    assert len(entries(rewritten(vm, told(vm)))) == 2


def test_what_no_program_can_read_is_replaced():
    assert len(entries(vm_with(status="nonsense"))) == 1
    assert len(entries(vm_with(status='{"a": 1}'))) == 1
    assert len(entries(vm_with(status="[" * 100_000))) == 1
    assert len(entries(vm_with(status="[" * 5_000 + "]" * 5_000))) == 1


def test_a_second_look_writes_nothing_and_tells_nothing():
    for vm, around in (
        (vm_with(), guest(link("net1"))),
        (vm_with("[{"), guest(link("net1"))),
        (vm_with("green@net2"), guest(link("net1"))),
    ):
        first = told(vm, around)
        after = rewritten(vm, first)
        second = told(after, around)
        assert second.events == ()
        assert {key: text for key, text in second.annotations.items() if text != after.annotations.get(key)} == {}


# -- events ---------------------------------------------------------------------------------------------------------


def events(vm, around=None, **how):
    return [(one.reason, one.warning, one.message) for one in told(vm, around, **how).events]


def event(vm, around=None, **how):
    found = events(vm, around, **how)
    assert len(found) <= 1
    return found[0] if found else None


def told_before(wish, state, message="", **parts):
    entry = {"name": "ns/blue", "hotnic.dev/name": "net1", "hotnic.dev/state": state, "hotnic.dev/message": message}
    return vm_with(wish, status=json.dumps([entry]), **parts)


def test_an_interface_that_reaches_the_guest_is_an_event_once():
    assert event(vm_with(), guest(link("net1"))) == (
        "AddedInterface", False, f"vm [ns/v]: added interface net1 to network: ns/blue(mac: {MAC})",
    )  # fmt: skip
    agent = guest(link("net1", "domain, guest-agent"))
    assert event(told_before("blue@net1", "Attached"), agent) is None
    assert event(told_before("blue@net1", "PodAttached"), agent)[0] == "AddedInterface"


def test_waiting_is_no_event():
    for around in (world(None), guest(), guest(link("net1", "multus-status"))):
        assert event(vm_with(), around) is None


def test_causes_are_in_the_text():
    reason, warning, text = event(machine('[{"name":"blue","interface":"net1","ips":["10.0.0.1/24"]}]'))
    assert (reason, warning) == ("InterfaceAddRejected", True)
    assert "will not add interface net1 to network: ns/blue: ips: " in text
    reason, warning, text = event(machine("green@net1"))
    assert (reason, warning) == ("FailedAddingInterface", True)
    assert "ns/green does not exist" in text
    slots = guest(conditions=[condition("Synchronized", "False", message="No more available PCI slots")])
    assert event(vm_with(), slots)[0] == "FailedAddingInterface"
    assert event(vm_with(), guest(spec=plugged("net1", "ns/red")))[0] == "RestartRequired"
    assert event(machine("[{"))[0] == "InterfaceAddRejected"
    vm = machine("blue@net1")
    fingerprint = relay_plan.plan(vm, world(instance()), {}, alone=False).changes[0].fingerprint
    assert "webhook says no" in event(vm, denied={fingerprint: "webhook says no"})[2]


def test_another_cause_is_another_event_and_the_same_is_none():
    slots = guest(conditions=[condition("Synchronized", "False", message="No more available PCI slots")])
    assert event(told_before("blue@net1", "Failed", "No more available PCI slots"), slots) is None
    assert event(told_before("blue@net1", "Failed", "something else"), slots)[0] == "FailedAddingInterface"


def test_an_interface_that_has_left_is_an_event():
    def gone(state):
        entry = {"name": "ns/blue", "hotnic.dev/name": "net1", "hotnic.dev/state": state}
        return event(machine("", managed="net1", status=json.dumps([entry])))

    assert gone("Detaching") == ("RemovedInterface", False, "vm [ns/v]: removed interface net1 from network: ns/blue")
    assert gone("Pending") is None


def test_each_reason_is_an_event_of_its_own_interfaces_with_the_gravest_first():
    vm = machine('[{"name":"blue","interface":"net1"},{"name":"blue","interface":"net2","ips":["10.0.0.1/24"]}]',
                 lists(NET1), managed="net1")  # fmt: skip
    (rejected, is_grave, refusal), (added, is_bad, addition) = events(vm, guest(link("net1")))
    assert (rejected, is_grave, added, is_bad) == ("InterfaceAddRejected", True, "AddedInterface", False)
    assert refusal.startswith("vm [ns/v]: will not add interface net2 to network: ns/blue: ips: ")
    assert addition == f"vm [ns/v]: added interface net1 to network: ns/blue(mac: {MAC})"


def test_long_causes_are_cut_to_what_the_api_takes():
    slots = guest(conditions=[condition("Synchronized", "False", message="ä" * 5000)])
    news = told(vm_with(), slots)
    assert [len(one.message.encode()) <= 1024 for one in news.events] == [True]
    assert len(news.annotations[REASON].encode()) <= 4096


def test_every_stage_has_its_place():
    assert set(Stage) - {Stage.ATTACHED, Stage.GUEST_VISIBLE} == set(relay_status._GRAVITY)
