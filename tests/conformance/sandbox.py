"""The node and the pods that a plugin is run in: namespaces of the suite's own, made and removed by it.

Rules
1. The whole suite runs in a network, mount and PID namespace of its own: nothing that a plugin does reaches the
   machine, and what it starts ends with the suite.
2. What a plugin left is what is there now and was not before, except a link that the configuration names: a bridge
   is made at the first ADD and stays.
   What is there before the suite begins is the node's own: its services made it. It is spared.
3. Kernels finish the end of a namespace later: what is to be gone is given SETTLE_S to go.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTLE_S = 3.0
NETNS_DIR = Path("/run/netns")
OWN_DIRECTORIES = (Path("/run"), Path("/var/lib/cni"))
"""Where plugins keep what they know; a file system of the suite's own is mounted over each."""
_NO_STATE = ("/run/netns/", "/run/xtables.lock")  # the suite's own, and one that the tool never removes


@dataclass(frozen=True, slots=True)
class State:
    """What can be seen of a node: links with their kind, nftables rules, state files, what its services say."""

    links: Mapping[str, str] = field(hash=False)
    rules: frozenset[str]
    files: frozenset[str]
    said: frozenset[str] = frozenset()

    def left_since(self, before: State, named: frozenset[str]) -> tuple[str, ...]:
        """Return what is here and was not before, in words."""
        return (
            *(f"link {name} ({kind})" for name, kind in self.links.items() if name not in {*before.links, *named}),
            *(f"nftables: {rule}" for rule in sorted(self.rules - before.rules)),
            *(f"file {path}" for path in sorted(self.files - before.files)),
            *(f"a service says: {line}" for line in sorted(self.said - before.said)),
        )


@dataclass(frozen=True, slots=True)
class Managed:
    """A bridge that a service of the node manages: the shell commands that have it do so. `{port}` is a link in it."""

    make: str
    remove: str
    join: str
    leave: str


@dataclass(frozen=True, slots=True)
class Furniture:
    """What a node has beforehand.

    `links`: veth links with their addresses. `managed`: bridges by name. `state_dirs`: where a plugin's state is.
    `look`: a shell command whose lines are state as well; none where it is empty.
    """

    links: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    managed: Mapping[str, Managed] = field(default_factory=dict, hash=False)
    state_dirs: Sequence[Path] = ()
    look: str = ""


class Node:
    """The node, which is where the suite itself is, and its pods."""

    def __init__(self, furniture: Furniture) -> None:
        self._own_links = furniture.links
        self._managed = furniture.managed
        self._look = furniture.look
        self._state_dirs = (*OWN_DIRECTORIES, *furniture.state_dirs)
        self._pods: list[str] = []
        self._count = 0
        self.commands: list[str] = []
        ip("link", "set", "lo", "up")
        self.make_own_links()
        self._services = frozenset(self.links()) - {*self._own_links, *map(_peer, self._own_links)}

    def links(self, netns: str = "") -> dict[str, dict[str, Any]]:
        """Return the links by name, as `ip -json -details address` tells of them."""
        return {str(one["ifname"]): one for one in ip_json("-d", "address", netns=netns)}

    def state(self) -> State:
        links = {name: kind_of(one) for name, one in self.links().items()}
        said = frozenset(_shell(self._look).split("\n")) - {""} if self._look else frozenset()
        return State(links, _rules(), frozenset(_files(self._state_dirs)), said)

    def change(self, *arguments: str, netns: str = "") -> None:
        """Run an `ip` command as part of a check: it is in the evidence."""
        inside = f"nsenter --net={netns} " if netns else ""
        self.commands.append(f"$ {inside}ip {' '.join(arguments)}")
        ip(*arguments, netns=netns)

    def shell(self, script: str, netns: str) -> None:
        """Run a shell script in a namespace as part of a check."""
        self.commands.append(f"$ nsenter --net={netns} sh -c '{script}'")
        subprocess.run(["nsenter", f"--net={netns}", "sh", "-c", script], check=True)

    def is_managed(self, bridge: str) -> bool:
        """Whether it is a service that has to be told what happens to the bridge, and the bridge its own."""
        return bridge in self._managed

    def remove_link(self, name: str) -> None:
        """Remove a link of the node, or a managed bridge, as part of a check."""
        if name in self._managed:
            self._tell(self._managed[name].remove)
        else:
            self.change("link", "del", name)

    def join(self, bridge: str, port: str) -> None:
        """Make a link a port of a bridge, as part of a check."""
        if bridge in self._managed:
            self._tell(self._managed[bridge].join.replace("{port}", port))
        else:
            self.change("link", "set", port, "master", bridge)

    def leave(self, bridge: str, port: str) -> None:
        """Take a port off a bridge, as part of a check."""
        if bridge in self._managed:
            self._tell(self._managed[bridge].leave.replace("{port}", port))
        else:
            self.change("link", "set", port, "nomaster")

    def _tell(self, command: str) -> None:
        self.commands.append(f"$ {command}")
        _shell(command)

    def make_pod(self) -> str:
        """Return the path of a new network namespace."""
        self._count += 1
        name = f"pod{self._count}"
        self.commands.append(f"$ ip netns add {name}")
        subprocess.run(["ip", "netns", "add", name], check=True)
        ip("link", "set", "lo", "up", netns=str(NETNS_DIR / name))
        self._pods.append(name)
        return str(NETNS_DIR / name)

    def remove_pod(self, path: str) -> None:
        name = Path(path).name
        self.commands.append(f"$ ip netns del {name}")
        subprocess.run(["ip", "netns", "del", name], check=True)
        self._pods.remove(name)

    def remake_pod(self, path: str) -> None:
        """Have another namespace under the path of one that is gone."""
        name = Path(path).name
        self.commands.append(f"$ ip netns add {name}")
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._pods.append(name)

    def restore(self) -> None:
        """Remove all pods and all that a plugin left; make the suite's own links anew where one is missing."""
        for name in self._pods:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        self._pods.clear()
        self.commands.clear()
        for name, link in self.links().items():
            if name != "lo" and not self._is_own_and_as_made(link):
                subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
        if _rules():
            subprocess.run(["nft", "flush", "ruleset"], check=True)
        self.make_own_links()

    def make_own_links(self) -> None:
        """Make the suite's own links anew where one is missing: it went with a pod, as no physical one would."""
        there = self.links()
        for name, bridge in self._managed.items():
            if name not in there:
                _shell(bridge.make)
        for name, addresses in self._own_links.items():
            if name not in there:
                subprocess.run(["ip", "link", "del", _peer(name)], check=False, capture_output=True)
                ip("link", "add", name, "type", "veth", "peer", "name", _peer(name))
                for address in addresses:
                    ip("addr", "add", address, "dev", name)
            for end in (name, _peer(name)):
                ip("link", "set", end, "up")

    def _is_own_and_as_made(self, link: Mapping[str, Any]) -> bool:
        """Whether a link is a service's, or one of the suite's own with no master and with its own addresses only."""
        name = link["ifname"]
        if name in self._services or name in map(_peer, self._own_links):
            return True
        has = {f"{one['local']}/{one['prefixlen']}" for one in link.get("addr_info", []) if one.get("family") == "inet"}
        return name in self._own_links and "master" not in link and has == set(self._own_links[name])


