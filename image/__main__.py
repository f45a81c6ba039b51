"""Make the image: `python -m image [--output FOLDER] [--tag NAME:TAG]`; `python -m image lock` renews debian.lock.

Writes `hotnic.tar` (an OCI archive), `hotnic.spdx.json` (what is in it) and `digest`, and prints what takes how much.
"""

from __future__ import annotations

import argparse
import posixpath
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from image import debian, needs, oci, sbom, wheels
from image.layer import File, Layer, layer

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_COMMANDS = {"hotnic-agent": "agent.__main__", "hotnic-controller": "controller.__main__"}
_COMMAND = """#!/usr/bin/{python} -I
import sys
from {module} import main
sys.exit(main())
"""
_USERS = "root:x:0:0:root:/root:/sbin/nologin\nhotnic:x:65532:65532:hotnic:/nonexistent:/sbin/nologin\n"
_GROUPS = "root:x:0:\nhotnic:x:65532:\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m image", description="Make the OCI image of hotnic.")
    parser.add_argument("action", nargs="?", choices=("build", "lock"), default="build")
    parser.add_argument("--output", type=Path, default=Path("dist"))
    parser.add_argument("--tag", default="hotnic:latest", help="what a runtime that imports it calls it")
    asked = parser.parse_args()
    if asked.action == "lock":
        debian.LOCK.write_text(debian.renewed())
        return 0
    build(asked.output, asked.tag)
    return 0


def build(output: Path, tag: str) -> str:
    """Write the image and its bill of materials; return its digest. Raises OSError where something cannot be had."""
    made_at, commit = int(_git("log", "-1", "--format=%ct")), _git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory(prefix="hotnic-image-") as folder:
        archives = debian.fetched(Path(folder, "debian"))
        system = wheels.compiled(_merged(dict(_system([path for _, path in archives]))), Path(folder))
        packages = wheels.compiled(wheels.third_party(Path(folder)), Path(folder))
        own = wheels.compiled(wheels.own() | _own(), Path(folder))
    if missing := needs.missing({**system, **packages, **own}):
        raise OSError(f"libraries that the image asks for and has not: {missing}")
    parts = {"Debian's libraries and interpreter": system, "Python packages": packages, "hotnic": own}
    layers = [(what, layer(files, made_at)) for what, files in parts.items()]
    about = {"revision": commit, "version": _version(), "title": "hotnic", "licenses": "Apache-2.0"}
    labels = {f"org.opencontainers.image.{key}": value for key, value in about.items()}
    settings = {"Env": [f"PATH={_PATH}", "PYTHONDONTWRITEBYTECODE=1"], "Entrypoint": [], "WorkingDir": "/"}
    made = oci.image(layers, settings, labels, _full(tag), made_at)
    output.mkdir(parents=True, exist_ok=True)
    output.joinpath("hotnic.tar").write_bytes(oci.archive(made, made_at))
    output.joinpath("digest").write_text(made.digest + "\n")
    bill = sbom.document("hotnic", _version(), made.digest, _parts([one for one, _ in archives]), made_at)
    output.joinpath("hotnic.spdx.json").write_text(bill)
    _tell(parts, layers, made.digest)
    return made.digest


def _system(archives: list[Path]) -> Iterator[tuple[str, File]]:
    for archive in archives:
        for entry, content in debian.unpacked(archive):
            if entry.issym():
                yield entry.name, File(target=entry.linkname)
            else:
                yield entry.name, File(content, is_executable=bool(entry.mode & 0o111))


def _merged(files: Mapping[str, File]) -> dict[str, File]:
    """Return the files with /bin, /lib and /lib64 below /usr and links there, as Debian's installer leaves them."""
    merged = {(f"usr/{name}" if name.startswith(("bin/", "lib/", "lib64/", "sbin/")) else name): file
              for name, file in files.items()}  # fmt: skip
    links = {name: File(target=f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")}
    loader = {"usr/lib64/ld-linux-x86-64.so.2": File(target="../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")}
    return {name: _relinked(name, file) for name, file in merged.items()} | links | loader


def _relinked(name: str, file: File) -> File:
    """Return a link whose target is absolute as one that leads to the same place from wherever the root is."""
    if not file.target.startswith("/"):
        return file
    target = file.target.lstrip("/")
    target = f"usr/{target}" if target.startswith("lib") else target
    return File(target=posixpath.relpath(target, posixpath.dirname(name)))


def _own() -> dict[str, File]:
    site = wheels.SITE
    version = f"Metadata-Version: 2.1\nName: hotnic\nVersion: {_version()}\nLicense: Apache-2.0\n"
    commands = {
        f"usr/bin/{name}": File(_COMMAND.format(python=debian.PYTHON, module=module).encode(), is_executable=True)
        for name, module in _COMMANDS.items()
    }
    return commands | {
        f"{site}/hotnic-{_version()}.dist-info/METADATA": File(version.encode()),
        "opt/hotnic/bin/hotnic": File((wheels.ROOT / "bin/hotnic").read_bytes(), is_executable=True),
        "usr/share/doc/hotnic/copyright": File((wheels.ROOT / "LICENSE").read_bytes()),
        "etc/passwd": File(_USERS.encode()),
        "etc/group": File(_GROUPS.encode()),
        "tmp": File(is_folder=True, mode=0o1777),
    }


def _parts(debs: list[debian.Locked]) -> Iterator[sbom.Part]:
    for one in debs:
        yield sbom.Part(one.name, one.version, f"pkg:deb/debian/{one.name}@{one.version}?arch=amd64", one.sha256)
    for line in (wheels.ROOT / "requirements.lock").read_text().splitlines():
        name, equals, version = line.removesuffix(" \\").partition("==")
        if equals and not line.startswith((" ", "#")):
            yield sbom.Part(name, version, f"pkg:pypi/{name}@{version}")


def _tell(parts: Mapping[str, Mapping[str, File]], layers: list[tuple[str, Layer]], digest: str) -> None:
    for what, made in layers:
        files = parts[what]
        print(f"{what}: {len(made.blob) / 1e6:.1f} MB compressed, {made.size / 1e6:.1f} MB in {len(files)} files")
        for name, size in _largest(files):
            print(f"    {size / 1e6:6.1f} MB  {name}")
    print(f"{sum(len(made.blob) for _, made in layers) / 1e6:.1f} MB compressed in all; {digest}")


def _largest(files: Mapping[str, File]) -> list[tuple[str, int]]:
    """Return the six folders that take most."""
    sizes: dict[str, int] = {}
    for name, file in files.items():
        top = "/".join(name.split("/")[:5])
        sizes[top] = sizes.get(top, 0) + len(file.content)
    return sorted(sizes.items(), key=lambda item: -item[1])[:6]


def _full(tag: str) -> str:
    """Return the name as containerd keeps it."""
    return tag if "/" in tag else f"docker.io/library/{tag}"


def _version() -> str:
    return metadata.version("hotnic")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=wheels.ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
