"""The device `bridge`, decided: options, what is wanted, steps, mismatches."""

import ipaddress
from dataclasses import replace

import pytest

from agent import bridge
from agent.bridge import Have, Link
from agent.model import ContainerID, Key
from cni import errors, result

KEY = Key(ContainerID("c" * 64), "net1")
BRIDGE = Link(index=5, name="br0", kind="bridge", mac="02:00:00:00:00:05", mtu=1400, up=True)
ADDRESS = ipaddress.ip_interface("10.1.1.2/24")
ROUTE = result.Route(ipaddress.ip_network("10.9.0.0/16"), ipaddress.ip_address("10.1.1.1"), mtu=1300, priority=7)


def options(**config: object) -> bridge.Options:
    return bridge.parse({"bridge": "br0", **config}, {})


def whole(want: bridge.Want) -> Have:
    return Have(
        bridge=BRIDGE,
        host=Link(6, want.host_name, "veth", want.host_mac, 1400, up=True, master=BRIDGE.index),
        pod=Link(2, want.ifname, "veth", want.mac, 1400, up=True),
        addresses=frozenset(want.addresses),
        routes=frozenset(want.routes),
    )


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"mtu": "1400"}, 7, "mtu='1400'"),
        ({"mtu": True}, 7, "mtu=True"),
        ({"mtu": 10}, 7, "mtu=10"),
        ({"mtu": -5}, 7, "mtu=-5"),
        ({"bridge": "a" * 16}, 7, "bridge='aaaaaaaaaaaaaaaa'"),
        ({"bridge": "a/b"}, 7, "bridge='a/b'"),
        ({"bridge": ".."}, 7, "bridge='..'"),
        ({"hairpinMode": "yes"}, 7, "hairpinMode='yes'"),
        ({"ipam": "static"}, 7, "ipam='static'"),
        ({"vlan": 100}, 2, "vlan=100"),
        ({"isGateway": True}, 2, "isGateway=True"),
        ({"runtimeConfig": {"mac": "01:00:00:00:00:01"}}, 7, "mac='01:00:00:00:00:01'"),
        ({"runtimeConfig": {"mac": "00:00:00:00:00:00"}}, 7, "mac='00:00:00:00:00:00'"),
        ({"runtimeConfig": {"mac": "zz"}}, 7, "mac='zz'"),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        options(**config)
    assert (caught.value.code, named in caught.value.message) == (code, True)


@pytest.mark.parametrize("ipam", [None, {}, {"type": ""}])
def test_no_ipam_type_means_layer_two_only(ipam):
    assert options(ipam=ipam).ipam is None


def test_the_mac_of_runtime_config_beats_args_which_beat_cni_args():
    runtime, args, old = "0A-00-00-00-00-01", "0a:00:00:00:00:02", {"MAC": "0a:00:00:00:00:03"}
    everything = {"runtimeConfig": {"mac": runtime}, "args": {"cni": {"mac": args}}}
    assert bridge.parse(everything, old).mac == "0a:00:00:00:00:01"
    assert bridge.parse({"args": {"cni": {"mac": args}}}, old).mac == args
    assert bridge.parse({}, old).mac == old["MAC"]


def test_names_and_macs_are_the_same_at_every_call_and_differ_between_attachments():
    other = Key(KEY.container_id, "net2")
    assert bridge.want(KEY, options()) == bridge.want(KEY, options())
    assert bridge.host_name(KEY) != bridge.host_name(other)
    assert bridge.derived_mac(KEY, "pod") != bridge.derived_mac(KEY, "host")
    assert len(bridge.host_name(KEY).encode()) <= 15


def test_everything_is_made_in_order_where_nothing_is():
    want = replace(bridge.want(KEY, options()), addresses=(ADDRESS,), routes=(ROUTE,))
    assert bridge.plan(want, Have()) == (
        bridge.CreateBridge("br0", None),
        bridge.BringUp("br0"),
        bridge.CreateVeth(want, None),
        bridge.BringUpInPod("net1"),
        bridge.AddAddress("net1", ADDRESS),
        bridge.AddRoute("net1", ROUTE),
    )


def test_nothing_is_left_to_do_when_everything_is_there():
    want = replace(bridge.want(KEY, options()), addresses=(ADDRESS,), routes=(ROUTE,))
    assert bridge.plan(want, whole(want)) == ()
    assert bridge.mismatches(want, whole(want)) == ()


def test_the_mtu_is_the_bridges_unless_asked_for():
    bare = bridge.want(KEY, options())
    asked = bridge.want(KEY, options(mtu=1300))
    assert bridge.CreateVeth(bare, 1400) in bridge.plan(bare, Have(bridge=BRIDGE))
    assert bridge.CreateVeth(asked, 1300) in bridge.plan(asked, Have(bridge=BRIDGE))


@pytest.mark.parametrize(
    ("have", "named"),
    [
        (Have(bridge=replace(BRIDGE, kind="vxlan")), "vxlan"),
        (Have(bridge=BRIDGE, pod=Link(2, "net1", "", "02:00:00:00:00:09", 1500, up=True)), "net1"),
        (Have(bridge=BRIDGE, host=Link(9, "hn1", "veth", "02:00:00:00:00:01", 1500, up=True)), "not ours"),
    ],
    ids=["not-a-bridge", "name-taken-in-the-pod", "foreign-host-end"],
)
def test_what_is_not_ours_is_a_conflict_and_no_step(have, named):
    with pytest.raises(errors.CNIError) as caught:
        bridge.plan(bridge.want(KEY, options()), have)
    assert named in str(caught.value)


def test_only_a_veth_with_the_derived_mac_is_ours():
    ours = Link(6, bridge.host_name(KEY), "veth", bridge.derived_mac(KEY, "host"), 1500, up=True)
    assert bridge.is_ours(KEY, ours)
    assert not bridge.is_ours(KEY, replace(ours, mac="02:00:00:00:00:01"))
    assert not bridge.is_ours(KEY, replace(ours, kind="macvlan"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pod": None}, "net1 is missing"),
        ({"pod": Link(2, "net1", "veth", "02:00:00:00:00:99", 1400, up=True)}, "02:00:00:00:00:99"),
        ({"host": None}, "is missing"),
        ({"host": Link(6, "hn", "veth", "", 1400, up=True, master=99)}, "not a port of bridge br0"),
        ({"addresses": frozenset()}, "10.1.1.2/24 is missing"),
        ({"routes": frozenset()}, "10.9.0.0/16 is missing"),
        ({"routes": frozenset({replace(ROUTE, mtu=1500)})}, "10.9.0.0/16 is missing"),
    ],
)
def test_check_names_what_is_wrong(change, named):
    want = replace(bridge.want(KEY, options()), addresses=(ADDRESS,), routes=(ROUTE,))
    assert any(named in one for one in bridge.mismatches(want, replace(whole(want), **change)))


def test_check_does_not_mind_what_others_added():
    want = bridge.want(KEY, options())
    more = replace(whole(want), addresses=frozenset({ADDRESS}), routes=frozenset({ROUTE}))
    assert bridge.mismatches(want, more) == ()


def test_a_route_without_gateway_goes_through_the_gateway_of_its_family():
    ipam = result.Result(
        ips=(result.IPConfig(ADDRESS, ipaddress.ip_address("10.1.1.1")),),
        routes=(result.Route(ipaddress.ip_network("0.0.0.0/0")), result.Route(ipaddress.ip_network("::/0"))),
    )
    wanted = bridge.want(KEY, options(), ipam).routes
    assert [route.gw for route in wanted] == [ipaddress.ip_address("10.1.1.1"), None]
