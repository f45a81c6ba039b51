"""Items 50 and 51: whoever dies at whatever point, the DEL that follows leaves nothing.

The points are counted, not chosen: before every system call of the plugin that can change something outside of it
(tracer), and if these are more than `--crash-points`, that many of them, evenly spread.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence

from tests.conformance import tracer
from tests.conformance.case import Attachment, Case, Level, item
from tests.conformance.plugin import LIMIT_S

FIELD = Level.FIELD
WATCH_S = 0.5
NOTICED_S = 10.0
RESTARTS = 4  # starting a daemon anew takes that much longer than starting a plugin: as many points fewer


def points(total: int, at_most: int) -> Sequence[int]:
    """Return which of 1..total to die at: all, or that many evenly spread with the first and the last."""
    if total <= at_most:
        return range(1, total + 1)
    return sorted({1 + round(step * (total - 1) / (at_most - 1)) for step in range(at_most)})


@item("50", "Killed at any point of ADD, the plugin leaves nothing after DEL, nor does anything appear later", FIELD,
      "§3 Lifecycle: 'A delete must still be executed even if the add fails'")  # fmt: skip
def killed_while_adding(case: Case) -> None:
    config = case.richest()
    complete = case.attachment()
    call = case.prepared("ADD", complete, config)
    case.expect_delete(complete, config)
    total = tracer.run(call, 0).seen
    case.delete(complete, config)
    case.require_clean("after a whole ADD and DEL under ptrace", complete)
    chosen = points(total, case.world.crash_points)
    died: list[Attachment] = [_add_and_die(case, number) for number in chosen]
    time.sleep(WATCH_S)
    case.require_clean("some time after DEL", *died)
    case.note(f"item 50: SIGKILL at {len(chosen)} of {total} points of ADD")


def _add_and_die(case: Case, number: int) -> Attachment:
    """ADD, be killed, DEL twice: a runtime that has no answer to its ADD is as careful."""
    case.node.commands.clear()
    at, config = case.attachment(), case.richest()
    call = case.prepared("ADD", at, config)
    case.expect_delete(at, config)
    end = tracer.run(call, number)
    case.trace(f"$ {call.shell}\n  -> SIGKILL before system call number {number} that counts, {end.before or 'exit'}")
    case.delete(at, config)
    case.require_clean(f"after DEL; ADD was killed before {end.before or 'its end'} (point {number})", at)
    return at


@item("50d", "Killed at any point of DEL, the plugin leaves nothing after the next DEL", FIELD, "§2 DEL")
def killed_while_deleting(case: Case) -> None:
    config = case.richest()
    complete = case.attachment()
    result = case.add(complete, config)
    total = tracer.run(case.prepared("DEL", complete, case.following(config, result)), 0).seen
    chosen = points(total, case.world.crash_points)
    for number in chosen:
        case.node.commands.clear()
        at = case.attachment()
        result = case.add(at, config)
        call = case.prepared("DEL", at, case.following(config, result))
        end = tracer.run(call, number)
        case.trace(f"$ {call.shell}\n  -> SIGKILL before system call number {number} that counts, {end.before}")
        case.delete(at, case.following(config, result))
        case.require_clean(f"after a second DEL; the first was killed before {end.before} (point {number})", at)
    case.note(f"item 50d: SIGKILL at {len(chosen)} of {total} points of DEL")


@item("50x", "The daemon killed at any point of ADD: after its restart and a DEL nothing is left", FIELD, "§3",
      needs=["daemon"])  # fmt: skip
def daemon_killed_while_adding(case: Case) -> None:
    _daemon_dies(case, "ADD")


@item("50y", "The daemon killed at any point of DEL: after its restart and a DEL nothing is left", FIELD, "§2 DEL",
      needs=["daemon"])  # fmt: skip
def daemon_killed_while_deleting(case: Case) -> None:
    _daemon_dies(case, "DEL")


def _daemon_dies(case: Case, command: str) -> None:
    total = _ambushed(case, command, 0)
    if not total:
        case.not_applicable(f"its daemon does nothing at {command} that others can see")
    chosen = points(total, max(2, case.world.crash_points // RESTARTS))
    for number in chosen:
        case.node.commands.clear()
        _ambushed(case, command, number)
    case.note(
        f"item 50{'x' if command == 'ADD' else 'y'}: daemon killed at {len(chosen)} of {total} points of {command}"
    )


def _ambushed(case: Case, command: str, number: int) -> int:
    """Have the daemon killed at that point of the verb, then DEL; return how many points it came by."""
    at, config = case.attachment(), case.richest()
    changed = case.following(config, case.add(at, config)) if command == "DEL" else config
    with tracer.Ambush(case.daemon.pid, number) as ambush:
        case.call(command, at, changed)
    where = f"the daemon was killed before {ambush.end.before} (point {number} of {command})"
    if ambush.end.before:
        case.trace(f"({where})")
        case.daemon.kill()  # with what it left in its session
        case.daemon.start()
    case.delete(at, config)
    case.require_clean_within(15, f"after DEL; {where}", at)
    return ambush.end.seen


@item("50i", "When the IPAM plugin is killed, ADD fails, and nothing is left after DEL", FIELD, "§4", needs=["ipam"])
def ipam_killed(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    case.ipam.misbehave("ADD", "die")
    case.refused(case.call("ADD", at, config))
    case.delete(at, config)
    case.require_clean("after DEL", at)


@item("50a", "When the daemon is killed while ADD waits for IPAM, nothing is left after DEL", FIELD, "§3",
      needs=["daemon", "ipam"])  # fmt: skip
def daemon_killed(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    with _adding(case, at) as process, case.daemon_killed():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(NOTICED_S)
        case.trace(f"  -> exit {process.returncode}; the daemon was killed meanwhile")
        case.require(process.returncode is not None, f"ADD has not ended {NOTICED_S} s after its daemon did")
        case.require(process.returncode != 0, "ADD succeeds")
        case.ipam.open_gate()
    case.delete(at, config)
    case.require_clean_within(15, "after DEL", at)


@item("51", "When the runtime kills an ADD that waits, nothing appears after the DEL that follows", FIELD, "§3",
      needs=["ipam"])  # fmt: skip
def killed_at_the_deadline(case: Case) -> None:
    at, config = case.attachment(), case.with_ipam()
    with _adding(case, at) as process:
        process.kill()
        process.wait()
        case.trace("  -> SIGKILL while the IPAM plugin was at work; it goes on during DEL")
        call = case.prepared("DEL", at, config)
        with subprocess.Popen(
            [call.plugin], env=call.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as deleting:
            assert deleting.stdin is not None
            deleting.stdin.write(call.stdin)
            deleting.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait for the ADD
                deleting.wait(0.5)
            case.ipam.open_gate()
            deleting.wait(LIMIT_S)
    case.trace(f"$ {call.shell}\n  -> exit {deleting.returncode}")
    case.require(deleting.returncode == 0, "DEL fails")
    case.require_clean("after DEL", at)
    time.sleep(WATCH_S)
    case.require_clean("some time after DEL", at)


class _adding:  # noqa: N801 -- used as a function
    """An ADD that the IPAM plugin keeps waiting."""

    def __init__(self, case: Case, at: Attachment) -> None:
        self._case, self._at = case, at

    def __enter__(self) -> subprocess.Popen[bytes]:
        case = self._case
        case.ipam.misbehave("ADD", "wait")
        config = case.with_ipam()
        call = case.prepared("ADD", self._at, config)
        case.expect_delete(self._at, config)
        case.trace(f"$ {call.shell}")
        self._process = subprocess.Popen(
            [call.plugin], env=call.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        self._process.stdin.write(call.stdin)
        self._process.stdin.close()
        end = time.monotonic() + 10
        while not case.ipam.calls("ADD") and time.monotonic() < end:
            time.sleep(0.01)
        case.require(case.ipam.calls("ADD"), "the IPAM plugin was not called within 10 s")
        return self._process

    def __exit__(self, *_: object) -> None:
        self._case.ipam.open_gate()
        self._process.kill()
        self._process.wait()
