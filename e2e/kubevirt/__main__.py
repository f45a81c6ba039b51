"""KubeVirt in a lane: `python -m e2e.kubevirt prepare|up|demo`.

prepare: install and build what is missing, outside of a lane. up: install KubeVirt in the lane that this is executed
in. demo: a VM gets a NIC while it runs, and loses it again; makes a lane of its own, unless it is executed in one.
"""

import argparse
import os
import subprocess
import sys

from e2e.cluster import Cluster
from e2e.kubevirt import installation, parts
from e2e.kubevirt.demo import Demo


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m e2e.kubevirt", description=__doc__)
    parser.add_argument("verb", choices=("prepare", "up", "demo"))
    match parser.parse_args().verb:
        case "prepare":
            parts.prepare()
        case "up":
            installation.install(Cluster.from_environment())
        case _ if os.environ.get("HOTNIC_LANE"):
            Demo().run()
        case _:
            parts.prepare()
            lane = [sys.executable, "-m", "e2e.lane", "run", "--"]
            again = [sys.executable, "-m", "e2e.kubevirt", "demo"]
            return subprocess.run([*lane, *again], check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
