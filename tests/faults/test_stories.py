"""A fault at every effect, and what is left of it: part of them here, all with HOTNIC_FAULTS=all."""

import os
from dataclasses import asdict
from typing import Any

import pytest

from tests import fresh
from tests.faults.trials import Report, examine
from tests.faults.worlds import STORIES

MOST = {"hotplug": 56, "start": 16, "guest": 32, "controller": 20, "executable": 20}

pytestmark = pytest.mark.netns


def examined(name: str, most: int | None) -> dict[str, Any]:
    """In a fresh interpreter: what suffers is forked."""
    return asdict(examine(name, STORIES[name], most))


@pytest.mark.parametrize("name", STORIES)
def test_a_fault_anywhere_leaves_nothing_behind_tells_nothing_untrue_and_hangs_nobody(name, capsys):
    most = None if os.environ.get("HOTNIC_FAULTS") == "all" else MOST[name]
    report = Report(**fresh.call("tests.faults.test_stories:examined", name, most))
    with capsys.disabled():
        print("", f"faults of the story {name!r}:", *report.lines(), sep="\n  ")
    assert report.failures == []
    assert sum(report.happened.values()) * 2 > sum(report.tried.values()) > 0, "few faults are where they were counted"
