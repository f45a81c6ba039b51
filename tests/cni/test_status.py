"""The network-status annotation."""

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import multinet, result

POD_SIDE = result.Interface("net1", "02:00:00:00:00:02", 1450, "/run/netns/x")
HOST_SIDE = result.Interface("veth1", "02:00:00:00:00:01", 1500)
DEFAULT = {"name": "cbr0", "interface": "eth0", "ips": ["10.244.0.5"], "mac": "02:ff", "default": True, "dns": {}}
FOREIGN = {"name": "other/red", "interface": "net9", "mac": "02:ee", "dns": {}, "example.com/by": {"x": [1]}}


def ip(text, interface=None, gateway=None):
    return result.IPConfig(ipaddress.ip_interface(text), gateway and ipaddress.ip_address(gateway), interface)


def route(dst, gw=None):
    return result.Route(ipaddress.ip_network(dst), gw and ipaddress.ip_address(gw))


def ours(interface="net1", **more):
    return {"name": "default/blue", "interface": interface, "mac": "02:aa", "dns": {}} | more


# one entry


def test_entry_tells_everything_about_the_pods_interface():
    outcome = result.Result(
        (HOST_SIDE, POD_SIDE),
        (ip("10.0.0.5/24", 1, "10.0.0.1"), ip("fd00::5/64", 1)),
        (
            route("0.0.0.0/0", "10.0.0.1"),
            route("::/0", "fd00::1"),
            route("10.9.0.0/16", "10.0.0.9"),
            route("0.0.0.0/0"),
        ),
        result.DNS(("10.0.0.2",), "blue.local", ("local",), ("ndots:2",)),
    )
    entry = multinet.status_entry("default/blue", "net1", outcome)
    assert list(entry.items()) == [
        ("name", "default/blue"),
        ("interface", "net1"),
        ("ips", ["10.0.0.5", "fd00::5"]),
        ("mac", "02:00:00:00:00:02"),
        ("mtu", 1450),
        ("dns", {"nameservers": ["10.0.0.2"], "domain": "blue.local", "search": ["local"], "options": ["ndots:2"]}),
        ("gateway", ["10.0.0.1", "fd00::1"]),
    ]


def test_entry_of_an_empty_result_is_minimal():
    entry = multinet.status_entry("default/blue", "net1", result.Result())
    assert entry == {"name": "default/blue", "interface": "net1", "dns": {}}


@pytest.mark.parametrize(
    ("interfaces", "mac"),
    [
        ((HOST_SIDE, POD_SIDE), POD_SIDE.mac),
        ((result.Interface("eth9", "02:99", sandbox="/x"), POD_SIDE), POD_SIDE.mac),
        ((result.Interface("net1", "02:77"), POD_SIDE), POD_SIDE.mac),  # the node may have a link of that name too
        ((HOST_SIDE, result.Interface("eth9", "02:99", sandbox="/x")), "02:99"),
        ((HOST_SIDE, result.Interface("net1", "02:77")), "02:77"),
        ((HOST_SIDE,), None),
    ],
)
def test_entry_is_about_the_interface_in_the_pod(interfaces, mac):
    assert multinet.status_entry("n/a", "net1", result.Result(interfaces)).get("mac") == mac


def test_entry_has_the_addresses_of_its_interface_only():
    outcome = result.Result(
        (POD_SIDE, result.Interface("net2", "02:03", sandbox="/x")),
        (ip("10.0.0.5/24", 0), ip("10.0.0.6/24", 1), ip("fd00::1/64")),
    )
    assert multinet.status_entry("n/a", "net1", outcome)["ips"] == ["10.0.0.5", "fd00::1"]
    assert multinet.status_entry("n/a", "net2", outcome)["ips"] == ["10.0.0.6", "fd00::1"]


def test_entry_has_the_addresses_of_a_result_without_interfaces():
    assert multinet.status_entry("n/a", "net1", result.Result(ips=(ip("10.0.0.5/24"),)))["ips"] == ["10.0.0.5"]


# the whole annotation


@pytest.mark.parametrize("current", [None, "", " ", "[]", "null"])
def test_first_entry_of_a_pod(current):
    assert json.loads(multinet.merge_status(current, [ours()], ())) == [ours()]


