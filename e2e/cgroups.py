"""A lane's own subtree in every cgroup hierarchy of the machine.

Rule 1: the folder's name is the registry of lanes. It is `hotnic-lane-<name>.<pid>.<start time>` of the launcher,
        so any process can tell, without a file anywhere, which lanes live and which subtrees a dead one left.
Rule 2: the kernel refuses to remove a cgroup that has processes, so a removal can never hurt a living lane.
Rule 3: version 1 and version 2 hierarchies are treated alike; only what must be enabled in them differs.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from e2e import kernel

PREFIX = "hotnic-lane-"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup hierarchy."""

    top: Path
    kind: str
    controllers: str


@dataclass(frozen=True, slots=True)
class LaneId:
    """Who a lane is: the name that a person gave it, and the launcher."""

    name: str
    pid: int
    started: int

    def __str__(self) -> str:
        return f"{self.name}.{self.pid}.{self.started}"

    @classmethod
    def parse(cls, text: str) -> "LaneId":
        """Read what `str` wrote."""
        name, pid, started = text.rsplit(".", 2)
        return cls(name, int(pid), int(started))

    @classmethod
    def of_this_process(cls, name: str) -> "LaneId":
        """Return the identity of a lane that this process launches."""
        return cls(name, os.getpid(), kernel.start_time(os.getpid()))

    def is_alive(self) -> bool:
        """Whether the launcher is there, and is not a later process with the same pid."""
        try:
            return kernel.start_time(self.pid) == self.started and kernel.is_running(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False


def hierarchies() -> tuple[Hierarchy, ...]:
    """Return every cgroup hierarchy that is mounted here, each once."""
    found: dict[str, Hierarchy] = {}
    names = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, top, kind, options = line.split()[:4]
        if kind in {"cgroup", "cgroup2"}:
            controllers = ",".join(o for o in options.split(",") if o in names or o.startswith("name="))
            found[f"{kind} {controllers}"] = Hierarchy(Path(top), kind, controllers)
    return tuple(found.values())


def create(below: tuple[Hierarchy, ...], path: str) -> None:
    """Make the cgroup `path` in every hierarchy, ready to take processes."""
    for hierarchy in below:
        group = hierarchy.top / path
        group.mkdir(exist_ok=True)
        if hierarchy.controllers == "cpuset":
            _copy_cpuset(group)


def _copy_cpuset(group: Path) -> None:
    """Give a cpuset its parent's CPUs and memory nodes: without them it takes no process, and no child would."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        (group / name).write_text((group.parent / name).read_text())
    (group / "cgroup.clone_children").write_text("1")


def join(below: tuple[Hierarchy, ...], path: str) -> None:
    """Move this process into the cgroup `path` of every hierarchy."""
    for group in members(below, path):
        group.write_text("0")


def members(below: tuple[Hierarchy, ...], path: str) -> tuple[Path, ...]:
    """Return the files that take the pids of the processes of the cgroup `path`."""
    groups = (hierarchy.top / path for hierarchy in below)
    return tuple((g / "init" if (g / "init").is_dir() else g) / "cgroup.procs" for g in groups)


def remount(below: tuple[Hierarchy, ...]) -> None:
    """Mount the hierarchies afresh over a new /sys, so that this cgroup namespace's root is their top."""
    root = Path("/sys/fs/cgroup")
    if all(hierarchy.top != root for hierarchy in below):
        kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    for hierarchy in below:
        hierarchy.top.mkdir(exist_ok=True)
        kernel.mount("cgroup", hierarchy.top, hierarchy.kind, data=hierarchy.controllers)
        if hierarchy.kind == "cgroup2":
            _delegate(hierarchy.top)


def _delegate(top: Path) -> None:
    """Enable all controllers for children; version 2 wants the parent free of processes for that."""
    if controllers := (top / "cgroup.controllers").read_text().split():
        (top / "init").mkdir(exist_ok=True)
        (top / "init" / "cgroup.procs").write_text("0")
        (top / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def lanes() -> tuple[LaneId, ...]:
    """Return every lane that has a subtree, living or dead."""
    names = {path.name for h in hierarchies() for path in h.top.glob(f"{PREFIX}*.*.*")}
    return tuple(LaneId.parse(name.removeprefix(PREFIX)) for name in sorted(names))


def remove(lane: LaneId, timeout: float = 10) -> bool:
    """Remove the lane's subtrees; False if processes were still in them after `timeout` seconds."""
    return remove_below(hierarchies(), f"{PREFIX}{lane}", timeout)


def remove_below(below: tuple[Hierarchy, ...], path: str, timeout: float = 10) -> bool:
    """Remove the cgroup `path` of every hierarchy with all in it; False as `remove`."""
    deadline = time.monotonic() + timeout
    tops = [hierarchy.top / path for hierarchy in below]
    while remaining := [top for top in tops if not _removed(top)]:
        if time.monotonic() > deadline:
            return False
        tops = remaining
        time.sleep(0.02)
    return True


def _removed(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False  # still has a process that is on its way out
    return not top.exists()


def sweep() -> None:
    """Remove what dead lanes left, whose janitor was killed too."""
    for lane in lanes():
        if not lane.is_alive():
            remove(lane, timeout=1)
