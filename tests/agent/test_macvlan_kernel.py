"""The device `macvlan` on the real kernel: frames, modes, the default master, and the reference plugin beside it."""

import pytest

from agent import options
from agent.model import ContainerID, Key
from cni import errors
from tests.agent import kinds, reference
from tests.agent.native import CONTAINER, FakeIPAM, ip, link, ping
from tests.agent.native import Plugin as AnyPlugin
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("macvlan"), pytest.mark.usefixtures("node_netns", "kernel")]


def Plugin(pod_netns, fake=None, **config):
    return AnyPlugin(pod_netns, fake, **{"device": "macvlan", **config})


@pytest.fixture(autouse=True)
def _uplink(node_netns):
    kinds.uplink()


def test_two_pods_on_one_master_reach_each_other_and_the_wire(pod_netns, second_pod_netns):
    ip("addr", "add", "10.7.0.9/24", "dev", "m1")
    for number, path in enumerate((pod_netns, second_pod_netns), 1):
        Plugin(path, master="m0")("ADD", container=f"c{number}")
        ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=path)
    ping(pod_netns, "10.7.0.2")
    ping(pod_netns, "10.7.0.9")


def test_private_pods_do_not_reach_each_other(pod_netns, second_pod_netns):
    for number, path in enumerate((pod_netns, second_pod_netns), 1):
        Plugin(path, master="m0", mode="private")("ADD", container=f"c{number}")
        ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=path)
    with pytest.raises(AssertionError, match="does not answer"):
        ping(pod_netns, "10.7.0.2")


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_the_mode_is_the_one_asked_for(pod_netns, mode):
    plugin = Plugin(pod_netns, master="m0", mode=mode, bcqueuelen=300)
    document = plugin("ADD")
    data = link("net1", pod_netns)["linkinfo"]["info_data"]
    assert (data["mode"], data["bcqueuelen"]) == (mode, 300)
    plugin("CHECK", prevResult=document)
    plugin("DEL")


def test_another_mode_and_queue_are_set_in_place_and_check_names_the_old(pod_netns):
    old = Plugin(pod_netns, master="m0")
    document = old("ADD")
    index = link("net1", pod_netns)["ifindex"]
    Plugin(pod_netns, master="m0", mode="vepa", bcqueuelen=77)("ADD")
    made = link("net1", pod_netns)
    assert (made["ifindex"], made["linkinfo"]["info_data"]["mode"]) == (index, "vepa")
    assert made["linkinfo"]["info_data"]["bcqueuelen"] == 77
    with pytest.raises(errors.CNIError, match="not in mode bridge"):
        old("CHECK", prevResult=document)


def test_passthru_leaves_the_masters_mac_alone(pod_netns):
    before = link("m0")["address"]
    Plugin(pod_netns, master="m0", mode="passthru")("ADD")
    assert (link("net1", pod_netns)["address"], link("m0")["address"]) == (before, before)


def test_passthru_with_a_mac_gives_it_to_the_master_until_the_delete(pod_netns):
    before = link("m0")["address"]
    plugin = Plugin(pod_netns, master="m0", mode="passthru", mac="02:11:22:33:44:55")
    plugin("ADD")
    assert {link("net1", pod_netns)["address"], link("m0")["address"]} == {"02:11:22:33:44:55"}
    plugin("DEL")
    assert link("m0")["address"] == before


def test_passthru_that_would_share_its_master_is_refused_in_words(pod_netns, second_pod_netns):
    Plugin(second_pod_netns, master="m0")("ADD", container="other")
    with pytest.raises(errors.CNIError) as caught:
        Plugin(pod_netns, master="m0", mode="passthru")("ADD")
    assert (caught.value.code, "m0" in caught.value.message, "passthru" in caught.value.message) == (7, True, True)


def test_a_master_that_is_a_bridges_port_is_refused_in_words(pod_netns):
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "m0", "master", "br0")
    with pytest.raises(errors.CNIError, match="master m0 is in use already"):
        Plugin(pod_netns, master="m0")("ADD")


