"""Build the Go modules and find what they made.

Rule 1: what is built lies outside the tree, in a folder named by everything that decides the result: go.mod, go.sum,
        the sources, and the Go version. Same inputs: nothing is built.
Rule 2: a build appears whole or not at all (it is renamed into place), so an interrupted one is never used.
Rule 3: a line every 15 seconds says how far it is: a cold build takes minutes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e import progress

_HERE = Path(__file__).resolve().parent
_VERSION = "k8s.io/component-base/version"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")


@dataclass(frozen=True, slots=True)
class CProgram:
    """A small C program that comes in the sources of a Go module and is part of what that makes."""

    name: str
    module: str
    folder: str
    standard: str = "c99"


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module of ours and how it is built into a folder."""

    name: str
    package: str
    ldflags: str
    links: tuple[str, ...] = ()
    tags: str = ""
    """Build tags: what needs a C library that is not there is left out."""
    cgo: bool = False
    """Whether parts of it are C, which need a compiler and libraries of the machine."""
    c_program: CProgram | None = None

    @property
    def source(self) -> Path:
        """The module's folder."""
        return _HERE / self.name


CONTROLPLANE = Module(
    "controlplane",
    ".",
    f"-s -w -X {_VERSION}.gitVersion=v1.36.3 -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36",
    COMPONENTS,
)
TOOLS = Module("tools", "tool", "-s -w")
CONTAINERD2 = Module("containerd2", "tool", "-s -w", tags="no_btrfs no_devmapper no_zfs")
CRIO = Module(
    "crio",
    "tool",
    "-s -w",
    tags="containers_image_openpgp exclude_graphdriver_btrfs exclude_graphdriver_devicemapper",
    c_program=CProgram("pinns", "github.com/cri-o/cri-o", "pinns/src"),
)
KUBEVIRT = Module(
    "kubevirt",
    "tool",
    "-s -w -X kubevirt.io/client-go/version.gitVersion=v1.7.0",
    cgo=True,
    c_program=CProgram("container-disk", "kubevirt.io/kubevirt", "cmd/container-disk-v2alpha", "gnu99"),
)


def cache() -> Path:
    """Return the folder outside the tree that all that is built goes to."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hotnic"


@functools.cache
def built(module: Module) -> Path:
    """Return the folder that has the module's executables; it exists only once they are all built."""
    digest = hashlib.sha256(_go("env", "GOVERSION").encode())
    for path in sorted([module.source / "go.mod", module.source / "go.sum", *module.source.glob("*.go")]):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update((module.ldflags + module.tags).encode())
    return cache() / f"{module.name}-{digest.hexdigest()[:16]}"


def ensure(module: Module) -> Path:
    """Build the module unless that was done; return the folder with its executables."""
    folder = built(module)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{module.name}-") as scratch:
            unfinished = Path(scratch) / "bin"
            unfinished.mkdir()
            with progress.step(f"building e2e/{module.name} (once; cold it takes minutes)"):
                _build(module, unfinished)
                if module.c_program is not None:
                    _compile(module, module.c_program, unfinished)
            for name in module.links:
                (unfinished / name).symlink_to(module.name)
            if not folder.exists():
                unfinished.rename(folder)
    return folder


def module_folder(module: Module, name: str) -> Path:
    """Return the folder with the sources of the Go module `name`, in the version that `module` is built from."""
    _go("mod", "download", name, at=module.source)
    return Path(_go("list", "-m", "-f", "{{.Dir}}", name, at=module.source).strip())


def component(name: str) -> str:
    """Return the path of a control plane executable: of KUBEBUILDER_ASSETS if it is there, or else ours."""
    theirs = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent"), name)
    return str(theirs if theirs.exists() else ensure(CONTROLPLANE) / name)


def tools() -> Path:
    """Return the folder of third-party executables: the reference plugins, cnitool, Multus."""
    return ensure(TOOLS)


def _build(module: Module, target: Path) -> None:
    """Run `go build`, counting the packages that it names as it finishes them."""
    with progress.step(f"fetching the modules of e2e/{module.name}"):
        total = len(_go("list", "-deps", "-tags", module.tags, module.package, at=module.source).split())
    # Compiling is bound by CPU, and a third of it is the compiler's garbage collector: memory is cheaper.
    env = {**os.environ, "CGO_ENABLED": str(int(module.cgo)), "GOGC": "400"}
    command = ["go", "build", "-v", "-trimpath", "-tags", module.tags, "-ldflags", module.ldflags, "-o", f"{target}/",
               module.package]  # fmt: skip
    with subprocess.Popen(command, cwd=module.source, env=env, stderr=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        done = threading.Event()
        threading.Thread(target=_report, args=(module.name, lines, total, done), daemon=True).start()
        assert process.stderr is not None
        lines.extend(process.stderr)
        done.set()
    if process.returncode:
        raise OSError(f"go build of e2e/{module.name} failed:\n{''.join(lines[-40:])}")


def _compile(module: Module, program: CProgram, target: Path) -> None:
    sources = module_folder(module, program.module) / program.folder
    command = ["gcc", f"-std={program.standard}", "-O2", "-static", "-s", "-o", str(target / program.name)]
    subprocess.run([*command, *map(str, sorted(sources.glob("*.c")))], check=True)


def _report(name: str, lines: Sequence[str], total: int, done: threading.Event) -> None:
    before = time.monotonic()
    while not done.wait(15):
        count = sum(1 for line in lines if not line.startswith("go: "))
        progress.say(f"building e2e/{name}: {time.monotonic() - before:.0f} s, {count} of at most {total} packages")


def _go(*arguments: str, at: Path = _HERE) -> str:
    done = subprocess.run(["go", *arguments], cwd=at, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"go {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return done.stdout
