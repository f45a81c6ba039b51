"""The device `veth` on the real kernel: to the node, with and without addresses, and the reference `ptp` beside it."""

from pathlib import Path

import pytest

from agent import options
from agent.model import ContainerID, Key
from cni import errors
from tests.agent import reference
from tests.agent.native import CONTAINER, FakeIPAM, ip, link, ping
from tests.agent.native import Plugin as AnyPlugin

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns", "kernel")]

HOST = options.host_name(Key(ContainerID(CONTAINER), "net1"))
ADDRESSES = [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::5/64", "gateway": "fd00:9::1"}]
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
IPAM = {"cniVersion": "1.1.0", "ips": ADDRESSES, "routes": ROUTES}


def Plugin(pod_netns, fake=None, **config):
    return AnyPlugin(pod_netns, fake, **{"device": "veth", **config})


def Routed(pod_netns, answer=IPAM):
    return Plugin(pod_netns, FakeIPAM(answer), ipam={"type": "fake"})


def second(address: str) -> dict:
    return {"cniVersion": "1.1.0", "ips": [{"address": address, "gateway": "10.9.0.1"}], "routes": ROUTES[:1]}


def sysctl(path: str) -> str:
    return Path("/proc/thread-self/root/proc/sys/net", path).read_text().strip()


def test_the_pod_reaches_the_node_over_plain_l2(pod_netns):
    document = Plugin(pod_netns, mtu=1400)("ADD")
    assert [(one["name"], one["mtu"]) for one in document["interfaces"]] == [(HOST, 1400), ("net1", 1400)]
    assert "master" not in link(HOST)
    ip("addr", "add", "10.7.0.1/24", "dev", HOST)
    ip("addr", "add", "10.7.0.2/24", "dev", "net1", netns=pod_netns)
    ping(pod_netns, "10.7.0.1")


def test_a_router_advertisement_of_the_pod_gives_the_node_no_address(pod_netns):
    Plugin(pod_netns)("ADD")
    assert sysctl(f"ipv6/conf/{HOST}/accept_ra") == "0"


def test_pods_reach_their_gateway_and_each_other_through_the_node(pod_netns, second_pod_netns):
    Routed(pod_netns)("ADD", container="a" * 64)
    Routed(second_pod_netns, second("10.9.0.6/24"))("ADD")
    for address in ("10.9.0.1", "10.9.0.6"):
        ping(pod_netns, address)
    ping(pod_netns, "fd00:9::1", "-6")
    assert (sysctl("ipv4/ip_forward"), sysctl("ipv6/conf/all/forwarding")) == ("1", "1")


def test_the_node_has_a_route_to_the_pods_addresses_alone(pod_netns):
    Routed(pod_netns)("ADD")
    assert [one["dst"] for one in ip("route", "show", "dev", HOST)] == ["10.9.0.5"]
    assert "fd00:9::5" in [one["dst"] for one in ip("-6", "route", "show", "dev", HOST)]
    assert [one["dst"] for one in ip("-6", "route", "show", "dev", HOST) if "/" in one["dst"]] == ["fe80::/64"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (["addr", "del", "10.9.0.1/32", "dev", HOST], "no address 10.9.0.1/32"),
        (["route", "del", "10.9.0.5/32", "dev", HOST], "no route to 10.9.0.5/32"),
        (["link", "set", HOST, "mtu", "1300"], "MTU 1300"),
        (["link", "del", HOST], "is missing"),
    ],
)
def test_check_names_damage_on_the_node_and_a_retry_repairs_it(pod_netns, damage, named):
    plugin = Plugin(pod_netns, FakeIPAM(IPAM), ipam={"type": "fake"}, mtu=1400)
    document = plugin("ADD")
    plugin("CHECK", prevResult=document)
    ip(*damage)
    with pytest.raises(errors.CNIError, match=named):
        plugin("CHECK", prevResult=document)
    again = plugin("ADD")
    plugin("CHECK", prevResult=again)


