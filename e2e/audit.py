"""What hotnic may leave on a node: nothing. Reads kernel, IPAM store and journal, and shares no code with the agent."""

import json
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.node import Node

INSTALLED = ("/run/hotnic", "/opt/cni/bin/hotnic", "/var/lib/kubelet/seccomp/hotnic")
STATE = "/var/lib/hotnic"
FOLDERS = ("/etc/cni", "/opt/cni", STATE, "/var/lib/cni", "/var/lib/kubelet/seccomp", "/run/hotnic")
# Pods' own network and loopback, what host-local leaves in any store, the plugin that tests bring
_OTHERS = re.compile(
    r"/var/lib/cni/(results/(lane|cni-loopback)-.*|networks/(lane/.*|[^/]+/(lock|last_reserved_ip\.\d+)))"
    r"|/opt/cni/bin/recorder"
)
_OF_RUNTIMES = ("/run/containerd/", "/run/crio/", "/run/containers/", "/run/netns/", "/var/lib/containers/")
_OF_A_POD = re.compile(r"/var/lib/kubelet/pods/([0-9a-f-]{36})/")


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


@dataclass(frozen=True, slots=True)
class Traces:
    """What a node has that any program could have left there."""

    files: frozenset[str]
    mounts: frozenset[str]
    rules: frozenset[str]  # of nftables, without tables and chains: those of the reference plugins stay, empty

    def beyond(self, before: "Traces", living: Collection[str]) -> set[str]:
        """Return what there was not `before`, but for the mounts of these pods, by their uids."""
        mounts = {path for path in self.mounts - before.mounts
                  if not (match := _OF_A_POD.match(path)) or match[1] not in living}  # fmt: skip
        return {*(self.files - before.files), *mounts, *(self.rules - before.rules)}


def traces(node: Node) -> Traces:
    """Look once."""
    root = node.path("/")
    files = {f"/{path.relative_to(root)}" for folder in FOLDERS for path in node.path(folder).rglob("*")
             if path.is_symlink() or not path.is_dir()}  # fmt: skip
    mounts = {line.split()[4] for line in node.path("/proc/1/mountinfo").read_text().splitlines()}
    rules = [line.strip() for line in node.exec(["nft", "-s", "list", "ruleset"]).stdout.splitlines()]
    return Traces(
        frozenset(path for path in files if not _OTHERS.fullmatch(path)),
        frozenset(path for path in mounts if not path.startswith(_OF_RUNTIMES)),
        frozenset(rule for rule in rules if not re.fullmatch(r"(table|chain|type) .*|\}|", rule)),
    )


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
