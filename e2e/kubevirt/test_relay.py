"""NICs of running guests, given and taken by the networks annotation of the VirtualMachine, as pods' are."""

import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.kubevirt import machines
from e2e.kubevirt.machines import VirtualMachine
from e2e.kubevirt.test_hotplug import MACS, node_of, reach
from e2e.pods import NETWORKS, STATUS, Namespace, Pod
from e2e.product import Product
from e2e.relay import scene
from e2e.relay.scene import MANAGED, READY, REASON, Controller

pytestmark = [pytest.mark.lane, pytest.mark.usefixtures("relays")]

BOOT = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def relays(product: Product) -> Iterator[dict[int, Controller]]:
    """The relay, twice."""
    scene.install(product.cluster)
    running = {number: Controller.start(product.cluster, number) for number in (1, 2)}
    yield running
    for one in running.values():
        one.end()
        assert "Traceback" not in one.output()


def annotate(vm: VirtualMachine, wish: str | None, **more: str) -> None:
    vm.annotate({NETWORKS: wish, **more})


def annotations(vm: VirtualMachine) -> dict[str, str]:
    found: dict[str, str] = vm.get()["metadata"].get("annotations", {})
    return found


def status(vm: VirtualMachine) -> dict[str, dict[str, Any]]:
    return {one["hotnic.dev/name"]: one for one in json.loads(annotations(vm).get(STATUS, "[]"))}


def wait_ready(vm: VirtualMachine, *names: str) -> None:
    """Wait as a user does, until exactly these interfaces are there."""
    vm.wait(f"the status has {names}", lambda: set(status(vm)) == set(names))
    path = "jsonpath={.metadata.annotations.hotnic\\.dev/networks-ready}=True"
    kubectl = vm.namespace.api.cluster.kubectl
    kubectl("wait", f"--for={path}", f"vm/{vm.name}", "-n", vm.namespace.name, "--timeout=90s")
    vm.wait(f"it has {names}", lambda: set(status(vm)) == set(names) and annotations(vm)[READY] == "True")


def events(vm: VirtualMachine, reason: str) -> list[str]:
    found = vm.namespace.api.call("list_namespaced_event", vm.namespace.name)["items"]
    uid = vm.get()["metadata"]["uid"]
    return [one["message"] for one in found if one["involvedObject"].get("uid") == uid and one["reason"] == reason]


def wish(**macs: str) -> str:
    """Ask for networks by their names, with these addresses."""
    return json.dumps([{"name": name, "interface": name, "mac": mac} for name, mac in macs.items()])


def test_an_annotation_gives_and_takes_nics(vm: VirtualMachine, peers: Mapping[str, Pod]) -> None:
    boot = vm.sh(BOOT)
    for _ in range(2):
        annotate(vm, wish(**MACS))
        wait_ready(vm, "blue", "red")
        assert set(vm.nics().values()) >= set(MACS.values())
        reach(vm, "blue", peers[node_of(vm)], "net1")
        # at first KubeVirt may repeat what the guest agent said of the same MAC before the unplug
        vm.wait("the guest tells of it", lambda: vm.nics().get(status(vm)["blue"].get("interface", "")) == MACS["blue"])
        told = status(vm)["blue"]
        assert (told["name"], told["mac"]) == (f"{vm.namespace.name}/blue", MACS["blue"])
        assert told["hotnic.dev/state"] == "GuestVisible"
        assert told["hotnic.dev/pod-interface"] in vm.launcher().reported()
        annotate(vm, None)
        wait_ready(vm)
        assert vm.names() == ["default"]
    assert vm.sh(BOOT) == boot
    assert events(vm, "AddedInterface")
    assert events(vm, "RemovedInterface")


