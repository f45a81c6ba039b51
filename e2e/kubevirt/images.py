"""KubeVirt's images and the guest's, each set one archive in the cache that a node imports.

Rule 1: all of KubeVirt's images have the same layers, so that a node keeps them once; they differ in name and user.
Rule 2: an archive is named by what it is made from, not by its content, which would take seconds to read.
Rule 3: where the kernel has no links of the kind `dummy`, which virt-handler needs, it is started by `placeholder.c`,
        which gives it others in their place; else the image has virt-handler as it is.
Rule 4: an image has its digest as a second name, as after a pull: by that KubeVirt has a VM's second launcher use it.
"""

import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e import build, progress
from e2e.kubevirt import guest, launcher

REPOSITORY = "hotnic.test"
VERSION = "v1.7.0"
GUEST = f"{REPOSITORY}/kubevirt-guest:1"
_USERS = {"virt-operator": 1001, "virt-api": 1001, "virt-controller": 1001, "virt-handler": 0, "virt-launcher": 0}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HERE = Path(__file__).resolve().parent
_PLACEHOLDER = _HERE / "files/placeholder.c"
_MEDIA_TYPE = "application/vnd.oci.image"
_Layer = Callable[[Path], None]
_Descriptor = dict[str, Any]


def archives() -> tuple[Path, ...]:
    """Return the archives of all images, made now unless they were made before."""
    configs = {f"{REPOSITORY}/{name}:{VERSION}": _config(name, user) for name, user in _USERS.items()}
    layers = (launcher.write_system, launcher.write_executables, _write_handler)
    return (
        _archive("kubevirt", _kubevirt_digest(), configs, layers),
        _archive("kubevirt-guest", guest.digest(), {GUEST: {}}, (guest.write_layer,)),
    )


def _config(name: str, user: int) -> dict[str, object]:
    return {"User": str(user), "Env": [_PATH], "Entrypoint": [f"/usr/bin/{name}"], "WorkingDir": "/"}


def _kubevirt_digest() -> str:
    made_of = [build.built(build.KUBEVIRT).name, launcher.root().name, str(_has_dummy())]
    own = [_HERE / "launcher.py", _HERE / "images.py", _HERE / "files/virtqemud", _PLACEHOLDER]
    versions = (launcher.root() / "VERSIONS").read_bytes()
    digest = hashlib.sha256("\n".join(made_of).encode() + versions)
    for path in own:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _has_dummy() -> bool:
    """Whether this kernel, which is the nodes' too, knows links of the kind `dummy`."""
    tried = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "d0", "type", "dummy"], capture_output=True, check=False
    )
    return tried.returncode == 0


def _write_handler(path: Path) -> None:
    """Write the layer with virt-handler (rule 3)."""
    real = (build.ensure(build.KUBEVIRT) / "virt-handler").read_bytes()
    with tarfile.open(path, "w") as layer:
        if _has_dummy():
            launcher.add_file(layer, "usr/bin/virt-handler", real, 0o755)
            return
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "virt-handler"
            subprocess.run(["gcc", "-std=gnu11", "-O2", "-static", "-s", "-o", made, _PLACEHOLDER], check=True)
            launcher.add_file(layer, "usr/bin/virt-handler", made.read_bytes(), 0o755)
        launcher.add_file(layer, "usr/bin/virt-handler.real", real, 0o755)


def _archive(name: str, digest: str, configs: Mapping[str, dict[str, object]], layers: Sequence[_Layer]) -> Path:
    """Write images of these layers as an OCI image layout, which containerd imports."""
    path = build.cache() / f"image-{name}-{digest}.tar"
    if path.exists():
        return path
    with (
        progress.step(f"packing the images of {name}"),
        tempfile.TemporaryDirectory(dir=build.cache(), prefix=f".{name}-") as scratch,
    ):
        blobs = _Blobs(Path(scratch) / "blobs/sha256")
        descriptors = [blobs.add_layer(write) for write in layers]
        index = [entry for image, config in configs.items() for entry in _entries(blobs, image, config, descriptors)]
        (Path(scratch) / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": index}))
        (Path(scratch) / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        unfinished = Path(scratch) / "image.tar"
        with tarfile.open(unfinished, "w") as archive:
            for member in ("oci-layout", "index.json", "blobs"):
                archive.add(Path(scratch) / member, member)
        unfinished.rename(path)
    return path


class _Blobs:
    """The files of an image layout, which are named by their content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    def add_layer(self, write: _Layer) -> _Descriptor:
        unfinished = self._folder / "unfinished"
        write(unfinished)
        with unfinished.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        unfinished.rename(self._folder / digest)
        return _descriptor("layer.v1.tar", digest, (self._folder / digest).stat().st_size)

    def add_document(self, kind: str, document: Mapping[str, object]) -> _Descriptor:
        content = json.dumps(document).encode()
        digest = hashlib.sha256(content).hexdigest()
        (self._folder / digest).write_bytes(content)
        return _descriptor(kind, digest, len(content))


def _descriptor(kind: str, digest: str, size: int) -> _Descriptor:
    return {"mediaType": f"{_MEDIA_TYPE}.{kind}", "digest": f"sha256:{digest}", "size": size}


def _entries(
    blobs: _Blobs, image: str, config: Mapping[str, object], layers: Sequence[_Descriptor]
) -> Iterable[_Descriptor]:
    """Yield what the index says of one image: it is known by its name, and by its digest (rule 4)."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        "history": [{"created": "1970-01-01T00:00:00Z"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA_TYPE}.manifest.v1+json",
        "config": blobs.add_document("config.v1+json", document),
        "layers": list(layers),
    }
    descriptor = blobs.add_document("manifest.v1+json", manifest)
    for name in (image, f"{image.rpartition(':')[0]}@{descriptor['digest']}"):
        yield {**descriptor, "annotations": {"io.containerd.image.name": name}}
