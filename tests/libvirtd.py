"""A real libvirt daemon for tests, as it runs in a pod: in a network namespace, a root and processes of its own.

    with libvirtd.running(folder, netns) as daemon:         an unprivileged one, qemu:///session: some 2 s
        daemon.root, libvirtd.SESSION       where its socket is: as the agent sees a container, and its path in there
        daemon.connect()                    the test's own connection
        daemon.start(xml) -> guest          a domain that is defined and started, with the shell of tests/guests.py
        daemon.restart(), .freeze(), .thaw()

Rule 1: nothing is installed: Debian's packages lie over /usr in the daemon's mount namespace. There is no systemd, no
        virtlogd, no polkit and no dnsmasq, and the daemon does without.
Rule 2: the daemon is a child of the init of a PID namespace, which starts it again when it ends. With that init, which
        dies with the thread that started it, all ends: daemon, machines, mounts.
Rule 3: guests are emulated (`<domain type='qemu'>`): a /dev/kvm may be there and not work.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e import debs, kernel
from tests import guests

PACKAGES = ("libvirt-daemon", "libvirt-daemon-driver-qemu")
USER = 64055  # of the unprivileged daemon; nobody's number on this machine
SESSION, SYSTEM = "/run/home/libvirt/libvirt-sock", "/run/libvirt/libvirt-sock"
PORTS = ("pci.1", "pci.2", "pci.3", "pci.4")
_START_S = 60
_HERE = Path(__file__).resolve()


@dataclass(slots=True)
class Daemon:
    """A running daemon; `init` is the process that it is a child of."""

    folder: Path
    init: subprocess.Popen[bytes]
    user: int
    _guests: list["DomainGuest"] = field(default_factory=list)

    @property
    def socket(self) -> str:
        """Where its socket is, as seen in its own root."""
        return SESSION if self.user else SYSTEM

    @property
    def root(self) -> Path:
        """Its root, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def pid(self) -> int:
        """The daemon's process. Raises AssertionError while there is none."""
        for child in _children(_children(self.init.pid)[0]):
            if Path(f"/proc/{child}/comm").read_text().strip() == "libvirtd":
                return child
        raise AssertionError(f"there is no daemon:\n{self.log()}")

    def connect(self) -> Any:
        """Open a connection of the test's own."""
        import libvirt  # noqa: PLC0415 the packages of a machine without it can still be collected

        kind = "session" if self.user else "system"
        return libvirt.open(f"qemu+unix:///{kind}?socket={self.root}{self.socket}")

    def start(self, name: str = "vm1", **options: Any) -> guests.Guest:
        """Define a domain, start it, and wait until its guest is up."""
        connection = self.connect()
        connection.defineXML(domain(name, **options)).create()
        connection.close()
        guest = self.guest()
        guest.wait_booted()
        return guest

    def guest(self) -> guests.Guest:
        """Return the guest of a domain that was started by somebody else, or has come from another daemon."""
        guest = DomainGuest(self.folder, self.init)
        guest.connect()
        self._guests.append(guest)
        return guest

    def end(self) -> None:
        """End all, with the init."""
        self.init.kill()
        self.init.wait()
        for guest in self._guests:
            guest.end()

    def freeze(self) -> None:
        """Let the daemon do nothing until `thaw`; its machines go on."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """End the daemon without a chance to say goodbye; its machines go on, and a new one takes them up."""
        old = self.pid
        os.kill(old, signal.SIGKILL)
        self.wait_ready(but=old)

    def wait_ready(self, but: int = 0) -> None:
        """Wait until it answers."""
        give_up = time.monotonic() + _START_S
        while not self._answers(but):
            if self.init.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"libvirtd does not start:\n{self.log()}")
            time.sleep(0.02)

    def _answers(self, but: int) -> bool:
        import libvirt  # noqa: PLC0415 as above

        try:
            if self.pid == but:
                return False
            self.connect().close()
        except (AssertionError, IndexError, OSError, libvirt.libvirtError):
            return False
        return True

    def log(self) -> str:
        """Return the last that daemon and init have said."""
        return (self.folder / "libvirtd.log").read_text(errors="replace")[-4000:]


@dataclass(repr=False)
class DomainGuest(guests.Guest):
    """A guest that libvirt has started: it has a shell, and no monitor for the test."""

    def end(self) -> None:
        self._shell.close()

    def connect(self) -> None:
        """Open the shell, which is there as soon as the domain is."""
        self._shell = socket.socket(socket.AF_UNIX)
        self._shell.settimeout(guests.LONG_S)
        self._shell.connect(str(self.folder / "shell.sock"))


@contextmanager
def running(folder: Path, netns: str, user: int = USER, hostname: str = "node1") -> Iterator[Daemon]:
    """Start a daemon in the network namespace; `user` 0: root's, qemu:///system. `folder` is /run/vm in there.

    The folder `between` beside it is /run/between in there: for sockets from one daemon's machine to another's.
    """
    for made in (folder, folder.parent / "between"):
        made.mkdir(parents=True, exist_ok=True)
        os.chown(made, user, user)
    guests.initramfs(folder)
    settings = {"folder": str(folder), "user": user, "hostname": hostname, "kernel": str(guests.kernel_image()),
                "packages": [str(debs.unpacked(*PACKAGES)), str(guests.qemu())]}  # fmt: skip
    namespaces = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL"]
    command = ["ip", "netns", "exec", Path(netns).name, *namespaces, sys.executable, str(_HERE), json.dumps(settings)]
    with (folder / "libvirtd.log").open("wb") as log:
        init = subprocess.Popen(
            [*kernel.ENDS_WITH_PARENT, *command], env={**os.environ, "PYTHONPATH": str(_HERE.parents[1])},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    for file in ("console.log", "qemu.log"):
        (folder / file).touch()
        os.chown(folder / file, user, user)
    daemon = Daemon(folder, init, user)
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        daemon.end()


def domain(name: str, *, agent: bool = True, machine: str = "q35") -> str:
    """Return the XML of a domain with root ports to spare, as KubeVirt makes them."""
    ports = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 5))
    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    return f"""<domain type='qemu'><name>{name}</name><uuid>{uuid.uuid5(uuid.NAMESPACE_DNS, name)}</uuid>
