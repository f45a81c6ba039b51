"""A line to a daemon: what talks over it gets through, and never hangs."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from agent.guests import line


@pytest.fixture
def daemon():
    """Both ends of the daemon's connection, and the line that has taken over the first."""
    ours, daemons = socket.socketpair()
    ended = threading.Event()
    made = line.Line(ours, ended.set)
    yield made, daemons, ended
    made.cut()
    daemons.close()


def _library(made: line.Line) -> socket.socket:
    """Connect as libvirt does: the name padded with zeros."""
    library = socket.socket(socket.AF_UNIX)
    library.settimeout(30)
    library.connect(_address(made))
    return library


def _address(made: line.Line) -> bytes:
    return b"\0" + made.name[1:].encode().ljust(107, b"\0")


def test_bytes_go_both_ways(daemon):
    made, daemons, _ = daemon
    with _library(made) as library:
        library.sendall(b"question")
        assert daemons.recv(100) == b"question"
        daemons.sendall(b"x" * 100_000)
        heard = 0
        while heard < 100_000:
            heard += len(library.recv(100_000))
        assert not made.is_cut


def test_the_end_of_the_time_is_the_end_of_the_line(daemon):
    made, daemons, ended = daemon
    with _library(made) as library, made.within(0.2):
        library.sendall(b"question")
        assert library.recv(100) == b""
    assert ended.wait(30)
    assert made.is_cut
    assert daemons.recv(100) == b"question"
    assert daemons.recv(100) == b""


def test_an_answer_in_time_keeps_it(daemon):
    made, daemons, ended = daemon
    with _library(made) as library:
        for _ in range(3):
            with made.within(30):
                library.sendall(b"question")
                daemons.recv(100)
                daemons.sendall(b"answer")
                assert library.recv(100) == b"answer"
        assert not ended.wait(0.1)


def test_a_time_that_is_over_after_the_answer_cuts_nothing(daemon):
    made, daemons, ended = daemon
    with _library(made) as library:
        with made.within(0.3):
            library.sendall(b"question")
            daemons.recv(100)
        assert not ended.wait(0.6)


@pytest.mark.parametrize("closer", ["library", "daemon"])
def test_where_one_end_closes_the_other_is_closed(daemon, closer):
    made, daemons, ended = daemon
    library = _library(made)
    library.sendall(b"q")
    assert daemons.recv(1) == b"q"
    first, second = (library, daemons) if closer == "library" else (daemons, library)
    first.shutdown(socket.SHUT_RDWR)
    second.settimeout(30)
    assert second.recv(1) == b""
    assert ended.wait(30)
    library.close()


def test_an_answer_without_an_end_is_cut_off(daemon):
    made, daemons, ended = daemon
    library = _library(made)

    def flood():
        try:
            while True:
                daemons.sendall(b"x" * 65536)
        except OSError:
            return

    flooding = threading.Thread(target=flood)
    with made.within(30):
        flooding.start()
        heard = 0
        while chunk := library.recv(65536):
            heard += len(chunk)
    assert ended.wait(30)
    assert heard <= line.ANSWER_BYTES
    flooding.join()
    library.close()


def test_a_daemon_that_reads_nothing_does_not_hold_it(daemon):
    made, _, ended = daemon
    with _library(made) as library, made.within(0.5), pytest.raises(OSError):
        library.sendall(b"x" * (64 << 20))
    assert ended.wait(30)


def test_an_answer_in_the_last_moment_ends_it_as_any_other_end(monkeypatch):
    """The time is over between the reading of the answer and its passing on."""
    late, failures, ended = [0.0], [], threading.Event()

    class Slow(socket.socket):
        def recv(self, size):
            chunk = super().recv(size)
            late[0] = 3600.0
            return chunk

    class Clock:
        monotonic = staticmethod(lambda: time.monotonic() + late[0])

    monkeypatch.setattr(line, "time", Clock)
    monkeypatch.setattr(threading, "excepthook", failures.append)
    ours, daemons = socket.socketpair()
    made = line.Line(Slow(fileno=ours.detach()), ended.set)
    with daemons, _library(made) as library, made.within(30):
        daemons.sendall(b"answer")
        assert ended.wait(30)
        assert library.recv(100) == b"answer"
        assert library.recv(100) == b""
    made.cut()
    assert failures == []


def test_no_other_process_is_let_in(daemon):
    made, daemons, _ = daemon
    strange = f"""
import socket
s = socket.socket(socket.AF_UNIX)
s.connect({_address(made)!r})
s.settimeout(30)
try:
    s.sendall(b"stranger")
    print(s.recv(1))
except OSError:
    print(b"")
"""
    done = subprocess.run([sys.executable, "-c", strange], capture_output=True, text=True, check=True)
    assert done.stdout == "b''\n"
    with _library(made) as library:
        library.sendall(b"ours")
        assert daemons.recv(100) == b"ours"
        with socket.socket(socket.AF_UNIX) as another, pytest.raises(OSError):
            another.connect(_address(made))


def test_a_line_that_nobody_used_can_be_cut():
    ours, daemons = socket.socketpair()
    made = line.Line(ours, lambda: None)
    before = time.monotonic()
    made.cut()
    made.cut()
    assert made.is_cut
    assert time.monotonic() - before < 30
    assert daemons.recv(1) == b""
    daemons.close()
