"""Items 69 and 70: GC and STATUS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.conformance.case import ABSENT_BRIDGE, Attachment, Case, Level, item
from tests.conformance.items.delete import attached
from tests.conformance.plugin import Outcome

MUST, SHOULD, FIELD = Level.MUST, Level.SHOULD, Level.FIELD
VALID = "cni.dev/valid-attachments"
_NOTHING: Sequence[Sequence[Attachment] | None] = ((), None)  # null is how a Go runtime writes an empty list


def collect(case: Case, config: dict[str, Any], valid: Sequence[Attachment] | None) -> Outcome:
    """GC with that list; None stands for null."""
    listed = None if valid is None else [{"containerID": at.container, "ifname": at.ifname} for at in valid]
    outcome = case.call("GC", config={**config, VALID: listed})
    case.require(outcome.ok, "GC fails")
    case.require(not outcome.stdout.strip(), "GC succeeds, but there is something on stdout")
    return outcome


@item("69", "GC keeps what is listed, and what belongs to another network", MUST, "§2 GC")
def keeps(case: Case) -> None:
    at, config, result = attached(case)
    collect(case, config, [at])
    _require_whole(case, at, config, result)
    collect(case, {**config, "name": "cfm-another"}, [])
    _require_whole(case, at, config, result)


def _require_whole(case: Case, at: Attachment, config: dict[str, Any], result: dict[str, Any]) -> None:
    case.require(case.link(at), "GC removed the interface of an attachment that is valid")
    case.require(not case.ipam.calls("DEL"), "GC released the address of an attachment that is valid")
    case.require(case.call("CHECK", at, case.following(config, result)).ok, "CHECK fails after GC")


@item("69f", "GC is forwarded to the IPAM plugin, with the list", MUST, "§2 GC, §4", needs=["ipam"])
def forwarded(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    case.add(at, config)
    collect(case, config, [at])
    seen = case.ipam.calls("GC")
    case.require(seen, "the IPAM plugin's GC was not called")
    case.require(at.container.encode() in seen[0].stdin, f"the IPAM plugin got {seen[0].stdin!r}")


@item("69s", "GC removes what an attachment that is not listed left on the node; its pod is gone", SHOULD, "§2 GC")
def removes_stale(case: Case) -> None:
    for valid in _NOTHING:
        at, config, _ = attached(case)
        case.node.remove_pod(at.netns)
        collect(case, config, valid)
        case.require_clean(f"after GC with {valid}")


@item("69p", "GC removes the host end of an attachment that is not listed, though its pod is there", FIELD, "§2 GC",
      needs=["host end"])  # fmt: skip
def removes_host_end(case: Case) -> None:
    at, config, _ = attached(case)
    collect(case, config, [])
    case.require(case.link(at) is None, "the interface is still in the pod")
    case.require_clean("after GC with an empty list")


@item("69n", "GC without a list removes nothing", FIELD, "§2 GC")
def without_list(case: Case) -> None:
    at, config, result = attached(case)
    case.call("GC", config=config)
    _require_whole(case, at, config, result)


@item("70", "STATUS succeeds silently when ADD would", MUST, "§2 STATUS")
def ready(case: Case) -> None:
    outcome = case.call("STATUS", config=case.richest())
    case.require(outcome.ok, "STATUS fails")
    case.require(not outcome.stdout.strip(), "STATUS succeeds, but there is something on stdout")


@item("70i", "STATUS executes the IPAM plugin's STATUS", MUST, "§2 STATUS", needs=["ipam"])
def forwarded_status(case: Case) -> None:
    case.require(case.call("STATUS", config=case.with_ipam()).ok, "STATUS fails")
    case.require(case.ipam.calls("STATUS"), "the IPAM plugin's STATUS was not called")


@item("70e", "When the IPAM plugin's STATUS fails, STATUS fails", SHOULD, "§2 STATUS", needs=["ipam"])
def ipam_not_ready(case: Case) -> None:
    case.ipam.misbehave("STATUS", "fail")
    case.refused(case.call("STATUS", config=case.with_ipam()))


@item("70b", "STATUS fails with code 50 or 51 when the bridge's name is taken by another link", FIELD, "§2 STATUS",
      needs=["bridge"])  # fmt: skip
def bridge_impossible(case: Case) -> None:
    case.node.change("link", "add", ABSENT_BRIDGE, "type", "veth", "peer", "name", "cfm-x")
    case.refused(case.call("STATUS", config=case.config({"bridge": ABSENT_BRIDGE})), [50, 51])


@item("70m", "STATUS fails with code 50 or 51 when the master is not there", FIELD, "§2 STATUS", needs=["master"])
def master_missing(case: Case) -> None:
    case.node.change("link", "del", case.world.base["master"])
    case.refused(case.call("STATUS"), [50, 51])


@item("70d", "STATUS fails with code 50 or 51 without the daemon", SHOULD, "§2 STATUS", needs=["daemon"])
def without_daemon(case: Case) -> None:
    with case.daemon_killed():
        case.refused(case.call("STATUS"), [50, 51])


@item("70a", "ADD without the daemon is an error with code 11, soon", FIELD, "§5 Error", needs=["daemon"])
def add_without_daemon(case: Case) -> None:
    at = case.attachment()
    with case.daemon_killed():
        case.refused(case.call("ADD", at), [11])
    case.require(case.link(at) is None, "the interface was made")
