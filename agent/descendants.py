"""The processes that plugins start: marked at birth, found wherever they went, killed, reaped.

Rules
1. This process is a child subreaper. What a plugin leaves behind becomes our child, so that all that ever
   came of a plugin is among our descendants, and nothing else needs to be looked at.
2. Each run has a mark, which its processes inherit twice: as an environment variable, and as a timer
   slack that is a few microseconds off the default. The slack has no effect to speak of, survives
   `env -i`, setsid and daemonising, and can be read of a zombie; reading it takes CAP_SYS_NICE, which
   the agent has.
3. Descendants of a marked process belong to the run, marked or not.
4. The mark names its agent. A process whose agent is no longer among its ancestors is abandoned: that agent
   was killed, and the next one kills what it left.
5. Only what bears a mark is reaped, and never the plugin itself while its run lasts: that exit status is
   the run's. Other subprocesses of this process are somebody else's.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "HOTNIC_EXEC"

log = logging.getLogger(__name__)

_PR_SET_TIMERSLACK = 29
_PR_SET_CHILD_SUBREAPER = 36
_SLACKS = range(50_001, 100_000)  # the default is 50 000 ns

_KILL_S = 5.0  # how long killing may take before what is left is reported instead (uninterruptible sleep)
_WATCH_S = 5.0  # how long a new zombie may wait while older leftovers live

_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()
# Plugins that are running, by slack; 0 while the plugin is being started.
_running: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells the processes of one run from all others."""

    token: str
    slack: int


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    is_alive: bool
    started: str  # with the pid it is unique, pids alone are used again


def become_subreaper() -> None:
    """Make this process the parent of all orphans among its descendants. Repeating it does nothing."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl PR_SET_CHILD_SUBREAPER: {os.strerror(number)}")


def new_mark() -> Mark:
    """Return a mark that no other run bears."""
    number = next(_serial)
    return Mark(f"{os.getpid()}-{number}", _SLACKS[number % len(_SLACKS)])


@contextmanager
def marking(mark: Mark) -> Iterator[None]:
    """While the body runs, this thread gives its children the mark's slack."""
    _running[mark.slack] = 0
    _libc.prctl(_PR_SET_TIMERSLACK, mark.slack, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_TIMERSLACK, 0, 0, 0, 0)  # 0: back to the thread's own


def started(mark: Mark, pid: int) -> None:
    """Note the plugin's own process, which `finished` hands back to its run."""
    _running[mark.slack] = pid


def finished(mark: Mark) -> None:
    """End the run: what it left behind is reaped now or as soon as it dies."""
    _running.pop(mark.slack, None)
    if _reap():
        _watcher.wake()


