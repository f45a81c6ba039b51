"""Take the few inputs that reach most, of all that fuzzing has gathered, into the tree: `python -m tests.fuzz.keep`.

For each target those small ones that together reach every step from line to line that any small one reaches, besides
what the seeds reach. Also each input that has broken something.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz import every, native
from tests.fuzz.folders import CORPUS, FINDINGS, FOUND, HERE, WORK
from tests.fuzz.target import Target

FILES, BYTES = 30, 4096  # of a target, at most
_CANDIDATES = 400
_OURS = tuple(str(HERE.parents[1] / package) for package in ("cni", "agent", "controller"))

Step = tuple[str, int, int]


def main(names: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    for name in names or [*every.TARGETS, native.NAME]:
        if name == native.NAME:
            _write(name, _of_native())
        else:
            _write(name, _of(every.TARGETS[name]))
        for path in sorted((FINDINGS / name).glob("*")):
            (FOUND / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, FOUND / name / path.name)


def _of(target: Target) -> list[bytes]:
    smallest = [data for data in _gathered(target.name) if data not in target.seeds and len(data) <= BYTES // 2]
    return _chosen(target, smallest[:_CANDIDATES])


def _of_native() -> list[bytes]:
    """Return some of those that its own fuzzer holds for enough; what they reach cannot be seen from here."""
    seeds, chosen = native.seeds(), list[bytes]()
    with tempfile.TemporaryDirectory() as enough:
        fuzzer = native.built(WORK)
        subprocess.run([fuzzer, "-merge=1", enough, WORK / native.NAME], check=True, capture_output=True)
        found = sorted((path.read_bytes() for path in Path(enough).iterdir()), key=lambda data: (len(data), data))
    for data in found[:: len(found) // FILES + 1]:  # of all sizes
        if data not in seeds and sum(map(len, chosen)) + len(data) <= BYTES:
            chosen.append(data)
    return chosen


def _gathered(name: str) -> list[bytes]:
    """Return what there is, the smallest first."""
    folders = [path for path in (WORK / name, CORPUS / name) if path.is_dir()]
    files = {path.read_bytes() for folder in folders for path in folder.iterdir()}
    return sorted(files, key=lambda data: (len(data), data))


def _write(name: str, chosen: list[bytes]) -> None:
    shutil.rmtree(CORPUS / name, ignore_errors=True)
    if chosen:
        (CORPUS / name).mkdir(parents=True)
    for data in chosen:
        (CORPUS / name / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    print(f"{name:28} {len(chosen):3} files, {sum(map(len, chosen)):5} bytes", flush=True)


def _chosen(target: Target, candidates: Iterable[bytes]) -> list[bytes]:
    """Return them greedily: each time the one with the most new steps for its size."""
    reached = set[Step]().union(*(_steps(target, seed) for seed in target.seeds))
    gains = {data: _steps(target, data) - reached for data in candidates}
    chosen: list[bytes] = []
    while len(chosen) < FILES and (gains := {data: new for data, steps in gains.items() if (new := steps - reached)}):
        best = max(gains, key=lambda data: len(gains[data]) / (len(data) + 64))
        if sum(map(len, chosen)) + len(best) <= BYTES:
            chosen.append(best)
            reached |= gains[best]
        del gains[best]
    return chosen


def _steps(target: Target, data: bytes) -> set[Step]:
    """Return which line was followed by which, in our own code."""
    steps: set[Step] = set()
    last: dict[FrameType, int] = {}

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            steps.add((frame.f_code.co_filename, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return local

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(_OURS) else None

    sys.settrace(trace)
    try:
        target.run(data)
    except Exception as problem:  # noqa: BLE001 it is kept elsewhere, with what has broken something
        print(f"{target.name}: {problem!r}", file=sys.stderr)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    main(sys.argv[1:])
