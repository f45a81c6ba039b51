"""The executable as a runtime sees it: environment and stdin in; stdout, stderr, exit code out."""

import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from cni import forward, version, wire

CONTAINER = "0123456789abcdef"
RESULT = b'{"cniVersion": "1.1.0", "interfaces": [{"name": "net1"}]}\n'
REFUSAL = b'{"cniVersion": "1.1.0", "code": 7, "msg": "no"}'
VERBS = ["ADD", "DEL", "CHECK", "GC", "STATUS"]
REPLY = wire.encode_reply(0, RESULT)
SHORT_REPLY = wire.encode_reply(0, b'{"ips": []}')


def environ(command, **more):
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": CONTAINER,
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "",
    } | more


def config(run_dir, **more):
    return json.dumps({"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "runDir": str(run_dir)} | more).encode()


def call(program, env, stdin=b"", **options):
    return subprocess.run(program, env=env, input=stdin, capture_output=True, timeout=60, check=False, **options)


def error(done):
    """Return the one JSON document that a failure is."""
    assert done.returncode != 0
    assert done.stderr == b""
    document = json.loads(done.stdout)
    assert document["code"] > 0
    assert document["msg"]
    return document


@contextmanager
def changes(folder):
    """Yield a function that returns what was made and renamed in the folder: (inotify's word, name)."""
    words = {0x100: "create", 0x40: "moved_from", 0x80: "moved_to"}
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(watch, os.fsencode(folder), sum(words)) > 0

    def seen():
        data, found = os.read(watch, 1 << 16), []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            found.append((words[mask], data[16 : 16 + length].rstrip(b"\0").decode()))
            data = data[16 + length :]
        return found

    try:
        yield seen
    finally:
        os.close(watch)


def tombstones(run_dir):
    graves = run_dir / "tombstones"
    return sorted(graves.iterdir()) if graves.exists() else []


# what it passes on, and what it gives back


@pytest.mark.parametrize("verb", [*VERBS, "FOO"])
@pytest.mark.parametrize(("code", "stdout"), [(0, RESULT), (0, b""), (1, REFUSAL), (255, REFUSAL), (0, b"x" * 200_000)])
def test_agents_reply_is_passed_on_unchanged(executable, agent, verb, code, stdout):
    agent.answer = agent.reply(code, stdout)
    done = call(executable, environ(verb), config(agent.run_dir))
    assert (done.returncode, done.stdout, done.stderr) == (code, stdout, b"")


def test_agent_gets_the_cni_variables_stdin_and_the_namespace(executable, agent):
    env = environ("ADD", CNI_ARGS="A=1;B=é", CNI_NETNS_OVERRIDE="1")
    call(executable, env | {"PATH": "/bin", "HOTNIC_NETNS_ERRNO": "1"}, config(agent.run_dir))
    own = os.stat("/proc/self/ns/net")
    (received,) = agent.calls
    assert received.environ == env
    assert received.stdin == config(agent.run_dir)
    assert agent.namespaces == [(own.st_dev, own.st_ino)]


@pytest.mark.parametrize("netns", ["", None])
def test_no_namespace_is_no_error_here(executable, agent, netns):
    env = {name: value for name, value in environ("DEL", CNI_NETNS=netns).items() if value is not None}
    call(executable, env, config(agent.run_dir))
    assert (agent.calls[0].environ, agent.calls[0].netns) == (env, None)


def test_a_namespace_that_cannot_be_opened_is_told_by_errno(executable, agent):
    env = environ("ADD", CNI_NETNS="/gone")
    call(executable, env, config(agent.run_dir))
    assert (agent.calls[0].environ, agent.calls[0].netns) == (env | {wire.NETNS_ERRNO: "2"}, None)


def test_a_namespace_that_is_a_pipe_does_not_hang_it(executable, agent, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    call(executable, environ("ADD", CNI_NETNS=str(tmp_path / "pipe")), config(agent.run_dir))
    assert len(agent.namespaces) == 1


@pytest.mark.parametrize("stdin", [b"", b"[]", b"{", b"null", b"\xff", b'"runDir"', b'{"runDir"'])
def test_what_is_no_configuration_goes_to_the_default_agent(stdin):
    assert forward.find_run_dir(stdin) == b"/run/hotnic"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "blue"}', b"/run/hotnic"),
        ('{"runDir": ""}', b"/run/hotnic"),
        ('{"runDir": null}', b"/run/hotnic"),
        ('{"runDir": "/x"}', b"/x"),
        (r'{"\u0072unDir": "/x"}', b"/x"),
        (r'{"runDir": "\/x\u00e9"}', "/xé".encode()),
        ('{"prevResult": {"runDir": "/y"}, "name": "runDir"}', b"/run/hotnic"),
        ('{"a": "\\"runDir\\": \\"/y\\"", "runDir": "/x"}', b"/x"),
        (r'{"x": "\ud800"}', b"/run/hotnic"),
    ],
)
def test_run_dir_is_the_configurations_own_key(text, expected):
    assert forward.find_run_dir(text.encode()) == expected


