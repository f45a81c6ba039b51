"""Virtual machines in pods of a real cluster, without KubeVirt: QEMU runs as the pod's only container.

Rule 1: QEMU is Debian's, of the folder that KubeVirt's containers are made from, mounted into the container. That has
        no device and no privilege; the one capability that it is given is for post-copy migration.
Rule 2: monitor, guest agent and the guest's shell are sockets in a folder that container and test share.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.kubevirt import launcher
from e2e.pods import Namespace, Pod
from tests import guests

ROOT, FOLDER = "/debian", "/run/vm"  # in the container
ANNOTATION = "hotnic.dev/vm"
QMP = f'{{"qmp": "{FOLDER}/qmp.sock", "guestAgent": "{FOLDER}/qga.sock"}}'
_LIBRARIES = f"{ROOT}/usr/lib/x86_64-linux-gnu"
_START = [f"{_LIBRARIES}/ld-linux-x86-64.so.2", "--library-path", _LIBRARIES, f"{ROOT}/usr/bin/qemu-system-x86_64",
          "-L", f"{ROOT}/usr/share/qemu", "-L", f"{ROOT}/usr/share/seabios"]  # fmt: skip


class Process:
    """The pod's QEMU, as tests.guests wants its processes: it ends with the pod."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def poll(self) -> int | None:
        return None if self._pod.get()["status"]["phase"] in {"Pending", "Running"} else 1

    def kill(self) -> None:
        """It goes with its pod."""

    def wait(self) -> int:
        return 0


class Machine(guests.Guest):
    """A pod with a guest in it."""

    pod: Pod


@contextmanager
def running(
    namespace: Namespace, name: str, *, wait: bool = True, networks: Any = None, vm: str = QMP, node: str = "",
    **options: Any,
) -> Iterator[Machine]:  # fmt: skip
    """Make the pod and start its guest, and wait for it if told so; `options` as those of tests.guests.command."""
    folder = Path(tempfile.mkdtemp(prefix="hotnic-vm-", dir="/tmp"))
    try:
        pod = _pod(namespace, name, folder, networks, vm, node, _command(folder, **options))
        machine = Machine(folder, Process(pod))  # type: ignore[arg-type]
        machine.pod = pod
        try:
            machine.connect()
            if wait:
                machine.wait_booted()
            yield machine
        finally:
            machine.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(folder: Path, **options: Any) -> list[str]:
    (folder / "console.log").touch()
    (folder / "qemu.log").touch()
    kernel = guests.kernel_image()
    shutil.copyfile(kernel, folder / "vmlinuz")
    words = guests.command(folder, **options)[1:]
    words = [word.replace(str(kernel), f"{FOLDER}/vmlinuz").replace(str(folder), FOLDER) for word in words]
    return [*_START, *words]


def _pod(namespace: Namespace, name: str, folder: Path, networks: Any, vm: str, node: str, command: list[str]) -> Pod:
    os.chmod(folder, 0o755)  # noqa: PTH101 nothing in it is secret
    mounts = [{"name": "debian", "mountPath": ROOT, "readOnly": True}, {"name": "vm", "mountPath": FOLDER}]
    volumes = [{"name": "debian", "hostPath": {"path": str(launcher.root())}},
               {"name": "vm", "hostPath": {"path": str(folder), "type": "Directory"}}]  # fmt: skip
    more: dict[str, Any] = {"nodeName": node} if node else {}
    more["securityContext"] = {"capabilities": {"add": ["SYS_PTRACE"]}}  # post-copy migration asks for userfaultfd
    more["env"] = [{"name": "QEMU_MODULE_DIR", "value": f"{_LIBRARIES}/qemu"}]
    return namespace.pod(
        name, networks, annotations={ANNOTATION: vm}, command=command, volumeMounts=mounts, volumes=volumes, **more
    )
