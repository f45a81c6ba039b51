"""Reading a JSON object key by key.

Rules
1. null is the same as absent, as Go's decoder has it: most documents here are written by Go programs.
2. A wrong value is a FieldError that names key and value; nothing is converted, and true is not a number.
3. Keys that nobody asks for are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_LINE = 80


class FieldError(ValueError):
    """`str()` says which key has which value, and what is wrong with it."""


class Fields:
    """One JSON object and where it stands in its document."""

    __slots__ = ("document", "path")

    def __init__(self, document: object, path: str = "") -> None:
        if not isinstance(document, Mapping):
            raise _error(path, document, "is not an object")
        self.document: Mapping[str, Any] = document
        self.path = path

    def error(self, key: str, problem: str) -> FieldError:
        return _error(self._at(key), self.document.get(key), problem)

    def missing(self, key: str) -> FieldError:
        return FieldError(f"{self._at(key)} is missing")

    def text(self, key: str) -> str:
        """Return a string; empty if absent."""
        value = self.document.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(key, "is not a string")
        return value

    def parsed(self, key: str, parse: Callable[[str], T]) -> T | None:
        """Return what `parse` makes of a string, None for none. Its ValueError says what is wrong."""
        if not (text := self.text(key)):
            return None
        try:
            return parse(text)
        except ValueError as problem:
            raise self.error(key, str(problem)) from None

    def required(self, key: str, parse: Callable[[str], T]) -> T:
        value = self.parsed(key, parse)
        if value is None:
            raise self.missing(key)
        return value

    def number(self, key: str, minimum: int, maximum: int) -> int | None:
        """Return a whole number within bounds, None if absent."""
        value = self.document.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "is not a whole number")
        if not minimum <= value <= maximum:
            raise self.error(key, f"is not within {minimum} and {maximum}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return self.parsed_list(key, str)

    def parsed_list(self, key: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Return what `parse` makes of every string of a list; nothing if absent."""
        return tuple(_parsed(item, path, parse) for path, item in self._items(key))

    def objects(self, key: str) -> tuple[Fields, ...]:
        """Return the objects of a list; nothing if absent."""
        return tuple(Fields(item, path) for path, item in self._items(key))

    def object(self, key: str) -> Fields | None:
        value = self.document.get(key)
        return None if value is None else Fields(value, self._at(key))

    def _items(self, key: str) -> Iterator[tuple[str, Any]]:
        value = self.document.get(key)
        if value is None:
            return
        if not isinstance(value, list | tuple):
            raise self.error(key, "is not a list")
        for index, item in enumerate(value):
            yield f"{self._at(key)}[{index}]", item

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def shorten(value: object) -> str:
    """Return `value` for use in a message: quoted, and no longer than a line."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LINE else f"{text[: _LINE - 3]}..."


def _parsed(item: Any, path: str, parse: Callable[[str], T]) -> T:
    if not isinstance(item, str):
        raise _error(path, item, "is not a string")
    try:
        return parse(item)
    except ValueError as problem:
        raise _error(path, item, str(problem)) from None


def _error(path: str, value: object, problem: str) -> FieldError:
    return FieldError(f"{path}={shorten(value)} {problem}" if path else f"{shorten(value)} {problem}")
