"""`"agent": "none"`: the executable starts a program for the call and talks to that. Here the program is a stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cni import wire

ROOT = Path(__file__).parent.parent.parent
NAME = "hotnic-standalone"
RESULT = b'{"cniVersion": "1.1.0", "interfaces": []}'
REFUSAL = b'{"code": 7, "msg": "no"}'
CONFIG = {"cniVersion": "1.0.0", "name": "blue", "type": "hotnic", "agent": "none"}

# Notes what it is and what it is asked, then sends what lies in the file `reply`.
PROGRAM = """#!{python} -IS
import json, os, socket, sys
folder = os.path.dirname(os.path.abspath(sys.argv[0]))
paths = [f"/proc/self/fd/{{number}}" for number in range(100)]
descriptors = {{os.path.basename(path): os.readlink(path) for path in paths if os.path.lexists(path)}}
sys.path.insert(0, {root!r})
from cni import wire
connection = socket.socket(fileno=3)
call = wire.receive_request(connection, 10)
netns = call.netns and [os.fstat(call.netns).st_dev, os.fstat(call.netns).st_ino]
seen = dict(environ=call.environ, stdin=call.stdin.decode(), netns=netns, descriptors=descriptors,
            own_environ=dict(os.environ), folder=os.getcwd(), arguments=sys.argv[1:])
number = len(os.listdir(folder + "/calls"))
with open(f"{{folder}}/calls/{{number}}", "w") as file:
    json.dump(seen, file)
{action}
"""
ANSWER = "connection.sendall(open(folder + '/reply', 'rb').read())"


class Program:
    """The stand-in in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "calls").mkdir(parents=True)
        self.reply(0, RESULT)
        self.acts(ANSWER)

    def reply(self, code: int, stdout: bytes) -> None:
        (self.folder / "reply").write_bytes(wire.encode_reply(code, stdout))

    def acts(self, action: str) -> None:
        self.is_text(PROGRAM.format(python=os.path.realpath(sys.executable), root=str(ROOT), action=action))

    def is_text(self, text: str) -> None:
        (self.folder / NAME).write_text(text)
        (self.folder / NAME).chmod(0o755)

    @property
    def calls(self) -> list[dict]:
        return [
            json.loads((self.folder / "calls" / name).read_text()) for name in sorted(os.listdir(self.folder / "calls"))
        ]


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path / "bin")


