"""What hotnic may leave on a node: nothing. Reads kernel, IPAM store and journal, and shares no code with the agent."""

import json
import time
from pathlib import Path
from typing import Any

from e2e.node import Node


def host_ends(node: Node) -> set[str]:
    """Return the node's veth ends of other networks than the primary: ours by name, others by their bridge."""
    links = json.loads(node.exec(["ip", "-json", "-d", "link"]).stdout)
    return {one["ifname"] for one in links if one.get("linkinfo", {}).get("info_kind") == "veth"
            and (one["ifname"].startswith("hn") or one.get("master") not in (None, "cni0"))}  # fmt: skip


def addresses(node: Node, network: str) -> set[str]:
    """Return the addresses that host-local holds for a network."""
    folder = node.path(f"/var/lib/cni/networks/{network}")
    return {path.name for path in folder.iterdir() if path.name[0].isdigit()} if folder.exists() else set()


def records(node: Node) -> list[Path]:
    """Return the journal's attachments."""
    folder = node.path("/var/lib/hotnic/records")
    return sorted(folder.glob("*.json")) if folder.exists() else []


def pods(node: Node) -> list[Path]:
    """Return the journal's desired sets."""
    folder = node.path("/var/lib/hotnic/pods")
    return sorted(folder.glob("*.json")) if folder.exists() else []


def leftovers(node: Node, uids: set[str]) -> list[str]:
    """Return what the journal still knows of these pods, and host ends that no record explains."""
    known = [document for path in (*records(node), *pods(node)) if (document := _read(path))]
    of_pods = [f"journal: {one.get('ifname', 'desired set')} of {one['pod']['name']}" for one in known
               if one.get("pod") and one["pod"]["uid"] in uids]  # fmt: skip
    living = sum(1 for one in known if "ifname" in one)
    ends = host_ends(node)
    return of_pods + ([f"{len(ends)} host ends but {living} records: {sorted(ends)}"] if len(ends) > living else [])


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:  # removed since it was listed
        return {}
    return document


def wait_clean(node: Node, uids: set[str], timeout: float = 40) -> None:
    """Wait until nothing of these pods is left; say what is."""
    end = time.monotonic() + timeout
    while found := leftovers(node, uids):
        if time.monotonic() > end:
            raise AssertionError(f"left on {node.name} after {timeout} s: {found}")
        time.sleep(0.1)
