"""`hotnic-agent audit [--repair] [--json]`: look, tell, mend. It works beside an agent, and without one.

Exit status: 0 nothing is left, 1 something is, 2 not all could be looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from agent import cri, delegate, netns
from agent.audit import files, links
from agent.audit.contract import (
    Attached,
    Delete,
    Finding,
    Forget,
    Release,
    RemoveFile,
    RemoveLink,
    RemoveNamespace,
    RemovePort,
    RemoveRules,
    Repair,
    Seen,
    Signs,
)
from agent.audit.life import GUARD_S, Life, is_cri
from agent.audit.look import Node
from agent.audit.mend import Mender
from agent.netlink import Kernel

NOTHING, SOMETHING, BLIND = 0, 1, 2
_MENDED = "mended"
_NOT_NOW = "not judged now: once more, later"
_NEEDED = "not now: it tells whose a link or a rule is that is still there"
_IN_DOUBT = "nothing yet: not all could be looked at, and that may say that it is needed"
LEAST_GUARD_S = 60.0  # of a repair: a container's making takes that long
_PROOF_S = 1.0  # as long a look is proof: some repairs take milliseconds, and a DEL takes longer

Told = tuple[Finding, str]  # with what came of its repair; "": nothing was tried


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this command has."""
    parser.add_argument("--repair", action="store_true", help="mend what is provably dead; else it is only told")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--guard",
        type=float,
        default=GUARD_S,
        metavar="SECONDS",
        help="what is younger is not judged: its container may be in the making",
    )


def run(arguments: argparse.Namespace) -> int:
    """Return the exit status. Raises ValueError for what cannot be asked, CNIError where links cannot be read."""
    if not arguments.cri:
        raise ValueError("--cri is empty: without a container runtime nobody can tell who lives")
    least = LEAST_GUARD_S if arguments.repair else 0.0
    if not arguments.guard >= least:
        raise ValueError(f"--guard: at least {least:.0f} seconds")
    view = netns.View(arguments.host_root)
    runtime, kernel = cri.Runtime(arguments.cri), Kernel()
    try:
        node = Node(
            view,
            runtime,
            kernel,
            arguments.state_dir,
            arguments.run_dir,
            tuple(Path(view.place(str(path))) for path in arguments.cni_cache_dir),
            tuple(Path(view.place(str(path))) for path in arguments.cni_conf_dir),
        )
        seen = node.look()
        found, blind = judged(seen, arguments.guard), dict.fromkeys(seen.blind)
        told = [(one, "") for one in found]
        if arguments.repair:
            execute = delegate.Executor(arguments.cni_bin_dir, arguments.host_root)
            mender = Mender(node, execute, arguments.cni_bin_dir)
            told = list(_mended(found, node, mender, seen.on_disk(), arguments.guard, blind))
    finally:
        kernel.close()
        runtime.close()
    _tell(told, blind, as_json=arguments.json)
    if blind:
        return BLIND
    return SOMETHING if any(outcome != _MENDED for _, outcome in told) else NOTHING


def judged(seen: Seen, guard_s: float) -> tuple[Finding, ...]:
    """Return all that is found, in the order of its repair (agent.audit, rules 8 and 6)."""
    aged = [(one.container, one.age_s) for one in seen.leases]
    aged += [(one.container_id, age_s) for one, age_s in seen.cached]
    life = Life(seen.signs, guard_s, {container for container, age_s in aged if age_s < guard_s})
    found = (*links.findings(seen, life), *files.findings(seen, life))
    return tuple(map(_doubted, found)) if seen.blind or seen.unreadable else found


def _doubted(one: Finding) -> Finding:
    """Only what the runtime would list, if it lived, is dead though something could not be looked at."""
    if one.repair is None or is_cri(one.whose.container):
        return one
    return replace(one, repair=None, otherwise=_IN_DOUBT)


