"""Items 52-64: DEL, whatever has happened meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.conformance.case import Attachment, Case, Level, item

MUST, SHOULD, FIELD = Level.MUST, Level.SHOULD, Level.FIELD


def attached(case: Case) -> tuple[Attachment, dict[str, Any], dict[str, Any]]:
    """ADD once, with an address where that is possible; return attachment, configuration and result."""
    at = case.attachment()
    config = case.richest()
    return at, config, case.add(at, config)


@item("52", "DEL removes the interface and all that came with it", SHOULD, "§2 DEL", since="0.3.1")
def removes_everything(case: Case) -> None:
    at, config, result = attached(case)
    case.delete(at, case.following(config, result))
    case.require_clean("after DEL", at)
    missing = set(case.before.links) - set(case.node.links())
    case.require(not missing, f"after DEL the node lacks {sorted(missing)}")


@item("53", "A second and a third DEL succeed", MUST, "§2 DEL", since="0.3.1")
def repeated(case: Case) -> None:
    at, config, result = attached(case)
    for _ in range(3):
        case.delete(at, case.following(config, result))


@item("54", "DEL without an ADD succeeds", MUST, "§2 DEL", since="0.3.1")
def never_added(case: Case) -> None:
    case.delete(case.attachment(), case.richest())


@item("55", "Without CNI_NETNS, DEL succeeds and releases the node's side and the address", SHOULD, "§2 DEL",
      since="0.3.1")  # fmt: skip
def without_namespace(case: Case) -> None:
    for absent in ("", None):
        at, config, result = attached(case)
        case.node.remove_pod(at.netns)
        case.delete(at, case.following(config, result), {"CNI_NETNS": absent})
        case.require_clean("after DEL without CNI_NETNS")


@item("55p", "So it does while the namespace still exists", FIELD, "§2 DEL", needs=["host end"])
def without_naming_the_namespace(case: Case) -> None:
    at, config, result = attached(case)
    case.delete(at, case.following(config, result), {"CNI_NETNS": ""})
    case.require_clean("after DEL without CNI_NETNS, while the namespace is there")


@item("56", "With a namespace that is gone, DEL succeeds and releases the node's side and the address", SHOULD,
      "§2 DEL", since="0.3.1")  # fmt: skip
def namespace_gone(case: Case) -> None:
    at, config, result = attached(case)
    case.node.remove_pod(at.netns)
    case.delete(at, case.following(config, result))
    case.require_clean("after DEL with a namespace that was gone")


@item("57", "A link of the same name in another namespace that has the path by now is left alone", FIELD, "§2 DEL")
def path_taken_by_another(case: Case) -> None:
    at, config, result = attached(case)
    case.node.remove_pod(at.netns)
    case.node.remake_pod(at.netns)
    case.node.change("link", "add", at.ifname, "type", "veth", "peer", "name", "cfm-other", netns=at.netns)
    case.call("DEL", at, case.following(config, result))
    case.require(case.link(at), "DEL removed the link of another pod")


@item("58", "DEL succeeds when the bridge or master is gone", SHOULD, "§2 DEL")
def lower_link_gone(case: Case) -> None:
    at, config, result = attached(case)
    gone = [name for key in ("bridge", "master") if (name := case.world.base.get(key)) in case.node.links()]
    if not gone:
        case.not_applicable("the configuration names no bridge and no master")
    for name in gone:
        case.node.remove_link(str(name))
    case.delete(at, case.following(config, result))
    case.require(not case.ipam.records(), "the address was not released")
    case.require_clean("after DEL", at)


@item("59", "DEL succeeds when the interface is gone, and releases the rest", MUST, "§2 DEL", needs=["interface"])
def interface_gone(case: Case) -> None:
    at, config, result = attached(case)
    case.node.change("link", "del", at.ifname, netns=at.netns)
    case.delete(at, case.following(config, result))
    case.require_clean("after DEL")


@item("59r", "DEL succeeds when the pod renamed its interface, and releases the node's side", FIELD, "§2 DEL",
      needs=["interface"])  # fmt: skip
def interface_renamed(case: Case) -> None:
    at, config, result = attached(case)
    case.node.change("link", "set", at.ifname, "down", netns=at.netns)
    case.node.change("link", "set", at.ifname, "name", "mine", netns=at.netns)
    case.delete(at, case.following(config, result))
    case.require_clean("after DEL")


@item("60", "DEL succeeds with a configuration that was edited and is wrong by now, and cleans up", FIELD, "§3")
def configuration_edited(case: Case) -> None:
    edits: list[Mapping[str, Any]] = [{"mtu": -1}, {"mtu": "much"}]
    edits += [{key: "cfm-edited"} for key in ("bridge", "master") if key in case.world.base]
    for edit in edits:
        at, config, result = attached(case)
        case.delete(at, {**case.following(config, result), **edit})
        case.require_clean(f"after DEL with {dict(edit)}", at)


@item("61", "DEL succeeds without prevResult, and cleans up", SHOULD, "§2 DEL", since="0.3.1")
def without_previous_result(case: Case) -> None:
    at, config, _ = attached(case)
    case.delete(at, config)
    case.require_clean("after DEL without prevResult", at)


@item("61e", "DEL succeeds with a prevResult that says nothing or cannot be read", FIELD, "§2 DEL")
def unreadable_previous_result(case: Case) -> None:
    for previous in (None, {}, "nonsense", {"cniVersion": case.version, "ips": [{"address": "nonsense"}]}):
        at, config, _ = attached(case)
        case.delete(at, {**config, "prevResult": previous})
        case.require_clean(f"after DEL with prevResult {previous!r}", at)


@item("62", "Without its daemon, DEL fails, or what it promised is done once the daemon is back", FIELD, "§2 DEL",
      needs=["daemon"])  # fmt: skip
def without_daemon(case: Case) -> None:
    at, config, result = attached(case)
    with case.daemon_killed():
        outcome = case.call("DEL", at, case.following(config, result))
        if not outcome.ok:
            case.refused(outcome, [11])
    if not outcome.ok:
        case.delete(at, case.following(config, result))
    case.require_clean_within(15, "once the daemon is back", at)


@item("63", "DEL touches no other container's attachment", SHOULD, "§3: an attachment is (container, ifname)")
def others_stay(case: Case) -> None:
    if case.world.exclusive:
        case.not_applicable("there is one device, for one container")
    at, config, result = attached(case)
    other = case.attachment()
    case.add(other, config)
    before = case.link(other)
    case.delete(at, case.following(config, result))
    case.require(_same(case.link(other), before), f"the other's link was {before}, and is {case.link(other)}")


@item(
    "63s", "Nor does it for a container that it does not know, though namespace and name are the other's", FIELD, "§3"
)
def strangers_take_nothing(case: Case) -> None:
    at, config, _ = attached(case)
    before = case.link(at)
    case.call("DEL", replace(at, container="cfm-stranger"), config)
    case.require(_same(case.link(at), before), "DEL for a container that was never ADDed took the link of another")


def _same(link: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> bool:
    return link is not None and before is not None and link["ifindex"] == before["ifindex"]


@item("64", "DEL calls the IPAM plugin's DEL though the interface is gone", MUST, "§4", needs=["ipam"])
def ipam_without_link(case: Case) -> None:
    at, config, result = attached(case)
    case.node.change("link", "del", at.ifname, netns=at.netns)
    case.delete(at, case.following(config, result))
    case.require(case.ipam.calls("DEL"), "the IPAM plugin's DEL was not called")


@item("64e", "When the IPAM plugin's DEL fails, DEL fails", SHOULD, "§4", needs=["ipam"])
def ipam_delete_fails(case: Case) -> None:
    at, config, result = attached(case)
    case.ipam.misbehave("DEL", "fail")
    case.refused(case.call("DEL", at, case.following(config, result)))


@item("64c", "Its own side is cleaned up all the same", FIELD, "§2 DEL", needs=["interface", "ipam"])
def cleans_up_without_ipam(case: Case) -> None:
    at, config, result = attached(case)
    case.ipam.misbehave("DEL", "fail")
    case.call("DEL", at, case.following(config, result))
    case.require_no_links("after a DEL whose IPAM plugin failed", at)
