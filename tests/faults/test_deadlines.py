"""In each world somebody accepts and never answers: whoever asks him ends by himself, with the error of that world.

The deadlines themselves are made short here; that each effect function has one, test_effects.py reads from the code.
The executable's own are in tests/cni/test_forward.py, those of an IPAM plugin and of a chain in tests/agent.
"""

import errno
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client

import agent.metrics
import controller.metrics
from agent import cni_connection, cri, delegate, journal, ovsdb, rtnl
from agent.calls import Answer
from agent.guests import qmp
from agent.guests.guest_agent import GuestAgent
from agent.guests.line import Line
from agent.model import NotReady
from agent.switch import SwitchPort
from cni import errors, wire
from controller import agents, kube
from controller.model import PodRef, PodUID
from controller.workers import Unavailable

SHORT_S = 0.3
HANGS_S = 30.0  # far more than any deadline here


class Mute:
    """Accepts, and says nothing. `tcp`: the port of one that does so over TCP."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: list[socket.socket] = []
        self._listeners = [socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))]
        self._listeners[0].bind(str(path))
        self._listeners[0].listen(64)
        self.tcp = self._listeners[1].getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, args=(one,)) for one in self._listeners]
        for thread in self._threads:
            thread.start()

    def connected(self, _: float = 0.0) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        return connection

    def close(self) -> None:
        for one in self._listeners:
            one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._listeners:
            one.close()
        for one in self._held:
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                self._held.append(listener.accept()[0])
            except OSError:
                return


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[Mute]:
    one = Mute(tmp_path / "mute.sock")
    yield one
    one.close()


def ended(call: Callable[[], object]) -> object:
    """Return what the call returned or raised; a call that hangs fails the test."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as problem:  # noqa: BLE001 -- handed to the test
            outcome.append(problem)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANGS_S)
    assert outcome, "it hangs"
    return outcome[0]


def test_a_container_runtime_that_never_answers(mute):
    runtime = cri.Runtime(f"unix://{mute.path}", SHORT_S)
    for call in (runtime.sandboxes, lambda: runtime.netns("s"), lambda: runtime.containers("s"),
                 lambda: runtime.process("c")):  # fmt: skip
        assert isinstance(ended(call), cri.RuntimeUnavailable)
    runtime.close()


def test_an_agent_that_never_answers_the_controller(mute, monkeypatch):
    monkeypatch.setattr(agents, "DEADLINE_S", SHORT_S)
    asked = agents.Agents(f"unix://{mute.path}")
    assert isinstance(ended(lambda: asked.end(PodRef(PodUID("u"), "ns", "p"))), Unavailable)
    asked.close()


def test_an_api_server_that_never_answers(mute, monkeypatch):
    monkeypatch.setattr(kube, "READ_S", SHORT_S)
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{mute.tcp}"
    api = kube.Kube(settings, "n", lambda _: None)
    assert isinstance(ended(lambda: api.find(PodRef(PodUID("u"), "ns", "p"))), Unavailable)
    assert isinstance(ended(lambda: api.list("/api/v1/pods", "")), Unavailable)
    monkeypatch.setattr(kube, "WATCH_S", SHORT_S - 30.0)
    assert isinstance(ended(lambda: list(api.watch("/api/v1/pods", "", "1"))), Unavailable)


def test_a_switch_s_database_that_never_answers(mute, monkeypatch):
    monkeypatch.setattr(ovsdb, "DEADLINE_S", SHORT_S)
    port = SwitchPort(database=str(mute.path), bridge="br0", name="p")
    assert ended(lambda: ovsdb.read_port(str, port)) is None


def test_a_virtual_machine_s_monitor_and_guest_agent_that_never_answer(mute, monkeypatch):
    monkeypatch.setattr(qmp, "GREETING_S", SHORT_S)
    end = qmp.time.monotonic() + SHORT_S
    assert isinstance(ended(lambda: qmp.Monitor(mute.connected(), end)), NotReady)
    guest = GuestAgent(mute.connected)
    assert ended(lambda: guest.interface("02:00:00:00:00:01")) is None


