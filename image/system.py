"""Pure: the files of Debian's packages as they lie in the image.

Rule 1: /bin, /lib, /lib64 and /sbin are links to what is below /usr, as Debian's installer leaves them.
Rule 2: no link is absolute: it leads to the same place wherever the root is mounted or unpacked.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from image.layer import File

_MERGED = ("bin", "lib", "lib64", "sbin")
LOADER = "usr/lib64/ld-linux-x86-64.so.2"  # its name in every executable; the package has the file elsewhere
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def merged(files: Mapping[str, File]) -> dict[str, File]:
    """Return the files of all packages by their names in the image (rules 1 and 2)."""
    placed = {name: _relinked(name, file) for name, file in ((_below_usr(one), file) for one, file in files.items())}
    links = {name: File(target=f"usr/{name}") for name in _MERGED}
    return placed | links | {LOADER: File(target="../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")}


def _below_usr(name: str) -> str:
    return f"usr/{name}" if name.partition("/")[0] in _MERGED else name


def _relinked(name: str, file: File) -> File:
    if not file.target.startswith("/"):
        return file
    return File(target=posixpath.relpath(_below_usr(file.target.lstrip("/")), posixpath.dirname(name)))
