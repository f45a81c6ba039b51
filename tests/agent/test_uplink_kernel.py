"""Which links of the node bear its default routes: what the policy's word `uplink` means."""

import pytest

from tests.agent.native import ip

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]


@pytest.fixture(autouse=True)
def links(node_netns):
    for number in range(3):
        ip("link", "add", f"e{number}", "type", "veth", "peer", "name", f"p{number}")
        ip("link", "set", f"e{number}", "up")
        ip("link", "set", f"p{number}", "up")
        ip("addr", "add", f"10.{number}.0.5/24", "dev", f"e{number}")


def test_a_node_without_routes_has_none(kernel):
    assert not any(kernel.is_uplink(name) for name in ("e0", "e1", "lo", "nonesuch"))


@pytest.mark.parametrize(
    "route",
    [
        ("default", "via", "10.0.0.1"),
        ("default", "dev", "e0"),
        ("default", "via", "10.0.0.1", "table", "100"),
        ("0.0.0.0/1", "via", "10.0.0.1"),
        ("128.0.0.0/1", "via", "10.0.0.1"),
        ("default", "nexthop", "via", "10.0.0.1", "nexthop", "via", "10.2.0.1"),
    ],
    ids=" ".join,
)
def test_whatever_bears_a_default_route_is_one(kernel, route):
    ip("route", "add", *route)
    assert kernel.is_uplink("e0")
    assert kernel.is_uplink("e2") == ("nexthop" in route)
    assert not kernel.is_uplink("e1")


@pytest.mark.parametrize("name", ["short", "alias-of-the-uplink"])
def test_a_link_is_known_by_its_other_names_too(kernel, name):
    ip("route", "add", "default", "via", "10.0.0.1")
    ip("link", "property", "add", "dev", "e0", "altname", name)
    ip("link", "property", "add", "dev", "e1", "altname", name + "2")
    assert (kernel.is_uplink(name), kernel.is_uplink(name + "2")) == (True, False)


def test_what_no_link_can_be_called_is_taken_for_one(kernel):
    assert kernel.is_uplink("x" * 300)


def test_ipv6_counts(kernel):
    ip("addr", "add", "fd00::5/64", "dev", "e1", "nodad")
    ip("-6", "route", "add", "default", "via", "fd00::1")
    assert (kernel.is_uplink("e1"), kernel.is_uplink("e0")) == (True, False)
