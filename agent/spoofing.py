"""The first filter of what comes in at a link of the node: a program of a few instructions, over route netlink.

It hangs on the link (traffic control: a classifier `bpf` with direct action), and the kernel removes it with the link:
there is nothing to clean up. A chain of nftables would stay (since Linux 6.16 also one of the family netdev, when its
device goes), and whoever flushes the ruleset would open every port. A locked port with a static entry in the bridge's
table would cut a migrated guest off for good, once its MAC has been seen elsewhere.

Rules
1. No file, no program of the machine, no bpf(2): the instructions are in the message.
2. Traffic control of others on the same link stays: the queueing discipline for incoming frames is used as found.
"""

from __future__ import annotations

import errno
import struct

from agent import links, rtnl

_HEADER = struct.Struct("=BBHiIII")  # struct tcmsg
_KIND, _OPTIONS = 1, 2
_CLSACT, _INGRESS_HOOK, _HANDLE = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFF0000
_FIRST, _ALL_PROTOCOLS = 1 << 16, 0x0300  # priority 1; ETH_P_ALL in network byte order
_OPS_LENGTH, _OPS, _FLAGS = 4, 5, 8
_DIRECT_ACTION = 1
_INSTRUCTION = 8  # bytes
_NONE = (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP)


def read(node: rtnl.Socket, ifindex: int) -> bytes | None:
    """Return the program that is there; None where there is none. Raises rtnl.KernelError."""
    try:
        answers = node.exchange(rtnl.GETFILTER, _filter(ifindex))
    except rtnl.KernelError as problem:
        if problem.code in _NONE:
            return None
        raise
    options = links.attribute(answers[0][_HEADER.size :], _OPTIONS) or b""
    return links.attribute(options, _OPS)


def install(node: rtnl.Socket, ifindex: int, program: bytes) -> None:
    """Make `program` the first filter, in place of one that is there. Raises rtnl.KernelError."""
    hook = _HEADER.pack(0, 0, 0, ifindex, _HANDLE, _CLSACT, 0) + _attribute(_KIND, b"clsact\0")
    try:
        node.exchange(rtnl.NEWQDISC, hook, rtnl.ACK | rtnl.CREATE | rtnl.EXCL)
    except rtnl.KernelError as problem:
        if problem.code != errno.EEXIST:
            raise
    options = (
        _attribute(_OPS_LENGTH, struct.pack("=H", len(program) // _INSTRUCTION))
        + _attribute(_OPS, program)
        + _attribute(_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    what = _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options)
    node.exchange(rtnl.NEWFILTER, _filter(ifindex) + what, rtnl.ACK | rtnl.CREATE)


def _filter(ifindex: int) -> bytes:
    return _HEADER.pack(0, 0, 0, ifindex, 1, _INGRESS_HOOK, _FIRST | _ALL_PROTOCOLS)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
