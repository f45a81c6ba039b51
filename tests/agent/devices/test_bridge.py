"""The device `bridge`, decided: options, steps, mismatches, removal."""

from dataclasses import replace

import pytest

from agent import options
from agent.devices import parse
from agent.links import Change, Create, Have, IndexOf, Link, NamedLink, Remove, Sysctl, Where, WriteSysctl
from agent.model import ContainerID, Key
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
HOST = options.host_name(KEY)
BRIDGE = Link(index=5, name="br0", kind="bridge", mac="02:00:00:00:00:05", mtu=1400, up=True)
PORT = Link(6, HOST, "veth", options.derived_mac(KEY, "host"), 1400, up=True, master=BRIDGE.index)
POD = Link(2, "net1", "veth", options.derived_mac(KEY, "pod"), 1400, up=True)


def bridge(**config: object):
    return parse(options.Call(KEY, {"device": "bridge", "bridge": "br0", **config}))


def have(bridge: Link | None = None, host: Link | None = None, pod: Link | None = None) -> Have:
    return Have(pod=pod, flags=1, facts={NamedLink("br0"): bridge, NamedLink(HOST): host})


def plan(device, there: Have):
    return device.plan(device.interface, there)


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"bridge": "a" * 16}, 7, "bridge='aaaaaaaaaaaaaaaa'"),
        ({"bridge": "a/b"}, 7, "bridge='a/b'"),
        ({"bridge": ".."}, 7, "bridge='..'"),
        ({"hairpinMode": "yes"}, 7, "hairpinMode='yes'"),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        bridge(**config)
    assert (caught.value.code, named in caught.value.message) == (code, True)


def test_everything_is_made_in_order_where_nothing_is():
    made = plan(bridge(), have())
    assert [type(step) for step in made] == [Create, WriteSysctl, Change, Create]
    assert (made[0].name, made[0].kind, made[0].shared) == ("br0", "bridge", True)
    assert made[1].sysctl == Sysctl("ipv6/conf/br0/accept_ra", Where.NODE)
    assert (made[3].name, made[3].kind, made[3].up) == (HOST, "veth", True)
    assert ("IFLA_MASTER", IndexOf("br0")) in made[3].attributes


def test_nothing_is_left_to_do_when_everything_is_there():
    device = bridge()
    assert plan(device, have(BRIDGE, PORT, POD)) == ()
    assert device.mismatches(device.interface, have(BRIDGE, PORT, POD)) == ()


def test_the_mtu_is_the_bridges_unless_asked_for():
    for device, mtu in ((bridge(), 1400), (bridge(mtu=1300), 1300)):
        (pair,) = plan(device, have(BRIDGE))
        assert ("IFLA_MTU", mtu) in pair.attributes
        assert ("IFLA_MTU", mtu) in dict(pair.data)["VETH_INFO_PEER"]


def test_a_port_that_was_moved_off_its_bridge_is_put_back():
    device = bridge()
    moved = have(BRIDGE, replace(PORT, master=0), POD)
    assert plan(device, moved) == (Change(HOST, attributes=(("IFLA_MASTER", IndexOf("br0")),)),)
    assert "not a port of bridge br0" in device.mismatches(device.interface, moved)[0]


def test_a_host_end_that_is_down_or_has_another_mtu_is_mended():
    down = have(BRIDGE, replace(PORT, up=False), POD)
    assert plan(bridge(), down) == (Change(HOST, up=True),)
    other = have(BRIDGE, replace(PORT, mtu=1500), POD)
    assert plan(bridge(mtu=1400), other) == (Change(HOST, attributes=(("IFLA_MTU", 1400),), up=True),)
    assert plan(bridge(), other) == ()


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (have(replace(BRIDGE, kind="vxlan")), "vxlan"),
        (have(BRIDGE, pod=replace(POD, mac="02:00:00:00:00:09")), "net1"),
        (have(BRIDGE, host=replace(PORT, mac="02:00:00:00:00:01")), "not ours"),
    ],
    ids=["not-a-bridge", "name-taken-in-the-pod", "foreign-host-end"],
)
def test_what_is_not_ours_is_a_conflict_and_no_step(there, named):
    with pytest.raises(errors.CNIError) as caught:
        plan(bridge(), there)
    assert (caught.value.code, named in str(caught.value)) == (7, True)


def test_only_a_veth_with_the_derived_mac_is_removed():
    assert bridge().removal(have(BRIDGE, PORT, POD)) == (Remove(PORT),)
    for foreign in (replace(PORT, mac="02:00:00:00:00:01"), replace(PORT, kind="macvlan"), None):
        assert bridge().removal(have(BRIDGE, foreign, POD)) == ()


def test_check_names_a_host_end_that_is_gone():
    device = bridge()
    assert device.mismatches(device.interface, have(BRIDGE, None, POD)) == (f"host end {HOST} is missing",)


def test_status_names_what_stands_in_the_bridges_place():
    bridge().refuse_unready(have(BRIDGE))
    with pytest.raises(errors.CNIError, match="physical"):
        bridge().refuse_unready(have(replace(BRIDGE, kind="")))
