"""The executable's file."""

import ast
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cni import build, errors, forward, version, wire

NAMES = ["hotnic", "hotnic.py"]


def made(target):
    build.main([str(target)])
    return target.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_file_is_executable_and_appears_whole(tmp_path, name):
    target = tmp_path / "bin" / name
    made(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert os.listdir(target.parent) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_file_of_before_stays_as_it_was_for_those_who_run_it(tmp_path, name):
    target = tmp_path / name
    shutil.copy("/bin/sleep", target)
    with subprocess.Popen([target, "60"]) as running:
        made(target)
        assert Path(f"/proc/{running.pid}/exe").read_bytes() == Path("/bin/sleep").read_bytes()
        running.kill()
    done = subprocess.run(target, env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True)
    assert json.loads(done.stdout)["cniVersion"] == version.CURRENT


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_where_the_file_cannot_be_put(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match="hotnic"):
        build.main([str(tmp_path / name)])
    assert os.listdir(tmp_path) == [name]


def test_nothing_is_replaced_where_the_compiler_refuses(tmp_path, monkeypatch):
    (tmp_path / "hotnic").write_text("old")
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "hotnic.c").write_text("int main(void) { int unused; return 0; }")
    monkeypatch.setattr(build, "NATIVE", tmp_path / "native")
    with pytest.raises(OSError, match="unused variable"):
        build.main([str(tmp_path / "hotnic")])
    assert (sorted(os.listdir(tmp_path)), (tmp_path / "hotnic").read_text()) == (["hotnic", "native"], "old")


def test_command_line_builds_the_files(tmp_path):
    targets = [str(tmp_path / name) for name in NAMES]
    subprocess.run([sys.executable, "-m", "cni.build", *targets], cwd=build.HERE.parent, check=True)
    assert (tmp_path / "hotnic").read_bytes()[:4] == b"\x7fELF"
    assert (tmp_path / "hotnic.py").read_text() == build.source()


# the native form


@pytest.fixture(scope="module", params=["musl-gcc", "gcc"])
def native(request, tmp_path_factory):
    """Where only one of the compilers is there."""
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} on this machine: make build installs it")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gcc":
            patch.setattr(build.shutil, "which", lambda _: None)
        target = tmp_path_factory.mktemp("native") / "hotnic"
        text = made(target)
        assert made(target) == text  # the same every time
    return target


def test_native_form_is_static_hardened_and_stripped(native):
    headers = subprocess.run(["readelf", "-Wlhd", native], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Type: +DYN", headers)  # it can be loaded at any address
    assert "INTERP" not in headers
    assert "(NEEDED)" not in headers
    assert "TEXTREL" not in headers
    assert "GNU_RELRO" in headers
    assert "BIND_NOW" in headers or "Flags: NOW" in headers
    assert re.search(r"GNU_STACK .* RW +0x", headers)
    assert "no symbols" in subprocess.run(["nm", native], capture_output=True, text=True, check=True).stderr


def test_native_form_runs_without_a_library_of_the_node(native, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("chroot is root's")
    (tmp_path / "dev").mkdir()
    shutil.copy(native, tmp_path)
    done = subprocess.run(
        ["chroot", tmp_path, "/hotnic"], env={"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]},
        input=b"", capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["cniVersion"] == version.CURRENT


def test_native_form_names_no_place_of_this_machine(native):
    assert os.fsencode(build.HERE.parent) not in native.read_bytes()


def test_native_form_repeats_what_other_modules_say():
    texts = {path.name: path.read_text() for path in build.NATIVE.iterdir()}
    numbers = dict(re.findall(r"\b([A-Z_]+) = (\d+(?: << \d+)?)[,; ]", "\n".join(texts.values())))
    sizes = ("MAX_ENVIRONMENT", "MAX_STDIN", "MAX_REPLY", "MAX_EXIT_CODE")
    codes = ("INVALID_ENVIRONMENT", "IO_FAILURE", "INVALID_CONFIG", "TRY_AGAIN", "NOT_AVAILABLE")
    others = ("SHOWN", "LONGEST_PATH")
    seconds = {"ADD_DEADLINE": 30, "VERSION_DEADLINE": 2} | {
        name: getattr(forward, name) for name in ("DEADLINE", "BURIAL_DEADLINE", "TELLING_DEADLINE")
    }
    assert forward.DEADLINES == {b"ADD": 30, b"VERSION": 2}
    stated = {name: value(numbers[name]) for name in (*sizes, *codes, *others, *seconds)}
    assert stated == (
        {name: getattr(wire, name) for name in sizes}
        | {name: errors.Code[name] for name in codes}
        | {name: getattr(forward, name) for name in others}
        | {name: 1000 * number for name, number in seconds.items()}
    )
    assert tuple(re.findall(r'"(\d\.\d\.\d)"', texts["hotnic.c"])) == (*version.SUPPORTED, version.CURRENT)


def value(text):
    number, _, shift = text.partition(" << ")
    return int(number) << int(shift or 0)


# the portable form


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
