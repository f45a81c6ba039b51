"""The device `veth`, decided: the pair, and what a routed one needs on both sides."""

import ipaddress
from dataclasses import replace

import pytest

from agent import options
from agent.devices import parse
from agent.links import (
    AddAddress,
    Addresses,
    AddRoute,
    Change,
    Create,
    Have,
    Interface,
    Link,
    NamedLink,
    Remove,
    Routes,
    Sysctl,
    Where,
    WriteSysctl,
)
from agent.model import ContainerID, Key
from cni import errors, result

KEY = Key(ContainerID("c" * 64), "net1")
HOST = options.host_name(KEY)
PORT = Link(6, HOST, "veth", options.derived_mac(KEY, "host"), 1400, up=True)
POD_LINK = Link(2, "net1", "veth", options.derived_mac(KEY, "pod"), 1400, up=True)
V4, V6 = ipaddress.ip_interface("10.9.0.5/24"), ipaddress.ip_interface("fd00:9::5/64")
GATEWAYS = (ipaddress.ip_address("10.9.0.1"), ipaddress.ip_address("fd00:9::1"))
DEFAULT = result.Route(ipaddress.ip_network("0.0.0.0/0"), GATEWAYS[0])
FORWARDING = Sysctl("ipv4/ip_forward", Where.NODE), Sysctl("ipv6/conf/all/forwarding", Where.NODE)


def veth(**config: object):
    return parse(options.Call(KEY, {"device": "veth", **config}))


def routed(device) -> Interface:
    return device.with_addresses(replace(device.interface, addresses=(V4, V6), gateways=GATEWAYS, routes=(DEFAULT,)))


def have(host: Link | None = None, pod: Link | None = None, *, routed: bool = False) -> Have:
    addresses = frozenset(map(ipaddress.ip_interface, GATEWAYS)) if routed else frozenset()
    routes = [result.Route(ipaddress.ip_network(one.ip)) for one in (V4, V6)] if routed else []
    facts = {NamedLink(HOST): host, Addresses(HOST): addresses, Routes(HOST): frozenset(routes)}
    return Have(pod=pod, flags=1, facts=facts | dict.fromkeys(FORWARDING, "1" if routed else "0"))


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"ipMasq": True}, 2, "ipMasq=True"),
        ({"ipMasqBackend": "nftables"}, 2, "ipMasqBackend='nftables'"),
        ({"hostInterface": "a" * 16}, 7, "hostInterface='aaaaaaaaaaaaaaaa'"),
        ({"hostInterface": 7}, 7, "hostInterface=7"),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        veth(**config)
    assert (caught.value.code, named in caught.value.message) == (code, True)


def test_plain_l2_is_the_pair_alone():
    create, ra = veth(mtu=1400).plan(veth(mtu=1400).interface, have())
    assert (create.name, create.kind, create.up) == (HOST, "veth", True)
    assert ("IFLA_MTU", 1400) in create.attributes
    assert ("IFLA_MTU", 1400) in dict(create.data)["VETH_INFO_PEER"]
    assert ra == WriteSysctl(Sysctl(f"ipv6/conf/{HOST}/accept_ra", Where.NODE), "0", optional=True)
    assert veth().plan(veth().interface, have(PORT, POD_LINK)) == ()


def test_all_goes_through_the_gateway_which_is_reached_first():
    want = routed(veth())
    gateway4 = result.Route(ipaddress.ip_network("10.9.0.1/32"), scope=253)
    assert not want.prefix_routes
    assert want.routes == (
        gateway4,
        result.Route(V4.network, GATEWAYS[0]),
        result.Route(ipaddress.ip_network("fd00:9::1/128")),
        result.Route(V6.network, GATEWAYS[1]),
        DEFAULT,
    )


def test_an_address_that_is_alone_in_its_network_needs_no_route_to_itself():
    alone = ipaddress.ip_interface("10.9.0.5/32")
    want = veth().with_addresses(replace(veth().interface, addresses=(alone,), gateways=GATEWAYS[:1]))
    assert [str(route.dst) for route in want.routes] == ["10.9.0.1/32"]


def test_an_address_without_a_gateway_is_refused():
    with pytest.raises(errors.CNIError, match=r"10\.9\.0\.5/24"):
        veth().with_addresses(replace(veth().interface, addresses=(V4,), gateways=(None,)))


def test_the_node_forwards_and_has_the_gateways_and_routes_to_the_pods_addresses_alone():
    device = veth()
    steps = device.plan(routed(device), have())[2:]
    assert tuple(replace(step, refusals=()) if isinstance(step, AddRoute) else step for step in steps) == (
        WriteSysctl(FORWARDING[0], "1"),
        WriteSysctl(FORWARDING[1], "1"),
        AddAddress(HOST, ipaddress.ip_interface("10.9.0.1/32"), Where.NODE),
        AddAddress(HOST, ipaddress.ip_interface("fd00:9::1/128"), Where.NODE),
        AddRoute(HOST, result.Route(ipaddress.ip_network("10.9.0.5/32"), scope=253), Where.NODE),
        AddRoute(HOST, result.Route(ipaddress.ip_network("fd00:9::5/128")), Where.NODE),
    )
    whole = have(PORT, POD_LINK, routed=True)
    assert (device.plan(routed(device), whole), device.mismatches(routed(device), whole)) == ((), ())


def test_check_names_each_thing_that_the_node_lacks():
    device = veth()
    found = device.mismatches(routed(device), have(PORT, POD_LINK))
    for named in ("ip_forward is not 1", "10.9.0.1/32", "fd00:9::1/128", "10.9.0.5/32", "fd00:9::5/128"):
        assert any(named in one for one in found), named
    assert device.mismatches(device.interface, have(None, POD_LINK)) == (f"host end {HOST} is missing",)
    larger = veth(mtu=1500)
    assert larger.mismatches(larger.interface, have(PORT, POD_LINK)) == (f"host end {HOST} has MTU 1400, not 1500",)


def test_an_mtu_is_set_on_the_host_end_too():
    device = veth(mtu=1500)
    changed = Change(HOST, attributes=(("IFLA_MTU", 1500),), up=True)
    assert device.plan(device.interface, have(PORT, POD_LINK)) == (changed,)


def test_a_host_end_that_is_down_is_set_up():
    device = veth()
    assert device.plan(device.interface, have(replace(PORT, up=False), POD_LINK)) == (Change(HOST, up=True),)


def test_a_pair_whose_other_end_is_not_in_the_pod_is_made_anew():
    steps = veth().plan(veth().interface, have(PORT))
    assert [type(step) for step in steps] == [Remove, Create, WriteSysctl]


@pytest.mark.parametrize(
    "there",
    [have(replace(PORT, mac="02:00:00:00:00:01")), have(replace(PORT, kind="bridge")), have(None, POD_LINK)],
    ids=["foreign-host-end", "another-kind", "name-taken-in-the-pod"],
)
def test_what_is_not_ours_is_a_conflict_and_is_not_removed(there):
    with pytest.raises(errors.CNIError) as caught:
        veth().plan(veth().interface, there)
    assert (caught.value.code, veth().removal(there)) == (7, ())
    assert veth().removal(have(PORT)) == (Remove(PORT),)
