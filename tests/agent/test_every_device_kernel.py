"""What every kind of device has to do, on the real kernel: the life of an attachment, and all that may befall it."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import devices, netlink, options
from agent import netns as namespaces
from agent.model import ContainerID, Key
from cni import errors
from tests import kernel_features
from tests.agent import kinds, native
from tests.agent.native import CONTAINER, FakeIPAM, Plugin, ip, link

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns", "kernel")]

IPAM = {
    "cniVersion": "1.1.0",
    "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::5/64", "gateway": "fd00:9::1"}],
    "routes": [{"dst": "10.20.0.0/16"}, {"dst": "::/0"}],
}
MAC = "02:11:22:33:44:55"


class Scene:
    """One kind on a node that has what it takes."""

    def __init__(self, name: str, kind: kinds.Kind, pod_netns: str) -> None:
        kind.prepare()
        self.kind, self.netns, self.config = kind, pod_netns, {"device": name, **kind.config}
        self.before = self.state()

    def plugin(self, fake=None, **config) -> Plugin:
        return Plugin(self.netns, fake, **{**self.config, **config})

    def state(self, *ignored: str) -> dict[str, object]:
        """What there is on the node and in the pod, but for what may stay; statistics and the like left out."""
        return {"node": _links("", self.kind.shared), "pod": _links(self.netns, set(ignored))}

    def is_clean(self) -> bool:
        return self.state() == self.before

    def index(self, ifname: str = "net1") -> int:
        there = link(ifname, self.netns)
        assert there, f"{ifname} is not in the pod"
        return there["ifindex"]


def _links(netns: str, ignored) -> list[tuple[object, ...]]:
    shown = ip("-d", "link", netns=netns)
    facts = ("ifname", "ifindex", "address", "mtu", "promiscuity", "group", "ifalias", "txqlen")
    return [tuple(one.get(fact) for fact in facts) for one in shown if one["ifname"] not in ignored]


@pytest.fixture(params=kinds.parameters())
def scene(request, pod_netns) -> Scene:
    return Scene(*request.param, pod_netns)


@pytest.fixture(params=[one for one in kinds.parameters() if one.values[0][1].master])
def mastered(request, pod_netns) -> Scene:
    return Scene(*request.param, pod_netns)


def refused(plugin: Plugin, command: str, **config) -> errors.CNIError:
    with pytest.raises(errors.CNIError) as caught:
        plugin(command, **config)
    return caught.value


def test_an_attachment_is_up_and_its_result_is_what_the_kernel_says(scene):
    document = scene.plugin(mtu=1400)("ADD")
    made = link("net1", scene.netns)
    assert ("UP" in made["flags"], made["mtu"], made.get("group")) == (True, 1400, "default")
    assert document["interfaces"][-1] == {
        "name": "net1", "mac": made["address"], "mtu": 1400, "sandbox": scene.netns,
    }  # fmt: skip
    for shown in document["interfaces"][:-1]:
        there = link(shown["name"])
        assert ("sandbox" in shown, shown["mac"], shown["mtu"]) == (False, there["address"], there["mtu"])


def test_the_mac_is_the_one_asked_for_or_else_it_is_refused(scene):
    plugin = scene.plugin(runtimeConfig={"mac": MAC.upper()})
    if not scene.kind.own_mac:
        refusal = refused(plugin, "ADD")
        assert (refusal.code, MAC in refusal.message, scene.is_clean()) == (2, True, True)
        return
    document = plugin("ADD")
    assert (document["interfaces"][-1]["mac"], link("net1", scene.netns)["address"]) == (MAC, MAC)


def test_check_passes_after_add_and_minds_nothing_that_others_did(scene):
    plugin = scene.plugin()
    document = plugin("ADD")
    plugin("CHECK", prevResult=document)
    ip("addr", "add", "10.99.0.1/24", "dev", "net1", netns=scene.netns)
    ip("link", "set", "net1", "promisc", "on", netns=scene.netns)
    ip("link", "set", "net1", "down", netns=scene.netns)
    plugin("CHECK", prevResult=document)


def test_a_look_finds_nothing_after_add_but_what_others_did_and_undoes_it(scene):
    plugin = scene.plugin(mtu=1400)
    document = plugin("ADD")
    index = scene.index()

    def look(*, repair: bool) -> tuple[str, ...]:
        env = {"CNI_CONTAINERID": CONTAINER, "CNI_IFNAME": "net1", "CNI_NETNS": scene.netns}
        with namespaces.View().opened(scene.netns) as fd:
            return plugin.native.look(env, plugin.config, document, fd, index, repair=repair)

    assert look(repair=False) == ()
    ip("addr", "add", "10.99.0.1/24", "dev", "net1", netns=scene.netns)
    ip("link", "set", "net1", "promisc", "on", netns=scene.netns)
    if scene.kind.master:
        ip("link", "set", "m0", "address", "02:00:00:00:00:88")
    assert look(repair=False) == ()
    ip("link", "set", "net1", "mtu", "1300", "down", netns=scene.netns)
    assert set(look(repair=False)) == {"interface net1 has MTU 1300, not 1400", "link net1 is down"}
    assert look(repair=True)
    made = link("net1", scene.netns)
    assert (made["mtu"], "UP" in made["flags"], "PROMISC" in made["flags"]) == (1400, True, True)
    assert [one["local"] for one in ip("-4", "addr", "show", "dev", "net1", netns=scene.netns)[0]["addr_info"]] == [
        "10.99.0.1"
    ]
    assert (look(repair=False), scene.index()) == ((), index)


def test_check_names_what_is_wrong(scene):
    plugin = scene.plugin(mtu=1400)
    document = plugin("ADD")
    ip("link", "set", "net1", "mtu", "1300", netns=scene.netns)
    assert "MTU 1300" in refused(plugin, "CHECK", prevResult=document).message
    ip("link", "set", "net1", "mtu", "1400", netns=scene.netns)
    plugin("CHECK", prevResult=document)
    if scene.kind.own_mac:
        ip("link", "set", "net1", "address", "02:00:00:00:00:99", netns=scene.netns)
        if scene.config["device"] != "vlan":  # whose MAC is its master's, or what the pod likes
            assert "02:00:00:00:00:99" in refused(plugin, "CHECK", prevResult=document).message
    ip("link", "del", "net1", netns=scene.netns)
    assert "net1 is missing" in refused(plugin, "CHECK", prevResult=document).message


def test_check_names_a_link_of_another_kind_in_its_place(scene):
    plugin = scene.plugin()
    document = plugin("ADD")
    mac = link("net1", scene.netns)["address"]
    ip("link", "del", "net1", netns=scene.netns)
    ip("link", "add", "net1", "address", mac, "type", "vxlan", "id", "7", "dstport", "4789", netns=scene.netns)
    message = refused(plugin, "CHECK", prevResult=document).message
    assert "vxlan" in message or "host end" in message


def test_three_deletes_leave_what_was_before(scene):
    plugin = scene.plugin()
    plugin("ADD")
    assert not scene.is_clean()
    for _ in range(3):
        plugin("DEL")
        assert scene.is_clean()


@pytest.mark.parametrize("path", ["", "/run/netns/hntest-gone", "/etc/hostname"])
def test_a_delete_that_has_nothing_to_delete_succeeds(scene, path):
    plugin = scene.plugin()
    plugin("DEL")
    plugin.netns = path
    plugin("DEL")
    assert scene.is_clean()


def test_a_delete_after_the_pods_end_leaves_the_node_as_it_was(scene):
    plugin = scene.plugin()
    plugin("ADD")
    subprocess.run(["ip", "netns", "del", Path(scene.netns).name], check=True)
    plugin("DEL")
    for _ in range(100):  # the kernel takes a namespace down in its own time
        if _links("", scene.kind.shared) == scene.before["node"]:
            return
        time.sleep(0.05)
    assert _links("", scene.kind.shared) == scene.before["node"]


def test_a_delete_with_a_configuration_that_is_invalid_by_now_cleans_up(scene):
    plugin = scene.plugin()
    plugin("ADD")
    plugin("DEL", mtu=-3, device="no-such-device")
    assert scene.is_clean()


def test_a_name_that_is_taken_is_an_error_and_the_link_there_is_unchanged(scene):
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other", netns=scene.netns)
    before = scene.state()
    refusal = refused(scene.plugin(), "ADD")
    assert (refusal.code, "net1" in refusal.message) == (7, True)
    assert scene.state() == before


def test_a_link_of_the_node_with_that_name_is_in_nobodys_way(scene):
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other")
    before = scene.state()
    plugin = scene.plugin()
    document = plugin("ADD")
    assert link("net1", scene.netns)["address"] == document["interfaces"][-1]["mac"]
    plugin("DEL")
    assert scene.state() == before


def test_the_link_of_another_container_under_the_same_name_is_left_alone(scene):
    plugin = scene.plugin()
    plugin("ADD", container="other")  # the namespace's path has been recycled
    before = scene.state()
    plugin("DEL")
    assert scene.state() == before
    plugin("DEL", container="other")
    assert scene.is_clean()


def test_an_add_that_is_repeated_changes_nothing(scene):
    plugin = scene.plugin()
    first = plugin("ADD")
    before = scene.state()
    assert (plugin("ADD"), scene.state()) == (first, before)


def test_an_mtu_that_is_asked_for_later_is_set_in_place(scene):
    scene.plugin(mtu=1400)("ADD")
    index = scene.index()
    document = scene.plugin(mtu=1300)("ADD")
    assert (scene.index(), link("net1", scene.netns)["mtu"]) == (index, 1300)
    assert {one["mtu"] for one in document["interfaces"] if one["name"] not in scene.kind.shared} == {1300}


def test_a_delete_works_though_the_pod_renamed_its_interface(scene):
    plugin = scene.plugin()
    plugin("ADD")
    ip("link", "set", "net1", "down", netns=scene.netns)
    ip("link", "set", "net1", "name", "mine", netns=scene.netns)
    plugin("DEL")
    assert _links("", scene.kind.shared) == scene.before["node"]


def test_twenty_at_once(scene):
    plugin = scene.plugin()
    ifnames = [f"n{number}" for number in range(20)]

    def call(command: str, number: int) -> None:
        plugin(command, ifnames[number], f"c{number}", **scene.kind.each(number))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: call("ADD", number), range(20)))
        assert {scene.index(ifname) for ifname in ifnames}
        list(pool.map(lambda number: call("DEL", number), range(20)))
    assert scene.is_clean()


def test_addresses_and_routes_are_in_the_pod_and_go_with_it(scene):
    plugin = scene.plugin(FakeIPAM(IPAM), ipam={"type": "fake"})
    document = plugin("ADD")
    found = {
        f"{one['local']}/{one['prefixlen']}"
        for shown in ip("addr", "show", "dev", "net1", netns=scene.netns) for one in shown["addr_info"]
    }  # fmt: skip
    assert {"10.9.0.5/24", "fd00:9::5/64"} <= found
    route = next(one for one in ip("route", netns=scene.netns) if one["dst"] == "10.20.0.0/16")
    assert (route["gateway"], route["dev"]) == ("10.9.0.1", "net1")
    assert {one["interface"] for one in document["ips"]} == {len(document["interfaces"]) - 1}
    plugin("CHECK", prevResult=document)
    plugin("DEL")
    assert scene.is_clean()


class Killed(BaseException):
    """In place of SIGKILL: nothing after it is done."""


def _killed_after(steps: int, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let an ADD perform so many steps and no more. Return whether it had any left."""
    left = [steps]

    def perform(place, step):
        if not left[0]:
            raise Killed
        left[0] -= 1
        really(place, step)

    really = netlink.apply
    device = devices.parse(options.Call(Key(ContainerID(CONTAINER), "net1"), scene.config))
    with monkeypatch.context() as patched, namespaces.View().opened(scene.netns) as fd:
        patched.setattr(netlink, "apply", perform)
        try:
            native.KERNELS[-1].settle(device, device.interface, fd, lambda note: None)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("node_has", [(), ("net1",)], ids=["", "the-node-has-a-link-of-that-name"])
