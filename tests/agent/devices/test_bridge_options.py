"""The device `bridge`, decided: VLANs, port settings, the source check, the bridge as gateway."""

import ipaddress
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import interface, options
from agent.devices import parse
from agent.links import (
    AddAddress,
    Addresses,
    AwaitAddresses,
    Change,
    Create,
    Have,
    Link,
    NamedLink,
    RemoveAddress,
    Sysctl,
    Where,
    WriteSysctl,
)
from agent.model import ContainerID, Key
from agent.ports import FilterSource, PortVlans, SetVlans, SourceFilter, Vlan, VlanFiltering, accepting
from cni import errors, result

KEY = Key(ContainerID("c" * 64), "net1")
HOST = options.host_name(KEY)


def info(*pairs: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in pairs)


def bridge_link(filtering: int | None = 1, default: int = 1) -> Link:
    known = () if filtering is None else ((7, bytes([filtering])), (39, struct.pack("=H", default)))
    return Link(5, "br0", "bridge", "02:00:00:00:00:05", 1500, up=True, data=info(*known))


PORT = Link(6, HOST, "veth", options.derived_mac(KEY, "host"), 1500, up=True, master=5)
POD = Link(2, "net1", "veth", options.derived_mac(KEY, "pod"), 1500, up=True)
NATIVE = Vlan(100, pvid=True, untagged=True)
DEFAULT = Vlan(1, pvid=True, untagged=True)


def device(**config: object):
    return parse(options.Call(KEY, {"device": "bridge", "bridge": "br0", **config}))


def have(bridge=None, host=None, pod=None, vlans=None, *, able=True, **facts) -> Have:
    known = {NamedLink("br0"): bridge, NamedLink(HOST): host, VlanFiltering(): able, PortVlans(HOST): vlans}
    return Have(pod=pod, flags=1, facts={**known, **facts.get("facts", {})})


def whole(vlans=None, *, bridge=None, port=PORT, **facts) -> Have:
    return have(bridge or bridge_link(), port, POD, None if vlans is None else frozenset(vlans), **facts)


def plan(one, there: Have):
    return tuple(one.plan(one.interface, there))


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"vlan": -1}, 7, "vlan=-1"),
        ({"vlan": 4095}, 7, "vlan=4095"),
        ({"vlan": "100"}, 7, "vlan='100'"),
        ({"vlan": True}, 7, "vlan=True"),
        ({"vlanTrunk": {"id": 1}}, 7, "vlanTrunk={'id': 1}"),
        ({"vlanTrunk": [100]}, 7, "vlanTrunk=100"),
        ({"vlanTrunk": [{"id": 0}]}, 7, "id=0"),
        ({"vlanTrunk": [{"minID": 10, "maxID": 4095}]}, 7, "maxID=4095"),
        ({"vlanTrunk": [{"minID": 10}]}, 7, "both of minID and maxID"),
        ({"vlanTrunk": [{"maxID": 10}]}, 7, "both of minID and maxID"),
        ({"vlanTrunk": [{"minID": 10, "maxID": 9}]}, 7, "minID above its maxID"),
        ({"vlanTrunk": [{"minId": 10, "maxId": 12}]}, 7, "must have id, or minID and maxID"),
        ({"preserveDefaultVlan": 1}, 7, "preserveDefaultVlan=1"),
        ({"macspoofchk": "yes"}, 7, "macspoofchk='yes'"),
        ({"hairpinMode": True, "promiscMode": True}, 7, "hairpinMode=True and promiscMode=True"),
        ({"disableContainerInterface": True, "ipam": {"type": "x"}}, 7, "disableContainerInterface=True"),
        ({"isGateway": True, "vlan": 100, "bridge": "a" * 12}, 7, "aaaaaaaaaaaa.100"),
        ({"ipMasq": True}, 2, "ipMasq=True"),
        ({"ipMasqBackend": "nftables"}, 2, "ipMasqBackend='nftables'"),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        device(**config)
    assert (caught.value.code, named in caught.value.message) == (code, True)


@pytest.mark.parametrize("config", [{}, {"vlan": 0}, {"vlanTrunk": []}, {"vlan": None, "vlanTrunk": None},
                                    {"preserveDefaultVlan": True}, {"isGateway": False}])  # fmt: skip
def test_a_plain_port_asks_and_does_nothing_more(config):
    one = device(**config)
    assert one.reads() == (NamedLink("br0"), NamedLink(HOST))
    there = Have(pod=POD, flags=1, facts={NamedLink("br0"): bridge_link(0), NamedLink(HOST): PORT})
    assert plan(one, there) == ()
    assert [type(step) for step in plan(one, Have(facts={NamedLink("br0"): bridge_link(0)}))] == [Create]


