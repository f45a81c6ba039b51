"""The program that a plugin needs beside itself, if it needs one: started before, killed and started again, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 120.0  # an emulated machine takes half a minute for what takes half a second here


class Daemon:
    """One shell command that serves. `ready`: a path that is there as soon as it does, and not before."""

    def __init__(self, command: str, ready: Path | None, log: Path) -> None:
        self._command, self._ready, self._log = command, ready, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process. Only while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return once it serves. Raises OSError, with the end of its log, where it does not."""
        if self._ready is not None:
            self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {self._command}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + START_S
        while self._ready is not None and not self._ready.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                text = self._log.read_text(errors="replace")[-2000:]
                raise OSError(f"`{self._command}` does not make {self._ready}:\n{text}")
            time.sleep(0.02)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Have it serve in the body of the `with`, and no longer. Raises OSError as `start` does."""
        self.start()
        try:
            yield
        finally:
            self.kill()

    def kill(self) -> None:
        """End it as a crash does, with all that it started in its session."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
