"""Kernel events: what changes of links, their addresses, routes and traffic control, on the node and in its pods, told
when it changes.

Rules
1. One socket, in the node's namespace, hears all: the kernel tells it of every namespace that has a number in ours
   (nsid). None is opened in a pod's, which it would keep alive (agent.netlink, rule 1).
2. Told is what matters to an attachment. The kernel tells of a bridge whenever a port comes or goes, of a router's
   addresses again and again: what says nothing new is left out.
3. Events that were lost, for there were too many, are told as LOST: whoever listens has to look for himself.
4. Where the kernel does not let us hear of pods (that takes CAP_NET_BROADCAST), it is said once; the node's own events
   are heard all the same.
5. That a link is there, or up, which was not, is told besides of the node's (`came`): others wait for it. Of those that
   came while events were lost, too.
"""

from __future__ import annotations

import enum
import errno
import logging
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from agent import links, rtnl

NODE = -1  # in place of a number, in an event
RECEIVE_BYTES = 16 << 20  # of events that wait to be read
MOST = 5000  # messages that are read at a time
_SIZE, _TRIES = 1 << 18, 10

_SOL_NETLINK, _ADD_MEMBERSHIP, _LISTEN_ALL_NSID = 270, 1, 8
_FROM = (_SOL_NETLINK, _LISTEN_ALL_NSID)  # ancillary data: in which namespace
_GROUPS = (1, 4, 5, 7, 9, 11, 28)  # RTNLGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _NSID
_NEWNSID, _DELNSID, _GETNSID = 88, 89, 90
_NSID, _NSID_OF_FD = 1, 3  # NETNSA_*
_AF_BRIDGE = 7
_UP = 0x1  # IFF_*
_FLAGS = _UP | 0x100 | 0x200  # and _PROMISC, _ALLMULTI
# IFLA_*: address, name, MTU, link, master, queue, alias; kind, data, and as a port: hairpin, isolated
_OF_LINK, _INFO, _KIND, _DATA, _PORT, _OF_PORT = (1, 3, 4, 5, 10, 13, 20), 18, 1, 2, 5, (4, 33)
_OIF = 4  # RTA_OIF
_REPLACE = 0x100  # NLM_F_REPLACE
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_TRAFFIC_CONTROL = struct.Struct("=Bxxxi")  # the first fields of struct tcmsg
_ROUTE_BYTES = 12

log = logging.getLogger(__name__)


class What(enum.Enum):
    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    QUEUE = "queue"  # traffic control of a link: queueing disciplines and filters
    PORT = "port"  # of a switch that is none of the kernel's (agent.switchwatch)
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Event:
    """`index`, and `name` where it is a link's: of the link; 0: of any. `gone`: it is not there any more.

    A link that is `renamed` is gone under the one name, and there under the other. `came`: rule 5.
    """

    where: int  # NODE, or the number of a pod's namespace
    what: What
    index: int = 0
    name: str = ""
    gone: bool = False
    came: bool = False
    renamed: bool = False


