"""Pure: which version a program written in Go says it is, by what its compiler put into it (debug/buildinfo).

Rules
1. The program is not executed: it is somebody else's.
2. A release that was built from a checkout says its version among the linker's words, `-X …/multus.version=v4.2.4`;
   one that was built as a module of another, or by a newer Go, has it as the version of its own module.
"""

from __future__ import annotations

import mmap
import re

_MAGIC = b"\xff Go buildinf:"
_ALIGNED, _HEAD, _INLINE = 16, 32, 2  # the head is that long; the flag: two strings come right behind it
_SENTINEL = 16  # bytes before and after the text about modules
_BITS = 7  # of each byte of a length (encoding/binary, Uvarint)
_LONGEST = 64  # characters of a version
_LINKED = re.compile(r"\.version=(v?\d[^\s\"']*)")
_MODULE = re.compile(r"^mod\t\S+\t(v\d\S*)", re.MULTILINE)


def version(program: bytes | mmap.mmap) -> str:
    """Return it as it is written there; "": it does not say."""
    about = _about(program)
    found = _LINKED.search(about) or _MODULE.search(about)
    return found[1][:_LONGEST] if found else ""


def _about(program: bytes | mmap.mmap) -> str:
    """Return the lines about modules and the build."""
    at = program.find(_MAGIC)
    while at >= 0:
        flags = program[at + len(_MAGIC) + 1 : at + len(_MAGIC) + 2]
        if at % _ALIGNED == 0 and flags and flags[0] & _INLINE:
            _, position = _string(program, at + _HEAD)  # of Go itself
            text, _ = _string(program, position)
            return text[_SENTINEL:-_SENTINEL].decode(errors="replace")
        at = program.find(_MAGIC, at + 1)
    return ""


def _string(program: bytes | mmap.mmap, position: int) -> tuple[bytes, int]:
    """Return the string, as much as is there of it, and where it ends."""
    length = 0
    for shift, byte in enumerate(program[position : position + 4]):
        length |= (byte & 0x7F) << (_BITS * shift)
        if byte < 0x80:
            position += shift + 1
            break
    return program[position : position + length], position + length
