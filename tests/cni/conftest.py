"""The executable in all its forms, and an agent's end of its socket."""

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings

from cni import build, wire

settings.register_profile("busy-machine", deadline=None, database=None)
settings.load_profile("busy-machine")

Changes = Sequence[tuple[str, str]]  # of a text, each to be found in it once


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


@pytest.fixture(scope="session", params=["native", "sanitized", "portable"])
def form(request: pytest.FixtureRequest) -> str:
    """What is tested: what a node gets, the same with a check of every access and operation, what other nodes get."""
    return str(request.param)


@pytest.fixture(scope="session")
def executable(form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(form, tmp_path_factory.mktemp("bin") / "hotnic")


@pytest.fixture(scope="session")
def default_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for /run/hotnic in the executables below; it is not there yet."""
    return tmp_path_factory.mktemp("default") / "hotnic"


@pytest.fixture(scope="session")
def elsewhere(form: str, default_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable with another place for the agent."""
    path = tmp_path_factory.mktemp("elsewhere") / "hotnic"
    return made(form, path, *in_place_of_run_dir(default_dir))


def in_place_of_run_dir(path: Path) -> tuple[Changes, Changes]:
    return (("b'/run/hotnic'", repr(os.fsencode(path))),), (
        ('#define RUN_DIR "/run/hotnic"', f'#define RUN_DIR "{path}"'),
    )


@pytest.fixture(scope="session")
def hasty(form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable with deadlines of tenths of seconds."""
    return made(
        form,
        tmp_path_factory.mktemp("hasty") / "hotnic",
        (
            ("DEADLINES = {b'ADD': 30, b'VERSION': 2}", "DEADLINES = {b'ADD': 0.4, b'VERSION': 0.2}"),
            ("\nDEADLINE = 20\n", "\nDEADLINE = 0.3\n"),
            ("\nTELLING_DEADLINE = 2\n", "\nTELLING_DEADLINE = 1\n"),
        ),
        (
            ("    ADD_DEADLINE = 30000,", "    ADD_DEADLINE = 400,"),
            ("    VERSION_DEADLINE = 2000,", "    VERSION_DEADLINE = 200,"),
            ("    DEADLINE = 20000,", "    DEADLINE = 300,"),
            ("    TELLING_DEADLINE = 2000,", "    TELLING_DEADLINE = 1000,"),
        ),
    )


def made(form: str, path: Path, of_python: Changes = (), of_c: Changes = ()) -> Path:
    """Build one form of the executable, with changes to its text."""
    if form == "portable":
        path.write_text(changed(build.source(), of_python))
        path.chmod(0o755)
    else:
        compiled(form, path, of_c)
    return path


def compiled(form: str, path: Path, of_c: Changes) -> None:
    folder = path.parent / "native"
    shutil.copytree(build.NATIVE, folder)
    texts = {source: source.read_text() for source in folder.iterdir()}
    for change in of_c:
        (source,) = (source for source, text in texts.items() if change[0] in text)
        texts[source] = changed(texts[source], [change])
    for source, text in texts.items():
        source.write_text(text)
    sources = sorted(folder.glob("*.c"))
    if form == "native":
        build.compile_native(path, sources)
    else:
        build.run_compiler(["gcc", *SANITIZED, "-o", str(path), *map(str, [*sources, SANITIZER_OPTIONS])])
    shutil.rmtree(folder)


def changed(text: str, changes: Changes) -> str:
    for before, after in changes:
        assert text.count(before) == 1
        text = text.replace(before, after)
    return text


SANITIZED = (
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fsanitize-undefined-trap-on-error",
)
SANITIZER_OPTIONS = Path(__file__).parent / "sanitizer.c"
