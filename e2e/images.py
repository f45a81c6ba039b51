"""The container images of the lanes, made from Debian's static parts, with no registry.

Rule 1: an image is one archive in the cache, named by what is in it; nodes import it into their containerd.
Rule 2: names end in .test, which no registry can have: an image that is missing fails at once, and says so.
"""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e import build

PAUSE = "hotnic.test/pause:1"
BUSYBOX = "hotnic.test/busybox:1"
_BUSYBOX_EXECUTABLE = Path("/bin/busybox")
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


@dataclass(frozen=True, slots=True)
class Image:
    """What an image has in it; `links` are symbolic, from path to target."""

    name: str
    command: tuple[str, ...]
    files: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)
    folders: Sequence[str] = ()


def archives() -> tuple[Path, ...]:
    """Return the archives of all images, made now unless they were made before."""
    return tuple(_archive(image) for image in (_pause(), _busybox()))


def _pause() -> Image:
    source = Path(__file__).with_name("pause.c")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    executable = build.cache() / f"pause-{digest}"
    if not executable.exists():
        build.cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build.cache()) as scratch:
            made = Path(scratch) / "pause"
            subprocess.run(["gcc", "-Os", "-static", "-s", "-o", made, source], check=True)
            made.rename(executable)
    return Image(PAUSE, ("/pause",), {"pause": executable.read_bytes()})


def _busybox() -> Image:
    listing = subprocess.run([_BUSYBOX_EXECUTABLE, "--list"], check=True, capture_output=True, text=True).stdout
    links = {f"bin/{name}": "busybox" for name in listing.split() if name != "busybox"}
    files = {"bin/busybox": _BUSYBOX_EXECUTABLE.read_bytes(), "etc/passwd": _PASSWD, "etc/group": b"root:x:0:\n"}
    return Image(BUSYBOX, ("/bin/sh",), files, links, ("root", "tmp", "var", "etc", "bin"))


def _archive(image: Image) -> Path:
    """Write the image in the layout of `docker save`, which containerd imports."""
    layer = _layer(image)
    digest = hashlib.sha256(layer).hexdigest()
    path = build.cache() / f"image-{digest[:16]}.tar"
    if path.exists():
        return path
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(image.command), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [image.name], "Layers": ["layer.tar"]}]
    with tempfile.TemporaryDirectory(dir=build.cache()) as scratch:
        unfinished = Path(scratch) / "image.tar"
        with tarfile.open(unfinished, "w") as archive:
            _add(archive, "layer.tar", layer)
            _add(archive, "config.json", json.dumps(config).encode())
            _add(archive, "manifest.json", json.dumps(manifest).encode())
        unfinished.rename(path)
    return path


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder in image.folders:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            layer.addfile(entry)
        for path, content in image.files.items():
            _add(layer, path, content)
        for path, target in image.links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            layer.addfile(entry)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), 0o644 if path.startswith("etc/") else 0o755
    archive.addfile(entry, io.BytesIO(content))
