"""Puts files of ours onto the node, and keeps the CNI executable there current (agent.install decides).

Rules
1. A file appears whole under its name: written beside it, synced, renamed. Who executes the one before goes on with it.
2. It works whenever it comes: before another installer or a node image's update, or after. What these remove or replace
   of ours is there again within PERIOD_S.
3. What cannot be is not hidden: `waiting_for` says it in words, and it is tried again for ever.
4. A directory that was removed is not the one which has its name now: this container sees only the old one. `lost` says
   so, and a container that starts anew sees the new one. So is one that was renamed, or that a link led to: where the
   node's root is seen, what has the name there now is compared.
5. What the file is known by is noted before it is read, and never after it was written: whatever came in between is
   another one at the next look.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from agent import delegate, files, install
from agent.install import Decision, File

PERIOD_S = 5.0
LARGEST = 64 << 20  # bytes; the executable has less than one hundredth of it

log = logging.getLogger(__name__)

_Signature = tuple[int, ...]


class Refused(Exception):
    """The file cannot be put there; `str()` says why, and what to do."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `hotnic-agent install` takes."""
    parser.add_argument("source", type=Path, metavar="FILE", help="what is put onto the node")
    parser.add_argument("target", type=Path, metavar="TARGET", help="under which name; its directory is made")


def run(arguments: argparse.Namespace) -> int:
    """Put one file onto the node, as one that may be executed if it may be now; return the exit status, 0 or 1."""
    source, target = arguments.source, arguments.target
    try:
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        target.parent.mkdir(parents=True, exist_ok=True)
        bring(File(source.read_bytes(), mode), target)
    except (OSError, Refused) as problem:
        log.critical("%s: %s", target, problem)
        return 1
    return 0


class Keeper:
    """Keeps the CNI executable `source` current in `directory`, which is the node's CNI directory `called`."""

    def __init__(self, source: Path, directory: Path, called: str, root: Path | None = None) -> None:
        """`root`: where the node's root is mounted. Raises OSError where what is to be installed cannot be read."""
        self._brought = File(source.read_bytes(), 0o755)
        self._target = directory / install.EXECUTABLE
        self._called, self._root = called, root
        self._is_the_nodes = not self._is_another()  # else a container that starts anew would have the same
        self._known: _Signature = ()  # of the file when it was current
        self._problem = "not looked at yet"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="installer", daemon=True)

    def start(self) -> None:
        """Install now, and look after it from then on."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def waiting_for(self) -> tuple[str, ...]:
        """Return what keeps the executable from being there; nothing when it is."""
        return (f"CNI executable {self._called}/{install.EXECUTABLE}: {self._problem}",) if self._problem else ()

    def lost(self) -> tuple[str, ...]:
        """Return whether only a container that starts anew can go on (rule 4)."""
        try:
            is_removed = self._target.parent.stat().st_nlink == 0
        except OSError:
            return ()  # it may come
        if is_removed:
            return (f"CNI directory {self._called} was removed, and is seen again by a new container only",)
        if self._is_the_nodes and self._is_another():
            return (f"CNI directory {self._called} is another one now, and is seen by a new container only",)
        return ()

    def _is_another(self) -> bool:
        """Whether the node has another directory than ours under the name, or none; no, where nobody can tell."""
        if self._root is None:
            return False
        try:
            theirs = delegate.below(self._root, self._named)
            return theirs is None or not os.path.samestat(self._target.parent.stat(), theirs)
        except OSError:
            return False

    def _named(self) -> os.stat_result | None:
        with suppress(FileNotFoundError):
            return os.stat(self._called)
        return None

    def look(self) -> None:
        """Install what is not there or not current."""
        if self._known and signature(self._target) == self._known:
            return
        try:
            self._known = bring(self._brought, self._target)
            problem = ""
        except (OSError, Refused) as refusal:
            self._known, problem = (), _in_words(refusal)
        if problem and problem != self._problem:
            log.error("CNI executable %s: %s", self._target, problem)
        self._problem = problem

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            self.look()


def bring(brought: File, target: Path) -> _Signature:
    """Have the file there, whole and current; return what it is known by until somebody changes it, if that is known.

    Raises Refused where somebody else's has its name, OSError where the directory is not there or takes nothing.
    """
    _sweep(target)
    known = signature(target)  # rule 5
    match install.decide(brought, found(target)):
        case Decision.REFUSE:
            raise Refused(f"it is not hotnic's, and is not touched: {install.MAKE_ROOM}")
        case Decision.WRITE:
            _write(brought, target)
            log.info("installed %s", target)
            return ()
    return known


def found(path: Path) -> File | None:
    """Return what is under the name, None for nothing. Raises OSError where nobody can tell."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            return File(None, 0)
        return File(path.read_bytes(), install.permissions(status.st_mode))
    except FileNotFoundError:
        return None


def signature(path: Path) -> _Signature:
    """Return numbers that change with the file; none where there is no file."""
    try:
        status = path.lstat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _write(brought: File, target: Path) -> None:
    """Rule 1. Raises OSError, and leaves nothing then."""
    assert brought.content is not None, "what is brought is a file"
    temporary = target.with_name(install.name_on_its_way(target.name, secrets.token_hex(8)))
    try:
        with temporary.open("xb") as file:
            file.write(brought.content)
            os.fchmod(file.fileno(), brought.mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    files.sync_directory(target.parent)


def _sweep(target: Path) -> None:
    """Remove what writers have left that were killed (agent.install, rule 3)."""
    for name in os.listdir(target.parent):
        if install.is_on_its_way(name, target.name):
            with suppress(FileNotFoundError):  # its writer has renamed it
                path = target.with_name(name)
                if time.time() - path.lstat().st_mtime > install.UNFINISHED_S:
                    path.unlink()


def _in_words(problem: Exception) -> str:
    if isinstance(problem, FileNotFoundError):
        return "its directory is not there"
    return (problem.strerror or str(problem)) if isinstance(problem, OSError) else str(problem)