def test_text_is_the_one_that_the_client_library_writes():
    assert multinet.merge_status(None, [ours("a"), ours("b", ips=["::1"])], ()).splitlines() == [
        "[{",
        '    "name": "default/blue",',
        '    "interface": "a",',
        '    "mac": "02:aa",',
        '    "dns": {}',
        "},{",
        '    "name": "default/blue",',
        '    "interface": "b",',
        '    "mac": "02:aa",',
        '    "dns": {},',
        '    "ips": [',
        '        "::1"',
        "    ]",
        "}]",
    ]


def test_foreign_entries_their_keys_and_the_order_stay():
    current = json.dumps([DEFAULT, ours("net1", mac="old"), FOREIGN])
    merged = json.loads(multinet.merge_status(current, [ours("net2"), ours("net1")], ()))
    assert merged == [DEFAULT, ours("net1"), FOREIGN, ours("net2")]
    assert [list(entry) for entry in merged[:3:2]] == [list(DEFAULT), list(FOREIGN)]


def test_released_interfaces_go():
    current = json.dumps([DEFAULT, ours("net1"), FOREIGN, ours("net2")])
    assert json.loads(multinet.merge_status(current, [ours("net2")], {"net1"})) == [DEFAULT, FOREIGN, ours("net2")]


def test_the_default_networks_entry_is_never_touched():
    current = json.dumps([DEFAULT])
    assert json.loads(multinet.merge_status(current, [ours("eth0")], {"eth0"})) == [DEFAULT, ours("eth0")]
    assert multinet.merge_status(current, [], {"eth0"}) == current


def test_an_interface_both_released_and_ours_is_ours():
    assert json.loads(multinet.merge_status(json.dumps([FOREIGN]), [ours("net9")], {"net9"})) == [ours("net9")]


def test_doubled_entries_of_our_interface_become_one():
    current = json.dumps([ours(), DEFAULT, ours(mac="other")])
    assert json.loads(multinet.merge_status(current, [ours()], ())) == [ours(), DEFAULT]


def test_keys_of_others_stay_while_the_network_is_the_same():
    old = ours(gateway=["10.0.0.1"], **{"device-info": {"type": "pci"}, "example.com/by": 1})
    (merged,) = json.loads(multinet.merge_status(json.dumps([old]), [ours(mtu=1400)], ()))
    assert merged == ours(mtu=1400, **{"device-info": {"type": "pci"}, "example.com/by": 1})


def test_nothing_of_another_network_stays():
    old = {"name": "default/red", "interface": "net1", "device-info": {"type": "pci"}}
    assert json.loads(multinet.merge_status(json.dumps([old]), [ours()], ())) == [ours()]


def test_a_value_that_says_the_same_stays_byte_for_byte():
    current = json.dumps([DEFAULT, ours(), FOREIGN], indent=1)
    assert multinet.merge_status(current, [ours()], {"net5"}) == current


def test_entries_that_are_no_objects_stay():
    assert json.loads(multinet.merge_status('[3, null, {"interface": 5}]', [ours()], ())) == [
        3,
        None,
        {"interface": 5},
        ours(),
    ]


@pytest.mark.parametrize("current", ["{}", '"x"', "[", "cbr0", "[NaN]", "3"])
def test_a_malformed_value_is_refused(current):
    with pytest.raises(ValueError):
        multinet.merge_status(current, [ours()], ())


FOREIGN_ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"name": st.text(max_size=5)},
        optional={
            "interface": st.sampled_from(["net1", "net2", "net3", "eth0"]),
            "default": st.booleans(),
            "x": st.integers(),
        },
    ),
    max_size=5,
)
OUR_ENTRIES = st.lists(st.sampled_from(["net1", "net2"]), unique=True).map(lambda names: [ours(name) for name in names])
RELEASED = st.sets(st.sampled_from(["net1", "net3", "eth0"]))


@given(FOREIGN_ENTRIES, OUR_ENTRIES, RELEASED)
def test_merging_keeps_foreign_entries_and_is_settled_after_once(current, mine, released):
    once = multinet.merge_status(json.dumps(current), mine, released)
    assert multinet.merge_status(once, mine, released) == once
    touched = {entry["interface"] for entry in mine} | released
    foreign = [one for one in current if one.get("default") or one.get("interface") not in touched]
    assert [one for one in json.loads(once) if one in foreign] == foreign
    assert all(any(one.items() >= entry.items() for one in json.loads(once)) for entry in mine)
