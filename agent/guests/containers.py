"""Where the files of a pod's containers are, as the agent sees them.

Rules
1. Asked of the container runtime each time: containers restart. Nothing is kept.
2. A process ID may have been given to another process meanwhile: the root is only used while it is held open, and
   after the process was seen to be in the pod's network namespace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent import cri, netns
from agent.model import NotReady
from agent.sandboxes import Sandbox


class Containers:
    """Finds the root directories of running containers."""

    def __init__(self, runtime: cri.Runtime | None, view: netns.View) -> None:
        self._runtime = runtime
        self._view = view

    @contextmanager
    def root(self, sandbox: Sandbox, name: str) -> Iterator[Path]:
        """Yield the root directory of a running container of the sandbox; `name` "" where it has one only.

        Raises NotReady where there is none, or the runtime does not answer.
        """
        process = self._process(sandbox, name)
        place = Path(self._view.place(f"/proc/{process}"))
        try:
            root = os.open(place / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as problem:
            raise _unreachable(f"its process {process} is gone: {problem.strerror}") from None
        try:
            self._refuse_stranger(sandbox, place, process)
            yield Path(f"/proc/self/fd/{root}")
        finally:
            os.close(root)

    def _process(self, sandbox: Sandbox, name: str) -> int:
        if self._runtime is None:
            raise _unreachable("the agent has no container runtime to ask (--cri)")
        try:
            running = self._runtime.containers(sandbox.id)
            found = running.get(name) if name else _only(running)
            process = self._runtime.process(found) if found else 0
        except cri.RuntimeUnavailable as problem:
            raise NotReady("RuntimeUnavailable", f"container runtime: {problem}") from None
        if not process:
            raise _unreachable(f"container {name} does not run" if name else "no container of the pod runs")
        return process

    @staticmethod
    def _refuse_stranger(sandbox: Sandbox, place: Path, process: int) -> None:
        try:
            there = os.stat(place / "ns/net")
        except OSError as problem:
            raise _unreachable(f"its process {process} is gone: {problem.strerror}") from None
        if (there.st_dev, there.st_ino) != (sandbox.namespace.device, sandbox.namespace.inode):
            raise _unreachable(f"process {process} is not in the pod any more")


def _only(running: Mapping[str, str]) -> str | None:
    if len(running) > 1:
        names = ", ".join(sorted(running))
        raise _unreachable(f"the pod has several containers ({names}): annotation hotnic.dev/vm must name one")
    return next(iter(running.values()), None)


def _unreachable(why: str) -> NotReady:
    return NotReady("VMUnreachable", f"the virtual machine cannot be reached: {why}")
