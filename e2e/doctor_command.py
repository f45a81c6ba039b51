"""`hotnic-agent doctor` on a node, with the rights that the agent's container has."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e import rights
from e2e.node import Node
from e2e.product import BIN, REPOSITORY


@dataclass(frozen=True, slots=True)
class Told:
    """What it has told: its exit status, and by topic what is wrong or to be looked at."""

    status: int
    findings: tuple[Mapping[str, Any], ...]

    def of(self, topic: str, status: str) -> str:
        """Return what is found of a topic with that status, and what to do, as one text; "": nothing."""
        found = [one for one in self.findings if (one["topic"], one["status"]) == (topic, status)]
        return "\n".join(f"{one['found']} → {one['todo']}" for one in found)

    @property
    def wrong(self) -> set[str]:
        """The topics with something wrong."""
        return {one["topic"] for one in self.findings if one["status"] == "fail"}

    @property
    def to_do(self) -> list[Mapping[str, Any]]:
        """What is not ok, but for what this kernel has not got: tests/agent/test_doctor_kernel.py tries that."""
        return [one for one in self.findings if one["status"] != "ok" and one["topic"] != "kernel"]


def run(node: Node, **places: str | None) -> Told:
    """Have it look. `places`: options by name, with underscores, that are not as usual; None: not said."""
    usual = {"cri": f"unix://{node.cri_socket}", "policy": "/etc/hotnic/policy.yaml",
             "executable": str(REPOSITORY / "bin/hotnic")}  # fmt: skip
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**usual, **places}.items() if value]
    argv = (str(BIN / "hotnic-agent"), "doctor", "--json", *options)
    done = node.exec(rights.of("agent").command(argv), check=False)
    assert done.stderr == "", done.stderr
    return Told(done.returncode, tuple(json.loads(line) for line in done.stdout.splitlines()))
