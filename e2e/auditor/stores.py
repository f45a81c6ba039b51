"""Pure: what is kept on the node's disk, and what runs there, against the sandboxes that live.

Rule 1: a lease, a cache and a record belong to an attachment of a living sandbox; a desired set to a pod of the node.
Rule 2: no process of a plugin outlives its call, and no call is under way once nothing happens any more.
"""

import json
import re
from collections.abc import Iterator

from e2e.auditor.finding import LACK, LEAK, Finding
from e2e.auditor.kernel import known, plugins
from e2e.auditor.seen import Cluster, Document, Node, Process

_ID = re.compile(r"\b[0-9a-f]{64}\b")


def differences(node: Node, cluster: Cluster) -> Iterator[Finding]:
    """Yield what is kept for nobody, and what is not kept though it is in use."""
    yield from _leases(node)
    yield from _missing_leases(node)
    yield from (
        Finding(LEAK, "cache", name, f"of {ifname} of container {container_id[:12]}, which does not live")
        for name, container_id, ifname in node.caches
        if container_id not in node.living()
    )
    yield from _journal(node, cluster)
    yield from (Finding(LEAK, "file", name, "is nothing of a settled journal") for name in node.oddities)
    yield from (
        Finding(LEAK, "process", f"{one.pid} {one.command[:80]}", why)
        for one in node.processes
        if (why := _left(one, node))
    )


def _leases(node: Node) -> Iterator[Finding]:
    told = {(one["containerID"], one["ifname"]): _addresses(one) for one in node.records}
    for lease in node.leases:
        key, where = (lease.container_id, lease.ifname), f"{lease.network}/{lease.address}"
        if key not in known(node):
            yield Finding(LEAK, "lease", where, f"of {lease.ifname} of container {lease.container_id[:12]}, unknown")
        elif lease.container_id not in node.living():
            yield Finding(LEAK, "lease", where, f"of container {lease.container_id[:12]}, which does not live")
        elif key in told and lease.address not in told[key]:
            yield Finding(LEAK, "lease", where, f"{lease.ifname} was given {sorted(told[key])}")


def held_leases(node: Node) -> set[tuple[str, str, str]]:
    """Return container, interface and address of each lease."""
    return {(one.container_id, one.ifname, one.address) for one in node.leases}


def without_lease(record: Document, held: set[tuple[str, str, str]]) -> set[str]:
    """Return the addresses that host-local gave to the attachment, and does not hold for it."""
    leasing = any((plugin.get("ipam") or {}).get("type") == "host-local" for plugin in plugins(record["config"]))
    addresses = _addresses(record) if leasing else set()
    return {one for one in addresses if (record["containerID"], record["ifname"], one) not in held}


def _missing_leases(node: Node) -> Iterator[Finding]:
    held = held_leases(node)
    for one in node.records:
        for address in without_lease(one, held):
            yield Finding(LACK, "lease", f"{one['network']}/{address}", f"{one['ifname']} has it without a lease")


def _addresses(record: Document) -> set[str]:
    result = record.get("result") or {}
    return {str(one["address"]).partition("/")[0] for one in result.get("ips", ())}


def _journal(node: Node, cluster: Cluster) -> Iterator[Finding]:
    uids = {pod["metadata"]["uid"] for pod in cluster.pods}
    for one in node.records:
        where = f"{one['ifname']} of container {one['containerID'][:12]}"
        if one["containerID"] not in node.living():
            yield Finding(LEAK, "record", where, "which does not live")
        elif one["phase"] != "attached":
            yield Finding(LEAK, "record", where, f"is still {one['phase']}")
    for one in node.desired:
        if one["pod"]["uid"] not in uids:
            yield Finding(LEAK, "desired", f"{one['pod']['namespace']}/{one['pod']['name']}", "no pod of this node")


def _left(process: Process, node: Node) -> str:
    """Return why the process is a leftover, "" where it is none."""
    if process.state in "ZX":
        return "a dead child that its agent does not reap" if "hotnic-agent" in process.parent else ""
    if process.cni:
        return f"of a plugin's call: {json.dumps(dict(process.cni))}"
    dead = set(_ID.findall(process.command)) - node.containers
    return f"names container {min(dead)[:12]}, which is not there" if dead else ""
