"""The process of a container that the kubelet keeps, as seen from the lane.

Rules
1. A signal is all that ends it here, and the kubelet is all that starts it again.
2. What was ended stays so until `let_restart`: its keeper, the container runtime's shim, which would tell of the end,
   stands still meanwhile. It keeps all containers of the pod, and those go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from e2e import kernel


@dataclass(frozen=True, slots=True)
class Contained:
    """A container's first process and its keeper; close to e2e.process.Process in its manners."""

    pid: int
    process: int
    """A descriptor of it (pidfd), so that no other is ever meant."""
    keeper: int
    """A descriptor of the shim."""

    @classmethod
    def find(cls, container: str) -> Contained | None:
        """Return the first process of the container with that ID, if it runs."""
        for pid in _members(container):
            parent = _parent(pid)
            if parent and container not in _cgroup(parent):
                with suppress(ProcessLookupError):  # it has ended just now
                    found = cls(pid, os.pidfd_open(pid), os.pidfd_open(parent))
                    return found if found.poll() is None else None
        return None

    def poll(self) -> int | None:
        """Return None while it runs; what its exit status was only its keeper knows."""
        return -1 if kernel.has_ended(self.process) else None

    def freeze(self) -> None:
        """Let it do nothing until `thaw`. After half a minute the kubelet would find it dead."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to say goodbye, and keep it so (rule 2)."""
        self._end(signal.SIGKILL, timeout=20)

    def stop(self, timeout: float = 20) -> None:
        """Ask it to end, and keep it so (rule 2)."""
        self._end(signal.SIGTERM, timeout)

    def hold(self) -> None:
        """Have its keeper stand still until `let_restart`: it goes on, and whoever wants to end it has to wait."""
        signal.pidfd_send_signal(self.keeper, signal.SIGSTOP)

    def let_restart(self) -> None:
        """Have the kubelet hear that it has ended, if it has."""
        with suppress(ProcessLookupError):  # the pod itself is gone
            signal.pidfd_send_signal(self.keeper, signal.SIGCONT)

    def _end(self, number: int, timeout: float) -> None:
        self.hold()
        self._signal(number)
        if not kernel.has_ended(self.process, timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, number)


def _members(container: str) -> Iterator[int]:
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return (pid for pid in pids if container in _cgroup(pid))


def _cgroup(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cgroup").read_text()
    return ""


def _parent(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
