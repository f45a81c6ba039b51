#!/usr/bin/python3 -IS
# hotnic CNI plugin. Made by cni/build.py from cni/forward.py and cni/wire.py.
import _socket
import sys
import time

NETNS_ERRNO = "HOTNIC_NETNS_ERRNO"
HEADER = 8
MAX_ENVIRONMENT = 64 << 10
MAX_STDIN = 8 << 20
MAX_REPLY = 8 << 20
MAX_WORDS = 16 << 10
MAX_EXIT_CODE = 255
BYTE_ORDER = "little"


class WireError(Exception):
    pass


def encode_request(environ, stdin):
    block = b"\x00".join((b"%b=%b" % item for item in environ.items()))
    if len(block) > MAX_ENVIRONMENT or len(stdin) > MAX_STDIN:
        raise WireError(f"environment of {len(block)} and stdin of {len(stdin)} bytes are too large")
    return len(block).to_bytes(4, BYTE_ORDER) + len(stdin).to_bytes(4, BYTE_ORDER) + block + stdin


def send_request(connection, request, netns):
    rights = [] if netns is None else [netns.to_bytes(4, sys.byteorder)]
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data) for data in rights]
    sent = connection.sendmsg([request], ancillary)
    connection.sendall(memoryview(request)[sent:])


def receive_reply(connection):
    code, length = lengths(receive(connection, HEADER))
    if code > MAX_EXIT_CODE or length > MAX_REPLY:
        raise WireError(f"exit code {code} or length {length} is out of range")
    return (code, receive(connection, length))


def receive_words(connection):
    try:
        return connection.recv(MAX_WORDS, _socket.MSG_DONTWAIT)
    except OSError:
        return b""


def lengths(header):
    return (int.from_bytes(header[:4], BYTE_ORDER), int.from_bytes(header[4:], BYTE_ORDER))


def receive(connection, size):
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise WireError(f"connection closed after {len(data)} of {size} bytes")
        data += part
    return bytes(data)


import _signal
import _socket
import posix
import time

RUN_DIR = b"/run/hotnic"
DEADLINES = {b"ADD": 30, b"VERSION": 2}
DEADLINE = 20
BURIAL_DEADLINE = 5
TELLING_DEADLINE = 2
TICK = 0.1
SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
INVALID_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE = (4, 5, 7, 11, 50)
PROGRAM = b"hotnic-standalone"
PLACES = (b"/usr/local/bin", b"/usr/bin", b"/opt/hotnic/bin")
CALL_DESCRIPTOR = 3
SHOWN = 80
LONGEST_PATH = 4000
KINDS = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
ABOUT = b"hotnic: a CNI plugin that passes its calls on to the hotnic agent of this node\n"
words = []


class Late(Exception):
    pass


class NoAnswer(Exception):
    pass