def test_run_dir_may_be_written_with_escapes(executable, agent):
    text = json.dumps(str(agent.run_dir)).replace("/", r"\/").replace("t", r"\u0074")
    nested = b'"args": {"runDir": "/gone", "agent": "none"}, "list": [{"agent": "none", "runDir": "/gone"}]'
    stdin = b'{%b, "runDir": "/gone", "r\\u0075nDir": %b, %b}' % (nested, text.encode(), nested)
    assert call(executable, environ("ADD"), stdin).returncode == 0
    assert agent.calls[0].stdin == stdin


def test_no_run_dir_means_the_default_agent(elsewhere, default_dir):
    document = error(call(elsewhere, environ("ADD"), b'{"runDir": null}'))
    assert f" {default_dir}/cni.sock: No such file or directory" in document["msg"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("relative", '"relative",'),
        ("/x\0", r'"/x\u0000",'),
        ('é"\\\n\x7f😀', r'"\u00e9\"\\\n\u007f\ud83d\ude00",'),
        ("é" * 100, '"' + r"\u00e9" * 13 + r"\,"),
        ("/" * 4001, '"' + "/" * 79 + ","),
        (0, "a number,"),
        (-1.5, "a number,"),
        (False, "a boolean,"),
        ([], "a list,"),
        ({"runDir": "/x"}, "an object,"),
    ],
)
def test_run_dir_that_is_no_absolute_path_is_refused(executable, value, told):
    document = error(
        call(executable, environ("DEL"), config(value) if isinstance(value, str) else config("", runDir=value))
    )
    assert document["code"] == 7
    assert f"runDir is {told}" in document["msg"]


@pytest.mark.parametrize("length", [1 << 20, wire.MAX_STDIN - 1, wire.MAX_STDIN])
def test_large_configurations_arrive(executable, agent, length):
    stdin = config(agent.run_dir).ljust(length)
    assert call(executable, environ("DEL"), stdin).returncode == 0
    assert agent.calls[0].stdin == stdin


@pytest.mark.parametrize("beyond", [1, 1 << 16])
def test_larger_configurations_are_refused(executable, beyond):
    assert error(call(executable, environ("ADD"), b" " * (wire.MAX_STDIN + beyond)))["code"] == 7


def test_an_endless_configuration_is_refused_at_once(executable):
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(
            executable, env=environ("ADD"), stdin=endless, capture_output=True, timeout=60, check=False
        )
    assert error(done)["code"] == 7


def test_variables_larger_than_the_wire_takes_are_refused(executable, run_dir):
    document = error(call(executable, environ("DEL", CNI_ARGS="x" * wire.MAX_ENVIRONMENT), config(run_dir)))
    assert (document["code"], "CNI_" in document["msg"]) == (4, True)


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("netns", ["", "/gone"])
def test_variables_fit_up_to_the_last_byte(executable, agent, netns, beyond):
    env = environ("DEL", CNI_NETNS=netns)
    told = env | ({wire.NETNS_ERRNO: "2"} if netns else {})
    env["CNI_ARGS"] = "x" * (wire.MAX_ENVIRONMENT + beyond - sum(len(f"{name}={told[name]}") + 1 for name in told) + 1)
    done = call(executable, env, config(agent.run_dir))
    if beyond:
        assert f"environment of {wire.MAX_ENVIRONMENT + 1} and" in error(done)["msg"]
    else:
        assert (done.returncode, agent.calls[0].environ) == (0, told | env)


def test_other_variables_may_be_as_large_as_they_like(executable, agent):
    noise = {f"NOISE_{number}": "x" * 100_000 for number in range(15)}
    assert call(executable, environ("DEL") | noise, config(agent.run_dir)).returncode == 0
    assert agent.calls[0].environ == environ("DEL")


