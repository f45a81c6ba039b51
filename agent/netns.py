"""Network namespaces: open them, tell them apart, work inside them.

Rules
1. A namespace is its (device, inode), compared on an open descriptor, its cookie and the boot: a path may have been
   recycled, so may an inode be, and a reboot begins with all three anew.
2. The node's own namespace is never a pod's. Callers check `is_own` before they do anything.
3. `/proc/thread-self`, not `/proc/self`: the latter is the main thread's namespace.
4. A thread that cannot return to its namespace is unfit for anything else; the process ends and starts anew,
   which the journal makes safe.
5. Who has no descriptor or no memory left knows nothing of the namespace: that is no OSError, which callers take for a
   namespace that is gone, and whose attachments they forget.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.model import Namespace
from cni import errors

CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
_BOOT = Path("/proc/sys/kernel/random/boot_id")
OWN = "/proc/thread-self/ns/net"

_WANTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR)

_libc = ctypes.CDLL(None, use_errno=True)


class View:
    """The node's paths as this process sees them: its own, or below the mount of the node's root (--host-root)."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    def place(self, path: str) -> str:
        """Return where the node's `path` is for us."""
        if self._root is None:
            return path
        # /var/run is an absolute link to /run, which would lead out of the mounted root
        return str(self._root) + (path[4:] if path.startswith("/var/run/") else path)

    @contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """Yield a descriptor of the namespace at the node's `path`.

        Raises OSError where there is none, CNIError 11 where nobody can tell (rule 5).
        """
        with _wanting_nothing():
            fd = os.open(self.place(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def still_there(self, namespace: Namespace) -> bool:
        """Whether the path still leads to the same namespace (rule 1)."""
        try:
            status = os.stat(self.place(namespace.path))
        except OSError:
            return False
        same = (status.st_dev, status.st_ino) == (namespace.device, namespace.inode)
        return same and (not namespace.boot or boot() in ("", namespace.boot))


def identify(fd: int, path: str) -> Namespace:
    """Return what the open namespace is, remembering where it was found. Raises OSError where it cannot be entered."""
    status = os.fstat(fd)
    cookie = _cookie(fd) if is_namespace(fd) else 0  # what is none is told by who works in it
    return Namespace(path, status.st_dev, status.st_ino, cookie, boot())


def boot() -> str:
    """Return the kernel's name for the time since it has started; "" where nothing tells it, or not now (rule 5)."""
    try:
        return _boot()
    except OSError:
        return ""


@functools.cache
def _boot() -> str:
    return _BOOT.read_text().strip()


def is_own(fd: int) -> bool:
    """Whether `fd` is the namespace that this thread works in, that is, the node's."""
    own, other = os.stat(OWN), os.fstat(fd)
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def is_namespace(fd: int) -> bool:
    """Whether `fd` is a namespace at all; of which kind, `setns` checks when it is entered."""
    return os.fstat(fd).st_dev == os.stat(OWN).st_dev  # every namespace file lives on the one nsfs


@contextmanager
def own() -> Iterator[int]:
    """Yield a descriptor of the namespace that this thread works in."""
    with _wanting_nothing():
        fd = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """Run the body of a `with` in the namespace; this thread only."""
    with own() as back:
        _setns(fd)
        try:
            yield
        finally:
            _return(back)


def netlink_socket(fd: int) -> socket.socket:
    """Return a route netlink socket that lives in the namespace, usable from any thread."""
    with entered(fd), _wanting_nothing():
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _cookie(fd: int) -> int:
    """Return the number that the kernel gives no other namespace; 0 where it has no such numbers (before 5.14)."""
    with netlink_socket(fd) as inside:
        try:
            return int.from_bytes(inside.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError as problem:
            if problem.errno == errno.ENOPROTOOPT:
                return 0
            raise


@contextmanager
def _wanting_nothing() -> Iterator[None]:
    """Rule 5."""
    try:
        yield
    except OSError as problem:
        if problem.errno in _WANTS:
            raise errors.CNIError(errors.Code.TRY_AGAIN, "the node is short of something", str(problem)) from None
        raise


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _return(own: int) -> None:
    try:
        _setns(own)
    except OSError:
        os.abort()  # rule 4
