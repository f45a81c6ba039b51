"""One NIC, plugged and unplugged a hundred times by the annotation of its VirtualMachine, under one name."""

import statistics
import time
from collections.abc import Mapping

import pytest

from e2e.kubevirt.conftest import FIRST_NIC
from e2e.kubevirt.machines import VirtualMachine
from e2e.kubevirt.test_hotplug import MACS, hashed, node_of, reach
from e2e.kubevirt.test_relay import BOOT, annotate, relays, status, wish
from e2e.pods import Pod

__all__ = ["relays"]

pytestmark = [pytest.mark.lane, pytest.mark.usefixtures("relays")]

CYCLES, REACHED_EVERY = 100, 20


def test_a_hundred_times(vm: VirtualMachine, peers: Mapping[str, Pod], capsys: pytest.CaptureFixture[str]) -> None:
    boot, plugged, unplugged = vm.sh(BOOT), [], []
    with vm.listening() as seen:
        for number in range(CYCLES):
            begun = time.perf_counter()
            annotate(vm, wish(blue=MACS["blue"]))
            plugged.append(seen.wait(MACS["blue"], begun, present=True))
            vm.wait("the status says so", lambda: status(vm).get("blue", {}).get("hotnic.dev/state") in HAS_IT)
            if number % REACHED_EVERY == 0:
                reach(vm, "blue", peers[node_of(vm)], "net1")
            begun = time.perf_counter()
            annotate(vm, None)
            unplugged.append(seen.wait(MACS["blue"], begun, present=False))
            vm.wait("KubeVirt has forgotten it", lambda: vm.names() == ["default"])
            vm.wait("the pod has as well", lambda: hashed("blue") not in vm.launcher().reported())
    assert vm.pod_links() == FIRST_NIC
    assert vm.sh(BOOT) == boot
    with capsys.disabled():
        for what, times in (("has the NIC", plugged), ("has lost it", unplugged)):
            print(
                f"\nedit of the VM's annotation -> the guest {what}, {CYCLES} times, ms:"
                f" min {min(times):.0f}, median {statistics.median(times):.0f}, max {max(times):.0f}"
            )


HAS_IT = ("Attached", "GuestVisible")
