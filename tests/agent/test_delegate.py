"""Plugins are executed for real: small shell scripts, written by each test."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import delegate, descendants
from cni import errors

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ENV = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "net1", "CNI_ARGS": "", "CNI_PATH": ""}


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    path = tmp_path / "bin"
    path.mkdir()
    return path


@pytest.fixture
def executor(bin_dir: Path) -> delegate.Executor:
    return delegate.Executor([bin_dir])


def write(directory: Path, name: str, script: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def run(executor: delegate.Executor, name: str, deadline_s: float = 10.0, stdin: bytes = b"{}") -> str:
    return executor.run(name, "ADD", ENV, stdin, deadline_s).decode()


def failure(executor: delegate.Executor, name: str, deadline_s: float = 10.0) -> errors.CNIError:
    with pytest.raises(errors.CNIError) as caught:
        run(executor, name, deadline_s)
    return caught.value


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def children() -> list[int]:
    """This process' children that plugins left, dead or alive."""
    return descendants._orphans()


def running(*words: str) -> list[int]:
    """Processes whose command line is exactly `words`."""
    wanted = "\0".join(words).encode() + b"\0"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == wanted:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    yield
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not children())


# -- what a plugin gets ---------------------------------------------------------------------------------------


def test_a_plugin_gets_the_configuration_and_its_output_comes_back(executor, bin_dir):
    write(bin_dir, "echo", "cat")
    assert run(executor, "echo", stdin=b'{"a": 1}') == '{"a": 1}'


def test_a_configuration_larger_than_a_pipe_arrives_whole(executor, bin_dir):
    write(bin_dir, "count", "wc -c")
    assert run(executor, "count", stdin=b"x" * 3_000_000).strip() == "3000000"


def test_a_plugin_that_ignores_its_stdin_is_no_trouble(executor, bin_dir):
    write(bin_dir, "deaf", "exec <&-; echo ok")
    assert run(executor, "deaf", stdin=b"x" * 1_000_000) == "ok\n"


def test_the_environment_is_path_and_cni_variables_only(executor, bin_dir, monkeypatch):
    monkeypatch.setenv("LD_AUDIT", "evil.so")
    monkeypatch.setenv("PYTHONPATH", "/evil")
    write(bin_dir, "env", "tr '\\0' '\\n' </proc/$$/environ")
    variables = dict(line.split("=", 1) for line in run(executor, "env").splitlines())
    assert variables.pop(descendants.VARIABLE)
    assert variables == {**ENV, "CNI_COMMAND": "ADD", "PATH": os.environ["PATH"]}


def test_without_cni_path_plugins_are_pointed_to_where_we_look(executor, bin_dir):
    write(bin_dir, "env", 'echo "$CNI_PATH"')
    assert executor.run("env", "STATUS", {}, b"", 10).decode() == f"{bin_dir}\n"


def test_no_descriptor_of_ours_leaks_into_a_plugin(executor, bin_dir):
    write(bin_dir, "fds", "exec ls /proc/self/fd")
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        assert run(executor, "fds").split() == ["0", "1", "2", "3"]  # 3 is how ls reads the directory
    finally:
        os.close(fd)


def test_a_plugin_has_its_own_session_and_the_root_as_working_directory(executor, bin_dir):
    write(bin_dir, "where", "pwd; cut -d' ' -f1,5,6 /proc/$$/stat")
    directory, ids = run(executor, "where").splitlines()
    assert directory == "/"
    assert len(set(ids.split())) == 1


# -- finding it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "../echo", "/bin/true", "a\0b"])
def test_what_is_no_file_name_is_refused(executor, name):
    error = failure(executor, name)
    assert error.code == errors.Code.INVALID_CONFIG
    assert repr(name) in error.message


def test_a_plugin_that_is_not_there_is_told_with_all_the_places(executor, bin_dir, tmp_path):
    (bin_dir / "directory").mkdir()
    for name in ("missing", "directory", ".."):
        with pytest.raises(errors.CNIError) as caught:
            executor.run(name, "ADD", {**ENV, "CNI_PATH": f"{bin_dir}:/other"}, b"", 10)
        assert caught.value.code == errors.Code.NOT_AVAILABLE
        assert str(caught.value) == f"no plugin {name!r} on this node: looked in {bin_dir}, /other"


