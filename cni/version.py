"""CNI specification versions: which we speak, and which verb exists from which one on.

Rules
1. A version is supported only if it is literally in the list: "1.1" is not "1.1.0".
2. Ordering is by number, part by part; "1.1" orders as "1.1.0", as the reference does it.
3. No version given means 0.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT = "1.1.0"
UNSTATED = "0.1.0"

VERBS: Mapping[str, str] = MappingProxyType(
    {"ADD": "0.1.0", "DEL": "0.1.0", "VERSION": "0.2.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
)


def parse(text: str) -> tuple[int, int, int]:
    """Return the version as numbers. Raises ValueError where it is not one to three of them."""
    parts = text.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise ValueError(f"{text!r} is not a version number")
    major, minor, patch = [*map(int, parts), 0, 0][:3]
    return major, minor, patch


def at_least(version: str, minimum: str) -> bool:
    """Whether `version` is `minimum` or later. Raises ValueError where either is not a version."""
    return parse(version) >= parse(minimum)
