"""The system has no room: no thread, no process, no descriptor. Each is told as something to be tried again, nothing
hangs, and whoever serves goes on serving.
"""

import errno
import itertools
import logging
import os
import select
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from agent import cni_server, delegate, descendants, netns, ovsdb, place, rtnl
from agent.calls import Answer
from agent.guests import line, reach
from agent.journal import Journal
from agent.model import NotReady, Pod, PodUID
from agent.pool import Pool
from agent.sandboxes import Sandboxes
from cni import errors, wire
from tests.agent.test_sandboxes import Runtime

SHORT = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN]


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def no_threads(monkeypatch):
    """From when it is called on."""

    def refuse(_):
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


# -- threads --------------------------------------------------------------------------------------------------------


def test_work_waits_for_the_threads_that_there_are(no_threads, monkeypatch):
    pool, release, done = Pool(8, "some"), threading.Event(), []
    no_threads()
    results = [pool.submit(release.wait, 30), *(pool.submit(done.append, number) for number in range(5))]
    assert done == []
    release.set()
    for result in results:
        result.result(30)
    assert done == list(range(5))
    monkeypatch.undo()
    pool.shutdown()


def test_a_server_that_gets_no_thread_goes_on_accepting(tmp_path, no_threads, monkeypatch):
    monkeypatch.setattr("agent.cni_connection.refuse_strangers", lambda _: None)
    monkeypatch.setattr("agent.cni_server.listen", lambda path: listening(tmp_path))
    server = cni_server.Server(tmp_path, lambda *_: Answer(0, b"done"))
    server.start()
    no_threads()
    try:
        assert [asked(tmp_path) for _ in range(3)] == [(0, b"done")] * 3
    finally:
        monkeypatch.undo()
        server.close()


def listening(folder: Path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    listener.listen()
    return listener


def asked(folder: Path) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(folder / "s"))
        connection.sendall(wire.encode_request({b"CNI_COMMAND": b"STATUS"}, b"{}"))
        return wire.receive_reply(connection)


def test_a_server_that_can_accept_nothing_tries_again_and_does_not_spin(tmp_path, monkeypatch, caplog):
    accepts = []

    class Listener:
        def accept(self):
            accepts.append(time.monotonic())
            if len(accepts) > 3:
                server._closing.set()
            raise (MemoryError() if len(accepts) == 2 else OSError(errno.EMFILE, "Too many open files"))

        def shutdown(self, _): ...
        def close(self): ...

    monkeypatch.setattr("agent.cni_server.listen", lambda _: Listener())
    server = cni_server.Server(tmp_path, lambda *_: Answer(0, b""))
    server.start()
    server._threads[0].join(30)
    assert len(accepts) == 4
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(accepts))
    assert "Too many open files" in caplog.text
    server.close()


def test_who_waits_for_a_containers_file_system_takes_a_thread_or_says_so(tmp_path, no_threads):
    before = len(os.listdir("/proc/self/fd"))
    no_threads()
    for _ in range(5):  # more than may wait at once
        with pytest.raises(NotReady, match="can't start new thread"):
            reach.connect(tmp_path, "/x", time.monotonic() + 5)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_line_to_a_daemon_takes_a_thread_or_says_so(no_threads):
    ours, its = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    no_threads()
    with its, pytest.raises(NotReady, match="can't start new thread"):
        line.Line(ours, lambda: None)
    assert len(os.listdir("/proc/self/fd")) <= before - 2


# -- delegates ------------------------------------------------------------------------------------------------------


@pytest.fixture
def executor(tmp_path):
    path = tmp_path / "plugin"
    path.write_text("#!/bin/sh\nexec sleep 600\n")
    path.chmod(0o755)
    return delegate.Executor([tmp_path])


def refused(executor) -> errors.CNIError:
    with pytest.raises(errors.CNIError) as caught:
        executor.run("plugin", "ADD", {}, b"{}", 300.0)
    return caught.value


@pytest.mark.parametrize("number", SHORT)
def test_a_plugin_that_cannot_be_started_now_may_be_later(executor, monkeypatch, number):
    monkeypatch.setattr(subprocess, "Popen", failing(number))
    told = refused(executor)
    assert told.code is errors.Code.TRY_AGAIN
    assert os.strerror(number) in str(told)


def test_a_plugin_that_cannot_be_watched_is_killed_and_not_waited_for(executor, monkeypatch):
    """Neither a descriptor of the process is to be had, nor /proc to be listed."""
    started = []
    monkeypatch.setattr(descendants, "started", lambda mark, pid: started.append(pid))
    monkeypatch.setattr(os, "pidfd_open", failing(errno.EMFILE))
    monkeypatch.setattr(descendants, "_processes", failing(errno.EMFILE))
    told = refused(executor)
    assert told.code is errors.Code.TRY_AGAIN
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_a_plugin_in_the_nodes_root_takes_a_thread_or_says_so(tmp_path, no_threads):
    executor = delegate.Executor([tmp_path], host_root=Path("/"))
    no_threads()
    told = refused(executor)
    assert told.code is errors.Code.TRY_AGAIN
    assert "can't start new thread" in str(told)


