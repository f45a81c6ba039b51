"""Pure: a layer of an image, the same bytes for the same files (OCI image-spec 1.1, layer.md).

Rule 1: entries are in the order of their names, belong to root, and are as old as the commit; folders are made where
a name needs them; modes are 0755 for folders and what can be executed, 0644 for the rest.
Rule 2: gzip without a name or a time in its header.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class File:
    """What is at a name: content, or where a link leads; `mode` None: by what it is (rule 1)."""

    content: bytes = b""
    target: str = ""
    is_executable: bool = False
    mode: int | None = None
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it is stored, and the digests that manifest and configuration call it by."""

    blob: bytes
    digest: str  # of the blob
    diff_id: str  # of what is in it
    size: int  # bytes of what is in it


def layer(files: Mapping[str, File], made_at: int) -> Layer:
    """Return the layer that has these files, by name relative to the root. `made_at`: seconds since 1970."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, file in sorted(_with_folders(files).items()):
            tar.addfile(_entry(name, file, made_at), io.BytesIO(file.content))
    content = raw.getvalue()
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        stream.write(content)
    blob = packed.getvalue()
    return Layer(blob, digest(blob), digest(content), len(content))


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _with_folders(files: Mapping[str, File]) -> dict[str, File]:
    every = dict(files)
    for name in files:
        for folder in _above(name):
            every.setdefault(folder, File(is_folder=True))
    return every


def _above(name: str) -> Iterator[str]:
    return (str(one) for one in PurePosixPath(name).parents if str(one) != ".")


def _entry(name: str, file: File, made_at: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.size = made_at, len(file.content)
    entry.mode = file.mode if file.mode is not None else 0o755 if file.is_executable or file.is_folder else 0o644
    if file.is_folder:
        entry.type = tarfile.DIRTYPE
    elif file.target:
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, file.target, 0o777
    return entry
