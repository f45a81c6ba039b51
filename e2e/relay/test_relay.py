"""The relay on the real API server, with KubeVirt's own definitions; the test plays KubeVirt."""

import json
import signal
import threading
import time
from functools import partial
from typing import Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from e2e.pods import NETWORKS
from e2e.product import NAMESPACE
from e2e.relay import scene
from e2e.relay.scene import ACCOUNT, MANAGED, READY, REASON, Cast, Controller, Machine, frozen, link

pytestmark = pytest.mark.lane

VMS = "virtualmachines.kubevirt.io"
ALLOWED = [("get", VMS), ("list", VMS), ("watch", VMS), ("patch", VMS), ("create", "events"),
           ("list", "virtualmachineinstances.kubevirt.io"), ("watch", "virtualmachineinstancemigrations.kubevirt.io"),
           ("list", "kubevirts.kubevirt.io"), ("list", "network-attachment-definitions.k8s.cni.cncf.io")]  # fmt: skip
DENIED = [("update", VMS), ("delete", VMS), ("create", VMS), ("patch", f"{VMS}/status"),
          ("patch", "virtualmachineinstances.kubevirt.io"), ("create", "virtualmachineinstancemigrations.kubevirt.io"),
          ("list", "pods"), ("list", "secrets"), ("patch", "pods"), ("list", "configmaps"),
          ("create", "leases.coordination.k8s.io")]  # fmt: skip


def test_the_manifests_are_accepted_and_the_rights_are_no_more_than_needed(cast: Cast) -> None:
    objects = scene.objects(cast.cluster)
    assert {"Deployment", "DaemonSet", "Role", "ClusterRole"} <= {one["kind"] for one in objects}
    text = yaml.safe_dump_all(objects)
    apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
    assert len(cast.cluster.kubectl(*apply, input=text).splitlines()) == len(objects)
    who = f"--as=system:serviceaccount:{NAMESPACE}:{ACCOUNT}"

    def may(verb: str, what: str, namespace: str = "default") -> bool:
        resource, _, part = what.partition("/")
        parts = [f"--subresource={part}"] if part else []
        answer = cast.cluster.kubectl("auth", "can-i", verb, resource, *parts, who, "-n", namespace, check=False)
        return answer.strip() == "yes"

    said = {(verb, what): may(verb, what) for verb, what in (*ALLOWED, *DENIED)}
    assert said == {**dict.fromkeys(ALLOWED, True), **dict.fromkeys(DENIED, False)}
    assert may("create", "leases.coordination.k8s.io", NAMESPACE)
    assert not may("update", "leases.coordination.k8s.io/other", NAMESPACE)


def test_an_interface_from_the_annotation_to_the_guest_and_back_and_again(cast: Cast) -> None:
    vm = cast.machine("v")
    vm.start()
    address = ""
    for number in range(2):
        vm.annotate("blue@net1")
        vm.wait("the VM has the interface", lambda: "net1" in vm.interfaces())
        nic = vm.interfaces()["net1"]
        assert nic == {"name": "net1", "bridge": {}, "model": "virtio", "macAddress": nic["macAddress"]}
        assert address in ("", nic["macAddress"])
        address = nic["macAddress"]
        assert vm.networks()["net1"] == {"name": "net1", "multus": {"networkName": f"{cast.namespace}/blue"}}
        assert vm.annotations()[MANAGED] == "net1"
        assert vm.stage("net1") == "Pending"
        vm.hand_over()
        vm.wait("the pod is waited for", lambda: vm.status()["net1"]["hotnic.dev/reason"] == "WaitingForPod")
        vm.report(link("net1", "multus-status", podInterfaceName="podabc"))
        vm.wait("the pod has it", lambda: vm.stage("net1") == "PodAttached")
        assert vm.annotations()[READY] == "False"
        sources = "domain, guest-agent, multus-status"
        vm.report(link("net1", sources, podInterfaceName="podabc", interfaceName="eth1", mac=address, linkState="up",
                       ipAddress="10.9.0.7", ipAddresses=["10.9.0.7"]))  # fmt: skip
        path = "jsonpath={.metadata.annotations.hotnic\\.dev/networks-ready}=True"
        cast.cluster.kubectl("wait", f"--for={path}", "vm/v", "-n", cast.namespace, "--timeout=60s")
        assert vm.status()["net1"] == {
            "name": f"{cast.namespace}/blue", "interface": "eth1", "ips": ["10.9.0.7"], "mac": address,
            "hotnic.dev/name": "net1", "hotnic.dev/state": "GuestVisible", "hotnic.dev/pod-interface": "podabc",
            "hotnic.dev/link-state": "up",
        }  # fmt: skip
        vm.annotate(None)
        vm.wait("it is to go", lambda: vm.interfaces()["net1"].get("state") == "absent")
        vm.wait("that is told", lambda: vm.stage("net1") == "Detaching")
        vm.hand_over()
        vm.annotate("blue@net1")
        vm.report(link("net1", "multus-status"))
        vm.wait("the re-plug waits", lambda: vm.status()["net1"].get("hotnic.dev/reason") == "Replacing")
        assert vm.interfaces()["net1"]["state"] == "absent"
        vm.annotate(None)
        vm.report()
        vm.clear()
        vm.wait("nothing is left", lambda: vm.annotations().get(READY) == "True" and not vm.status())
        assert (list(vm.interfaces()), MANAGED in vm.annotations()) == (["default"], False)
        told = ["AddedInterface", "RemovedInterface"] * (number + 1)
        vm.wait("it was told", partial(has_told, vm, sorted(told)))


