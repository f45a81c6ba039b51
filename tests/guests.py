"""Real virtual machines for tests: QEMU without KVM, Debian's cloud kernel, a guest of busybox and the guest agent.

    with guests.started(folder, prefix=["ip", "netns", "exec", "n1"]) as guest:     about 2 s
        guest.qmp, guest.agent                  Unix sockets of the monitor and of the guest's agent: the tested code's
        guest.monitor("stop")                   a second monitor, the test's own
        guest.run("ip link set eth0 up")        in the guest; returns what it printed
        guest.nics()                            {MAC: name}, as the guest lists them

For other starters of QEMU (libvirt, a pod): `qemu()` is the unpacked packages, for `e2e.debs.environment`;
`kernel_image()`, `initramfs()` and `BOOT` are what a guest boots from: its console is the first serial line, its shell
the second.

Rule 1: nothing is installed: packages are unpacked into the cache (e2e.debs). All else lies in the folder given.
Rule 2: a guest dies with the thread that started it. It has a CPU, 160 MB and no disk: nothing that it does stays.
Rule 3: Q35 has root ports rp1 to rp4, all free; PC has the one bus of the old chipset. TCG always: a /dev/kvm may be
        there and not work.
"""

import functools
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e import debs, kernel
from e2e.guest import initramfs as cpio

QEMU = ("qemu-system-x86",)
KERNEL = ("linux-image-cloud-amd64",)
AGENT = ("qemu-guest-agent",)
BOOT = "console=ttyS0 quiet loglevel=3 panic=-1 net.ifnames=0"
DEAF = "acpiphp.disable=1"  # on PC: the guest never hears that a device comes or is to go
PORTS = ("rp1", "rp2", "rp3", "rp4")
LONG_S = 60.0  # for a guest on a machine that is busy with something else

_MODULES = ("virtio_pci", "virtio_net", "virtio_console")
_APPLETS = (
    "[", "awk", "cat", "cut", "echo", "grep", "head", "insmod", "ip", "kill", "ls", "mkdir", "mount", "nc", "ping",
    "poweroff", "ps", "rm", "sed", "setsid", "sh", "sleep", "stty", "test", "touch", "true", "uname", "wc",
)  # fmt: skip
_INIT = """#!/bin/sh
# The guest's only script: its modules, its agent on the virtio port of that name, and a shell for the test.
export PATH=/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
for module in /modules/*; do insmod "$module"; done
ip link set lo up
for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] && [ -e /bin/qemu-ga ] && [ "$(cat "$port/name")" = org.qemu.guest_agent.0 ] &&
        LD_LIBRARY_PATH=/lib setsid /bin/qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /run -f /run/qga.pid \\
            >/dev/null 2>&1 &
done
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo READY >&3
while read -r mark line <&3; do (eval "$line") >&3 2>&1 </dev/null; echo "$mark=$?" >&3; done
poweroff -f
"""


def qemu(*, backports: bool = False) -> Path:
    """Return the folder that QEMU is unpacked in: Debian's own or, with `backports`, a later one."""
    return debs.unpacked(*QEMU, backports=backports)


def kernel_image() -> Path:
    """Return the kernel that a guest boots."""
    return next((debs.unpacked(*KERNEL) / "boot").glob("vmlinuz-*"))


def initramfs(folder: Path, *, agent: bool = True) -> Path:
    """Write the guest's files into `folder` and return the archive, some 9 MB; without `agent` no guest agent in it."""
    target = folder / ("guest.cpio" if agent else "deaf.cpio")
    target.write_bytes(_archive(agent=agent))
    return target


