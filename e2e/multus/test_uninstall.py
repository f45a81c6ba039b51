"""hotnic is not taken off a node while Multus would call it at a pod's end."""

import pytest

from e2e import networks, rights
from e2e.node import Node
from e2e.product import BIN, Product

pytestmark = pytest.mark.lane


def test_a_pod_that_multus_attached_by_hotnic_is_in_the_way_and_no_other(ns, node: Node, product: Product):
    ns.network("blue", networks.native("br-blue"))
    ns.network("ref", networks.reference_bridge("br-ref"))
    pods = ns.pod("a", "blue@x1"), ns.pod("b", "ref@x1"), ns.pod("c")
    for pod in pods[:2]:
        pod.wait_ready("x1")
    pods[2].plug("blue@x1")  # by the agent: nobody else will ask for its end
    pods[2].wait_ready("x1")
    product.agents[node.name].stop()
    try:
        command = rights.of("agent").command((str(BIN / "hotnic-agent"), "uninstall", "--keep"))
        done = node.exec(command, check=False)
    finally:
        product.start_agent(node)
    ours = [line for line in done.stderr.splitlines() if f"pod {ns.name}/" in line]
    assert len(ours) == 1, done.stderr
    assert f"x1 of pod {ns.name}/a was attached by a runtime, which calls hotnic when it ends" in ours[0]
    assert done.returncode == 1
    assert node.path("/opt/cni/bin/hotnic").exists()
