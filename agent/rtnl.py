"""A route netlink socket: one request, its answers. The only module that imports pyroute2.

pyroute2 knows the messages; its sockets are not used: each carries an asyncio loop (0.5 ms to open, three times the
cost for every call, and descriptors that outlive a close from another thread), and `netns=` forks a child (7 ms).
Numbers are those of <linux/netlink.h> and <linux/rtnetlink.h>.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.exceptions import NetlinkDecodeError
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, macvx_data
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent import linkmsg, links

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
NEWFILTER, DELFILTER, GETFILTER = 44, 45, 46
GETVLAN = 114

REQUEST, MULTI, ACK, DUMP, CREATE, EXCL = 1, 2, 4, 0x300, 0x400, 0x200
REPLACE, ECHO = 0x100, 8
ACK_TLVS, CAPPED, DUMP_INTERRUPTED = 0x200, 0x100, 0x10
_NOOP, _ERROR, _DONE = 1, 2, 3
_SOL_NETLINK, _EXT_ACK, _STRICT_CHECK, _CAP_ACK = 270, 11, 12, 10

TIMEOUT_S = 10.0  # the kernel answers at once or is stuck; a stuck one must not hang a pod's work for ever
_SIZE = 1 << 20
_LAST_ERRNO = 4095
_HEADER = struct.Struct("=IHHII")

_KINDS = {range(NEWLINK, SETLINK + 1): ifinfmsg, range(NEWADDR, GETADDR + 1): ifaddrmsg,
          range(NEWROUTE, GETROUTE + 1): rtmsg}  # fmt: skip
# number 7, which pyroute2 does not know, and what it does not know it leaves out without a word
macvx_data.nla_map = (*macvx_data.nla_map, ("IFLA_MACVLAN_BC_QUEUE_LEN", "uint32"))


# of a link whose address, or whose lack of all else, is wrong
_REFUSALS = (errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENODEV)


class KernelError(Exception):
    """The kernel's refusal: its errno and, where it gives one, its own explanation."""

    def __init__(self, code: int, explanation: str) -> None:
        super().__init__(f"{os.strerror(code)}: {explanation}" if explanation else os.strerror(code))
        self.code = code


class Interrupted(KernelError):
    """What was being listed changed meanwhile: the list is not one state. Ask again."""


