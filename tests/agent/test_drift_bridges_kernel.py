"""What CHECK of the reference plugins calls wrong, and is not: no drift may be told for it."""

import time
from pathlib import Path

import pytest

from cni import errors
from tests.agent.drifting import QUIET_S, Plugins, running, until
from tests.agent.native import ip, link

pytestmark = pytest.mark.netns


class BridgePlugin(Plugins):
    """As the reference bridge: its CHECK compares the MACs of all that its ADD told of."""

    def __call__(self, plugin_type, command, env, config, deadline_s):
        self.calls.append((plugin_type, command))
        if command == "ADD":
            ip("link", "add", "br9", "type", "bridge")
            ip("link", "add", "dlg", "type", "veth", "peer", "name", env["CNI_IFNAME"],
               "netns", Path(env["CNI_NETNS"]).name)  # fmt: skip
            ip("link", "set", "dlg", "master", "br9")
            return {
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": "br9", "mac": mac("br9")},
                    {"name": "dlg", "mac": mac("dlg")},
                    {"name": env["CNI_IFNAME"], "sandbox": env["CNI_NETNS"]},
                ],
            }
        if command == "CHECK" and plugin_type == "bridge" and not config.get("ipam"):
            raise errors.CNIError(errors.Code.INTERNAL, "no plugin name provided")  # as it does, without a look
        for one in config["prevResult"]["interfaces"][:2] if command == "CHECK" else ():
            if one["mac"] != mac(one["name"]):
                raise errors.CNIError(errors.Code.INTERNAL, f"the MAC of {one['name']} is not {one['mac']}")
        return None


def mac(name: str) -> str:
    there = link(name)
    return there["address"] if there else ""


@pytest.fixture
def node(node_netns, tmp_path, monkeypatch):
    monkeypatch.setattr("agent.mending.CHECK_S", 1.0)
    with running(tmp_path, plugins=BridgePlugin()) as one:
        yield one


def test_a_plugin_that_fails_its_check_for_want_of_an_ipam_plugin_is_not_asked(node, pod_netns):
    pod = node.pod("a", pod_netns)
    pod.attach("net1", type="bridge")
    time.sleep(QUIET_S)
    ip("link", "set", "net1", "address", "02:00:00:00:00:99", netns=pod.netns)
    time.sleep(3 * QUIET_S)
    assert pod.told("net1")[:2] == ("Attached", "")


def test_a_bridge_that_takes_another_ports_mac_has_not_drifted_and_a_changed_host_end_has(node, pod_netns):
    pod = node.pod("a", pod_netns)
    pod.attach("net1", type="other")
    time.sleep(QUIET_S)  # what its ADD has caused is over
    before = mac("br9")
    ip("link", "add", "port", "address", "00:00:00:00:00:01", "type", "veth", "peer", "name", "other-end")
    ip("link", "set", "port", "master", "br9")
    assert mac("br9") != before
    ip("link", "set", "net1", "address", "02:00:00:00:00:99", netns=pod.netns)  # somebody was at work
    until(lambda: ("other", "CHECK") in node.plugins.calls)
    time.sleep(QUIET_S)
    assert pod.told("net1")[:2] == ("Attached", "")
    ip("link", "set", "dlg", "address", "02:00:00:00:00:98")
    ip("link", "set", "net1", "address", "02:00:00:00:00:97", netns=pod.netns)
    pod.drifted("net1", "the MAC of dlg is not")
