"""The root of KubeVirt's containers: Debian's libvirt and QEMU, laid out as KubeVirt's own images are.

Rule 1: what KubeVirt's images configure is taken from KubeVirt's sources, file by file; Debian's packages are not
        configured at all.
Rule 2: `/var/run` is a relative link: virt-handler follows it from outside of the container, where an absolute one
        would lead it to its own.
Rule 3: virt-launcher-monitor may bind to low ports by a file capability, which the layer carries.
"""

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from e2e import build, debs

PACKAGES = (
    "libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86", "qemu-utils",
    "qemu-guest-agent", "bash", "coreutils", "dash", "findutils", "grep", "iproute2", "libcap2-bin", "nftables",
    "procps", "sed", "util-linux",
)  # fmt: skip
_HERE = Path(__file__).resolve().parent
_QEMU_ID = 107
_PASSWD = f"""\
root:x:0:0:root:/root:/bin/bash
qemu:x:{_QEMU_ID}:{_QEMU_ID}::/home/qemu:/bin/bash
libvirt-qemu:x:{_QEMU_ID}:{_QEMU_ID}::/home/qemu:/bin/bash
"""
_GROUP = f"root:x:0:\nqemu:x:{_QEMU_ID}:\nlibvirt-qemu:x:{_QEMU_ID}:\nkvm:x:108:\n"
_UNUSED = (
    "boot", "usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/info", "usr/share/iso-codes",
    "usr/share/perl", "usr/share/perl5", "usr/share/xml", "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base", "usr/games", "etc/passwd", "etc/group", "etc/nsswitch.conf",
    "etc/libvirt/qemu.conf", "etc/libvirt/virtqemud.conf", "var/run", "var/lock",
)  # fmt: skip
# VFS_CAP_REVISION_2 with the effective bit; permitted: CAP_NET_BIND_SERVICE (10). See linux/capability.h.
_MAY_BIND = "".join(map(chr, (1, 0, 0, 2, 0, 4, *[0] * 14)))


def root() -> Path:
    """Return the folder that Debian's packages are unpacked in."""
    return debs.unpacked(*PACKAGES, complete=True)


def sources() -> Path:
    """Return the folder of KubeVirt's own sources."""
    return build.module_folder(build.KUBEVIRT, "kubevirt.io/kubevirt")


def write_system(path: Path) -> None:
    """Write the layer that has all but KubeVirt's executables."""
    excluded = [f"--exclude=./{name}" for name in _UNUSED]
    tar = ["tar", "-c", "-f", str(path), "--format=pax", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]
    environment = {**os.environ, "LC_ALL": "C"}
    subprocess.run([*tar, *excluded, "-C", str(root()), "."], check=True, env=environment)
    with tarfile.open(path, "a") as layer:
        for name in ("run/lock", "home/qemu", "var/lib/libvirt/qemu", "var/log/libvirt/qemu", "usr/lib64/qemu-kvm"):
            add_folder(layer, name)
        for name, target in {"var/run": "../run", "var/lock": "../run/lock", "usr/bin/sh": "dash"}.items():
            _add_link(layer, name, target)
        for name, (content, mode) in _configuration().items():
            add_file(layer, name, content, mode)


def write_executables(path: Path) -> None:
    """Write the layer with KubeVirt's executables, but virt-handler."""
    folder = build.ensure(build.KUBEVIRT)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as layer:
        for executable in sorted(folder.iterdir()):
            if executable.name not in {"virt-handler", build.KUBEVIRT.name}:
                capability = _MAY_BIND if executable.name == "virt-launcher-monitor" else ""
                add_file(layer, f"usr/bin/{executable.name}", executable.read_bytes(), 0o755, capability)
        labeller = sources() / "cmd/virt-launcher/node-labeller/node-labeller.sh"
        add_file(layer, "usr/bin/node-labeller.sh", labeller.read_bytes(), 0o755)


def _configuration() -> Mapping[str, tuple[bytes, int]]:
    theirs = sources() / "cmd/virt-launcher"
    return {
        "etc/passwd": (_PASSWD.encode(), 0o644),
        "etc/group": (_GROUP.encode(), 0o644),
        "etc/nsswitch.conf": ((theirs / "nsswitch.conf").read_bytes(), 0o644),
        "etc/libvirt/qemu.conf": ((theirs / "qemu.conf").read_bytes(), 0o644),
        "etc/libvirt/virtqemud.conf": ((theirs / "virtqemud.conf").read_bytes(), 0o644),
        "etc/libvirt/virtlogd.conf": (b"", 0o644),
        "etc/libvirt/hooks/qemu": ((theirs / "qemu").read_bytes(), 0o755),
        "usr/sbin/virtqemud": ((_HERE / "files/virtqemud").read_bytes(), 0o755),
    }


def add_folder(layer: tarfile.TarFile, name: str) -> None:
    """Add an empty folder of root's to a layer."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    layer.addfile(entry)


def add_file(layer: tarfile.TarFile, name: str, content: bytes, mode: int, capability: str = "") -> None:
    """Add a file of root's to a layer; `capability`: as the extended attribute has it, each byte below 128."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    if capability:
        entry.pax_headers = {"SCHILY.xattr.security.capability": capability}
    layer.addfile(entry, io.BytesIO(content))


def _add_link(layer: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    layer.addfile(entry)
