"""The executable `hotnic`: forwards one CNI call to the node's agent, and prints what that answers.

Rules
1. It decides nothing that the agent can decide. VERSION alone is answered here.
2. stdout gets the agent's reply unchanged, or one error document. Never both, never a traceback.
3. It ends within the verb's deadline, whatever hangs: stdin, the agent, the reader of stdout.
4. No agent: ADD, CHECK, GC fail with code 11, STATUS with 50. DEL must not fail (the runtime would keep a dead
   container for it) nor be forgotten: it becomes a tombstone, a request that the agent replays when it starts.
5. An ADD whose result nobody takes is undone.
6. A runtime waits for the start of this program at every call. So it imports built-in modules only, `json` where
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
TICK = 0.1
SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")  # as version.SUPPORTED
INVALID_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE = 4, 5, 7, 11, 50  # as errors.Code
ABOUT = b"hotnic: a CNI plugin that passes its calls on to the hotnic agent of this node\n"


class Late(Exception):
    """The deadline is over."""


class NoAnswer(Exception):
    """The agent gave no whole reply."""


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
            code, stdout = forward(call, stdin, find_run_dir(stdin))
    except Failure as problem:
        code, stdout = 1, error_document(problem.code, str(problem), stdin)
    except Exception as problem:  # noqa: BLE001 -- a fault of ours must reach the runtime as a document as well
        code, stdout = 1, error_document(IO_FAILURE, f"hotnic: {problem!r}", stdin)
    if put(1, stdout):
        return code
    if command == b"ADD" and code == 0:
        undo(call, stdin)
    return 1


def forward(call: dict[bytes, bytes], stdin: bytes, directory: bytes) -> tuple[int, bytes]:
    """Return the agent's reply, or what rule 4 says."""
    netns = open_netns(call)
    try:
        request = wire.encode_request(call, stdin)
    except wire.WireError as problem:
        raise Failure(INVALID_ENVIRONMENT, f"cannot pass on the CNI_* variables: {problem}") from None
    try:
        return ask(directory, request, netns)
    except (NoAnswer, Late) as problem:
        message = f"hotnic agent: {problem}"
        command = call[b"CNI_COMMAND"]
    if command == b"DEL":
        keep(directory, request, message)
        return 0, b""
    raise Failure(NOT_AVAILABLE if command == b"STATUS" else TRY_AGAIN, message)


def ask(directory: bytes, request: bytes, netns: int | None) -> tuple[int, bytes]:
    path = directory + b"/cni.sock"
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as problem:
        raise NoAnswer(f"cannot connect to {path.decode()}: {problem}") from None
    try:  # noqa: SIM105 -- rule 6
        wire.send_request(connection, request, netns)
    except OSError:
        pass  # it may have answered before it read all
    try:
        code, stdout = wire.receive_reply(connection)
    except (OSError, wire.WireError) as problem:
        raise NoAnswer(f"no reply on {path.decode()}: {problem}") from None
    if code and not stdout:
        raise NoAnswer(f"failed with code {code}, but does not say why")
    return code, stdout


def keep(directory: bytes, request: bytes, reason: str) -> None:
    """Put a DEL down for the agent's next start."""
    start_clock(BURIAL_DEADLINE)
    try:
        path = bury(directory, request)
    except (Late, OSError) as problem:
        raise Failure(TRY_AGAIN, f"{reason}; DEL cannot be kept for later either: {problem}") from None
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
    try:  # noqa: SIM105 -- rule 6
        posix.mkdir(path, mode)
    except FileExistsError:
        pass


def check_private(path: bytes) -> None:
    """Refuse to write anywhere but into a directory that only its owner can enter, and that is ours.

    The configuration may be a tenant's, and `runDir` is in it: only an agent makes such a place elsewhere.
    """
    status = posix.lstat(path)
    if status.st_mode & 0o170077 != 0o040000 or status.st_uid != posix.geteuid():
        raise PermissionError(f"{path.decode()} is not an agent's directory")


def undo(call: dict[bytes, bytes], stdin: bytes) -> None:
    """Take an ADD back whose result nobody got. The runtime should do it, but one that is gone cannot."""
    call[b"CNI_COMMAND"] = b"DEL"
    start_clock(DEADLINE)
    try:  # noqa: SIM105 -- rule 6
        forward(call, stdin, find_run_dir(stdin))
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


def find_run_dir(stdin: bytes) -> bytes:
    """Return `runDir` of the configuration. Of invalid JSON the agent tells what is wrong with it."""
    if b"runDir" not in stdin and b"\\u" not in stdin:  # the key could be written with escapes
        return RUN_DIR
    value = config_value(stdin, "runDir")
    if not value:
        return RUN_DIR
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Failure(INVALID_CONFIG, f"runDir={value!r} is not an absolute path")
    return value.encode("utf-8", "replace")


def config_value(stdin: bytes, key: str) -> Any:
    """Return a value of the configuration, None where there is none or no valid configuration."""
    import json  # noqa: PLC0415 -- rule 6

    try:
        return json.loads(stdin.decode()).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None


def stated_version(stdin: bytes) -> str:
    stated = config_value(stdin, "cniVersion")
    return stated if stated and isinstance(stated, str) else SUPPORTED[-1]


def version_document() -> bytes:
    """Return the answer to VERSION, which is due whatever comes on stdin, and if that never ends."""
    import json  # noqa: PLC0415 -- rule 6

    try:
        stdin = read_stdin()
    except Failure:
        stdin = b""
    return json.dumps({"cniVersion": stated_version(stdin), "supportedVersions": SUPPORTED}).encode()


def error_document(code: int, message: str, stdin: bytes) -> bytes:
    import json  # noqa: PLC0415 -- rule 6

    return json.dumps({"cniVersion": stated_version(stdin), "code": code, "msg": message}).encode()


def read_stdin() -> bytes:
    stdin = bytearray()
    part = b"..."
    while part and len(stdin) <= wire.MAX_STDIN:
        try:
            part = posix.read(0, 1 << 16)
        except (Late, OSError) as problem:
            raise Failure(IO_FAILURE, f"cannot read the network configuration: {problem}") from None
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
