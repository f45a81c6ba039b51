"""The patch: everything that was decided upon is tested, and nothing of anybody's is lost."""

import copy

import pytest

from controller import relay_patch, vm_objects
from controller.reconcile import Conflict
from controller.vms import Devices
from tests.controller import machines
from tests.controller.fake_cluster import patched
from tests.controller.machines import WISH, lists, nic, plugged

READY = "hotnic.dev/networks-ready"


def with_nic(vm):
    interfaces, networks = vm.devices.interfaces or (), vm.devices.networks or ()
    pair = plugged("net1")
    return Devices((*interfaces, pair[0]), (*networks, pair[1]))


def made(body, annotations=None):
    """Return the patch that adds an interface."""
    vm = vm_objects.machine_from(body)
    return relay_patch.operations(vm, with_nic(vm), annotations or {READY: "False"})


@pytest.mark.parametrize("spec", [None, {"domain": {"devices": {}}}, {"domain": {}}, lists(pod=False)])
@pytest.mark.parametrize("wish", ["blue@net1", None])
def test_the_lists_and_the_annotations_are_written_together(spec, wish):
    body = machines.document(wish, spec)
    after = vm_objects.machine_from(patched(body, made(body)))
    assert after.devices == with_nic(vm_objects.machine_from(body))
    assert after.annotations == {READY: "False"} | ({WISH: wish} if wish else {})


def test_nothing_to_write_is_no_patch():
    vm = machines.machine("blue@net1", annotations={READY: "True"})
    assert relay_patch.operations(vm, vm.devices, {READY: "True", "hotnic.dev/managed-interfaces": None}) == []


def test_an_annotation_is_removed_when_it_says_nothing_any_more():
    body = machines.document("", annotations={READY: "True"})
    vm = vm_objects.machine_from(body)
    (uid, wish, test, remove) = relay_patch.operations(vm, vm.devices, {READY: None})
    assert [one["op"] for one in (uid, wish, test, remove)] == ["test", "test", "test", "remove"]
    assert remove["path"] == "/metadata/annotations/hotnic.dev~1networks-ready"


def _append_interface(body):
    body["spec"]["template"]["spec"]["domain"]["devices"].setdefault("interfaces", []).append(nic("foreign"))


def _append_network(body):
    body["spec"]["template"]["spec"].setdefault("networks", []).append({"name": "foreign", "pod": {}})


def _set_state(body):
    body["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0]["state"] = "down"


def _edit_wish(body):
    body["metadata"]["annotations"][WISH] = "red@net1"


def _other_vm(body):
    body["metadata"]["uid"] = "another"


def _write_ready(body):
    body["metadata"]["annotations"][READY] = "True"


@pytest.mark.parametrize("edit", [_append_interface, _append_network, _set_state, _edit_wish, _other_vm, _write_ready])
def test_a_foreign_edit_in_between_is_a_conflict(edit):
    body = machines.document("blue@net1")
    patch = made(body)
    between = copy.deepcopy(body)
    edit(between)
    with pytest.raises(Conflict):
        patched(between, patch)
    patched(body, patch)


@pytest.mark.parametrize("spec", [{"domain": {"devices": {}}}, {"domain": {}}])
def test_where_there_is_no_list_to_test_the_version_is(spec):
    body = machines.document("blue@net1", spec)
    patch = made(body)
    body["metadata"]["resourceVersion"] = "2"
    with pytest.raises(Conflict):
        patched(body, patch)
