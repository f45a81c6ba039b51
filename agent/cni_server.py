"""The CNI executable's door: <run-dir>/cni.sock, one connection for each call (agent.cni_connection).

Only root may call: the socket's mode says so too. Calls that came while the agent was down lie in
<run-dir>/tombstones, in the same format, and are replayed at the start and after.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent import cni_connection, metrics
from agent.calls import Answer
from agent.cni_connection import Handle
from agent.pool import Pool
from cni import errors, version, wire

TOMBSTONES_S = 5.0  # an executable that found no agent may write its tombstone after our start
UNFINISHED_S = 60.0  # no executable takes as long to write one

log = logging.getLogger(__name__)


class Server:
    """Accepts calls in threads of its own."""

    def __init__(self, run_dir: Path, handle: Handle) -> None:
        self._path = run_dir / "cni.sock"
        self._tombstones = run_dir / "tombstones"
        self._tombstones.mkdir(mode=0o700, exist_ok=True)
        self._handle = handle
        self._pool = Pool(512, thread_name_prefix="cni")
        self._closing = threading.Event()
        self._listener = listen(self._path)
        self._threads = [
            threading.Thread(target=self._accept, name="cni-accept", daemon=True),
            threading.Thread(target=self._replay, name="tombstones", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Accept nothing more; finish the calls under way."""
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown(wait=True)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except (OSError, MemoryError) as problem:
                if self._closing.is_set():
                    return
                log.warning("no call can be accepted: %s", problem)
                self._closing.wait(0.1)  # out of descriptors: let calls end
                continue
            self._pool.submit(cni_connection.serve, connection, self._counted)

    def _counted(self, environ: Mapping[str, str], stdin: bytes, netns: int | None) -> Answer:
        answer = self._handle(environ, stdin, netns)
        command = environ.get("CNI_COMMAND", "")
        metrics.CNI_CALLS.labels(command if command in version.VERBS else "other", str(answer.exit_code)).inc()
        return answer

    def _replay(self) -> None:
        while True:
            self._replay_all()
            self._remove_unfinished()
            if self._closing.wait(TOMBSTONES_S):
                return

    def _replay_all(self) -> None:
        for path in self._found("*.bin"):
            try:
                self._replay_one(path)
            except OSError as problem:  # no descriptors, say: that says nothing about the tombstone
                log.warning("tombstone %s: %s; will be tried again", path, problem)

    def _found(self, pattern: str) -> list[Path]:
        try:
            return sorted(self._tombstones.glob(pattern))
        except OSError as problem:
            log.warning("tombstones: %s; will be tried again", problem)
            return []

    def _remove_unfinished(self) -> None:
        """Remove what executables that were killed have left half written: their DEL failed, and comes again."""
        for path in self._found("*.tmp"):
            with suppress(OSError):  # it was finished just now, or will be looked at again
                if time.time() - path.stat().st_mtime > UNFINISHED_S:
                    path.unlink()

    def _replay_one(self, path: Path) -> None:
        try:
            environ, stdin = wire.decode_request(path.read_bytes())
        except wire.WireError as problem:
            log.critical("tombstone %s cannot be read and is set aside: %s", path, problem)
            path.rename(path.with_suffix(".damaged"))
            return
        try:
            answer = self._counted(environ, stdin, None)
        except Exception:  # one that cannot even be told of must not keep the others from their turn
            log.exception("tombstone %s is set aside", path)
            path.rename(path.with_suffix(".damaged"))
            return
        if _is_hopeless(answer):
            log.critical("tombstone %s is set aside: %s", path, answer.stdout.decode(errors="replace"))
            path.rename(path.with_suffix(".damaged"))
        elif answer.exit_code == 0:
            log.info("replayed %s for %s", environ.get("CNI_COMMAND"), environ.get("CNI_CONTAINERID"))
            path.unlink()
        else:
            log.warning("tombstone %s: %s; will be tried again", path.name, answer.stdout.decode(errors="replace"))


def _is_hopeless(answer: Answer) -> bool:
    """Whether the request itself is wrong: no replay will make it right."""
    wrong = (errors.Code.INVALID_ENVIRONMENT, errors.Code.DECODE_FAILURE, errors.Code.INVALID_CONFIG)
    return answer.exit_code != 0 and json.loads(answer.stdout).get("code") in wrong


def listen(path: Path) -> socket.socket:
    """Return a listening socket that only root can connect to, in place of a dead agent's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(512)
    return listener
