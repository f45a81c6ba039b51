"""The end-to-end tests: `python -m e2e.suite [pytest arguments]`.

First the image is made, then come the tests that look at lanes from outside, then each group in a lane of its own.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from e2e import installed, runtimes
from e2e.progress import say


@dataclass(frozen=True, slots=True)
class Lane:
    """A group of tests, and the cluster that it needs."""

    tests: tuple[str, ...]
    runtime: str = runtimes.DEBIAN
    nodes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


# What users rely on first, of e2e/tests. Not there: what looks at the tools of the tests themselves (test_auditor), at
# the manifests' objects (test_manifests, test_admission), and the audit of a node with an agent that is started by hand
# (test_audit_command). They are with the processes, and with the image they would be the same.
_NAMES = "plug elements update lifecycle trouble policy refused_edits drift image installation stuck"
_FOUNDATION = tuple(f"e2e/tests/test_{name}.py" for name in _NAMES.split())

# Groups need different nodes: with Multus, the CNI of every pod is another one.
LANES = {
    "hotnic alone": Lane(("e2e/tests",)),
    "hotnic installed": Lane(_FOUNDATION, environment={installed.CHOICE: "1"}),
    "reboot and soak": Lane(("e2e/reboot",)),
    "an upgrade": Lane(("e2e/upgrade",), nodes=2),
    "beside Multus": Lane(("e2e/multus",)),
    "other callers": Lane(("e2e/callers",)),
    "containerd 2": Lane(("e2e/cri",), "containerd2"),
    "CRI-O": Lane(("e2e/cri",), "crio"),
    "overlays": Lane(("e2e/overlay",), nodes=2),
    "the relay": Lane(("e2e/relay",)),
    "virtual machines": Lane(("e2e/vm",), nodes=2),
    "KubeVirt": Lane(("e2e/kubevirt",), nodes=2),
}
OUTSIDE = ("-m", "lane", "tests")
_NOTHING_SELECTED = 5  # pytest's exit code; fine where arguments select


def main(arguments: Sequence[str]) -> int:
    """Run every group, also after one failed; return 0 if all passed."""
    pytest = (sys.executable, "-m", "pytest", "-q", "--durations=5", *arguments)
    codes = [_run("the image", (sys.executable, "-m", "image")), _run("lanes from outside", (*pytest, *OUTSIDE))]
    for name, lane in LANES.items():
        enter = (sys.executable, "-m", "e2e.lane", "run", "--runtime", lane.runtime, "--nodes", str(lane.nodes), "--")
        codes.append(_run(name, (*enter, *pytest, *lane.tests), lane.environment))
    return 0 if all(code == 0 or (arguments and code == _NOTHING_SELECTED) for code in codes) else 1


def _run(name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    started = time.monotonic()
    say(f"end-to-end tests: {name}")
    code = subprocess.run(command, check=False, env={**os.environ, **(environment or {})}).returncode
    say(f"end-to-end tests: {name}: exit {code} after {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
