"""The executable `hotnic`: forwards one CNI call to the node's agent, and prints what that answers.

This is its portable form, for a node of any architecture. The native one, of which a call starts in a fraction of a
millisecond, is in native/: it does the same, rule by rule and word by word, and the same tests hold for both.

Rules
1. It decides nothing that the agent can decide. VERSION alone is answered here.
2. stdout gets the agent's reply unchanged, or one error document. Never both, never a traceback.
3. It ends within the verb's deadline, whatever hangs: stdin, the agent, the reader of stdout. What is still to be
   done then, to keep a DEL or to tell of the failure, has a deadline of its own.
4. No agent: ADD, CHECK, GC fail with code 11, STATUS with 50. DEL must not fail (the runtime would keep a dead
   container for it) nor be forgotten: it becomes a tombstone, a request that the agent replays when it starts.
   ADD of the device `networks` passes prevResult on, unless it says `require`: no pod is kept from its start.
5. An ADD whose result nobody takes is undone.
6. `"agent": "none"` in the configuration: the program `hotnic-standalone` is started for the call and serves it, over
   descriptor 3 and the same wire. It can only be tried again if it fails: nobody would replay a tombstone.
7. A runtime waits for the start of this program at every call. So it imports built-in modules only, `json` where
   there is no way around it, and no other module of ours than the client's half of `wire`, which `build` puts
   into one file with it. Its syntax is one that Python 3.7 has: a node's interpreter may be old.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps it in enums, which take a millisecond
import _socket
import posix
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from cni import wire

RUN_DIR = b"/run/hotnic"
DEADLINES = {b"ADD": 30, b"VERSION": 2}
DEADLINE = 20
BURIAL_DEADLINE = 5
TELLING_DEADLINE = 2
TICK = 0.1
SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")  # as version.SUPPORTED
INVALID_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE = 4, 5, 7, 11, 50  # as errors.Code
PROGRAM = b"hotnic-standalone"
PLACES = (b"/usr/local/bin", b"/usr/bin", b"/opt/hotnic/bin")  # after those of PATH
CALL_DESCRIPTOR = 3
SHOWN = 80  # characters of a wrong value
LONGEST_PATH = 4000  # bytes; with a name behind it, it is still one for the kernel
KINDS = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
ABOUT = b"hotnic: a CNI plugin that passes its calls on to the hotnic agent of this node\n"


words: list[bytes] = []  # for stderr


class Late(Exception):
    """The deadline is over."""


class NoAnswer(Exception):
    """Nobody gave a whole reply."""


class Failure(Exception):
    """What the runtime is told."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> NoReturn:
    code = 1
    try:
        code = run(posix.environ)
    finally:
        posix._exit(code)  # noqa: SLF001 -- nothing is left to finalise, which would take another millisecond


def run(environ: Mapping[bytes, bytes]) -> int:
    """Serve one call; return the exit code."""
    occupy_standard_descriptors()
    call = {name: value for name, value in environ.items() if name.startswith(b"CNI_")}
    command = call.get(b"CNI_COMMAND", b"")
    if not command:
        put(2, ABOUT + b"CNI protocol versions supported: " + ", ".join(SUPPORTED).encode() + b"\n")
        return 0
    start_clock(DEADLINES.get(command, DEADLINE))
    stdin = b""
    try:
        if command == b"VERSION":
            code, stdout = 0, version_document()
        else:
            stdin = read_stdin()
            code, stdout = forward(call, stdin, find_agent(stdin))
    except Failure as problem:
        start_clock(TELLING_DEADLINE)
        code, stdout = 1, error_document(problem.code, str(problem), stdin)
    except Exception as problem:  # noqa: BLE001 -- a fault of ours must reach the runtime as a document as well
        start_clock(TELLING_DEADLINE)
        code, stdout = 1, error_document(IO_FAILURE, f"hotnic: {problem!r}", stdin)
    is_told = put(1, stdout)
    put(2, b"".join(words))
    if is_told:
        return code
    if command == b"ADD" and code == 0:
        undo(call, stdin)
    return 1