def test_a_macvlan_of_the_node_as_master_stands_for_its_own_master(pod_netns):
    ip("link", "add", "link", "m0", "name", "v0", "type", "macvlan", "mode", "bridge")
    plugin = Plugin(pod_netns, master="v0")
    plugin("CHECK", prevResult=plugin("ADD"))
    assert link("net1", pod_netns)["link_index"] == link("m0")["ifindex"]


def test_without_a_master_it_is_the_default_routes_at_the_add_and_stays_it(pod_netns):
    ip("addr", "add", "10.1.0.2/24", "dev", "m0")
    ip("addr", "add", "10.2.0.2/24", "dev", "m1")
    ip("route", "add", "default", "via", "10.1.0.1", "metric", "50")
    ip("route", "add", "default", "via", "10.2.0.1", "metric", "100")
    plugin = Plugin(pod_netns)
    document = plugin("ADD")
    assert link("net1", pod_netns)["link_index"] == link("m0")["ifindex"]
    ip("route", "del", "default", "metric", "50")
    plugin("CHECK", prevResult=document)
    assert plugin("ADD") == document
    assert link("net1", pod_netns)["link_index"] == link("m0")["ifindex"]


def test_without_a_master_and_a_default_route_add_and_status_say_so(pod_netns):
    plugin = Plugin(pod_netns)
    for command in ("ADD", "STATUS"):
        with pytest.raises(errors.CNIError, match="no default route on the node") as caught:
            plugin(command)
        assert caught.value.code == 50


def test_the_default_route_of_the_pod_tells_the_master_there(pod_netns):
    plugin = Plugin(pod_netns, linkInContainer=True)
    with pytest.raises(errors.CNIError, match="no default route in the container"):
        plugin("ADD")
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "other", netns=pod_netns)
    ip("addr", "add", "10.1.0.2/24", "dev", "eth0", netns=pod_netns)
    ip("link", "set", "eth0", "up", netns=pod_netns)
    ip("route", "add", "default", "via", "10.1.0.1", netns=pod_netns)
    plugin("CHECK", prevResult=plugin("ADD"))
    assert link("net1", pod_netns)["link"] == "eth0"
    plugin("STATUS")
    plugin.netns = "/run/netns/hntest-gone"
    plugin("DEL")


def test_an_ipv6_default_route_tells_the_master_where_there_is_no_other(pod_netns):
    ip("addr", "add", "fd00:1::2/64", "dev", "m0", "nodad")
    ip("-6", "route", "add", "default", "via", "fd00:1::1")
    Plugin(pod_netns)("ADD")
    assert link("net1", pod_netns)["link_index"] == link("m0")["ifindex"]


IPAM = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}]}  # fmt: skip
STATIC = {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
          "routes": [{"dst": "0.0.0.0/0"}]}  # fmt: skip


@pytest.mark.parametrize("layer", [2, 3])
def test_it_is_what_the_reference_plugin_makes(pod_netns, second_pod_netns, layer):
    config = {"master": "m0", "mode": "bridge", "mtu": 1400, **({"ipam": STATIC} if layer == 3 else {})}
    theirs = reference.call("macvlan", "ADD", second_pod_netns, config)
    ours = Plugin(pod_netns, FakeIPAM(IPAM), **config)("ADD")
    assert reference.normal(ours, pod_netns) == reference.normal(theirs, second_pod_netns)
    assert reference.facts(pod_netns) == reference.facts(second_pod_netns)


def test_a_link_is_known_by_its_mark_alone(pod_netns):
    plugin = Plugin(pod_netns, master="m0")
    plugin("ADD")
    ip("link", "set", "net1", "alias", "", netns=pod_netns)
    plugin("DEL")
    assert link("net1", pod_netns), "a link without the mark is not ours"
    key = Key(ContainerID(CONTAINER), "net1")
    ip("link", "set", "net1", "alias", options.mark(key), netns=pod_netns)
    plugin("DEL")
    assert link("net1", pod_netns) is None
