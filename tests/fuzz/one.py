"""Fuzz one target for a while: `python -m tests.fuzz.one MODULE TARGET FINDINGS [options of libFuzzer] FOLDER...`

Inputs grow out of those in the folders, by the code that they reach (atheris). An exception is kept in FINDINGS, one
input for each place that raises it, and the search goes on; an input that takes too long or too much memory ends it.
"""

import contextlib
import hashlib
import importlib
import io
import json
import logging
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris

from tests.fuzz import mutation
from tests.fuzz.target import TABLE, Form, Target

_RAW = 0.1  # of the inputs of JSON: bytes are changed, not the document


def main(module: str, name: str, findings: Path, options: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["cni", "agent", "controller"]):
        importlib.import_module(module)
    target = TABLE.targets[name]
    atheris.Setup(
        [sys.argv[0], *options],
        _remembering(target, findings),
        custom_mutator=_mutator() if target.form is Form.JSON else None,
    )
    atheris.Fuzz()


def _remembering(target: Target, findings: Path) -> Callable[[bytes], None]:
    found: set[str] = set()

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except Exception as problem:  # noqa: BLE001 whatever it is, it is what is looked for
            place = _place(problem)
            if place not in found:
                found.add(place)
                findings.mkdir(parents=True, exist_ok=True)
                (findings / hashlib.sha256(place.encode()).hexdigest()[:12]).write_bytes(data)
                print(f"FINDING {target.name}: {place}: {str(problem)[:200]!r}", file=sys.stderr, flush=True)

    return run


def _place(problem: Exception) -> str:
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__} {last.filename.rpartition('/')[2]}:{last.lineno}"


def _mutator() -> Callable[[bytes, int, int], bytes]:
    words = sorted({word for target in TABLE.targets.values() for seed in target.seeds for word in _words(seed)})

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() >= _RAW:
            try:
                text = json.dumps(mutation.mutated(dice, json.loads(data), words), ensure_ascii=dice.random() < 0.5)
                if len(made := text.encode("utf-8", "surrogatepass")) <= size:
                    return made
            except (ValueError, RecursionError):
                pass
        return bytes(atheris.Mutate(data, size))

    return mutate


def _words(seed: bytes) -> set[str]:
    try:
        return _texts(json.loads(seed))
    except ValueError:
        return set()


def _texts(value: object) -> set[str]:
    match value:
        case str():
            return {value} | (_words(value.encode()) if value[:1] in ("{", "[") else set())
        case list():
            return set().union(*map(_texts, value))
        case dict():
            return {*value}.union(*map(_texts, value.values()))
    return set()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