def _mended(
    found: Iterable[Finding],
    node: Node,
    mender: Mender,
    remembered: frozenset[Attached],
    guard_s: float,
    blind: dict[str, None],
) -> Iterator[Told]:
    """Mend what is found once more, right before; yield what came of each, and add what could not be looked at."""
    proven_until, seen, again = 0.0, Seen(Signs(None)), dict[tuple[str, str, str], Finding]()
    needed = set[str]()  # containers, by what is on disk of them (agent.audit, rule 8)
    for one in found:
        if one.repair is None:
            yield one, ""
            continue
        if isinstance(one.repair, Delete | Release) and one.whose.container in needed:
            yield one, _NEEDED
            continue
        if time.monotonic() > proven_until:
            seen = replace(node.look(), remembered=remembered)
            again = {_identity(other): other for other in judged(seen, guard_s)}
            blind.update(dict.fromkeys(seen.blind))
            proven_until = time.monotonic() + _PROOF_S
        outcome = _outcome(one.repair, again.get(_identity(one)), seen, mender)
        if outcome != _MENDED and isinstance(one.repair, RemoveLink | RemoveRules):
            needed.add(one.whose.container)
        yield one, outcome


def _outcome(repair: Repair, now: Finding | None, seen: Seen, mender: Mender) -> str:
    """Mend what is still found; return what came of it."""
    if now is not None and now.repair is not None:
        return mender.perform(now.repair) or _MENDED
    return _NOT_NOW if seen.blind or _is_there(repair, seen) else _MENDED


def _is_there(repair: Repair, seen: Seen) -> bool:
    """Whether the thing itself is there, however it is judged."""
    match repair:
        case Delete(cached):
            return cached.path in {one.path for one, _ in seen.cached} | seen.unreadable.keys()
        case Forget(record):
            return record.key in {one.key for one in seen.records}
        case Release(lease):
            return lease.path.exists()  # its store may have been known by a configuration that is gone
        case RemoveFile(path):
            return path in {one.path for one in seen.scratch}
        case RemoveLink(link):
            return link.name in {one.name for one in seen.links}
        case RemoveRules(rules):
            return not set(rules).isdisjoint(seen.rules)
        case RemovePort(port):
            return (port.database, port.name) in {(one.database, one.name) for one in seen.ports}
        case RemoveNamespace(file):
            return file.path in {one.path for one in seen.signs.namespaces}


def _identity(one: Finding) -> tuple[str, str, str]:
    return one.what, one.where.partition(", chain")[0], one.whose.container  # of rules, some may have gone


def _tell(told: Iterable[Told], blind: Iterable[str], *, as_json: bool) -> None:
    all_told = tuple(told)
    for one, outcome in all_told:
        sys.stdout.write((_line if as_json else _text)(one, outcome) + "\n")
    for reason in blind:
        sys.stderr.write(f"hotnic-agent audit: could not look: {_printable(reason)}\n")
    if not as_json:
        sys.stdout.write(_summary(all_told) + "\n")


def _line(one: Finding, outcome: str) -> str:
    whose = {"container": one.whose.container, "interface": one.whose.ifname, "network": one.whose.network}
    document = {"what": one.what, "where": one.where, **whose, "pod": one.whose.pod, "evidence": one.evidence}
    return json.dumps({**document, "repair": str(one.repair or ""), "otherwise": one.otherwise, "outcome": outcome})


def _text(one: Finding, outcome: str) -> str:
    whose = ", ".join(
        f"{name} {value}"
        for name, value in (
            ("pod", one.whose.pod),
            ("container", one.whose.container),
            ("interface", one.whose.ifname),
            ("network", one.whose.network),
        )
        if value
    )
    lines = (("of", whose), ("evidence", one.evidence), ("repair", str(one.repair or one.otherwise)), ("done", outcome))
    told = "".join(f"\n    {name:<10}{_printable(value)}" for name, value in lines if value)
    return f"{one.what}: {_printable(one.where)}{told}"


def _printable(text: str) -> str:
    """Return it as a terminal may have it: tenants and plugins have chosen some of the words."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _summary(told: tuple[Told, ...]) -> str:
    if not told:
        return "nothing is left of anybody"
    mended = sum(outcome == _MENDED for _, outcome in told)
    can = sum(one.repair is not None and outcome == "" for one, outcome in told)
    return f"{len(told)} found, {mended} mended, {can} can be mended by --repair"