def test_our_directories_come_before_the_runtimes(executor, bin_dir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write(other, "both", "echo theirs")
    write(other, "one", "echo theirs")
    write(bin_dir, "both", "echo ours")
    env = {**ENV, "CNI_PATH": str(other)}
    assert executor.run("both", "ADD", env, b"", 10) == b"ours\n"
    assert executor.run("one", "ADD", env, b"", 10) == b"theirs\n"


def test_a_link_to_a_plugin_is_a_plugin(executor, bin_dir, tmp_path):
    (bin_dir / "link").symlink_to(write(tmp_path, "real", "echo ok"))
    assert run(executor, "link") == "ok\n"


def test_a_file_that_cannot_be_executed_is_an_io_error_that_names_it(executor, bin_dir):
    write(bin_dir, "plain", "").chmod(0o644)
    (bin_dir / "orphan").write_text("#!/nowhere/sh\n")
    (bin_dir / "orphan").chmod(0o755)
    (bin_dir / "garbage").write_bytes(b"\x7fELF garbage")
    (bin_dir / "garbage").chmod(0o755)
    for name in ("plain", "orphan", "garbage"):
        error = failure(executor, name)
        assert error.code == errors.Code.IO_FAILURE
        assert str(bin_dir / name) in error.message


def test_an_executable_that_is_being_written_is_tried_again(executor, bin_dir):
    path = write(bin_dir, "busy", "echo ok")
    writing = path.open("r+b")
    threading.Timer(0.1, writing.close).start()
    assert run(executor, "busy") == "ok\n"


def test_an_executable_that_stays_busy_is_given_up_at_the_deadline(executor, bin_dir):
    path = write(bin_dir, "busy", "echo ok")
    with path.open("r+b"):
        error = failure(executor, "busy", deadline_s=0.1)
    assert error.code == errors.Code.IO_FAILURE
    assert "busy" in error.message


# -- how it fails ---------------------------------------------------------------------------------------------


def test_a_plugins_own_error_is_kept(executor, bin_dir):
    write(bin_dir, "bad", """echo '{"cniVersion": "1.0.0", "code": 101, "msg": "no luck", "details": "d"}'; exit 1""")
    error = failure(executor, "bad")
    assert (error.code, error.message, error.details) == (101, "no luck", "d")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo Traceback: boom >&2; exit 3", ["failed with exit status 3", "Traceback: boom"]),
        ("echo half a document; exit 1", ["failed with exit status 1", "half a document"]),
        ("echo '[1]'; exit 1", ["failed with exit status 1", "[1]"]),
        ("exit 1", ["failed with exit status 1", "printed nothing"]),
        ("echo last words >&2; kill -SEGV $$", ["was killed by SIGSEGV", "last words"]),
        ("yes noise | head -n 90000 >&2; echo the end >&2; exit 1", ["failed with exit status 1", "the end"]),
        ("printf '\\377\\376' >&2; exit 1", ["failed with exit status 1"]),
    ],
)
def test_a_crash_is_told_in_words(executor, bin_dir, script, told):
    write(bin_dir, "crash", script)
    error = failure(executor, "crash")
    assert error.code == errors.Code.INTERNAL
    assert error.message.startswith("plugin crash ")
    assert all(words in str(error) for words in told)
    assert len(str(error)) < 2000


def test_endless_output_is_cut_off(executor, bin_dir):
    write(bin_dir, "flood", "exec cat /dev/zero")
    error = failure(executor, "flood")
    assert error.code == errors.Code.INTERNAL
    assert "more than 8388608 bytes" in error.message


def test_a_variable_that_cannot_be_passed_is_an_environment_error(executor, bin_dir):
    write(bin_dir, "echo", "cat")
    with pytest.raises(errors.CNIError) as caught:
        executor.run("echo", "ADD", {"CNI_ARGS": "a\0b"}, b"", 10)
    assert caught.value.code == errors.Code.INVALID_ENVIRONMENT


def test_success_and_failure_leave_no_descriptors(executor, bin_dir):
    write(bin_dir, "echo", "cat")
    write(bin_dir, "crash", "exit 1")
    write(bin_dir, "hang", "exec sleep 60")
    run(executor, "echo")
    before = {*os.listdir("/proc/self/fd")}
    for name in ("crash", "missing", "hang"):
        failure(executor, name, 0.1)
        run(executor, "echo")
    assert {*os.listdir("/proc/self/fd")} <= before


# -- what it printed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "stdout", "expected"),
    [
        ("ADD", '{"cniVersion": "1.0.0"}', {"cniVersion": "1.0.0"}),
        ("ADD", "null", {}),
        ("ADD", "", None),
        ("ADD", "\n", None),
        ("VERSION", '{"supportedVersions": []}', {"supportedVersions": []}),
        ("DEL", '{"cniVersion": "1.0.0"}', None),
        ("CHECK", "noise", None),
    ],
)
def test_a_call_returns_the_result(executor, bin_dir, command, stdout, expected):
    write(bin_dir, "plugin", f"printf '%s' '{stdout}'")
    assert executor("plugin", command, ENV, {"type": "plugin"}, 10) == expected