@pytest.mark.parametrize("then", ["DEL", "ADD"])
def test_wherever_an_add_is_killed_its_delete_leaves_nothing_and_its_retry_succeeds(scene, monkeypatch, then, node_has):
    for name in node_has:
        ip("link", "add", name, "type", "veth", "peer", "name", "other")
    scene.before = scene.state()
    for steps in range(20):
        if not _killed_after(steps, scene, monkeypatch):
            assert steps > 1, "the ADD was never killed half-way"
            return
        if then == "ADD":
            document = scene.plugin()("ADD")
            scene.plugin()("CHECK", prevResult=document)
        scene.plugin()("DEL")
        assert scene.is_clean(), f"killed after step {steps}"
    pytest.fail("an ADD of so many steps?")


def test_status_is_well_where_an_add_would_be(scene):
    assert scene.plugin()("STATUS") is None
    assert scene.is_clean()


def test_without_its_master_status_and_add_name_it_and_check_does_and_delete_succeeds(mastered):
    plugin = mastered.plugin()
    document = plugin("ADD")
    ip("link", "del", "m0")
    assert "m0" in refused(plugin, "CHECK", prevResult=document).message
    for command in ("STATUS", "ADD"):
        refusal = refused(plugin, command)
        assert (refusal.code, "m0" in refusal.message) == (50, True)
    plugin("DEL")
    assert [one["ifname"] for one in ip("link", netns=mastered.netns)] == ["lo"]


