"""`hotnic-agent doctor` on nodes with KubeVirt: it is found, with its version, and with the machines of each node."""

import pytest

from e2e import doctor_command as doctor
from e2e.cluster import Cluster
from e2e.kubevirt import images
from e2e.kubevirt.machines import VirtualMachine
from e2e.kubevirt.test_hotplug import node_of

pytestmark = pytest.mark.lane


def test_kubevirt_is_named_with_its_version_and_its_machines_are_counted(vm: VirtualMachine, cluster: Cluster) -> None:
    here = node_of(vm)
    for node in cluster.nodes:
        told = doctor.run(node)
        assert (told.status, told.to_do) == (0, [])
        found = told.of("KubeVirt", "ok")
        assert found.startswith("kubevirt/virt-handler-")
        assert f"/virt-handler:{images.VERSION}; {int(node.name == here)} virtual machines here" in found
        assert "network lane, plugins bridge; neither Multus nor hotnic is in it" in told.of("CNI chain", "ok")
