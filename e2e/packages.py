"""Install Debian's packages, through apt-get."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from e2e import progress


def install(wanted: Mapping[str, str]) -> None:
    """Install those of the Debian packages that are missing; each is known by a file of it."""
    missing = [name for name, path in wanted.items() if not Path(path).exists()]
    if not missing:
        return
    with progress.step(f"installing Debian packages: {' '.join(missing)}"):
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", *missing)


def _apt_get(*arguments: str) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-qq", *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"apt-get {' '.join(arguments)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