def forward(call: dict[bytes, bytes], stdin: bytes, directory: bytes | None) -> tuple[int, bytes]:
    """Return the agent's reply, or what rules 4 and 6 say. `directory` is the agent's, None for "none"."""
    netns = open_netns(call)
    try:
        request = wire.encode_request(call, stdin)
    except wire.WireError as problem:
        raise Failure(INVALID_ENVIRONMENT, f"cannot pass on the CNI_* variables: {problem}") from None
    try:
        return ask(directory, request, netns)
    except NoAnswer as problem:
        message = str(problem)
        command = call[b"CNI_COMMAND"]
    if command == b"DEL" and directory is not None:
        keep(directory, request, message)
        return 0, b""
    result = passed_on(stdin) if command == b"ADD" else b""
    if result:
        start_clock(TELLING_DEADLINE)
        return 0, result
    raise Failure(NOT_AVAILABLE if command == b"STATUS" else TRY_AGAIN, message)


def passed_on(stdin: bytes) -> bytes:
    """Return the result of the plugins before, where rule 4 says so."""
    if b"networks" not in stdin and b"\\u" not in stdin:
        return b""
    import json  # noqa: PLC0415 -- rule 7

    device, require, previous = (config_value(stdin, key) for key in ("device", "require", "prevResult"))
    if device != "networks" or not (require is None or require is False) or not isinstance(previous, dict):
        return b""
    return json.dumps(previous).encode()


def ask(directory: bytes | None, request: bytes, netns: int | None) -> tuple[int, bytes]:
    """Return exit code and stdout of whoever serves the call. Raises NoAnswer."""
    if directory is None:
        program = find_program()
        connection, child = start(program)
        where = f"{PROGRAM.decode()}: no reply of {program.decode('utf-8', 'replace')}"
    else:
        path = directory + b"/cni.sock"
        connection, child = connect(path), 0
        where = f"hotnic agent: no reply on {path.decode()}"
    try:
        code, stdout = exchange(connection, request, netns)
    except Late as problem:
        raise NoAnswer(f"{where}: {problem}") from None  # there is no time to part
    except (OSError, wire.WireError) as problem:
        part(connection, child)
        raise NoAnswer(f"{where}: {why(problem)}") from None
    part(connection, child)
    if code and not stdout:
        raise NoAnswer(f"{where}: failed with code {code}, but does not say why")
    return code, stdout


def exchange(connection: _socket.socket, request: bytes, netns: int | None) -> tuple[int, bytes]:
    try:  # noqa: SIM105 -- rule 7
        wire.send_request(connection, request, netns)
    except OSError:
        pass  # it may have answered before it read all
    code, stdout = wire.receive_reply(connection)
    words.append(wire.receive_words(connection))
    return code, stdout


def connect(path: bytes) -> _socket.socket:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except (Late, OSError) as problem:
        raise NoAnswer(f"hotnic agent: cannot connect to {path.decode()}: {why(problem)}") from None
    return connection


def find_program() -> bytes:
    for directory in (*posix.environ.get(b"PATH", b"").split(b":"), *PLACES):
        program = directory + b"/" + PROGRAM
        if directory.startswith(b"/") and is_executable(program):
            return program
    raise NoAnswer(f"{PROGRAM.decode()}: it is neither in PATH nor in /usr/local/bin, /usr/bin or /opt/hotnic/bin")


def is_executable(path: bytes) -> bool:
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o100000 and posix.access(path, posix.X_OK)
    except (OSError, ValueError):
        return False


def start(program: bytes) -> tuple[_socket.socket, int]:
    """Start the program of rule 6; return the connection to it and its process."""
    try:
        near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        child = posix.fork()
    except OSError as problem:
        message = f"{PROGRAM.decode()}: cannot start {program.decode('utf-8', 'replace')}: {why(problem)}"
        raise NoAnswer(message) from None
    if child == 0:
        become(program, far.fileno())
    far.close()
    return near, child


