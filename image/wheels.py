"""The locked Python packages in the image, and our own.

Rules
1. Exactly requirements.lock, by hash. What is chosen goes by the image's interpreter, not by the building one.
2. Nothing is built, so that no compiler or build tool has a say: wheels, and of `ovs`, which has none, the Python
   source, which is all that it needs.
3. Tests, type stubs, headers and what nobody imports stay out.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from image.layer import File

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
SITE = "usr/lib/python3/dist-packages"  # where Debian's interpreter looks
OWN = ("cni", "agent", "controller")
_FROM_SOURCE = "ovs"
_VERSION, _ABI, _PLATFORMS = "3.11", "cp311", ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_NOT_NEEDED = (".pyi", ".h", ".c", ".pyx", ".pxd", ".typed", "/INSTALLER", "/RECORD", "/REQUESTED", "/direct_url.json")
_NOT_NEEDED_FOLDERS = {"__pycache__", "tests", "test"}
_NOT_IMPORTED = ("kubernetes/aio/", "kubernetes/e2e_test/", "kubernetes/docs/", "ovs/flowviz/")  # a third of the image


def third_party(folder: Path) -> dict[str, File]:
    """Fetch what is locked into `folder`, and return its files by their name in the image. Raises OSError."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    target, sources = folder / "site-packages", folder / "sources"
    from_source = [one for one in _entries() if _name(one) == _FROM_SOURCE]
    wheels = [one for one in _entries() if _name(one) != _FROM_SOURCE]
    platforms = [word for one in _PLATFORMS for word in ("--platform", one)]
    _run([*pip, "install", "--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes", *platforms,
          "--python-version", _VERSION, "--abi", _ABI, "--abi", "abi3", "--abi", "none", "--target", str(target),
          "-r", str(_written(folder / "wheels.txt", wheels))])  # fmt: skip
    _run([*pip, "download", "--no-deps", "--no-binary", _FROM_SOURCE, "--require-hashes", "-d", str(sources),
          "-r", str(_written(folder / "sources.txt", from_source))])  # fmt: skip
    return dict(_files(target)) | dict(_of_source(next(sources.glob("*.tar.gz"))))


def locked() -> list[tuple[str, str]]:
    """Return name and version of all that is locked."""
    lines = (entry.splitlines()[0].removesuffix(" \\") for entry in _entries())
    return [(name, version) for name, _, version in (line.partition("==") for line in lines)]


def own() -> dict[str, File]:
    """Return our packages."""
    return {
        f"{SITE}/{path.relative_to(ROOT)}": File(path.read_bytes())
        for package in OWN
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def _files(target: Path) -> Iterator[tuple[str, File]]:
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target)
        if path.is_file() and _is_wanted(name):
            yield f"{SITE}/{name}", File(path.read_bytes())


def _of_source(archive: Path) -> Iterator[tuple[str, File]]:
    """Yield the package and the description of a source archive, which is all below one folder."""
    with tarfile.open(archive) as content:
        for entry in content:
            top, _, name = entry.name.partition("/")
            name = f"{top}.dist-info/METADATA" if name == "PKG-INFO" else name
            file = content.extractfile(entry) if entry.isreg() else None
            if file and name.startswith((f"{_FROM_SOURCE}/", f"{top}.dist-info/")) and _is_wanted(Path(name)):
                yield f"{SITE}/{name}", File(file.read())


def _is_wanted(name: Path) -> bool:
    is_left_out = str(name).endswith(_NOT_NEEDED) or str(name).startswith(("bin/", *_NOT_IMPORTED))
    return not is_left_out and not _NOT_NEEDED_FOLDERS & set(name.parts)


def _name(entry: str) -> str:
    return entry.partition("==")[0]


def _entries() -> list[str]:
    """Return the lock's requirements, each with its hashes, which are on the indented lines below it."""
    entries: list[str] = []
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            entries.append(line)
        elif entries and line.strip().startswith("--hash"):
            entries[-1] += "\n" + line
    return entries


def _written(path: Path, entries: list[str]) -> Path:
    path.write_text("\n".join(entries) + "\n")
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command[:6])} …: {done.stderr[-2000:]}")
