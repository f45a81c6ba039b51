"""Files of the state directory, as the journal writes them: whole or not at all, and never believed when damaged.

Rules
1. A file is a JSON object, its last member a sum over all before it. One without is of an older agent, and is read.
2. A write that fails leaves the old file, and nothing beside it.
3. What cannot be read, is no file, or is larger than any of ours is `Damaged`. It is set aside for people, with an
   alarm, never over what was set aside before; who reads goes on with the others.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import re
import stat
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGEST = 64 << 20  # bytes; what a record is made of has lower bounds (agent.delegate, agent.grpc_server)
SEAL = "crc32"  # the member of a document that is its sum
_SEAL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}')
_SEAL_BYTES = 20
_BAD_DISK = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)  # the file is lost; any other errno says nothing about it

log = logging.getLogger(__name__)


class Damaged(ValueError):
    """`str()` says what is wrong with the file."""


def write(path: Path, document: Mapping[str, Any], *, durable: bool) -> None:
    """Replace the file. `durable`: it is on the disk when this returns. Raises OSError (rule 2)."""
    data = json.dumps(document, separators=(",", ":")).encode()[:-1]
    replace(path, b'%b,"crc32":"%08x"}' % (data, zlib.crc32(data)), durable=durable)


def replace(path: Path, content: bytes, *, durable: bool) -> None:
    """As `write`, with these bytes."""
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fdatasync(file.fileno())
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def read(path: Path) -> dict[str, Any]:
    """Return the document. Raises Damaged, and OSError for what says nothing about the file."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("is no file")
    if status.st_size > LARGEST:
        raise Damaged(f"has {status.st_size} bytes")
    try:
        return parse(path.read_bytes())
    except OSError as problem:
        if problem.errno not in _BAD_DISK:
            raise
        raise Damaged(str(problem)) from None


def parse(raw: bytes) -> dict[str, Any]:
    """Return the document of a file. Raises Damaged."""
    seal = _SEAL.fullmatch(raw[-_SEAL_BYTES:])
    if seal and int(seal[1], 16) != zlib.crc32(raw[:-_SEAL_BYTES]):
        raise Damaged("its sum is not that of its bytes")
    try:
        document = json.loads(raw, object_pairs_hook=_each_once)
    except Damaged:
        raise
    except RecursionError:
        raise Damaged("is nested too deep") from None
    except ValueError as problem:
        raise Damaged(f"is no JSON: {problem}") from None
    if not isinstance(document, dict):
        raise Damaged("is no JSON object")
    return document


def set_aside(path: Path, folder: Path, why: Exception) -> None:
    """Move what is damaged into the folder (rule 3)."""
    names = itertools.chain([path.name], (f"{path.name}.{number}" for number in itertools.count(1)))
    place = next(place for name in names if not os.path.lexists(place := folder / name))
    log.critical("damaged file set aside: %s: %s: %s", path, place, why)
    try:
        path.rename(place)
    except OSError as problem:
        log.critical("%s stays where it is: %s", path, problem)


def listed(folder: Path) -> list[Path]:
    """Return what is in a folder, in order; nothing where the folder is not there. Raises OSError.

    `Path.glob` tells of no error: what cannot be listed would be empty.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync_directory(directory: Path) -> None:
    """Return once the directory's entries are on the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Damaged("has a key twice")
    return document
