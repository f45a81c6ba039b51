"""A stumble is told and forgiven, a few times; a failure is a failure."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import conftest

TREE = Path(__file__).resolve().parents[1]
STUMBLES = """
import pytest
seen = set()

@pytest.mark.parametrize("number", range({count}))
@pytest.mark.{mark}
def test_stumbles(number):
    first, _ = number not in seen, seen.add(number)
    assert not first, "the first time"
"""


@pytest.fixture
def run(tmp_path):
    shutil.copy(TREE / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  netns\n  pure\n")

    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", *arguments, "test_it.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("arguments", [(), ("-n", "1")])
def test_a_stumble_is_told_by_name_with_its_reason(run, arguments):
    done = run(STUMBLES.format(count=conftest.MOST, mark="netns"), *arguments)
    assert done.returncode == 0, done.stdout
    for number in range(conftest.MOST):
        assert f"test_it.py::test_stumbles[{number}]\n" in done.stdout
    assert "AssertionError: the first time" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("-n", "1")])
def test_too_many_stumbles_are_a_failure(run, arguments):
    assert run(STUMBLES.format(count=conftest.MOST + 1, mark="netns"), *arguments).returncode == 1


def test_a_pure_test_has_one_try(run):
    done = run(STUMBLES.format(count=1, mark="pure"))
    assert (done.returncode, "1 failed" in done.stdout) == (1, True)


def test_what_fails_twice_has_failed(run):
    done = run("import pytest\n\n@pytest.mark.netns\ndef test_fails():\n    assert False\n")
    assert (done.returncode, "1 failed, 1 rerun" in done.stdout) == (1, True)
