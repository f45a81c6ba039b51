"""Connections to virtual machines: the pod's container is found, and what answers in it is spoken to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.guests import libvirt, qemu, wish
from agent.guests.containers import Containers
from agent.guests.contract import Machine
from agent.sandboxes import Sandbox


class Dialler:
    """Connects for the time of a `with`."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    @contextmanager
    def connected(self, sandbox: Sandbox, asked: wish.Wish) -> Iterator[Machine]:
        """Yield a connection to the virtual machine of the sandbox. Raises NotReady where there is none."""
        with self._containers.root(sandbox, asked.container) as root:
            machine: Machine = (
                qemu.connect(root, asked) if isinstance(asked, wish.Qemu) else libvirt.connect(root, asked)
            )
            try:
                yield machine
            finally:
                machine.close()
