"""The API server's list and watch protocol, without the sockets: lines in, changes out.

Rules
1. A watch goes on where the last one ended: after every change and every bookmark there is a version to go on from.
2. `Expired` (410): that version is too old; only a new list helps.
3. What is nested deeper than DEPTH is cut off there: nothing that is read here is, so somebody wants us out of stack.
   What is left of it is still too deep for who reads it (cni.jsontext); everything else in the answer is read.
4. What cannot be read is `Broken`: the stream is given up, since what else was lost is not known.
"""

from __future__ import annotations

import enum
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_LINE = 32 << 20  # etcd takes 1.5 MiB an object; a line beyond this is no object
DEPTH = 300  # the API server takes 10000

_GONE = 410
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)

log = logging.getLogger(__name__)


class Verb(enum.Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class Change:
    verb: Verb
    version: str
    document: Mapping[str, Any]


class Expired(Exception):
    """The version to go on from is not kept any more."""


class Broken(Exception):
    """The stream says something that is no watch event. `str()` says what."""


def document(raw: bytes) -> Any:
    """Return what the API server says in JSON (rule 3). Raises ValueError."""
    try:
        return json.loads(raw)
    except RecursionError:
        log.warning("the API server's answer is cut off below %d levels of nesting: %r...", DEPTH, raw[:200])
        return json.loads(_cut(raw))


def _cut(raw: bytes) -> bytes:
    """Put null in place of all that is nested deeper than DEPTH."""
    parts, start, depth = [], 0, 0
    for token in _TOKEN.finditer(raw):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth == DEPTH + 1:
                    parts.append(raw[start : token.start()])
            case b"]" | b"}":
                if depth == DEPTH + 1:
                    parts.append(b"null")
                    start = token.end()
                depth -= 1
    return b"".join((*parts, raw[start:] if depth <= DEPTH else b""))


def changes(chunks: Iterable[bytes]) -> Iterator[Change]:
    """Yield the changes in a stream, each as soon as its line is complete."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *lines, left = bytes(rest).split(b"\n")
            rest = bytearray(left)
            yield from (process_line(line) for line in lines if line)
        if len(rest) > MAX_LINE:
            raise Broken(f"a line of more than {MAX_LINE} bytes")


def process_line(line: bytes) -> Change:
    """Read one watch event. Raises Expired and Broken."""
    try:
        event = document(line)
        verb, item = event["type"], event["object"]
        if verb == "ERROR":
            raise _error(item)
        return Change(Verb(verb), item["metadata"]["resourceVersion"], item)
    except (ValueError, KeyError, TypeError) as problem:
        raise Broken(f"no watch event: {problem!r} in {line[:80]!r}") from None


def _error(status: Any) -> Exception:
    if not isinstance(status, Mapping):
        return Broken(f"the API server ends the watch: {status!r:.80}")
    if status.get("code") == _GONE:
        return Expired(status.get("message"))
    return Broken(f"the API server ends the watch: {status.get('message')}")


class Backoff:
    """How long to wait after a failure: doubling from `first` to `last` seconds, a random part of it taken off."""

    def __init__(self, first: float, last: float, random: Callable[[], float]) -> None:
        self._first = self._next = first
        self._last = last
        self._random = random

    def after_failure(self) -> float:
        delay = self._next * (1 - self._random() / 2)
        self._next = min(self._next * 2, self._last)
        return delay

    def succeeded(self) -> None:
        self._next = self._first
