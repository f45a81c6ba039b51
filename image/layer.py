"""Pure: a layer of an image, the same bytes for the same files (OCI image-spec 1.1, layer.md).

Rules
1. Entries are in the order of their names, belong to root, and are all of one age, whenever they were made: the same
   files are the same layer in every version of the image, and a node that has it need not fetch it again.
2. Folders are made where a name needs them; modes are 0755 for folders and what can be executed, 0644 for the rest.
3. gzip without a name or a time in its header.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

AGE = 315532800  # 1980, as zip files cannot be older; seconds since 1970


@dataclass(frozen=True, slots=True)
class File:
    """What is at a name: content, or where a link leads; `mode` None: by what it is (rule 2)."""

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


def layer(blob: bytes) -> Layer:
    """Return the layer that is stored as `blob`."""
    content = gzip.decompress(blob)
    return Layer(blob, digest(blob), digest(content), len(content))


def unpacked(blob: bytes) -> dict[str, File]:
    """Return the files of a layer that is stored as `blob`."""
    return files(gzip.decompress(blob))


def compressed(content: bytes) -> bytes:
    """Return the blob of a layer with this content (rule 3)."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        stream.write(content)
    return packed.getvalue()


def tar(files: Mapping[str, File]) -> bytes:
    """Return the files, by name relative to the root, as the content of a layer (rules 1 and 2)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, file in sorted(with_folders(files).items()):
            archive.addfile(_entry(name, file), io.BytesIO(file.content))
    return raw.getvalue()


def files(content: bytes) -> dict[str, File]:
    """Return what is in the content of a layer."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {entry.name: _file(archive, entry) for entry in archive}


def with_folders(files: Mapping[str, File]) -> dict[str, File]:
    """Return the files and every folder that one of them is in."""
    every = dict(files)
    for name in files:
        for folder in _above(name):
            every.setdefault(folder, File(is_folder=True))
    return every


def mode(file: File) -> int:
    """Return the permissions of a file or folder (rule 2)."""
    if file.mode is not None:
        return file.mode
    return 0o755 if file.is_executable or file.is_folder else 0o644


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _above(name: str) -> Iterator[str]:
    return (str(parent) for parent in PurePosixPath(name).parents if str(parent) != ".")


def _entry(name: str, file: File) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.size, entry.mode = AGE, len(file.content), mode(file)
    if file.is_folder:
        entry.type = tarfile.DIRTYPE
    elif file.target:
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, file.target, 0o777
    return entry


def _file(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> File:
    if entry.issym():
        return File(target=entry.linkname)
    if entry.isdir():
        return File(is_folder=True, mode=entry.mode)
    content = archive.extractfile(entry)
    assert content is not None  # there is nothing else in our layers
    return File(content.read(), is_executable=bool(entry.mode & 0o100))
