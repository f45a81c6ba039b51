"""Who is let in at the agent's sockets: root, at agent.sock also the controller's group, and no stranger."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agent import cni_server, grpc_server
from agent.calls import Answer
from agent.outcomes import Outcomes

pytestmark = pytest.mark.netns

STRANGER, GROUP = 65533, 65414
WHO = {  # user, group, whether as root of an own user namespace
    "root": ("0", "0"),
    "another user": (str(STRANGER), str(STRANGER)),
    "another user, root of its own namespace": (str(STRANGER), str(STRANGER), "mapped"),
    "root's group": (str(STRANGER), "0"),
    "the controller": (str(STRANGER), str(GROUP)),
}


@pytest.fixture
def run_dir():
    """One that everybody may walk to, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="doors-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def cni(run_dir):
    server = cni_server.Server(run_dir, lambda environ, stdin, netns: Answer(0, b"{}"))
    server.start()
    yield run_dir / "cni.sock"
    server.close()


def knock(path) -> dict[str, str]:
    """Return what comes of each one's call."""
    commands = {who: [sys.executable, "-m", "tests.agent.knock", str(path), *how] for who, how in WHO.items()}
    return {who: subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
            for who, command in commands.items()}  # fmt: skip


def test_at_cni_sock_only_root_is_let_in_and_whoever_comes_past_the_mode_is_not_heard(cni):
    assert knock(cni) == {**dict.fromkeys(WHO, "refused"), "root": "served"}
    cni.chmod(0o666)
    assert knock(cni) == {**dict.fromkeys(WHO, "hung up"), "root": "served"}


def test_at_agent_sock_root_is_let_in_and_the_group_that_was_told(run_dir):
    servicer = grpc_server.Servicer(None, Outcomes(), None, tuple, "1")
    server = grpc_server.serve(servicer, run_dir, GROUP)
    path = run_dir / "agent.sock"
    try:
        assert knock(path) == {**dict.fromkeys(WHO, "refused"), "root": "hung up", "the controller": "hung up"}
    finally:
        server.stop(0).wait()


def test_without_a_group_nobody_but_root_is_let_in_at_agent_sock(run_dir):
    servicer = grpc_server.Servicer(None, Outcomes(), None, tuple, "1")
    server = grpc_server.serve(servicer, run_dir)
    try:
        assert knock(run_dir / "agent.sock") == {**dict.fromkeys(WHO, "refused"), "root": "hung up"}
    finally:
        server.stop(0).wait()