def test_a_bridge_that_is_made_has_vlan_filtering_and_its_port_not_the_default_vlan():
    made = plan(device(vlan=100), have())
    assert [type(step) for step in made] == [Create, WriteSysctl, Change, Create, SetVlans]
    assert made[0].data == (("IFLA_BR_VLAN_FILTERING", 1),)
    assert made[-1] == SetVlans(HOST, (NATIVE,), (1,))


@pytest.mark.parametrize(
    ("config", "default", "add", "drop"),
    [
        ({"vlan": 100}, 1, (NATIVE,), (1,)),
        ({"vlan": 100}, 7, (NATIVE,), (7,)),
        ({"vlan": 100}, 0, (NATIVE,), ()),
        ({"vlan": 100}, 100, (), ()),
        ({"vlan": 100, "preserveDefaultVlan": True}, 1, (NATIVE,), ()),
        ({"vlanTrunk": [{"id": 5}, {"minID": 5, "maxID": 6}]}, 1, (Vlan(5), Vlan(6)), ()),
        ({"vlanTrunk": [{"id": 5}]}, 0, (DEFAULT, Vlan(5)), ()),
        ({"vlan": 100, "vlanTrunk": [{"minID": 99, "maxID": 101}]}, 1, (Vlan(99), NATIVE, Vlan(101)), (1,)),
        ({"vlanTrunk": [{"id": 9, "minID": 3, "maxID": 4}]}, 1, (Vlan(3), Vlan(4), Vlan(9)), ()),
    ],
)  # fmt: skip
def test_a_new_port_gets_what_it_lacks_and_loses_the_bridges_default(config, default, add, drop):
    steps = plan(device(**config), have(bridge_link(default=default)))
    wanted = (SetVlans(HOST, add, drop),) if add or drop else ()
    assert steps[1:] == wanted


vlans_of_a_port = st.frozensets(st.builds(Vlan, st.integers(1, 9), st.booleans(), st.booleans()), max_size=12).map(
    lambda found: frozenset({vlan.id: vlan for vlan in found}.values())
)


@given(vlans_of_a_port, st.booleans())
def test_whatever_a_port_has_one_step_makes_it_right_and_nothing_is_left_to_do(there, preserve):
    one = device(vlan=3, vlanTrunk=[{"minID": 5, "maxID": 7}], preserveDefaultVlan=preserve)
    vlans = {vlan.id: vlan for vlan in there}
    for step in plan(one, whole(there)):
        assert isinstance(step, SetVlans)
        assert not {vlan.id for vlan in step.add} & set(step.drop)
        vlans = {number: vlan for number, vlan in vlans.items() if number not in step.drop}
        if any(vlan.pvid for vlan in step.add):  # a port has one
            vlans = {number: vlan._replace(pvid=False) for number, vlan in vlans.items()}
        vlans |= {vlan.id: vlan for vlan in step.add}
    wanted = {Vlan(3, pvid=True, untagged=True), Vlan(5), Vlan(6), Vlan(7)}
    assert wanted <= set(vlans.values())
    assert preserve or wanted == set(vlans.values())
    assert plan(one, whole(vlans.values())) == ()
    assert one.mismatches(one.interface, whole(vlans.values())) == ()


@pytest.mark.parametrize(
    ("there", "code", "named"),
    [
        (have(bridge_link(0)), 7, "bridge='br0'"),
        (have(bridge_link(None)), 7, "without VLAN filtering"),
        (have(able=False), 50, "CONFIG_BRIDGE_VLAN_FILTERING"),
        (have(bridge_link(None), able=False), 50, "vlan=100"),
    ],
    ids=["off", "unknown", "no-bridge-no-kernel", "no-kernel"],
)
def test_a_bridge_or_a_kernel_without_vlan_filtering_is_refused(there, code, named):
    for ask in (lambda: plan(device(vlan=100), there), lambda: device(vlan=100).refuse_unready(there)):
        with pytest.raises(errors.CNIError) as caught:
            ask()
        assert (caught.value.code, named in caught.value.message) == (code, True)


def test_check_names_vlans_that_are_missing_or_other_and_no_others():
    one = device(vlan=100, vlanTrunk=[{"minID": 200, "maxID": 201}])
    assert one.mismatches(one.interface, whole({NATIVE, Vlan(200), Vlan(201), Vlan(7)})) == ()
    assert one.mismatches(one.interface, whole({Vlan(100, untagged=True), Vlan(200)})) == (
        f"port {HOST} has no VLAN 201",
        f"port {HOST} has VLAN 100 untagged, not untagged and PVID",
    )
    trunk = device(vlanTrunk=[{"minID": 2, "maxID": 4094}])
    some = whole({DEFAULT, Vlan(7), *map(Vlan, range(9, 4094))})
    assert trunk.mismatches(trunk.interface, some) == (f"port {HOST} has no VLAN 2-6, 8, 4094",)
    found = one.mismatches(one.interface, whole({NATIVE, Vlan(200), Vlan(201)}, bridge=bridge_link(0)))
    assert found == ("bridge br0 has no VLAN filtering (any more)",)


