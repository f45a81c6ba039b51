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
TICK = 0.1
SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
INVALID_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, TRY_AGAIN, NOT_AVAILABLE = (4, 5, 7, 11, 50)
ABOUT = b"hotnic: a CNI plugin that passes its calls on to the hotnic agent of this node\n"


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
            code, stdout = forward(call, stdin, find_run_dir(stdin))
    except Failure as problem:
        code, stdout = (1, error_document(problem.code, str(problem), stdin))
    except Exception as problem:
        code, stdout = (1, error_document(IO_FAILURE, f"hotnic: {problem!r}", stdin))
    if put(1, stdout):
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
    except (NoAnswer, Late) as problem:
        message = f"hotnic agent: {problem}"
        command = call[b"CNI_COMMAND"]
    if command == b"DEL":
        keep(directory, request, message)
        return (0, b"")
    raise Failure(NOT_AVAILABLE if command == b"STATUS" else TRY_AGAIN, message)


def ask(directory, request, netns):
    path = directory + b"/cni.sock"
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as problem:
        raise NoAnswer(f"cannot connect to {path.decode()}: {problem}") from None
    try:
        send_request(connection, request, netns)
    except OSError:
        pass
    try:
        code, stdout = receive_reply(connection)
    except (OSError, WireError) as problem:
        raise NoAnswer(f"no reply on {path.decode()}: {problem}") from None
    if code and (not stdout):
        raise NoAnswer(f"failed with code {code}, but does not say why")
    return (code, stdout)


def keep(directory, request, reason):
    start_clock(BURIAL_DEADLINE)
    try:
        path = bury(directory, request)
    except (Late, OSError) as problem:
        raise Failure(TRY_AGAIN, f"{reason}; DEL cannot be kept for later either: {problem}") from None
    put(2, f"{reason}; DEL is kept for later in {path.decode()}\n".encode())


def bury(directory, request):
    graves = directory + b"/tombstones"
    for path, mode in ((directory, 493), (graves, 448)):
        try:
            posix.mkdir(path, mode)
        except FileExistsError:
            pass
    name = b"%d-%d.bin" % (time.time_ns(), posix.getpid())
    temporary, final = (graves + b"/." + name, graves + b"/" + name)
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


def undo(call, stdin):
    call[b"CNI_COMMAND"] = b"DEL"
    start_clock(DEADLINE)
    try:
        forward(call, stdin, find_run_dir(stdin))
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


def find_run_dir(stdin):
    if b"runDir" not in stdin and b"\\u" not in stdin:
        return RUN_DIR
    value = config_value(stdin, "runDir")
    if not value:
        return RUN_DIR
    if not isinstance(value, str) or not value.startswith("/") or "\x00" in value:
        raise Failure(INVALID_CONFIG, f"runDir={value!r} is not an absolute path")
    return value.encode("utf-8", "replace")


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
            raise Failure(IO_FAILURE, f"cannot read the network configuration: {problem}") from None
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
