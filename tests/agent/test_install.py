"""Files of ours on the node: what is decided, and what becomes of it on a real file system, also when killed midway."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import install, installer
from agent.install import MARK, Decision, File
from agent.installer import Keeper
from cni import build

OLD, NEW = (b"\x7fELF" + version * 10_000 + MARK + version * 100_000 for version in (b"1", b"2"))
BROUGHT = File(NEW, 0o755)
PROFILE = File(b'{"defaultAction": "SCMP_ACT_ERRNO"}', 0o644)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A CNI directory, with what others have put there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bridge").write_bytes(b"another plugin")
    return folder


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# -- decisions


@pytest.mark.parametrize(
    ("brought", "found", "decision"),
    [
        (BROUGHT, None, Decision.WRITE),
        (BROUGHT, BROUGHT, Decision.LEAVE),
        (BROUGHT, File(OLD, 0o755), Decision.WRITE),
        (BROUGHT, File(NEW, 0o644), Decision.WRITE),
        (BROUGHT, File(b"#!/bin/sh\n", 0o755), Decision.REFUSE),
        (BROUGHT, File(b"", 0o755), Decision.REFUSE),
        (BROUGHT, File(NEW[:4096], 0o755), Decision.WRITE),
        (BROUGHT, File(NEW[:4095], 0o755), Decision.REFUSE),
        (BROUGHT, File(NEW[:4095] + b"x", 0o755), Decision.REFUSE),
        (BROUGHT, File(NEW[:4] + b"theirs" * 1000, 0o755), Decision.REFUSE),
        (BROUGHT, File(None, 0), Decision.REFUSE),
        (PROFILE, File(b"{}", 0o644), Decision.WRITE),
        (PROFILE, PROFILE, Decision.LEAVE),
        (PROFILE, File(None, 0), Decision.REFUSE),
    ],
)
def test_what_is_ours_is_kept_current_and_what_is_not_is_left(brought, found, decision):
    assert install.decide(brought, found) is decision


def test_both_forms_of_the_executable_say_what_they_are(tmp_path):
    targets = [tmp_path / "hotnic", tmp_path / "hotnic.py"]
    build.main([str(target) for target in targets])
    assert all(install.says_what_it_is(installer.found(target)) for target in targets)


def test_only_names_of_our_writers_are_on_their_way():
    name = install.name_on_its_way("hotnic", "0123456789abcdef")
    assert install.is_on_its_way(name, "hotnic")
    assert not any(
        install.is_on_its_way(other, "hotnic") for other in ("hotnic", ".hotnic.new", f"{name}x", f"x{name}")
    )


# -- files


@pytest.mark.parametrize("before", [None, File(OLD, 0o755), File(NEW, 0o600)])
def test_it_is_there_whole_and_may_be_executed(directory, before):
    target = directory / "hotnic"
    if before:
        target.write_bytes(before.content)
        target.chmod(before.mode)
    installer.bring(BROUGHT, target)
    assert installer.found(target) == BROUGHT
    assert names(directory) == {"bridge", "hotnic"}


def test_what_is_current_is_not_written_again(directory):
    target = directory / "hotnic"
    installer.bring(BROUGHT, target)
    before = installer.signature(target)
    installer.bring(BROUGHT, target)
    assert installer.signature(target) == before


def test_somebody_elses_file_stays_whatever_it_is(directory, tmp_path):
    target, ours = directory / "hotnic", tmp_path / "ours"
    ours.write_bytes(OLD)
    for make in (lambda: target.write_bytes(b"theirs"), target.mkdir, lambda: target.symlink_to(ours)):
        make()
        before = target.lstat()
        with pytest.raises(installer.Refused, match="not touched"):
            installer.bring(BROUGHT, target)
        assert target.lstat() == before
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert (ours.read_bytes(), names(directory)) == (OLD, {"bridge"})


@pytest.mark.parametrize("form", ["hotnic", "hotnic.py"])
def test_one_of_ours_that_was_cut_off_is_whole_again(directory, tmp_path, form):
    """Behind its mark or before it. As long as that, nothing else begins like it."""
    target, source = directory / "hotnic", tmp_path / form
    build.main([str(source)])
    brought = File(source.read_bytes(), 0o755)
    for size in (5000, len(brought.content) - 1):
        target.write_bytes(brought.content[:size])
        installer.bring(brought, target)
        assert installer.found(target) == brought


def test_a_reader_never_sees_half_of_it(directory):
    target, seen, done = directory / "hotnic", set(), threading.Event()
    installer.bring(BROUGHT, target)

    def read() -> None:
        while not done.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        installer.bring(File(OLD if number % 2 else NEW, 0o755), target)
    done.set()
    reader.join()
    assert seen <= {OLD, NEW}


def test_a_running_one_goes_on_while_it_is_replaced(directory):
    target = directory / "hotnic"
    target.write_bytes(Path(shutil.which("sleep")).resolve().read_bytes() + MARK)
    target.chmod(0o755)
    with subprocess.Popen([target, "600"]) as running:
        try:
            installer.bring(BROUGHT, target)
            assert running.poll() is None
            assert Path(f"/proc/{running.pid}/exe").read_bytes().endswith(MARK)
        finally:
            running.kill()
    assert installer.found(target) == BROUGHT


VICTIM = """
import os, sys
from pathlib import Path
from agent import files, installer
from agent.install import File
function = eval(sys.argv[1])
owner, name = sys.argv[1].rsplit(".", 1)
def die(*_, **__):
    if sys.argv[2] == "after":
        function(*_, **__)
    os.kill(os.getpid(), 9)
