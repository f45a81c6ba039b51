"""A Multus daemon that is away when a pod ends: its shim says that all is well, and everything of the pod is left."""

import pytest

from e2e import audit_command, networks
from e2e.multus_daemon import Multus
from e2e.node import Node

pytestmark = pytest.mark.lane


def test_what_multus_has_forgotten_is_found_and_deleted_as_it_was_added(ns, node: Node, multus: Multus):
    audit_command.wait_clean(node)
    ns.network("blue", networks.native("br-blue"))
    pod, other = ns.pod("a", "blue@x1"), ns.pod("b", "blue@x1")
    for one in (pod, other):
        one.wait_ready("x1")
    address, others = (one.get()["status"]["podIP"] for one in (pod, other))
    (store,) = node.path("/var/lib/cni/networks").glob(f"*/{address}")
    multus.kill(node)
    pod.delete()
    told = []

    def is_told() -> bool:
        told[:] = audit_command.run(node)[1]
        return {"result cache file", "host-local lease", "delegates kept by Multus"} <= {one["what"] for one in told}

    other.wait("the audit tells it", is_told)
    assert ({one["pod"] for one in told}, store.exists()) == ({f"{ns.name}/a"}, True)
    status, told, words = audit_command.run(node, "--repair")
    assert ({one["outcome"] for one in told}, status, words) == ({"mended"}, 0, ""), told
    multus.start(node)
    audit_command.wait_clean(node)
    assert (store.exists(), store.with_name(others).exists()) == (False, True)
    assert set(other.interfaces()) == {"eth0", "x1"}