class Watch:
    """Events are read by one thread; numbers may be asked for by any."""

    def __init__(self) -> None:
        """Listen, from now on, in the namespace that this thread is in."""
        self._raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._raw.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), RECEIVE_BYTES)
        self._raw.setblocking(False)  # noqa: FBT003 as the standard library has it
        self.hears_pods = self._listens_to_all()
        self._raw.bind((0, 0))  # before the groups are joined, or it leaves them again
        for group in _GROUPS:
            self._raw.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._wake, self._woken = socket.socketpair()
        self._poll = select.poll()  # as many descriptors as there may be, select knows a thousand only
        for one in (self._raw, self._woken):
            self._poll.register(one, select.POLLIN)
        self._lock = threading.Lock()
        self._asking = rtnl.Socket(
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        )
        self._numbers: set[int] = set()  # of the namespaces that are of interest
        self._seen: dict[tuple[int, int], tuple[object, ...]] = {}  # by (where, index): what matters of each link
        self._buffer = bytearray(_SIZE)
        self._list()

    def close(self) -> None:
        """Nobody may be reading any more."""
        for one in (self._raw, self._wake, self._woken):
            one.close()
        self._asking.close()

    def number(self, netns_fd: int) -> int | None:
        """Return the number by which events tell of a namespace, from now on; None: they do not.

        Raises KernelError where the kernel gives it none.
        """
        if not self.hears_pods:
            return None
        asked = bytes(4) + _attribute(_NSID_OF_FD, netns_fd)
        with self._lock:
            try:
                self._asking.exchange(_NEWNSID, asked + _attribute(_NSID, -1), rtnl.ACK)
            except rtnl.KernelError as problem:
                if problem.code != errno.EEXIST:
                    raise
            (answer,) = self._asking.exchange(_GETNSID, asked)
            number = _nsid(answer)
            self._numbers.add(number)
        return number

    def wait(self, timeout_s: float | None) -> None:
        """Return when there is something to read, when somebody wakes us, or after that time."""
        ready = self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        if any(fd == self._woken.fileno() for fd, _ in ready):
            self._woken.recv(4096)

    def wake(self) -> None:
        """Have `wait` return."""
        self._wake.send(b"\0")

    def read(self) -> list[Event]:
        """Return what has happened since the last time."""
        found: list[Event] = []
        for _ in range(MOST):
            try:
                size, ancillary, _, _ = self._raw.recvmsg_into([self._buffer], 64)
            except BlockingIOError:
                return found
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise
                log.warning("kernel events were lost, for there were too many: everything is looked at")
                found.append(Event(NODE, What.LOST))
                found += self._list_again()
                continue
            where = next((_number(value) for level, kind, value in ancillary if (level, kind) == _FROM), NODE)
            if where == NODE or where in self._numbers:
                found += self._told(where, bytes(self._buffer[:size]))
        return found

    def _listens_to_all(self) -> bool:
        try:
            self._raw.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
        except OSError as problem:
            log.warning("what changes in pods is not heard of, and looked for instead: %s", problem.strerror)
            return False
        return True

    def _list_again(self) -> Iterator[Event]:
        """Not known is no harm: what is told of then is news."""
        before = self._seen.copy()
        try:
            self._list()
        except rtnl.KernelError as problem:
            log.warning("the node's links cannot be listed: %s", problem)
        for (where, index), now in self._seen.items():
            if _came(before.get((where, index)), now):
                yield Event(where, What.LINK, index, _name(now), came=True)

    def _list(self) -> None:
        """Know the node's links as they are; those of pods are told of when they change the next time."""
        self._seen.clear()
        for _ in range(_TRIES):
            try:
                with self._lock:
                    bodies = self._asking.exchange(rtnl.GETLINK, bytes(_LINK.size), rtnl.DUMP)
            except rtnl.Interrupted:
                continue  # links come and go; without a list the first change of each is told under its new name only
            for body in bodies:
                _, _, index, flags, _ = _LINK.unpack_from(body)
                self._seen[NODE, index] = _essence(body, flags)
            return

    def _told(self, where: int, data: bytes) -> Iterator[Event]:
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
            body = data[offset + _HEADER.size : offset + length]
            offset += (max(length, _HEADER.size) + 3) & ~3
            match kind:
                case rtnl.NEWLINK | rtnl.DELLINK:
                    yield from self._link(where, body, gone=kind == rtnl.DELLINK)
                case rtnl.NEWADDR | rtnl.DELADDR:
                    yield from self._address(where, body, gone=kind == rtnl.DELADDR)
                case rtnl.NEWROUTE | rtnl.DELROUTE:
                    yield from self._route(where, body, gone=kind == rtnl.DELROUTE or bool(flags & _REPLACE))
                case rtnl.NEWQDISC | rtnl.DELQDISC | rtnl.NEWFILTER | rtnl.DELFILTER:
                    index = _TRAFFIC_CONTROL.unpack_from(body)[1]
                    yield Event(where, What.QUEUE, index, _name(self._seen.get((where, index))))
                case _ if kind == _DELNSID and where == NODE:
                    self._forget(_nsid(body))

    def _link(self, where: int, body: bytes, *, gone: bool) -> Iterator[Event]:
        family, _, index, flags, _ = _LINK.unpack_from(body)
        if family == _AF_BRIDGE:  # as a port: it has left, or its settings or VLANs have changed
            yield Event(where, What.LINK, index, _name(self._seen.get((where, index))))
            return
        if family != 0:
            return
        before = self._seen.pop((where, index), None)
        now = _essence(body, flags)
        if not gone:
            self._seen[where, index] = now
        if before is not None and _name(before) != _name(now):
            yield Event(where, What.LINK, index, _name(before), gone=True, renamed=True)
        if gone or before != now:
            came = where == NODE and not gone and _came(before, now)
            yield Event(where, What.LINK, index, _name(now), gone, came)

    def _address(self, where: int, body: bytes, *, gone: bool) -> Iterator[Event]:
        """Of those that come only the node's matter: something may wait for them."""
        index = _ADDRESS.unpack_from(body)[4]
        if gone or where == NODE:
            yield Event(where, What.ADDRESS, index, _name(self._seen.get((where, index))), gone)

    def _route(self, where: int, body: bytes, *, gone: bool) -> Iterator[Event]:
        """Of those that come only the node's defaults matter: with them comes the link that they lead through."""
        if gone:
            index = _number(links.attribute(body[_ROUTE_BYTES:], _OIF) or b"")
            yield Event(where, What.ROUTE, index, _name(self._seen.get((where, index))), gone=True)
        elif where == NODE and body[1] == 0:
            yield Event(where, What.ROUTE)

    def _forget(self, number: int) -> None:
        """The namespace is gone. Another gets its number, or has it already: who has asked for that one is heard of."""
        self._seen = {key: essence for key, essence in self._seen.items() if key[0] != number}


def _essence(body: bytes, flags: int) -> tuple[object, ...]:
    """Return what has to change of a link for it to be told; the name first."""
    found = dict(links.attributes(body, _LINK.size))
    info = dict(links.attributes(found.get(_INFO, b"")))
    port = dict(links.attributes(info.get(_PORT, b"")))
    name = found.get(3, b"").rstrip(b"\0").decode(errors="replace")
    data = b"" if info.get(_KIND, b"").rstrip(b"\0") == b"bridge" else info.get(_DATA)  # a bridge's has timers
    values = (*(found.get(kind) for kind in _OF_LINK), *(port.get(kind) for kind in _OF_PORT))
    return (name, flags & _FLAGS, data, *values)


def _came(before: tuple[object, ...] | None, now: tuple[object, ...]) -> bool:
    """Rule 5: it was not there under its name, or it was down."""
    return before is None or _name(before) != _name(now) or _is_up(now) > _is_up(before)


def _is_up(essence: tuple[object, ...]) -> bool:
    flags = essence[1]
    return isinstance(flags, int) and bool(flags & _UP)


def _name(essence: tuple[object, ...] | None) -> str:
    return str(essence[0]) if essence else ""


def _nsid(body: bytes) -> int:
    return _number(links.attribute(body[4:], _NSID) or b"\xff")


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder, signed=True)


def _attribute(kind: int, value: int) -> bytes:
    return struct.pack("=HHi", 8, kind, value)
