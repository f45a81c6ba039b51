"""A fault at every effect, and what is left of it: part of them here, all with HOTNIC_FAULTS=all."""

import importlib.util
import os
from dataclasses import asdict
from typing import Any

import pytest

from tests import fresh
from tests.faults.trials import SHARES, Report, examine
from tests.faults.worlds import STORIES

MOST = {
    "hotplug": 56, "start": 16, "guest": 32, "controller": 20, "executable": 20,
    "switch": 12, "audit": 10, "relay": 12, "plugins": 8, "collect": 8, "damage": 6, "domain": 4,
}  # fmt: skip
FEW = 12  # are told one after the other: a world of their own for each half of them would take longer

_LIBVIRT = pytest.mark.skipif(
    importlib.util.find_spec("libvirt") is None,
    reason="libvirt's Python binding is not installed (`make netns` installs it)",
)

pytestmark = pytest.mark.netns


def examined(name: str, most: int | None) -> dict[str, Any]:
    """In a fresh interpreter: what suffers is forked."""
    return asdict(examine(name, STORIES[name], most, 1 if most and most <= FEW else SHARES))


@pytest.mark.parametrize("name", [pytest.param(one, marks=_LIBVIRT if one == "domain" else ()) for one in STORIES])
def test_a_fault_anywhere_leaves_nothing_behind_tells_nothing_untrue_and_hangs_nobody(name, capsys):
    most = None if os.environ.get("HOTNIC_FAULTS") == "all" else MOST[name]
    report = Report(**fresh.call("tests.faults.test_stories:examined", name, most))
    with capsys.disabled():
        print("", f"faults of the story {name!r}:", *report.lines(), sep="\n  ")
    assert report.failures == []
    assert sum(report.happened.values()) * 2 > sum(report.tried.values()) > 0, "few faults are where they were counted"
    if most is None:
        assert [one for one in report.tried if not report.happened.get(one)] == [], "never reached"
