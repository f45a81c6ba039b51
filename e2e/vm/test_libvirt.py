"""Annotation edit -> NIC in the guest of an unprivileged libvirt daemon in a pod, out of it, and along to another."""

import re
import time

import pytest

from e2e import networks
from e2e.vm import libvirt_machines, machines

pytestmark = pytest.mark.lane


def wait_told(pod, interface: str, state: str, why: str) -> None:
    """Wait until the interface is in that state, and the condition tells of it for that reason."""

    def is_told() -> bool:
        found = pod.reported().get(interface, {}).get(machines.ANNOTATION, {}).get("state")
        message = pod.condition().get("message", "")
        return found == state and bool(re.search(rf"\b{interface} \([^)]*\): {why}", message))

    pod.wait(f"{interface} is {state}, {why}", is_told)


def test_a_guest_of_a_users_daemon_is_plugged_and_unplugged_whoever_is_killed(ns, cluster, product):
    ns.network("blue", networks.native("br-vm", mtu=1400))
    node = cluster.nodes[0]
    peer = ns.pod("peer", "blue", nodeName=node.name)
    with libvirt_machines.running(ns, "a", node=node.name) as vm:
        vm.start()
        assert vm.pod.sh("id -u; grep -h Cap /proc/[0-9]*/status | sort -u").split() == [
            str(libvirt_machines.USER), *(word for name in ("Amb", "Bnd", "Eff", "Inh", "Prm")
                                          for word in (f"Cap{name}:", "0" * 16))]  # fmt: skip
        peer.wait_ready("net1")
        peer.sh("ip addr add 10.8.0.9/24 dev net1")
        for round_ in range(3):
            vm.pod.plug("blue,blue" if round_ == 2 else "blue")
            names = ("net1", "net2") if round_ == 2 else ("net1",)
            vm.pod.wait_ready(*names)
            entry = vm.pod.reported()["net1"]
            told = entry[machines.ANNOTATION]
            nic = vm.wait_nic(entry["mac"])  # CNI's MAC is the guest's
            assert (told["state"], told["mac"]) == ("GuestVisible", entry["mac"])
            assert told.get("interface", nic) == nic
            assert vm.run(f"cat /sys/class/net/{nic}/mtu").strip() == "1400"
            owner = vm.pod.sh("cd /sys/class/net/vmt-net1; cat owner group").split()
            assert owner == [str(libvirt_machines.USER)] * 2  # the daemon can open it, and nobody else
            vm.run(f"ip addr add 10.8.0.1/24 dev {nic} && ip link set {nic} up")
            vm.run("ping -c 1 -w 10 10.8.0.9")
            vm.run("ping -c 1 -w 10 -s 1372 10.8.0.9")
            peer.sh("ping -c 1 -w 10 10.8.0.1")
            assert vm.nics_of_domain() == [len(names), len(names)]
            if round_ == 1:
                vm.kill_daemon()
            vm.pod.plug("")
            vm.pod.wait_ready()
            assert vm.nics() == {}
            assert vm.nics_of_domain() == [0, 0]
            assert set(vm.pod.interfaces()) == {"eth0"}
        for delay in (0.02, 0.08):
            for wanted in ("blue,blue", ""):
                names = ("net1", "net2") if wanted else ()
                vm.pod.plug(wanted)
                time.sleep(delay)
                product.agents[node.name].kill()
                if wanted:
                    vm.kill_daemon()
                product.start_agent(node)
                vm.pod.wait_ready(*names)
                assert vm.nics().keys() == {vm.pod.reported()[name]["mac"] for name in names}
                assert vm.nics_of_domain() == [len(names), len(names)]
        assert set(vm.pod.interfaces()) == {"eth0"}


def test_a_domain_takes_its_nic_along_to_the_daemon_of_a_pod_on_another_node(ns, cluster):
    first, second = cluster.nodes[:2]
    ns.network("blue", {"cniVersion": "1.1.0", "type": "hotnic", "device": "overlay", "vni": 5200,
                        "capabilities": {"mac": True}})  # fmt: skip
    peer = ns.pod("peer", "blue", nodeName=first.name)
    peer.wait_ready("net1")
    peer.sh("ip addr add 10.8.0.9/24 dev net1")
    with libvirt_machines.running(ns, "source", node=first.name) as source:
        source.start()
        source.pod.plug("blue")
        source.pod.wait_ready("net1")
        mac = source.pod.reported()["net1"]["mac"]
        nic = source.wait_nic(mac)
        source.run(f"ip addr add 10.8.0.1/24 dev {nic} && ip link set {nic} up")
        source.run("ping -c 1 -w 10 10.8.0.9")
        element = [{"name": "blue", "mac": mac, "interface": "net1"}]
        with libvirt_machines.running(ns, "target", element, node=second.name) as target:
            target.pod.wait("its tap waits", lambda: "vmt-net1" in target.pod.interfaces())
            wait_told(target.pod, "net1", "PodAttached", "VMStopped: the virtual machine does not run")
            with source.moving(target):
                source.pod.plug("blue,blue")
                wait_told(source.pod, "net2", "PodAttached", "VMMigrating")
                target.pod.plug([*element, {"name": "blue"}])
                wait_told(target.pod, "net2", "PodAttached", "VMIncoming")
            target.pod.wait_ready("net1", "net2", timeout=60)
            assert target.nics().keys() == {mac, target.pod.reported()["net2"]["mac"]}
            assert target.nics()[mac] == nic
            target.run("ping -c 1 -w 10 10.8.0.9")
            peer.sh("ping -c 1 -w 10 10.8.0.1")
            assert target.nics_of_domain() == [2, 2]
            source.pod.plug("")
            source.pod.wait_ready()
            target.pod.plug([])
            target.pod.wait_ready()
            assert target.nics() == {}
            assert target.nics_of_domain() == [0, 0]