def test_many_variables_arrive_in_their_order(executable, agent):
    env = environ("DEL") | {f"CNI_{number}": str(number) for number in range(4000)}
    assert call(executable, env, config(agent.run_dir)).returncode == 0
    assert list(agent.calls[0].environ.items()) == list(env.items())


def test_of_a_variable_that_is_there_twice_the_first_counts(executable, agent):
    """As for getenv; and what has no value at all is none."""
    block = [
        "CNI_COMMAND=DEL",
        "CNI_ARGS=first",
        "CNI_COMMAND=ADD",
        "CNI_ARGS=second",
        "CNI_ARGSX=third",
        "CNI_NOTHING",
    ]
    reading, writing = os.pipe()
    os.write(writing, config(agent.run_dir))
    os.close(writing)
    with_block = [sys.executable, "-c", EXEC_WITH_BLOCK, str(executable), *block]
    subprocess.run(with_block, stdin=reading, timeout=60, check=True)
    os.close(reading)
    assert agent.calls[0].environ == {"CNI_COMMAND": "DEL", "CNI_ARGS": "first", "CNI_ARGSX": "third"}


EXEC_WITH_BLOCK = """
import ctypes, os, sys
def array(items):
    return (ctypes.c_char_p * (len(items) + 1))(*map(os.fsencode, items), None)
program = os.fsencode(sys.argv[1])
ctypes.CDLL(None, use_errno=True).execve(program, array([program]), array(sys.argv[2:]))
"""


def test_a_reply_that_comes_before_all_was_read_counts(executable, agent):
    def answer(connection):
        connection.recv(8)
        connection.sendall(wire.encode_reply(1, REFUSAL))

    agent.answer = answer
    done = call(executable, environ("ADD"), config(agent.run_dir, x="y" * (4 << 20)))
    assert (done.returncode, done.stdout) == (1, REFUSAL)


def test_parallel_calls_do_not_disturb_each_other(executable, agent):
    agent.answer = agent.reply(0, RESULT)
    running = [
        subprocess.Popen(
            executable, env=environ("ADD", CNI_IFNAME=f"net{number}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(12)
    ]
    assert [process.communicate(config(agent.run_dir), 60)[0] for process in running] == [RESULT] * 12
    assert {received.environ["CNI_IFNAME"] for received in agent.calls} == {f"net{number}" for number in range(12)}


# answered here


@pytest.mark.parametrize(
    "stdin", [b"", b"garbage", b"[]", b"\xff", b'{"cniVersion": 3}', b'{"cniVersion": ""}', b"[" * 5000]
)
def test_version_answers_whatever_stdin_says(executable, stdin):
    done = call(executable, {"CNI_COMMAND": "VERSION"}, stdin)
    expected = {"cniVersion": version.CURRENT, "supportedVersions": list(version.SUPPORTED)}
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, expected, b"")


@pytest.mark.parametrize("stated", ["0.4.0", "1.1.0", "9.9.9"])
def test_version_repeats_the_version_of_the_request(executable, stated):
    env = environ("VERSION", CNI_NETNS="dummy", CNI_IFNAME="dummy", CNI_PATH="dummy", CNI_CONTAINERID="")
    done = call(executable, env, json.dumps({"cniVersion": stated}).encode())
    assert json.loads(done.stdout) == {"cniVersion": stated, "supportedVersions": list(version.SUPPORTED)}


@pytest.mark.parametrize(
    "stated", ["1.1.0\n", 'a"b\\c/', "é\x7f\x00\u2028", "😀\U0010ffff", "\ud800", "\udc00\ud800x", "x" * 9000]
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_version_repeats_whatever_text_it_is(executable, stated, ascii_only):
    if not ascii_only and any(0xD800 <= ord(letter) < 0xE000 for letter in stated):
        pytest.skip("such text can be written with escapes only")
    stdin = json.dumps({"cniVersion": stated}, ensure_ascii=ascii_only).encode()
    done = call(executable, {"CNI_COMMAND": "VERSION"}, stdin)
    expected = json.dumps({"cniVersion": stated, "supportedVersions": version.SUPPORTED})
    assert (done.returncode, done.stdout.decode("ascii")) == (0, expected)


def test_version_does_not_need_stdin_to_end(hasty):
    with subprocess.Popen(
        hasty, env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert json.loads(process.stdout.read())["cniVersion"] == version.CURRENT
        assert process.wait(10) == 0


@pytest.mark.parametrize("env", [{}, {"CNI_COMMAND": ""}])
def test_without_a_command_it_says_what_it_is(executable, env):
    done = call(executable, env)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"CNI" in done.stderr
    assert all(one.encode() in done.stderr for one in version.SUPPORTED)


# no agent


@pytest.mark.parametrize(("verb", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50), ("FOO", 11)])
def test_without_an_agent_the_runtime_is_told_to_come_again(executable, run_dir, verb, code):
    document = error(call(executable, environ(verb), config(run_dir, cniVersion="1.0.0")))
    assert (document["cniVersion"], document["code"]) == ("1.0.0", code)
    assert f"{run_dir}/cni.sock" in document["msg"]


PREVIOUS = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mac": "é"}], "ips": []}


@pytest.mark.parametrize("more", [{}, {"require": False}, {"require": None}])
def test_without_an_agent_no_pod_is_kept_from_its_start_by_the_networks_it_may_have(executable, run_dir, more):
    done = call(executable, environ("ADD"), config(run_dir, device="networks", prevResult=PREVIOUS, **more))
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, PREVIOUS, b"")
    assert tombstones(run_dir) == []


def test_where_the_agent_hangs_a_pod_starts_at_the_deadline(hasty, agent):
    agent.answer = lambda connection: connection.recv(1 << 20) and time.sleep(1)
    done = call(hasty, environ("ADD"), config(agent.run_dir, device="networks", prevResult=PREVIOUS))
    assert (done.returncode, json.loads(done.stdout)) == (0, PREVIOUS)


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("ADD", {"device": "networks", "prevResult": PREVIOUS, "require": True}),
        ("ADD", {"device": "networks", "prevResult": PREVIOUS, "require": 0}),
        ("ADD", {"device": "networks", "prevResult": None}),
        ("ADD", {"device": "networks", "prevResult": []}),
        ("ADD", {"device": "bridge", "prevResult": PREVIOUS}),
        ("ADD", {"prevResult": {"device": "networks"}}),
        ("CHECK", {"device": "networks", "prevResult": PREVIOUS}),
        ("STATUS", {"device": "networks"}),
    ],
)
def test_without_an_agent_all_else_fails(executable, run_dir, verb, more):
    error(call(executable, environ(verb), config(run_dir, **more)))


