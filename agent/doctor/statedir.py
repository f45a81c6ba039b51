"""Reads the state directory beside the agent: what of it the agent cannot read at its next start, and what is not its.

A file may come and go meanwhile: its writer renames whole ones, and one that is gone is no finding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent import cache, codec, files, formats, uninstall
from agent.doctor.contract import State

_KINDS: Mapping[str, Callable[[Any], object]] = MappingProxyType(
    {formats.RECORDS: codec.decode_record, formats.DESIRED: codec.decode_desired}
)


def look(directory: Path) -> State:
    """Return what is seen of it; what keeps it from being read is part of that."""
    if not directory.is_dir():
        return State(str(directory), there=False)
    try:
        said, refusal = formats.read(directory), formats.refusal(directory)
        if refusal:
            return State(str(directory), there=True, format=said, refusal=refusal)
        return State(
            str(directory), there=True, format=said,
            records=sum(path.suffix == ".json" for path in files.listed(directory / formats.RECORDS)),
            damaged=tuple(path.name for path in files.listed(directory / "damaged")),
            unreadable=tuple(_unreadable(directory)),
            strangers=tuple(sorted(one for one in os.listdir(directory) if not uninstall.is_in_state_dir(one))),
        )  # fmt: skip
    except OSError as problem:
        return State(str(directory), there=True, problem=problem.strerror or str(problem))


def _unreadable(directory: Path) -> Iterator[str]:
    """Yield what the journal would set aside, and why. Raises OSError for what says nothing about a file."""
    for kind, decode in _KINDS.items():
        for path in files.listed(directory / kind):
            if path.suffix == ".tmp":
                continue  # a write that is under way, or that the next start removes
            try:
                decode(formats.present(kind, files.read(path)))
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError) as problem:
                yield f"{kind}/{path.name}: {cache.fault(problem)}"
