"""Compare what the machine has before and after a lane: `before = snapshot()` … `leftovers(before)`.

Rule 1: living lanes are not looked at, so that a lane can be checked while another one runs beside it.
Rule 2: the kernel takes links, namespaces and mounts apart in the background, so leftovers are what is still
        there after a bounded while.
Rule 3: a process counts if it is in a lane's cgroup or has a lane's environment; what else the machine does
        meanwhile, named network namespaces included, is its own business. Zombies do not count: they hold nothing.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from e2e import cgroups

Snapshot = Mapping[str, frozenset[str]]

_FOLDERS = (
    "/etc", "/etc/cni", "/opt", "/opt/cni", "/run", "/var/lib", "/var/lib/cni", "/var/lib/containerd",
    "/var/lib/containers", "/var/lib/hotnic", "/var/lib/kubelet", "/var/log",
)  # fmt: skip
_SETTINGS = (
    "kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
    "net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom",
)  # fmt: skip


def snapshot() -> Snapshot:
    """Return what there is that a lane could have left, by kind."""
    living = tuple(f"{cgroups.PREFIX}{lane}" for lane in cgroups.lanes() if lane.is_alive())
    return {
        "processes": frozenset(_processes(living)),
        "cgroups": frozenset(_cgroups(living)),
        "mounts": frozenset(_mounts()),
        "links": frozenset(_names("/sys/class/net")),
        "rules": frozenset(_rules()),
        "files": frozenset(f"{folder}/{name}" for folder in _FOLDERS for name in _names(folder)),
        "settings": frozenset(f"{name}={Path('/proc/sys', name).read_text().strip()}" for name in _SETTINGS),
    }


def leftovers(before: Snapshot, timeout: float = 10) -> dict[str, frozenset[str]]:
    """Return what is there now and was not before, by kind; empty as soon as there is nothing."""
    deadline = time.monotonic() + timeout
    while True:
        now = snapshot()
        found = {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _processes(living: tuple[str, ...]) -> Iterator[str]:
    """Yield the processes that a lane started, unless it lives."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            groups = (folder / "cgroup").read_text()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = cgroups.PREFIX in groups or b"\0HOTNIC_LANE=" in b"\0" + (folder / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or is the machine's own init, which shows nothing
        if command and ours and not any(lane in groups for lane in living):
            yield f"{folder.name} {command.strip()}"


def _cgroups(living: tuple[str, ...]) -> Iterator[str]:
    for hierarchy in cgroups.hierarchies():
        for group in hierarchy.top.glob(f"{cgroups.PREFIX}*"):
            if group.name not in living:
                yield str(group)


def _rules() -> list[str]:
    if not shutil.which("nft"):
        return []
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False).stdout.splitlines()


def _names(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()] if Path(folder).is_dir() else []


def _mounts() -> list[str]:
    """Return identity and place of each mount of this mount namespace."""
    mounts = [line.split(" - ")[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [mount for mount in mounts if "/run/netns" not in mount]


def main() -> int:
    """Print what dead lanes have left on this machine."""
    now = snapshot()
    found = [f"{kind}: {item}" for kind in ("processes", "cgroups") for item in sorted(now[kind])]
    print("\n".join(found) or "nothing of a dead lane is left")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
