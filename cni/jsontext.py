"""JSON as the specifications mean it, stricter than the `json` module.

Rules
1. NaN, Infinity and numbers beyond a float are no JSON: another program could not read them back from us.
2. Half surrogate pairs become "?": such a text could neither be printed nor sent on.
3. Nesting is bounded, so that nobody downstream runs out of stack.
4. What is written is, byte for byte, what Go's encoding/json writes: the programs around us compare and keep texts.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 100
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}  # these are in strings only


def loads(text: str) -> Any:
    """Return the value. Raises ValueError, and json.JSONDecodeError where there is a position to tell."""
    try:
        return _clean(json.loads(text, parse_constant=_refuse, parse_float=_finite), 0)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None


def dumps(value: Any, indent: int | None = None) -> str:
    """Return the text as Go writes it (rule 4); without `indent` it has no spaces."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    return text.translate(_ESCAPED)


def _clean(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise RecursionError
    match value:
        case str():
            return _text(value)
        case list():
            return [_clean(item, depth + 1) for item in value]
        case dict():
            return {_text(key): _clean(item, depth + 1) for key, item in value.items()}
        case _:
            return value


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"number {digits} is out of range")
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