def test_an_agents_refusal_is_not_passed_over(executable, agent):
    agent.answer = agent.reply(1, b'{"code": 11, "msg": "networks of the pod: late"}')
    done = call(executable, environ("ADD"), config(agent.run_dir, device="networks", prevResult=PREVIOUS))
    assert error(done)["msg"] == "networks of the pod: late"


def test_an_agent_that_left_its_socket_behind_is_no_agent(executable, run_dir):
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(run_dir / "cni.sock"))
    assert "refused" in error(call(executable, environ("ADD"), config(run_dir)))["msg"]


def test_a_run_dir_that_no_socket_address_can_hold_is_no_agent(executable, tmp_path):
    assert error(call(executable, environ("ADD"), config(tmp_path / ("x" * 120))))["code"] == 11


def test_without_configuration_the_current_version_is_answered(executable):
    document = error(call(executable, environ("ADD"), config("relative")[:-1] + b', "cniVersion": 3}'))
    assert document["cniVersion"] == version.CURRENT


@pytest.mark.parametrize("netns", ["/proc/self/ns/net", "/gone", ""])
def test_a_del_without_an_agent_becomes_a_tombstone(executable, run_dir, netns):
    env, stdin = environ("DEL", CNI_NETNS=netns), config(run_dir)
    done = call(executable, env, stdin)
    assert (done.returncode, done.stdout) == (0, b"")
    (tombstone,) = tombstones(run_dir)
    told = env | ({wire.NETNS_ERRNO: "2"} if netns == "/gone" else {})
    assert wire.decode_request(tombstone.read_bytes()) == (told, stdin)
    assert str(tombstone).encode() in done.stderr


def test_a_tombstone_is_private_and_named_by_time_and_process(executable, run_dir):
    before = time.time_ns()
    call(executable, environ("DEL"), config(run_dir))
    (tombstone,) = tombstones(run_dir)
    assert before < int(tombstone.name.split("-")[0]) < time.time_ns()
    assert tombstone.suffix == ".bin"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tombstone, tombstone.parent)] == [0o600, 0o700]


