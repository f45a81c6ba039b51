"""The agent's own word: Health at agent.sock (agent/api/agent.proto), and the arguments that it was started with."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import grpc

from agent.api import agent_pb2 as api
from agent.api import agent_pb2_grpc
from agent.doctor.contract import Door

DEADLINE_S = 5.0


def arguments(run_dir: Path) -> Sequence[str]:
    """Return the command line of the agent that serves there; nothing where none does, or its paths are not ours."""
    with suppress(OSError):
        pid = _server(run_dir)
        if _has_our_mounts(pid):
            return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if word]
    return ()


def ask(run_dir: Path) -> Door:
    """Return what the agent says, or why it says nothing."""
    path = run_dir / "agent.sock"
    with grpc.insecure_channel(f"unix://{path.absolute()}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = agent_pb2_grpc.AgentStub(channel)  # type: ignore[no-untyped-call]
        try:
            answer = stub.Health(api.HealthRequest(), timeout=DEADLINE_S)
        except grpc.RpcError as problem:
            return Door(str(path), problem=f"{problem.code().name}: {problem.details()}")
    waiting_for = () if answer.ready else tuple(answer.waiting_for) or ("it does not say what",)
    return Door(str(path), answer.version, waiting_for, is_apart=_is_apart(run_dir))


def _is_apart(run_dir: Path) -> bool:
    """Whether paths mean something else for that agent than for us, as in its container, or nobody can tell."""
    try:
        return not _has_our_mounts(_server(run_dir))
    except OSError:
        return True


def _server(run_dir: Path) -> int:
    """Return the process that serves there. Raises OSError where none does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(run_dir / "agent.sock"))
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _has_our_mounts(pid: int) -> bool:
    """Raises OSError where nobody can tell: it has ended, or is none that is seen from here."""
    return os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), os.stat("/proc/self/ns/mnt"))