def settled(read: Callable[[], tuple[str, ...]], limit_s: float = SETTLE_S) -> tuple[str, ...]:
    """Return what is left when nothing is, or when the time is over."""
    end = time.monotonic() + limit_s
    left = read()
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = read()
    return left


def ip(*arguments: str, netns: str = "") -> str:
    """Run `ip`, in a namespace if one is given. Raises CalledProcessError with its words."""
    prefix = ["nsenter", f"--net={netns}"] if netns else []
    return subprocess.run([*prefix, "ip", *arguments], check=True, capture_output=True, text=True).stdout


def _shell(command: str) -> str:
    """Run a shell command. Raises CalledProcessError with its words."""
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout


def ip_json(*arguments: str, netns: str = "") -> list[dict[str, Any]]:
    return [one for one in json.loads(ip("-json", *arguments, netns=netns) or "[]") if one]


def kind_of(link: Mapping[str, Any]) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", "physical"))


def lacking(kind: str) -> str:
    """Return the kernel's words where it cannot make links of that kind, nothing where it can."""
    below = ["link", "cfm-probe0"] if kind in ("macvlan", "macvtap", "ipvlan", "ipvtap", "vlan") else []
    special = {"vlan": ["id", "7"], "vxlan": ["id", "7", "dstport", "4789"]}.get(kind, [])
    ip("link", "add", "cfm-probe0", "type", "veth", "peer", "name", "cfm-probe1")
    command = ["ip", "link", "add", *below, "name", "cfm-probe2", "type", kind, *special]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for name in ("cfm-probe2", "cfm-probe0"):
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
    return done.stderr.strip() if done.returncode else ""


def isolated(module: Sequence[str]) -> int:
    """Run `python -m` with these arguments and a scratch directory, in namespaces of its own; return its exit status.

    Of what it finds there, only that directory and what its arguments name is the machine's: see `enter`.
    """
    with tempfile.TemporaryDirectory(prefix="cfm-") as scratch, _mount_points(OWN_DIRECTORIES):
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return subprocess.run([*command, sys.executable, "-m", *module, scratch], check=False).returncode


def enter() -> None:
    """Complete the namespaces that `isolated` made, from within."""
    for path in OWN_DIRECTORIES:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
    (NETNS_DIR.parent / "cni").mkdir()
    # /sys/class/net shows the node's links only through a mount made in its namespace; not all machines allow one
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=False, capture_output=True)


@contextlib.contextmanager
def _mount_points(paths: Sequence[Path]) -> Iterator[None]:
    """Make the directories that something is to be mounted over; remove those that were made."""
    made = [parent for path in paths for parent in (path, *path.parents) if not parent.exists()]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in sorted(set(made), key=lambda one: -len(one.parts)):
            with contextlib.suppress(OSError):  # somebody else uses it by now
                path.rmdir()


def _peer(name: str) -> str:
    return f"{name[:11]}-cfm"


def _rules() -> frozenset[str]:
    if not shutil.which("nft"):
        return frozenset()
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    return frozenset(line.strip() for line in done.stdout.splitlines() if line.strip() not in ("", "}"))


def _files(directories: Sequence[Path]) -> Iterator[str]:
    for directory in directories:
        for folder, _, names in os.walk(directory):
            paths = (os.path.join(folder, name) for name in names)
            yield from (path for path in paths if not path.startswith(_NO_STATE))
