"""The Containerfile, followed step by step without a container engine, makes what `python -m image` makes.

Rules
1. Each instruction is done or is an error: one that is not understood could change the image.
2. A stage's root is a folder. Its programs are this machine's, which has to have the packages that `apt-get install`
   names there; Python is Debian's own, with nothing of the project's environment.
3. Third-party files come from the cache that `python -m image` fills, as both take them from the same locks
   (test_reproducible makes them anew).
"""

import gzip
import io
import json
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from image import layer, wheels

pytestmark = pytest.mark.lane

CONTAINERFILE = wheels.ROOT / "image/Containerfile"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    root: Path
    base: str
    folder: str = "/"
    config: dict[str, object] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.root / Path(self.folder, name).relative_to("/")


class Build:
    """What has been made so far."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._arguments: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self.stage = Stage(scratch, "")
        self.packages: set[str] = set()

    def do(self, keyword: str, rest: str) -> None:
        getattr(self, f"_{keyword.lower()}")(rest)  # AttributeError: rule 1

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self._arguments[name] = value

    def _from(self, rest: str) -> None:
        for name, value in self._arguments.items():
            rest = rest.replace(f"${{{name}}}", value)
        base, *name = rest.split(" AS ")
        self.stage = Stage(self._scratch / f"stage-{len(self._stages)}", base)
        self.stage.root.mkdir()
        self._stages[name[0] if name else ""] = self.stage

    def _workdir(self, rest: str) -> None:
        self.stage.folder = self.stage.config["WorkingDir"] = rest
        self.stage.path(".").mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        origin = wheels.ROOT
        if sources[0].startswith("--from="):
            origin = self._stages[sources.pop(0).removeprefix("--from=")].root
        for name in sources:
            source, goal = origin / name.lstrip("/"), self.stage.path(target)
            if source.is_dir():
                shutil.copytree(source, goal, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(source, goal)

    def _run(self, rest: str) -> None:
        for command in rest.split("&&"):
            words = shlex.split(command)
            if words[:2] == ["apt-get", "install"]:
                self.packages |= {word for word in words[2:] if not word.startswith("-")}
            elif words[0] != "apt-get":
                inside = [str(self.stage.path(word)) if word.startswith("/") else word for word in words]
                environment = {"PATH": PATH, "HOME": str(Path.home())}
                subprocess.run(inside, cwd=self.stage.path("."), env=environment, check=True, capture_output=True)

    def _env(self, rest: str) -> None:
        self.stage.config["Env"] = shlex.split(rest)

    def _label(self, rest: str) -> None:
        self.stage.config["Labels"] = dict(one.split("=", 1) for one in shlex.split(rest))


def followed(scratch: Path) -> Build:
    """Do all that the Containerfile says."""
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    build = Build(scratch)
    for line in text.splitlines():
        if line and not line.startswith("#"):
            keyword, _, rest = line.partition(" ")
            build.do(keyword, rest)
    return build


def on_disk(root: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield each name below a folder with all that a layer would keep of it."""
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        what = stat.S_IFMT(found.st_mode)
        target = str(path.readlink()) if path.is_symlink() else ""
        content = layer.digest(path.read_bytes()) if stat.S_ISREG(what) else ""
        mode = 0 if target else stat.S_IMODE(found.st_mode)
        yield str(path.relative_to(root)), (what, mode, found.st_mtime, target, content)


def in_archive(archive: Path) -> tuple[dict[str, tuple[object, ...]], dict[str, object]]:
    """Return the same of an image's layers, and its configuration, as a container runtime would read them."""
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.REGTYPE: stat.S_IFREG}
    files: dict[str, tuple[object, ...]] = {}
    with tarfile.open(archive) as tar:
        blob = {one.name: tar.extractfile(one).read() for one in tar if one.isreg()}
    named = {f"sha256:{name.rpartition('/')[2]}": content for name, content in blob.items()}
    manifest = json.loads(named[json.loads(blob["index.json"])["manifests"][0]["digest"]])
    for one in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(named[one["digest"]]))) as content:
            for entry in content:
                read = layer.digest(content.extractfile(entry).read()) if entry.isreg() else ""
                mode = 0 if entry.issym() else entry.mode
                files[entry.name] = (kinds[entry.type], mode, entry.mtime, entry.linkname, read)
    config: dict[str, object] = json.loads(named[manifest["config"]["digest"]])["config"]
    return files, config


def test_its_steps_make_the_same_image(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = (sys.executable, "-m", "image", "--output", str(made))
    subprocess.run(command, cwd=wheels.ROOT, check=True, capture_output=True)
    files, config = in_archive(made / "hotnic.oci.tar")
    build = followed(tmp_path)
    assert build.stage.base == "scratch"
    found = dict(on_disk(build.stage.root))
    assert found.keys() == files.keys()
    assert {name: (one, files[name]) for name, one in found.items() if one != files[name]} == {}
    labels = {key: value for key, value in config.pop("Labels").items() if not key.endswith("revision")}
    assert build.stage.config == {**{key: value for key, value in config.items() if value}, "Labels": labels}
    installed = subprocess.run(["dpkg-query", "-W", *build.packages], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    assert build.packages
