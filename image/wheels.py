"""The locked Python packages in the image, and our own.

Rules
1. Exactly requirements.lock, by hash; only wheels, but for `ovs`, which has none: its Python source is all of it.
2. Compiled for the image's interpreter, with the source's hash in place of its time: unpacked again it is the same.
3. Tests, type stubs and headers that packages bring along stay out.
"""

from __future__ import annotations

import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from image.layer import File

ROOT = Path(__file__).resolve().parents[1]
SITE = "usr/lib/python3/dist-packages"  # where Debian's interpreter looks
OWN = ("cni", "agent", "controller")
_FROM_SOURCE = "ovs"
_VERSION, _ABI, _PLATFORMS = "3.11", "cp311", ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_NOT_NEEDED = (".pyi", ".h", ".c", ".pyx", ".pxd", ".typed", "/INSTALLER", "/RECORD", "/REQUESTED", "/direct_url.json")
_NOT_NEEDED_FOLDERS = {"__pycache__", "tests", "test"}
_NOT_IMPORTED = ("kubernetes/aio/", "kubernetes/e2e_test/", "kubernetes/docs/")  # a third of the whole image


def third_party(folder: Path) -> dict[str, File]:
    """Install what is locked into `folder`, and return its files by their name in the image. Raises OSError."""
    built = folder / "built"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    lock = ROOT / "requirements.lock"
    _run([*pip, "wheel", "--no-deps", "--no-binary", _FROM_SOURCE, "--require-hashes", "-w", str(built),
          "-r", str(_only(lock, folder, _FROM_SOURCE))])  # fmt: skip
    target = folder / "site-packages"
    platforms = [word for one in _PLATFORMS for word in ("--platform", one)]
    _run([*pip, "install", "--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes", *platforms,
          "--python-version", _VERSION, "--abi", _ABI, "--abi", "abi3", "--abi", "none", "--target", str(target),
          "-r", str(_but(lock, folder, _FROM_SOURCE))])  # fmt: skip
    for wheel in built.glob("*.whl"):
        shutil.unpack_archive(wheel, target, "zip")
    return dict(_files(target))


def own() -> dict[str, File]:
    """Return our packages."""
    return {
        f"{SITE}/{path.relative_to(ROOT)}": File(path.read_bytes())
        for package in OWN
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def compiled(files: dict[str, File], scratch: Path) -> dict[str, File]:
    """Return the files with the interpreter's own form of each module (rule 2)."""
    return dict(files) | dict(_compiled(files, scratch))


def _compiled(files: dict[str, File], scratch: Path) -> Iterator[tuple[str, File]]:
    source, target = scratch / "source.py", scratch / "compiled.pyc"
    for name, file in files.items():
        if name.endswith(".py"):
            source.write_bytes(file.content)
            try:
                py_compile.compile(
                    str(source), str(target), f"/{name}", doraise=True,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )  # fmt: skip
            except py_compile.PyCompileError:
                continue  # templates of other things that end in .py
            folder, _, module = name.rpartition("/")
            cached = f"{folder}/__pycache__/{module.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
            yield cached, File(target.read_bytes())


def _files(target: Path) -> Iterator[tuple[str, File]]:
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target)
        if path.is_file() and _is_wanted(name):
            yield f"{SITE}/{name}", File(path.read_bytes())


def _is_wanted(name: Path) -> bool:
    is_left_out = str(name).endswith(_NOT_NEEDED) or str(name).startswith(("bin/", *_NOT_IMPORTED))
    return not is_left_out and not _NOT_NEEDED_FOLDERS & set(name.parts)


def _only(lock: Path, folder: Path, name: str) -> Path:
    return _written(folder / "only.txt", [one for one in _entries(lock) if one.startswith(f"{name}==")])


def _but(lock: Path, folder: Path, name: str) -> Path:
    return _written(folder / "but.txt", [one for one in _entries(lock) if not one.startswith(f"{name}==")])


def _entries(lock: Path) -> list[str]:
    """Return the lock's requirements, each with its hashes, which are on the indented lines below it."""
    entries: list[str] = []
    for line in lock.read_text().splitlines():
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
