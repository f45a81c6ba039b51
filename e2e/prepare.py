"""Bring the machine to where a lane can start: `python -m e2e.prepare`.

Rule 1: what is there already costs nothing: each package is known by a file of it, each build by its folder.
Rule 2: only Debian's packages and Go's module proxy are asked, through apt-get and go.
"""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from e2e import build, debs, images, packages, progress, runtimes

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "busybox-static": "/bin/busybox",
        "conmon": "/usr/bin/conmon",
        "containerd": "/usr/bin/containerd",
        "gcc": "/usr/bin/gcc",
        "iproute2": "/sbin/ip",
        "libc6-dev": "/usr/include/stdlib.h",
        "libfaketime": "/usr/share/doc/libfaketime/copyright",
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
    packages.install(PACKAGES)
    for name in build.COMPONENTS:
        build.component(name)
    build.tools()
    for name in names:
        runtimes.prepare(name)
    images.archives()


def debian() -> None:
    """Install and fetch all that comes from Debian, for all lanes and all tests on the kernel.

    Then nobody asks apt any more, which does not like to be asked by two at once.
    """
    # here, since a lane, which imports this module, can be without
    from e2e.guest import machine  # noqa: PLC0415
    from e2e.kubevirt import launcher, parts  # noqa: PLC0415
    from image import parts as image  # noqa: PLC0415
    from tests import guests, libvirtd  # noqa: PLC0415

    packages.install({**PACKAGES, **parts.PACKAGES})
    for names in (debs.OPENVSWITCH, machine.KERNEL, guests.QEMU, guests.KERNEL, guests.AGENT, libvirtd.PACKAGES):
        debs.unpacked(*names)
    debs.unpacked(*machine.QEMU, backports=True)
    launcher.root()
    with progress.step("fetching what the image is made of (once)"):
        image.third_party()


def main(arguments: Sequence[str]) -> int:
    """Prepare everything, or with the argument `debian` that only."""
    debian()
    if arguments != ["debian"]:
        from e2e.kubevirt import parts  # noqa: PLC0415
        from e2e.relay import definitions  # noqa: PLC0415

        everything(*runtimes.BY_NAME)
        parts.prepare()
        definitions.ensure()
        progress.say("all that a lane needs is there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
