"""JSON out of JSON: the next input is a document too, most of the time, and reaches what is behind the JSON parser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 255, 4094, 4095, 65535, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**400, 0.0, 1.5, 1e308,
    "", "0", "x", " ", ".", "..", "../..", "/", "/etc/passwd", "a/b", "-", "\0", "\n", "%d", "~", "*", "IFNAME", "é",
    "\ud800", "\u0663", "\u00b2", "9" * 5000, "a" * 300, "1" + "0" * 15, "all", "default", "none", "true", "eth0", "lo",
    "net1", "ns/blue", "blue", "hotnic", "10.0.0.1", "10.0.0.1/24", "0.0.0.0/0", "10.0.0.1/99", "::1", "fd00::1/64",
    "fe80::1%eth0", "02:00:00:00:00:01", "01-00-00-00-00-00", "0000:3b:00.1", "1.1.0", "0.4.0", "1.1", "9.9.9",
    [], {}, [[]], [{}], [None], {"": None}, {"type": "x"}, ["set", []], ["set", [1, 2]],
)  # fmt: skip
_DEEPEST = 1500


def mutated(dice: Random, document: Any, words: Sequence[str]) -> Any:
    """Return a document that differs from this one in one to four places."""
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        path = _somewhere(dice, document)
        document = _replaced(document, path, _changed(dice, _at(document, path), document, words))
    return document


def _somewhere(dice: Random, document: Any) -> list[Any]:
    path = []
    while isinstance(document, dict | list) and document and dice.random() < 0.85:
        key = dice.choice(list(document)) if isinstance(document, dict) else dice.randrange(len(document))
        path.append(key)
        document = document[key]
    return path


def _at(document: Any, path: Sequence[Any]) -> Any:
    for key in path:
        document = document[key]
    return document


def _replaced(document: Any, path: Sequence[Any], value: Any) -> Any:
    if not path:
        return value
    copied = dict(document) if isinstance(document, dict) else list(document)
    copied[path[0]] = _replaced(document[path[0]], path[1:], value)
    return copied


def _changed(dice: Random, value: Any, whole: Any, words: Sequence[str]) -> Any:
    choice = dice.random()
    if choice < 0.25:
        return dice.choice(VALUES)
    if choice < 0.35:
        return _at(whole, _somewhere(dice, whole))
    if choice < 0.38:
        return {dice.choice(words): value} if dice.random() < 0.5 else [value]
    if choice < 0.385:
        return _nested(value, dice.choice((50, 101, 300, _DEEPEST)))
    match value:
        case dict():
            return _changed_object(dice, value, whole, words)
        case list():
            return _changed_list(dice, value)
        case str():
            return _changed_text(dice, value, words)
        case bool() | None:
            return dice.choice(VALUES)
        case _:
            return dice.choice((value + 1, value - 1, -value, value * 2, str(value), dice.randrange(1 << 16)))


def _changed_object(dice: Random, value: dict[str, Any], whole: Any, words: Sequence[str]) -> dict[str, Any]:
    changed = dict(value)
    if changed and dice.random() < 0.3:
        del changed[dice.choice(list(changed))]
    elif changed and dice.random() < 0.2:
        key = dice.choice(list(changed))
        other = dice.choice(words) if dice.random() < 0.5 else _changed_text(dice, key, words)
        changed[other] = changed.pop(key)
    else:
        changed[dice.choice(words)] = (
            dice.choice(VALUES) if dice.random() < 0.6 else _at(whole, _somewhere(dice, whole))
        )
    return changed


def _changed_list(dice: Random, value: list[Any]) -> list[Any]:
    if value and dice.random() < 0.3:
        at = dice.randrange(len(value))
        return value[:at] + value[at + 1 :]
    if value and dice.random() < 0.5:
        return value + [dice.choice(value)] * dice.choice((1, 1, 2, 16, 300))
    return [*value, dice.choice(VALUES)]


def _changed_text(dice: Random, value: str, words: Sequence[str]) -> str:
    at = dice.randrange(len(value) + 1)
    match dice.randrange(6):
        case 0:
            return value[:at] + value[at + 1 :]
        case 1:
            return value[:at] + dice.choice("/:.-@,;%\0\n \t\"'\\{}[]09aAé\u0663\ud800\uffff") + value[at:]
        case 2:
            return value[:at] + dice.choice(words) + value[at:]
        case 3:
            return value * dice.choice((2, 3, 40))
        case 4:
            return dice.choice(words)
        case _:
            return _inside(dice, value, words)


def _inside(dice: Random, value: str, words: Sequence[str]) -> str:
    """Change the JSON that the text itself is, if it is."""
    if value[:1] not in ("{", "["):
        return value.swapcase()
    try:
        return json.dumps(mutated(dice, json.loads(value), words))
    except (ValueError, RecursionError):
        return value + dice.choice(']}"')


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value
