"""Start and stop the long-running processes of a lane, and remember them on disk.

Rule 1: a service is known by files in the lane's state folder, not by a Popen object, so that a test process can
        stop and start what another process of the lane started.
Rule 2: a process ends when its pidfd says so; a zombie that nobody has reaped yet is not running.
Rule 3: what fails to start says which, why, and the end of its log.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e import kernel, namespaces, progress

ROOT = Path(__file__).resolve().parent.parent
"""The repository, which is where everything of the harness is started."""


class StartError(Exception):
    """Something of the lane did not come up; the text says what, and the end of its log."""


@dataclass(frozen=True, slots=True)
class Service:
    """A component that the lane runs: a name that is unique in the lane, and how it is started."""

    name: str
    argv: tuple[str, ...]
    inner: bool = False
    """Whether the process that counts is the child of the one that is started (nsenter forks)."""

    @property
    def log(self) -> Path:
        """Where standard output and error go."""
        return namespaces.STATE / "log" / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return namespaces.STATE / "pid" / self.name

    @property
    def pid(self) -> int | None:
        """The process as the lane sees it, if it runs."""
        try:
            pid, started = map(int, self._pid_file.read_text().split())
            return pid if kernel.start_time(pid) == started and kernel.is_running(pid) else None
        except (FileNotFoundError, ProcessLookupError):
            return None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.pid is not None:
            return
        for folder in (self.log.parent, self._pid_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        process = launch(self.argv, self.log)
        pid = inner_pid(process) if self.inner else process.pid
        process.returncode = 0  # from here on it is known by its file: Python need not complain that it outlives us
        try:
            self._pid_file.write_text(f"{pid} {kernel.start_time(pid)}")
        except (FileNotFoundError, ProcessLookupError):
            raise StartError(f"{self.name} ended at once\n{tail(self.log)}") from None

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = 20) -> None:
        """End it, by force if it is not gone after `timeout` seconds. Not running is fine."""
        pid = self.pid
        if pid is None:
            return
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal_number)
            if not kernel.has_ended(pidfd, timeout):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                kernel.has_ended(pidfd, timeout)
        finally:
            os.close(pidfd)

    def check(self) -> None:
        """Raise StartError if it has ended."""
        if self.pid is None:
            raise StartError(f"{self.name} has ended\n{tail(self.log)}")


def launch(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own (Ctrl-C must not end the cluster before the test), appending to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=ROOT, start_new_session=True
        )


def inner_pid(process: subprocess.Popen[bytes], timeout: float = 10) -> int:
    """Return the pid of the one child of `process`."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := kernel.children(process.pid):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.002)
    return process.pid


def tail(log: Path, lines: int = 25) -> str:
    """Return the end of a log, indented."""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return f"    (no log at {log})"
    return "\n".join([f"    end of {log}:", *(f"    | {line}" for line in text)])


def wait_for(what: str, ready: Callable[[], bool], services: Sequence[Service], timeout: float = 60) -> None:
    """Wait until `ready()`; raise StartError at once when one of the services that it needs has ended."""
    with progress.step(f"waiting for {what}"):
        deadline = time.monotonic() + timeout
        while not ready():
            for service in services:
                service.check()
            if time.monotonic() > deadline:
                logs = "\n".join(tail(service.log) for service in services)
                raise StartError(f"no {what} after {timeout:.0f} s\n{logs}")
            time.sleep(0.05)


def write_json(path: Path, value: object) -> None:
    """Write `value` so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value))
    unfinished.rename(path)
