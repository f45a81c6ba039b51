"""The parts of the image, each a layer of its own: Debian's interpreter and libraries, the Python packages, hotnic.

Rules
1. They are in the order of how seldom they change: a new version of hotnic is one small layer.
2. The first two follow from the locks and from this package alone, so they are kept in the user's cache, under the hash
   of these. What is there is whole: it was renamed into place.
3. Layers are compiled and compressed by the image's own interpreter.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from image import debian, interpreter, layer, needs, system, wheels
from image.layer import File, Layer

SYSTEM, PACKAGES, OWN = "Debian's libraries and interpreter", "Python packages", "hotnic"
EXECUTABLES = "opt/hotnic/bin"  # what an installer puts into a node's CNI directory
COMMANDS = {
    "hotnic-agent": "agent.__main__",
    "hotnic-controller": "controller.__main__",
    "hotnic-standalone": "agent.standalone",
}
_COMMAND = """#!/usr/bin/{python} -I
import sys
from {module} import main
sys.exit(main())
"""
# those of the manifests; numbers alone would do, but `ps` in a debugging container shows these
_USERS = {"root": 0, "hotnic-node": 65414, "hotnic-cluster": 65532}
_HERE = Path(__file__).parent


def layers(*, from_cache: bool = True) -> dict[str, Layer]:
    """Return the layers by what they are. Raises OSError where something cannot be had."""
    others = third_party() if from_cache else _made()
    with interpreter.of(layer.unpacked(others[0])) as pack:
        blobs = (*others, pack(wheels.own() | dict(_own())))
    return dict(zip((SYSTEM, PACKAGES, OWN), map(layer.layer, blobs), strict=True))


def third_party() -> tuple[bytes, bytes]:
    """Return the blobs of the first two, made now where the cache does not have them (rule 2). Raises OSError."""
    folder = _cache()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".image-", dir=folder.parent) as scratch:
            for name, blob in zip((SYSTEM, PACKAGES), _made(), strict=True):
                Path(scratch, name).write_bytes(blob)
            with suppress(FileExistsError):  # somebody else was quicker
                Path(scratch).rename(folder)
                Path(scratch).mkdir()  # which the end of this block removes
    return (folder / SYSTEM).read_bytes(), (folder / PACKAGES).read_bytes()


def version() -> str:
    """Return the version of the tree that the image is made from."""
    found: str = tomllib.loads((wheels.ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def _cache() -> Path:
    sources = (debian.LOCK, wheels.LOCK, *sorted(_HERE.glob("*.py")))
    hashed = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)).hexdigest()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hotnic", f"image-parts-{hashed[:16]}")


def _made() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory(prefix="hotnic-image-") as folder:
        debians = system.merged(debian.files(Path(folder, "debian")))
        packages = wheels.third_party(Path(folder))
    if missing := needs.missing({**debians, **packages}):
        raise OSError(f"libraries that the image asks for and has not: {missing}")
    with interpreter.of(debians) as pack:
        return pack(debians), pack(packages)


def _own() -> Iterator[tuple[str, File]]:
    for name, module in COMMANDS.items():
        text = _COMMAND.format(python=debian.PYTHON, module=module)
        yield f"usr/bin/{name}", File(text.encode(), is_executable=True)
    for name in ("hotnic", "hotnic.py"):
        yield f"{EXECUTABLES}/{name}", File((wheels.ROOT / "bin" / name).read_bytes(), is_executable=True)
    about = f"Metadata-Version: 2.1\nName: hotnic\nVersion: {version()}\nLicense: Apache-2.0\n"
    yield f"{wheels.SITE}/hotnic-{version()}.dist-info/METADATA", File(about.encode())
    yield "usr/share/doc/hotnic/copyright", File((wheels.ROOT / "LICENSE").read_bytes())
    users = "".join(f"{name}:x:{number}:{number}::/:/sbin/nologin\n" for name, number in _USERS.items())
    yield "etc/passwd", File(users.encode())
    yield "etc/group", File("".join(f"{name}:x:{number}:\n" for name, number in _USERS.items()).encode())
    yield "tmp", File(is_folder=True, mode=0o1777)
