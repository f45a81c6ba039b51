"""Pure: an OCI image of layers, and the archive that carries it.

After image-spec 1.1: config.md, manifest.md, image-layout.md.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from image.layer import AGE, Layer, digest

_MEDIA = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True)
class Image:
    blobs: Mapping[str, bytes]  # by digest
    index: bytes
    digest: str  # of the manifest: what the image is known by


def image(
    layers: Sequence[tuple[str, Layer]],
    settings: Mapping[str, Any],
    labels: Mapping[str, str],
    name: str,
    made_at: int,
) -> Image:
    """Return the image of these layers, each with what it was made of. `name`: what a runtime calls it."""
    created = datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(
        {
            "created": created,
            "architecture": "amd64",
            "os": "linux",
            "config": {**settings, "Labels": dict(labels)},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for _, layer in layers]},
            "history": [{"created": created, "created_by": what} for what, _ in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar+gzip", layer.blob) for _, layer in layers],
            "annotations": dict(labels),
        }
    )
    entry = _descriptor("manifest.v1+json", manifest) | {
        "platform": {"architecture": "amd64", "os": "linux"},
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]},
    }
    index = _json({"schemaVersion": 2, "mediaType": f"{_MEDIA}.index.v1+json", "manifests": [entry]})
    blobs = {digest(blob): blob for blob in (config, manifest, *(layer.blob for _, layer in layers))}
    return Image(blobs, index, digest(manifest))


def archive(made: Image) -> bytes:
    """Return the image as one tar of an image layout, as `ctr images import` and `podman load` read it."""
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": made.index}
    files |= {f"blobs/{key.replace(':', '/')}": blob for key, blob in made.blobs.items()}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), AGE
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": f"{_MEDIA}.{kind}", "digest": digest(content), "size": len(content)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
