"""The node's nftables, over netlink: all chains and rules as far as they can be read as text, and their removal.

No program of the machine is needed for it, and what iptables has made in nftables is seen as well; what is left in the
older kernel interface of iptables (`iptables-legacy`) is not. Numbers are those of <linux/netfilter/nf_tables.h>.

Rules
1. A rule is removed by its handle, which is never given to another one of its table.
2. A removal is one transaction: all of it that is still there, or nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from agent import links, rtnl
from agent.audit.contract import Rule

_NETFILTER = 12
_TABLES = 10 << 8
_GETCHAIN, _DELCHAIN, _GETRULE, _DELRULE = _TABLES | 4, _TABLES | 5, _TABLES | 7, _TABLES | 8
_BEGIN, _END = 0x10, 0x11
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_FAMILY = struct.Struct(">BBH")  # struct nfgenmsg
_TABLE, _CHAIN_NAME, _RULE_CHAIN, _RULE_HANDLE = 1, 3, 2, 3
_TRIES = 10
_NO_TABLES = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.EAFNOSUPPORT)
_NOT_THERE = (errno.ENOENT, errno.EBUSY)


def rules() -> tuple[Rule, ...]:
    """Return the chains and the rules of all tables; none where the kernel has no nftables. Raises OSError."""
    try:
        with _opened() as raw:
            asked = rtnl.Socket(raw)
            chains = [_chain(body) for body in _listed(asked, _GETCHAIN)]
            return (*chains, *(_rule(body) for body in _listed(asked, _GETRULE)))
    except rtnl.KernelError as problem:
        if problem.code in _NO_TABLES:
            return ()
        raise OSError(problem.code, str(problem)) from None


def remove(gone: Iterable[Rule]) -> None:
    """Remove these rules and chains, and what is in the chains. Raises OSError where the kernel does not."""
    left = list(gone)
    for _ in range(_TRIES):
        try:
            return _transact(_removal(left))
        except OSError as problem:
            if problem.errno != errno.ENOENT:
                raise
        there = {_place(one) for one in rules()}  # somebody has removed some of it: what a DEL does
        left = [one for one in left if _place(one) in there]
    raise OSError(errno.EBUSY, "the rules keep changing")


def _removal(gone: list[Rule]) -> list[tuple[int, bytes]]:
    chains = [one for one in gone if not one.handle]
    emptied = {_place(one) for one in chains}
    single = [one for one in gone if one.handle and _place(replace(one, handle=0)) not in emptied]
    return [
        *((_DELRULE, _named(one, _RULE_CHAIN) + _handle(one)) for one in single),
        *((_DELRULE, _named(one, _RULE_CHAIN)) for one in chains),  # without a handle: all rules of the chain
        *((_DELCHAIN, _named(one, _CHAIN_NAME)) for one in chains),
    ]


def _place(one: Rule) -> tuple[int, str, str, int]:
    return one.family, one.table, one.chain, one.handle


def remove_unused(chain: Rule) -> None:
    """Remove a chain and what is in it, unless something leads to it still. Raises OSError."""
    try:
        remove([chain])
    except OSError as problem:
        if problem.errno not in _NOT_THERE:
            raise


@contextmanager
def _opened() -> Iterator[socket.socket]:
    try:
        raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    except OSError as problem:
        raise rtnl.KernelError(problem.errno or errno.EIO, "netfilter socket") from None
    with raw:
        yield raw


def _listed(asked: rtnl.Socket, kind: int) -> list[bytes]:
    for _ in range(_TRIES):
        with suppress(rtnl.Interrupted):
            return asked.exchange(kind, _FAMILY.pack(0, 0, 0), rtnl.DUMP)
    raise rtnl.Interrupted(errno.EBUSY, "the rules keep changing")


def _chain(body: bytes) -> Rule:
    found = dict(links.attributes(body, _FAMILY.size))
    return Rule(body[0], _text(found.get(_TABLE, b"")), _text(found.get(_CHAIN_NAME, b"")))


def _rule(body: bytes) -> Rule:
    found = dict(links.attributes(body, _FAMILY.size))
    handle = int.from_bytes(found.get(_RULE_HANDLE, b""), "big")
    return Rule(
        body[0], _text(found.get(_TABLE, b"")), _text(found.get(_RULE_CHAIN, b"")), handle, body.decode("latin-1")
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _named(one: Rule, chain: int) -> bytes:
    """`chain`: the number of the attribute that names the chain."""
    names = _attribute(_TABLE, one.table.encode() + b"\0") + _attribute(chain, one.chain.encode() + b"\0")
    return _FAMILY.pack(one.family, 0, 0) + names


def _handle(one: Rule) -> bytes:
    return _attribute(_RULE_HANDLE, one.handle.to_bytes(8, "big"))


def _transact(steps: list[tuple[int, bytes]]) -> None:
    """Perform all steps, or none (rule 2). The kernel answers for each; after a refusal for all that it refuses."""
    batch = _FAMILY.pack(0, 0, _TABLES >> 8)
    messages = [(_BEGIN, 0, batch), *((kind, rtnl.ACK, body) for kind, body in steps), (_END, 0, batch)]
    with _opened() as raw:
        raw.settimeout(rtnl.TIMEOUT_S)
        raw.send(b"".join(_message(number, *message) for number, message in enumerate(messages)))
        answered: dict[int, int] = {}
        while not any(answered.values()) and len(answered) < len(steps):
            answered.update(_acknowledged(raw.recv(1 << 20)))
    for code in answered.values():
        if code:
            raise OSError(code, f"nftables: {os.strerror(code)}")


def _message(number: int, kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, rtnl.REQUEST | flags, number, 0) + body


def _acknowledged(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the number of each message that was answered, and the errno of its answer."""
    offset = 0
    while offset + _HEADER.size + 4 <= len(data):
        length, _, _, number, _ = _HEADER.unpack_from(data, offset)
        yield number, -struct.unpack_from("=i", data, offset + _HEADER.size)[0]
        offset += max(_HEADER.size, (length + 3) & ~3)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
