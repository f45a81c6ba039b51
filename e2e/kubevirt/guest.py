"""The guest: Debian's kernel for clouds, and a first file system in memory that is all it has.

Rule 1: it needs no disk: KubeVirt boots both files from an image (`kernelBoot`).
Rule 2: it tells each change of its NICs on the serial console, and answers as qemu-guest-agent (`files/guest_init`).
Rule 3: the checksum of each file is below 2^31: KubeVirt writes it to a field that is a signed number of 32 bits in
        its own definition, and the API server would refuse every status of the VM.
"""

import hashlib
import re
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from e2e import debs
from e2e.guest import initramfs
from e2e.guest.initramfs import Entry
from e2e.kubevirt import launcher

KERNEL = "linux-image-cloud-amd64"
KERNEL_PATH = "/boot/vmlinuz"
INITRD_PATH = "/boot/initrd"
_MODULES = ("virtio_pci", "virtio_net", "virtio_console")
_FOLDERS = ("bin", "dev", "etc", "lib", "lib64", "modules", "proc", "run", "sys", "tmp", "var")
_INIT = Path(__file__).resolve().parent / "files/guest_init"
_BUSYBOX = Path("/bin/busybox")
_CPIO = Path(initramfs.__file__)


def digest() -> str:
    """Return what names the image: a change of anything that it is made from changes it."""
    made_of = [launcher.root() / "VERSIONS", _kernel() / "VERSIONS", _INIT, Path(__file__), _BUSYBOX, _CPIO]
    return hashlib.sha256(b"".join(path.read_bytes() for path in made_of)).hexdigest()[:16]


def write_layer(path: Path) -> None:
    """Write the image's layer: a kernel and its first file system."""
    kernel = next((_kernel() / "boot").glob("vmlinuz-*")).read_bytes()
    with tarfile.open(path, "w") as layer:
        launcher.add_folder(layer, "boot")
        launcher.add_file(layer, KERNEL_PATH.strip("/"), _with_small_checksum(kernel), 0o644)
        archive = initramfs.archive(_entries())
        launcher.add_file(layer, INITRD_PATH.strip("/"), _with_small_checksum(archive), 0o644)


def _kernel() -> Path:
    return debs.unpacked(KERNEL)


def _with_small_checksum(content: bytes) -> bytes:
    """Append zeros, which neither file minds, until the checksum is small enough (rule 3)."""
    while zlib.crc32(content) >= 2**31:
        content += bytes(4)
    return content


def _entries() -> Iterator[Entry]:
    for folder in _FOLDERS:
        yield Entry(folder, stat.S_IFDIR | 0o755)
    yield Entry("init", stat.S_IFREG | 0o755, _INIT.read_bytes())
    yield Entry("bin/busybox", stat.S_IFREG | 0o755, _BUSYBOX.read_bytes())
    listing = subprocess.run([_BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout
    for applet in listing.split():
        if applet != "busybox":
            yield Entry(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    yield Entry("var/run", stat.S_IFLNK | 0o777, b"../run")
    agent = launcher.root() / "usr/sbin/qemu-ga"
    yield Entry("bin/qemu-ga", stat.S_IFREG | 0o755, agent.read_bytes())
    for library in _libraries(agent):
        folder = "lib64" if library.name.startswith("ld-linux") else "lib"
        yield Entry(f"{folder}/{library.name}", stat.S_IFREG | 0o755, library.read_bytes())
    modules = initramfs.modules(_kernel())
    order = initramfs.load_order(_MODULES, (modules / "modules.dep").read_text())
    for number, name in enumerate(order):
        yield Entry(f"modules/{number:02}-{Path(name).name}", stat.S_IFREG | 0o644, (modules / name).read_bytes())


def _libraries(executable: Path) -> Iterable[Path]:
    """Return the libraries of an executable of the container's root, its loader among them."""
    libraries = launcher.root() / "usr/lib/x86_64-linux-gnu"
    loader = libraries / "ld-linux-x86-64.so.2"
    command = [str(loader), "--library-path", str(libraries), "--list", str(executable)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = re.findall(r"=> (/\S+)", found)
    return [loader, *(Path(name) for name in names if Path(name) != loader)]
