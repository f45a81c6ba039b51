"""What hotnic may leave on a node: nothing. Reads kernel, IPAM store and journal, and shares no code with the agent."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e.node import Node

INSTALLED = ("/run/hotnic", "/opt/cni/bin/hotnic", "/var/lib/kubelet/seccomp/hotnic")
STATE = "/var/lib/hotnic"


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


def installation(node: Node) -> set[str]:
    """Return what there is of hotnic itself on the node: files and processes."""
    found = {path for path in INSTALLED if node.path(path).exists()}
    if node.path(STATE).exists() and any(node.path(STATE).iterdir()):  # nodes of a lane have it as a mount
        found.add(STATE)
    found |= {path.name for path in node.path("/opt/cni/bin").iterdir() if path.name.startswith(".hotnic")}
    return found | set(_processes(node))


def _processes(node: Node) -> Iterator[str]:
    for process in node.path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if "hotnic-agent" in command or "hotnic-controller" in command:
            yield command


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
