"""The few system calls of a lane that Python 3.11 does not offer.

Rule 1: nothing here decides anything; each function is one system call, and fails with OSError.
Rule 2: whoever becomes a child asks for its own death with its parent (`die_with_parent`), so that no kill -9 of
        anything leaves a process behind. The kernel ties that to the parent's *thread*: fork from the main thread.
"""

import ctypes
import os
import select
import signal
from pathlib import Path

NEWNS = 0x00020000
NEWCGROUP = 0x02000000
NEWUTS = 0x04000000
NEWIPC = 0x08000000
NEWPID = 0x20000000
NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` names for new ones (NEWPID: the children do)."""
    _checked(_libc.unshare(flags), f"unshare {flags:#x}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount `source` at `target`."""
    result = _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _checked(result, f"mount {kind or 'bind'} {source} at {target}")


def bind(source: Path, target: Path) -> None:
    """Make the file or folder `source`, with what is mounted below it, appear at `target` too."""
    mount(str(source), target, flags=MS_BIND | MS_REC)


def set_hostname(name: str) -> None:
    """Name the machine, as seen in this UTS namespace."""
    encoded = name.encode()
    _checked(_libc.sethostname(encoded, len(encoded)), "sethostname")


# Before a command, where the process that starts it may have threads of gRPC: with `preexec_fn` Python forks by its own
# hooks, and those threads run on in the child, and may end it.
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


def die_with_parent() -> None:
    """Have this process killed as soon as the thread that forked it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl PDEATHSIG")


def has_ended(pidfd: int, timeout: float = 0) -> bool:
    """Whether the process behind `pidfd` has ended within `timeout` seconds; a zombie has ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def is_running(pid: int) -> bool:
    """Whether `pid` is a process that has not ended; a zombie has."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not has_ended(pidfd)
    finally:
        os.close(pidfd)


def start_time(pid: int) -> int:
    """Return when `pid` started, in clock ticks since boot: with the pid itself it is unique.

    Raises FileNotFoundError or ProcessLookupError where there is no such process.
    """
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19])


def children(pid: int) -> tuple[int, ...]:
    """Return the children that the main thread of `pid` has forked; nothing if it has ended."""
    try:
        return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return ()
