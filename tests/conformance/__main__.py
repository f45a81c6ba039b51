"""python -m tests.conformance --plugin PATH --config FILE: how well a CNI plugin conforms. See README.md beside this.

The command starts itself again in namespaces of its own (sandbox rule 1), as `--inside`.
Exit status: 0 all items that apply pass; 1 some do not; 2 it could not be run; 3 this kernel lacks what it takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.conformance import abilities, daemon, report, sandbox, suite
from tests.conformance.case import World

_KINDS: Mapping[str, Sequence[str]] = {
    "bridge": ["veth", "bridge"],
    "ptp": ["veth"],
    **{kind: [kind] for kind in ("veth", "macvlan", "ipvlan", "vlan", "dummy", "vxlan", "bond")},
}


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.inside:
        return inside(options)
    if os.geteuid() != 0:
        print("conformance: must be root: it makes network namespaces", file=sys.stderr)
        return 2
    return sandbox.isolated(["tests.conformance", *arguments, "--inside"])


def inside(options: argparse.Namespace) -> int:
    """Run the suite in the namespaces that were made for it; its scratch directory is `options.inside`."""
    home = Path(options.inside)
    sandbox.enter()
    text = options.config.read_text().replace("{dir}", str(home))
    base: dict[str, Any] = json.loads(text)
    about: Mapping[str, Any] = base.pop("conformance", {})
    kind = base.get("device") or base.get("type", "")
    for needed in about.get("kernel", _KINDS.get(kind, [])):
        if problem := sandbox.lacking(needed):
            print(f"cannot run here: the kernel lacks links of kind {needed}: {problem}")
            return 3
    try:
        with ExitStack() as running:
            if options.service:
                running.enter_context(_daemon(options.service, options.service_ready, home, "service").serving())
            world = _world(options, base, about, home)
            if options.before:
                world.daemon = _daemon(options.before, options.ready, home, "daemon")
                running.enter_context(world.daemon.serving())
            return _judge(world, options)
    except OSError as problem:
        print(f"conformance: {problem}", file=sys.stderr)
        return 2


def _world(options: argparse.Namespace, base: dict[str, Any], about: Mapping[str, Any], home: Path) -> World:
    furniture = sandbox.Furniture(
        about.get("links", {base["master"]: []} if base.get("master") else {}),
        {name: sandbox.Managed(**commands) for name, commands in about.get("managed", {}).items()},
        [Path(_placed(one, home)) for one in options.state],
        about.get("look", ""),
    )
    world = suite.prepare(options.plugin.resolve(), base, home, furniture)
    world.exclusive = about.get("exclusive", False)
    world.crash_points = options.crash_points
    return world


def _daemon(command: str, ready: str, home: Path, name: str) -> daemon.Daemon:
    path = Path(_placed(ready, home)) if ready else None
    return daemon.Daemon(_placed(command, home), path, home / f"{name}.log")


def _placed(text: str, home: Path) -> str:
    return text.replace("{dir}", str(home))


def _judge(world: World, options: argparse.Namespace) -> int:
    only = options.only.split(",") if options.only else []
    verdicts = []
    for _, found in itertools.groupby(suite.run(world, options.versions.split(","), only), lambda one: one.item.number):
        of_one_item = list(found)
        print(report.line(of_one_item), flush=True)
        verdicts += of_one_item
    if options.json:
        options.json.write_text(suite.as_json(str(options.plugin), world.base, verdicts, world.notes))
    print(report.scorecard(str(options.plugin), verdicts, world.notes))
    bad = (suite.Judgement.FAIL, suite.Judgement.ERROR)
    return 1 if any(one.judgement in bad for one in verdicts) or not verdicts else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Conformance of a CNI plugin.")
    add = parser.add_argument
    add("--plugin", type=Path, required=True, help="the executable")
    add("--config", type=Path, required=True, help="a network configuration; {dir} in it is a scratch directory")
    add("--versions", default=",".join(abilities.VERSIONS), help="specification versions (default: %(default)s)")
    add("--only", default="", help="numbers of items, separated by commas")
    add("--json", type=Path, help="write all verdicts with their evidence to this file")
    add("--before", default="", help="command of a daemon that the plugin needs; {dir} as above, {dir}/bin is CNI_PATH")
    add("--ready", default="", help="a path that is there once the daemon serves")
    add("--service", default="", help="command of what the node has beforehand, a switch; what it makes is the node's")
    add("--service-ready", default="", help="a path that is there once that has made everything")
    add("--state", action="append", default=[], help="a directory in which nothing new may be after DEL")
    add("--crash-points", type=int, default=60, help="at most so many points to kill the plugin at (%(default)s)")
    add("--inside", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
