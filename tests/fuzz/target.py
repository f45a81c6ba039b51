"""What is fuzzed: a reader of something that others wrote, and what it may do with it.

A target takes the bytes of one input and returns, whatever they are. What it raises is a finding: an exception that the
reader does not document, a promise that does not hold. What is no input of it at all (no JSON, where what is read is
JSON already) it leaves in silence.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cni import errors, jsontext


class Form(enum.Enum):
    """How inputs are made out of others."""

    JSON = "json"  # by changes of the document, and sometimes of its bytes
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    form: Form = Form.JSON
    words: tuple[bytes, ...] = ()  # what inputs of no form are put together from
    module: str = ""  # where it is


@dataclass(slots=True)
class Table:
    """The targets by name."""

    targets: dict[str, Target] = field(default_factory=dict)

    def json(self, name: str, *seeds: Any) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
        """Take a function of a JSON document, as deep as our parser lets any be; what is none it does not get."""

        def note(reads: Callable[[Any], object]) -> Callable[[Any], object]:
            def run(data: bytes) -> None:
                try:
                    document = jsontext.loads(data.decode())
                except ValueError:
                    return
                reads(document)

            self._note(Target(name, run, tuple(json.dumps(seed).encode() for seed in seeds), module=reads.__module__))
            return reads

        return note

    def text(self, name: str, *seeds: str | bytes) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
        """Take a function of the bytes of a JSON document, or of what should be one."""

        def note(reads: Callable[[bytes], object]) -> Callable[[bytes], object]:
            self._note(Target(name, reads, tuple(map(_encoded, seeds)), module=reads.__module__))
            return reads

        return note

    def bytes(
        self, name: str, *seeds: str | bytes, words: Iterable[bytes] = ()
    ) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
        """Take a function of bytes that are no JSON."""

        def note(reads: Callable[[bytes], object]) -> Callable[[bytes], object]:
            self._note(Target(name, reads, tuple(map(_encoded, seeds)), Form.BYTES, tuple(words), reads.__module__))
            return reads

        return note

    def _note(self, target: Target) -> None:
        if target.name in self.targets:
            raise ValueError(f"target {target.name} is there twice")
        self.targets[target.name] = target


TABLE = Table()


def as_text(data: bytes) -> str:
    """Return the bytes as what was read as UTF-8, half surrogate pairs included, as JSON can hold them."""
    return data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("utf-8", "replace")


def sendable(value: Any) -> None:
    """Raise where the value could not be sent on: as JSON, in UTF-8."""
    json.dumps(value, ensure_ascii=False).encode()


def of_code(problem: errors.CNIError, *codes: errors.Code) -> None:
    """Raise where the error has another code, or could not be sent on."""
    assert problem.code in codes, problem
    sendable(problem.document("1.1.0"))


def _encoded(seed: str | bytes) -> bytes:
    return seed.encode() if isinstance(seed, str) else seed


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
