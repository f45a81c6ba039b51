"""`hotnic-agent doctor [--json]`: look, judge, tell.

Exit status: 0 where nothing is wrong, 1 where something is (`fail`); what only some networks need does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from agent import netns
from agent.doctor import door, judge, look
from agent.doctor.contract import Finding, Status

WELL, WRONG = 0, 1
BROUGHT = Path("/opt/hotnic/bin/hotnic")  # in the image


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this command has."""
    parser.add_argument("--policy", type=Path, metavar="FILE", help="the agent's policy")
    parser.add_argument(
        "--executable",
        type=Path,
        default=BROUGHT,
        metavar="FILE",
        help="the CNI executable that belongs to this version; if it is not there, the node's is not compared",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line. Where an agent serves that has the same mounts, its options count where none is given."""
    of_agent = door.arguments(parser.parse_args(argv).run_dir)
    return parser.parse_args(argv, parser.parse_known_args(of_agent)[0])


def run(arguments: argparse.Namespace, own_version: str) -> int:
    """Return the exit status. Raises OSError where nothing can be looked at: this is not root, say."""
    places = look.Places(
        view=netns.View(arguments.host_root),
        root=arguments.host_root,
        cri=arguments.cri,
        bin_dirs=tuple(arguments.cni_bin_dir),
        conf_dirs=tuple(arguments.cni_conf_dir),
        cache_dirs=tuple(arguments.cni_cache_dir),
        state_dir=arguments.state_dir,
        run_dir=arguments.run_dir,
        policy=arguments.policy,
        brought=arguments.executable,
    )
    found = tuple(judge.findings(look.look(places, own_version)))
    sys.stdout.write("".join(map(_line if arguments.json else _text, found)))
    if not arguments.json:
        sys.stdout.write(_summary(found))
    return WRONG if any(one.status is Status.FAIL for one in found) else WELL


def _line(one: Finding) -> str:
    return json.dumps({"topic": one.topic, "status": one.status.value, "found": one.found, "todo": one.todo}) + "\n"


def _text(one: Finding) -> str:
    todo = f"      → {_printable(one.todo)}\n" if one.todo else ""
    return f"{one.status.value:<4}  {one.topic}: {_printable(one.found)}\n{todo}"


def _printable(text: str) -> str:
    """Return it as a terminal may have it: names on the node are whatever somebody has called things."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _summary(found: Sequence[Finding]) -> str:
    count = {status: sum(one.status is status for one in found) for status in Status}
    return f"{count[Status.OK]} ok, {count[Status.WARN]} to look at, {count[Status.FAIL]} wrong\n"
