"""The format of the state directory: which one it has, and bringing an older one forward.

    format    `2`; or `2 from 1`, while it is being brought forward

Formats
1. From the first version on. What was added over time may be absent: `saved`, `guest` and the last values of `netns` in
   records, `keep` and `vm` in desired sets, the sum in any file.
2. Everything is there, so what is absent is damage.

Rules
1. A newer format is refused before anything is touched: nothing is lost by a downgrade, which is taken back by starting
   the newer version again. Its agent would read less of a file than it holds, and write back what it has understood.
2. `2 from 1` is on the disk before the first file changes, so that an agent of format 1 refuses the directory from then
   on; `2` is written last. After a crash all is done once more: what is of the new format already does not change.
3. A file that cannot be read stays as it is. Whoever loads it sets it aside.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent import files

OLDEST, CURRENT = 1, 2
RECORDS, DESIRED = "records", "pods"  # folders of the directory
_TEXT = re.compile(r"([0-9]{1,9})(?: from ([0-9]{1,9}))?")
_NETNS = ("", 0, 0, 0, "")  # path, device, inode, cookie, boot: as far as they are not known

Document = Mapping[str, Any]

log = logging.getLogger(__name__)


def bring_forward(directory: Path) -> None:
    """Make the directory one of the current format. Raises ValueError for a newer one (rule 1), OSError.

    Nobody else may be using it.
    """
    found = read(directory)
    if problem := _refusal(directory, found):
        raise ValueError(problem)
    if found == str(CURRENT):
        return
    since = _since(found)
    _write(directory, f"{CURRENT} from {since}")
    changed = sum(_rewritten(path, kind, since) for kind in (RECORDS, DESIRED) for path in _files(directory / kind))
    _write(directory, str(CURRENT))
    if found:
        log.info("%s is of format %d now, it was of %s; %d files have changed", directory, CURRENT, found, changed)


def refusal(directory: Path) -> str:
    """Return why this version cannot use the directory; "": it can. Raises OSError."""
    return _refusal(directory, read(directory))


def _refusal(directory: Path, found: str) -> str:
    match = _TEXT.fullmatch(found)
    if not found or (match and OLDEST <= _since(found) <= int(match[1]) <= CURRENT):
        return ""
    return (
        f"{directory} says version {found!r} of its format, and this hotnic reads {OLDEST} to {CURRENT}: a newer one "
        "has written it. Nothing was changed; start that version again"
    )


def read(directory: Path) -> str:
    """Return what the directory says of its format; "" where it says nothing, as one that is new. Raises OSError."""
    try:
        return (directory / "format").read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def present(kind: str, document: Document, since: int = OLDEST) -> Document:
    """Return a file's content in the current format; `since`: the oldest format that it may be of."""
    for version in range(since, CURRENT):
        document = _STEPS[version][kind](document)
    return document


def _since(found: str) -> int:
    """Return the oldest format of any file. A directory that says nothing may have lost the word in a power cut."""
    match = _TEXT.fullmatch(found)
    return int(match[2] or match[1]) if match else OLDEST


def _files(folder: Path) -> list[Path]:
    return [path for path in files.listed(folder) if path.suffix == ".json"]


def _rewritten(path: Path, kind: str, since: int) -> bool:
    """Bring one file forward; return whether it has changed."""
    try:
        document = files.read(path)
    except files.Damaged:
        return False
    forward = present(kind, document, since)
    if forward == document and files.SEAL in document:
        return False
    files.write(path, {name: value for name, value in forward.items() if name != files.SEAL}, durable=True)
    return True


def _write(directory: Path, text: str) -> None:
    files.replace(directory / "format", f"{text}\n".encode(), durable=True)


def _record_of_2(document: Document) -> Document:
    known = document.get("netns")
    padded = [*known, *_NETNS[len(known) :]] if isinstance(known, list) and known else known
    return {"saved": {}, "guest": {}, **document, "netns": padded}


def _desired_of_2(document: Document) -> Document:
    return {"keep": [], "vm": "", **document}


_STEPS: Mapping[int, Mapping[str, Callable[[Document], Document]]] = MappingProxyType(
    {1: {RECORDS: _record_of_2, DESIRED: _desired_of_2}}
)
"""By the format that they start from."""
