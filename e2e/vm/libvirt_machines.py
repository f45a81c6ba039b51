"""Virtual machines in pods of a real cluster by way of libvirt, as one runs it without any privilege.

Rule 1: the container's user is nobody's; it has no capability, cannot gain any, and has a single device, /dev/net/tun:
        the daemon opens the taps by their names. The daemon is a user's own, qemu:///session.
Rule 2: programs and libraries are Debian's, of the folder that KubeVirt's containers are made from, mounted read-only
        where they belong. The daemon has its settings, socket and state in a folder that container and test share.
Rule 3: a shell is the container's first process. It reaps the processes that libvirt leaves to it, which libvirt waits
        for, and starts the daemon again when that ends.
"""

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e import audit
from e2e.kubevirt import launcher
from e2e.pods import Namespace, Pod
from e2e.vm import machines
from tests import guests, libvirtd

NAME = "vm1"  # of the domain
USER = libvirtd.USER
VM = json.dumps({"libvirt": libvirtd.SESSION, "domain": NAME})
_HOME = "/run/home"
_KEEP_RUNNING = "trap exit TERM; while :; do /usr/sbin/libvirtd >>/run/vm/libvirtd.log 2>&1 & wait $!; sleep 0.1; done"
_KILL = "p=$(pidof libvirtd); kill -9 $p; while [ -e /proc/$p ]; do sleep 0.02; done"
_UNPRIVILEGED = {
    "runAsUser": USER,
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


class Machine(libvirtd.DomainGuest):
    """A pod with a libvirt daemon in it; it is a guest too, once the daemon has one."""

    pod: Pod

    def end(self) -> None:
        """Close the shell, if there was a guest; the rest ends with the pod."""
        guests.Guest.end(self)

    def connect_daemon(self) -> Any:
        """Return the test's own connection to the daemon. Raises libvirt's error while there is none."""
        import libvirt  # noqa: PLC0415 tests are collected without it

        return libvirt.open(f"qemu+unix:///session?socket={self.folder}/home/libvirt/libvirt-sock")

    def start(self) -> None:
        """Define the domain, start it, and wait for its guest."""
        connection = self.connect_daemon()
        connection.defineXML(libvirtd.domain(NAME)).create()
        connection.close()
        self.connect()
        self.wait_booted()

    def wait_daemon(self) -> None:
        """Wait until the daemon answers."""
        give_up = time.monotonic() + guests.LONG_S
        while not self._has_daemon():
            assert time.monotonic() < give_up, (self.folder / "libvirtd.log").read_text(errors="replace")[-4000:]
            time.sleep(0.05)

    def kill_daemon(self) -> None:
        """Kill the daemon and wait for the next one; its machines go on."""
        self.pod.sh(_KILL)
        self.wait_daemon()

    @contextmanager
    def moving(self, to: "Machine") -> Iterator[None]:
        """Migrate the domain, live, by the pods' own network: so slowly that it is under way until the `with` ends."""
        import libvirt  # noqa: PLC0415 as above

        leaving, arriving = self.connect_daemon(), to.connect_daemon()
        domain = leaving.lookupByName(NAME)
        address = to.pod.get()["status"]["podIP"]
        how = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{address}:49152", libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: 1}
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        with ThreadPoolExecutor(1) as thread:
            migration = thread.submit(domain.migrate3, arriving, how, flags)
            while not migration.done() and not domain.jobStats().get("memory_processed"):
                time.sleep(0.02)  # before that, it would set the speed anew
            try:
                yield
            finally:
                if not migration.done():
                    domain.migrateSetMaxSpeed(10_000)  # MiB/s
            migration.result()
        leaving.close()
        arriving.close()
        to.connect()

    def nics_of_domain(self) -> list[int]:
        """Return how many NICs the domain has now, and at its next start."""
        connection = self.connect_daemon()
        try:
            domain = connection.lookupByName(NAME)
            return [domain.XMLDesc(flags).count("<interface ") for flags in (0, 2)]  # VIR_DOMAIN_XML_INACTIVE
        finally:
            connection.close()

    def _has_daemon(self) -> bool:
        import libvirt  # noqa: PLC0415 as above

        try:
            self.connect_daemon().close()
        except libvirt.libvirtError:
            return False
        return True


@contextmanager
def running(namespace: Namespace, name: str, networks: Any = None, node: str = "") -> Iterator[Machine]:
    """Make the pod and wait for its daemon, which has no domain yet."""
    folder = Path(tempfile.mkdtemp(prefix="hotnic-vm-", dir="/tmp"))
    try:
        _fill(folder, name)
        pod = _pod(namespace, name, folder, networks, node)
        machine = Machine(folder, machines.Process(pod))  # type: ignore[arg-type]
        machine.pod = pod
        try:
            machine.wait_daemon()
            yield machine
        finally:
            machine.end()
            pod.delete(grace=1)  # the folder goes when nobody writes there any more, not before
            for one in namespace.api.cluster.nodes:
                audit.wait_clean(one, {pod.uid})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, name: str) -> None:
    for path in (folder / "home/libvirt", folder / "guest"):
        path.mkdir(parents=True)
    guests.initramfs(folder).rename(folder / "guest/initramfs")
    shutil.copyfile(guests.kernel_image(), folder / "guest/kernel")
    for log in ("console.log", "qemu.log", "libvirtd.log"):
        (folder / log).touch()
    (folder / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nvm:x:{USER}:{USER}::{_HOME}:/bin/sh\n")
    # no virtlogd, no folders among the cgroups; two daemons on a machine may migrate if they are told apart
    (folder / "home/libvirt/qemu.conf").write_text('stdio_handler="file"\ncgroup_controllers=[]\n')
    host = uuid.uuid5(uuid.NAMESPACE_DNS, name)
    (folder / "home/libvirt/libvirtd.conf").write_text(f'host_uuid="{host}"\nauth_unix_rw="none"\n')
    os.mknod(folder / "tun", 0o020666, os.makedev(10, 200))
    (folder / "tun").chmod(0o666)  # as udev makes it; this node's own is root's
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)


def _kind(path: Path) -> str:
    """Return what kubelet has to find there, so that it never makes it anew."""
    if path.is_dir():
        return "Directory"
    return "CharDevice" if path.is_char_device() else "File"


def _pod(namespace: Namespace, name: str, folder: Path, networks: Any, node: str) -> Pod:
    debian = launcher.root()
    places = {"/usr": debian / "usr", "/lib": debian / "usr/lib", "/lib64": debian / "usr/lib64",
              "/etc/passwd": folder / "passwd", "/run/guest": folder / "guest"}  # fmt: skip
    writable = {"/run/vm": folder, _HOME: folder / "home", "/dev/net/tun": folder / "tun"}
    mounts = [
        {"name": f"v{number}", "mountPath": place, "readOnly": place in places}
        for number, place in enumerate([*places, *writable])
    ]
    volumes = [
        {"name": f"v{number}", "hostPath": {"path": str(path), "type": _kind(path)}}
        for number, path in enumerate([*places.values(), *writable.values()])
    ]
    home = ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    more: dict[str, Any] = {"nodeName": node} if node else {}
    environment = {"PATH": "/bin:/usr/bin:/usr/sbin", **dict.fromkeys(home, _HOME)}
    return namespace.pod(
        name, networks, annotations={machines.ANNOTATION: VM}, command=["sh", "-c", _KEEP_RUNNING],
        securityContext=_UNPRIVILEGED, env=[{"name": key, "value": value} for key, value in environment.items()],
        volumeMounts=mounts, volumes=volumes, **more,
    )  # fmt: skip