def test_an_mtu_above_the_masters_is_refused_before_anything_is_made(mastered):
    refusal = refused(mastered.plugin(mtu=1501), "ADD")
    assert (refusal.code, "1501" in refusal.message, "1500" in refusal.message) == (7, True, True)
    assert mastered.is_clean()
    assert refused(mastered.plugin(mtu=1501), "STATUS").code == 50


def test_a_master_in_the_pod_carries_it_there(mastered, second_pod_netns):
    mastered.netns = second_pod_netns
    for one in (("link", "add", "m0", "type", "veth", "peer", "name", "m1"), ("link", "set", "m0", "up")):
        ip(*one, netns=second_pod_netns)
    ip("link", "del", "m0")
    plugin = mastered.plugin(linkInContainer=True)
    document = plugin("ADD")
    assert link("net1", second_pod_netns)["link"] == "m0"
    plugin("CHECK", prevResult=document)
    plugin("STATUS")
    plugin("DEL")
    assert link("net1", second_pod_netns) is None


def test_another_master_in_the_configuration_moves_the_interface(mastered):
    mastered.plugin()("ADD")
    document = mastered.plugin(master="m1")("ADD")
    assert link("net1", mastered.netns)["link_index"] == link("m1")["ifindex"]
    refusal = refused(mastered.plugin(), "CHECK", prevResult=document)
    assert "net1 is not on master m0" in refusal.message
    mastered.plugin()("DEL")
    assert mastered.is_clean()


