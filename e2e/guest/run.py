"""Run tests on a whole kernel: `python -m e2e.guest.run [--timeout S] [--] [PYTEST ARGUMENTS]`.

This machine's kernel may lack what a node's has: bridge VLANs, 8021q, ipvlan, the Open vSwitch datapath, cards with
virtual functions. Here Debian's kernel is booted in an emulated machine, on the very files of this one: the same
tree, interpreter and tools, at the same paths. Without arguments it runs the tests that this kernel cannot run.

Rule 1: what is fetched lies in the cache; the run's own files are in a temporary folder, and go with it.
Rule 2: in there `HOTNIC_FULL_KERNEL` is set: a test that would be skipped for want of a kernel feature fails.
Rule 3: the exit status is pytest's; 70 says that the guest died, or was ended because it took too long.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from e2e import build, debs
from e2e.guest import initramfs
from e2e.guest.machine import KERNEL, QEMU, Ended, Machine
from e2e.progress import say

_TREE = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).resolve().parent
_PASSED_ON = ("HOME", "PATH", "LANG", "XDG_CACHE_HOME", "HYPOTHESIS_PROFILE")
_DIED = 70


def main(arguments: Sequence[str]) -> int:
    """Fetch, boot, run; return the exit status of rule 3."""
    parser = argparse.ArgumentParser(prog="python -m e2e.guest.run", description="Run tests on a whole kernel.")
    parser.add_argument("--timeout", type=float, default=2700, help="end the guest after so many seconds")
    parser.add_argument("pytest", nargs="*", help="pytest's arguments, after --")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwind: the folder goes, and QEMU
    build.tools()
    debs.unpacked(*debs.OPENVSWITCH)
    with tempfile.TemporaryDirectory(prefix="hotnic-guest-") as folder:
        names = Path(folder, "tests")
        if not asked.pytest:
            names.write_text("\n".join(skipped_here()))
        machine = prepared(Path(folder), pytest_command(asked.pytest or ["-q", "--durations=5", f"@{names}"]))
        try:
            code = machine.run(asked.timeout, _print)
        except Ended as error:
            say(str(error))
            return _DIED
    say(f"guest: pytest's exit status {code}")
    return code


def pytest_command(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs pytest in the guest, with no more of the environment than it needs."""
    passed_on = [f"{name}={os.environ[name]}" for name in _PASSED_ON if name in os.environ]
    own = ["HOTNIC_FULL_KERNEL=1", "TMPDIR=/dev/shm", "PYTHONUNBUFFERED=1"]
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    colour = f"--color={'yes' if sys.stdout.isatty() else 'no'}"  # in there it writes to a terminal in any case
    return ["env", "-i", *passed_on, *own, *pytest, colour, *arguments]


def skipped_here() -> list[str]:
    """Return the tests that this machine's kernel cannot run, by the names that pytest gives them."""
    options = ["-p", "no:cacheprovider", "-p", "tests.skipped_here", "-q", "--collect-only"]
    collect = [sys.executable, "-m", "pytest", *options, "tests"]
    done = subprocess.run(collect, cwd=_TREE, capture_output=True, text=True, check=False)
    names = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode or not names:
        raise OSError(f"pytest cannot collect the tests:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return names


def prepared(folder: Path, command: Sequence[str]) -> Machine:
    """Return a machine that is to run `command` in this tree, with its files of this run in `folder`."""
    qemu, kernel = debs.unpacked(*QEMU, backports=True), debs.unpacked(*KERNEL)
    modules = initramfs.modules(kernel)
    say(f"guest: Linux {modules.name}, emulated; its first line takes some 20 s")
    order = initramfs.load_order(initramfs.MODULES, (modules / "modules.dep").read_text())
    settings = {"TREE": str(_TREE), "KERNEL": str(kernel), "COMMAND": shlex.join(command)}
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    entries = initramfs.entries(busybox, _HERE / "first.sh", lines, [modules / file for file in order])
    archive = folder / "initramfs"
    archive.write_bytes(initramfs.archive(entries))
    return Machine(qemu, kernel / f"boot/vmlinuz-{modules.name}", archive, folder)


def _print(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
