"""Pure: what is found under a file's name on the node -> whether it is left, written or refused.

Rules
1. Who brings a file that says what it is (the CNI executable does, in either form) replaces only files that say the
   same, or are the beginning of it, cut off: so many bytes of this very build are nobody else's. Whatever else bears
   the name is somebody else's, and stays as it is. So does one of another version that was cut off before its mark:
   nothing tells whose it is.
2. What is ours and not as it is brought, by its bytes or by who may execute it, is written anew.
3. A file on its way has a name of its own, which nobody reads: dot, name, the writer's token, `.new`. One that a killed
   writer left goes at the next look, once it is older than a living writer's can be.
"""

from __future__ import annotations

import enum
import re
import stat
from dataclasses import dataclass

from cni import forward

MARK = forward.ABOUT.rstrip()  # in bin/hotnic and bin/hotnic.py of every version
EXECUTABLE = "hotnic"  # the CNI type
MAKE_ROOM = "remove it, or rename it with what names it"  # what people have to do about one that is not ours
UNFINISHED_S = 600.0
_TELLING = 4096  # bytes; more than a program's headers, which others may share


@dataclass(frozen=True, slots=True)
class File:
    """What is brought, or found; `content` None: it is no regular file, or none of ours could be so large."""

    content: bytes | None
    mode: int  # the permission bits


class Decision(enum.Enum):
    LEAVE = "it is there and current"
    WRITE = "it is missing or not current"
    REFUSE = "a file of somebody else has its name"


def decide(brought: File, found: File | None) -> Decision:
    """Return what to do (rules 1 and 2). `found` None: there is nothing under the name."""
    if found is None:
        return Decision.WRITE
    if is_foreign(brought, found):
        return Decision.REFUSE
    return Decision.LEAVE if found == brought else Decision.WRITE


def is_foreign(brought: File, found: File) -> bool:
    """Whether what is found is not ours to replace or to remove (rule 1)."""
    if found.content is None:
        return True
    return says_what_it_is(brought) and not says_what_it_is(found) and not _is_cut_off(brought, found.content)


def says_what_it_is(file: File) -> bool:
    """Whether this is the CNI executable, of whatever version."""
    return file.content is not None and MARK in file.content


def _is_cut_off(brought: File, content: bytes) -> bool:
    return brought.content is not None and len(content) >= _TELLING and brought.content.startswith(content)


def permissions(mode: int) -> int:
    """Return the permission bits of a file's mode."""
    return stat.S_IMODE(mode)


def name_on_its_way(name: str, token: str) -> str:
    """Return the name under which a file is written (rule 3)."""
    return f".{name}.{token}.new"


def is_on_its_way(candidate: str, name: str) -> bool:
    """Whether this is the name of a file that some writer of ours has begun."""
    return re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.new", candidate) is not None
