"""Fuzz all targets, or those that are named, one after the other: `make fuzz`.

Inputs that reached new code are kept in .fuzz/ and gone on with the next time; `python -m tests.fuzz.keep` takes those
into the tree that tell the most.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass

from tests.fuzz import every, native
from tests.fuzz.folders import CORPUS, FINDINGS, WORK
from tests.fuzz.target import Target

_LARGEST = 16384  # bytes of an input; larger ones are test_sizes.py's
_SLOWEST_S = 10  # of one input
_MEMORY_MB = 1500
_PROGRESS = re.compile(r"^#(\d+)\s.*?cov: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Round:
    """What came of a target."""

    name: str
    inputs: int
    coverage: int
    findings: int


def main() -> int:
    """Return 1 where something was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, help="for each target; default: 20, without a limit where --runs is one")
    parser.add_argument("--runs", type=int, default=-1, help="inputs for each target; -1: no limit")
    parser.add_argument("target", nargs="*", help="default: every one")
    asked = parser.parse_args()
    seconds = asked.seconds or (20 if asked.runs < 0 else 0)
    limits, names = [f"-max_total_time={seconds}", f"-runs={asked.runs}"], asked.target
    rounds = []
    print(f"{'target':28} {'inputs':>10} {'coverage':>9} {'findings':>9}", flush=True)
    for name in names or [*every.TARGETS, native.NAME]:
        done = _fuzzed_native(limits) if name == native.NAME else _fuzzed(every.TARGETS[name], limits)
        rounds.append(done)
        print(f"{done.name:28} {done.inputs:10} {done.coverage:9} {done.findings:9}", flush=True)
    print(f"{'all':28} {sum(one.inputs for one in rounds):10} {'':9} {sum(one.findings for one in rounds):9}")
    return 1 if any(one.findings for one in rounds) else 0


def _fuzzed(target: Target, limits: list[str]) -> Round:
    work = WORK / target.name
    work.mkdir(parents=True, exist_ok=True)
    for position, seed in enumerate(target.seeds):
        (work / f"seed-{position}").write_bytes(seed)
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        words.writelines(f'"{_escaped(word)}"\n' for word in target.words)
        words.flush()
        command = [sys.executable, "-m", "tests.fuzz.one", target.module, target.name, str(FINDINGS / target.name)]
        options = [*_options(limits, target.name), *([f"-dict={words.name}"] if target.words else [])]
        return _round(target.name, [*command, *options, str(work), *_kept(target.name)])


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _fuzzed_native(limits: list[str]) -> Round:
    work = WORK / native.NAME
    work.mkdir(parents=True, exist_ok=True)
    for position, seed in enumerate(native.seeds()):
        (work / f"seed-{position}").write_bytes(seed)
    command = [str(native.built(WORK)), *_options(limits, native.NAME), str(work), *_kept(native.NAME)]
    return _round(native.NAME, command)


def _options(limits: list[str], name: str) -> list[str]:
    (FINDINGS / name).mkdir(parents=True, exist_ok=True)
    bounds = [f"-max_len={_LARGEST}", f"-timeout={_SLOWEST_S}", f"-rss_limit_mb={_MEMORY_MB}"]
    return [*limits, *bounds, f"-artifact_prefix={FINDINGS / name}/", "-verbosity=1", "-print_final_stats=1"]


def _kept(name: str) -> list[str]:
    return [str(CORPUS / name)] if (CORPUS / name).is_dir() else []


def _round(name: str, command: list[str]) -> Round:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
    for line in done.stderr.splitlines():
        if line.startswith("FINDING"):
            print(line, file=sys.stderr, flush=True)
    inputs, coverage = (_PROGRESS.findall(done.stderr) or [("0", "0")])[-1]
    with suppress(OSError):  # something was found
        (FINDINGS / name).rmdir()
    findings = done.stderr.count("\nFINDING ") + bool(done.returncode)
    return Round(name, int(inputs), int(coverage), findings)


if __name__ == "__main__":
    sys.exit(main())
