"""Twice the input, twice the work: each reader's, with each list, object and text of its seeds grown in turn.

Work is counted, not timed: calls of functions, those of C included. What a single call of C does is not seen here;
`make fuzz` gives up an input that takes more than seconds.
"""

import gc
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fuzz import every
from tests.fuzz.target import Form, Table, Target

SIZES = (12, 24, 48)  # times
MOST = 3  # times as much more work in the second step as in the first; 2 is linear, 4 quadratic
_SLACK = 1500  # calls, of what is done once


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def seeds(target: Target) -> Iterator[Any]:
    for seed in target.seeds[:1]:
        try:
            yield json.loads(seed)
        except ValueError:
            continue


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list | str) and value:
        yield path
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(below, (*path, key))


def grown(value: Any, path: tuple[Any, ...], times: int) -> Any:
    if path:
        copied = dict(value) if isinstance(value, dict) else list(value)
        copied[path[0]] = grown(value[path[0]], path[1:], times)
        return copied
    match value:
        case dict():
            last = list(value.values())[-1]
            return {**value, **{f"x{number}": last for number in range(times)}}
        case list():
            return value * times
    return value * times


def work(target: Target, data: bytes) -> int:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    gc.disable()
    sys.setprofile(count)
    try:
        target.run(data)
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


@pytest.mark.parametrize("name", [name for name, target in every.TARGETS.items() if target.form is Form.JSON])
def test_work_grows_as_the_input_does(name):
    examine(every.TARGETS[name])


def test_a_reader_that_compares_each_with_each_is_found():
    table = Table()

    @table.json("quadratic", {"names": ["a", "b", "c", "d"]})
    def quadratic(document: Any) -> None:
        names = document.get("names", ())
        for name in names:
            for _ in names:
                len(name)

    with pytest.raises(AssertionError, match="calls"):
        examine(table.targets["quadratic"])


def examine(target: Target) -> None:
    for seed in seeds(target):
        for path in places(seed):
            inputs = [json.dumps(grown(seed, path, times)).encode() for times in SIZES]
            first, second, third = (work(target, data) for data in inputs)
            told = f"{path}: {', '.join(f'{len(data)} bytes' for data in inputs)}: {first}, {second}, {third} calls"
            assert third - second <= MOST * max(0, second - first) + _SLACK, told


def test_delegates_in_delegates_are_looked_at_once_each():
    """Not as often as they lie in others: whoever writes a network could keep the agent busy with one."""

    def work_at(depth: int, names: int) -> int:
        plugin: Any = {"type": "x", "names": ["a"] * names}
        for _ in range(depth):
            plugin = {"type": "x", "delegate": plugin}
        return work(every.TARGETS["agent.policy.refusal"], json.dumps([plugin]).encode())

    few, many = (work_at(90, names) - work_at(10, names) for names in (100, 1000))
    assert many < 2 * few


def test_many_wide_ranges_of_vlans_cost_what_many_narrow_ones_do():
    def work_of(last: int) -> int:
        config = {"vlanTrunk": [{"minID": 1, "maxID": last}] * 100}
        return work(every.TARGETS["agent.device.bridge"], json.dumps({"config": config, "args": {}}).encode())

    assert work_of(4094) < work_of(2) + 20 * 4094  # a list of all of them is made once, and gone through some times