class Socket:
    """Not for use by two threads at once."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._sequence = 0
        raw.settimeout(TIMEOUT_S)
        for option in (_EXT_ACK, _STRICT_CHECK, _CAP_ACK):  # strict: the kernel filters dumps by the request's fields
            raw.setsockopt(_SOL_NETLINK, option, 1)

    def close(self) -> None:
        self._raw.close()

    def do(self, kind: int, fields: Mapping[str, Any], attributes: Sequence[tuple[str, Any]], flags: int = 0) -> None:
        """Change something. Raises KernelError."""
        for _ in self._ask(kind, fields, attributes, REQUEST | ACK | flags):
            pass

    def get(self, kind: int, fields: Mapping[str, Any], attributes: Sequence[tuple[str, Any]]) -> Any:
        """Return the one object asked for. Raises KernelError."""
        for answer in list(self._ask(kind, fields, attributes, REQUEST)):
            return answer
        raise KernelError(errno.ENODATA, "the kernel's answer has nothing in it")

    def dump(self, kind: int, fields: Mapping[str, Any], attributes: Sequence[tuple[str, Any]]) -> list[Any]:
        """Return all objects that match. Raises KernelError."""
        for _ in range(10):
            try:
                return list(self._ask(kind, fields, attributes, REQUEST | DUMP))
            except Interrupted:
                continue
        raise Interrupted(errno.EBUSY, "what is listed keeps changing")

    def exchange(self, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
        """Send a message whose body is encoded already; return the bodies of the answers. Raises KernelError.

        For what pyroute2 does not know, or encodes wrong without a word. A DUMP is no one state: see `dump`.
        """
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, self._sequence, 0)
        return list(self._answers(header + body, flags, lambda message: message[_HEADER.size :]))

    def _ask(
        self, kind: int, fields: Mapping[str, Any], attributes: Sequence[tuple[str, Any]], flags: int
    ) -> Iterator[Any]:
        self._sequence += 1
        return self._answers(_encode(kind, fields, attributes, flags, self._sequence), flags, _decoded)

    def _answers(self, request: bytes, flags: int, decode: Callable[[bytes], Any]) -> Iterator[Any]:
        interrupted = False
        try:
            self._raw.send(request)
            while True:
                for message in _split(self._raw.recv(_SIZE)):
                    interrupted |= self._is_interrupted(message)
                    answer, last = self._read(message, decode)
                    if last and interrupted:  # not before: until its end the kernel begins no other dump (EBUSY)
                        raise Interrupted(errno.EINTR, "")
                    if answer is not None:
                        yield answer
                    if last or (answer is not None and not flags & (DUMP | ACK)):
                        return
        except TimeoutError:
            raise KernelError(errno.ETIMEDOUT, "the kernel did not answer") from None
        except OSError as problem:
            raise KernelError(problem.errno or errno.EIO, "netlink socket") from None
        except (struct.error, NetlinkDecodeError) as problem:
            raise KernelError(errno.EBADMSG, str(problem)) from None

    def _is_interrupted(self, message: bytes) -> bool:
        _, _, flags, sequence, _ = _HEADER.unpack_from(message)
        return bool(flags & DUMP_INTERRUPTED) and sequence == self._sequence

    def _read(self, message: bytes, decode: Callable[[bytes], Any]) -> tuple[Any, bool]:
        """Return (object or None, whether that was the last of the answer)."""
        _, kind, flags, sequence, _ = _HEADER.unpack_from(message)
        if sequence != self._sequence or kind == _NOOP:
            return None, False  # left over from a request that was given up
        if kind in (_ERROR, _DONE):
            _raise_refusal(message, flags, kind)
            return None, True
        return decode(message), False


def knows(where: Socket, kind: str) -> bool:
    """Whether the kernel has links of that kind, with nothing made: it is asked for one that it has to refuse.

    No kind takes a multicast address for its own, or has a use for a link without any of its attributes, and the kernel
    looks for the kind before it looks at those. Raises KernelError.
    """
    attributes = [("IFLA_ADDRESS", "01:00:00:00:00:00"), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})]
    try:
        where.do(NEWLINK, {}, attributes, CREATE | EXCL)
    except KernelError as problem:
        if problem.code == errno.EOPNOTSUPP:
            return False
        if problem.code not in _REFUSALS:
            raise
    return True


def _decoded(message: bytes) -> Any:
    kind = _HEADER.unpack_from(message)[1]
    if kind == NEWLINK:
        return _link(message)
    answer = _codec(kind)(message)
    answer.decode()
    return answer


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """The few attributes of a link that are read here. pyroute2 decodes all sixty, which takes ten times as long and
    is most of what an attachment would cost.
    """

    index: int
    flags: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: int
    parent: int
    queue: int  # IFLA_TXQLEN, packets
    alias: str
    group: int
    data: bytes  # IFLA_INFO_DATA
    port: bytes  # IFLA_INFO_SLAVE_DATA
    bus: str  # of the device behind it: IFLA_PARENT_DEV_BUS_NAME, _NAME
    device: str
    permanent: str  # MAC
    elsewhere: bool  # `parent` is in another namespace
    functions: bytes  # IFLA_VFINFO_LIST, for who asks for it
    parent_netns: int = -1  # the namespace that `parent` is in, as this one calls it; -1: this one


def _link(message: bytes) -> LinkMessage:
    index, flags = struct.unpack_from("=iI", message, _HEADER.size + 4)
    found = dict(links.attributes(message, _HEADER.size + 16))
    info = dict(links.attributes(found.get(18, b"")))
    return LinkMessage(
        index=index,
        flags=flags,
        name=_text(found.get(3, b"")),
        kind=_text(info.get(1, b"")),
        mac=found.get(1, b"").hex(":"),
        mtu=_number(found.get(4, b"")),
        master=_number(found.get(10, b"")),
        parent=_number(found.get(5, b"")),
        queue=_number(found.get(13, b"")),
        alias=_text(found.get(20, b"")),
        group=_number(found.get(27, b"")),
        data=info.get(2, b""),
        port=info.get(5, b""),
        bus=_text(found.get(57, b"")),
        device=_text(found.get(56, b"")),
        permanent=found.get(54, b"").hex(":"),
        elsewhere=37 in found,
        functions=found.get(22, b""),
        parent_netns=int.from_bytes(found.get(37, b"\xff"), sys.byteorder, signed=True),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def attributes(message: Any) -> dict[str, Any]:
    """Return the message's, or a nested attribute's, attributes by name; none for an absent one."""
    return dict(message["attrs"]) if message else {}


def _encode(kind: int, fields: Mapping[str, Any], attrs: Sequence[tuple[str, Any]], flags: int, sequence: int) -> bytes:
    if NEWLINK <= kind <= SETLINK and (body := linkmsg.encode(fields, attrs)) is not None:
        return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body
    message = _codec(kind)()
    message.update(fields)
    message["attrs"] = list(attrs)
    message["header"].update({"type": kind, "flags": flags, "sequence_number": sequence, "pid": 0})
    message.encode()
    return bytes(message.data)


def _codec(kind: int) -> Any:
    for kinds, codec in _KINDS.items():
        if kind in kinds:
            return codec
    raise KernelError(errno.EBADMSG, f"message of kind {kind}")


def _split(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length = max(_HEADER.size, _HEADER.unpack_from(data, offset)[0])
        yield data[offset : offset + length]
        offset += (length + 3) & ~3


def _raise_refusal(message: bytes, flags: int, kind: int) -> None:
    code = -struct.unpack_from("=i", message, _HEADER.size)[0] if len(message) >= _HEADER.size + 4 else 0
    if not 0 <= code <= _LAST_ERRNO:
        raise KernelError(errno.EBADMSG, f"error {code}")
    if code:
        raise KernelError(code, _explanation(message, flags, kind))


def _explanation(message: bytes, flags: int, kind: int) -> str:
    """The NLMSGERR_ATTR_MSG behind the code and the (capped) header of the request."""
    if not flags & ACK_TLVS:
        return ""
    offset = _HEADER.size + 4 + (_HEADER.size if kind == _ERROR else 0)
    return _text(dict(links.attributes(message, offset)).get(1, b""))