class Failure(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def main():
    code = 1
    try:
        code = run(posix.environ)
    finally:
        posix._exit(code)


def run(environ):
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
            code, stdout = (0, version_document())
        else:
            stdin = read_stdin()
            code, stdout = forward(call, stdin, find_agent(stdin))
    except Failure as problem:
        start_clock(TELLING_DEADLINE)
        code, stdout = (1, error_document(problem.code, str(problem), stdin))
    except Exception as problem:
        start_clock(TELLING_DEADLINE)
        code, stdout = (1, error_document(IO_FAILURE, f"hotnic: {problem!r}", stdin))
    is_told = put(1, stdout)
    put(2, b"".join(words))
    if is_told:
        return code
    if command == b"ADD" and code == 0:
        undo(call, stdin)
    return 1


def forward(call, stdin, directory):
    netns = open_netns(call)
    try:
        request = encode_request(call, stdin)
    except WireError as problem:
        raise Failure(INVALID_ENVIRONMENT, f"cannot pass on the CNI_* variables: {problem}") from None
    try:
        return ask(directory, request, netns)
    except NoAnswer as problem:
        message = str(problem)
        command = call[b"CNI_COMMAND"]
    if command == b"DEL" and directory is not None:
        keep(directory, request, message)
        return (0, b"")
    result = passed_on(stdin) if command == b"ADD" else b""
    if result:
        start_clock(TELLING_DEADLINE)
        return (0, result)
    raise Failure(NOT_AVAILABLE if command == b"STATUS" else TRY_AGAIN, message)


def passed_on(stdin):
    if b"networks" not in stdin and b"\\u" not in stdin:
        return b""
    import json

    device, require, previous = (config_value(stdin, key) for key in ("device", "require", "prevResult"))
    if device != "networks" or not (require is None or require is False) or (not isinstance(previous, dict)):
        return b""
    return json.dumps(previous).encode()


def ask(directory, request, netns):
    if directory is None:
        program = find_program()
        connection, child = start(program)
        where = f"{PROGRAM.decode()}: no reply of {program.decode('utf-8', 'replace')}"
    else:
        path = directory + b"/cni.sock"
        connection, child = (connect(path), 0)
        where = f"hotnic agent: no reply on {path.decode()}"
    try:
        code, stdout = exchange(connection, request, netns)
    except Late as problem:
        raise NoAnswer(f"{where}: {problem}") from None
    except (OSError, WireError) as problem:
        part(connection, child)
        raise NoAnswer(f"{where}: {why(problem)}") from None
    part(connection, child)
    if code and (not stdout):
        raise NoAnswer(f"{where}: failed with code {code}, but does not say why")
    return (code, stdout)


def exchange(connection, request, netns):
    try:
        send_request(connection, request, netns)
    except OSError:
        pass
    code, stdout = receive_reply(connection)
    words.append(receive_words(connection))
    return (code, stdout)


def connect(path):
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except (Late, OSError) as problem:
        raise NoAnswer(f"hotnic agent: cannot connect to {path.decode()}: {why(problem)}") from None
    return connection


def find_program():
    for directory in (*posix.environ.get(b"PATH", b"").split(b":"), *PLACES):
        program = directory + b"/" + PROGRAM
        if directory.startswith(b"/") and is_executable(program):
            return program
    raise NoAnswer(f"{PROGRAM.decode()}: it is neither in PATH nor in /usr/local/bin, /usr/bin or /opt/hotnic/bin")


def is_executable(path):
    try:
        return posix.stat(path).st_mode & 61440 == 32768 and posix.access(path, posix.X_OK)
    except (OSError, ValueError):
        return False


def start(program):
    try:
        near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        child = posix.fork()
    except OSError as problem:
        message = f"{PROGRAM.decode()}: cannot start {program.decode('utf-8', 'replace')}: {why(problem)}"
        raise NoAnswer(message) from None
    if child == 0:
        become(program, far.fileno())
    far.close()
    return (near, child)


def become(program, connection):
    try:
        posix.dup2(posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC), 0)
        posix.dup2(2, 1)
        posix.dup2(connection, CALL_DESCRIPTOR)
        posix.chdir("/")
        posix.execve(program, [program], {k: v for k, v in posix.environ.items() if k == b"PATH"})
    finally:
        posix._exit(127)


def part(connection, child):
    connection.close()
    try:
        if child:
            posix.waitpid(child, 0)
    except (Late, OSError):
        pass


def why(problem):
    return getattr(problem, "strerror", None) or str(problem)


def keep(directory, request, reason):
    start_clock(BURIAL_DEADLINE)
    try:
        path = bury(directory, request)
    except (Late, OSError) as problem:
        graves = directory.decode() + "/tombstones"
        raise Failure(TRY_AGAIN, f"{reason}; DEL cannot be kept for later in {graves}: {why(problem)}") from None
    put(2, f"{reason}; DEL is kept for later in {path.decode()}\n".encode())


