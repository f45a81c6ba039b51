"""Annotation edit -> NIC in the guest, and out of it again, in a real pod on a real cluster: QEMU by its monitor."""

import json
import time

import pytest

from e2e import audit, networks
from e2e.vm import machines

pytestmark = pytest.mark.lane

IN_VM = "hotnic.dev/vm"


def in_vm(pod, interface: str) -> dict[str, object]:
    return pod.reported().get(interface, {}).get(IN_VM, {})


def give_address(vm, nic: str, number: int, network: str = "10.8.0") -> None:
    vm.run(f"ip addr add {network}.{number}/24 dev {nic} && ip link set {nic} up")


def test_two_guests_meet_on_a_network_that_was_plugged_and_lose_it_again(ns, cluster):
    ns.network("blue", networks.native("br-vm", mtu=1400))
    with (
        machines.running(ns, "a", node=cluster.nodes[0].name) as one,
        machines.running(ns, "b", node=cluster.nodes[0].name, networks="blue") as two,
    ):
        one.pod.plug("blue")
        for vm, number in ((one, 1), (two, 2)):
            vm.pod.wait_ready("net1")
            entry = vm.pod.reported()["net1"]
            told = entry[IN_VM]
            nic = vm.wait_nic(entry["mac"])  # CNI's MAC is the guest's
            assert (told["state"], told["mac"], told.get("interface", nic)) == ("GuestVisible", entry["mac"], nic)
            assert vm.run(f"cat /sys/class/net/{nic}/mtu").strip() == "1400"
            give_address(vm, nic, number)
        one.run("ping -c 1 -w 10 10.8.0.2")
        two.run("ping -c 1 -w 10 10.8.0.1")
        one.run("ping -c 1 -w 10 -s 1372 10.8.0.2")
        assert "in the virtual machine" in one.pod.wait_event("AddedInterface", "net1", "virtual machine")
        macs = [vm.pod.reported()["net1"]["mac"] for vm in (one, two)]
        one.pod.plug("")
        one.pod.wait_ready()
        assert macs[0] not in one.nics()
        assert set(one.pod.interfaces()) == {"eth0"}
        two.pod.plug(None)
        two.pod.wait_ready()
        assert macs[1] not in two.nics()


def test_several_at_once_repeatedly_with_addresses_that_come_back(ns):
    ns.network("blue", networks.native("br-vm"))
    ns.network("ref", networks.reference_bridge("br-ref", "10.93.0.0/29"))  # five addresses: a leak would show
    with machines.running(ns, "a") as vm:
        before = vm.nics()
        for _ in range(6):
            vm.pod.plug("blue@b1,ref@r1,blue@b2")
            vm.pod.wait_ready("b1", "r1", "b2")
            wanted = {entry["mac"] for name, entry in vm.pod.reported().items() if name != "eth0"}
            assert wanted == vm.nics().keys() - before.keys()
            vm.pod.plug("")
            vm.pod.wait_ready()
            assert vm.nics() == before


def test_killed_agents_and_controllers_cost_the_guest_nothing(ns, cluster, product):
    ns.network("blue", networks.native("br-vm"))
    node = cluster.nodes[0]
    with machines.running(ns, "a", node=node.name) as vm:
        for delay in (0, 0.01, 0.02, 0.04, 0.08):
            vm.pod.plug("blue,blue")
            time.sleep(delay)
            product.agents[node.name].kill()
            product.controllers[node.name].kill()
            product.start_agent(node)
            product.start_controller(node)
            vm.pod.wait_ready("net1", "net2")
            macs = {vm.pod.reported()[name]["mac"] for name in ("net1", "net2")}
            assert macs <= vm.nics().keys()
            assert len(vm.nics()) == 2
            vm.pod.plug("blue")
            time.sleep(delay)
            product.agents[node.name].kill()
            product.start_agent(node)
            vm.pod.wait_ready("net1")
            assert list(vm.nics()) == [vm.pod.reported()["net1"]["mac"]]
            vm.pod.plug("")
            vm.pod.wait_ready()
            assert vm.nics() == {}


