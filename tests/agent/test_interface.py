"""The interface in the pod, decided: attributes, addresses, routes, whatever kind of link it is."""

import ipaddress
from dataclasses import replace

import pytest

from agent import interface, links
from agent.links import AddAddress, AddRoute, Change, Have, Interface, Link, Sysctl, Where, WriteSysctl
from cni import result

ADDRESS = ipaddress.ip_interface("10.1.1.2/24")
ROUTE = result.Route(ipaddress.ip_network("10.9.0.0/16"), ipaddress.ip_address("10.1.1.1"), mtu=1300, priority=7)
MAC = "02:00:00:00:00:01"
POD = Link(2, "net1", "veth", MAC, 1400, up=True)
WANT = Interface("net1", MAC, 1400, addresses=(ADDRESS,), routes=(ROUTE,))
WHOLE = Have(pod=POD, flags=1, addresses=frozenset({ADDRESS}), routes=frozenset({ROUTE}))


def test_a_link_that_is_about_to_be_made_gets_all_but_what_it_is_made_with():
    assert interface.plan(WANT, Have()) == (
        Change("net1", Where.IN_POD, flags=(1, 1)),
        AddAddress("net1", ADDRESS),
        AddRoute("net1", ROUTE),
    )


def test_nothing_is_left_to_do_when_everything_is_there():
    assert interface.plan(WANT, WHOLE) == ()
    assert interface.mismatches(WANT, WHOLE) == ()


def test_a_changed_mac_and_mtu_are_set_in_one_message():
    changed = replace(WHOLE, pod=replace(POD, mac="02:00:00:00:00:99", mtu=1500))
    attributes = (("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1400))
    assert interface.plan(WANT, changed) == (Change("net1", Where.IN_POD, attributes),)


def test_a_link_that_shall_be_down_gets_no_routes_and_is_set_down():
    down = replace(WANT, up=False)
    assert interface.plan(down, replace(WHOLE, routes=frozenset())) == (Change("net1", Where.IN_POD, flags=(0, 1)),)


def test_settings_come_before_the_link_is_up_and_only_where_they_differ():
    path = "ipv4/conf/net1/arp_filter"
    want = replace(WANT, sysctls=((path, "1"),))
    steps = interface.plan(want, Have(facts={Sysctl(path): "0"}))
    assert [type(step) for step in steps][:2] == [WriteSysctl, Change]
    assert not any(isinstance(step, WriteSysctl) for step in interface.plan(want, Have(facts={Sysctl(path): "1"})))


def test_an_earlier_addresses_leave_unless_it_is_still_wanted():
    old = ipaddress.ip_interface("10.1.1.9/24")
    want = replace(WANT, leaving=(old, ADDRESS))
    steps = interface.plan(want, replace(WHOLE, addresses=frozenset({ADDRESS, old})))
    assert steps == (links.RemoveAddress("net1", old),)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pod": None}, "net1 is missing"),
        ({"pod": replace(POD, mac="02:00:00:00:00:99")}, "02:00:00:00:00:99"),
        ({"pod": replace(POD, mtu=1500)}, "MTU 1500"),
        ({"addresses": frozenset()}, "10.1.1.2/24 is missing"),
        ({"routes": frozenset()}, "10.9.0.0/16 is missing"),
        ({"routes": frozenset({replace(ROUTE, mtu=1500)})}, "10.9.0.0/16 is missing"),
    ],
)
def test_check_names_what_is_wrong(change, named):
    assert any(named in one for one in interface.mismatches(WANT, replace(WHOLE, **change)))


def test_check_does_not_mind_what_others_added_nor_a_link_that_the_pod_set_down():
    bare = Interface("net1", MAC)
    assert interface.mismatches(bare, WHOLE) == ()
    assert interface.mismatches(WANT, replace(WHOLE, pod=replace(POD, up=False), routes=frozenset())) == ()


def test_a_route_without_gateway_goes_through_the_gateway_of_its_family():
    ipam = result.Result(
        ips=(result.IPConfig(ADDRESS, ipaddress.ip_address("10.1.1.1")),),
        routes=(result.Route(ipaddress.ip_network("0.0.0.0/0")), result.Route(ipaddress.ip_network("::/0"))),
    )
    assert [route.gw for route in interface.with_gateways(ipam)] == [ipaddress.ip_address("10.1.1.1"), None]