def test_check_names_a_node_that_does_not_forward(pod_netns):
    plugin = Routed(pod_netns)
    document = plugin("ADD")
    Path("/proc/thread-self/root/proc/sys/net/ipv4/ip_forward").write_text("0")
    with pytest.raises(errors.CNIError, match="ip_forward is not 1"):
        plugin("CHECK", prevResult=document)


def test_an_address_without_a_gateway_is_refused_and_given_back(pod_netns):
    ipam = FakeIPAM({"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24"}]})
    with pytest.raises(errors.CNIError, match=r"10\.9\.0\.5/24.* no gateway") as caught:
        Plugin(pod_netns, ipam, ipam={"type": "fake"})("ADD")
    assert (caught.value.code, [call[1] for call in ipam.calls]) == (7, ["ADD", "DEL"])
    assert [one["ifname"] for one in ip("link")] == ["lo"]


def test_an_address_that_another_pod_has_is_refused_in_words_and_that_one_keeps_it(pod_netns, second_pod_netns):
    Routed(second_pod_netns)("ADD", container="first")
    with pytest.raises(errors.CNIError, match=r"10\.9\.0\.5 already: another pod") as caught:
        Routed(pod_netns)("ADD")
    assert (caught.value.code, link("net1", pod_netns)) == (7, None)
    ping(second_pod_netns, "10.9.0.1")


def test_the_host_end_has_the_name_that_is_asked_for(pod_netns):
    plugin = Plugin(pod_netns, hostInterface="to-pod")
    document = plugin("ADD")
    assert document["interfaces"][0]["name"] == "to-pod"
    plugin("CHECK", prevResult=document)
    plugin("DEL")
    assert [one["ifname"] for one in ip("link")] == ["lo"]


@pytest.mark.parametrize("kind", [("bridge",), ("veth", "peer", "name", "x")])
def test_a_link_of_the_node_that_has_the_name_is_never_taken_over(pod_netns, kind):
    ip("link", "add", "to-pod", "type", *kind)
    before = link("to-pod")
    plugin = Plugin(pod_netns, hostInterface="to-pod")
    with pytest.raises(errors.CNIError, match="'to-pod' on the node is not ours") as caught:
        plugin("ADD")
    plugin("DEL")
    assert (caught.value.code, link("to-pod")) == (7, before)


def test_two_pods_that_ask_for_one_host_name_do_not_take_it_from_each_other(pod_netns, second_pod_netns):
    Plugin(pod_netns, hostInterface="to-pod")("ADD", container="first")
    before = link("to-pod")
    other = Plugin(second_pod_netns, hostInterface="to-pod")
    with pytest.raises(errors.CNIError, match="not ours"):
        other("ADD")
    other("DEL")
    assert link("to-pod") == before


def test_it_is_what_the_reference_ptp_makes(pod_netns, second_pod_netns):
    theirs_config = {"mtu": 1400, "ipam": {"type": "static", "addresses": ADDRESSES, "routes": ROUTES}}
    theirs = reference.call("ptp", "ADD", second_pod_netns, theirs_config)
    host = theirs["interfaces"][0]["name"]
    expected = (reference.normal(theirs, second_pod_netns), reference.facts(second_pod_netns), _of_node(host))
    ip("link", "del", host)  # two pods with one address would be in each other's way
    ours = Plugin(pod_netns, FakeIPAM(IPAM), ipam={"type": "fake"}, mtu=1400)("ADD")
    assert (reference.normal(ours, pod_netns), reference.facts(pod_netns), _of_node(HOST)) == expected


def _of_node(host: str) -> dict[str, object]:
    return {
        "addresses": sorted(
            (one["local"], one["prefixlen"]) for shown in ip("addr", "show", "dev", host) for one in shown["addr_info"]
            if one["scope"] == "global"
        ),
        "routes": sorted(  # their scope is `host` there, which says that the pod were the node itself
            one["dst"] for version in ("-4", "-6") for one in ip(version, "route", "show", "dev", host)
            if not one["dst"].startswith("fe80")
        ),
        "forwarding": (sysctl("ipv4/ip_forward"), sysctl("ipv6/conf/all/forwarding")),
        "accept_ra": sysctl(f"ipv6/conf/{host}/accept_ra"),
    }  # fmt: skip