@pytest.mark.parametrize("stdout", ["[]", "{", "{} {}", "NaN", '"text"'])
def test_a_result_that_is_no_json_object_is_a_decoding_error(executor, bin_dir, stdout):
    write(bin_dir, "plugin", f"printf '%s' '{stdout}'")
    with pytest.raises(errors.CNIError) as caught:
        executor("plugin", "ADD", ENV, {}, 10)
    assert caught.value.code == errors.Code.DECODE_FAILURE
    assert stdout in str(caught.value)


def test_a_call_sends_the_configuration_as_json(executor, bin_dir):
    write(bin_dir, "echo", "cat")
    config = {"type": "echo", "name": "ü", "list": [1, None, True]}
    assert executor("echo", "ADD", ENV, config, 10) == config


# -- the deadline ---------------------------------------------------------------------------------------------


def test_at_the_deadline_the_plugin_is_killed_and_the_call_may_be_repeated(executor, bin_dir):
    write(bin_dir, "hang", "trap '' TERM INT HUP; sleep 600.1; sleep 600.2")
    begun = time.monotonic()
    with pytest.raises(delegate.Deadline) as caught:
        run(executor, "hang", 0.2)
    assert time.monotonic() - begun < 30
    assert caught.value.code == errors.Code.TRY_AGAIN
    assert caught.value.message == "plugin hang did not finish ADD within 0.2 s and was killed"
    assert not running("sleep", "600.1")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("{sleep} & wait", id="child"),
        pytest.param("setsid {sleep} & wait", id="own session"),
        pytest.param("(setsid {sleep} &) ; sleep 600", id="reparented"),
        pytest.param("(trap '' TERM HUP; setsid nohup {sleep} >/dev/null 2>&1 </dev/null &); sleep 600", id="daemon"),
        pytest.param("(setsid env -i {sleep} &); sleep 600", id="no environment", marks=needs_root),
        pytest.param("env -i sh -c '{sleep} & wait' & wait", id="child of one without environment"),
        pytest.param("(while :; do setsid {sleep} & sleep 0.001; done) & wait", id="starting ever more"),
        pytest.param("setsid -f sh -c 'exec >/dev/null; {sleep} & wait'; sleep 600", id="wrapped"),
    ],
)
def test_at_the_deadline_everything_dies_that_the_plugin_started(executor, bin_dir, script, no_leftovers):
    sleep = f"sleep 7{time.monotonic_ns()}"
    write(bin_dir, "hang", script.format(sleep=sleep) + "; sleep 600")
    with pytest.raises(delegate.Deadline):
        run(executor, "hang", 0.3)
    assert not running(*sleep.split())
    assert not children()


def test_a_plugin_that_is_done_for_but_prints_on_is_killed_too(executor, bin_dir):
    write(bin_dir, "talk", "while :; do echo word; sleep 0.01; done")
    with pytest.raises(delegate.Deadline):
        run(executor, "talk", 0.2)


def test_no_time_at_all_is_a_deadline(executor, bin_dir):
    write(bin_dir, "hang", "sleep 600")
    with pytest.raises(delegate.Deadline):
        run(executor, "hang", 0)


@needs_root
def test_what_cannot_be_killed_is_told_and_reaped_when_it_dies_at_last(executor, bin_dir, monkeypatch):
    write(bin_dir, "hang", "exec sleep 600")
    kill = descendants._kill
    monkeypatch.setattr(descendants, "_kill", lambda process: None)  # as in an uninterruptible sleep
    monkeypatch.setattr(descendants, "_KILL_S", 0.05)
    error = failure(executor, "hang", 0.1)
    (pid,) = children()
    assert error.message.endswith(f"was killed, except for what cannot be killed now: processes {pid}")
    kill(descendants._process(pid))
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())


# -- what is left behind --------------------------------------------------------------------------------------


def test_a_child_that_holds_stdout_does_not_hold_up_the_call(executor, bin_dir, no_leftovers):
    sleep = f"sleep 8{time.monotonic_ns()}"
    write(bin_dir, "leave", f"{sleep} & echo ok")
    begun = time.monotonic()
    assert run(executor, "leave") == "ok\n"
    assert time.monotonic() - begun < 20
    assert eventually(lambda: running(*sleep.split()))  # the shell may not have come to it yet


@needs_root
def test_what_a_plugin_leaves_behind_is_reaped_when_it_dies(executor, bin_dir, no_leftovers):
    sleep = f"sleep 9{time.monotonic_ns()}"
    write(bin_dir, "leave", f"setsid {sleep} & echo ok")
    run(executor, "leave")
    assert eventually(lambda: len(running(*sleep.split())) == 1)
    (pid,) = running(*sleep.split())
    os.kill(pid, signal.SIGTERM)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())


