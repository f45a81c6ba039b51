"""Make the closed world that a lane, and below it each node, lives in.

Rule 1: the world hangs on one process, its init. Whatever ends that (kill -9 included), the kernel ends every
        process of the PID namespace, and with them go namespaces, mounts and links.
Rule 2: an init is killed with its parent, so kill -9 of the launcher is kill -9 of the world.
Rule 3: nothing is written to the machine's own /run, /etc, /opt or /var: tmpfs or an overlay lies over them.
Rule 4: no kernel-wide setting changes: what kubelet would tune lies under files of ours.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from e2e import cgroups, kernel

STATE = Path("/run/hotnic-lane")
"""Where a lane keeps its state, in every mount namespace of it."""

_OVERLAID = ("etc", "opt", "var")
_NODE_FOLDERS = (
    "/etc/cni", "/opt/cni", "/var/lib/cni", "/var/lib/containerd", "/var/lib/containers", "/var/lib/hotnic",
    "/var/lib/kubelet", "/var/lib/kubevirt-node-labeller", "/var/log",
)  # fmt: skip
_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_WORLD = kernel.NEWNS | kernel.NEWNET | kernel.NEWUTS | kernel.NEWIPC


def fork_init(enter: Callable[[], None], body: Callable[[], int] | None, ready: Callable[[], None]) -> int:
    """Fork the init of a new PID namespace; return its pid.

    `ready` is called in this process before the init does anything: whatever must exist for the clean-up to work
    is made there. Then the init calls `enter`, forks a child that runs `body` (if any), and reaps orphans until
    that child ends, with whose exit code it ends. From now on every child of this process is born in there too.
    """
    me = os.pidfd_open(os.getpid())
    gate_out, gate_in = os.pipe()
    kernel.unshare(kernel.NEWPID)
    pid = os.fork()
    if pid == 0:
        kernel.die_with_parent()
        os.close(gate_in)
        if kernel.has_ended(me) or not os.read(gate_out, 1):
            os._exit(1)  # the parent was killed before the kernel knew that we go with it
        _run_and_exit(lambda: _be_init(enter, body))
    ready()
    os.write(gate_in, b"!")
    for descriptor in (gate_in, gate_out, me):
        os.close(descriptor)
    return pid


def _run_and_exit(body: Callable[[], int]) -> NoReturn:
    """Run `body` in a forked process, which must never return into what its parent was doing."""
    code = 1
    try:
        code = body()
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_init(enter: Callable[[], None], body: Callable[[], int] | None) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    enter()
    child = os.fork() if body else None
    if body and child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _run_and_exit(body)
    silence()
    while (status := _reap(child)) is None:
        signal.sigwait({signal.SIGCHLD})
    return exit_code(status)


def _reap(child: int | None) -> int | None:
    """Reap whatever has ended; return the status of `child` if it was among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            return status


def silence() -> None:
    """Let go of standard input, output and error, which somebody may be waiting for the end of."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.close(null)


def exit_code(status: int) -> int:
    """Turn what wait() says into what a shell would say."""
    return shell_code(os.waitstatus_to_exitcode(status))


def shell_code(returncode: int) -> int:
    """Turn what subprocess says of an end (negative: by that signal) into what a shell would say."""
    return returncode if returncode >= 0 else 128 - returncode


def enter_lane(lane: cgroups.LaneId) -> None:
    """Give this process, a new init, all the other namespaces and the mounts of a lane."""
    below = _leave(f"{cgroups.PREFIX}{lane}")
    _mount_run()
    STATE.mkdir()
    for name in _OVERLAID:
        _overlay(name)
    _mount_kernel_views(below)
    kernel.set_hostname("lane")


def enter_node(name: str, folders: Path) -> None:
    """Give this process, a new init, all the other namespaces and the mounts of a node.

    `folders` keeps what survives the node's reboot; its /run does not.
    """
    below = _leave(name)
    state = os.open(STATE, os.O_PATH)
    _mount_run()
    STATE.mkdir()
    _mount_kernel_views(below)
    kernel.bind(Path(f"/proc/self/fd/{state}"), STATE)
    for folder in _NODE_FOLDERS:
        kept = folders / folder.strip("/").replace("/", "-")
        kept.mkdir(parents=True, exist_ok=True)
        Path(folder).mkdir(parents=True, exist_ok=True)
        kernel.bind(kept, Path(folder))
    _cover_tunables()
    _cover_controllers()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    kernel.mount("none", Path("/"), flags=kernel.MS_SHARED | kernel.MS_REC)
    kernel.set_hostname(name)


def _leave(group: str) -> tuple[cgroups.Hierarchy, ...]:
    below = cgroups.hierarchies()
    cgroups.join(below, group)
    kernel.unshare(_WORLD | kernel.NEWCGROUP)
    kernel.mount("none", Path("/"), flags=kernel.MS_PRIVATE | kernel.MS_REC)
    return below


def _mount_run() -> None:
    kernel.mount("tmpfs", Path("/run"), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    Path("/run/lock").mkdir()


def _overlay(name: str) -> None:
    """Have what is written below /`name` go to the lane's own tmpfs."""
    upper, work = (STATE / "overlay" / name / kind for kind in ("upper", "work"))
    for folder in (upper, work):
        folder.mkdir(parents=True)
    upper.chmod(0o755)
    kernel.mount("overlay", Path(f"/{name}"), "overlay", 0, f"lowerdir=/{name},upperdir={upper},workdir={work}")


def _mount_kernel_views(below: tuple[cgroups.Hierarchy, ...]) -> None:
    """Mount /proc, /sys and the cgroups as this set of namespaces sees them."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", Path("/proc"), "proc", flags)
    kernel.mount("sysfs", Path("/sys"), "sysfs", flags)
    cgroups.remount(below)


def _cover_tunables() -> None:
    """Let kubelet read and write the kernel-wide settings that it insists on, without the kernel noticing."""
    folder = Path("/run/tunables")
    for name, value in _TUNABLES.items():
        cover = folder / name
        cover.parent.mkdir(parents=True, exist_ok=True)
        cover.write_text(value)
        kernel.bind(cover, Path("/proc/sys") / name)


def _cover_controllers() -> None:
    """Leave out of the kernel's list the cgroup controllers that no hierarchy has: CRI-O would want to use them."""
    header, *lines = Path("/proc/cgroups").read_text().splitlines()
    mounted = [line for line in lines if line.split()[1] != "0"]
    if mounted:  # version 1; with version 2 nobody is in this list, and nobody reads it
        cover = Path("/run/cgroups")
        cover.write_text("\n".join((header, *mounted)) + "\n")
        kernel.bind(cover, Path("/proc/cgroups"))
