"""Pure: lists of VLAN IDs, as several plugins write them: `[{"id": 5}, {"minID": 10, "maxID": 20}]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent import options

MAX_ID = 4094


def read(config: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Return the IDs that an option lists, ascending, each once. Raises CNIError 7, naming the entry."""
    value = config.get(key) or []
    if not isinstance(value, list):
        raise options.invalid(key, value, "must be a list")
    listed = bytearray(MAX_ID + 1)  # marked range by range: a list may have many that are wide
    for item in value:
        for numbers in _numbers(key, item):
            listed[numbers.start : numbers.stop] = b"\1" * len(numbers)
    return tuple(number for number, is_listed in enumerate(listed) if is_listed)


def _numbers(key: str, item: Any) -> Iterator[range]:
    """Yield the IDs of one entry: `id`, the range from `minID` to `maxID`, or both."""
    if not isinstance(item, Mapping):
        raise options.invalid(key, item, "must be a list of objects")
    single, low, high = (options.whole(item, name, 1, MAX_ID) for name in ("id", "minID", "maxID"))
    if (low is None) != (high is None):
        raise options.invalid(key, dict(item), "must have both of minID and maxID or none")
    if single is None and low is None:
        raise options.invalid(key, dict(item), "must have id, or minID and maxID")
    if single is not None:
        yield range(single, single + 1)
    if low is not None and high is not None:
        if low > high:
            raise options.invalid(key, dict(item), "has a minID above its maxID")
        yield range(low, high + 1)