def become(program: bytes, connection: int) -> NoReturn:
    """Go on as the program, in the child; `connection` is not descriptor 3, as the other end was made first.

    stdout is stderr there: what the program says is no result. Only PATH is handed on, since the rest of the
    environment was meant for a CNI plugin, and not for an interpreter.
    """
    try:
        posix.dup2(posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC), 0)
        posix.dup2(2, 1)
        posix.dup2(connection, CALL_DESCRIPTOR)
        posix.chdir("/")
        posix.execve(program, [program], {k: v for k, v in posix.environ.items() if k == b"PATH"})
    finally:
        posix._exit(127)  # noqa: SLF001 -- nothing of the parent's may run in the child


def part(connection: _socket.socket, child: int) -> None:
    """Hang up; wait for a program, in time, since who executed us may wait for all that shares our stderr."""
    connection.close()
    try:
        if child:
            posix.waitpid(child, 0)
    except (Late, OSError):
        pass


def why(problem: Exception) -> str:
    """Say it without Python's own trimmings."""
    return getattr(problem, "strerror", None) or str(problem)


def keep(directory: bytes, request: bytes, reason: str) -> None:
    """Put a DEL down for the agent's next start."""
    start_clock(BURIAL_DEADLINE)
    try:
        path = bury(directory, request)
    except (Late, OSError) as problem:
        graves = directory.decode() + "/tombstones"
        raise Failure(TRY_AGAIN, f"{reason}; DEL cannot be kept for later in {graves}: {why(problem)}") from None
    put(2, f"{reason}; DEL is kept for later in {path.decode()}\n".encode())


def bury(directory: bytes, request: bytes) -> bytes:
    """Write a tombstone that is there as a whole or not at all, and outlives a crash of this node's kernel."""
    graves = directory + b"/tombstones"
    if directory == RUN_DIR:
        make(directory, 0o755)
        make(graves, 0o700)
    check_private(graves)
    name = b"%b/%d-%d" % (graves, time.time_ns(), posix.getpid())
    temporary, final = name + b".tmp", name + b".bin"
    file = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        write(file, request)
        posix.fsync(file)
        posix.rename(temporary, final)
    except BaseException:
        posix.unlink(temporary)
        raise
    posix.fsync(posix.open(graves, posix.O_RDONLY | posix.O_CLOEXEC))  # the process ends now, and closes both
    return final


def make(path: bytes, mode: int) -> None:
    """Make a directory that may be there already."""
    try:  # noqa: SIM105 -- rule 7
        posix.mkdir(path, mode)
    except FileExistsError:
        pass


def check_private(path: bytes) -> None:
    """Refuse to write anywhere but into a directory that only its owner can enter, and that is ours.

    The configuration may be a tenant's, and `runDir` is in it: only an agent makes such a place elsewhere.
    """
    status = posix.lstat(path)
    if status.st_mode & 0o170077 != 0o040000 or status.st_uid != posix.geteuid():
        raise PermissionError("it is not an agent's directory")


def undo(call: dict[bytes, bytes], stdin: bytes) -> None:
    """Take an ADD back whose result nobody got. The runtime should do it, but one that is gone cannot."""
    call[b"CNI_COMMAND"] = b"DEL"
    start_clock(DEADLINE)
    try:  # noqa: SIM105 -- rule 7
        forward(call, stdin, find_agent(stdin))
    except (Failure, Late):
        pass  # the exit code tells already that the ADD failed


def open_netns(call: dict[bytes, bytes]) -> int | None:
    """Return a descriptor of the namespace; if there is none to have, put the reason into the call."""
    path = call.get(b"CNI_NETNS")
    if not path:
        return None
    try:
        # O_NONBLOCK: whatever the path names, opening it must not wait
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
    except OSError as problem:
        call[wire.NETNS_ERRNO.encode()] = b"%d" % (problem.errno or 0)
        return None


