"""The end-to-end tests: `python -m e2e.suite [pytest arguments]`.

First those that look at lanes from outside, then each group in a lane of its own.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from e2e import runtimes
from e2e.progress import say

# Groups need different nodes: with Multus, the CNI of every pod is another one. Each: container runtime, tests.
LANES = {
    "hotnic alone": (runtimes.DEBIAN, "e2e/tests"),
    "reboot and soak": (runtimes.DEBIAN, "e2e/reboot"),
    "beside Multus": (runtimes.DEBIAN, "e2e/multus"),
    "other callers": (runtimes.DEBIAN, "e2e/callers"),
    "containerd 2": ("containerd2", "e2e/cri"),
    "CRI-O": ("crio", "e2e/cri"),
    "overlays": (runtimes.DEBIAN, "e2e/overlay"),
    "the relay": (runtimes.DEBIAN, "e2e/relay"),
    "virtual machines": (runtimes.DEBIAN, "e2e/vm"),
    "KubeVirt": (runtimes.DEBIAN, "e2e/kubevirt"),
}
NODES = {"overlays": 2, "virtual machines": 2, "KubeVirt": 2}
OUTSIDE = ("-m", "lane", "tests")
_NOTHING_SELECTED = 5  # pytest's exit code; fine where arguments select


def main(arguments: Sequence[str]) -> int:
    """Run every group, also after one failed; return 0 if all passed."""
    pytest = (sys.executable, "-m", "pytest", "-q", "--durations=5", *arguments)
    lane = (sys.executable, "-m", "e2e.lane", "run", "--runtime")
    codes = [_run("lanes from outside", (*pytest, *OUTSIDE))]
    codes += [
        _run(name, (*lane, runtime, *_nodes(name), "--", *pytest, path)) for name, (runtime, path) in LANES.items()
    ]
    return 0 if all(code == 0 or (arguments and code == _NOTHING_SELECTED) for code in codes) else 1


def _nodes(name: str) -> tuple[str, ...]:
    return ("--nodes", str(NODES.get(name, 1)))


def _run(name: str, command: Sequence[str]) -> int:
    started = time.monotonic()
    say(f"end-to-end tests: {name}")
    code = subprocess.run(command, check=False).returncode
    say(f"end-to-end tests: {name}: exit {code} after {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