def test_half_a_tombstone_is_not_taken_for_one(run_dir, monkeypatch):
    seen = []
    monkeypatch.setattr(forward.posix, "fsync", lambda _: seen.append(list((run_dir / "tombstones").glob("*.bin"))))
    final = Path(os.fsdecode(forward.bury(os.fsencode(run_dir), b"request")))
    assert seen == [[], [final]]
    assert final.read_bytes() == b"request"


def test_a_tombstone_is_written_under_another_name_and_then_renamed(executable, run_dir):
    with changes(run_dir / "tombstones") as seen:
        call(executable, environ("DEL"), config(run_dir))
        found = seen()
    (tombstone,) = tombstones(run_dir)
    temporary = tombstone.with_suffix(".tmp").name
    assert found == [("create", temporary), ("moved_from", temporary), ("moved_to", tombstone.name)]


def test_every_del_gets_its_tombstone(executable, run_dir):
    for _ in range(3):
        assert call(executable, environ("DEL"), config(run_dir)).returncode == 0
    assert len(tombstones(run_dir)) == 3


@pytest.mark.parametrize("stdin", [b"", b"{}", b"garbage", b'{"runDir": ""}'])
def test_a_del_after_a_reboot_finds_no_run_dir_and_makes_it(elsewhere, default_dir, stdin):
    shutil.rmtree(default_dir, ignore_errors=True)
    for count in (1, 2):
        assert call(elsewhere, environ("DEL"), stdin).returncode == 0
        assert len(tombstones(default_dir)) == count
    assert [stat.S_IMODE(path.stat().st_mode) for path in (default_dir, default_dir / "tombstones")] == [0o755, 0o700]


@pytest.mark.parametrize("obstacle", ["", "run", "run/tombstones"])
def test_a_del_that_cannot_be_kept_is_not_forgotten_in_silence(executable, tmp_path, obstacle):
    if obstacle:
        (tmp_path / obstacle).parent.mkdir(exist_ok=True)
        (tmp_path / obstacle).touch()
    document = error(call(executable, environ("DEL"), config(tmp_path / "run")))
    assert document["code"] == 11
    assert "cannot be kept" in document["msg"]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_nothing_is_written_where_a_configuration_points_and_no_agent_made_a_place(executable, tmp_path, mode):
    call(executable, environ("DEL"), config(tmp_path / "etc"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "etc" / "tombstones").mkdir(parents=True)
    (tmp_path / "etc" / "tombstones").chmod(mode)
    assert error(call(executable, environ("DEL"), config(tmp_path / "etc")))["code"] == 11
    assert tombstones(tmp_path / "etc") == []
    (tmp_path / "etc" / "tombstones").rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "etc" / "tombstones").symlink_to(tmp_path / "elsewhere")
    assert error(call(executable, environ("DEL"), config(tmp_path / "etc")))["code"] == 11
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_tombstone_that_does_not_fit_leaves_nothing(executable, run_dir):
    limited = ["/bin/sh", "-c", 'ulimit -f 1; exec "$0"', str(executable)]
    assert error(call(limited, environ("DEL"), config(run_dir, x="y" * 100_000)))["code"] == 11
    assert tombstones(run_dir) == []


# an agent that fails


@pytest.mark.parametrize("cut", range(len(SHORT_REPLY)))
def test_an_agent_that_dies_at_any_byte_is_no_agent(executable, agent, cut):
    agent.answer = agent.send(SHORT_REPLY[:cut])
    assert error(call(executable, environ("ADD"), config(agent.run_dir)))["code"] == 11
    assert call(executable, environ("DEL"), config(agent.run_dir)).returncode == 0
    assert len(tombstones(agent.run_dir)) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100,
        (256).to_bytes(4, "little") + bytes(4),  # would be 0 as an exit code
        bytes(4) + (wire.MAX_REPLY + 1).to_bytes(4, "little") + b"x" * 100,
        wire.encode_reply(1, b""),
    ],
)
def test_a_reply_that_is_none_is_no_agent(executable, agent, raw):
    agent.answer = agent.send(raw)
    assert error(call(executable, environ("STATUS"), config(agent.run_dir)))["code"] == 50
    assert error(call(executable, environ("ADD"), config(agent.run_dir)))["code"] == 11
    assert call(executable, environ("DEL"), config(agent.run_dir)).stdout == b""
    assert len(tombstones(agent.run_dir)) == 1