# -- namespaces and the kernel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SHORT)
def test_who_cannot_open_a_namespace_for_want_of_room_does_not_take_it_for_gone(monkeypatch, number):
    monkeypatch.setattr(os, "open", failing(number))
    with pytest.raises(errors.CNIError) as caught, netns.View().opened("/run/netns/x"):
        pass
    assert caught.value.code is errors.Code.TRY_AGAIN
    assert os.strerror(number) in str(caught.value)


def test_a_namespace_that_is_gone_is_told_as_gone(tmp_path):
    with pytest.raises(FileNotFoundError), netns.View().opened(str(tmp_path / "x")):
        pass


def test_a_sandbox_that_cannot_be_looked_at_is_no_pod_without_a_sandbox(tmp_path, monkeypatch):
    """Whose attachments would be removed."""
    runtime, journal = Runtime(), Journal(tmp_path)
    runtime.run("s1", "/run/netns/s1")
    sandboxes = Sandboxes(runtime, journal, netns.View())
    monkeypatch.setattr(os, "open", failing(errno.EMFILE))
    with pytest.raises(NotReady, match="Too many open files") as caught:
        sandboxes.of(Pod(PodUID("u1"), "ns", "p1"))
    assert caught.value.reason == "NodeError"
    monkeypatch.undo()
    journal.close()


class Raw:
    """A netlink socket that fails so."""

    def __init__(self, problem: OSError) -> None:
        self.problem = problem

    def settimeout(self, _): ...
    def setsockopt(self, *_): ...
    def send(self, _): ...

    def recv(self, _):
        raise self.problem


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EBUSY, errno.EINTR, errno.ENOMEM, errno.EAGAIN])
def test_a_kernel_that_is_busy_is_to_be_tried_again(number):
    netlink = rtnl.Socket(Raw(OSError(number, os.strerror(number))))
    with pytest.raises(errors.CNIError) as caught:
        place.get(netlink, "net1")
    assert caught.value.code is errors.Code.TRY_AGAIN
    assert os.strerror(number) in str(caught.value) or number == errno.EAGAIN


def test_a_kernel_whose_answer_is_cut_short_is_an_error_and_no_crash():
    raw = Raw(OSError(errno.EIO, ""))
    raw.recv = lambda _: b"\x14\0\0\0\x10\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0"
    with pytest.raises(errors.CNIError, match="read link net1"):
        place.get(rtnl.Socket(raw), "net1")


# -- tombstones -----------------------------------------------------------------------------------------------------


def test_a_tombstone_that_cannot_be_read_for_want_of_room_is_not_given_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("agent.cni_server.listen", lambda _: None)
    server = cni_server.Server(tmp_path, lambda *_: Answer(0, b""))
    grave = tmp_path / "tombstones" / "1.bin"
    grave.write_bytes(wire.encode_request({b"CNI_COMMAND": b"DEL"}, b"{}"))
    with monkeypatch.context() as short:
        short.setattr(Path, "read_bytes", failing(errno.EMFILE))
        with caplog.at_level(logging.WARNING):
            server._replay_all()
        assert grave.exists()
    assert "Too many open files" in caplog.text
    server._replay_all()
    assert not grave.exists()
    server._pool.shutdown()


def test_a_tombstone_that_cannot_be_set_aside_keeps_no_other_from_its_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.cni_server.listen", lambda _: None)
    server = cni_server.Server(tmp_path, lambda *_: Answer(0, b""))
    graves = tmp_path / "tombstones"
    (graves / "0.bin").write_bytes(b"damaged")
    (graves / "0.damaged").mkdir()
    (graves / "0.damaged" / "x").touch()
    (graves / "1.bin").write_bytes(wire.encode_request({b"CNI_COMMAND": b"DEL"}, b"{}"))
    server._replay_all()
    assert sorted(path.name for path in graves.iterdir()) == ["0.bin", "0.damaged"]
    server._pool.shutdown()


# -- what answers without an end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flood", [b" ", b'"a', b'{"id": null, "method": "echo", "params": []}', b'{"id": 5, "result": [], "error": null}']
)
def test_whatever_listens_where_a_switchs_database_should_be_costs_a_bounded_time_and_memory(
    tmp_path, monkeypatch, flood
):
    monkeypatch.setattr(ovsdb, "ANSWER_BYTES", 1 << 16)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def answer():
        connection, _ = listener.accept()
        connection.setblocking(False)
        with connection:
            while True:
                readable, writable, _ = select.select([connection], [connection], [], 30)
                try:
                    if readable and not connection.recv(1 << 16):
                        return
                    if writable:
                        sent.append(connection.send(flood * 100))
                except OSError:
                    return

    sent: list[int] = []
    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(ovsdb.Unreachable), ovsdb._Database(str(tmp_path / "s")) as database:
        database.select("Bridge", [], [])
    thread.join(30)
    assert not thread.is_alive()
    assert sum(sent) < 1 << 20  # the bound, and what the socket itself takes
    listener.close()