def run(executable, program, verb="ADD", *, path=None, stdin=None, **options):
    env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_NETNS": "/proc/self/ns/net"}
    env |= {"PATH": str(program.folder) if path is None else path, "PYTHONPATH": "/evil", "NOISE": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    stdin = json.dumps(CONFIG).encode() if stdin is None else stdin
    return subprocess.run(executable, env=env, input=stdin, timeout=60, check=False, **options)


def told(done):
    assert (done.returncode, done.stderr) == (1, b"")
    document = json.loads(done.stdout)
    assert document["cniVersion"] == "1.0.0"
    return document["code"], document["msg"]


@pytest.mark.parametrize(
    ("verb", "code", "stdout"),
    [
        ("ADD", 0, RESULT), ("ADD", 0, b"x" * 500_000), ("ADD", 1, REFUSAL), ("DEL", 0, b""), ("DEL", 255, REFUSAL),
        ("CHECK", 0, b""), ("GC", 1, REFUSAL), ("STATUS", 1, REFUSAL), ("FOO", 1, REFUSAL),
    ],
)  # fmt: skip
def test_programs_reply_is_passed_on_unchanged(executable, program, verb, code, stdout):
    program.reply(code, stdout)
    done = run(executable, program, verb)
    assert (done.returncode, done.stdout, done.stderr) == (code, stdout, b"")


def test_program_gets_the_call_and_nothing_else(executable, program, tmp_path):
    stdin = json.dumps(CONFIG | {"x": "y" * (3 << 20)}).encode()
    with (tmp_path / "stderr").open("wb") as stderr:
        run(executable, program, stdin=stdin, stderr=stderr, cwd=tmp_path)
    (call,) = program.calls
    own = os.stat("/proc/self/ns/net")
    assert call["netns"] == [own.st_dev, own.st_ino]
    assert call["environ"] == {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_NETNS": "/proc/self/ns/net",
    }  # fmt: skip
    assert call["stdin"].encode() == stdin
    assert call["own_environ"] == {"PATH": str(program.folder)} | {
        name: value
        for name, value in call["own_environ"].items()
        if name == "LC_CTYPE"  # the interpreter's own
    }
    assert (call["folder"], call["arguments"]) == ("/", [])
    stderr_path = str(tmp_path / "stderr")
    assert {name: target for name, target in call["descriptors"].items() if name != "3"} == {
        "0": "/dev/null", "1": stderr_path, "2": stderr_path,
    }  # fmt: skip
    assert call["descriptors"]["3"].startswith("socket:")


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_get_into_its_way(executable, program, redirection):
    wrapped = ["/bin/sh", "-c", f'exec "$0" {redirection}', str(executable)]
    done = run(wrapped, program, "CHECK")
    if "<&-" in redirection.split():
        assert program.calls == []  # there is no configuration that asks for it
        return
    (call,) = program.calls
    assert call["descriptors"]["0"] == "/dev/null"
    assert call["descriptors"]["3"].startswith("socket:")
    assert done.returncode == (1 if ">&-" in redirection.split() else 0)


def test_what_the_program_prints_is_not_our_result(executable, program):
    program.acts(f"os.write(1, b'chatter'); {ANSWER}")
    done = run(executable, program)
    assert (done.returncode, done.stdout, done.stderr) == (0, RESULT, b"chatter")


def test_it_has_ended_when_we_have(executable, program):
    """A runtime waits for stderr to close, and who reaps what we leave is nobody's business."""
    program.acts(f"{ANSWER}; import time; time.sleep(0.3); open(folder + '/ended', 'w')")
    assert run(executable, program, stderr=subprocess.DEVNULL).returncode == 0
    assert (program.folder / "ended").exists()


@pytest.mark.parametrize(("verb", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_without_the_program_the_runtime_is_told_to_come_again(executable, program, run_dir, verb, code):
    for hidden in ("relative:", "", ":", "/nonexistent", f"{program.folder}/{NAME}"):
        path = hidden if hidden != "relative:" else os.path.relpath(program.folder)
        stdin = json.dumps(CONFIG | {"runDir": str(run_dir)}).encode()
        missing = f"{NAME}: it is neither in PATH nor in /usr/local/bin, /usr/bin or /opt/hotnic/bin"
        assert told(run(executable, program, verb, path=path, stdin=stdin)) == (code, missing)
    assert list((run_dir / "tombstones").iterdir()) == []


def test_path_is_searched_in_order_for_what_can_be_executed(executable, program, tmp_path):
    for name in ("folder", "plain", "dangling"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / NAME).mkdir()
    (tmp_path / "plain" / NAME).write_text("#!/bin/false")
    (tmp_path / "dangling" / NAME).symlink_to("/nonexistent")
    second = Program(tmp_path / "second")
    places = [*(str(tmp_path / name) for name in ("folder", "plain", "dangling")), "/" + "x" * 5000]
    run(executable, program, path=":".join([*places, str(program.folder), str(second.folder)]))
    assert (len(program.calls), second.calls) == (1, [])


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("", "connection closed after 0 of 8 bytes"),
        ("connection.sendall(bytes(5))", "connection closed after 5 of 8 bytes"),
        ("connection.sendall(bytes(4) + b'\\x09\\0\\0\\0{}')", "connection closed after 2 of 9 bytes"),
        ("connection.sendall(b'x' * 100)", "is out of range"),
        ("connection.sendall(b'\\1' + bytes(7))", "failed with code 1, but does not say why"),
        ("os.kill(os.getpid(), 9)", "connection closed after 0 of 8 bytes"),
    ],
)
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_program_that_dies_or_answers_badly_is_to_be_tried_again(executable, program, verb, action, reason):
    program.acts(action)
    code, message = told(run(executable, program, verb))
    assert code == 11
    assert reason in message
    assert f"{program.folder}/{NAME}" in message


@pytest.mark.parametrize("text", ["#!/nonexistent/python\n", "", "\x7fELF"])
def test_a_program_that_cannot_be_executed_is_to_be_tried_again(executable, program, text):
    program.is_text(text)
    code, message = told(run(executable, program))
    assert (code, "no reply" in message) == (11, True)


def test_its_path_may_be_no_text(executable, program, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff\xe2\x82x")
    folder.mkdir()
    (folder / NAME).symlink_to("/bin/false")
    code, message = told(run(executable, program, path=str(folder)))
    assert (code, f"/\ufffd\ufffdx/{NAME}" in message) == (11, True)


@pytest.mark.parametrize(("verb", "code"), [("ADD", 11), ("DEL", 11), ("STATUS", 50)])
def test_a_silent_program_is_given_up_at_the_deadline(hasty, program, verb, code):
    program.acts("connection.recv(1)")  # until we hang up
    found, message = told(run(hasty, program, verb))
    assert (found, "nothing came within" in message) == (code, True)


def test_an_add_whose_result_nobody_takes_is_undone_by_another_one(executable, program):
    with Path("/dev/full").open("wb") as full:
        assert run(executable, program, stdout=full).returncode == 1
    assert [call["environ"]["CNI_COMMAND"] for call in program.calls] == ["ADD", "DEL"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("None", '"None"'), ("", '""'), ("none\0", r'"none\u0000"'), ("local", '"local"'), (0, "a number"),
        (False, "a boolean"), (["none"], "a list"), ({"agent": "none"}, "an object"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_any_other_agent_is_refused_by_name(executable, program, verb, value, shown):
    code, message = told(run(executable, program, verb, stdin=json.dumps(CONFIG | {"agent": value}).encode()))
    assert (code, f"agent is {shown}," in message) == (7, True)
    assert program.calls == []


@pytest.mark.parametrize(
    "text",
    [
        '{"args": {"agent": "none"}, "list": [{"agent": "none"}], "name": "agent", "agent": null}',
        '{"agent": "none", "agent": null}',
        '{"x": "\\"agent\\": \\"none\\""}',
        '{"Agent": "none", "agent ": "none"}',
    ],
)
def test_only_the_configurations_own_key_counts(elsewhere, default_dir, program, text):
    found = run(elsewhere, program, stdin=text.encode())
    assert str(default_dir) in json.loads(found.stdout)["msg"]
    assert program.calls == []


@pytest.mark.parametrize("text", [r'{"a\u0067ent": "non\u0065"}', '{"agent": {"agent": 1}, "agent": "none"}'])
def test_the_key_counts_however_it_is_written(executable, program, text):
    assert run(executable, program, stdin=text.encode()).stdout == RESULT


def test_version_needs_no_program(executable, program):
    assert run(executable, program, "VERSION").returncode == 0
    assert program.calls == []
