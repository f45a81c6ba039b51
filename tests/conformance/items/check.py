"""Items 65-68: CHECK."""

from __future__ import annotations

from typing import Any

from tests.conformance.case import Attachment, Case, Level, item
from tests.conformance.items.delete import attached

MUST, SHOULD, FIELD = Level.MUST, Level.SHOULD, Level.FIELD
INTERFACE = ["interface"]


def passes(case: Case, at: Attachment, config: dict[str, Any], result: dict[str, Any], when: str) -> None:
    outcome = case.call("CHECK", at, case.following(config, result))
    case.require(outcome.ok, f"CHECK fails {when}")
    case.require(not outcome.stdout.strip(), "CHECK succeeds, but there is something on stdout")


@item("65", "CHECK of an L2 interface succeeds right after ADD", MUST, "§2 CHECK", since="0.4.0", needs=["l2"])
def layer_two(case: Case) -> None:
    at, config = case.attachment(), case.config(None, "ipam")
    passes(case, at, config, case.add(at, config), "right after ADD")


@item("65i", "CHECK of an interface with addresses succeeds right after ADD", MUST, "§2 CHECK", since="0.4.0",
      needs=["ipam"])  # fmt: skip
def with_addresses(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    passes(case, at, config, case.add(at, config), "right after ADD")


@item("65d", "CHECK executes the IPAM plugin's CHECK", MUST, "§4", needs=["ipam"])
def ipam_is_checked(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    passes(case, at, config, case.add(at, config), "right after ADD")
    case.require(case.ipam.calls("CHECK"), "the IPAM plugin's CHECK was not called")


@item("65e", "When the IPAM plugin's CHECK fails, CHECK fails", SHOULD, "§4", needs=["ipam"])
def ipam_check_fails(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    result = case.add(at, config)
    passes(case, at, config, result, "right after ADD")
    case.ipam.misbehave("CHECK", "fail")
    case.refused(case.call("CHECK", at, case.following(config, result)))


@item("66", "CHECK without prevResult is an error with code 7", FIELD, "§2 CHECK, §5 Error")
def without_previous_result(case: Case) -> None:
    at, config, _ = attached(case)
    case.refused(case.call("CHECK", at, config), [7])


@item("67", "CHECK fails when the interface is gone", SHOULD, "§2 CHECK", since="0.4.0", needs=INTERFACE)
def interface_gone(case: Case) -> None:
    at, config, result = attached(case)
    passes(case, at, config, result, "before anything was changed")
    case.node.change("link", "del", at.ifname, netns=at.netns)
    case.refused(case.call("CHECK", at, case.following(config, result)))


@item("67m", "CHECK fails when the interface's MAC is not that of prevResult any more", FIELD, "§2 CHECK",
      needs=["interface", "mac"])  # fmt: skip
def mac_changed(case: Case) -> None:
    at, config, result = attached(case)
    passes(case, at, config, result, "before anything was changed")
    case.node.change("link", "set", at.ifname, "address", "02:cf:ff:ff:ff:ff", netns=at.netns)
    case.refused(case.call("CHECK", at, case.following(config, result)))


@item("67b", "CHECK fails when the host end is not a port of the bridge any more", FIELD, "§2 CHECK", needs=["bridge"])
def off_the_bridge(case: Case) -> None:
    at, config, result = attached(case)
    passes(case, at, config, result, "before anything was changed")
    bridge = case.world.base["bridge"]
    for name, link in case.node.links().items():
        if link.get("master") == bridge or (case.node.is_managed(bridge) and name not in case.before.links):
            case.node.leave(bridge, name)
    case.refused(case.call("CHECK", at, case.following(config, result)))


@item("67a", "CHECK fails when an address of prevResult is gone", SHOULD, "§2 CHECK", since="0.4.0",
      needs=["interface", "ipam"])  # fmt: skip
def address_gone(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    result = case.add(at, config)
    passes(case, at, config, result, "before anything was changed")
    case.node.change("addr", "del", "10.55.0.5/24", "dev", at.ifname, netns=at.netns)
    case.refused(case.call("CHECK", at, case.following(config, result)))


@item("67r", "CHECK fails when a route of prevResult is gone", SHOULD, "§2 CHECK", needs=["interface", "ipam"])
def route_gone(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    result = case.add(at, config)
    passes(case, at, config, result, "before anything was changed")
    case.node.change("route", "del", "10.66.0.0/16", netns=at.netns)
    case.refused(case.call("CHECK", at, case.following(config, result)))


@item("68", "CHECK passes over addresses and routes that a later plugin added", MUST, "§2 CHECK", since="0.4.0",
      needs=INTERFACE)  # fmt: skip
def more_than_wanted(case: Case) -> None:
    at, config, result = attached(case)
    case.node.change("addr", "add", "10.77.0.1/24", "dev", at.ifname, netns=at.netns)
    case.node.change("route", "add", "10.78.0.0/16", "dev", at.ifname, netns=at.netns)
    passes(case, at, config, result, "with an address and a route more")


@item("68o", "CHECK succeeds after other containers have joined the network", FIELD, "§2 CHECK", needs=INTERFACE)
def others_joined(case: Case) -> None:
    at, config, result = attached(case)
    if bridge := case.world.base.get("bridge"):  # a bridge whose MAC is not set takes the lowest one of its ports
        case.node.change("link", "add", "cfm-low", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "x")
        case.node.join(bridge, "cfm-low")
    elif case.world.exclusive:
        case.not_applicable("there is one device, for one container")
    else:
        case.add(case.attachment(), config)
    passes(case, at, config, result, "after other containers have joined")


@item("68d", "CHECK succeeds on an interface that the pod has set down", FIELD, "§2 CHECK", needs=["l2", "interface"])
def set_down(case: Case) -> None:
    at, config = case.attachment(), case.config(None, "ipam")
    result = case.add(at, config)
    case.node.change("link", "set", at.ifname, "down", netns=at.netns)
    passes(case, at, config, result, "on an interface that is down")
