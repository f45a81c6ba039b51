"""Traffic control over route netlink: token buckets, and the redirection of what a link receives to another one.

Requests are encoded here: pyroute2 knows neither a bucket's size in bytes nor a rate beyond 4 GB/s, and leaves out
without a word what it does not know. Numbers are those of <linux/pkt_sched.h> and <linux/pkt_cls.h>.

Rules
1. Traffic control of others on the same link stays: the hook for incoming frames is used as found (agent.spoofing has
   its filter there, with the first priority), and of its filters only those of our priority are ours.
2. Frames are taken by the classifier u32, which every kernel has that can redirect at all.
"""

from __future__ import annotations

import errno
import struct

from agent import links, rtnl
from agent.shaping import Bucket

_HEADER = struct.Struct("=BBHiIII")  # struct tcmsg
_KIND, _OPTIONS = 1, 2

_ROOT, _OUR_HANDLE = 0xFFFFFFFF, 0x10000
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_RATE = struct.Struct("=BBHhHI")  # struct tc_ratespec
_TBF = struct.Struct("=12s12sIII")  # struct tc_tbf_qopt
_ETHERNET = 1
_WIDEST = (1 << 32) - 1

_CLSACT, _INGRESS_HOOK, _HOOK_HANDLE = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFF0000
_PRIORITY, _ALL_PROTOCOLS = 100 << 16, 0x0300  # after those who drop; ETH_P_ALL in network byte order
_U32_SELECTOR, _U32_ACTIONS = 5, 7
_EVERYTHING = struct.pack("=BBBxHHhHI", 1, 0, 1, 0, 0, 0, 0, 0) + bytes(
    16
)  # struct tc_u32_sel: terminal, one empty key
_ACTION_KIND, _ACTION_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred
_STOLEN, _REDIRECT_OUT = 4, 1

_NONE = (errno.ENOENT, errno.EINVAL, errno.ENODEV)


def bucket(where: rtnl.Socket, ifindex: int) -> Bucket | None:
    """Return the bucket that the link sends through; None where there is none. Raises rtnl.KernelError."""
    try:
        # without ECHO the kernel tells it to those who listen to everything, and not to who asks
        answers = where.exchange(rtnl.GETQDISC, _header(ifindex, _ROOT), rtnl.ACK | rtnl.ECHO)
    except rtnl.KernelError as problem:
        if problem.code in _NONE:
            return None
        raise
    found = dict(links.attributes(answers[0], _HEADER.size)) if answers else {}
    if found.get(_KIND) != b"tbf\0":
        return None
    rate, _, limit, _, _ = _TBF.unpack(links.attribute(found[_OPTIONS], _TBF_PARMS) or b"")
    return Bucket(links.number(found[_OPTIONS], _TBF_RATE64) or _RATE.unpack(rate)[-1], limit, 0)


def shape(where: rtnl.Socket, ifindex: int, wanted: Bucket | None) -> None:
    """Let the link send through this bucket, whatever it did before; None: as it would by itself.

    Raises rtnl.KernelError.
    """
    if wanted is None:
        _forgiving(where, rtnl.DELQDISC, _header(ifindex, _ROOT))
        return
    rate = _RATE.pack(0, _ETHERNET, 0, 0, 0, min(wanted.rate, _WIDEST))
    options = (
        _attribute(_TBF_PARMS, _TBF.pack(rate, bytes(_RATE.size), wanted.limit, 0, 0))
        + _attribute(_TBF_RATE64, struct.pack("=Q", wanted.rate))
        + _attribute(_TBF_BURST, struct.pack("=I", wanted.burst))
    )
    what = _header(ifindex, _ROOT, _OUR_HANDLE) + _attribute(_KIND, b"tbf\0") + _attribute(_OPTIONS, options)
    where.exchange(rtnl.NEWQDISC, what, rtnl.ACK | rtnl.CREATE | rtnl.REPLACE)


def redirection(where: rtnl.Socket, ifindex: int) -> int:
    """Return the index of the link that takes what this one receives; 0: it does itself. Raises rtnl.KernelError."""
    for answer in where.exchange(rtnl.GETFILTER, _header(ifindex, _INGRESS_HOOK, info=_PRIORITY), rtnl.DUMP):
        options = links.attribute(answer[_HEADER.size :], _OPTIONS) or b""
        for _, action in links.attributes(links.attribute(options, _U32_ACTIONS) or b""):
            parameters = links.attribute(links.attribute(action, _ACTION_OPTIONS) or b"", _MIRRED_PARMS)
            if parameters:
                return int(_MIRRED.unpack(parameters)[-1])
    return 0


def redirect(where: rtnl.Socket, ifindex: int, to: int) -> None:
    """Let the link `to` take what this one receives, in place of who does now; 0: nobody. Raises rtnl.KernelError."""
    _forgiving(where, rtnl.DELFILTER, _header(ifindex, _INGRESS_HOOK, info=_PRIORITY | _ALL_PROTOCOLS))
    if not to:
        return
    hook = _header(ifindex, _CLSACT, _HOOK_HANDLE) + _attribute(_KIND, b"clsact\0")
    try:
        where.exchange(rtnl.NEWQDISC, hook, rtnl.ACK | rtnl.CREATE | rtnl.EXCL)
    except rtnl.KernelError as problem:
        if problem.code != errno.EEXIST:
            raise
    mirred = _attribute(_MIRRED_PARMS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _REDIRECT_OUT, to))
    action = _attribute(_ACTION_KIND, b"mirred\0") + _attribute(_ACTION_OPTIONS, mirred)
    options = _attribute(_U32_SELECTOR, _EVERYTHING) + _attribute(_U32_ACTIONS, _attribute(1, action))
    what = _attribute(_KIND, b"u32\0") + _attribute(_OPTIONS, options)
    header = _header(ifindex, _INGRESS_HOOK, info=_PRIORITY | _ALL_PROTOCOLS)
    where.exchange(rtnl.NEWFILTER, header + what, rtnl.ACK | rtnl.CREATE | rtnl.EXCL)


def _forgiving(where: rtnl.Socket, kind: int, body: bytes) -> None:
    """Delete what may be gone already."""
    try:
        where.exchange(kind, body, rtnl.ACK)
    except rtnl.KernelError as problem:
        if problem.code not in _NONE:
            raise


def _header(ifindex: int, parent: int, handle: int = 0, info: int = 0) -> bytes:
    return _HEADER.pack(0, 0, 0, ifindex, handle, parent, info)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
