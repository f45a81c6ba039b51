"""A process on a node, as seen from the lane.

Rule 1: signals go to the process itself, not to the nsenter that started it.
Rule 2: its exit status is nsenter's, which ends as the process did, by the same signal even.
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e import services


@dataclass(frozen=True, slots=True)
class Process:
    """What `Node.popen` returns; close to subprocess.Popen in its manners."""

    entered: subprocess.Popen[bytes]
    pid: int
    log: Path

    @classmethod
    def of(cls, entered: subprocess.Popen[bytes], log: Path) -> "Process":
        """Wrap the nsenter that starts the process."""
        return cls(entered, services.inner_pid(entered), log)

    def again(self, env: Mapping[str, str] | None = None) -> "Process":
        """Start the same command line once more, whatever became of this one; `env` is added to ours."""
        argv: tuple[str, ...] = self.entered.args  # type: ignore[assignment]
        return Process.of(services.launch(argv, self.log, {**os.environ, **(env or {})}), self.log)

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.entered.poll()

    def wait(self, timeout: float = 20) -> int:
        """Wait for its end, and return the exit status (negative: the signal that ended it)."""
        return self.entered.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def freeze(self) -> None:
        """Let it do nothing until `thaw`. nsenter stops with it."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, and nsenter too."""
        self.send_signal(signal.SIGCONT)
        self.entered.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to say goodbye, and wait until it is gone."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout: float = 20) -> int:
        """Ask it to end, by force after `timeout` seconds; return the exit status."""
        self.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()

    def output(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(errors="replace")
