"""Where steps are performed, and the first things that are asked there: links, by name or by index.

Rules
1. "Already gone" on a removal is success; nothing else is.
2. Errors leave as CNIError with the kernel's word for them, and with what was being done.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agent import links, netns, rtnl, underlay
from agent.links import Link, Where
from cni import errors

UP = {"flags": 1, "change": 1}
NO_STATISTICS = ("IFLA_EXT_MASK", 8)  # RTEXT_FILTER_SKIP_STATS: a third of the time to read a link
NO_LINK = (errno.ENODEV, errno.ENXIO)
_IFF_PROMISC, _IFF_LOWER_UP = 0x100, 0x10000
_BUSY = (errno.EBUSY, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.ETIMEDOUT)


@dataclass(frozen=True, slots=True)
class Place:
    """Where steps are performed: a socket in the node's namespace, one in the pod's, and the latter's descriptor.

    Without a pod (its namespace is gone) there is nothing to be done in it.
    """

    node: rtnl.Socket
    pod: rtnl.Socket | None = None
    netns_fd: int = -1
    underlay: Callable[[], underlay.Underlay | None] = lambda: None  # as the controller has told it
    view: netns.View = field(default_factory=netns.View)  # of the node's paths

    def socket(self, where: Where) -> rtnl.Socket:
        if where is Where.NODE:
            return self.node
        if self.pod is None:
            raise errors.CNIError(errors.Code.INVALID_NETNS, "the pod's network namespace is gone")
        return self.pod


class Gone(errors.CNIError):
    """The link that something was to be done with is not there (any more)."""


@contextmanager
def translated(doing: str, refusals: links.Refusals = ()) -> Iterator[None]:
    try:
        yield
    except rtnl.KernelError as problem:
        if meaning := dict(refusals).get(problem.code):
            raise errors.CNIError(errors.Code.INVALID_CONFIG, meaning, str(problem)) from None
        if problem.code in NO_LINK:
            raise Gone(errors.Code.INTERNAL, f"cannot {doing}", str(problem)) from None
        code = errors.Code.TRY_AGAIN if problem.code in _BUSY else errors.Code.INTERNAL
        raise errors.CNIError(code, f"cannot {doing}", str(problem)) from None


def get(where: rtnl.Socket, name: str) -> Link | None:
    """Return the link of that name, or None."""
    return found(where, f"link {name}", {}, [("IFLA_IFNAME", name)])


def found(where: rtnl.Socket, what: str, fields: dict[str, Any], attributes: list[tuple[str, Any]]) -> Link | None:
    """Return the one link that fields and attributes name, or None."""
    message = message_of(where, what, fields, attributes)
    return None if message is None else link(message)


def message_of(
    where: rtnl.Socket, what: str, fields: dict[str, Any], attributes: list[tuple[str, Any]]
) -> rtnl.LinkMessage | None:
    """Return the kernel's message of one link, or None."""
    with translated(f"read {what}"):
        try:
            message: rtnl.LinkMessage = where.get(rtnl.GETLINK, fields, [*attributes, NO_STATISTICS])
        except rtnl.KernelError as problem:
            if problem.code in NO_LINK:
                return None
            raise
    return message


def link(message: rtnl.LinkMessage) -> Link:
    """Return what a message of the kernel says."""
    return Link(
        message.index, message.name, message.kind, message.mac, message.mtu, bool(message.flags & 1), message.master,
        message.parent, message.alias, message.group, bool(message.flags & _IFF_PROMISC), message.data, message.port,
        message.bus, message.device, bool(message.flags & _IFF_LOWER_UP),
    )  # fmt: skip


def index(where: rtnl.Socket, name: str) -> int:
    """Return the index of the link of that name. Raises CNIError 999 where there is none."""
    there = get(where, name)
    if there is None:
        raise Gone(errors.Code.INTERNAL, f"interface {name} is gone")
    return there.index


def delete(where: rtnl.Socket, gone: Link) -> None:
    """Delete a link by its index (rule 1)."""
    with translated(f"delete link {gone.name}"):
        try:
            where.do(rtnl.DELLINK, {"index": gone.index}, [])
        except rtnl.KernelError as problem:
            if problem.code not in NO_LINK:
                raise


def read_link(place: Place, what: links.NamedLink) -> Link | None:
    if what.where is Where.IN_POD and place.pod is None:
        return None
    return get(place.socket(what.where), what.name)


def family(version: int) -> int:
    return socket.AF_INET6 if version == 6 else socket.AF_INET
