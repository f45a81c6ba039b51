"""A Multus daemon that is away when a pod ends: its shim says that all is well, and everything of the pod is left."""

import os

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
        told[:] = (one for one in audit_command.run(node)[1] if one["pod"] == f"{ns.name}/a")
        return {"result cache file", "host-local lease", "delegates kept by Multus"} <= {one["what"] for one in told}

    other.wait("the audit tells it", is_told)
    assert store.exists()
    for path in (node.path(one["where"]) for one in told):
        os.utime(path, (0, 0))  # as after a while: what is young is in the making perhaps, and left to its maker
    mended = {one["what"]: one["outcome"] for one in audit_command.repair(node)[1] if one["pod"] == f"{ns.name}/a"}
    assert mended == dict.fromkeys((one["what"] for one in told), "mended")
    multus.start(node)
    audit_command.wait_clean(node)
    assert (store.exists(), store.with_name(others).exists()) == (False, True)
    assert set(other.interfaces()) == {"eth0", "x1"}
