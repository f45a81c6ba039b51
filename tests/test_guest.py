"""The guest of `make test-kernel`: what it does for its caller, and that nothing is left of it however it ends."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import kernel
from e2e.guest import initramfs, run
from e2e.guest.machine import Ended
from tests.guests import processes

TREE = Path(__file__).resolve().parents[1]


def test_modules_come_after_those_that_they_need():
    listed = "kernel/a.ko: kernel/b.ko kernel/c-d.ko\nkernel/b.ko: kernel/c-d.ko\nkernel/c-d.ko:\nkernel/e.ko:\n"
    assert initramfs.load_order(["a"], listed) == ("kernel/c-d.ko", "kernel/b.ko", "kernel/a.ko")
    assert initramfs.load_order(["c_d", "a", "e"], listed) == (
        "kernel/c-d.ko", "kernel/b.ko", "kernel/a.ko", "kernel/e.ko",
    )  # fmt: skip
    with pytest.raises(KeyError):
        initramfs.load_order(["f"], listed)


def test_the_archive_is_unpacked_by_another_implementation(tmp_path):
    entries = [
        initramfs.Entry("bin", stat.S_IFDIR | 0o755),
        initramfs.Entry("bin/true", stat.S_IFREG | 0o755, b"#!/bin/sh\n"),
        initramfs.Entry("bin/yes", stat.S_IFLNK | 0o777, b"true"),
        initramfs.Entry("odd", stat.S_IFREG | 0o600, b"12345"),
    ]
    unpack = ["busybox", "cpio", "-i", "-d", "-m"]
    subprocess.run(unpack, cwd=tmp_path, input=initramfs.archive(entries), check=True, capture_output=True)
    assert (tmp_path / "bin/true").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "bin/true", os.X_OK)
    assert (tmp_path / "bin/yes").readlink() == Path("true")
    assert ((tmp_path / "odd").read_bytes(), (tmp_path / "odd").stat().st_mode & 0o777) == (b"12345", 0o600)


class Guest:
    """A guest with a shell command instead of pytest: it is there in seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, b""

    def __call__(self, script: str, timeout: float = 400) -> int:
        machine = run.prepared(self.folder, ["sh", "-c", script])
        return machine.run(timeout, self._hear)

    def _hear(self, chunk: bytes) -> None:
        self.said += chunk


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    yield Guest(tmp_path)
    assert processes(tmp_path) == []


@pytest.mark.guest
def test_the_commands_output_and_status_come_out_and_no_change_to_a_file_does(guest, tmp_path):
    inside = tmp_path / "made-by-the-guest"
    (tmp_path / "mine").write_text("mine\n")
    script = f"""
        cat {tmp_path}/mine; echo changed >{tmp_path}/mine; cat {tmp_path}/mine
        touch {inside} {TREE}/made-by-the-guest && ls {inside}
        id -u; exit 3"""
    assert guest(script) == 3
    assert guest.said.decode().splitlines() == ["mine", "changed", str(inside), "0"]
    assert (tmp_path / "mine").read_text() == "mine\n"
    assert not inside.exists()
    assert not (TREE / "made-by-the-guest").exists()


@pytest.mark.guest
def test_a_guest_that_hangs_is_ended_at_its_bound(guest):
    before = time.monotonic()
    with pytest.raises(Ended, match="did not end within 10 s"):
        guest("sleep 1000", timeout=10)
    assert time.monotonic() - before < 100


@pytest.mark.guest
def test_a_guest_whose_kernel_dies_ends_at_once_and_shows_why(guest):
    with pytest.raises(Ended, match="sysrq triggered crash"):
        guest("echo c >/proc/sysrq-trigger; sleep 1000")


@pytest.mark.guest
def test_the_status_is_pytests_and_what_it_says_comes_out(tmp_path):
    failing = tmp_path / "test_failing.py"
    failing.write_text("import os\ndef test_it():\n    assert os.environ['HOTNIC_FULL_KERNEL'] == 'of another'\n")
    done = command(tmp_path, "-q", "-p", "no:hypothesispytest", "-c", "/dev/null", str(failing))
    stdout, _ = done.communicate(timeout=600)
    assert done.returncode == 1
    assert "AssertionError: assert '1' == 'of another'" in stdout.decode()
    assert list(tmp_path.glob("hotnic-guest-*")) == []


@pytest.mark.guest
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_guest_goes_with_the_command_that_started_it(tmp_path, number):
    done = command(tmp_path, "--version")
    give_up = time.monotonic() + 60
    while not (mine := [pid for pid in processes(tmp_path) if pid != done.pid]):
        assert time.monotonic() < give_up, "no guest was started"
        time.sleep(0.05)
    pidfds = [os.pidfd_open(pid) for pid in mine]
    done.send_signal(number)
    done.communicate(timeout=30)
    assert all(kernel.has_ended(pidfd, 10) for pidfd in pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
    if number != signal.SIGKILL:  # which leaves no chance to remove the folder
        assert list(tmp_path.glob("hotnic-guest-*")) == []


def command(temporary: Path, *arguments: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "e2e.guest.run", "--timeout", "600", "--", *arguments]
    env = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(argv, cwd=TREE, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
