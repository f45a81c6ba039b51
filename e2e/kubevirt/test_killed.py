"""Agent and controller are killed while a guest gets or loses a NIC: the guest lives on, nothing is lost or left."""

import time

import pytest

from e2e.kubevirt.machines import VirtualMachine
from e2e.kubevirt.test_hotplug import MACS, node_of, unplug
from e2e.product import Product

BOOT = "cat /proc/sys/kernel/random/boot_id"


def kill_and_start(product: Product, name: str) -> None:
    """Kill hotnic on the node, both processes, and start it again."""
    node = next(node for node in product.cluster.nodes if node.name == name)
    product.agents[name].kill()
    product.controllers[name].kill()
    product.start_agent(node)
    product.start_controller(node)


# From the edit on: KubeVirt edits the pod after some 0.1 s, the link is there 0.05 s later and used after 0.1 s more.
@pytest.mark.parametrize("after", [0.05, 0.15, 0.3])
def test_killed_in_the_middle(vm: VirtualMachine, product: Product, after: float) -> None:
    boot = vm.sh(BOOT)
    vm.plug("blue", "blue", MACS["blue"])
    time.sleep(after)
    kill_and_start(product, node_of(vm))
    vm.wait("the guest has it", lambda: MACS["blue"] in vm.nics().values())
    vm.unplug("blue")
    time.sleep(after)
    kill_and_start(product, node_of(vm))
    unplug_is_done(vm)
    vm.plug("blue", "blue", MACS["blue"])
    vm.wait("the guest has it again", lambda: MACS["blue"] in vm.nics().values())
    unplug(vm, "blue")
    assert vm.sh(BOOT) == boot


def unplug_is_done(vm: VirtualMachine) -> None:
    vm.wait("the guest has lost it", lambda: MACS["blue"] not in vm.nics().values())
    vm.wait("KubeVirt has forgotten it", lambda: vm.names() == ["default"])