@pytest.mark.parametrize(
    ("code", "length"), [(256, 0), (1 << 31, 0), ((1 << 32) - 1, 5), (0, wire.MAX_REPLY + 1), (0, (1 << 32) - 1)]
)
def test_what_is_out_of_range_is_refused_without_waiting_for_it(executable, agent, code, length):
    def answer(connection):
        agent.send(code.to_bytes(4, "little") + length.to_bytes(4, "little"))(connection)
        silent(connection)

    agent.answer = answer
    document = error(call(executable, environ("CHECK"), config(agent.run_dir)))
    assert (document["code"], f"exit code {code} or length {length} is out of range" in document["msg"]) == (11, True)


def test_the_largest_reply_is_passed_on(executable, agent):
    agent.answer = agent.reply(0, b"x" * wire.MAX_REPLY)
    assert call(executable, environ("ADD"), config(agent.run_dir)).stdout == b"x" * wire.MAX_REPLY


def test_a_reply_that_never_ends_is_cut_where_it_should_end(executable, agent):
    def answer(connection):
        agent.send(REPLY)(connection)
        while True:  # until the client is gone
            connection.sendall(bytes(1 << 16))

    agent.answer = answer
    assert call(executable, environ("ADD"), config(agent.run_dir)).stdout == RESULT


def test_a_reply_that_comes_byte_by_byte_is_whole(executable, agent):
    def answer(connection):
        agent.send(b"")(connection)
        for byte in REPLY:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)

    agent.answer = answer
    assert call(executable, environ("ADD"), config(agent.run_dir)).stdout == RESULT


@pytest.mark.parametrize("raw", [b"", REPLY])
def test_an_agent_that_reads_nothing_is_heard_all_the_same(executable, agent, raw):
    agent.answer = lambda connection: connection.sendall(raw)
    done = call(executable, environ("ADD"), config(agent.run_dir, x="y" * (4 << 20)))
    assert done.stdout == RESULT if raw else error(done)["code"] == 11


def test_descriptors_that_come_with_the_reply_do_no_harm(executable, agent):
    def answer(connection):
        agent.send(b"")(connection)
        socket.send_fds(connection, [REPLY], [0, 1, 2])

    agent.answer = answer
    assert call(executable, environ("ADD"), config(agent.run_dir)).stdout == RESULT


def test_what_comes_after_the_reply_is_not_printed(executable, agent):
    agent.answer = agent.send(REPLY + REPLY)
    assert call(executable, environ("ADD"), config(agent.run_dir)).stdout == RESULT


# deadlines


def silent(connection):
    """Answer nothing until the client hangs up."""
    while connection.recv(1 << 16):
        pass


@pytest.mark.parametrize(("verb", "code"), [("ADD", 11), ("CHECK", 11), ("STATUS", 50)])
def test_a_silent_agent_is_given_up_at_the_deadline(hasty, agent, verb, code):
    agent.answer = silent
    document = error(call(hasty, environ(verb), config(agent.run_dir)))
    assert document["code"] == code
    assert "nothing came within" in document["msg"]


def test_a_trickling_agent_does_not_get_longer(hasty, agent):
    def answer(connection):
        wire.receive_request(connection, 10)
        for byte in REPLY[:20]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    agent.answer = answer
    document = error(call(hasty, environ("CHECK"), config(agent.run_dir)))
    assert "nothing came within" in document["msg"]


def test_a_del_that_the_agent_does_not_answer_becomes_a_tombstone(hasty, agent):
    agent.answer = silent
    assert call(hasty, environ("DEL"), config(agent.run_dir)).returncode == 0
    assert len(tombstones(agent.run_dir)) == 1


def test_an_agent_that_accepts_nobody_is_given_up_at_the_deadline(hasty, run_dir):
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as waiting:
        full.bind(str(run_dir / "cni.sock"))
        full.listen(0)
        waiting.connect(str(run_dir / "cni.sock"))
        assert "nothing came within" in error(call(hasty, environ("ADD"), config(run_dir)))["msg"]


