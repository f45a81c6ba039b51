"""The CNI executable and the agent one version apart, either way round: an update of either comes before the other's.

`executables/NAME.py` is the portable form of a version: `first` the first one that was ever in use, and each release.
With a release comes its file, and none is changed afterwards.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent import cni_connection, cni_server
from agent.calls import Answer
from cni import build, wire

FOLDER = Path(__file__).parent / "executables"
RECORDED = sorted(FOLDER.iterdir())
RESULT = {"cniVersion": "1.1.0", "interfaces": [{"name": "net1"}]}
REFUSAL = {"cniVersion": "1.1.0", "code": 7, "msg": "no"}


def call(program, run_dir, command):
    env = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/proc/self/ns/net", "CNI_IFNAME": "net1",
        "CNI_PATH": "/opt/cni/bin", "CNI_ARGS": "K8S_POD_NAME=p",
    }  # fmt: skip
    config = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "bridge", "runDir": str(run_dir)}
    done = subprocess.run(
        program, env=env, input=json.dumps(config).encode(), capture_output=True, timeout=60, check=False
    )
    return done, config


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "tombstones").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def serve(run_dir):
    """Serve connections as an agent of whatever version does; return by what."""
    listener = cni_server.listen(run_dir / "cni.sock")
    ends = []

    def start(answer):
        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                answer(connection)

        ends.append(threading.Thread(target=accept))
        ends[-1].start()

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in ends:
        thread.join()


# -- this agent, an older executable ----------------------------------------------------------------------------------


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def older(request):
    return [sys.executable, "-IS", str(request.param)]


@pytest.mark.parametrize("words", [b"", b"a plugin said so\n"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("answer", [(0, RESULT), (1, REFUSAL)], ids=["done", "refused"])
def test_this_agent_serves_an_older_executable(older, serve, run_dir, monkeypatch, command, answer, words):
    heard = []

    def handle(environ, stdin, netns):
        heard.append((dict(environ), json.loads(stdin), os.fstat(netns).st_ino))
        return Answer(answer[0], json.dumps(answer[1]).encode(), words=words)

    monkeypatch.setattr(cni_connection, "refuse_strangers", lambda connection: None)  # the tests need not be root
    serve(lambda connection: cni_connection.serve(connection, handle))
    done, config = call(older, run_dir, command)
    assert (done.returncode, json.loads(done.stdout)) == answer
    ((environ, told, inode),) = heard
    assert (environ["CNI_COMMAND"], environ["CNI_CONTAINERID"], environ["CNI_ARGS"]) == (
        command,
        "c1",
        "K8S_POD_NAME=p",
    )
    assert told == config
    assert inode == os.stat("/proc/self/ns/net").st_ino


def test_this_agent_replays_what_an_older_executable_has_kept_for_it(older, run_dir):
    done, config = call(older, run_dir, "DEL")
    assert (done.returncode, done.stdout) == (0, b"")
    (kept,) = (run_dir / "tombstones").iterdir()
    assert kept.suffix == ".bin"
    heard, came = [], threading.Event()

    def handle(environ, stdin, netns):
        heard.append((environ["CNI_COMMAND"], environ["CNI_IFNAME"], json.loads(stdin)))
        came.set()
        return Answer(0, b"")

    server = cni_server.Server(run_dir, handle)
    server.start()
    assert came.wait(30)
    server.close()
    assert heard == [("DEL", "net1", config)]
    assert not list((run_dir / "tombstones").iterdir())


# -- this executable, another agent -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["native", "portable"])
def present(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("bin") / "hotnic"
    if request.param == "native":
        build.compile_native(path, sorted(build.NATIVE.glob("*.c")))
        return [str(path)]
    path.write_text(build.source())
    return [sys.executable, "-IS", str(path)]


def by_the_book_of_the_first(connection):
    """Read a request and answer it byte by byte as the first agent did: nothing comes after stdout."""
    with connection:
        data = b""
        while len(data) < 8 or len(data) < 8 + sum(int.from_bytes(data[at : at + 4], "little") for at in (0, 4)):
            data += connection.recv(1 << 16)
        environment = data[8 : 8 + int.from_bytes(data[:4], "little")].split(b"\0")
        assert b"CNI_CONTAINERID=c1" in environment
        assert json.loads(data[8 + int.from_bytes(data[:4], "little") :])["name"] == "blue"
        stdout = json.dumps(RESULT).encode()
        connection.sendall((0).to_bytes(4, "little") + len(stdout).to_bytes(4, "little") + stdout)


def of_a_later_one(connection):
    """Answer as an agent that has more to say after the words for stderr than this executable has room for."""
    with connection:
        os.close(wire.receive_request(connection, 10).netns)
        stdout = json.dumps(RESULT).encode()
        connection.sendall(wire.encode_reply(0, stdout) + b"w" * wire.MAX_WORDS * 3)


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("agent", [by_the_book_of_the_first, of_a_later_one])
def test_another_agent_serves_this_executable(present, serve, run_dir, agent, command):
    serve(agent)
    done, _ = call(present, run_dir, command)
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT)
    assert len(done.stderr) <= wire.MAX_WORDS
