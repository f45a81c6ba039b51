"""The device `ipvlan` on the real kernel."""

import pytest

from cni import errors
from tests.agent import kinds
from tests.agent.native import Plugin as AnyPlugin
from tests.agent.native import ip, link, ping
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("ipvlan"), pytest.mark.usefixtures("node_netns", "kernel")]


def Plugin(pod_netns, **config):
    return AnyPlugin(pod_netns, **{"device": "ipvlan", "master": "m0", **config})


@pytest.fixture(autouse=True)
def _uplink(node_netns):
    kinds.uplink()


def test_two_pods_on_one_master_reach_each_other_and_the_wire(pod_netns, second_pod_netns):
    ip("addr", "add", "10.7.0.9/24", "dev", "m1")
    for number, path in enumerate((pod_netns, second_pod_netns), 1):
        Plugin(path)("ADD", container=f"c{number}")
        ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=path)
        assert link("net1", path)["address"] == link("m0")["address"]
    ping(pod_netns, "10.7.0.2")
    ping(pod_netns, "10.7.0.9")


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_the_mode_is_the_one_asked_for(pod_netns, mode):
    plugin = Plugin(pod_netns, mode=mode)
    document = plugin("ADD")
    assert link("net1", pod_netns)["linkinfo"]["info_data"]["mode"] == mode
    plugin("CHECK", prevResult=document)


def test_check_tells_when_another_pod_changed_the_mode_of_all(pod_netns, second_pod_netns):
    plugin = Plugin(pod_netns)
    document = plugin("ADD")
    Plugin(second_pod_netns, mode="l3")("ADD", container="other")
    with pytest.raises(errors.CNIError, match="not in mode l2"):
        plugin("CHECK", prevResult=document)


def test_a_master_that_has_macvlans_is_refused_in_words(pod_netns, second_pod_netns):
    AnyPlugin(second_pod_netns, device="macvlan", master="m0")("ADD", container="other")
    with pytest.raises(errors.CNIError, match="master m0 is in use already"):
        Plugin(pod_netns)("ADD")
    assert link("net1", pod_netns) is None
