"""Second runs: a test on the real kernel, cluster or machine that fails is run once more, and both are told.

These tests share two noisy cores with emulated machines, and one stumble in thousands of them must not stop a change.
A stumble is still a defect, of the test or of the product: each is printed by name at the end, and more than MOST of
them fail the run. Pure tests have no such excuse and no second run.
"""

import os
from pathlib import Path

import pytest

# Tests fork, and run a program in the child. What gRPC would do at a fork, for threads that an earlier test has left,
# may end the child before. What runs Python in the child, with gRPC perhaps, begins in a fresh interpreter
# (tests/fresh.py).
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

MOST = 4
_REAL = ("netns", "guest", "lane")
_E2E = Path(__file__).parent / "e2e"
_stumbled: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _E2E in item.path.parents or any(item.get_closest_marker(mark) for mark in _REAL):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.outcome == "rerun":
        _stumbled.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(_stumbled) > MOST and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _stumbled:
        terminalreporter.section(f"failed at first, and were run once more (at most {MOST} may pass so)", red=True)
        for report in terminalreporter.stats.get("rerun", []):
            terminalreporter.write_line(f"{report.nodeid}\n{report.longreprtext}")
