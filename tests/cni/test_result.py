"""Results of ADD, by specification version."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import errors, result, version

FULL = result.Result(
    interfaces=(
        result.Interface("br-blue", "02:00:00:00:00:01", 1450),
        result.Interface("net1", "02:00:00:00:00:02", 1450, "/run/netns/x", "/run/vhost.sock", "0000:01:00.1"),
    ),
    ips=(result.IPConfig(ipaddress.ip_interface("10.0.0.5/24"), ipaddress.ip_address("10.0.0.1"), 1),),
    routes=(result.Route(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_address("10.0.0.1"), 1400, 1360, 5, 0, 253),),
    dns=result.DNS(("10.0.0.2",), "blue.local", ("local",), ("ndots:2",)),
)
LATER_INTERFACE_KEYS = {"mtu", "socketPath", "pciID"}
LATER_ROUTE_KEYS = {"mtu", "advmss", "priority", "table", "scope"}


@pytest.mark.parametrize("cni_version", version.SUPPORTED)
def test_a_version_gets_exactly_what_it_defines(cni_version):
    document = result.encode(FULL, cni_version)
    since_1_0, since_1_1 = version.at_least(cni_version, "1.0.0"), version.at_least(cni_version, "1.1.0")
    assert document["cniVersion"] == cni_version
    assert document["interfaces"][1].keys() == {"name", "mac", "sandbox"} | (
        LATER_INTERFACE_KEYS if since_1_1 else set()
    )
    assert document["interfaces"][0].keys() == {"name", "mac"} | ({"mtu"} if since_1_1 else set())
    assert document["ips"][0].keys() == {"address", "gateway", "interface"} | (set() if since_1_0 else {"version"})
    assert document["routes"][0].keys() == {"dst", "gw"} | (LATER_ROUTE_KEYS if since_1_1 else set())


@pytest.mark.parametrize("cni_version", version.SUPPORTED)
def test_an_empty_result_has_dns_up_to_0_4_0(cni_version):
    dns = {} if version.at_least(cni_version, "1.0.0") else {"dns": {}}
    assert result.encode(result.Result(), cni_version) == {"cniVersion": cni_version, **dns}


def test_addresses_say_their_family_where_the_version_has_it():
    ips = tuple(result.IPConfig(ipaddress.ip_interface(text)) for text in ("10.0.0.5/24", "fd00::5/64"))
    document = result.encode(result.Result(ips=ips), "0.4.0")
    assert document["ips"] == [{"version": "4", "address": "10.0.0.5/24"}, {"version": "6", "address": "fd00::5/64"}]


def test_index_table_and_scope_zero_are_written():
    document = result.encode(
        result.Result(
            (result.Interface("net1"),),
            (result.IPConfig(ipaddress.ip_interface("10.0.0.5/24"), interface=0),),
            (result.Route(ipaddress.ip_network("10.1.0.0/16"), table=0, scope=0),),
        ),
        "1.1.0",
    )
    assert document["ips"][0]["interface"] == 0
    assert document["routes"] == [{"dst": "10.1.0.0/16", "table": 0, "scope": 0}]


@pytest.mark.parametrize("cni_version", ["", "0.1.0", "0.2.0", "1.1", "9.9.9"])
def test_versions_without_a_shape_for_our_results_are_refused(cni_version):
    with pytest.raises(errors.CNIError) as caught:
        result.encode(FULL, cni_version)
    assert caught.value.code == errors.Code.INCOMPATIBLE_VERSION
    assert repr(cni_version) in caught.value.details


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"cniVersion": "1.0.0"},
        {"cniVersion": None, "interfaces": None, "ips": None, "routes": None, "dns": None},
        {"cniVersion": "", "interfaces": [], "ips": [], "routes": [], "dns": {}},
        {"cniVersion": "0.3.1", "dns": {"nameservers": None, "domain": "", "search": None, "options": None}},
        {"cniVersion": "1.1.0", "example.com/key": {"x": 1}},
    ],
)
def test_empty_results_are_read_in_all_their_shapes(document):
    assert result.decode(document) == result.Result()


def test_result_of_the_reference_bridge_plugin_is_read():
    document = {
        "cniVersion": "0.3.1",
        "interfaces": [
            {"name": "br", "mac": "02:00:00:00:00:01"},
            {"name": "veth1", "mac": "02:00:00:00:00:02"},
            {"name": "net1", "mac": "02:00:00:00:00:03", "sandbox": "/run/netns/x"},
        ],
        "ips": [{"version": "4", "interface": 2, "address": "10.1.2.3/24", "gateway": "10.1.2.1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.8.7/16", "gw": ""}],
        "dns": {},
    }
    read = result.decode(document)
    assert read.interfaces[2] == result.Interface("net1", "02:00:00:00:00:03", sandbox="/run/netns/x")
    assert read.ips == (result.IPConfig(ipaddress.ip_interface("10.1.2.3/24"), ipaddress.ip_address("10.1.2.1"), 2),)
    assert [str(route.dst) for route in read.routes] == ["0.0.0.0/0", "10.9.0.0/16"]
    assert [route.gw for route in read.routes] == [None, None]


def test_result_of_0_2_0_is_read():
    document = {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]},
        "ip6": {"ip": "fd00::3/64", "routes": None},
        "dns": {"nameservers": ["10.1.2.1"]},
    }
    read = result.decode(document)
    assert [str(ip.address) for ip in read.ips] == ["10.1.2.3/24", "fd00::3/64"]
    assert [str(route.dst) for route in read.routes] == ["0.0.0.0/0"]
    assert read.dns.nameservers == ("10.1.2.1",)


@pytest.mark.parametrize("index", [None, -1, 0, 7])
def test_index_of_an_ipam_result_says_nothing(index):
    read = result.decode({"ips": [{"address": "10.0.0.5/24", "interface": index}]})
    assert read.ips[0].interface is None


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"cniVersion": 1}, "cniVersion=1"),
        ({"cniVersion": "banana"}, "cniVersion='banana'"),
        ({"interfaces": {}}, "interfaces={}"),
        ({"interfaces": [None]}, "interfaces[0]=null"),
        ({"interfaces": [{}]}, "interfaces[0].name is missing"),
        ({"interfaces": [{"name": "a", "mtu": -1}]}, "interfaces[0].mtu=-1"),
        ({"interfaces": [{"name": "a", "mtu": "1500"}]}, "interfaces[0].mtu='1500'"),
        ({"interfaces": [{"name": "a", "mac": 5}]}, "interfaces[0].mac=5"),
        ({"interfaces": [{"name": "a", "sandbox": []}]}, "interfaces[0].sandbox=[]"),
        ({"ips": "x"}, "ips='x'"),
        ({"ips": [{}]}, "ips[0].address is missing"),
        ({"ips": [{"address": "10.0.0.5"}]}, "ips[0].address='10.0.0.5' has no prefix length"),
        ({"ips": [{"address": "10.0.0.5/33"}]}, "ips[0].address='10.0.0.5/33'"),
        ({"ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1/24"}]}, "ips[0].gateway='10.0.0.1/24'"),
        ({"interfaces": [{"name": "a"}], "ips": [{"address": "1.2.3.4/8", "interface": 1}]}, "ips[0].interface=1"),
        ({"ips": [{"address": "1.2.3.4/8", "interface": "0"}]}, "ips[0].interface='0'"),
        ({"routes": [{"gw": "10.0.0.1"}]}, "routes[0].dst is missing"),
        ({"routes": [{"dst": "default"}]}, "routes[0].dst='default'"),
        ({"routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}, "routes[0].gw='x'"),
        ({"routes": [{"dst": "0.0.0.0/0", "scope": 256}]}, "routes[0].scope=256"),
        ({"routes": [{"dst": "0.0.0.0/0", "table": 2**32}]}, "routes[0].table=4294967296"),
        ({"dns": []}, "dns=[]"),
        ({"dns": {"search": "local"}}, "dns.search='local'"),
        ({"dns": {"nameservers": [1]}}, "dns.nameservers[0]=1"),
        ({"ip4": {"ip": "10.0.0.5"}}, "ip4.ip='10.0.0.5'"),
        ({"ip6": 6}, "ip6=6"),
    ],
)
def test_a_wrong_result_is_an_error_that_names_the_key(document, named):
    with pytest.raises(errors.CNIError) as caught:
        result.decode(document)
    assert caught.value.code == errors.Code.DECODE_FAILURE
    assert named in str(caught.value)


WIDE = st.integers(1, 2**32 - 1)
TEXTS = st.tuples() | st.tuples(st.text(min_size=1)) | st.tuples(st.text(min_size=1), st.text(min_size=1))
INTERFACES = st.builds(
    result.Interface, st.text(min_size=1), st.text(), st.none() | WIDE, st.text(), st.text(), st.text()
)
ADDRESSES = st.ip_addresses()
ROUTES = st.builds(
    result.Route,
    st.builds(
        lambda address, prefix: ipaddress.ip_network((address, prefix), strict=False), ADDRESSES, st.integers(0, 32)
    ),
    st.none() | ADDRESSES,
    *[st.none() | WIDE] * 3,
    st.none() | st.integers(0, 2**32 - 1),
    st.none() | st.integers(0, 255),
)


@st.composite
def results(draw):
    interfaces = tuple(draw(st.lists(INTERFACES, max_size=3)))
    indexes = st.none() | st.integers(0, len(interfaces) - 1) if interfaces else st.none()
    address = st.builds(lambda a, prefix: ipaddress.ip_interface((a, prefix)), ADDRESSES, st.integers(0, 32))
    ips = draw(st.lists(st.builds(result.IPConfig, address, st.none() | ADDRESSES, indexes), max_size=3))
    dns = st.builds(result.DNS, TEXTS, st.text(), TEXTS, TEXTS)
    return result.Result(interfaces, tuple(ips), tuple(draw(st.lists(ROUTES, max_size=3))), draw(dns))


def expressible(full, cni_version):
    """Return what a version can say of a result."""
    if version.at_least(cni_version, "1.1.0"):
        return full
    interfaces = tuple(result.Interface(one.name, one.mac, sandbox=one.sandbox) for one in full.interfaces)
    routes = tuple(result.Route(one.dst, one.gw) for one in full.routes)
    return result.Result(interfaces, full.ips, routes, full.dns)


@pytest.mark.parametrize("cni_version", version.SUPPORTED)
@given(full=results())
def test_reading_what_was_written_gives_back_what_the_version_can_say(cni_version, full):
    assert result.decode(result.encode(full, cni_version)) == expressible(full, cni_version)
