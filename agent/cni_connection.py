"""One connection of the CNI executable: one call, one answer (cni.wire). The other end is a process that may die.

Only root may call: what the file system says about a socket is the door's affair, the kernel's word for the peer is
asked here. An answer that cannot be delivered is undone: the runtime was told that the call failed.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping

from agent.calls import Answer
from cni import wire

READ_S = 10.0
WRITE_S = 10.0  # a caller that reads nothing must not hold its thread

Handle = Callable[[Mapping[str, str], bytes, int | None], Answer]

log = logging.getLogger(__name__)


def serve(connection: socket.socket, handle: Handle) -> None:
    """Read the call, have it handled, and deliver the answer. Closes the connection."""
    with connection:
        try:
            refuse_strangers(connection)
            call = wire.receive_request(connection, READ_S)
        except (OSError, wire.WireError) as problem:
            log.warning("CNI call not understood: %s", problem)
            return
        try:
            if call.environ.get("CNI_COMMAND") == "ADD" and hung_up(connection):
                log.warning("CNI ADD not begun: its caller has gone before its turn came")
                return
            answer = handle(call.environ, call.stdin, call.netns)
        finally:
            if call.netns is not None:
                os.close(call.netns)
        _deliver(connection, answer)


def refuse_strangers(connection: socket.socket) -> None:
    """Raise PermissionError for a peer that is not root."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != 0:
        raise PermissionError(f"uid {uid} may not call the agent")


def hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _deliver(connection: socket.socket, answer: Answer) -> None:
    try:
        if hung_up(connection):
            raise BrokenPipeError("the caller is gone")
        connection.settimeout(WRITE_S)
        connection.sendall(wire.encode_reply(answer.exit_code, answer.stdout) + answer.words[-wire.MAX_WORDS :])
    except (OSError, wire.WireError) as problem:
        log.warning("CNI answer not delivered: %s", problem)
        answer.undo()
