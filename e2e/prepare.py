"""Bring the machine to where a lane can start: `python -m e2e.prepare`.

Rule 1: what is there already costs nothing: each package is known by a file of it, each build by its folder.
Rule 2: only Debian's packages and Go's module proxy are asked, through apt-get and go.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from e2e import build, images, progress, runtimes

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "busybox-static": "/bin/busybox",
        "conmon": "/usr/bin/conmon",
        "containerd": "/usr/bin/containerd",
        "gcc": "/usr/bin/gcc",
        "iproute2": "/sbin/ip",
        "libc6-dev": "/usr/include/stdlib.h",
        "nftables": "/usr/sbin/nft",
        "openssl": "/usr/bin/openssl",
        "podman": "/usr/bin/podman",
        "procps": "/bin/ps",
        "python3": "/usr/bin/python3",
        "runc": "/usr/sbin/runc",
        "util-linux": "/usr/bin/nsenter",
    }
)
"""The Debian packages that a lane needs, each with a file by which it is known."""


def everything(*names: str) -> None:
    """Install and build what a lane with these container runtimes needs and this machine lacks."""
    packages()
    for name in build.COMPONENTS:
        build.component(name)
    build.tools()
    for name in names:
        runtimes.prepare(name)
    images.archives()


def packages() -> None:
    """Install the Debian packages that are missing."""
    missing = [name for name, path in PACKAGES.items() if not Path(path).exists()]
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


if __name__ == "__main__":
    everything(*runtimes.BY_NAME)
    progress.say("all that a lane needs is there")
    sys.exit(0)