def test_paused_and_deaf_guests_end_in_a_truthful_status(ns):
    ns.network("blue", networks.native("br-vm"))
    with machines.running(ns, "a") as vm:
        vm.monitor("stop")
        vm.pod.plug("blue")
        vm.pod.wait("it says why", lambda: vm.pod.condition().get("reason") == "VMPaused")
        assert in_vm(vm.pod, "net1")["state"] == "Attached"
        vm.monitor("cont")
        vm.pod.wait_ready("net1")
        mac = vm.pod.reported()["net1"]["mac"]
        vm.wait_nic(mac)
        vm.monitor("stop")
        vm.pod.plug("")
        vm.pod.wait("it says why", lambda: vm.pod.condition().get("reason") == "VMPaused")
        assert in_vm(vm.pod, "net1")["state"] == "Detaching"
        assert "net1" in vm.pod.interfaces()
        vm.monitor("cont")
        vm.pod.wait_ready()
        vm.wait_nic(mac, there=False)
    with machines.running(ns, "deaf", machine="pc", boot=machines.guests.DEAF, agent=False) as vm:
        vm.pod.plug("blue")
        vm.pod.wait("it says so", lambda: vm.pod.condition().get("reason") == "GuestSilent")
        assert vm.nics() == {}
        vm.pod.plug("")
        vm.pod.wait_event("FailedRemovingInterface", "guest has not let the interface go")
        assert vm.pod.condition()["reason"] == "WaitingForGuest"
        vm.monitor("system_reset")
        vm.pod.wait_ready()


def test_a_machine_that_starts_later_gets_it_and_one_that_dies_gives_it_back(ns, cluster):
    ns.network("ref", networks.reference_bridge("br-ref", "10.94.0.0/29"))
    with machines.running(ns, "a", networks="ref") as vm:  # the annotation was there before QEMU was
        vm.pod.wait_ready("net1")
        vm.wait_nic(vm.pod.reported()["net1"]["mac"])
        node = next(node for node in cluster.nodes if node.name == vm.pod.get()["spec"]["nodeName"])
        assert audit.addresses(node, "ref")
        vm.pod.delete()
        audit.wait_clean(node, {vm.pod.uid})
        vm.pod.wait("the address is free", lambda: not audit.addresses(node, "ref"))


@pytest.mark.parametrize(
    ("vm", "reason", "message"),
    [
        ('{"qmp": "/run/vm/none.sock"}', "VMUnreachable", "/run/vm/none.sock"),
        ('{"qmp": "run"}', "InvalidVM", "qmp must be an absolute path"),
        ('{"qmp": "/run/vm/qmp.sock", "container": "x"}', "VMUnreachable", "container x does not run"),
    ],
)
def test_what_is_wrong_with_the_way_to_the_machine_is_told_and_mended_by_an_edit(ns, vm, reason, message):
    ns.network("blue", networks.native("br-vm"))
    pod = ns.pod("a", "blue", annotations={machines.ANNOTATION: vm})
    pod.wait(
        "the reason is told", lambda: pod.condition().get("reason") == reason and message in pod.condition()["message"]
    )
    assert in_vm(pod, "net1") == {"state": "PodAttached", "mac": pod.reported()["net1"]["mac"]}
    body = {"metadata": {"annotations": {machines.ANNOTATION: None}}}
    ns.api.call("patch_namespaced_pod", pod.name, ns.name, body)
    pod.wait_ready("net1")
    assert in_vm(pod, "net1") == {}


def test_no_link_in_the_container_leads_to_a_socket_of_the_node(ns, cluster):
    """The container's own file system is what the path is of, whatever the pod makes of it."""
    ns.network("blue", networks.native("br-vm"))
    with machines.running(ns, "a", node=cluster.nodes[0].name) as vm:
        socket = f"unix://{cluster.nodes[0].cri_socket}".removeprefix("unix://")
        assert cluster.nodes[0].path(socket).is_socket()
        (vm.folder / "escape.sock").symlink_to(socket)
        body = {"metadata": {"annotations": {machines.ANNOTATION: '{"qmp": "/run/vm/escape.sock"}'}}}
        ns.api.call("patch_namespaced_pod", vm.pod.name, ns.name, body)
        vm.pod.plug("blue")
        vm.pod.wait("it is not reached", lambda: vm.pod.condition().get("reason") == "VMUnreachable")
        assert "No such file" in vm.pod.condition()["message"]


