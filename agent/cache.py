"""libcni's result cache: what a runtime attached, with the configuration, arguments and result of its ADD.

Read only; the files belong to the runtime. A file is written by libcni after a whole ADD succeeded, in
place and not atomically, so a damaged one may be whole a moment later: it is skipped with a warning. Its
name is `<network>-<container ID>-<ifname>`, ambiguous as networks have dashes too; what counts is inside.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni import jsontext

# Below the state directory of libcni itself, and of Multus, which keeps its own.
DIRECTORIES = (Path("/var/lib/cni/results"), Path("/var/lib/cni/multus/results"))

_KIND = "cniCacheV1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cached:
    """One attachment as the runtime remembers it."""

    container_id: str
    network: str  # name of the CNI network, not of a NetworkAttachmentDefinition
    ifname: str
    netns: str  # "" where the runtime's libcni is too old to note it
    config_text: str
    cni_args: tuple[tuple[str, str], ...]
    capability_args: Mapping[str, Any]
    result: Mapping[str, Any]
    path: Path


def read(dirs: Sequence[Path], container_id: str) -> tuple[Cached, ...]:
    """Return what the caches hold of one container, in order of directory and file name."""
    return tuple(found for directory in dirs for found in _read_directory(directory, container_id))


def survey(dirs: Sequence[Path]) -> tuple[tuple[Cached, ...], Mapping[Path, str]]:
    """Return all that the caches hold, and what cannot be read, with the reason; a cache may not be there at all."""
    found: list[Cached] = []
    unreadable: dict[Path, str] = {}
    for directory in dirs:
        try:
            paths = sorted(path for path in directory.iterdir() if path.is_file())
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable[directory] = str(error)
            continue
        for path in paths:
            try:
                found.append(_decode(jsontext.loads(path.read_text(encoding="utf-8")), path))
            except FileNotFoundError:  # its DEL came in between
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                unreadable[path] = fault(error)
    return tuple(found), unreadable


def fault(error: Exception) -> str:
    """Return in words what is wrong with a document that could not be read."""
    match error:
        case KeyError():
            return f"it has no {error}"
        case json.JSONDecodeError() | UnicodeDecodeError():
            return f"it is no JSON: {error}"
        case _:
            return str(error)


def _read_directory(directory: Path, container_id: str) -> Iterator[Cached]:
    try:
        paths = sorted(path for path in directory.iterdir() if f"-{container_id}-" in path.name)
    except FileNotFoundError:  # this node's runtime keeps its cache elsewhere
        return
    except OSError as error:
        log.warning("result cache %s cannot be read: %s", directory, error)
        return
    for path in paths:
        try:
            cached = _decode(jsontext.loads(path.read_text(encoding="utf-8")), path)
        except FileNotFoundError:  # its DEL came in between
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("result cache file %s is skipped: %s", path, fault(error))
            continue
        if cached.container_id == container_id:
            yield cached


def _decode(document: Any, path: Path) -> Cached:
    if not isinstance(document, dict):
        raise TypeError("it is no JSON object")
    if document["kind"] != _KIND:
        raise ValueError(f"kind is {document['kind']!r}, not {_KIND}")
    return Cached(
        container_id=_text(document, "containerId"),
        network=_text(document, "networkName"),
        ifname=_text(document, "ifName"),
        netns=_text(document, "netns") if "netns" in document else "",
        config_text=_decoded(document, "config"),
        cni_args=_pairs(document, "cniArgs"),
        capability_args=_object(document, "capabilityArgs"),
        result=_object(document, "result"),
        path=path,
    )


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a string that is not empty")
    return value


def _decoded(document: Mapping[str, Any], key: str) -> str:
    text = _text(document, key)
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError(f"{key} is no text in base64") from None


def _pairs(document: Mapping[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 2 for one in value):
        raise TypeError(f"{key} must be a list of pairs")
    return tuple((str(name), str(text)) for name, text in value)


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    if value is not None and not isinstance(value, dict):
        raise TypeError(f"{key} must be an object")
    return value or {}
