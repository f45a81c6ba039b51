"""What an element asks for reaches a network alike, whether Multus attaches it at the pod's start or we do later."""

import json
from typing import Any

import pytest

from e2e import audit, networks
from e2e.node import Node
from e2e.pods import Pod

pytestmark = pytest.mark.lane

RATE = 8_000_000
ELEMENT = {
    "ips": ["10.93.0.7/24"],
    "mac": "02:00:00:00:0e:01",
    "bandwidth": {"ingressRate": RATE, "ingressBurst": RATE, "egressRate": RATE // 2, "egressBurst": RATE},
}
EVERYTHING = {
    **ELEMENT,
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"}],
    "infiniband-guid": "c2:11:22:33:44:55:66:77",
    "cni-args": {"color": "green", "deep": {"a": [1]}},
}


def asked(node: Node, ifname: str) -> dict[str, Any]:
    """Return what the last ADD of an interface was given, but for what is the call's own."""
    _, _, stdin = [one for one in networks.recorded(node, "ADD") if one[0] == ifname][-1]
    document: dict[str, Any] = json.loads(stdin)
    return document


def test_a_delegate_is_asked_alike(ns, node):
    networks.install_recorder(node)
    networks.tell_recorder(node, "")
    ns.network("rec", networks.recorder(*networks.ALL_CAPABILITIES))
    by_multus = ns.pod("a", [{"name": "rec", "interface": "m1", **EVERYTHING}])
    by_multus.wait_ready("m1")
    by_us = ns.pod("b")
    by_us.plug([{"name": "rec", "interface": "u1", **EVERYTHING}])
    by_us.wait_ready("u1")
    assert set(asked(node, "m1")["runtimeConfig"]) == set(networks.ALL_CAPABILITIES)
    assert asked(node, "u1") == asked(node, "m1")


def shaping(node: Node) -> list[str]:
    """Return the rates at which the node shapes anything, in no order."""
    found = json.loads(node.exec(["tc", "-json", "qdisc", "show"]).stdout)
    return sorted(str(one["options"]["rate"]) for one in found if one["kind"] == "tbf")


def seen(pod: Pod, node: Node, interface: str) -> tuple[str, list[str], list[str]]:
    return pod.interfaces()[interface], pod.addresses(interface), shaping(node)


def test_our_own_bridge_honours_mac_addresses_and_bandwidth_either_way(ns, node):
    declared = dict.fromkeys(("mac", "ips", "bandwidth"), True)
    blue = networks.native("br-blue", capabilities=declared, ipam={"type": "static"})
    ns.network("blue", blue)
    element = {"name": "blue", "interface": "x1", **ELEMENT}
    pod = ns.pod("a", [element])
    pod.wait_ready("x1")
    by_multus = seen(pod, node, "x1")
    assert by_multus[:2] == (ELEMENT["mac"], ELEMENT["ips"])
    assert len(by_multus[2]) == 2  # one for each way
    pod.plug([])
    pod.wait_ready()
    assert (shaping(node), audit.host_ends(node)) == ([], set())
    pod.plug([element])
    pod.wait_ready("x1")
    assert seen(pod, node, "x1") == by_multus
    pod.delete()
    audit.wait_clean(node, {pod.uid})
    assert (shaping(node), audit.host_ends(node)) == ([], set())