def has_told(vm: Machine, reasons: list[str]) -> bool:
    return sorted(reason for reason, _ in vm.events()) == reasons


def has_interfaces(vm: Machine, names: list[str]) -> bool:
    return list(vm.interfaces()) == names


def test_vms_of_every_shape_get_their_interface_and_keep_the_pod_network(cast: Cast) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "none": {"domain": {"devices": {}}},
        "empty": {"domain": {"devices": {"interfaces": []}}, "networks": []},
        "refuses": {"domain": {"devices": {"autoattachPodInterface": False}}},
    }
    vms = {name: cast.machine(name, "blue@net1", spec) for name, spec in shapes.items()}
    for name in ("none", "empty"):  # what KubeVirt would give them is not known before it is installed
        vms[name].wait("that is waited for", partial(has_reason, vms[name], "PodNetworkUnknown"))
    scene.install_kubevirt(cast.cluster, cast.namespace)
    for name, expected in {"none": ["default", "net1"], "empty": ["default", "net1"], "refuses": ["net1"]}.items():
        vms[name].wait("it has its interfaces", partial(has_interfaces, vms[name], expected))
        vms[name].wait("that is told", partial(has_reason, vms[name], "VMNotRunning"))
        assert list(vms[name].networks()) == expected
        assert vms[name].interfaces().get("default") in (None, {"name": "default", "masquerade": {}})


def has_reason(vm: Machine, reason: str) -> bool:
    return vm.status().get("net1", {}).get("hotnic.dev/reason") == reason


def test_what_cannot_be_is_told_and_what_can_is_done_once_it_can_be(cast: Cast) -> None:
    taken = "02:00:00:00:77:01"
    other = cast.machine("other", spec={
        "domain": {"devices": {"interfaces": [{"name": "x", "bridge": {}, "macAddress": taken}]}},
        "networks": [{"name": "x", "multus": {"networkName": "blue"}}],
    })  # fmt: skip
    other.start()
    wish = [
        {"name": "blue", "interface": "fine"},
        {"name": "blue", "interface": "ips", "ips": ["10.0.0.1/24"]},
        {"name": "blue", "interface": "plugin", "hotnic.dev/binding": "tap"},
        {"name": "blue", "interface": "default"},
        {"name": "blue", "interface": "mac", "mac": taken},
        {"name": "late"},
    ]
    vm = cast.machine("v", json.dumps(wish))
    vm.start()
    reasons = {
        "ips": "Unsupported", "plugin": "Unsupported", "default": "NameTaken", "mac": "MacInUse",
        "late-1": "NetworkNotFound",
    }  # fmt: skip
    vm.wait("each has its reason", lambda: reasons == {
        name: one["hotnic.dev/reason"] for name, one in vm.status().items() if name != "fine"
    })  # fmt: skip
    assert list(vm.interfaces()) == ["default", "fine"]
    told = {"InterfaceAddRejected", "FailedAddingInterface"}
    vm.wait("it is told", lambda: {reason for reason, _ in vm.events()} == told)
    cast.network("late")
    vm.wait("the late one is made", lambda: "late-1" in vm.interfaces())
    cast.custom.delete_namespaced_custom_object("kubevirt.io", "v1", cast.namespace, "virtualmachineinstances", "other")
    cast.custom.delete_namespaced_custom_object("kubevirt.io", "v1", cast.namespace, "virtualmachines", "other")
    vm.wait("the address is free", lambda: vm.interfaces().get("mac", {}).get("macAddress") == taken)
    before = vm.interfaces()
    vm.annotate('[{"name": "blue"')
    vm.wait("the malformed annotation is told", lambda: vm.annotations()[REASON].startswith("InvalidAnnotation"))
    assert vm.interfaces() == before


