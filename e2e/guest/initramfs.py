"""The first files of the guest: what it takes to mount the machine's own files, as a cpio archive.

Rule 1: it is made anew for each run, in a few milliseconds: a static busybox, four kernel modules with what they
        depend on, `first.sh`, and the few lines that say what is to be run.
Rule 2: modules come in an order in which they can be loaded, as depmod has found it; nothing is guessed.
"""

import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# the transport and the file system of the machine's files, and what makes them writable for the guest alone
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_APPLETS = ("sh", "mount", "mkdir", "insmod", "switch_root", "cat")
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive; a folder and a link are files with a mode of their own."""

    name: str
    mode: int
    content: bytes = b""


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the entries in the "newc" format that the kernel unpacks (Documentation/driver-api/early-userspace)."""
    return b"".join(_record(number, entry) for number, entry in enumerate((*entries, Entry(_TRAILER, 0)), 1))


def entries(busybox: Path, first: Path, settings: str, modules: Iterable[Path]) -> Iterator[Entry]:
    """Yield what the guest starts from; the kernel executes `first` as /init."""
    for folder in ("bin", "dev", "lower", "modules", "proc", "root", "upper"):
        yield Entry(folder, stat.S_IFDIR | 0o755)
    yield Entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    for applet in _APPLETS:
        yield Entry(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    yield Entry("init", stat.S_IFREG | 0o755, first.read_bytes())
    yield Entry("settings", stat.S_IFREG | 0o644, settings.encode())
    for number, module in enumerate(modules):
        yield Entry(f"modules/{number:02}-{module.name}", stat.S_IFREG | 0o644, module.read_bytes())


def modules(kernel: Path) -> Path:
    """Return the folder of an unpacked kernel's modules, with depmod's lists, which the package leaves to its
    installation.
    """
    folder = next((kernel / "lib/modules").iterdir())
    if not (folder / "modules.devname").exists():  # the last one that it writes
        depmod = ["depmod", "-b", str(kernel), folder.name]
        subprocess.run(depmod, executable=shutil.which("depmod") or kernel / "bin/kmod", check=True)
    return folder


def load_order(wanted: Iterable[str], modules_dep: str) -> tuple[str, ...]:
    """Return the module files to load, each after those that it needs. Raises KeyError for one that there is not.

    In depmod's list each line is a file, a colon, and all that it needs, the first to be loaded last.
    """
    lines = dict(line.split(":", 1) for line in modules_dep.splitlines())
    by_name = {Path(file).name.partition(".")[0].replace("-", "_"): file for file in lines}
    order: dict[str, None] = {}
    for name in wanted:
        file = by_name[name.replace("-", "_")]
        order |= dict.fromkeys([*reversed(lines[file].split()), file])
    return tuple(order)


def _record(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
