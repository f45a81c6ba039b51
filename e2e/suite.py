"""The end-to-end tests, each group in a lane of its own: `python -m e2e.suite [pytest arguments]`."""

import subprocess
import sys
import time
from collections.abc import Sequence

from e2e.progress import say

# Groups need different nodes: with Multus, the CNI of every pod is another one.
LANES = {
    "hotnic alone": ("e2e/tests",),
    "beside Multus": ("e2e/multus",),
}


def main(arguments: Sequence[str]) -> int:
    """Run every group, also after one failed; return 0 if all passed."""
    failed = []
    for name, paths in LANES.items():
        started = time.monotonic()
        say(f"end-to-end tests: {name}")
        pytest = [sys.executable, "-m", "pytest", "-q", "--durations=5", *arguments, *paths]
        done = subprocess.run([sys.executable, "-m", "e2e.lane", "run", "--", *pytest], check=False)
        say(f"end-to-end tests: {name}: exit {done.returncode} after {time.monotonic() - started:.0f} s")
        if done.returncode:
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
