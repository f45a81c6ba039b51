"""One virtual machine: QEMU without KVM, which runs where nested virtualisation does not, and ends in any case.

Rule 1: the guest sees the machine's files, read only; nothing that it does is to be seen outside, but for what it
        prints on its second serial line (the caller's output) and on its third (the exit status of its command).
Rule 2: it ends with its command, with its kernel's panic, after `timeout` seconds, or with the thread that started it.
Rule 3: an emulated kernel may sleep for ever while it boots, on a machine that is very busy: its timers are lost. One
        that has not come up within BOOT_S is started anew.
"""

import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e import debs, kernel

QEMU = ("qemu-system-x86",)
KERNEL = ("linux-image-amd64",)
BOOT_S, BOOTS = 240.0, 3
UP = "hotnic guest: up"  # first.sh says so on the console
_MEMORY = "2048M"


class Ended(Exception):
    """The guest is gone and its command's exit status is not known; the message says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is booted, and the folder that its files of this run are in."""

    qemu: Path
    kernel: Path
    initramfs: Path
    folder: Path

    def command(self) -> list[str]:
        """Return QEMU's command line: an emulated PC with two CPUs and two cards that have virtual functions."""
        boot = "console=ttyS0 loglevel=4 panic=-1 net.ifnames=0 mitigations=off"
        files = "local,path=/,mount_tag=machine,security_model=none,readonly=on,multidevs=remap"
        share = self.qemu / "usr/share"
        return [
            "qemu-system-x86_64", "-L", f"{share}/seabios", "-L", f"{share}/qemu",
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", _MEMORY,
            "-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", boot,
            "-virtfs", files,
            "-serial", f"file:{self.console}", "-serial", "chardev:output", "-serial", f"file:{self.status}",
            "-chardev", "stdio,id=output,signal=off",
            *self._card(1, 2), *self._card(2, 1),
        ]  # fmt: skip

    def _card(self, number: int, other: int) -> list[str]:
        """Return the options for an Intel 82576, which has 7 virtual functions, with a cable to the other one."""
        line = f"dgram,id=line{number},local.type=unix,local.path={self.folder}/line{number}"
        return [
            "-device", f"pcie-root-port,id=port{number},chassis={number},slot={number},bus=pcie.0",
            "-netdev", f"{line},remote.type=unix,remote.path={self.folder}/line{other}",
            "-device", f"igb,netdev=line{number},bus=port{number},mac=02:00:00:00:10:{number:02x},romfile=",
        ]  # fmt: skip

    @property
    def console(self) -> Path:
        """What the guest's kernel says."""
        return self.folder / "console.log"

    @property
    def status(self) -> Path:
        """The exit status of the guest's command, once it has ended."""
        return self.folder / "status"

    def run(self, timeout: float, output: Callable[[bytes], None]) -> int:
        """Boot, pass on what the command prints, and return its exit status.

        Raises Ended if there is none: the guest died, or had to be ended after `timeout` seconds.
        """
        for _ in range(BOOTS):
            said = self._booted(timeout, output)
            if said is not None:
                return self._outcome(said)
        return self._outcome(f"the guest did not come up within {BOOT_S:.0f} s, {BOOTS} times")

    def _booted(self, timeout: float, output: Callable[[bytes], None]) -> str | None:
        """Boot once, until the end; return what went wrong, if anything, or None where it never came up (rule 3)."""
        late, asleep = threading.Event(), threading.Event()
        self.console.unlink(missing_ok=True)
        with subprocess.Popen(
            [*kernel.ENDS_WITH_PARENT, *self.command()], env=debs.environment(self.qemu),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            timers: list[threading.Timer] = []
            try:  # at once: whoever is told to end just now must not wait for the guest
                timers.append(_started(timeout, lambda: _end(process, late)))
                timers.append(_started(min(BOOT_S, timeout), lambda: self._is_asleep() and _end(process, asleep)))
                assert process.stdout is not None
                while chunk := os.read(process.stdout.fileno(), 65536):
                    output(chunk)
            finally:
                process.kill()
                for timer in timers:
                    timer.cancel()
        if asleep.is_set() and timeout > BOOT_S:
            return None
        return f"the guest did not end within {timeout:.0f} s" if late.is_set() or asleep.is_set() else ""

    def _is_asleep(self) -> bool:
        return not self.console.exists() or UP not in self.console.read_text(errors="replace")

    def _outcome(self, failure: str) -> int:
        said = self.status.read_text().strip() if self.status.exists() else ""
        if failure or not said.isdigit():
            last = self.console.read_text(errors="replace")[-3000:] if self.console.exists() else ""
            raise Ended(f"{failure or said or 'the guest died'}; the last it said:\n{last}")
        return int(said)


def _started(seconds: float, action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


def _end(process: subprocess.Popen[bytes], why: threading.Event) -> bool:
    why.set()
    process.kill()
    return True
