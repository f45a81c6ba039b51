"""NICs of running guests, given and taken in KubeVirt's own way: by an edit of the VM's specification.

hotnic stands where KubeVirt's documentation has the dynamic networks controller.
"""

import hashlib
from collections.abc import Mapping

from e2e import audit
from e2e.cluster import Cluster
from e2e.kubevirt.conftest import FIRST_NIC
from e2e.kubevirt.machines import VirtualMachine
from e2e.pods import Pod

MACS = {"blue": "02:00:00:00:0b:01", "red": "02:00:00:00:0b:02"}
PLAIN = "02:00:00:00:0b:03"


def hashed(name: str) -> str:
    """Return the name that KubeVirt gives to an interface in the pod."""
    return "pod" + hashlib.sha256(name.encode()).hexdigest()[:11]


def plug(vm: VirtualMachine, *names: str) -> None:
    for name in names:
        vm.plug(name, name, MACS[name])
    vm.wait(f"the guest has {names}", lambda: {MACS[name] for name in names} <= set(vm.told().values()))


def unplug(vm: VirtualMachine, *names: str) -> None:
    for name in names:
        vm.unplug(name)
    vm.wait(f"the guest has lost {names}", lambda: not {MACS[name] for name in names} & set(vm.nics().values()))
    vm.wait("KubeVirt has forgotten them", lambda: not {*names} & {*vm.names()})


def reach(vm: VirtualMachine, name: str, peer: Pod, interface: str) -> None:
    """Give the guest's NIC the address that was leased to it, and ping both ways."""
    nic = next(nic for nic, mac in vm.nics().items() if mac == MACS[name])
    (address,) = vm.launcher().reported()[hashed(name)]["ips"]
    vm.sh(f"ip link set {nic} mtu 1400 up; ip addr replace {address}/24 dev {nic}")
    (other,) = peer.reported()[interface]["ips"]
    vm.sh(f"ping -c 2 -W 5 -I {nic} {other}")
    peer.sh(f"ping -c 2 -W 5 -I {interface} {address}")


def node_of(vm: VirtualMachine) -> str:
    return str(vm.instance()["status"]["nodeName"])


def test_three_nics_at_once_are_plugged_used_and_unplugged(vm: VirtualMachine, peers: Mapping[str, Pod]) -> None:
    assert set(vm.nics()) == {"eth0"}
    vm.plug("plain", "plain", PLAIN)
    plug(vm, "blue", "red")
    vm.wait("the guest has the third", lambda: PLAIN in vm.told().values())
    assert set(vm.nics().values()) >= {PLAIN, *MACS.values()}
    reported = vm.launcher().reported()
    assert {hashed("blue"), hashed("red"), hashed("plain")} <= set(reported)
    assert not any(name.startswith("net") for name in reported)  # KubeVirt would go over to counted names
    assert {name: reported[hashed(name)]["mac"] for name in MACS} == MACS
    vm.wait("KubeVirt is content", lambda: all("domain" in vm.interface(name).get("infoSource", "") for name in MACS))
    reach(vm, "blue", peers[node_of(vm)], "net1")
    reach(vm, "red", peers[node_of(vm)], "net2")
    vm.unplug("plain")
    unplug(vm, "blue")
    vm.wait("the guest has one of them", lambda: set(vm.nics().values()) & {PLAIN, *MACS.values()} == {MACS["red"]})
    reach(vm, "red", peers[node_of(vm)], "net2")
    unplug(vm, "red")


def test_the_same_name_again_and_again(vm: VirtualMachine, peers: Mapping[str, Pod]) -> None:
    boot = vm.sh("cat /proc/sys/kernel/random/boot_id")
    for _ in range(3):
        plug(vm, "blue")
        reach(vm, "blue", peers[node_of(vm)], "net1")
        unplug(vm, "blue")
        vm.wait("the launcher has its first NIC only", lambda: vm.pod_links() == FIRST_NIC)
    assert vm.sh("cat /proc/sys/kernel/random/boot_id") == boot


def test_a_vm_keeps_its_nic_over_stop_and_start(vm: VirtualMachine, peers: Mapping[str, Pod], cluster: Cluster) -> None:
    plug(vm, "blue")
    vm.stop()
    assert [len(audit.addresses(node, "blue")) for node in cluster.nodes] == [1] * len(peers)  # the peers' own
    vm.start()
    vm.wait_booted()
    assert MACS["blue"] in vm.nics().values()
    reach(vm, "blue", peers[node_of(vm)], "net1")
    unplug(vm, "blue")


def test_a_nic_is_there_after_a_live_migration(vm: VirtualMachine, peers: Mapping[str, Pod]) -> None:
    boot = vm.sh("cat /proc/sys/kernel/random/boot_id")
    plug(vm, "blue")
    before = node_of(vm)
    vm.wait_migrated(vm.migrate())
    vm.wait("it is on the other node", lambda: node_of(vm) != before)
    assert vm.sh("cat /proc/sys/kernel/random/boot_id") == boot
    assert MACS["blue"] in vm.nics().values()
    reach(vm, "blue", peers[node_of(vm)], "net1")
    unplug(vm, "blue")
