"""A fault at every effect, and what is left of it: part of them here, all with HOTNIC_FAULTS=all."""

import os

import pytest

from tests.faults.trials import examine
from tests.faults.worlds import STORIES

MOST = {"hotplug": 56, "start": 16, "guest": 32, "controller": 20, "executable": 20}

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("name", STORIES)
def test_a_fault_anywhere_leaves_nothing_behind_tells_nothing_untrue_and_hangs_nobody(name, capsys):
    report = examine(name, STORIES[name], None if os.environ.get("HOTNIC_FAULTS") == "all" else MOST[name])
    with capsys.disabled():
        print("", f"faults of the story {name!r}:", *report.lines(), sep="\n  ")
    assert report.failures == []
    assert sum(report.happened.values()) * 2 > sum(report.tried.values()) > 0, "few faults are where they were counted"
