"""KubeVirt's objects as they are read."""

import pytest

from controller import vm_objects, vms
from tests.controller import machines
from tests.controller.machines import condition, document, instance, instance_document, lists, machine, nic, plugged


def test_an_interface_and_its_network_are_one():
    spec = lists(
        plugged("a", "blue"),
        (nic("b", "02-AA-00-00-00-01", state="absent"), {"name": "b", "multus": {"networkName": "other/red"}}),
        ({"name": "c", "binding": {"name": "tap"}}, {"name": "c", "multus": {"networkName": "blue"}}),
        ({"name": "d", "sriov": {}, "bootOrder": 1}, {"name": "missing", "pod": {}}),
    )
    read = {name: (one.network, one.mac, one.binding, one.absent) for name, one in machine(None, spec).nics.items()}
    assert read == {
        "default": ("", "", "masquerade", False),
        "a": ("ns/blue", machines.MAC, "bridge", False),
        "b": ("other/red", "02:aa:00:00:00:01", "bridge", True),
        "c": ("ns/blue", "", "plugin tap", False),
        "d": ("", "", "sriov", False),
    }


def test_lists_that_are_not_there_are_not_the_same_as_empty_ones():
    nothing = machine(None, {"domain": {"devices": {}}})
    assert (nothing.devices, nothing.has_device_map) == (vms.Devices(None, None), True)
    assert machine(None, {"domain": {}}).has_device_map is False
    assert machine(None, lists(pod=False)).devices == vms.Devices((), ())


def test_most_updates_of_a_vm_say_nothing_new():
    assert machine("blue", version=1) == machine("blue", version=2)
    assert machine("blue", annotations={"org.example/x": "1"}) == machine("blue", annotations={"org.example/x": "2"})
    assert machine("blue") != machine("red")
    assert machine("blue") != machine("blue", generation=2)
    assert machine("blue") != machine("blue", state={"snapshotInProgress": "s"})


def test_only_its_controller_owns_an_instance():
    assert instance(owner="uid-v").owner == "uid-v"
    for owner in ({"kind": "VirtualMachineInstanceReplicaSet", "controller": True}, {"kind": "VirtualMachine"}):
        body = instance_document()
        body["metadata"]["ownerReferences"] = [{"name": "v", "uid": "uid-v", **owner}]
        assert vm_objects.instance_from(body).owner == ""


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, False),
        ({}, False),
        ({"startTimestamp": "t"}, True),
        ({"startTimestamp": "t", "endTimestamp": "t"}, False),
        ({"startTimestamp": "t", "completed": True}, False),
        ({"startTimestamp": "t", "failed": True}, False),
        ({"targetNode": "n"}, False),
    ],
)
def test_an_instance_migrates_from_the_start_to_the_end_of_it(state, expected):
    assert instance(migration=state).migrating is expected


@pytest.mark.parametrize(
    ("phase", "expected"),
    [("", False), ("Pending", False), ("Scheduling", True), ("TargetReady", True), ("Running", True),
     ("WaitingForSync", True), ("Succeeded", False), ("Failed", False)],
)  # fmt: skip
def test_a_migration_is_under_way_once_its_target_is_chosen(phase, expected):
    body = {"metadata": {"namespace": "ns", "name": "m", "resourceVersion": "1"}, "spec": {"vmiName": "v"},
            "status": {"phase": phase}}  # fmt: skip
    assert vm_objects.migration_from(body).is_under_way is expected
    assert vm_objects.migration_from(body).instance_key == "ns/v"


def test_interfaces_that_only_the_guest_agent_knows_are_the_guests_own():
    told = instance(None, {"interfaceName": "docker0", "infoSource": "guest-agent", "mac": "02:42:00:00:00:01"})
    assert told.links == ()


@pytest.mark.parametrize(
    ("spec", "version", "expected"),
    [
        ({}, "v1.7.0", False),
        ({}, "v1.9.0", False),  # nobody migrates by itself
        ({"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}}, "v1.9.0", True),
        ({"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}}, "v1.10.1", True),
        ({"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}}, "v2.0.0", True),
        ({"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}}, "v1.8.4", False),
        ({"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}}, "", False),
        ({"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]},
          "configuration": {"developerConfiguration": {"featureGates": ["LiveUpdateNADRef"]}}}, "v1.8.4", True),
        ({"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]},
          "configuration": {"vmRolloutStrategy": "Stage"}}, "v1.9.0", False),
    ],
)  # fmt: skip
def test_which_kubevirt_exchanges_networks(spec, version, expected):
    body = {"metadata": {"namespace": "kubevirt", "name": "kubevirt", "resourceVersion": "1"}, "spec": spec,
            "status": {"observedKubeVirtVersion": version}}  # fmt: skip
    assert vm_objects.kubevirt_from(body).exchanges_networks is expected


def test_causes_are_read_from_conditions():
    failed = machine(conditions=[condition("Failure", "True", "HotPlugNetworkInterfaceError", "why")])
    assert failed.failure == "why"
    assert machine(conditions=[condition("Failure", "True", "FailedCreate", "why")]).failure == ""
    assert instance(conditions=[condition("Synchronized", "False", message="why")]).trouble == "why"
    assert instance(conditions=[condition("Synchronized", "True", message="why")]).trouble == ""
    assert vm_objects.machine_from(document(state={"restoreInProgress": "r"})).busy == "r"
