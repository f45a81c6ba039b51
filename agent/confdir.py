"""Network configurations on the node's disk, for definitions that have no `spec.config`.

NPWG multi-network specification 3.4.1: a configuration list of the definition's name, else a single
configuration of that name, else the attachment fails. The name is the one inside the file. Files are read
in lexical order, as libcni does; one that cannot be read is skipped with a warning, because it may be any
network's. Who has to know all of them asks `survey`, which tells what could not be read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cni import errors, jsontext

_LISTS = (".conflist",)
_SINGLES = (".conf", ".json")

log = logging.getLogger(__name__)


def find(dirs: Sequence[Path], name: str) -> str:
    """Return the text of the configuration called `name`. Raises CNIError 7 where no directory has it."""
    for suffixes in (_LISTS, _SINGLES):
        for path in _files(dirs, suffixes):
            text = _read(path)
            if text is not None and _name(text, path) == name:
                return text
    where = ", ".join(str(directory) for directory in dirs) or "no directory at all"
    raise errors.CNIError(
        errors.Code.INVALID_CONFIG, f"no network configuration is named {name!r}", f"looked in {where}"
    )


def names(dirs: Sequence[Path]) -> frozenset[str]:
    """Return the names of all configurations that can be read."""
    texts = ((path, _read(path)) for path in _files(dirs, (*_LISTS, *_SINGLES)))
    found = (_name(text, path) for path, text in texts if text is not None)
    return frozenset(name for name in found if name)


def survey(dirs: Sequence[Path]) -> tuple[Mapping[Path, str], Mapping[Path, str]]:
    """Return the text of every file, and what cannot be read, with the reason; a directory may not be there at all."""
    texts: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    for directory in dirs:
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix in (*_LISTS, *_SINGLES))
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable[directory] = str(error)
            continue
        for path in paths:
            try:
                texts[path] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                unreadable[path] = str(error)
    return texts, unreadable


def _files(dirs: Sequence[Path], suffixes: Sequence[str]) -> Iterator[Path]:
    for directory in dirs:
        try:
            yield from sorted(path for path in directory.iterdir() if path.suffix in suffixes)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("configuration directory %s cannot be read: %s", directory, error)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        log.warning("network configuration %s is skipped: %s", path, error)
        return None


def _name(text: str, path: Path) -> str | None:
    try:
        document = jsontext.loads(text)
    except ValueError as error:
        log.warning("network configuration %s is skipped: %s", path, error)
        return None
    name = document.get("name") if isinstance(document, dict) else None
    return name if isinstance(name, str) else None