def test_another_network_another_address_and_one_that_comes_late(vm: VirtualMachine, namespace: Namespace) -> None:
    boot = vm.sh(BOOT)
    annotate(vm, json.dumps([{"name": "blue", "interface": "net1", "mac": MACS["blue"]}, {"name": "late"}]))
    vm.wait("the late one is waited for", lambda: status(vm).get("late-1", {}).get("hotnic.dev/state") == "Pending")
    vm.wait("the other one is there", lambda: status(vm)["net1"]["hotnic.dev/state"] in ("Attached", "GuestVisible"))
    annotate(vm, json.dumps([{"name": "red", "interface": "net1", "mac": MACS["red"]}, {"name": "late"}]))
    network = {"cniVersion": "1.1.0", "type": "hotnic", "device": "bridge", "bridge": "br-late",
               "capabilities": {"mac": True}}  # fmt: skip
    namespace.network("late", network)
    wait_ready(vm, "net1", "late-1")
    assert status(vm)["net1"]["name"] == f"{namespace.name}/red"
    assert set(vm.nics().values()) >= {MACS["red"], status(vm)["late-1"]["mac"]}
    assert MACS["blue"] not in vm.nics().values()
    annotate(vm, "")
    wait_ready(vm)
    namespace.drop_network("late")
    assert vm.sh(BOOT) == boot


def test_a_leader_that_is_killed_in_the_middle_is_followed_by_another(
    vm: VirtualMachine, product: Product, relays: dict[int, Controller]
) -> None:
    boot = vm.sh(BOOT)
    number = next(number for number, one in relays.items() if one.leads())
    annotate(vm, wish(**MACS))
    relays[number].end(signal.SIGKILL)
    wait_ready(vm, "blue", "red")
    relays[number] = Controller.start(product.cluster, number)
    number = 3 - number
    annotate(vm, None)
    vm.wait("the unplug has begun", lambda: annotations(vm).get(READY) == "False")
    relays[number].end(signal.SIGKILL)
    wait_ready(vm)
    relays[number] = Controller.start(product.cluster, number)
    assert vm.names() == ["default"]
    assert vm.sh(BOOT) == boot


def test_an_edit_during_a_migration_waits_for_its_end(vm: VirtualMachine, peers: Mapping[str, Pod]) -> None:
    boot, before = vm.sh(BOOT), node_of(vm)
    annotate(vm, wish(blue=MACS["blue"]))
    wait_ready(vm, "blue")
    name = vm.migrate()
    vm.wait("it is under way", lambda: vm.migration(name) not in ("None", "", "Pending"))
    annotate(vm, wish(**MACS))
    vm.wait("red waits or was let in before", lambda: "red" in status(vm))
    assert status(vm)["red"]["hotnic.dev/state"] == "Migrating" or vm.migration(name) == "Succeeded"
    vm.wait_migrated(name)
    wait_ready(vm, "blue", "red")
    assert node_of(vm) != before
    reach(vm, "blue", peers[node_of(vm)], "net1")
    reach(vm, "red", peers[node_of(vm)], "net2")
    annotate(vm, None)
    wait_ready(vm)
    assert vm.sh(BOOT) == boot


def test_what_kubevirts_webhooks_deny_is_told_in_their_words(namespace: Namespace, cluster: Cluster) -> None:
    """Somebody gave the pod network, which cannot be unplugged, into the annotation's hands."""
    other = machines.create(namespace, "denied", running=False)
    path = "/spec/template/spec/domain/devices/interfaces/0"
    other.patch({"op": "replace", "path": path, "value": {"name": "default", "bridge": {}}})
    annotate(other, "blue", **{MANAGED: "default"})
    other.wait("the denial is told", lambda: status(other).get("default", {}).get("hotnic.dev/reason") == "Denied")
    assert "not supported on default networks" in annotations(other)[REASON]
    other.wait("an event tells it too", lambda: "default networks" in "".join(events(other, "InterfaceAddRejected")))
    other.wait("the rest is done", lambda: other.names() == ["default", "blue-1"])
    cluster.kubectl("delete", "vm", "denied", "-n", namespace.name)
