"""`hotnic-agent audit` on a node, with the rights that the agent's container has."""

import json
import time
from typing import Any

from e2e import rights
from e2e.node import Node
from e2e.product import BIN

GUARD_S = 3  # tests cannot wait until their leaks are five minutes old
REPAIR_GUARD_S = 60  # nothing less is allowed with --repair


def run(node: Node, *arguments: str, free: bool = False) -> tuple[int, list[dict[str, Any]], str]:
    """Return its exit status, its findings and its complaints. `free`: as an administrator of the node."""
    options = ("--json", f"--cri=unix://{node.cri_socket}", f"--guard={GUARD_S}", *arguments)
    argv = (str(BIN / "hotnic-agent"), "audit", *options)
    done = node.exec(argv if free else rights.of("agent").command(argv), check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def repair(node: Node, *, free: bool = False) -> tuple[int, list[dict[str, Any]], str]:
    """Have mended what is old enough for it."""
    return run(node, "--repair", f"--guard={REPAIR_GUARD_S}", free=free)


def wait_clean(node: Node, timeout: float = 30) -> None:
    """Nothing is left: what agent and runtime are at just now is left to them for a while."""
    end = time.monotonic() + timeout
    while (found := run(node)) != (0, [], ""):
        assert time.monotonic() < end, found
        time.sleep(0.5)
