"""The agent's capabilities: each is needed for something, and what they are for works under the seccomp profile."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import rights
from tests.agent import acts

pytestmark = pytest.mark.netns

STRANGER = 65534
REFUSALS = {
    "NET_ADMIN": "Operation not permitted",
    "SYS_ADMIN": "setns: Operation not permitted",
    "NET_BROADCAST": "no pod is heard",
    "SYS_CHROOT": "Operation not permitted",
    "SYS_NICE": "it has survived its plugin",
    "SYS_PTRACE": "Permission denied",
    "DAC_OVERRIDE": "Permission denied",
}
PLUGINS = {
    "well": "exit 0",
    "hides": 'env -i setsid sleep 60 >/dev/null 2>&1 & echo $! >"$(dirname "$0")/hidden"; wait',
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name, text in PLUGINS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "vm.sock"))
        listener.listen()
        (tmp_path / "vm.sock").chmod(0o600)
        os.chown(tmp_path / "vm.sock", STRANGER, STRANGER)
        yield tmp_path
    hidden = tmp_path / "hidden"
    if hidden.exists():
        subprocess.run(["kill", "-9", hidden.read_text().strip()], capture_output=True, check=False)


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process of another user, in a network namespace of its own."""
    command = ["unshare", "-n", "setpriv", f"--reuid={STRANGER}", "--clear-groups", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def act(capability: str, may: rights.Rights, folder: Path, pid: int) -> subprocess.CompletedProcess[str]:
    """Perform the act that the capability is for."""
    argv = (sys.executable, "-m", "tests.agent.acts", capability, str(folder), str(pid))
    return subprocess.run(may.command(argv), capture_output=True, text=True, timeout=60, check=False)


def test_there_is_an_act_for_each_capability_of_the_manifest():
    assert rights.of("agent").capabilities == acts.ACTS.keys() == REFUSALS.keys()
    assert rights.of("controller").capabilities == rights.of("controller", rights.CLUSTER).capabilities == frozenset()


@pytest.mark.parametrize("capability", sorted(REFUSALS))
def test_the_act_succeeds_and_without_its_capability_does_not(capability, folder, stranger):
    whole = rights.of("agent")
    done = act(capability, whole, folder, stranger)
    assert done.returncode == 0, done.stderr
    done = act(capability, whole.without(capability), folder, stranger)
    assert done.returncode != 0
    assert REFUSALS[capability] in done.stderr
