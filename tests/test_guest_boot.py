"""A machine that never comes up is started anew; QEMU is a script of the test's own."""

from pathlib import Path

import pytest

from e2e.guest import machine
from e2e.guest.machine import Ended, Machine

QEMU = """#!/bin/sh
# what it is given as its files: -serial file:CONSOLE, later -serial file:STATUS
for word; do
    case "$word" in file:*console.log) console=${{word#file:}};; file:*status) status=${{word#file:}};; esac
done
echo boot >>{boots}
[ "$(wc -l <{boots})" -lt {works} ] && exec sleep 600
echo '{up}' >"$console"
echo said
echo 3 >"$status"
"""


def made(folder: Path, works: int) -> Machine:
    program = folder / "usr/bin/qemu-system-x86_64"
    program.parent.mkdir(parents=True)
    program.write_text(QEMU.format(boots=folder / "boots", works=works, up=machine.UP))
    program.chmod(0o755)
    return Machine(folder, folder, folder, folder)


def test_one_that_sleeps_is_started_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "BOOT_S", 1.0)
    said = []
    assert made(tmp_path, works=3).run(60, said.append) == 3
    assert (b"".join(said), (tmp_path / "boots").read_text().count("boot")) == (b"said\n", 3)


def test_one_that_never_comes_up_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "BOOT_S", 0.3)
    with pytest.raises(Ended, match="did not come up within"):
        made(tmp_path, works=9).run(60, lambda _: None)
    assert (tmp_path / "boots").read_text().count("boot") == machine.BOOTS
