"""All that KubeVirt needs and a lane cannot get: `python -m e2e.kubevirt prepare`, part of `python -m e2e.prepare`.

Rule 1: what is there already costs nothing, as everywhere here: packages are known by a file, the rest by its folder.
"""

from collections.abc import Mapping
from types import MappingProxyType

from e2e import build, packages
from e2e.kubevirt import images

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "busybox-static": "/bin/busybox",
        "gcc": "/usr/bin/gcc",
        "libc6-dev": "/usr/include/stdlib.h",
        "libvirt-dev": "/usr/include/libvirt/libvirt.h",
        "pkg-config": "/usr/bin/pkg-config",
    }
)
"""What KubeVirt is compiled with (its binding to libvirt is C), and the guest's shell."""


def prepare() -> None:
    """Install, build and pack what is missing."""
    packages.install(PACKAGES)
    build.ensure(build.KUBEVIRT)
    images.archives()
