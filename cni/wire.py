"""How the executable and the agent talk: one stream connection per call, over a Unix socket.

    request   length of environment, length of stdin (two u32, little endian), environment, stdin
    reply     exit code, length of stdout (two u32, little endian), stdout; then, to the end, what is for stderr

Rules
1. The environment is `NAME=VALUE` separated by NUL: the CNI_* variables, and NETNS_ERRNO for a CNI_NETNS that
   the executable could not open. Where it could, the descriptor travels with the first byte (SCM_RIGHTS): the
   agent acts on the namespace that the runtime meant, not on what its path names later.
2. Sizes are bounded and lengths exact: whatever is cut short is an error, never a shorter message.
3. A descriptor that is received belongs to the caller; on any error here it is closed.
4. What is for stderr (the words of delegates, SPEC 1.1.0 §4) is sent with the rest and taken only if it is there
   then: nobody waits for it, and whoever does not know of it misses nothing else.
5. A tombstone keeps a request's bytes as they are: a change of this format must still read the old ones.

The client's half stands alone, on built-in modules only: it is put into the executable as source.
"""

from __future__ import annotations

import _socket
import array
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

NETNS_ERRNO = "HOTNIC_NETNS_ERRNO"
HEADER = 8
MAX_ENVIRONMENT = 64 << 10
MAX_STDIN = 8 << 20
MAX_REPLY = 8 << 20
MAX_WORDS = 16 << 10
MAX_EXIT_CODE = 255  # a process cannot exit with more: 256 would come out as 0
BYTE_ORDER: Literal["little"] = "little"
_DESCRIPTORS = 8  # room for more than the one that is right, to see and close what is too many


class WireError(Exception):
    """The other side sent something else than this format, or too little of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the agent gets it."""

    environ: Mapping[str, str]
    stdin: bytes
    netns: int | None  # descriptor of the container's namespace, the receiver's to close


# the client's half


def encode_request(environ: Mapping[bytes, bytes], stdin: bytes) -> bytes:
    """Return the bytes of a request. Raises WireError where it is too large."""
    block = b"\0".join(b"%b=%b" % item for item in environ.items())
    if len(block) > MAX_ENVIRONMENT or len(stdin) > MAX_STDIN:
        raise WireError(f"environment of {len(block)} and stdin of {len(stdin)} bytes are too large")
    return len(block).to_bytes(4, BYTE_ORDER) + len(stdin).to_bytes(4, BYTE_ORDER) + block + stdin


def send_request(connection: _socket.socket, request: bytes, netns: int | None) -> None:
    """Send the bytes of a request, and a descriptor with the first one."""
    rights = [] if netns is None else [netns.to_bytes(4, sys.byteorder)]
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data) for data in rights]
    sent = connection.sendmsg([request], ancillary)
    if sent < len(request):  # to send nothing fails where the answer came at once and the agent has hung up
        connection.sendall(memoryview(request)[sent:])


def receive_reply(connection: _socket.socket) -> tuple[int, bytes]:
    """Return exit code and stdout. Raises WireError or OSError where no whole reply comes."""
    code, length = lengths(receive(connection, HEADER))
    if code > MAX_EXIT_CODE or length > MAX_REPLY:
        raise WireError(f"exit code {code} or length {length} is out of range")
    return code, receive(connection, length)


def receive_words(connection: _socket.socket) -> bytes:
    """Return what came for stderr with the reply (rule 4)."""
    try:
        return connection.recv(MAX_WORDS, _socket.MSG_DONTWAIT)
    except OSError:
        return b""


def lengths(header: bytes) -> tuple[int, int]:
    """Return the two numbers of a header."""
    return int.from_bytes(header[:4], BYTE_ORDER), int.from_bytes(header[4:], BYTE_ORDER)


def receive(connection: _socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes."""
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise WireError(f"connection closed after {len(data)} of {size} bytes")
        data += part
    return bytes(data)


# the agent's half


def receive_request(connection: socket.socket, deadline_s: float) -> Call:
    """Return the call that a client sends. Raises WireError, also where it is not whole in time.

    The connection's timeout is a leftover afterwards.
    """
    end = time.monotonic() + deadline_s
    descriptors: list[int] = []
    try:
        environment, stdin = _checked(lengths(_receive(connection, HEADER, end, descriptors)))
        body = _receive(connection, environment + stdin, end, descriptors)
        call = Call(_environ(body[:environment]), body[environment:], _only(descriptors))
    except BaseException as problem:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(problem, OSError):
            raise WireError(f"cannot read the request: {problem}") from None
        raise
    return call


def decode_request(data: bytes) -> tuple[dict[str, str], bytes]:
    """Return environment and stdin of a request that was kept. Raises WireError where it is damaged."""
    if len(data) < HEADER:
        raise WireError(f"{len(data)} bytes are no request")
    environment, stdin = _checked(lengths(data[:HEADER]))
    body = data[HEADER:]
    if len(body) != environment + stdin:
        raise WireError(f"request of {environment + stdin} bytes has {len(body)}")
    return _environ(body[:environment]), body[environment:]


def encode_reply(exit_code: int, stdout: bytes) -> bytes:
    """Return the bytes of a reply. Raises WireError where a client would refuse it."""
    if not 0 <= exit_code <= MAX_EXIT_CODE or len(stdout) > MAX_REPLY:
        raise WireError(f"exit code {exit_code} or stdout of {len(stdout)} bytes is out of range")
    return exit_code.to_bytes(4, BYTE_ORDER) + len(stdout).to_bytes(4, BYTE_ORDER) + stdout


def _receive(connection: socket.socket, size: int, end: float, descriptors: list[int]) -> bytes:
    data = bytearray()
    while len(data) < size:
        if (left := end - time.monotonic()) <= 0:
            raise TimeoutError("it did not come in time")
        connection.settimeout(left)
        part, ancillary, flags, _ = connection.recvmsg(
            size - len(data), socket.CMSG_SPACE(_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
        )
        descriptors += _descriptors(ancillary)
        if not part:
            raise WireError(f"connection closed after {len(data)} of {size} bytes")
        if flags & socket.MSG_CTRUNC:
            raise WireError("too many descriptors came with the request")
        data += part
    return bytes(data)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> array.array[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return descriptors


def _only(descriptors: list[int]) -> int | None:
    if len(descriptors) > 1:
        raise WireError(f"{len(descriptors)} descriptors came with the request, not one")
    return descriptors[0] if descriptors else None


def _checked(sizes: tuple[int, int]) -> tuple[int, int]:
    environment, stdin = sizes
    if environment > MAX_ENVIRONMENT or stdin > MAX_STDIN:
        raise WireError(f"environment of {environment} and stdin of {stdin} bytes are too large")
    return sizes


def _environ(block: bytes) -> dict[str, str]:
    """Read the environment; bytes that are no UTF-8 come out as they would from os.environ."""
    items = block.decode("utf-8", "surrogateescape").split("\0") if block else []
    pairs = [item.partition("=") for item in items]
    if not all(equals for _, equals, _ in pairs):
        raise WireError("an item of the environment has no '='")
    return {name: value for name, _, value in pairs}