def test_every_kind_is_tested_here():
    assert set(devices.KINDS) <= kinds.KINDS.keys() | kinds.ELSEWHERE.keys()


NEEDS = {"vlan": {"master": "m0", "vlanId": 7}, "ipvlan": {"master": "m0"}, "dummy": {}, "bridge": {"vlan": 100}}


@pytest.mark.parametrize("device", NEEDS)
def test_status_says_what_the_kernel_has_not_got_and_makes_nothing(device, pod_netns):
    kinds.uplink()
    plugin, before = Plugin(pod_netns, device=device, **NEEDS[device]), _links("", ())
    lacks = kernel_features.missing("bridge_vlan" if device == "bridge" else device)
    if not lacks:
        plugin("STATUS")
    else:
        problem = refused(plugin, "STATUS")
        assert (problem.code, "VLAN filtering" in str(problem) or device in str(problem)) == (50, True)
        assert refused(plugin, "ADD")
    assert _links("", ()) == before


def test_the_kernel_is_asked_for_each_kind_and_nothing_is_made(kernel):
    before = _links("", ())
    known = {kind: kernel.makes(kind) for kind in ("vlan", "ipvlan", "dummy", "macvlan", "veth", "bridge", "vxlan")}
    for kind in ("vlan", "ipvlan", "dummy", "macvlan", "vxlan"):
        assert known[kind] == (not kernel_features.missing(kind))
    assert (known["veth"], known["bridge"], kernel.makes("nonsense")) == (True, True, False)
    assert _links("", ()) == before
