"""Sockets of programs in containers, reached by the path that the container sees.

Rules
1. The container controls its file system. A path is resolved inside it by the kernel (`openat2`, RESOLVE_IN_ROOT): no
   link in it leads out, neither an absolute one nor one with `..`, nor one of /proc.
2. What was found is what is connected to: it is opened once, looked at, and reached by its descriptor.
3. A file system of the container's own may never answer, and who waits for it cannot be woken: a thread of its own
   waits. Of one container few may, so that it cannot gather threads of the node.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import queue
import socket
import stat
import struct
import threading
import time
from pathlib import Path

from agent.model import NotReady

_OPENAT2 = 437  # <asm/unistd.h>, the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10  # <linux/openat2.h>
_WAITERS = 3
_SILENT = "the container's file system does not answer"
_PEERCRED = struct.Struct("=iII")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_waiting: collections.Counter[str] = collections.Counter()
_lock = threading.Lock()

_Outcome = queue.SimpleQueue[socket.socket | OSError]


def connect(root: Path, path: str, deadline: float) -> socket.socket:
    """Return a stream connected to the Unix socket at `path` below `root`, which is like /proc/<pid>/root.

    `deadline`: of time.monotonic(). Raises NotReady(VMUnreachable).
    """
    try:
        folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as problem:
        raise unreachable(path, f"its root is gone ({problem.strerror})") from None
    given_up, outcome = threading.Event(), _Outcome()
    if not _begin(container := _mount(folder)):
        os.close(folder)
        raise unreachable(path, _SILENT)
    arguments = (folder, container, path, given_up, outcome)
    waiter = threading.Thread(target=_wait, args=arguments, name="reach", daemon=True)
    try:
        waiter.start()
    except RuntimeError as problem:  # no thread is to be had
        os.close(folder)
        _end(container)
        raise unreachable(path, str(problem)) from None
    try:
        found = outcome.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        given_up.set()
        _close_late(outcome)
        raise unreachable(path, _SILENT) from None
    if isinstance(found, OSError):
        raise unreachable(path, found.strerror or str(found))
    return found


def peer(connected: socket.socket) -> tuple[int, int, int]:
    """Return (process, user, group) of who listens there, as this process numbers them; process 0: in no view."""
    return _PEERCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))


def unreachable(path: str, why: str) -> NotReady:
    """Return what is to be raised where nobody answers at `path` of the container."""
    return NotReady("VMUnreachable", f"{path} in the container: {why}")


def _mount(folder: int) -> str:
    """Return which mount the folder is in; asking it itself might never end (rule 3)."""
    told = Path(f"/proc/self/fdinfo/{folder}").read_text()
    return next(line for line in told.splitlines() if line.startswith("mnt_id:"))


def _begin(container: str) -> bool:
    with _lock:
        if _waiting[container] >= _WAITERS:
            return False
        _waiting[container] += 1
        return True


def _end(container: str) -> None:
    with _lock:
        _waiting[container] -= 1
        if not _waiting[container]:
            del _waiting[container]


def _wait(folder: int, container: str, path: str, given_up: threading.Event, outcome: _Outcome) -> None:
    try:
        outcome.put(_connected(folder, path))
    except OSError as problem:
        outcome.put(problem)
    os.close(folder)
    _end(container)
    if given_up.is_set():
        _close_late(outcome)


def _close_late(outcome: _Outcome) -> None:
    """Close what nobody waits for any more; either of the two threads may find it."""
    with contextlib.suppress(queue.Empty):
        late = outcome.get_nowait()
        if isinstance(late, socket.socket):
            late.close()


def _connected(folder: int, path: str) -> socket.socket:
    found = _opened(folder, path)
    try:
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise OSError("is no socket")
        return _stream(f"/proc/self/fd/{found}")
    finally:
        os.close(found)


def _stream(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    stream.settimeout(0)  # a listener that accepts nobody must not hold us
    try:
        stream.connect(path)
    except BlockingIOError:
        stream.close()
        raise OSError("is in use by others, who are queued already") from None
    except OSError:
        stream.close()
        raise
    return stream


def _opened(folder: int, path: str) -> int:
    """Open what `path` is below `folder` (rule 1), as a place only: nothing is done to it."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    found: int = _libc.syscall(
        ctypes.c_long(_OPENAT2), ctypes.c_int(folder), ctypes.c_char_p(os.fsencode(path)), ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )  # fmt: skip
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found
