"""A node whose plugins leave processes behind, and a network with settings: a chain of both.

Rules
1. What a plugin leaves behind lives on while its agent does, and is reaped when it ends; the next agent ends it.
2. The last plugin of the chain changes nothing: all that there is to be seen is ours.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.injection import ERROR, Fault
from tests.faults.node import BOUND_S, Node, Pod, Wrong
from tests.faults.victims import Nursery

_STRAGGLER = """
import json, os, subprocess, sys
asked = json.load(sys.stdin)
if os.environ["CNI_COMMAND"] == "ADD":
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen(["sleep", "86399"], start_new_session=True, **nowhere)
    print(json.dumps(asked["prevResult"]))
"""
_SETTING = "net/ipv4/conf/IFNAME/arp_filter"


class PluggedNode(Node):
    """With a directory of plugins of its own."""

    SCRIPTS: Mapping[str, str] = {"straggler": _STRAGGLER}

    def __init__(self, nursery: Nursery, folder: Path, plugins: Path, effects: list[str]) -> None:
        own = folder.parent / "plugins"
        own.mkdir()
        for plugin in plugins.iterdir():
            (own / plugin.name).symlink_to(plugin)
        for name, text in self.SCRIPTS.items():
            (own / name).write_text(f"#!{sys.executable} -IS\n{text}")
            (own / name).chmod(0o755)
        super().__init__(nursery, folder, own, effects)

    def attachment(self, number: int) -> Mapping[str, Any]:
        addresses = [{"address": f"fd00:{number}::7/64"}]
        ours = {
            "type": "hotnic", "device": "bridge", "bridge": "br-blue", "sysctl": {_SETTING: "1"},
            "ipam": {"type": "static", "addresses": addresses},
        }  # fmt: skip
        config = {"cniVersion": "1.0.0", "name": f"violet-{number}", "plugins": [ours, {"type": "straggler"}]}
        return {"config": config, "element": {"interface": f"net{number}"}}

    def refuse_unset(self, pod: Pod, ifname: str) -> None:
        path = f"/proc/sys/{_SETTING.replace('IFNAME', ifname)}"
        command = ["nsenter", f"--net={pod.sandbox.netns}", "cat", path]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        if found != "1":
            raise Wrong(f"{path} is {found}")

    def end_stragglers(self) -> None:
        """Kill what plugins have left behind, and wait until the agent has reaped it (rule 1)."""
        for pid in self._stragglers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._await(lambda: not self._stragglers(), "is not reaped")

    def await_ended(self, kind: str) -> None:
        """Wait until a new agent has ended what the last one's plugins left behind.

        One that met an error may have overlooked it, and the one after it does not.
        """
        if kind == ERROR and self._living_stragglers():
            self.living().end()
            self.start()
        self._await(lambda: not self._living_stragglers(), "lives on")

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        ends = time.monotonic() + BOUND_S
        while not is_so():
            self.living()
            self._meanwhile_or_wait(None)
            if time.monotonic() > ends:
                raise Wrong(f"what a plugin left behind {what}: {self._stragglers()}\n{self.log()}")

    def _living_stragglers(self) -> list[int]:
        return [pid for pid, state in self._stragglers().items() if state != "Z"]

    @staticmethod
    def _stragglers() -> dict[int, str]:
        """Return them with their states. Those of dead agents have become our children, and are reaped here."""
        found: dict[int, str] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                command, _, rest = path.read_text().partition("(")[2].rpartition(")")
                if command == "sleep":
                    found[int(path.parts[2])] = rest.split()[0]
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return found


def plugins(node: PluggedNode, fault: Fault) -> Mapping[str, int]:
    """Attach; what was left behind ends; attach another, the agent dies, and a new one ends what was left; the end."""
    pod, calls = node.pod(), Counter[str]()
    agent = node.living()
    agent.arm(fault)
    node.settle(pod, [node.attachment(1)])
    node.refuse_unset(pod, "net1")
    node.end_stragglers()
    node.settle(pod, [node.attachment(1), node.attachment(2)])
    calls.update(agent.counted() if not agent.is_dead else {})
    node.living().end()
    agent = node.start(Fault(fault.effect, max(fault.number - calls[fault.effect], 0), fault.kind))
    node.await_ended(fault.kind)
    node.settle(pod, [node.attachment(1), node.attachment(2)])
    node.end(pod)
    calls.update(agent.counted() if not agent.is_dead else {})
    node.living().arm(Fault())
    node.end_stragglers()
    node.end_sandbox(pod.sandbox)
    return calls