<memory unit='MiB'>160</memory><vcpu>1</vcpu><features><acpi/></features>
<os><type arch='x86_64' machine='{machine}'>hvm</type>
<kernel>/run/guest/kernel</kernel><initrd>/run/guest/initramfs</initrd><cmdline>{guests.BOOT}</cmdline></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>
{ports if machine == "q35" else ""}<controller type='virtio-serial' index='0'/>
<serial type='file'><source path='/run/vm/console.log'/></serial>
<serial type='unix'><source mode='bind' path='/run/vm/shell.sock'/></serial>
{channel if agent else ""}<memballoon model='none'/></devices></domain>"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _be_init(settings: dict[str, Any]) -> None:
    """Give this process, the init of a new PID namespace, its mounts; start the daemon whenever there is none."""
    folder, user = Path(settings["folder"]), settings["user"]
    kernel.die_with_parent()
    kernel.set_hostname(settings["hostname"])
    kernel.mount("none", Path("/"), flags=kernel.MS_PRIVATE | kernel.MS_REC)
    for below in ("/usr", "/usr/lib/x86_64-linux-gnu"):  # some packages have their libraries in /lib, which is in /usr
        places = [_place(Path(package), below) for package in settings["packages"]]
        kernel.mount(
            "overlay",
            Path(below),
            "overlay",
            0,
            "lowerdir=" + ":".join([*(str(place) for place in places if place.is_dir()), below]),
        )
    kernel.mount("proc", Path("/proc"), "proc")  # /sys is the network namespace's already, by `ip netns exec`
    for path in map(Path, ("/run", "/dev/net", "/var")):
        kernel.mount("tmpfs", path, "tmpfs")
    for path in map(Path, ("/run/vm", "/run/between", "/run/guest", "/run/home", "/var/cache", "/var/lib", "/var/log")):
        path.mkdir(mode=0o755)
    os.mknod("/dev/net/tun", 0o020666, os.makedev(10, 200))
    Path("/dev/net/tun").chmod(0o666)
    kernel.bind(folder, Path("/run/vm"))
    kernel.bind(folder.parent / "between", Path("/run/between"))
    for name, source in (("kernel", settings["kernel"]), ("initramfs", folder / "guest.cpio")):
        target = Path("/run/guest", name)
        target.touch()
        kernel.bind(Path(source), target)  # an unprivileged daemon could not walk to where it lies
    _configure(user, settings["hostname"])
    for path in (Path("/run/home"), *Path("/run/home").rglob("*")):
        os.chown(path, user, user)
    _keep_running(user)


def _place(package: Path, below: str) -> Path:
    return package / ("usr" if below == "/usr" else below.removeprefix("/usr/"))


def _configure(user: int, hostname: str) -> None:
    for folder in map(Path, ("/run/etc/upper", "/run/etc/work")):
        folder.mkdir(parents=True)
    kernel.mount("overlay", Path("/etc"), "overlay", 0, "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {hostname}\n")  # else it asks a name server, and waits
    users = {"root": 0, "libvirt-qemu": USER, "kvm": USER + 1}  # root's daemon asks for the second, used or not
    Path("/etc/passwd").write_text("".join(f"{name}:x:{one}:{one}::/run/home:/bin/sh\n" for name, one in users.items()))
    Path("/etc/group").write_text("".join(f"{name}:x:{one}:\n" for name, one in users.items()))
    folder = Path("/run/home/libvirt" if user else "/etc/libvirt")
    folder.mkdir(exist_ok=True)
    # no virtlogd; no other user for QEMU, whom it would probe for KVM again and again; no folders among the cgroups
    root = "" if user else 'user="root"\ngroup="root"\n'
    (folder / "qemu.conf").write_text(f'stdio_handler="file"\ncgroup_controllers=[]\n{root}')
    host = uuid.uuid5(uuid.NAMESPACE_DNS, hostname)
    (folder / "libvirtd.conf").write_text(f'host_uuid="{host}"\nauth_unix_rw="none"\n')  # two on a machine may migrate


def _keep_running(user: int) -> None:
    home = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), "/run/home")
    environment = {**os.environ, **(home if user else {})}
    environment.pop("PYTHONPATH")
    while True:
        daemon = subprocess.Popen(
            ["/usr/sbin/libvirtd"], env=environment, cwd="/", user=user, group=user, extra_groups=[]
        )
        while os.wait()[0] != daemon.pid:  # the machines' processes, and those that probe, end here too
            pass
        daemon.returncode = 0
        time.sleep(0.1)  # one that cannot start is not tried in a busy loop


if __name__ == "__main__":
    _be_init(json.loads(sys.argv[1]))