def find_agent(stdin: bytes) -> bytes | None:
    """Return the agent's directory, None for "none". Of invalid JSON the agent tells what is wrong with it."""
    if b"agent" in stdin or b"\\u" in stdin:  # the key could be written with escapes
        value = config_value(stdin, "agent")
        if value == "none":
            return None
        if value is not None:
            raise Failure(INVALID_CONFIG, f'agent is {shown(value)}, which is not known: it can be "none"')
    return find_run_dir(stdin)


def find_run_dir(stdin: bytes) -> bytes:
    """Return `runDir` of the configuration."""
    if b"runDir" not in stdin and b"\\u" not in stdin:
        return RUN_DIR
    value = config_value(stdin, "runDir")
    if value in (None, ""):
        return RUN_DIR
    path = value.encode("utf-8", "replace") if isinstance(value, str) else b""
    if not path.startswith(b"/") or b"\0" in path or len(path) > LONGEST_PATH:
        raise Failure(INVALID_CONFIG, f"runDir is {shown(value)}, which is not an absolute path")
    return path


def shown(value: Any) -> str:
    """Return the start of a string as JSON; of all else what it is."""
    import json  # noqa: PLC0415 -- rule 7

    return json.dumps(value)[:SHOWN] if isinstance(value, str) else KINDS[type(value)]


def config_value(stdin: bytes, key: str) -> Any:
    """Return a value of the configuration, None where there is none or no valid configuration."""
    import json  # noqa: PLC0415 -- rule 7

    try:
        return json.loads(stdin.decode()).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None


def stated_version(stdin: bytes) -> str:
    stated = config_value(stdin, "cniVersion")
    return stated if stated and isinstance(stated, str) else SUPPORTED[-1]


def version_document() -> bytes:
    """Return the answer to VERSION, which is due whatever comes on stdin, and if that never ends."""
    import json  # noqa: PLC0415 -- rule 7

    try:
        stdin = read_stdin()
    except Failure:
        start_clock(TELLING_DEADLINE)
        stdin = b""
    return json.dumps({"cniVersion": stated_version(stdin), "supportedVersions": SUPPORTED}).encode()


def error_document(code: int, message: str, stdin: bytes) -> bytes:
    import json  # noqa: PLC0415 -- rule 7

    return json.dumps({"cniVersion": stated_version(stdin), "code": code, "msg": message}).encode()


def read_stdin() -> bytes:
    stdin = bytearray()
    part = b"..."
    while part and len(stdin) <= wire.MAX_STDIN:
        try:
            part = posix.read(0, 1 << 16)
        except (Late, OSError) as problem:
            raise Failure(IO_FAILURE, f"cannot read the network configuration: {why(problem)}") from None
        stdin += part
    if len(stdin) > wire.MAX_STDIN:
        raise Failure(INVALID_CONFIG, f"network configuration is larger than {wire.MAX_STDIN} bytes")
    return bytes(stdin)


def put(descriptor: int, data: bytes) -> bool:
    """Write to a standard stream; whether it went."""
    try:
        write(descriptor, data)
    except (Late, OSError):
        return False
    return True


def write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[posix.write(descriptor, data) :]


def occupy_standard_descriptors() -> None:
    """Put /dev/null where a standard stream is closed, lest the agent's connection becomes stdout.

    It is open for reading only, so that writing to it still fails.
    """
    while True:
        descriptor = posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
        if descriptor > 2:
            posix.close(descriptor)
            return


def start_clock(seconds: int) -> None:
    """Have Late raised when the time is over, once, from wherever the program is then."""

    def ring(*_: object) -> NoReturn:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        raise Late(f"nothing came within {seconds} s")

    _signal.signal(_signal.SIGALRM, ring)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGALRM])
    # the ticks: a signal that comes just before a system call does not interrupt that
    _signal.setitimer(_signal.ITIMER_REAL, seconds, TICK)
