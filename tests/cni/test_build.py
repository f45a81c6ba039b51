"""The executable's file."""

import ast
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cni import build, errors, forward, version


def test_file_is_executable_and_appears_whole(tmp_path):
    target = tmp_path / "bin" / "hotnic"
    build.install(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert os.listdir(target.parent) == ["hotnic"]


def test_file_of_before_stays_as_it_was_for_those_who_run_it(tmp_path):
    target = tmp_path / "hotnic"
    target.write_text("old")
    with target.open() as running:
        build.install(target)
        assert running.read() == "old"
    assert target.read_text() == build.source()


def test_nothing_is_left_where_the_file_cannot_be_put(tmp_path):
    (tmp_path / "hotnic").mkdir()
    with pytest.raises(OSError, match="hotnic"):
        build.install(tmp_path / "hotnic")
    assert os.listdir(tmp_path) == ["hotnic"]


def test_command_line_builds_the_file(tmp_path):
    target = tmp_path / "hotnic"
    subprocess.run([sys.executable, "-m", "cni.build", target], cwd=build.HERE.parent, check=True)
    assert target.read_text() == build.source()


def test_command_line_says_how_it_is_used():
    done = subprocess.run([sys.executable, "-m", "cni.build"], cwd=build.HERE.parent, check=False, capture_output=True)
    assert (done.returncode, b"usage" in done.stderr) == (1, True)


def test_text_is_the_same_every_time_and_names_no_place_of_this_machine():
    assert build.source() == build.source()
    assert str(build.HERE.parent) not in build.source()


def test_interpreter_is_isolated():
    assert build.source().splitlines()[0] == "#!/usr/bin/python3 -IS"


def test_an_old_interpreter_can_read_it():
    ast.parse(build.source(), feature_version=(3, 7))


def test_what_main_does_not_reach_is_left_out():
    text = build.source()
    assert "receive_request" not in text
    assert "annotations" not in text
    assert '"""' not in text


def test_what_it_repeats_of_other_modules_is_the_same_there():
    assert forward.SUPPORTED == version.SUPPORTED
    assert forward.SUPPORTED[-1] == version.CURRENT
    names = ("INVALID_ENVIRONMENT", "IO_FAILURE", "INVALID_CONFIG", "TRY_AGAIN", "NOT_AVAILABLE")
    assert {name: getattr(forward, name) for name in names} == {name: errors.Code[name] for name in names}


def test_it_imports_built_in_modules_only():
    """A runtime waits for every import, at every call."""
    definitions = build.source().removesuffix("main()\n")
    program = (
        "import sys; before = set(sys.modules)\n"
        f"exec(compile({definitions!r}, 'hotnic', 'exec'))\n"
        "print(' '.join(set(sys.modules) - before))"
    )
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"_socket", "_signal", "posix", "time", "sys"}


def test_it_runs_from_the_tree_as_well():
    environ = {"CNI_COMMAND": "VERSION", "PYTHONPATH": str(build.HERE.parent)}
    done = subprocess.run([sys.executable, "-m", "cni"], env=environ, input=b"", capture_output=True, check=True)
    assert json.loads(done.stdout)["supportedVersions"] == list(version.SUPPORTED)


def test_two_meanings_of_one_name_are_refused(tmp_path, monkeypatch):
    for module in ("forward", "wire"):
        (tmp_path / f"{module}.py").write_text("def main():\n    pass\n")
    monkeypatch.setattr(build, "HERE", Path(tmp_path))
    with pytest.raises(ValueError, match="main is defined twice"):
        build.source()
