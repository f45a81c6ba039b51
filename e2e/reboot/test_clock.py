"""The node's clock jumps by an hour, both ways: nothing is tried wildly, nothing never.

Clocks of a machine cannot be set here: agent and controller get theirs from libfaketime, which adds to what the kernel
says. The monotonic clock stays, as it does in a real jump. A wait that is under way when the clock jumps is not shown.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import namespaces, networks

pytestmark = pytest.mark.lane

HOUR = 3600
LOOK_S = 4.0
CALM = 6  # tries within LOOK_S that are none too many


class Clock:
    """The time of day of some processes: seconds that it is off."""

    def __init__(self, name: str) -> None:
        self._file = namespaces.STATE / f"clock-{name}"
        self.set(0)

    def set(self, seconds: int) -> None:
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(f"{seconds:+d}\n")
        os.replace(unfinished, self._file)  # noqa: PTH105 by rename: it is being read

    def environment(self) -> dict[str, str]:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        return {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}  # fmt: skip


@pytest.fixture
def clocks(product, node) -> Iterator[dict[str, Clock]]:
    """Agent and controller, each with a clock that can be set."""
    running = {"agent": product.agents, "controller": product.controllers}
    clocks = {role: Clock(role) for role in running}
    for role, processes in running.items():
        processes[node.name].stop()
        processes[node.name] = processes[node.name].again(clocks[role].environment())
    yield clocks
    for role, processes in running.items():
        processes[node.name].stop()
        getattr(product, f"start_{role}")(node)


def told_time(product, node, role: str) -> float:
    """Return by how many seconds the process's own clock is off, as its log has it."""
    lines = [line for line in product.log(role, node).read_text().splitlines() if line[:2] == "20"]
    return time.mktime(time.strptime(lines[-1][:19], "%Y-%m-%d %H:%M:%S")) - time.time()


def test_an_hour_forth_and_back_hurries_and_stops_nothing(ns, node, product, clocks):
    networks.install_recorder(node)
    networks.tell_recorder(node, "fail")
    ns.network("rec", networks.recorder())
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug("rec@x1,blue@y0")
    pod.wait("what works is told", lambda: "y0" in pod.reported())
    for number, (agent, controller) in enumerate(
        ((HOUR, HOUR), (-HOUR, 0)), 1
    ):  # before its start no certificate is valid
        clocks["agent"].set(agent)
        clocks["controller"].set(controller)
        before = len(networks.recorded(node, "ADD"))
        time.sleep(LOOK_S)
        assert len(networks.recorded(node, "ADD")) - before <= CALM
        other = ns.pod(f"b{number}")
        other.plug("blue@x1")
        other.wait_ready("x1")
        assert abs(told_time(product, node, "agent") - agent) < HOUR / 2  # it is its clock indeed
    networks.tell_recorder(node, "")
    pod.wait_ready("x1", "y0", timeout=120)