def test_a_libvirt_daemon_that_never_answers(mute):
    line = Line(mute.connected(), lambda: None)
    library = socket.socket(socket.AF_UNIX)
    library.connect(b"\0" + line.name[1:].encode().ljust(107, b"\0"))

    def ask() -> bytes:
        with line.within(SHORT_S):
            library.sendall(b"x")
            return library.recv(1)

    assert ended(ask) == b""
    line.cut()
    library.close()


def test_a_kernel_that_never_answers(mute, monkeypatch):
    class Raw(socket.socket):
        def setsockopt(self, *_: object) -> None:
            """Of netlink's, which this is not."""

    monkeypatch.setattr(rtnl, "TIMEOUT_S", SHORT_S)
    raw = Raw(fileno=mute.connected().detach())
    where = rtnl.Socket(raw)
    problem = ended(lambda: where.get(rtnl.GETLINK, {}, [("IFLA_IFNAME", "lo")]))
    assert isinstance(problem, rtnl.KernelError)
    assert problem.code == errno.ETIMEDOUT
    where.close()


def test_a_plugin_that_never_ends(tmp_path):
    plugin = tmp_path / "hangs"
    plugin.write_text("#!/bin/sh\nexec sleep 1000\n")
    plugin.chmod(0o755)
    execute = delegate.Executor([tmp_path])
    problem = ended(lambda: execute("hangs", "DEL", {}, {}, SHORT_S))
    assert isinstance(problem, delegate.Deadline)
    assert problem.code == errors.Code.TRY_AGAIN


def test_another_agent_that_keeps_the_state_directory(tmp_path):
    first = journal.Journal(tmp_path / "state")
    assert isinstance(ended(lambda: journal.Journal(tmp_path / "state", SHORT_S)), journal.InUse)
    first.close()


def test_a_caller_of_cni_that_says_nothing_and_one_that_reads_nothing(monkeypatch):
    monkeypatch.setattr(cni_connection, "READ_S", SHORT_S)
    monkeypatch.setattr(cni_connection, "WRITE_S", SHORT_S)
    monkeypatch.setattr(cni_connection, "refuse_strangers", lambda _: None)
    ours, theirs = socket.socketpair()
    assert ended(lambda: cni_connection.serve(theirs, lambda *_: Answer(0, b""))) is None
    ours.close()
    ours, theirs = socket.socketpair()
    ours.sendall(wire.encode_request({b"CNI_COMMAND": b"ADD"}, b"{}"))
    undone = threading.Event()
    huge = Answer(0, b"x" * wire.MAX_REPLY, undone.set)
    assert ended(lambda: cni_connection.serve(theirs, lambda *_: huge)) is None
    assert undone.is_set(), "the caller has not got the result of his ADD"
    ours.close()


def test_an_add_whose_caller_has_gone_before_its_turn_is_not_begun_and_a_del_is_done(monkeypatch):
    monkeypatch.setattr(cni_connection, "refuse_strangers", lambda _: None)
    served = []

    def handle(environ: dict[str, str], *_: object) -> Answer:
        served.append(environ["CNI_COMMAND"])
        return Answer(0, b"")

    for command in (b"ADD", b"DEL"):
        ours, theirs = socket.socketpair()
        ours.sendall(wire.encode_request({b"CNI_COMMAND": command}, b"{}"))
        ours.close()
        cni_connection.serve(theirs, handle)
    assert served == ["DEL"]


@pytest.mark.parametrize("module", [agent.metrics, controller.metrics])
def test_a_reader_of_metrics_who_asks_nothing_holds_no_thread(module, monkeypatch):
    monkeypatch.setattr(module, "CALLER_S", SHORT_S)
    server = module.serve("127.0.0.1:0", tuple, tuple)
    silent = socket.create_connection(server.server_address)
    assert ended(lambda: silent.recv(1)) == b""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/healthz") as answer:
        assert answer.status == 200
    silent.close()
    server.shutdown()
    server.server_close()
