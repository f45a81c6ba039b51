"""A dump that the kernel interrupts is read to its end: the kernel begins no other one on that socket before."""

import errno
import struct

import pytest

from agent import rtnl

_HEADER = struct.Struct("=IHHII")
_DONE, _ERROR, _MULTI = 3, 2, 2


def message(kind: int, flags: int, sequence: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


class Kernel:
    """As the kernel's side of a netlink socket: a dump lasts until its end has been received."""

    def __init__(self, interruptions: int, where: str) -> None:
        self.interruptions, self.where = interruptions, where
        self.parts: list[bytes] = []

    def settimeout(self, _seconds):
        pass

    def setsockopt(self, *_option):
        pass

    def send(self, request):
        sequence = _HEADER.unpack_from(request)[3]
        if self.parts:
            self.parts.append(message(_ERROR, 0, sequence, struct.pack("=i", -errno.EBUSY) + request[:16]))
            return
        flag = rtnl.DUMP_INTERRUPTED if self.interruptions else 0
        self.interruptions -= bool(self.interruptions)
        flags = [flag if self.where == part else 0 for part in ("first", "second", "end")]
        self.parts = [
            message(rtnl.NEWLINK, _MULTI | flags[0], sequence, b"1234"),
            message(rtnl.NEWLINK, _MULTI | flags[1], sequence, b"5678"),
            message(_DONE, _MULTI | flags[2], sequence, bytes(4)),
        ]

    def recv(self, _size):
        return self.parts.pop(0)


@pytest.mark.parametrize("where", ["first", "second", "end"])
def test_the_next_dump_works(where):
    socket = rtnl.Socket(Kernel(2, where))
    for _ in range(2):
        with pytest.raises(rtnl.Interrupted):
            socket.exchange(rtnl.GETLINK, bytes(16), rtnl.DUMP)
    assert socket.exchange(rtnl.GETLINK, bytes(16), rtnl.DUMP) == [b"1234", b"5678"]
