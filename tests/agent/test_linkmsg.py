"""Requests about links: the same bytes as pyroute2's, or none."""

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from agent import linkmsg

PEER = {
    "attrs": [
        ("IFLA_IFNAME", "net1"),
        ("IFLA_ADDRESS", "02:00:00:00:00:01"),
        ("IFLA_NET_NS_FD", 7),
        ("IFLA_MTU", 9000),
    ]
}
VETH = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", PEER)]})]}
VLAN = {"attrs": [("IFLA_INFO_KIND", "vlan"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_VLAN_ID", 5)]})]}
MESSAGES = [
    ({}, [("IFLA_IFNAME", "a"), ("IFLA_EXT_MASK", 8)]),
    ({"index": 77}, [("IFLA_EXT_MASK", 8)]),
    ({"index": 3, "flags": 1, "change": 0x101}, []),
    ({"index": 3}, [("IFLA_MASTER", 9), ("IFLA_MTU", 1400), ("IFLA_ADDRESS", "0a:ff:00:00:00:01")]),
    ({"flags": 1, "change": 1}, [("IFLA_IFNAME", "hn0123456789ab"), ("IFLA_MASTER", 5), ("IFLA_LINKINFO", VETH)]),
    ({}, [("IFLA_IFNAME", "br0"), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]})]),
]


def by_pyroute2(fields, attributes) -> bytes:
    message = ifinfmsg()
    message.update(fields)
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[16:])


def without_flags(data: bytes) -> bytes:
    """NLA_F_NESTED is set by pyroute2; the kernel takes these attributes with and without it."""
    return data.replace(b"\x12\x80", b"\x12\x00").replace(b"\x02\x80", b"\x02\x00").replace(b"\x01\x80", b"\x01\x00")


@pytest.mark.parametrize(("fields", "attributes"), MESSAGES)
def test_a_message_that_is_known_is_pyroute2s(fields, attributes):
    assert linkmsg.encode(fields, attributes) == without_flags(by_pyroute2(fields, attributes))


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({"family": 7}, []),
        ({}, [("IFLA_AF_SPEC", {"attrs": []})]),
        ({}, [("IFLA_LINKINFO", VLAN)]),
        ({}, [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge")]})]),
    ],
)
def test_what_is_not_known_is_left_to_pyroute2(fields, attributes):
    assert linkmsg.encode(fields, attributes) is None
