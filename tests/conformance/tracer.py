"""Kill a process at a point that is counted, not timed: before its n-th system call that others can see.

Either a plugin from its start (`run`), or a function in a process of its own (`call`), or a daemon that serves one call
of it (`Ambush`).

Rules
1. The process and its threads are traced (ptrace). What it executes as children is not, and goes on when it is
   killed: so it is when a runtime kills a plugin. Or it is the children that are to die (`Victim.CHILD`): then they
   are traced as well, what they do is counted, and the one that is about to do it is killed.
2. Counted are the system calls that can change something outside of the process, on x86-64 and AArch64; on other
   machines all are. What such a call only reads, or does to a descriptor of the process's own, does not count
   (`_harmless`). Between two of them the world looks the same, wherever the process dies.
3. The tracer is a process of its own: it waits for whatever child there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import mmap
import os
import platform
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.conformance.plugin import Call

_TRACEME, _SYSCALL, _SETOPTIONS, _SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x4206, 0x4207, 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE, _EXITKILL = 1, 2, 4, 8, 0x100000
_ANY_CHILD = 0x40000000  # __WALL
_ENTRY = 1
_SYSCALL_STOP = signal.SIGTRAP | 0x80

_X86_64 = (
    "1 write,2 open,16 ioctl,18 pwrite64,20 writev,33 dup2,40 sendfile,42 connect,44 sendto,46 sendmsg,49 bind,"
    "54 setsockopt,56 clone,57 fork,58 vfork,59 execve,73 flock,74 fsync,76 truncate,77 ftruncate,82 rename,83 mkdir,"
    "84 rmdir,85 creat,86 link,87 unlink,88 symlink,90 chmod,91 fchmod,92 chown,165 mount,166 umount2,231 exit_group,"
    "257 openat,258 mkdirat,263 unlinkat,264 renameat,265 linkat,266 symlinkat,307 sendmmsg,"
    "316 renameat2,322 execveat,426 io_uring_enter,435 clone3,437 openat2"
)
_AARCH64 = (
    "64 write,56 openat,29 ioctl,68 pwrite64,66 writev,71 sendfile,203 connect,206 sendto,211 sendmsg,200 bind,"
    "208 setsockopt,220 clone,221 execve,32 flock,82 fsync,45 truncate,46 ftruncate,38 renameat,34 mkdirat,"
    "35 unlinkat,37 linkat,36 symlinkat,53 fchmodat,52 fchmod,40 mount,39 umount2,94 exit_group,269 sendmmsg,"
    "276 renameat2,281 execveat,426 io_uring_enter,435 clone3,437 openat2"
)
_TABLES = {"x86_64": _X86_64, "aarch64": _AARCH64}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TCGETS, _FIONBIO = 0x5401, 0x5421
_SOL_SOCKET, _SOL_NETLINK = 1, 270
_RTM_GETLINK = 18

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class End:
    """`seen`: how many system calls were counted. `before`: the one that it was killed before, if it was."""

    seen: int
    before: str = ""


class Victim(enum.Enum):
    """Who is counted and killed: the process itself, or whatever children it has (rule 1)."""

    SELF = _SYSGOOD | _CLONE | _EXITKILL
    CHILD = _SYSGOOD | _CLONE | _FORK | _VFORK | _EXITKILL


def run(call: Call, kill_before: int) -> End:
    """Execute the plugin and kill it before its `kill_before`-th counted system call, if it comes that far."""
    return _traced(lambda: _execute(call), kill_before, Victim.SELF)


def call(action: Callable[[], None], kill_before: int, victim: Victim = Victim.SELF) -> End:
    """Call the function in a child process and kill that, or its child, before that system call, if one comes so far.

    The process that calls this should have no threads: a fork has one only.
    """
    return _traced(lambda: _perform(action), kill_before, victim)


def _traced(start: Callable[[], int], kill_before: int, victim: Victim) -> End:
    receiving, sending = os.pipe()
    tracer = os.fork()
    if tracer == 0:
        os.close(receiving)
        try:
            end = _trace(start(), kill_before, victim)
            os.write(sending, f"{end.seen} {end.before}".encode())
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(tracer, 0)
    if not told:
        raise OSError("the tracer died: is ptrace allowed here?")
    seen, _, before = told.partition(" ")
    return End(int(seen), before)


class Ambush:
    """Lie in wait for a running process: it dies before its `kill_before`-th counted system call from now on.

    Once the context is left it is free again, if it still lives; `end` says what has happened.
    """

    def __init__(self, process: int, kill_before: int) -> None:
        self._process, self._kill_before = process, kill_before
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)  # the tracer is killed in the middle of its waiting

    def __enter__(self) -> Self:
        self._tracer = os.fork()
        if self._tracer == 0:
            try:
                self._lie_in_wait()
            finally:
                os._exit(0)
        while not self._shared[0]:
            if os.waitpid(self._tracer, os.WNOHANG)[0]:
                raise OSError("the tracer died: is ptrace allowed here?")
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._tracer, signal.SIGKILL)
        os.waitpid(self._tracer, 0)

    @property
    def end(self) -> End:
        (seen,) = struct.unpack_from("<I", self._shared, 4)
        return End(seen, self._shared[8:40].rstrip(b"\0").decode())

    def _lie_in_wait(self) -> None:
        threads = {int(path.name) for path in Path(f"/proc/{self._process}/task").iterdir()}
        for thread in threads:
            _ptrace(_SEIZE, thread, 0, _SYSGOOD | _CLONE)
            _ptrace(_INTERRUPT, thread, 0, 0)
            os.waitpid(thread, _ANY_CHILD)
            _resume(thread, 0)
        self._shared[0] = 1
        _follow(self._process, threads, self._kill_before, self._note, Victim.SELF)

    def _note(self, end: End) -> None:
        struct.pack_into("<I32s", self._shared, 4, end.seen, end.before.encode())


def _trace(process: int, kill_before: int, victim: Victim) -> End:
    _wait_for(process)
    _ptrace(_SETOPTIONS, process, 0, victim.value)
    ends = [End(0)]
    _resume(process, 0)
    _follow(process, {process}, kill_before, ends.append, victim)
    return ends[-1]


def _follow(process: int, known: set[int], kill_before: int, tell: Callable[[End], None], victim: Victim) -> None:
    """Let the threads run until the process has ended, by itself or killed; tell the count as it goes on."""
    names = _names()
    groups = {process: process}
    seen = 0
    while True:
        thread, status = os.waitpid(-1, _ANY_CHILD)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            groups.pop(thread, None)
            if thread == process:
                return
            continue
        group = groups.get(thread) or groups.setdefault(thread, _group(thread))
        counts = os.WSTOPSIG(status) == _SYSCALL_STOP and (group == process) is (victim is Victim.SELF)
        if counts and (name := _entered(thread, names)):
            seen += 1
            if seen == kill_before:
                tell(End(seen, name))  # before: others see the end of it as soon as it comes
                os.kill(group, signal.SIGKILL)
                if victim is Victim.SELF:
                    _wait_for_end(process)
                    return
            elif seen < kill_before or not kill_before:
                tell(End(seen))
        _resume(thread, _to_deliver(thread, status, known))


def _to_deliver(thread: int, status: int, known: set[int]) -> int:
    """Return the signal that a stop was for; 0 for the stops that tracing itself makes."""
    stopped = os.WSTOPSIG(status)
    new = thread not in known
    known.add(thread)
    if stopped in (_SYSCALL_STOP, signal.SIGTRAP) or status >> 16 or (new and stopped == signal.SIGSTOP):
        return 0
    return stopped


def _entered(thread: int, names: Mapping[int, str]) -> str:
    """Return the name of the system call that the thread is about to do, if it is one that counts."""
    info = ctypes.create_string_buffer(88)
    try:
        _ptrace(_GET_SYSCALL_INFO, thread, len(info), ctypes.addressof(info))
    except ProcessLookupError:  # another thread of it has ended the process meanwhile; waitpid tells
        return ""
    number: int = struct.unpack_from("<Q", info, 24)[0]
    if info.raw[0] != _ENTRY:
        return ""
    name = names.get(number, "") if names else str(number)
    return "" if _harmless(thread, name, struct.unpack_from("<6Q", info, 32)) else name


def _harmless(thread: int, name: str, arguments: Sequence[int]) -> bool:
    """Whether nobody outside of the process can ever tell that the call was done (rule 2)."""
    match name:
        case "open" | "openat":
            return not arguments[1 if name == "open" else 2] & _WRITING
        case "ioctl":
            return arguments[1] in (_TCGETS, _FIONBIO)
        case "setsockopt":
            return arguments[1] in (_SOL_SOCKET, _SOL_NETLINK)
        case "sendto":
            return _asks_for_links(thread, arguments[1], arguments[2])
    return False


def _asks_for_links(thread: int, address: int, length: int) -> bool:
    """Whether what is sent is one netlink message RTM_GETLINK, of which there are many."""
    try:
        with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            header = memory.read(6)
    except OSError:
        return False
    return len(header) == 6 and struct.unpack("<IH", header) == (length, _RTM_GETLINK)


def _group(thread: int) -> int:
    """Return the process that a thread is of; the thread itself where it is gone by now."""
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return thread
    return int(status.partition("\nTgid:")[2].split(maxsplit=1)[0])


def _names() -> dict[int, str]:
    entries = (one.split() for one in _TABLES.get(platform.machine(), "").split(",") if one)
    return {int(number): name for number, name in entries}


def _perform(action: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        try:
            _libc.ptrace(_TRACEME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            action()
        finally:
            os._exit(0)
    return process


def _execute(call: Call) -> int:
    with tempfile.TemporaryFile() as stdin:
        stdin.write(call.stdin)
        stdin.seek(0)
        process = os.fork()
        if process == 0:
            try:
                os.dup2(stdin.fileno(), 0)
                null = os.open("/dev/null", os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
                _libc.ptrace(_TRACEME, 0, 0, 0)
                os.execve(call.plugin, [call.plugin], call.env)
            finally:
                os._exit(127)
    return process


def _wait_for(process: int) -> None:
    _, status = os.waitpid(process, 0)
    if not os.WIFSTOPPED(status):
        raise OSError("the plugin cannot be executed")


def _wait_for_end(process: int) -> None:
    while True:
        thread, status = os.waitpid(-1, _ANY_CHILD)
        if thread == process and (os.WIFSIGNALED(status) or os.WIFEXITED(status)):
            return


def _resume(thread: int, delivered: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has been killed meanwhile; waitpid tells
        _ptrace(_SYSCALL, thread, 0, delivered)


def _ptrace(request: int, thread: int, address: int, data: int) -> None:
    arguments = (ctypes.c_long(request), ctypes.c_long(thread), ctypes.c_void_p(address), ctypes.c_void_p(data))
    if _libc.ptrace(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
