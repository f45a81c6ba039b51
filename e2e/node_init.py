"""The init of a node: `python -m e2e.node_init NAME FOLDER`.

It makes the node's namespaces and mounts, says so by the file FOLDER/ready, and from then on only reaps orphans.
Killing it is the node's power switch.
"""

import os
import sys
from pathlib import Path

from e2e import cgroups, namespaces


def main(name: str, folder: Path) -> int:
    """Be the node until killed."""
    cgroups.create(cgroups.hierarchies(), name)

    def enter() -> None:
        namespaces.enter_node(name, folder / "root")
        (folder / "ready").touch()

    pid = namespaces.fork_init(enter, None, lambda: None)
    return namespaces.exit_code(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