setattr(eval(owner), name, die)
installer.bring(File(Path(sys.argv[4]).read_bytes(), 0o755), Path(sys.argv[3]))
"""
STEPS = ("os.fchmod", "os.fsync", "Path.rename", "files.sync_directory")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_midway_it_is_as_before_or_whole_and_what_is_left_goes(directory, tmp_path, step, when):
    target, source = directory / "hotnic", tmp_path / "source"
    source.write_bytes(NEW)
    target.write_bytes(OLD)
    done = subprocess.run([sys.executable, "-c", VICTIM, step, when, target, source], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() in (OLD, NEW)
    left = names(directory) - {"bridge", "hotnic"}
    assert all(install.is_on_its_way(name, "hotnic") for name in left)
    for name in left:
        os.utime(directory / name, (time.time() - install.UNFINISHED_S - 1,) * 2)
    installer.bring(BROUGHT, target)
    assert (names(directory), installer.found(target)) == ({"bridge", "hotnic"}, BROUGHT)


def test_another_writers_young_file_is_left_to_it(directory):
    other = directory / install.name_on_its_way("hotnic", "0123456789abcdef")
    other.write_bytes(b"half")
    installer.bring(BROUGHT, directory / "hotnic")
    assert other.read_bytes() == b"half"


def test_a_disk_without_room_leaves_what_was_there(directory, tmp_path):
    target, source = directory / "hotnic", tmp_path / "source"
    source.write_bytes(NEW)
    target.write_bytes(OLD)
    code = """
import resource, signal, sys
from agent import __main__
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.argv[1:1] = ["install"]
sys.exit(__main__.main())
"""
    done = subprocess.run([sys.executable, "-c", code, source, target], capture_output=True, text=True, check=False)
    assert (done.returncode, "File too large" in done.stderr) == (1, True)
    assert (target.read_bytes(), names(directory)) == (OLD, {"bridge", "hotnic"})


def test_the_command_makes_the_directory_and_says_what_it_refuses(tmp_path):
    source, target = tmp_path / "agent.json", tmp_path / "seccomp/hotnic/agent.json"
    source.write_bytes(PROFILE.content)
    command = [sys.executable, "-m", "agent", "install", source, target]
    assert subprocess.run(command, check=False).returncode == 0
    assert installer.found(target) == PROFILE
    target.unlink()
    target.mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "it is not hotnic's" in done.stderr) == (1, True)


# -- kept


@pytest.fixture
def keeper(directory, tmp_path) -> Keeper:
    (tmp_path / "source").write_bytes(NEW)
    return Keeper(tmp_path / "source", directory, "/opt/cni/bin")


def test_before_its_first_look_it_does_not_say_that_it_is_there(keeper):
    assert keeper.waiting_for() == ("CNI executable /opt/cni/bin/hotnic: not looked at yet",)


def test_whatever_others_do_to_it_it_comes_back(keeper, directory):
    target = directory / "hotnic"
    for deed in (
        target.unlink,
        lambda: target.write_bytes(OLD),
        lambda: target.chmod(0o600),
        lambda: (directory / "another").replace(target),
    ):
        keeper.look()
        assert (installer.found(target), keeper.waiting_for()) == (BROUGHT, ())
        (directory / "another").write_bytes(OLD)
        deed()
    keeper.look()
    assert (installer.found(target), keeper.waiting_for()) == (BROUGHT, ())


@pytest.mark.parametrize("step", ["found", "_write"])
def test_what_another_writes_right_after_a_step_of_ours_is_no_longer_there_after_the_next_look(
    keeper, directory, monkeypatch, step
):
    """It is not taken for what was read, or written, a moment before."""
    target, real = directory / "hotnic", getattr(installer, step)
    if step == "found":
        installer.bring(BROUGHT, target)

    def and_then_another(*arguments: object) -> object:
        seen = real(*arguments)
        target.write_bytes(OLD)
        return seen

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(installer, step, and_then_another)
        keeper.look()
    assert target.read_bytes() == OLD
    keeper.look()
    assert (installer.found(target), keeper.waiting_for()) == (BROUGHT, ())


def test_what_is_current_is_read_once(keeper, directory, monkeypatch):
    for _ in range(2):
        keeper.look()
    monkeypatch.setattr(installer, "found", lambda _: pytest.fail("it is read every few seconds"))
    keeper.look()


def test_a_foreign_file_is_told_until_it_is_gone(keeper, directory):
    target = directory / "hotnic"
    target.write_bytes(b"theirs")
    keeper.look()
    assert "it is not hotnic's, and is not touched" in keeper.waiting_for()[0]
    assert target.read_bytes() == b"theirs"
    target.unlink()
    keeper.look()
    assert (installer.found(target), keeper.waiting_for()) == (BROUGHT, ())


def test_a_directory_that_is_not_there_yet_is_waited_for(keeper, directory):
    shutil.rmtree(directory)
    keeper.look()
    assert keeper.waiting_for() == ("CNI executable /opt/cni/bin/hotnic: its directory is not there",)
    assert keeper.lost() == ()
    directory.mkdir()
    keeper.look()
    assert keeper.waiting_for() == ()


def test_a_directory_that_was_removed_under_its_mount_is_told_to_be_lost(tmp_path):
    """As a bind mount does, an open descriptor shows the directory that was."""
    (tmp_path / "source").write_bytes(NEW)
    (tmp_path / "bin").mkdir()
    descriptor = os.open(tmp_path / "bin", os.O_RDONLY)
    try:
        keeper = Keeper(tmp_path / "source", Path(f"/proc/self/fd/{descriptor}"), "/opt/cni/bin")
        assert keeper.lost() == ()
        (tmp_path / "bin").rmdir()
        (tmp_path / "bin").mkdir()
        keeper.look()
        assert keeper.waiting_for()
        assert keeper.lost() == ("CNI directory /opt/cni/bin was removed, and is seen again by a new container only",)
    finally:
        os.close(descriptor)


class Mounted:
    """A node's root, and its CNI directory as a mount in the container has it: the one that was there at the start."""

    def __init__(self, folder: Path) -> None:
        (folder / "source").write_bytes(NEW)
        self.root, self.directory = folder / "host", folder / "host/opt/cni/bin"
        (folder / "host/var/lib/bin").mkdir(parents=True)
        self.directory.parent.mkdir(parents=True)

    def lost_after(self, deed: Callable[[], object]) -> bool:
        descriptor = os.open(self.directory.resolve(), os.O_RDONLY)
        try:
            keeper = Keeper(self.root.parent / "source", Path(f"/proc/self/fd/{descriptor}"), "/opt/cni/bin", self.root)
            assert keeper.lost() == ()
            deed()
            return bool(keeper.lost())
        finally:
            os.close(descriptor)


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


