"""Sockets in containers: the container is hostile, as far as its own files go."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.guests import reach
from agent.model import NotReady


class Container:
    """A folder as root, with a socket in it and one outside."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "root", folder / "outside.sock"
        (self.root / "run").mkdir(parents=True)
        self.inner, self.outer = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.inner.bind(str(self.root / "run/in.sock"))
        self.outer.bind(str(self.outside))
        self.inner.listen(1)
        self.outer.listen(1)

    def link(self, name: str, target: str) -> str:
        (self.root / name).symlink_to(target)
        return f"/{name}"

    def connect(self, path: str, seconds: float = 30) -> socket.socket:
        return reach.connect(self.root, path, time.monotonic() + seconds)


@pytest.fixture
def container(tmp_path, monkeypatch) -> Iterator[Container]:
    made = Container(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    yield made
    give_up = time.monotonic() + 30
    while any(thread.name == "reach" for thread in threading.enumerate()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before  # what an earlier test has left may be collected meanwhile
    made.inner.close()
    made.outer.close()


def test_it_is_found_by_the_path_that_the_container_sees(container):
    paths = ["/run/in.sock", "run/../run/in.sock", container.link("relative", "run/in.sock"),
             container.link("absolute", "/run/in.sock"), container.link("high", "../../../run/in.sock")]  # fmt: skip
    for path in paths:
        with container.connect(path) as here, container.inner.accept()[0] as there:
            here.sendall(b"hello")
            assert there.recv(5) == b"hello"
            assert reach.peer(here) == (os.getpid(), os.getuid(), os.getgid())


def test_no_link_leads_out(container):
    outside = str(container.outside)
    depth = len(container.root.parts)
    for path in (
        outside,
        container.link("absolute", outside),
        container.link("relative", "../outside.sock"),
        container.link("far", "../" * depth + outside[1:]),
        "/../outside.sock",
    ):
        with pytest.raises(NotReady, match="No such file") as caught:
            container.connect(path)
        assert caught.value.reason == "VMUnreachable"
    container.outer.settimeout(0)
    with pytest.raises(BlockingIOError):
        container.outer.accept()


def test_no_link_of_proc_is_followed():
    """In a container with its own /proc, such a link may lead to whatever a process there has open."""
    with pytest.raises(NotReady, match="symbolic links") as caught:
        reach.connect(Path("/"), "/proc/self/root/run/in.sock", time.monotonic() + 30)
    assert caught.value.reason == "VMUnreachable"


def test_what_is_no_socket_that_listens_is_named(container):
    (container.root / "file").write_text("")
    os.mkfifo(container.root / "pipe")
    with socket.socket(socket.AF_UNIX) as mute, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        mute.bind(str(container.root / "mute"))
        other.bind(str(container.root / "other"))
        wanted = {"/file": "is no socket", "/pipe": "is no socket", "/run": "is no socket", "/missing": "No such file",
                  "/mute": "refused", "/other": "wrong type", "/file/x": "Not a directory",
                  "/" + "x" * 300: "name too long"}  # fmt: skip
        for path, why in wanted.items():
            with pytest.raises(NotReady, match=why) as caught:
                container.connect(path)
            assert (caught.value.reason, path in str(caught.value)) == ("VMUnreachable", True)


def test_a_listener_that_takes_nobody_does_not_hold_us(container):
    waiting = [container.connect("/run/in.sock") for _ in range(2)]  # as many as it has asked to be queued
    with pytest.raises(NotReady, match="in use by others"):
        container.connect("/run/in.sock")
    for one in waiting:
        one.close()


def test_a_container_that_is_gone_is_unreachable(container):
    with pytest.raises(NotReady, match="its root is gone") as caught:
        reach.connect(container.root / "gone", "/run/in.sock", time.monotonic() + 30)
    assert caught.value.reason == "VMUnreachable"


HANGING = """
import ctypes, os, sys
fuse = os.open("/dev/fuse", os.O_RDWR)
os.makedirs(sys.argv[1] + "/hung", exist_ok=True)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
assert ctypes.CDLL(None).mount(b"hung", (sys.argv[1] + "/hung").encode(), b"fuse", 0, options) == 0
print("mounted", flush=True)
sys.stdin.read()
"""


@pytest.mark.netns
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="the kernel has no FUSE")
def test_a_file_system_that_never_answers_costs_few_threads_and_no_time(container):
    command = ["unshare", "--mount", sys.executable, "-c", HANGING, str(container.root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"mounted\n"
        root = Path(f"/proc/{process.pid}/root{container.root}")
        for _ in range(reach._WAITERS):
            with pytest.raises(NotReady, match="file system does not answer"):
                reach.connect(root, "/hung/in.sock", time.monotonic() + 0.1)
        assert sum(thread.name == "reach" for thread in threading.enumerate()) == reach._WAITERS
        with pytest.raises(NotReady, match="file system does not answer"):
            reach.connect(root, "/hung/in.sock", time.monotonic() + 3600)
        container.connect("/run/in.sock").close()  # another container's
    finally:
        process.kill()
        process.communicate()


def test_one_that_is_found_too_late_is_closed(container, monkeypatch):
    begin, connected = threading.Event(), reach._connected

    def late(folder, path):
        begin.wait()
        return connected(folder, path)

    monkeypatch.setattr(reach, "_connected", late)
    with pytest.raises(NotReady, match="does not answer"):
        container.connect("/run/in.sock", 0.05)
    begin.set()
    with container.inner.accept()[0] as there:
        there.settimeout(30)
        assert there.recv(1) == b""
