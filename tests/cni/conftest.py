"""The built executable, and an agent's end of its socket."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings

from cni import build, wire

settings.register_profile("busy-machine", deadline=None, database=None)
settings.load_profile("busy-machine")


@dataclass
class Agent:
    """Answers each connection as `answer` says, and remembers the calls."""

    run_dir: Path
    answer: Callable[[socket.socket], None] = field(init=False)
    calls: list[wire.Call] = field(default_factory=list)
    namespaces: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answer = self.reply(0, b"")

    def reply(self, code: int, stdout: bytes) -> Callable[[socket.socket], None]:
        return self.send(wire.encode_reply(code, stdout))

    def send(self, raw: bytes) -> Callable[[socket.socket], None]:
        """Read the call, send `raw` and hang up."""

        def answer(connection: socket.socket) -> None:
            call = wire.receive_request(connection, 10)
            if call.netns is not None:
                status = os.fstat(call.netns)
                self.namespaces.append((status.st_dev, status.st_ino))
                os.close(call.netns)
            self.calls.append(call)
            connection.sendall(raw)

        return answer

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # a client may hang up at any time
                self.answer(connection)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory that an agent made and left."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "tombstones").mkdir(mode=0o700)
    return path


@pytest.fixture
def agent(run_dir: Path) -> Iterator[Agent]:
    agent = Agent(run_dir)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(run_dir / "cni.sock"))
    listener.listen()
    thread = threading.Thread(target=agent.serve, args=(listener,))
    thread.start()
    yield agent
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bin") / "hotnic"
    build.install(path)
    return path


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable with deadlines of tenths of seconds."""
    text = build.source()
    for line, shorter in (
        ("DEADLINES = {b'ADD': 30, b'VERSION': 2}", "DEADLINES = {b'ADD': 0.4, b'VERSION': 0.2}"),
        ("\nDEADLINE = 20\n", "\nDEADLINE = 0.3\n"),
    ):
        assert text.count(line) == 1
        text = text.replace(line, shorter)
    path = tmp_path_factory.mktemp("bin") / "hotnic"
    path.write_text(text)
    path.chmod(0o755)
    return path