@pytest.mark.netns
def test_another_directory_in_the_place_of_the_mounted_one_is_told_to_be_lost(mounted):
    """Nothing was removed, so that the mounted one has its links still."""
    mounted.directory.mkdir()

    def swap() -> None:
        mounted.directory.rename(mounted.directory.with_name("former"))
        mounted.directory.mkdir()

    assert mounted.lost_after(swap)


@pytest.mark.netns
def test_a_mounted_directory_that_has_another_name_now_is_told_to_be_lost(mounted):
    """Runtimes make the directory for a container that starts anew."""
    mounted.directory.mkdir()
    assert mounted.lost_after(lambda: mounted.directory.rename(mounted.directory.with_name("former")))


@pytest.mark.netns
def test_a_link_that_leads_to_another_directory_now_is_told_to_be_lost(mounted):
    """Its target is absolute: on the node, which is not the container."""
    other = mounted.root / "var/lib/other"
    other.mkdir()
    mounted.directory.symlink_to("/var/lib/bin")
    actual, seen = mounted.root / "var/lib/bin", mounted.directory
    mounted.directory = actual
    assert not mounted.lost_after(lambda: None)

    def swap() -> None:
        seen.unlink()
        seen.symlink_to("/var/lib/other")

    assert mounted.lost_after(swap)


@pytest.mark.netns
def test_a_directory_that_is_not_seen_or_is_another_from_the_start_is_not_told_to_be_lost(mounted):
    """A container that starts anew would see the same."""
    mounted.directory.mkdir()
    assert not mounted.lost_after(lambda: shutil.move(mounted.root, mounted.root.with_name("away")))
    shutil.move(mounted.root.with_name("away"), mounted.root)
    elsewhere = mounted.root / "var/lib/bin"
    assert Keeper(mounted.root.parent / "source", elsewhere, "/opt/cni/bin", mounted.root).lost() == ()


def test_it_is_looked_after_until_the_end(keeper, directory, monkeypatch):
    monkeypatch.setattr(installer, "PERIOD_S", 0.01)
    keeper.start()
    target = directory / "hotnic"
    assert installer.found(target) == BROUGHT
    target.unlink()
    ends = time.monotonic() + 30
    while installer.found(target) != BROUGHT:
        assert time.monotonic() < ends
        time.sleep(0.01)
    keeper.close()
    target.unlink()
    time.sleep(0.1)
    assert not target.exists()


def test_what_is_to_be_installed_has_to_be_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Keeper(tmp_path / "nothing", tmp_path, "/opt/cni/bin")
