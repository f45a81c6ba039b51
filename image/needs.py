"""Pure: which shared libraries the files of an image ask for that it has not (ELF, DT_NEEDED)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from image.layer import File

_DYNAMIC, _LOAD = 2, 1  # p_type
_NEEDED, _STRTAB = 1, 5  # d_tag


def missing(files: Mapping[str, File]) -> dict[str, list[str]]:
    """Return what is missing: the library's name, and who asks for it."""
    there = {name.rpartition("/")[2] for name in files}
    found: dict[str, list[str]] = {}
    for name, file in files.items():
        for library in needed(file.content):
            if library not in there:
                found.setdefault(library, []).append(name)
    return found


def needed(content: bytes) -> Iterator[str]:
    """Yield the names of the libraries that a 64-bit little-endian ELF file asks for; none for any other file."""
    if content[:6] != b"\x7fELF\x02\x01":
        return
    offset, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", content, offset + number * size) for number in range(count)]
    loads = [(one[3], one[2], one[5]) for one in segments if one[0] == _LOAD]  # address, offset, length
    for segment in segments:
        if segment[0] == _DYNAMIC:
            entries = list(_entries(content, segment[2], segment[5]))
            table = next(_in_file(value, loads) for tag, value in entries if tag == _STRTAB)
            for tag, value in entries:
                if tag == _NEEDED:
                    end = content.index(b"\0", table + value)
                    yield content[table + value : end].decode()


def _entries(content: bytes, offset: int, length: int) -> Iterator[tuple[int, int]]:
    for place in range(offset, offset + length, 16):
        tag, value = struct.unpack_from("<QQ", content, place)
        if tag == 0:
            return
        yield tag, value


def _in_file(address: int, loads: list[tuple[int, int, int]]) -> int:
    return next(address - start + offset for start, offset, length in loads if start <= address < start + length)