def bury(directory, request):
    graves = directory + b"/tombstones"
    if directory == RUN_DIR:
        make(directory, 493)
        make(graves, 448)
    check_private(graves)
    name = b"%b/%d-%d" % (graves, time.time_ns(), posix.getpid())
    temporary, final = (name + b".tmp", name + b".bin")
    file = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 384)
    try:
        write(file, request)
        posix.fsync(file)
        posix.rename(temporary, final)
    except BaseException:
        posix.unlink(temporary)
        raise
    posix.fsync(posix.open(graves, posix.O_RDONLY | posix.O_CLOEXEC))
    return final


def make(path, mode):
    try:
        posix.mkdir(path, mode)
    except FileExistsError:
        pass


def check_private(path):
    status = posix.lstat(path)
    if status.st_mode & 61503 != 16384 or status.st_uid != posix.geteuid():
        raise PermissionError("it is not an agent's directory")


def undo(call, stdin):
    call[b"CNI_COMMAND"] = b"DEL"
    start_clock(DEADLINE)
    try:
        forward(call, stdin, find_agent(stdin))
    except (Failure, Late):
        pass


def open_netns(call):
    path = call.get(b"CNI_NETNS")
    if not path:
        return None
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
    except OSError as problem:
        call[NETNS_ERRNO.encode()] = b"%d" % (problem.errno or 0)
        return None


def find_agent(stdin):
    if b"agent" in stdin or b"\\u" in stdin:
        value = config_value(stdin, "agent")
        if value == "none":
            return None
        if value is not None:
            raise Failure(INVALID_CONFIG, f'agent is {shown(value)}, which is not known: it can be "none"')
    return find_run_dir(stdin)


def find_run_dir(stdin):
    if b"runDir" not in stdin and b"\\u" not in stdin:
        return RUN_DIR
    value = config_value(stdin, "runDir")
    if value in (None, ""):
        return RUN_DIR
    path = value.encode("utf-8", "replace") if isinstance(value, str) else b""
    if not path.startswith(b"/") or b"\x00" in path or len(path) > LONGEST_PATH:
        raise Failure(INVALID_CONFIG, f"runDir is {shown(value)}, which is not an absolute path")
    return path


def shown(value):
    import json

    return json.dumps(value)[:SHOWN] if isinstance(value, str) else KINDS[type(value)]


def config_value(stdin, key):
    import json

    try:
        return json.loads(stdin.decode()).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None


def stated_version(stdin):
    stated = config_value(stdin, "cniVersion")
    return stated if stated and isinstance(stated, str) else SUPPORTED[-1]


def version_document():
    import json

    try:
        stdin = read_stdin()
    except Failure:
        start_clock(TELLING_DEADLINE)
        stdin = b""
    return json.dumps({"cniVersion": stated_version(stdin), "supportedVersions": SUPPORTED}).encode()


def error_document(code, message, stdin):
    import json

    return json.dumps({"cniVersion": stated_version(stdin), "code": code, "msg": message}).encode()


def read_stdin():
    stdin = bytearray()
    part = b"..."
    while part and len(stdin) <= MAX_STDIN:
        try:
            part = posix.read(0, 1 << 16)
        except (Late, OSError) as problem:
            raise Failure(IO_FAILURE, f"cannot read the network configuration: {why(problem)}") from None
        stdin += part
    if len(stdin) > MAX_STDIN:
        raise Failure(INVALID_CONFIG, f"network configuration is larger than {MAX_STDIN} bytes")
    return bytes(stdin)


def put(descriptor, data):
    try:
        write(descriptor, data)
    except (Late, OSError):
        return False
    return True


def write(descriptor, data):
    while data:
        data = data[posix.write(descriptor, data) :]


def occupy_standard_descriptors():
    while True:
        descriptor = posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
        if descriptor > 2:
            posix.close(descriptor)
            return


def start_clock(seconds):

    def ring(*_):
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        raise Late(f"nothing came within {seconds} s")

    _signal.signal(_signal.SIGALRM, ring)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGALRM])
    _signal.setitimer(_signal.ITIMER_REAL, seconds, TICK)


main()
