"""Make the image: `python -m image [--output FOLDER] [--tag NAME:TAG]`.

Writes `hotnic.oci.tar` (an OCI archive), `hotnic.spdx.json` (what is in it) and `hotnic.digest`, and prints what takes
how much. `python -m image root FOLDER` writes the image's files instead, for who builds with podman or docker
(Containerfile); `python -m image lock` renews debian.lock.

Rules
1. The same commit gives the same digest. `created` is the commit's time (or SOURCE_DATE_EPOCH), never today's.
2. What nobody committed says so in its revision.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from image import debian, layer, oci, parts, sbom, tree, wheels
from image.layer import File, Layer

SETTINGS = {
    "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1"],
    "Entrypoint": [],
    "WorkingDir": "/",
}
MOST_MB = 60  # compressed
_LABEL = "org.opencontainers.image."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m image", description="Make the OCI image of hotnic.")
    parser.add_argument("--no-cache", action="store_true", help="fetch and make everything anew")
    parser.add_argument("--output", type=Path, default=Path("dist"), metavar="FOLDER")
    parser.add_argument("--tag", default=f"hotnic:{parts.version()}", help="what a runtime that imports it calls it")
    verbs = parser.add_subparsers(dest="verb")
    verbs.add_parser("lock", help="renew debian.lock")
    verbs.add_parser("root", help="write the files").add_argument("folder", type=Path)
    asked = parser.parse_args()
    match asked.verb:
        case "lock":
            debian.LOCK.write_text(debian.renewed())
        case "root":
            write_root(asked.folder)
        case _:
            build(asked.output, asked.tag, from_cache=not asked.no_cache)
    return 0


def write_root(folder: Path) -> None:
    """Write all files of the image. Raises OSError, where `folder` has some of them already too."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, File] = {}
    for made in parts.layers().values():
        files |= layer.unpacked(made.blob)
    tree.write(files, folder)


def build(output: Path, tag: str, *, from_cache: bool = True) -> str:
    """Write the image and its bill of materials; return its digest. Raises OSError where something cannot be had."""
    made_at = _commit_time()
    layers = parts.layers(from_cache=from_cache)
    made = oci.image(list(layers.items()), SETTINGS, labels(), _full(tag), made_at)
    size = sum(len(one.blob) for one in layers.values()) / 1e6
    if size > MOST_MB:
        raise OSError(f"the image has {size:.1f} MB, more than {MOST_MB}")
    output.mkdir(parents=True, exist_ok=True)
    output.joinpath("hotnic.oci.tar").write_bytes(oci.archive(made))
    output.joinpath("hotnic.digest").write_text(made.digest + "\n")
    output.joinpath("hotnic.spdx.json").write_text(
        sbom.document("hotnic", parts.version(), made.digest, _contents(), made_at)
    )
    _tell(layers)
    print(f"{size:.1f} MB compressed in all; {made.digest}")
    return made.digest


def labels() -> dict[str, str]:
    """Return what the image says of itself."""
    about = {"revision": _revision(), "version": parts.version(), "title": "hotnic", "licenses": "Apache-2.0"}
    return {_LABEL + key: value for key, value in about.items() if value}


def _contents() -> Iterator[sbom.Part]:
    for one in debian.locked():
        yield sbom.Part(one.name, one.version, f"pkg:deb/debian/{one.name}@{one.version}?arch=amd64", one.sha256)
    for name, version in wheels.locked():
        yield sbom.Part(name, version, f"pkg:pypi/{name}@{version}")


def _tell(layers: Mapping[str, Layer]) -> None:
    for what, made in layers.items():
        files = layer.unpacked(made.blob)
        print(f"{what}: {len(made.blob) / 1e6:.1f} MB compressed, {made.size / 1e6:.1f} MB in {len(files)} files")
        for name, size in _largest(files):
            print(f"    {size / 1e6:6.1f} MB  {name}")


def _largest(files: Mapping[str, File]) -> list[tuple[str, int]]:
    """Return the six files or packages that take most."""
    sizes: dict[str, int] = {}
    for name, file in files.items():
        top = "/".join(name.split("/")[:5])
        sizes[top] = sizes.get(top, 0) + len(file.content)
    return sorted(sizes.items(), key=lambda item: -item[1])[:6]


def _full(tag: str) -> str:
    """Return the name as containerd keeps it."""
    return tag if "/" in tag else f"docker.io/library/{tag}"


def _commit_time() -> int:
    """Return the seconds since 1970. Raises OSError where neither git nor SOURCE_DATE_EPOCH tells."""
    told = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")
    if not told:
        raise OSError("not a git repository: say by SOURCE_DATE_EPOCH from when these sources are")
    return int(told)


def _revision() -> str:
    commit = _git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain") else commit


def _git(*arguments: str) -> str:
    """Return what git says of this tree; nothing where it is none, or is part of somebody else's."""
    command = ["git", "-c", "safe.directory=*", *arguments]  # whoever the checkout is of
    done = subprocess.run(command, cwd=wheels.ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if not done.returncode and (wheels.ROOT / ".git").exists() else ""


if __name__ == "__main__":
    sys.exit(main())
