"""KubeVirt's own custom resource definitions, for clusters without KubeVirt: `python -m e2e.relay.definitions`.

Rule 1: they are printed by KubeVirt's packages (e2e/kubevirt/definitions), once, into the cache outside the tree.
Rule 2: built with the flags of e2e.build's KUBEVIRT, so that Go's cache serves both.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e import build, progress

_SOURCE = Path(__file__).resolve().parent.parent / "kubevirt"


def ensure() -> Path:
    """Print the definitions unless that was done; return the file."""
    digest = hashlib.sha256()
    for path in (_SOURCE / "go.mod", _SOURCE / "go.sum", _SOURCE / "definitions/main.go"):
        digest.update(path.read_bytes())
    target = build.cache() / f"kubevirt-definitions-{digest.hexdigest()[:16]}.json"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        command = ["go", "run", "-trimpath", "./definitions"]
        env = {**os.environ, "CGO_ENABLED": "1", "GOGC": "400"}
        with progress.step("printing KubeVirt's definitions (once; cold it takes minutes)"):
            done = subprocess.run(command, cwd=_SOURCE, env=env, capture_output=True, check=False)
        if done.returncode:
            raise OSError(f"e2e/kubevirt/definitions: {done.stderr.decode()[-3000:]}")
        unfinished = target.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(done.stdout)
        unfinished.rename(target)
    return target


def load() -> list[dict[str, Any]]:
    """Return the definitions: KubeVirt, VirtualMachine, VirtualMachineInstance and its migration."""
    items: list[dict[str, Any]] = json.loads(ensure().read_text())["items"]
    return items


if __name__ == "__main__":
    progress.say(f"KubeVirt's definitions: {ensure()}")
    sys.exit(0)