def migrate(source, destination_folder, *, postcopy: bool) -> None:
    capabilities = [{"capability": "return-path", "state": True}]
    capabilities += [{"capability": "postcopy-ram", "state": True}] if postcopy else []
    source.monitor("migrate-set-capabilities", capabilities=capabilities)
    source.monitor("migrate", uri=f"unix:{destination_folder}")
    if postcopy:
        source.monitor("migrate-start-postcopy")


@pytest.mark.parametrize("postcopy", [False, True], ids=["pre-copy", "post-copy"])
def test_a_plugged_nic_survives_a_live_migration_to_a_pod_on_another_node(ns, cluster, postcopy):
    """Two pods, on two nodes, on an overlay; the destination's NIC has the source's MAC, and sits in the same port."""
    first, second = cluster.nodes[:2]
    ns.network("blue", {"cniVersion": "1.1.0", "type": "hotnic", "device": "overlay", "vni": 5100,
                        "capabilities": {"mac": True}})  # fmt: skip
    peer = ns.pod("peer", "blue", nodeName=first.name)
    peer.wait_ready("net1")
    peer.sh("ip addr add 10.8.0.9/24 dev net1")
    with machines.running(ns, "source", node=first.name) as source:
        source.pod.plug("blue")
        source.pod.wait_ready("net1")
        told = source.pod.reported()["net1"]
        nic = source.wait_nic(told["mac"])
        give_address(source, nic, 1)
        source.run("ping -c 1 -w 10 10.8.0.9")
        wish = json.loads(machines.QMP) | {"ports": {"net1": told[IN_VM]["port"]}}
        element = [{"name": "blue", "mac": told["mac"], "interface": "net1"}]
        with machines.running(ns, "target", wait=False, node=second.name, networks=element, vm=json.dumps(wish),
                              incoming="unix:/run/vm/migrate.sock") as target:  # fmt: skip
            target.pod.wait("its machine has the NIC", lambda: in_vm(target.pod, "net1").get("state") == "Attached")
            assert in_vm(target.pod, "net1")["port"] == told[IN_VM]["port"]
            if postcopy:
                target.monitor("migrate-set-capabilities",
                               capabilities=[{"capability": "postcopy-ram", "state": True}])  # fmt: skip
            target.pod.plug([*element, {"name": "blue", "interface": "net2"}])  # which the source has not got
            target.pod.wait("it is held", lambda: "VMIncoming" in target.pod.condition().get("message", ""))
            (target.folder / "migrate.sock").rename(source.folder / "migrate.sock")
            migrate(source, "/run/vm/migrate.sock", postcopy=postcopy)
            target.pod.wait_ready("net1", "net2", timeout=60)
            assert target.monitor("query-status")["status"] == "running"
            assert target.nics().keys() == {told["mac"], target.pod.reported()["net2"]["mac"]}
            assert target.nics()[told["mac"]] == nic
            source.pod.plug("blue@net1")  # an edit that changes nothing is a look at the machine all the same
            source.pod.wait("it is gone from here", lambda: source.pod.condition().get("reason") == "VMMigrated")
            target.run("ping -c 1 -w 10 10.8.0.9")
            source.pod.plug("")
            source.pod.wait_ready()
            target.pod.plug([])
            target.pod.wait_ready()
            assert target.nics() == {}


def test_what_is_asked_for_during_a_migration_is_done_afterwards(ns):
    ns.network("blue", networks.native("br-vm"))
    with (
        machines.running(ns, "source") as source,
        machines.running(ns, "target", wait=False, incoming="unix:/run/vm/migrate.sock") as target,
    ):
        source.monitor("migrate-set-parameters", max_bandwidth=1 << 20)
        (target.folder / "migrate.sock").rename(source.folder / "migrate.sock")
        migrate(source, "/run/vm/migrate.sock", postcopy=False)
        source.pod.plug("blue")
        source.pod.wait("it is held", lambda: source.pod.condition().get("reason") == "VMMigrating")
        assert in_vm(source.pod, "net1")["state"] == "PodAttached"
        source.monitor("migrate_cancel")
        source.pod.wait_ready("net1")
        source.wait_nic(source.pod.reported()["net1"]["mac"])
