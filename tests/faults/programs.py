"""What victims run: the product's own `main`, with its waits made short.

Rule 1: only numbers are changed, those of waits that a story would else sit through; nothing that decides.
"""

import os
import posix
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import agent.__main__
import controller.__main__
from agent import cni_server, collect, retries, workers
from agent.audit import command
from agent.guests import turns
from cni import forward
from controller import follow, leader
from controller import workers as controller_workers
from tests.faults import machine
from tests.faults.victims import Program

SOON_S = 0.1


def agent_main(asked: Mapping[str, Any]) -> None:
    """The node agent. `folder`: all that it has; `cri`, `plugins`: as its options."""
    folder = Path(asked["folder"])
    _log(folder)
    _hurry()
    sys.argv = [
        "hotnic-agent", "--run-dir", f"{folder}/run", "--state-dir", f"{folder}/state", "--cri", asked["cri"],
        "--cni-bin-dir", asked["plugins"], "--cni-conf-dir", f"{folder}/net.d", "--cni-cache-dir", f"{folder}/cache",
    ]  # fmt: skip
    sys.exit(agent.__main__.main())


def executable_main(asked: Mapping[str, Any]) -> None:
    """The CNI executable, for one call. `environ`, `stdin`, and `stdout`: the file that gets what it prints."""
    posix.environ.clear()
    posix.environ.update({name.encode(): value.encode() for name, value in asked["environ"].items()})
    os.dup2(os.open(asked["stdin"], os.O_RDONLY), 0)
    os.dup2(os.open(asked["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
    sys.exit(forward.run(posix.environ))


def collector_main(asked: Mapping[str, Any]) -> None:
    """The node agent, which collects garbage all the time, and takes no young namespace for one in the making."""
    collect.LOOK_S = collect.PERIOD_S = collect.RETRY_S = SOON_S
    collect.BORN_S = 0.0
    agent_main(asked)


def audit_main(asked: Mapping[str, Any]) -> None:
    """`hotnic-agent audit --repair`. `folder`, `cri`: as the agent's; `plugins`: directories."""
    folder = Path(asked["folder"])
    _log(folder)
    command.LEAST_GUARD_S = 0.0
    sys.argv = [
        "hotnic-agent", "audit", "--repair", "--guard", "0", "--run-dir", f"{folder}/run",
        "--state-dir", f"{folder}/state", "--cri", asked["cri"], "--cni-bin-dir", *asked["plugins"],
        "--cni-conf-dir", f"{folder}/net.d", "--cni-cache-dir", f"{folder}/cache",
    ]  # fmt: skip
    sys.exit(agent.__main__.main())


def controller_main(asked: Mapping[str, Any]) -> None:
    """The controller of one node. `agent`, `kubeconfig`: as its options."""
    _log(Path(asked["folder"]))
    for module in (controller_workers, follow):
        module.FIRST_RETRY_S, module.LAST_RETRY_S = 0.02, SOON_S
    sys.argv = ["hotnic-controller", "node", "--node-name", "node-1", "--agent", asked["agent"]]
    sys.argv += ["--kubeconfig", asked["kubeconfig"]]
    sys.exit(controller.__main__.main())


def cluster_main(asked: Mapping[str, Any]) -> None:
    """The controller's cluster role. `kubeconfig`: as its option."""
    _log(Path(asked["folder"]))
    for module in (controller_workers, follow):
        module.FIRST_RETRY_S, module.LAST_RETRY_S = 0.02, SOON_S
    leader.LEASE_S, leader.LEAD_S, leader.RETRY_S = 1.0, 0.7, 0.1
    sys.argv = ["hotnic-controller", "cluster", "--kubeconfig", asked["kubeconfig"], "--lease-namespace", "hotnic"]
    sys.exit(controller.__main__.main())


def _hurry() -> None:
    retries.FIRST_S = 0.02
    retries.Retries.failed.__defaults__ = (SOON_S,)
    turns.LONGEST_S = SOON_S
    cni_server.TOMBSTONES_S = SOON_S
    cni_server.UNFINISHED_S = 1.0
    late = workers.Workers.touch_after
    workers.Workers.touch_after = lambda self, key, seconds: late(self, key, min(seconds, SOON_S + 0.02))


def _log(folder: Path) -> None:
    """Put what is said into a file beside the folder, which is not looked at by the audit."""
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)


PROGRAMS: Mapping[str, Program] = {
    "agent": agent_main, "controller": controller_main, "machine": machine.main, "executable": executable_main,
    "audit": audit_main, "cluster": cluster_main,
    "collector": collector_main,
}  # fmt: skip
