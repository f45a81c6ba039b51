"""A lane that is killed with everything in it leaves nothing on the machine: seen from outside, by e2e.residue."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import cgroups, kernel, lane, residue, scene

pytestmark = [
    pytest.mark.lane,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts a lane, which takes root"),
    pytest.mark.skipif("HOTNIC_LANE" in os.environ, reason="looks at a lane from outside"),
]
START_S = 120  # 10 on an idle machine
GONE_S = 15
TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def launched(name: str) -> Iterator[subprocess.Popen[str]]:
    """Start a lane with something in it; yield its launcher once all is there."""
    command = [sys.executable, "-m", "e2e.lane", "run", "--name", name, "--", sys.executable, "-m", "e2e.scene"]
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as launcher:
        try:
            wait_for_line(launcher, scene.THERE)
            yield launcher
        finally:
            launcher.kill()


def wait_for_line(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout
    end, text = time.monotonic() + START_S, ""
    while expected not in text:
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        part = os.read(process.stdout.fileno(), 4096).decode() if readable else ""
        assert part, f"the lane did not come up; exit status {process.poll()}\n{text}"
        text += part


def namespaces(group: str) -> set[str]:
    """Return the namespaces, other than this process's, of all processes in the lane's cgroups."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if group in (process / "cgroup").read_text():
                found |= {os.readlink(path) for path in (process / "ns").iterdir()}
    return found - {os.readlink(path) for path in Path("/proc/self/ns").iterdir()}


def held(until: float) -> set[str]:
    """Return every namespace that a process is in or holds open, or that is mounted here.

    Processes that started after `until` (seconds of uptime), and those of other lanes, are left out: the kernel gives
    the number of a namespace that is gone to the next one.
    """
    living = tuple(f"{cgroups.PREFIX}{one}" for one in cgroups.lanes() if one.is_alive())
    found = {word for word in Path("/proc/self/mountinfo").read_text().split() if ":[" in word}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            groups = (process / "cgroup").read_text()
            if kernel.start_time(int(process.name)) <= until * TICKS and not any(one in groups for one in living):
                found |= {link for path in (process / "ns").iterdir() if (link := os.readlink(path))}
                found |= {link for path in (process / "fd").iterdir() if (link := read_link(path))}
    return found


def read_link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed since it was listed
        return ""


@pytest.mark.parametrize("victim", ["launcher", "init"])
def test_a_lane_that_is_killed_leaves_nothing(victim, monkeypatch):
    cgroups.sweep()
    before = residue.snapshot()
    name = f"residue-{victim}-{os.getpid()}"
    with launched(name) as launcher:
        identity = lane.find(name)
        assert identity
        assert identity.pid == launcher.pid
        group = f"{cgroups.PREFIX}{identity}"
        inside = namespaces(group)
        kinds = {one.split(":")[0] for one in inside}
        assert {"net", "mnt", "pid", "uts", "ipc", "cgroup"} <= kinds, "the look from outside sees the lane"
        with taken_for_dead(monkeypatch, group):
            seen = residue.leftovers(before, 0)
            assert inside <= held(uptime())
        assert any("hotnic-agent" in one for one in seen["processes"])
        assert any("kubelet" in one for one in seen["processes"])
        assert any(group in one for one in seen["cgroups"])
        target = launcher.pid if victim == "launcher" else lane._init_of(launcher.pid)
        assert target
        killed = uptime()
        os.kill(target, signal.SIGKILL)
        assert launcher.wait(30) != 0
    assert residue.leftovers(before, GONE_S) == {}
    assert inside & held(killed) == set()


@contextlib.contextmanager
def taken_for_dead(monkeypatch: pytest.MonkeyPatch, group: str) -> Iterator[None]:
    """Have a living lane looked at as if its launcher were gone."""
    is_alive = cgroups.LaneId.is_alive
    with monkeypatch.context() as patched:
        patched.setattr(cgroups.LaneId, "is_alive", lambda one: f"{cgroups.PREFIX}{one}" != group and is_alive(one))
        yield


def uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