@functools.cache
def _archive(*, agent: bool) -> bytes:
    modules = cpio.modules(debs.unpacked(*KERNEL))
    order = cpio.load_order(_MODULES, (modules / "modules.dep").read_text())
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    folders = [cpio.Entry(name, stat.S_IFDIR | 0o755)
               for name in ("bin", "dev", "lib", "lib64", "modules", "proc", "run", "sys")]  # fmt: skip
    applets = [cpio.Entry(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in _APPLETS]
    files = {"init": _INIT.encode(), "bin/busybox": busybox.read_bytes(), **(_guest_agent() if agent else {})}
    for number, name in enumerate(order):
        files[f"modules/{number:02}-{Path(name).name}"] = (modules / name).read_bytes()
    contents = [cpio.Entry(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    return cpio.archive([*folders, *applets, *contents])


def _guest_agent() -> dict[str, bytes]:
    """Return the agent and the libraries that it is linked with, by their place in the guest."""
    package = debs.unpacked(*AGENT)
    program = package / "usr/sbin/qemu-ga"
    done = subprocess.run(["ldd", program], env=debs.environment(package), capture_output=True, text=True, check=True)
    libraries = [Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)]
    loader = "lib64/ld-linux-x86-64.so.2"
    found = {f"lib/{path.name}": path.read_bytes() for path in libraries if not path.name.startswith("ld-")}
    return {"bin/qemu-ga": program.read_bytes(), loader: Path("/", loader).read_bytes(), **found}


@dataclass(slots=True)
class Guest:
    """A running guest."""

    folder: Path
    process: subprocess.Popen[bytes]
    _shell: socket.socket = field(init=False)
    _monitor: Any = field(init=False)

    @property
    def qmp(self) -> Path:
        """The monitor that the tested code has for itself."""
        return self.folder / "qmp.sock"

    @property
    def other_qmp(self) -> Path:
        """One more monitor, for two that do the same at once."""
        return self.folder / "other.sock"

    @property
    def agent(self) -> Path:
        """The guest agent's socket."""
        return self.folder / "qga.sock"

    @property
    def console(self) -> str:
        """What the guest's kernel and QEMU have said."""
        return "".join((self.folder / name).read_text(errors="replace") for name in ("console.log", "qemu.log"))

    def connect(self) -> None:
        """Open the shell and the test's monitor, as soon as QEMU has made them."""
        self._shell, client = self._connected("shell"), self._connected("test")
        with client:
            self._monitor = client.makefile("rwb")
        assert self._monitor.readline(), f"QEMU does not start:\n{self.console}"
        self.monitor("qmp_capabilities")

    def _connected(self, name: str) -> socket.socket:
        give_up = time.monotonic() + LONG_S
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(LONG_S)
        while client.connect_ex(str(self.folder / f"{name}.sock")):  # it is bound a moment before it listens
            if self.process.poll() is not None or time.monotonic() > give_up:
                client.close()
                raise AssertionError(f"QEMU does not start:\n{self.console}")
            time.sleep(0.01)
        return client

    def wait_booted(self) -> None:
        """Wait for the guest's shell."""
        self._read_until(rb"READY\r?\n")

    def monitor(self, command: str, **arguments: Any) -> Any:
        """Say something to QEMU by the test's own monitor; underscores are dashes. Raises AssertionError if refused."""
        plain = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._monitor.write(json.dumps({"execute": command, "arguments": plain, "id": "t"}).encode())
        self._monitor.flush()
        while True:
            line = self._monitor.readline()
            assert line, f"QEMU is gone:\n{self.console}"
            answer = json.loads(line)
            if answer.get("id") == "t":
                assert "error" not in answer, answer["error"]
                return answer["return"]

    def run(self, command: str, *, check: bool = True) -> str:
        """Run one line of shell in the guest and return what it printed. Raises AssertionError where it fails."""
        mark = uuid.uuid4().hex[:8]
        self._shell.sendall(f"{mark} {command}\n".encode())
        printed, status = self._read_until(rf"{mark}=(\d+)\r?\n".encode())
        if check and status != "0":
            raise AssertionError(f"{command}: exit {status}: {printed}")
        return printed

    def nics(self) -> dict[str, str]:
        """Return the guest's own list of its NICs: the name by the MAC."""
        listed = self.run("cd /sys/class/net; for n in *; do echo $n $(cat $n/address 2>/dev/null); done")
        pairs = [words for line in listed.splitlines() if len(words := line.split()) == 2]  # one may just be going
        return {mac: name for name, mac in pairs if name != "lo"}

    def wait_nic(self, mac: str, *, there: bool = True, seconds: float = LONG_S) -> str:
        """Wait until the guest lists the NIC, or no longer does; return its name."""
        give_up = time.monotonic() + seconds
        while (mac in (nics := self.nics())) != there:
            assert time.monotonic() < give_up, f"the guest has {nics}; {mac} {'is not' if there else 'is'} among them"
            time.sleep(0.005)
        return nics.get(mac, "")

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        for one in ("_shell", "_monitor"):
            if hasattr(self, one):
                getattr(self, one).close()

    def _read_until(self, pattern: bytes) -> tuple[str, str]:
        found, heard = None, b""
        while found is None:
            try:
                chunk = self._shell.recv(65536)
            except TimeoutError:
                raise AssertionError(f"the guest does not answer: {heard!r}\n{self.console}") from None
            assert chunk, f"the guest is gone: {heard!r}\n{self.console}"
            heard += chunk
            found = re.search(pattern, heard)
        status = found.group(1).decode() if found.groups() else ""
        return heard[: found.start()].replace(b"\r", b"").decode(errors="replace"), status


def command(
    folder: Path, machine: str = "q35", *, program: Path | None = None, boot: str = "", agent: bool = True,
    incoming: str = "",
) -> list[str]:  # fmt: skip
    """Return the command line of a guest with its files in `folder`, for `e2e.debs.environment(program)`.

    `program`: what `qemu` returned.
    """
    program = program or qemu()
    share = program / "usr/share"
    ports = [
        word
        for number, port in enumerate(PORTS)
        for word in ("-device", f"pcie-root-port,id={port},chassis={number + 1},slot={number + 1},bus=pcie.0,"
                                f"addr=0x10.{number}" + (",multifunction=on" if number == 0 else ""))
    ]  # fmt: skip
    monitors = [
        word for name in ("qmp", "other", "test") for word in ("-qmp", f"unix:{folder}/{name}.sock,server=on,wait=off")
    ]
    return [
        str(program / "usr/bin/qemu-system-x86_64"), "-name", "vm", "-L", f"{share}/seabios", "-L", f"{share}/qemu",
        "-M", machine, "-accel", "tcg", "-m", "160", "-nodefaults", "-no-user-config", "-nographic",
        "-kernel", str(kernel_image()), "-initrd", str(initramfs(folder, agent=agent)), "-append", f"{BOOT} {boot}",
        "-serial", f"file:{folder}/console.log",
        "-chardev", f"socket,id=shell,path={folder}/shell.sock,server=on,wait=off", "-serial", "chardev:shell",
        *monitors,
        "-chardev", f"socket,id=agent,path={folder}/qga.sock,server=on,wait=off", "-device", "virtio-serial-pci",
        "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        *(ports if machine == "q35" else []), *(["-incoming", incoming] if incoming else []),
    ]  # fmt: skip


@contextmanager
def started(folder: Path, machine: str = "q35", *, prefix: Sequence[str] = (), **options: Any) -> Iterator[Guest]:
    """Start a guest as `command` says, in whatever `prefix` leads to, and wait until it is up; end it.

    An `incoming` one is not waited for: its shell answers once it runs.
    """
    folder.mkdir(exist_ok=True, parents=True)
    line = [*prefix, *command(folder, machine, **options)]
    env = debs.environment(options.get("program") or qemu())
    (folder / "console.log").touch()
    with (folder / "qemu.log").open("wb") as log:
        guest = Guest(folder, subprocess.Popen(
            [*kernel.ENDS_WITH_PARENT, *line], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        ))  # fmt: skip
    try:
        guest.connect()
        if not options.get("incoming"):
            guest.wait_booted()
        yield guest
    finally:
        guest.end()


def processes(folder: Path) -> list[int]:
    """Return the processes that name `folder` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(folder) in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