def test_settings_of_the_port_and_the_bridge_are_set_again_where_they_are_lost():
    one = device(hairpinMode=True, portIsolation=True)
    lost = whole(port=replace(PORT, port=info((4, b"\1"), (33, b"\0"))))
    assert plan(one, lost) == (Change(HOST, port=(("IFLA_BRPORT_ISOLATED", 1),)),)
    assert one.mismatches(one.interface, lost) == (f"port {HOST} has lost portIsolation",)
    assert plan(one, whole(port=replace(PORT, port=info((4, b"\1"), (33, b"\1"))))) == ()
    promiscuous = device(promiscMode=True)
    assert plan(promiscuous, whole()) == (Change("br0", flags=(0x100, 0x100)),)
    assert promiscuous.mismatches(promiscuous.interface, whole()) == ("bridge br0 is not promiscuous",)
    there = whole(bridge=replace(bridge_link(), promiscuous=True))
    assert (plan(promiscuous, there), promiscuous.mismatches(promiscuous.interface, there)) == ((), ())


def test_the_source_check_is_for_the_wanted_mac_and_comes_before_the_pods_end_is_up():
    one = device(macspoofchk=True)
    program = accepting(one.interface.mac)
    assert SourceFilter(HOST) in one.reads()
    assert plan(one, have(bridge_link()))[-1] == FilterSource(HOST, program)
    with_filter = whole(facts={SourceFilter(HOST): program}, port=PORT)
    changed = replace(with_filter, pod=replace(POD, mac="02:00:00:00:00:99"))  # the pod's own doing
    assert plan(one, with_filter) == plan(one, changed) == ()
    for installed in (None, accepting("02:00:00:00:00:99")):
        broken = whole(facts={SourceFilter(HOST): installed})
        assert plan(one, broken) == (FilterSource(HOST, program),)
        assert one.mismatches(one.interface, broken) == (f"port {HOST} does not check source MACs",)


# -- the gateway -------------------------------------------------------------------------------------------------

ON = {Sysctl("ipv4/ip_forward", Where.NODE): "1", Sysctl("ipv6/conf/all/forwarding", Where.NODE): "1"}


def ips(*texts: str) -> result.Result:
    return result.Result(ips=tuple(result.IPConfig(ipaddress.ip_interface(text)) for text in texts))


def gateway_plan(one, addresses: result.Result, *there: str, **knobs):
    completed = one.completed(addresses)
    want = replace(
        one.interface,
        addresses=tuple(ip.address for ip in completed.ips),
        gateways=tuple(ip.gateway for ip in completed.ips),
    )
    on_bridge = frozenset(map(ipaddress.ip_interface, there))
    found = whole(facts={Addresses("br0"): on_bridge, **(knobs.get("knobs") or ON)})
    return tuple(one.plan(want, found)), one.mismatches(want, found)


def test_a_missing_gateway_is_the_first_address_and_the_default_route_is_added_once_a_family():
    completed = device(isDefaultGateway=True).completed(ips("10.9.0.5/24", "10.8.0.5/24", "fd00:9::5/64"))
    assert [str(ip.gateway) for ip in completed.ips] == ["10.9.0.1", "10.8.0.1", "fd00:9::1"]
    assert [(str(route.dst), str(route.gw)) for route in completed.routes] == [
        ("0.0.0.0/0", "10.9.0.1"), ("::/0", "fd00:9::1"),
    ]  # fmt: skip
    own = replace(ips("10.9.0.5/24"), routes=(result.Route(ipaddress.ip_network("0.0.0.0/0")),))
    assert device(isDefaultGateway=True).completed(own).routes == own.routes
    assert device(isGateway=True).completed(ips("10.9.0.5/24")).routes == ()
    assert device().completed(ips("10.9.0.5/24")) == ips("10.9.0.5/24")


def test_the_bridge_gets_the_gateways_address_and_forwards():
    one = device(isGateway=True)
    off = dict.fromkeys(ON, "0")
    steps, found = gateway_plan(one, ips("10.9.0.5/24"), knobs=off)
    assert steps == (
        Change("br0", attributes=(("IFLA_ADDRESS", "02:00:00:00:00:05"),)),
        AddAddress("br0", ipaddress.ip_interface("10.9.0.1/24"), Where.NODE, shared=True),
        WriteSysctl(Sysctl("ipv4/ip_forward", Where.NODE), "1"),
    )
    assert found == (
        "gateway br0 has not the address 10.9.0.1/24", "sysctl net/ipv4/ip_forward is '0', not '1'",
    )  # fmt: skip
    assert gateway_plan(one, ips("10.9.0.5/24"), "10.9.0.1/24") == ((), ())


