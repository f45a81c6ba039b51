"""What can be seen of a node and of a pod with the tools of the system: no code of the agent's has a part in it.

Rule 1: whatever outlives a process is looked at: links, addresses, rules, routes, nftables, queueing, files, the
        switch's database, and processes that bear the container's name.
Rule 2: what changes by itself is left out: counters, timers, carriers, and the addresses that the kernel gives each
        interface that is up.
Rule 3: the IPAM plugin `host-local` makes the file of a lease before it writes into it whose it is. Killed in between,
        it leaves one that names nobody, whoever has called it, and no DEL of its own can tell whose that was: such an
        empty file in `leases` is left out.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FACTS = ("ifname", "address", "mtu", "txqlen", "promiscuity", "allmulti", "group", "ifalias", "master", "link")
_FLAGS = ("UP", "PROMISC", "ALLMULTI", "NOARP")
_LAYER_3 = "printf 'rule\\nroute show table all\\n' | ip -json {family} -batch -"
_LOOK = f"ip -json -details address; {_LAYER_3.format(family='-4')}; {_LAYER_3.format(family='-6')}; tc qdisc show"


@dataclass(frozen=True, slots=True)
class Picture:
    """Every line is one thing that is there."""

    lines: frozenset[str]

    def differences(self, before: "Picture") -> list[str]:
        """Return what is there and was not before, and what is missing."""
        new, gone = self.lines - before.lines, before.lines - self.lines
        return [*(f"left: {line}" for line in sorted(new)), *(f"missing: {line}" for line in sorted(gone))]


def picture(
    pod: str, folder: Path, container: str, besides: Callable[[], str] = str, ignored: frozenset[str] = frozenset()
) -> Picture:
    """Return what there is now.

    `pod`: the path of a namespace, or nothing where there is none. `folder`: its files are state, but for those that
    nobody removes. `besides`: whose lines are state too. `ignored`: links of the node that may come and stay.
    """
    found = [f"node: {line}" for line in _namespace("", ignored)]
    found += [f"pod: {line}" for line in _namespace(pod, frozenset())] if pod else []
    found += [f"file {path}" for path in _files(folder)]
    found += [f"process {one}" for one in _processes(container)]
    return Picture(frozenset([*found, *(f"besides: {line}" for line in besides().splitlines() if line)]))


def _namespace(netns: str, ignored: frozenset[str]) -> Iterator[str]:
    prefix = ["nsenter", f"--net={netns}"] if netns else []
    look = _LOOK if netns else f"{_LOOK}; nft list ruleset"
    text = subprocess.run([*prefix, "sh", "-ec", look], check=True, capture_output=True, text=True).stdout
    for line in text.splitlines():
        if line.startswith("["):
            rows = (row for row in json.loads(line) if row)
            yield from (_row(one) for one in rows if not _is_ignored(one, ignored))
        elif line.strip() and not ignored & set(line.split()):
            yield line.strip()


def _row(row: dict[str, Any]) -> str:
    if "ifname" in row:
        return _link(row)
    return json.dumps({key: value for key, value in row.items() if key not in ("flags", "expires")})


def _is_ignored(row: dict[str, Any], ignored: frozenset[str]) -> bool:
    return row.get("ifname", row.get("dev")) in ignored or _is_the_kernels(row)


def _link(link: dict[str, Any]) -> str:
    facts = {name: link.get(name) for name in _FACTS}
    flags = [flag for flag in _FLAGS if flag in link.get("flags", ())]
    kind = link.get("linkinfo", {}).get("info_kind")
    addresses = [f"{one['local']}/{one['prefixlen']}" for one in link.get("addr_info", ()) if one["scope"] != "link"]
    return json.dumps({**facts, "flags": flags, "kind": kind, "addresses": sorted(addresses)})


def _is_the_kernels(route: dict[str, Any]) -> bool:
    """Whether a route comes and goes with an interface that is up."""
    return str(route.get("dst", "")).startswith(("fe80:", "ff00:", "multicast")) or route.get("protocol") == "kernel"


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("lock", "format") and not path.name.startswith("last_reserved_ip"):
            name = path.relative_to(folder)
            if name.parts[0] != "leases" or path.stat().st_size:  # rule 3
                yield str(name)


def _processes(container: str) -> Iterator[str]:
    name = f"CNI_CONTAINERID={container}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if name in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                yield Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
