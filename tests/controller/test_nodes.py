"""What the cluster's Nodes say of the network between them."""

import pytest

from controller.nodes import Node, Underlay, node_from, underlay


def node(name: str, *addresses: str) -> Node:
    return Node(name, "1", addresses)


def test_of_a_nodes_addresses_only_the_internal_ones_count_in_their_order():
    document = {
        "metadata": {"name": "n1", "resourceVersion": "7"},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "2001:db8::1"},
                {"type": "InternalIP", "address": "not-an-address"},
            ],
            "conditions": [{"type": "Ready", "status": "False"}],
        },
    }
    assert node_from(document) == Node("n1", "7", ("192.0.2.1", "2001:db8::1"))


@pytest.mark.parametrize("status", [{}, {"status": {}}, {"status": {"addresses": None}}])
def test_a_node_that_has_just_joined_has_no_addresses(status):
    assert node_from({"metadata": {"name": "n1", "resourceVersion": "7"}, **status}).addresses == ()


def test_all_others_with_an_address_are_peers():
    nodes = [node("n1", "192.0.2.1"), node("n3", "192.0.2.3"), node("new"), node("n2", "192.0.2.2", "2001:db8::2")]
    assert underlay("n1", nodes) == Underlay("192.0.2.1", {"n2": "192.0.2.2", "n3": "192.0.2.3"})


def test_this_nodes_first_address_says_the_family():
    nodes = [node("n1", "2001:db8::1", "192.0.2.1"), node("n2", "192.0.2.2", "2001:db8::2"), node("n3", "192.0.2.3")]
    assert underlay("n1", nodes) == Underlay("2001:db8::1", {"n2": "2001:db8::2"})


def test_a_node_alone_has_no_peers():
    assert underlay("n1", [node("n1", "192.0.2.1")]) == Underlay("192.0.2.1", {})


@pytest.mark.parametrize("nodes", [[], [node("n2", "192.0.2.2")], [node("n1"), node("n2", "192.0.2.2")]])
def test_without_this_node_and_its_address_nothing_is_said(nodes):
    assert underlay("n1", nodes) is None


def test_a_node_that_claims_this_ones_address_is_no_peer():
    assert underlay("n1", [node("n1", "192.0.2.1"), node("n2", "192.0.2.1")]) == Underlay("192.0.2.1", {})
