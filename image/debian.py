"""Debian's packages in the image: which, in which version, and what of them.

`debian.lock` has a line for each: name, version, SHA-256 of the archive. No resolver chooses at build time: what the
interpreter and the wheels load is found out by `image.needs`, and the build fails where something is missing.

Rules
1. An archive that is not the locked one is never used. A mirror keeps only the newest of a release: where the locked
   one is gone, the build says so and stops; `make lock-image` takes what there is now.
2. Of a package only files come into the image: no maintainer script is run. What it is called, and its version, is
   where scanners of images look for it where there is no dpkg (/var/lib/dpkg/status.d).
3. The licences come along (usr/share/doc/*/copyright).
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from image.layer import File

LOCK = Path(__file__).with_name("debian.lock")
PYTHON = "python3.11"
# `base-files` says which Debian this is; scanners ask for it
PACKAGES = (
    "base-files", "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libpython3.11-minimal",
    "libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libstdc++6", "libuuid1", f"{PYTHON}-minimal", "zlib1g",
)  # fmt: skip

_STDLIB = f"usr/lib/{PYTHON}/"
# extension modules whose libraries would come for them alone, and what nobody imports in a daemon
_LEFT_OUT = tuple(_STDLIB + name for name in (
    "lib-dynload/_crypt.", "lib-dynload/_curses", "lib-dynload/_dbm.", "lib-dynload/nis.",
    "lib-dynload/readline.", "lib-dynload/_ctypes_test", "lib-dynload/_test", "lib-dynload/_xxtestfuzz", "curses/",
    "dbm/", "ensurepip/", "idlelib/", "lib2to3/", "pydoc_data/", "test/", "tkinter/", "turtle.py",
    "venv/", "distutils/", "EXTERNALLY-MANAGED", "sitecustomize.py",
))  # fmt: skip
_KEPT = ("usr/lib/x86_64-linux-gnu/", "lib/x86_64-linux-gnu/", "lib64/", "usr/lib64/", _STDLIB, f"usr/bin/{PYTHON}")
_KEPT_FILES = ("usr/lib/os-release", "etc/debian_version")
_NOT_LOADED = ("gconv/", "audit/", "engines-3/", "perl-base/")


@dataclass(frozen=True, slots=True)
class Locked:
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.sha256}"


def locked() -> tuple[Locked, ...]:
    """Return what debian.lock says. Raises ValueError where it has not all packages."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    found = tuple(Locked(*line) for line in lines)
    if [one.name for one in found] != sorted(PACKAGES):
        raise ValueError(f"{LOCK.name} does not have the packages of image/debian.py: make lock-image")
    return found


def files(folder: Path) -> dict[str, File]:
    """Download what is locked into `folder`; return what the image wants of it. Raises OSError (rule 1)."""
    found: dict[str, File] = {}
    for one in locked():
        archive = _download(f"{one.name}={one.version}", folder / one.name)
        if (digest := _sha256(archive)) != one.sha256:
            raise OSError(f"{one.name} {one.version} has SHA-256 {digest}, locked is {one.sha256}")
        about = _run(["dpkg-deb", "--field", str(archive)], folder)
        found |= dict(_unpacked(archive)) | {f"var/lib/dpkg/status.d/{one.name}": File(about.encode())}
    return found


def renewed() -> str:
    """Return the lock's text for what Debian has now. Raises OSError."""
    lines = ["# name, version, SHA-256; made by `make lock-image`"]
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(PACKAGES):
            archive = _download(name, Path(folder, name))
            version = _run(["dpkg-deb", "--field", str(archive), "Version"], Path(folder)).strip()
            lines.append(str(Locked(name, version, _sha256(archive))))
    return "\n".join(lines) + "\n"


def _unpacked(archive: Path) -> Iterator[tuple[str, File]]:
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as content,
        tarfile.open(fileobj=content.stdout, mode="r|") as tar,
    ):
        for entry in tar:
            name = entry.name.removeprefix("./")
            if not _is_wanted(name):
                continue
            if entry.issym():
                yield name, File(target=entry.linkname)
            elif file := tar.extractfile(entry):
                yield name, File(file.read(), is_executable=bool(entry.mode & 0o111))
    if content.returncode:
        raise OSError(f"{archive.name} cannot be unpacked")


def _is_wanted(name: str) -> bool:
    if name.startswith("usr/share/doc/"):
        return name.endswith("/copyright")
    if name in _KEPT_FILES:
        return True
    return name.startswith(_KEPT) and not name.startswith(_LEFT_OUT) and not any(one in name for one in _NOT_LOADED)


def _download(package: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]
    try:
        _run([*command, "download", package], folder)
    except OSError:
        _run([*command, "update"], folder)  # the lists name what is no longer there, or there are none yet
        try:
            _run([*command, "download", package], folder)
        except OSError as problem:
            raise OSError(f"Debian has {package} no more, or not here: make lock-image\n{problem}") from None
    return next(folder.glob("*.deb"))


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return done.stdout


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