@contextmanager
def opened(pid: int) -> Iterator[int]:
    """Yield a descriptor of the process, readable once it has exited. Raises ProcessLookupError."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def kill(mark: Mark) -> tuple[int, ...]:
    """Kill every process of the run, until there are no new ones. Returns what could not be killed."""
    ends = time.monotonic() + _KILL_S
    pause = 0.0005
    while alive := _alive(mark):
        if time.monotonic() > ends:
            return tuple(process.pid for process in alive)
        for process in alive:
            _kill(process)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return ()


def kill_survivors() -> None:
    """Kill what the plugins of an agent that is no more left behind, such as an ADD that would finish late."""
    ends = time.monotonic() + _KILL_S
    while survivors := _abandoned():
        if time.monotonic() > ends:
            raise OSError(f"plugins of an earlier agent cannot be killed: {[one.pid for one in survivors]}")
        for process in survivors:
            _kill(process)
        time.sleep(0.01)


def _abandoned() -> list[_Process]:
    processes = {process.pid: process for process in _processes()}
    return [one for one in processes.values() if one.is_alive and _is_abandoned(one, processes)]


def _is_abandoned(process: _Process, processes: Mapping[int, _Process]) -> bool:
    token = _token(process.pid)
    # In another PID namespace our numbers mean nothing, and another agent may well live.
    if token is None or _pid_namespace(process.pid) != _pid_namespace(os.getpid()):
        return False
    agent = token.partition("-")[0]
    return all(str(ancestor) != agent for ancestor in _ancestors(process, processes))


def _ancestors(process: _Process | None, processes: Mapping[int, _Process]) -> Iterator[int]:
    while process is not None:
        yield process.parent
        process = processes.get(process.parent)


def _pid_namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def _alive(mark: Mark) -> list[_Process]:
    processes = {process.pid: process for process in _processes()}
    ours = _below(processes, {os.getpid()})
    marked = {process.pid for process in ours if _bears(process.pid, mark)}
    members = {*_below(processes, marked), *(processes[pid] for pid in marked)}
    return [process for process in members if process.is_alive]


def _below(processes: Mapping[int, _Process], roots: Collection[int]) -> list[_Process]:
    """Return the descendants of `roots`."""
    found: list[_Process] = []
    parents = set(roots)
    while parents:
        children = [process for process in processes.values() if process.parent in parents]
        found += children
        parents = {process.pid for process in children} - set(roots)
    return found


def _processes() -> Iterator[_Process]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _process(int(name))):
            yield process


def _process(pid: int) -> _Process | None:
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # proc_pid_stat(5): the command, in brackets, may hold anything; state is field 3, ppid 4, starttime 22
    fields = text.rpartition(b")")[2].split()
    return _Process(pid, int(fields[1]), fields[0] not in b"ZXx", fields[19].decode())


def _bears(pid: int, mark: Mark) -> bool:
    token = _token(pid)
    return token == mark.token if token is not None else _slack(pid) == mark.slack


def _token(pid: int) -> str | None:
    prefix = f"{VARIABLE}=".encode()
    for variable in _read(f"/proc/{pid}/environ").split(b"\0"):
        if variable.startswith(prefix):
            return variable.removeprefix(prefix).decode(errors="replace")
    return None


def _slack(pid: int) -> int:
    return int(_read(f"/proc/{pid}/timerslack_ns") or 0)


def _read(path: str) -> bytes:
    """Return what the file holds; nothing where the process is gone, or not for us to look at."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _kill(process: _Process) -> None:
    with suppress(ProcessLookupError), opened(process.pid) as fd:
        # The descriptor holds the process, the comparison says that it is still the one that was found.
        now = _process(process.pid)
        if now is not None and now.started == process.started:
            signal.pidfd_send_signal(fd, signal.SIGKILL)


def _reap() -> list[int]:
    """Reap the dead among what plugins left behind; returns the living."""
    return [pid for pid in _orphans() if not _reaped(pid)]


def _orphans() -> list[int]:
    # The kernel gives orphans to the first living thread of the subreaper, which is the main one.
    children = _read(f"/proc/self/task/{os.getpid()}/children").split()
    return [pid for pid in map(int, children) if _is_left_behind(pid)]


def _is_left_behind(pid: int) -> bool:
    slack = _slack(pid)
    # Any run's plugin may be this child as long as that run is still starting it.
    return slack in _SLACKS and _running.get(slack, -1) not in (0, pid)


def _reaped(pid: int) -> bool:
    try:
        with opened(pid) as fd:
            return os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG) is not None
    except (ProcessLookupError, ChildProcessError):
        return True
    except OSError:  # no descriptor is left: later
        return False


class _Watcher:
    """Waits for what plugins left behind alive; its thread lives only as long as that does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_watching = False

    def wake(self) -> None:
        with self._lock:
            if self._is_watching:
                return
            try:
                threading.Thread(target=self._watch, name="reaper", daemon=True).start()
            except RuntimeError as problem:  # no thread is to be had: the next run's end tries again
                log.warning("what plugins left behind is not waited for: %s", problem)
            else:
                self._is_watching = True

    def _watch(self) -> None:
        while True:
            with self._lock:
                alive = _reap()
                if not alive:
                    self._is_watching = False
                    return
            _wait_for_any(alive)


def _wait_for_any(pids: Collection[int]) -> None:
    with ExitStack() as stack:
        poll = select.poll()
        for pid in pids:
            with suppress(OSError):  # it is gone, or there is no descriptor left
                poll.register(stack.enter_context(opened(pid)), select.POLLIN)
        poll.poll(_WATCH_S * 1000)


_watcher = _Watcher()
