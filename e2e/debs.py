"""Debian packages that a test executes and nobody has to install: fetched, and unpacked into the cache.

Rule 1: the machine's system is left alone: no package is configured, no service of it is started.
Rule 2: unpacked is what was asked for, with those of its dependencies that the machine has not installed; the
        machine's libraries serve for the rest. `complete`: with all of them, as the root of a container that sees
        nothing of the machine. The folder is named by Debian's version and by what was asked for.
Rule 3: it appears whole or not at all; once it is there nothing is asked of the network. `VERSIONS` in it says what
        it was made from; whoever wants newer packages removes it.
"""

import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from e2e import build, progress

OPENVSWITCH = ("openvswitch-switch",)


@functools.cache
def unpacked(*packages: str, backports: bool = False, complete: bool = False) -> Path:
    """Return the folder that these packages are unpacked in. Raises OSError if they cannot be fetched.

    `backports`: in the version that Debian's backports have, which need not be among the machine's sources.
    """
    release = Path("/etc/debian_version").read_text().strip().replace("/", "-")
    asked = (release, str(backports), *packages, *(("complete",) if complete else ()))
    digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:8]
    folder = build.cache() / f"debian-{release}-{packages[0]}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{packages[0]}-") as scratch,
            progress.step(f"fetching Debian packages, not to be installed: {' '.join(packages)}"),
        ):
            unfinished = _unpack(Path(scratch), packages, backports=backports, complete=complete)
            if not folder.exists():
                unfinished.rename(folder)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which the executables in `folder` find each other and their libraries."""
    binaries = (folder / "usr/bin", folder / "usr/sbin", folder / "bin", folder / "sbin")
    libraries = (folder / "usr/lib/x86_64-linux-gnu", folder / "lib/x86_64-linux-gnu")
    return {
        **os.environ,
        "PATH": ":".join([*map(str, binaries), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
    }


def _unpack(scratch: Path, packages: tuple[str, ...], *, backports: bool, complete: bool) -> Path:
    archives, root = scratch / "archives", scratch / "root"
    for folder in (archives / "partial", root):
        folder.mkdir(parents=True)
    settings = [f"Dir::Cache::Archives={archives}"]
    if complete:
        settings.append(f"Dir::State::Status={_nothing_installed(scratch)}")
        _merge_usr(root)
    _download(packages, settings, _with_backports(scratch) if backports else [])
    fetched = sorted(archives.glob("*.deb"))
    for archive in fetched:
        _extract(archive, root)
    (root / "VERSIONS").write_text("".join(f"{archive.stem}\n" for archive in fetched))
    return root


def _nothing_installed(scratch: Path) -> Path:
    """Return a list of installed packages, for apt, that has none."""
    path = scratch / "status"
    path.touch()
    return path


def _merge_usr(root: Path) -> None:
    """Make the links that Debian's installer makes, so that the packages' /bin and /lib come to lie below /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def _extract(archive: Path, root: Path) -> None:
    """Unpack as `dpkg -x` does, through links to folders that are there already."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as content:
        tar = ["tar", "-x", "-p", "--keep-directory-symlink", "-C", str(root)]
        done = subprocess.run(tar, stdin=content.stdout, check=False, capture_output=True, text=True)
    if content.returncode or done.returncode:
        raise OSError(f"unpacking {archive.name}: {done.stderr}")


def _download(packages: tuple[str, ...], settings: list[str], suite: list[str]) -> None:
    # not the user _apt: it cannot write here; no lock: nothing of the machine's is written
    common = [*settings, "APT::Sandbox::User=root", "Debug::NoLocking=1", *suite]
    apt_get = ["apt-get", "-qq", *(word for setting in common for word in ("-o", setting))]
    install = [*apt_get, "install", "--reinstall", "--download-only", "--no-install-recommends", "-y", *packages]
    if suite or _run(install, fails=False):
        _run([*apt_get, "update"])  # the lists name what is no longer there, or there are none yet
        _run(install)


def _with_backports(scratch: Path) -> list[str]:
    """Return apt's settings for this once: the machine's sources and, from where those are, the backports."""
    origin = _origin()
    if not origin:
        _run(["apt-get", "-qq", "update"])
        origin = _origin()
    uri, codename = origin[0]
    own = Path("/etc/apt/sources.list")
    sources, lists = scratch / "sources.list", scratch / "lists"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    line = f"deb [signed-by={keyring}] {uri} {codename}-backports main\n"
    sources.write_text((own.read_text() + "\n" if own.exists() else "") + line)
    (lists / "partial").mkdir(parents=True)
    return [
        f"Dir::Etc::SourceList={sources}",
        f"Dir::State::Lists={lists}",
        f"APT::Default-Release={codename}-backports",
    ]


def _origin() -> list[tuple[str, str]]:
    """Return where the machine's Debian comes from, and its code name; nothing if it has no package lists yet."""
    asked = ["Created-By: Packages", "Origin: Debian", "Component: main"]
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = (line.split() for line in done.stdout.splitlines())
    return [(uri, codename) for uri, codename in found if "-" not in codename]


def _run(command: list[str], *, fails: bool = True) -> int:
    env: Mapping[str, str] = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode and fails:
        raise OSError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode
