"""Run the items against one plugin and judge each: pass, fail or not applicable."""

from __future__ import annotations

import enum
import importlib
import json
import subprocess
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance import abilities, fake_ipam, sandbox
from tests.conformance.case import ITEMS, Case, Item, Level, NotApplicable, Violation, World

CHAPTERS = ("protocol", "add", "addresses", "crash", "delete", "check", "gc_status")


class Judgement(enum.Enum):
    """What a check comes to. ERROR is a fault of the suite or of this machine, and never counts for the plugin."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One item in one version. `evidence`: what was seen and the commands that show it, or why it does not apply."""

    item: Item
    version: str
    judgement: Judgement
    evidence: str = ""
    seconds: float = 0.0


def items(only: Sequence[str] = ()) -> list[Item]:
    """Return all items in the order of the checklist, or those of the given numbers (50 stands for 50a as well)."""
    for chapter in CHAPTERS:
        importlib.import_module(f"tests.conformance.items.{chapter}")
    wanted = [one for one in ITEMS if not only or one.number in only or _integer(one.number) in only]
    return sorted(wanted, key=lambda one: (int(_integer(one.number)), one.number))


def prepare(plugin: Path, base: Mapping[str, Any], home: Path, furniture: sandbox.Furniture) -> World:
    """Return a node with a plugin on it, within the namespaces of `sandbox.isolated`; `home`: its scratch directory."""
    bin_dir = home / "bin"
    bin_dir.mkdir()
    node = sandbox.Node(furniture)
    return World(str(plugin), base, str(bin_dir), node, fake_ipam.FakeIPAM(bin_dir, home / "ipam"))


def run(world: World, versions: Sequence[str], only: Sequence[str]) -> Iterator[Verdict]:
    """Check each item in each version that it is about."""
    listed = abilities.supported_versions(world)
    spoken = [version for version in versions if version in listed] or list(versions)[-1:]
    chosen = items(only)
    world.abilities = abilities.observe(world, spoken[-1], {"ipam", *(need for item in chosen for need in item.needs)})
    for item in chosen:
        for version in _versions_of(item, versions):
            yield _verdict(world, item, version, listed)


def _versions_of(item: Item, versions: Sequence[str]) -> Sequence[str]:
    return [version for version in versions if version >= item.since] if item.since else versions[-1:]


def _verdict(world: World, item: Item, version: str, listed: Sequence[str]) -> Verdict:
    if listed and version not in listed:
        return Verdict(item, version, Judgement.NOT_APPLICABLE, f"VERSION does not list {version}")
    for need in item.needs:
        if world.abilities[need]:
            return Verdict(item, version, Judgement.NOT_APPLICABLE, world.abilities[need])
    began = time.monotonic()
    judgement, evidence = judge(world, item, version)
    return Verdict(item, version, judgement, evidence, time.monotonic() - began)


def judge(world: World, item: Item, version: str) -> tuple[Judgement, str]:
    """Check one item."""
    case = Case(world, version)
    try:
        item.check(case)
    except NotApplicable as why:
        return Judgement.NOT_APPLICABLE, str(why)
    except Violation as claim:
        return Judgement.FAIL, "\n".join([str(claim), *case.node.commands])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError, AttributeError) as problem:
        told = problem.stderr if isinstance(problem, subprocess.CalledProcessError) else ""
        lines = [f"{problem!r} {told}", traceback.format_exc(), *case.node.commands]
        return Judgement.ERROR, "\n".join(lines)
    else:
        return Judgement.PASS, ""
    finally:
        case.close()


@dataclass(frozen=True, slots=True)
class Sum:
    """How many items of a level were passed in all versions, of those that apply."""

    level: Level
    passed: int
    applicable: int


def sums(verdicts: Sequence[Verdict]) -> list[Sum]:
    """Return the sums of the three levels."""
    return [_sum(level, [one for one in verdicts if one.item.level is level]) for level in Level]


def overall(verdicts: Sequence[Verdict]) -> Judgement:
    """Return what an item comes to over its versions: the worst; what applies in one version applies."""
    found = {one.judgement for one in verdicts}
    order = (Judgement.ERROR, Judgement.FAIL, Judgement.PASS)
    return next((one for one in order if one in found), Judgement.NOT_APPLICABLE)


def by_item(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Return the verdicts of each item, in their order."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.item.number, []).append(verdict)
    return found


def _sum(level: Level, verdicts: Sequence[Verdict]) -> Sum:
    results = [overall(one) for one in by_item(verdicts).values()]
    applicable = [one for one in results if one is not Judgement.NOT_APPLICABLE]
    return Sum(level, applicable.count(Judgement.PASS), len(applicable))


def as_json(plugin: str, config: object, verdicts: Sequence[Verdict], notes: Sequence[str]) -> str:
    """Return everything for other programs to read."""
    document = {
        "plugin": plugin,
        "config": config,
        "sums": {one.level.value: {"passed": one.passed, "applicable": one.applicable} for one in sums(verdicts)},
        "items": {number: overall(found).value for number, found in by_item(verdicts).items()},
        "verdicts": [
            {
                "item": one.item.number,
                "title": one.item.title,
                "level": one.item.level.value,
                "section": one.item.section,
                "version": one.version,
                "outcome": one.judgement.value,
                "evidence": one.evidence,
                "seconds": round(one.seconds, 3),
            }
            for one in verdicts
        ],
        "notes": list(notes),
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def _integer(number: str) -> str:
    return "".join(character for character in number if character.isdigit())