def test_everything_waits_for_a_migration_and_for_nothing_else(cast: Cast) -> None:
    vm = cast.machine("v")
    vm.start()
    migration = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
                 "metadata": {"name": "m"}, "spec": {"vmiName": "v"}}  # fmt: skip
    plural = "virtualmachineinstancemigrations"
    cast.custom.create_namespaced_custom_object("kubevirt.io", "v1", cast.namespace, plural, migration)

    def phase(text: str) -> None:
        cast.custom.patch_namespaced_custom_object_status(
            "kubevirt.io", "v1", cast.namespace, plural, "m", {"status": {"phase": text}},
            _content_type="application/merge-patch+json",
        )  # fmt: skip

    phase("Running")
    time.sleep(1)  # so that the watch of the migrations has surely shown it before the watch of the VMs shows the edit
    vm.annotate("blue@net1")
    vm.wait("it is held", lambda: vm.stage("net1") == "Migrating")
    assert list(vm.interfaces()) == ["default"]
    phase("Succeeded")
    vm.wait("it is plugged", lambda: "net1" in vm.interfaces())


def has_all(vm: Machine, names: set[str]) -> bool:
    return names <= vm.interfaces().keys()


def test_what_others_write_to_the_same_lists_is_never_lost(cast: Cast) -> None:
    vm = cast.machine("v")
    stop, made = threading.Event(), []

    def write() -> None:
        """As a GitOps tool: read, change, replace."""
        number = 0
        while not stop.is_set():
            name = f"foreign{number}"

            def change(body: dict[str, Any], name: str = name, number: int = number) -> None:
                spec = body["spec"]["template"]["spec"]
                spec["domain"]["devices"]["interfaces"].append(
                    {"name": name, "bridge": {}, "macAddress": f"02:00:00:00:88:{number:02x}"}
                )
                spec["networks"].append({"name": name, "multus": {"networkName": "red"}})

            vm.replace(change)
            made.append(name)
            number += 1
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(8):
            vm.annotate(",".join(f"blue@net{at}" for at in range(number + 1)))
            ours = {f"net{at}" for at in range(number + 1)}
            vm.wait("ours are there", partial(has_all, vm, ours))
    finally:
        stop.set()
        writer.join()
    vm.annotate("blue@net0")
    vm.wait("ours go", lambda: all(vm.interfaces()[f"net{at}"].get("state") == "absent" for at in range(1, 8)))
    interfaces = vm.interfaces()
    assert {name for name in interfaces if name.startswith("foreign")} == set(made)
    assert all("state" not in interfaces[name] for name in made)
    assert len(vm.get()["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]) == len(made) + 9
    assert list(interfaces) == list(vm.networks())


def test_what_admission_denies_is_told_with_its_words_and_left_alone_until_something_changes(cast: Cast) -> None:
    interfaces = "object.spec.template.spec.domain.devices.interfaces"
    rule = f"object.metadata.namespace != '{cast.namespace}' || !{interfaces}.exists(one, one.name == 'forbidden')"
    updates = {"apiGroups": ["kubevirt.io"], "apiVersions": ["v1"], "resources": ["virtualmachines"],
               "operations": ["UPDATE"]}  # fmt: skip
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": cast.namespace},
        "spec": {
            "matchConstraints": {"resourceRules": [updates]},
            "validations": [{"expression": rule, "message": "no such interface on my watch"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": cast.namespace},
        "spec": {"policyName": cast.namespace, "validationActions": ["Deny"]},
    }
    cast.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([policy, binding]))
    probe = cast.machine("probe")

    def is_in_force() -> bool:
        try:
            probe.add_foreign("forbidden")
        except ApiException:
            return True
        return False

    probe.wait("the policy is in force", is_in_force)
    try:
        vm = cast.machine("v", "blue@net1,blue@forbidden,blue@net2")
        vm.wait("the others are there", lambda: list(vm.interfaces()) == ["default", "net1", "net2"])
        vm.wait("the denial is told", lambda: vm.status().get("forbidden", {}).get("hotnic.dev/reason") == "Denied")
        assert "no such interface on my watch" in vm.annotations()[REASON]
        vm.wait("as an event too", lambda: any("on my watch" in text for _, text in vm.events()))
        before = writes(cast)
        vm.start()
        vm.hand_over()
        vm.report(link("net1", "multus-status"))
        vm.wait("the others go on", lambda: vm.stage("net1") == "PodAttached")
        assert writes(cast) - before <= 3  # what was told of net1 and net2
    finally:
        cast.cluster.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", cast.namespace)
    time.sleep(1)  # the API server looks at its policies once in a while
    vm.merge({"spec": {"runStrategy": "Always"}})
    vm.wait("a change of the VM is a new try", lambda: "forbidden" in vm.interfaces())


def writes(cast: Cast) -> float:
    kind = 'hotnic_controller_api_writes_total{kind="vm"}'
    return sum((one.counts().get(kind, 0.0) for one in cast.controllers.values()), 0.0)


def test_an_instance_without_a_vm_is_told_that_its_annotation_does_nothing(cast: Cast) -> None:
    vm = cast.machine("alone")
    body = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "bare", "annotations": {NETWORKS: "blue"}},
            "spec": scene.template()}  # fmt: skip
    made = cast.custom.create_namespaced_custom_object(
        "kubevirt.io", "v1", cast.namespace, "virtualmachineinstances", body
    )
    bare = scene.Machine(cast, "alone", made["metadata"]["uid"])
    vm.wait("it is told", lambda: [reason for reason, _ in bare.events()] == ["Unsupported"])


# -- who leads ------------------------------------------------------------------------------------------------------


def test_a_leader_that_is_killed_in_the_middle_leaves_nothing_half_done(cast: Cast) -> None:
    vms = [cast.machine(f"v{number:03}") for number in range(120)]
    leader = cast.leader()

    def annotate(part: int) -> None:
        for vm in vms[part::4]:
            vm.annotate("blue,red@net1")

    with frozen(leader):
        threads = [threading.Thread(target=annotate, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    vms[0].wait("it is in the middle", lambda: managed(cast))
    assert leader.end(signal.SIGKILL) == -signal.SIGKILL
    done = managed(cast)
    assert 0 < len(done) < len(vms)
    assert set(done.values()) == {"blue-1,net1"}
    for vm in vms:
        vm.wait("it is made", partial(has_interfaces, vm, ["default", "blue-1", "net1"]))
        assert vm.annotations()[MANAGED] == "blue-1,net1"
    addresses = [nic["macAddress"] for vm in vms for nic in vm.interfaces().values() if "macAddress" in nic]
    assert len(set(addresses)) == len(addresses) == 240
    number = next(number for number, one in cast.controllers.items() if one is leader)
    cast.controllers[number] = Controller.start(cast.cluster, number)


def managed(cast: Cast) -> dict[str, str]:
    """Return what is managed, by VM that has something."""
    found = cast.custom.list_namespaced_custom_object("kubevirt.io", "v1", cast.namespace, "virtualmachines")["items"]
    pairs = {one["metadata"]["name"]: one["metadata"].get("annotations", {}).get(MANAGED) for one in found}
    return {name: text for name, text in pairs.items() if text}


def test_a_leader_that_is_paused_writes_nothing_once_another_one_leads(cast: Cast) -> None:
    vm = cast.machine("v")
    old = cast.leader()
    new = next(one for one in cast.controllers.values() if one is not old)
    before = old.counts()
    with frozen(old):
        vm.annotate("blue@net1")
        vm.wait("the other one leads, and does it", lambda: "net1" in vm.interfaces())
        assert new.leads()
        vm.annotate("red@net2")
        vm.wait("that too", lambda: "net2" in vm.interfaces())
    vm.wait("the old one is back", lambda: old.ask("/readyz") == "ok\n")
    assert not old.leads()
    vm.annotate("red@net2,red@net3")
    vm.wait("the new one goes on", lambda: "net3" in vm.interfaces())
    kinds = [f'hotnic_controller_api_writes_total{{kind="{kind}"}}' for kind in ("vm", "event")]
    assert [old.counts().get(kind, 0.0) for kind in kinds] == [before.get(kind, 0.0) for kind in kinds]
    assert vm.interfaces()["net1"]["state"] == "absent"


def test_a_leader_that_is_stopped_gives_the_lease_up_at_once(cast: Cast) -> None:
    vm = cast.machine("v")
    old = cast.leader()
    number = next(number for number, one in cast.controllers.items() if one is old)
    before = _lease(cast)
    assert old.end() == 0
    after = _lease(cast)
    assert before["holderIdentity"] != after.get("holderIdentity", "")  # given up, or taken by the next one already
    vm.annotate("blue@net1")
    vm.wait("the next one does it", lambda: "net1" in vm.interfaces())
    cast.controllers[number] = Controller.start(cast.cluster, number)


def _lease(cast: Cast) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        cast.cluster.kubectl("get", "lease", scene.LEASE, "-n", NAMESPACE, "-o", "json")
    )["spec"]
    return found
