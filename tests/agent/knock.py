"""Knock at a door of the agent as somebody else: `python -m tests.agent.knock SOCKET UID GID [mapped]`.

mapped: as user 0 of a user namespace of one's own. Says "refused" where the kernel does not let one in, "hung up" where
the agent does not answer a CNI call, and "served".
"""

import ctypes
import os
import socket
import sys
from pathlib import Path

from cni import wire

_NEWUSER, _SET_DUMPABLE = 0x10000000, 4
_libc = ctypes.CDLL(None, use_errno=True)


def become(uid: int, gid: int) -> None:
    """Be that user, and of that group only."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def become_root_of_own_namespace() -> None:
    """Be user 0 where nobody else is."""
    uid = os.getuid()
    _libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # else the next file is root's
    if _libc.unshare(_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    os.setresuid(0, 0, 0)
    assert os.getuid() == 0


def knock(path: str) -> str:
    """Return what comes of a call."""
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(path)
        except PermissionError:
            return "refused"
        try:
            wire.send_request(door, wire.encode_request({b"CNI_COMMAND": b"VERSION"}, b"{}"), None)
            wire.receive_reply(door)
        except (wire.WireError, OSError):
            return "hung up"
        return "served"


if __name__ == "__main__":
    become(int(sys.argv[2]), int(sys.argv[3]))
    if "mapped" in sys.argv:
        become_root_of_own_namespace()
    print(knock(sys.argv[1]))
