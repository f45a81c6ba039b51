"""The device `vlan` on the real kernel: over a veth that stands for a trunk, untagged in the pod."""

import pytest

from cni import errors
from tests.agent import kinds
from tests.agent.native import Plugin as AnyPlugin
from tests.agent.native import ip, link, ping
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("vlan"), pytest.mark.usefixtures("node_netns", "kernel")]


def Plugin(pod_netns, **config):
    return AnyPlugin(pod_netns, **{"device": "vlan", "master": "m0", **config})


@pytest.fixture(autouse=True)
def _trunk(node_netns):
    kinds.uplink()


def _switch(vlan: int, address: str) -> None:
    """The other end of the trunk has that VLAN."""
    ip("link", "add", "link", "m1", "name", f"sw{vlan}", "type", "vlan", "id", str(vlan))
    ip("addr", "add", address, "dev", f"sw{vlan}")
    ip("link", "set", f"sw{vlan}", "up")


def test_a_pod_is_in_its_vlan_and_in_no_other(pod_netns, second_pod_netns):
    _switch(7, "10.7.0.9/24")
    for number, (path, vlan) in enumerate(((pod_netns, 7), (second_pod_netns, 8)), 1):
        Plugin(path, vlanId=vlan)("ADD", container=f"c{number}")
        ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=path)
    ping(pod_netns, "10.7.0.9")
    with pytest.raises(AssertionError, match="does not answer"):
        ping(second_pod_netns, "10.7.0.9")


def test_the_second_pod_in_a_vlan_of_the_master_is_refused_in_words(pod_netns, second_pod_netns):
    Plugin(pod_netns, vlanId=7)("ADD", container="first")
    with pytest.raises(errors.CNIError) as caught:
        Plugin(second_pod_netns, vlanId=7)("ADD")
    assert caught.value.code == 7
    for part in ("vlanId=7", "m0", "another pod", "device bridge"):
        assert part in caught.value.message
    assert link("net1", second_pod_netns) is None


def test_the_mac_is_the_masters_unless_asked_for(pod_netns):
    Plugin(pod_netns, vlanId=7)("ADD")
    assert link("net1", pod_netns)["address"] == link("m0")["address"]
    document = Plugin(pod_netns, vlanId=7, mac="02:11:22:33:44:55")("ADD")
    assert document["interfaces"][0]["mac"] == "02:11:22:33:44:55" != link("m0")["address"]


def test_another_vlan_makes_the_interface_anew_and_check_names_it(pod_netns):
    old = Plugin(pod_netns, vlanId=7)
    document = old("ADD")
    Plugin(pod_netns, vlanId=8)("ADD")
    assert link("net1", pod_netns)["linkinfo"]["info_data"]["id"] == 8
    with pytest.raises(errors.CNIError, match="VLAN 8, not 7"):
        old("CHECK", prevResult=document)


def test_a_master_that_is_down_is_named(pod_netns):
    ip("link", "set", "m0", "down")
    for command in ("ADD", "STATUS"):
        with pytest.raises(errors.CNIError, match="master m0 is down") as caught:
            Plugin(pod_netns, vlanId=7)(command)
        assert caught.value.code == 50
    assert link("net1", pod_netns) is None