@pytest.mark.parametrize(
    ("address", "there", "conflict"),
    [
        ("10.9.0.5/24", "10.8.0.1/24", True),
        ("10.9.0.5/24", "fd00:9::1/64", False),
        ("fd00:9::5/64", "fd00:8::1/64", False),
        ("fd00:9::5/64", "fd00:9::7/48", True),
        ("fd00:9::5/64", "fe80::1/64", False),
    ],
)
def test_another_address_of_the_bridge_is_a_conflict_and_replaced_where_forced(address, there, conflict):
    refused = False
    try:
        gateway_plan(device(isGateway=True), ips(address), there)
    except errors.CNIError as problem:
        refused = problem.code == 7 and there in problem.message
    assert refused == conflict
    steps, _ = gateway_plan(device(isGateway=True, forceAddress=True), ips(address), there)
    removed = [step for step in steps if isinstance(step, RemoveAddress)]
    assert removed == ([RemoveAddress("br0", ipaddress.ip_interface(there), Where.NODE)] if conflict else [])


def test_the_configurations_dns_beats_that_of_ipam():
    one = device(dns={"nameservers": ["10.9.0.2"]})
    ipam = result.Result(dns=result.DNS(nameservers=("10.9.0.3",), domain="a.b"))
    assert one.completed(ipam).dns == one.completed(result.Result()).dns == result.DNS(nameservers=("10.9.0.2",))
    assert device().completed(ipam).dns == device(dns={}).completed(ipam).dns == ipam.dns


def test_the_interface_is_down_where_the_container_is_to_have_none():
    assert not device(disableContainerInterface=True).interface.up


def test_duplicates_are_detected_where_asked_and_there_is_an_ipv6_address():
    four, six = (ipaddress.ip_interface(text) for text in ("10.9.0.5/24", "fd00:9::5/64"))
    one = device(enabledad=True)
    want = one.with_addresses(replace(one.interface, addresses=(four, six)))
    assert (want.detect_duplicates, dict(want.sysctls)["ipv6/conf/net1/accept_dad"]) == (True, "1")
    assert AwaitAddresses("net1") in interface.plan(want, Have())
    assert AwaitAddresses("net1") not in interface.plan(replace(want, up=False), Have())  # it would wait in vain
    assert not one.with_addresses(replace(one.interface, addresses=(four,))).detect_duplicates
    assert not device().with_addresses(replace(one.interface, addresses=(six,))).detect_duplicates


def vlan_gateway_plan(gateway=None, port=None, vlans=None):
    one = device(isGateway=True, vlan=100)
    (name,) = (read.name for read in one.reads() if isinstance(read, NamedLink) and read.name.startswith("hg"))
    there = frozenset({ipaddress.ip_interface("10.9.0.1/24")})
    facts = {Addresses("br0.100"): there, **ON, NamedLink("br0.100"): gateway, NamedLink(name): port,
             PortVlans(name): vlans}  # fmt: skip
    found = whole({NATIVE}, facts=facts)
    completed = one.completed(ips("10.9.0.5/24"))
    want = replace(one.interface, addresses=(completed.ips[0].address,), gateways=(completed.ips[0].gateway,))
    return name, tuple(one.plan(want, found)), one.mismatches(want, found)


def test_the_gateway_of_a_vlan_is_a_pair_with_an_access_port_and_completed_from_any_state():
    gateway = Link(8, "br0.100", "veth", "02:00:00:00:00:08", 1500, up=True)
    port = Link(9, "p", "veth", "02:00:00:00:00:09", 1500, up=True, master=5)
    name, steps, found = vlan_gateway_plan()
    assert [type(step) for step in steps] == [Create, SetVlans, Change]
    assert (steps[0].shared, steps[1], steps[2]) == (True, SetVlans(name, (NATIVE,), (1,)), Change("br0.100", up=True))
    assert found == ("link br0.100 is missing",)
    assert vlan_gateway_plan(gateway, port, frozenset({NATIVE}))[1:] == ((), ())
    assert vlan_gateway_plan(gateway)[1:] == ((), ())  # the administrator's own
    _, steps, found = vlan_gateway_plan(replace(gateway, up=False), port, frozenset({DEFAULT}))
    assert steps == (SetVlans(name, (NATIVE,), (1,)), Change("br0.100", up=True))
    assert found == (f"port {name} has no VLAN 100",)