@needs_root
def test_what_died_before_the_plugin_did_is_reaped(executor, bin_dir):
    write(bin_dir, "leave", "env -i setsid true & env -i setsid -f true; sleep 0.05")
    run(executor, "leave")
    assert eventually(lambda: not children())


def test_the_exit_status_of_other_subprocesses_is_left_to_them(executor, bin_dir):
    write(bin_dir, "leave", "(setsid true &); sleep 0.01")
    others = [subprocess.Popen(["sh", "-c", f"exit {status}"], start_new_session=True) for status in (3, 4, 5)]
    time.sleep(0.05)
    for _ in range(3):
        run(executor, "leave")
    assert [other.wait() for other in others] == [3, 4, 5]


def test_many_calls_at_once_each_get_their_own_answer(executor, bin_dir):
    write(bin_dir, "echo", "read line; (setsid true &); echo $line; exit ${line#*.}")
    write(bin_dir, "hang", "sleep 600")

    def call(number: int) -> str:
        try:
            return run(executor, "echo", stdin=f"{number}.{number % 3}\n".encode())
        except errors.CNIError as error:
            return error.message

    with ThreadPoolExecutor(9) as pool:
        hanging = pool.submit(failure, executor, "hang", 1.0)
        begun = time.monotonic()
        answers = list(pool.map(call, range(60)))
        assert time.monotonic() - begun < 5
        assert isinstance(hanging.result(), delegate.Deadline)
    expected = [f"{n}.0\n" if n % 3 == 0 else f"plugin echo failed with exit status {n % 3}" for n in range(60)]
    assert answers == expected
    assert eventually(lambda: not children())


# -- what an agent leaves behind ------------------------------------------------------------------------------

AGENT = """
import sys
from pathlib import Path
from agent import delegate
delegate.Executor([Path(sys.argv[1])]).run("hang", "ADD", {}, b"", 60)
"""


def test_what_a_killed_agent_left_is_killed_by_the_next_but_nothing_of_a_living_one(executor, bin_dir):
    sleep = f"sleep 6{time.monotonic_ns()}"
    write(bin_dir, "hang", f"(setsid {sleep} &); sleep 600")
    agents = [subprocess.Popen([sys.executable, "-c", AGENT, str(bin_dir)]) for _ in range(2)]
    assert eventually(lambda: len(running(*sleep.split())) == 2)
    killed, living = agents
    killed.kill()
    killed.wait()
    descendants.kill_survivors()
    assert len(running(*sleep.split())) == 1
    living.kill()
    living.wait()
    descendants.kill_survivors()
    assert not running(*sleep.split())


# -- the host's root ------------------------------------------------------------------------------------------


@pytest.fixture
def host_root(tmp_path: Path) -> Path:
    """A root directory that holds a shell and what it is linked to."""
    root = tmp_path / "host"
    libraries = [word for word in subprocess.check_output(["ldd", "/bin/sh"], text=True).split() if word[0] == "/"]
    for library in libraries:
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy("/bin/sh", root / "bin/sh")
    (root / "opt/cni/bin").mkdir(parents=True)
    return root


@needs_root
def test_with_a_host_root_plugins_are_found_and_run_inside(host_root):
    write(host_root / "opt/cni/bin", "real", "read line </etc/motd; echo $line")
    (host_root / "opt/cni/bin/link").symlink_to("/opt/cni/bin/real")
    (host_root / "etc").mkdir()
    (host_root / "etc/motd").write_text("inside\n")
    executor = delegate.Executor([Path("/opt/cni/bin")], host_root)
    assert run(executor, "link") == "inside\n"
    assert Path("/proc/self").exists()  # this process is where it was


@needs_root
def test_with_a_host_root_errors_and_deadlines_are_the_same(host_root):
    directory = host_root / "opt/cni/bin"
    write(directory, "bad", 'echo \'{"code": 7, "msg": "no"}\'; exit 1')
    write(directory, "hang", "(while :; do :; done) | (while :; do :; done)")
    executor = delegate.Executor([Path("/opt/cni/bin")], host_root)
    assert failure(executor, "bad").message == "no"
    assert failure(executor, "missing").details == "looked in /opt/cni/bin"
    assert isinstance(failure(executor, "hang", 0.2), delegate.Deadline)
    assert not children()
    broken = delegate.Executor([Path("/opt/cni/bin")], host_root / "missing")
    assert failure(broken, "bad").code == errors.Code.IO_FAILURE