def test_stdin_that_does_not_end_is_given_up_at_the_deadline(hasty):
    with subprocess.Popen(hasty, env=environ("ADD"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"{")
        process.stdin.flush()
        document = json.loads(process.stdout.read())
        assert process.wait(10) != 0
    assert (document["code"], "network configuration" in document["msg"]) == (5, True)


def test_stdout_that_nobody_reads_is_given_up_at_the_deadline(hasty, agent):
    agent.answer = agent.reply(1, b"x" * (1 << 20))
    with subprocess.Popen(hasty, env=environ("CHECK"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(config(agent.run_dir))
        process.stdin.close()
        assert process.wait(10) != 0


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_it_ends_where_agent_and_reader_hang_both(hasty, agent, verb):
    agent.answer = silent
    reading, writing = full_pipe()
    shutil.rmtree(agent.run_dir / "tombstones")  # a DEL has something to say then
    done = subprocess.run(
        hasty, env=environ(verb), input=config(agent.run_dir), stdout=writing, timeout=60, check=False
    )
    os.close(reading)
    os.close(writing)
    assert done.returncode == 1


def full_pipe():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for size in (1 << 16, 1):
        try:
            while True:
                os.write(writing, bytes(size))
        except BlockingIOError:
            pass
    os.set_blocking(writing, True)
    return reading, writing


def test_other_signals_do_not_disturb_it(executable, agent):
    ready = threading.Event()

    def answer(connection):
        agent.send(b"")(connection)
        ready.wait(10)
        connection.sendall(REPLY)

    agent.answer = answer
    with subprocess.Popen(executable, env=environ("ADD"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(config(agent.run_dir))
        process.stdin.close()
        for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGWINCH, signal.SIGCHLD):
            process.send_signal(number)
        ready.set()
        assert (process.stdout.read(), process.wait(10)) == (RESULT, 0)


def test_a_blocked_alarm_signal_is_unblocked(hasty, agent):
    agent.answer = silent
    blocking = ["/usr/bin/python3", "-c", BLOCK_AND_EXEC, str(hasty)]
    assert error(call(blocking, environ("ADD"), config(agent.run_dir)))["code"] == 11


BLOCK_AND_EXEC = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
signal.signal(signal.SIGALRM, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


# a result that nobody takes


def redirected(program, redirection):
    return ["/bin/sh", "-c", f'exec "$0" {redirection}', str(program)]


def broken_pipe(program, env, stdin):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(program, env=env, input=stdin, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)


def test_an_add_whose_result_nobody_takes_is_undone(executable, agent):
    agent.answer = agent.reply(0, RESULT)
    assert broken_pipe(executable, environ("ADD"), config(agent.run_dir)).returncode != 0
    add, undo = agent.calls
    assert (add.environ["CNI_COMMAND"], undo.environ["CNI_COMMAND"]) == ("ADD", "DEL")
    assert undo.environ | {"CNI_COMMAND": "ADD"} == add.environ
    assert undo.stdin == add.stdin
    assert len(agent.namespaces) == 2


@pytest.mark.parametrize("redirection", [">&-", ">&- <&- 2>&-", ">&- 2>&-"])
def test_an_add_with_closed_streams_is_undone(executable, agent, redirection):
    agent.answer = agent.reply(0, RESULT)
    env = environ("ADD")
    done = call(redirected(executable, redirection), env, config(agent.run_dir))
    assert done.returncode != 0
    if "<&-" not in redirection:  # without stdin it asks the default agent, if there is one
        assert [received.environ["CNI_COMMAND"] for received in agent.calls] == ["ADD", "DEL"]


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_a_refusal_that_nobody_takes_undoes_nothing(executable, agent, verb):
    agent.answer = agent.reply(1, REFUSAL)
    assert broken_pipe(executable, environ(verb), config(agent.run_dir)).returncode != 0
    assert len(agent.calls) == 1


def test_an_add_is_undone_where_stdout_is_full(executable, agent):
    agent.answer = agent.reply(0, RESULT)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(executable, env=environ("ADD"), input=config(agent.run_dir), stdout=full, check=False)
    assert done.returncode == 1
    assert [received.environ["CNI_COMMAND"] for received in agent.calls] == ["ADD", "DEL"]


@pytest.mark.parametrize("verb", [*VERBS, "VERSION"])
def test_what_nobody_hears_is_a_failure_unless_there_is_nothing_to_say(executable, run_dir, verb):
    assert broken_pipe(executable, environ(verb), config(run_dir)).returncode == (0 if verb == "DEL" else 1)


def test_a_del_whose_stderr_is_broken_is_kept_all_the_same(executable, run_dir):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(executable, env=environ("DEL"), input=config(run_dir), stderr=writing, check=False)
    os.close(writing)
    assert (done.returncode, len(tombstones(run_dir))) == (0, 1)


def test_an_undo_whose_agent_is_gone_becomes_a_tombstone(executable, agent):
    def answer(connection):
        (agent.run_dir / "cni.sock").unlink()
        agent.send(REPLY)(connection)

    agent.answer = answer
    assert broken_pipe(executable, environ("ADD"), config(agent.run_dir)).returncode != 0
    (tombstone,) = tombstones(agent.run_dir)
    assert wire.decode_request(tombstone.read_bytes())[0]["CNI_COMMAND"] == "DEL"


def test_a_reply_that_stdout_takes_in_part_is_a_failure(executable, agent, tmp_path):
    agent.answer = agent.reply(0, b"x" * 100_000)
    limited = ["/bin/sh", "-c", f'ulimit -f 1; exec "$0" > {tmp_path}/out', str(executable)]
    assert call(limited, environ("ADD"), config(agent.run_dir)).returncode != 0


# surroundings


STREAMS = ("<&-", ">&-", "2>&-")
COMBINATIONS = [" ".join(some) for count in range(1, 4) for some in itertools.combinations(STREAMS, count)]


@pytest.mark.parametrize("redirection", COMBINATIONS)
@pytest.mark.parametrize("verb", ["", "VERSION", "ADD", "DEL", "STATUS"])
def test_any_streams_may_be_closed(elsewhere, default_dir, redirection, verb):
    """Nothing is put where it does not belong, and a DEL is kept."""
    shutil.rmtree(default_dir, ignore_errors=True)
    done = call(redirected(elsewhere, redirection), environ(verb), b"{}")
    is_heard = ">&-" not in redirection.split() or verb in ("", "DEL")
    assert done.returncode == (0 if is_heard and verb in ("", "VERSION", "DEL") else 1)
    if verb not in ("", "DEL") and ">&-" not in redirection.split():
        assert json.loads(done.stdout)["cniVersion"] == version.CURRENT
    kept = [wire.decode_request(path.read_bytes())[1] for path in tombstones(default_dir)]
    assert kept == ([b"" if "<&-" in redirection.split() else b"{}"] if verb == "DEL" else [])


@pytest.mark.parametrize("redirection", ["2>&-", "<&-"])
def test_a_closed_stream_does_not_harm_the_others(executable, redirection):
    done = call(redirected(executable, redirection), {"CNI_COMMAND": "VERSION"})
    assert (done.returncode, json.loads(done.stdout)["cniVersion"]) == (0, version.CURRENT)


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", ">&- 2>&-"])
def test_a_del_needs_no_stream_but_stdin(executable, run_dir, redirection):
    assert call(redirected(executable, redirection), environ("DEL"), config(run_dir)).returncode == 0
    assert len(tombstones(run_dir)) == 1


@pytest.mark.parametrize(
    "hostile",
    [
        {"PYTHONPATH": "/evil", "PYTHONHOME": "/evil", "PYTHONSTARTUP": "/evil", "PYTHONIOENCODING": "utf-16"},
        {"LC_ALL": "C", "LANG": "C"},
        {"PYTHONVERBOSE": "1", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
    ],
)
def test_the_runtimes_environment_does_not_reach_the_interpreter(executable, agent, hostile):
    stdin = config(agent.run_dir, note="é")
    agent.answer = agent.reply(0, RESULT)
    done = call(executable, environ("ADD", CNI_ARGS="X=é") | hostile, stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, RESULT, b"")
    assert agent.calls[0].environ["CNI_ARGS"] == "X=é"


def test_modules_beside_it_are_not_its_own(executable, agent, tmp_path):
    program = tmp_path / "hotnic"
    program.write_bytes(executable.read_bytes())
    program.chmod(0o755)
    for name in ("json", "posix", "time", "_socket", "encodings"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
    agent.answer = agent.reply(0, RESULT)
    assert call(program, environ("ADD"), config(agent.run_dir), cwd=tmp_path).stdout == RESULT


def test_a_working_directory_that_is_gone_does_no_harm(executable, agent, tmp_path):
    agent.answer = agent.reply(0, RESULT)
    nowhere = ["/bin/sh", "-c", 'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$0"', executable, tmp_path / "x"]
    assert call(nowhere, environ("ADD"), config(agent.run_dir)).stdout == RESULT


def test_it_writes_no_file_while_the_agent_answers(executable, agent, tmp_path):
    call(executable, environ("ADD", TMPDIR="/gone"), config(agent.run_dir))
    assert {path.name for path in tmp_path.rglob("*")} == {"run", "cni.sock", "tombstones"}
    assert {path.name for path in executable.parent.iterdir()} == {"hotnic"}
