"""The container runtimes that a node may have: Debian's containerd, containerd 2, CRI-O.

Rule 1: all of them execute Debian's runc, on whatever cgroup version the machine has.
Rule 2: nothing needs a capability that a plain container lacks: no OOM scores below the parent's, no AppArmor.
Rule 3: which of them a lane has is a file in its state folder, so that every process of the lane knows.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e import build, images, namespaces

_CHOICE = namespaces.STATE / "runtime"
_PLUGINS = "/opt/cni/bin"
_NETWORKS = "/etc/cni/net.d"


@dataclass(frozen=True, slots=True)
class Runtime:
    """One kind of container runtime; paths are the node's."""

    name: str
    socket: str
    command: Callable[[Path], tuple[str, ...]]
    """Return how it is started, given the node's folder."""
    files: Callable[[Path], Mapping[str, str]]
    """Return the text of its files, by their path below the node's folder."""
    load: Callable[[Path], tuple[str, ...]]
    """Return what imports an archive of an image."""


def chosen() -> Runtime:
    """Return the runtime of the lane that this process is in."""
    return BY_NAME[_CHOICE.read_text()]


def choose(name: str) -> None:
    """Say which runtime the lane's nodes have, before there is any."""
    _CHOICE.write_text(name)


def prepare(name: str) -> None:
    """Build what is missing of that runtime."""
    if name in _MODULES:
        build.ensure(_MODULES[name])


# -- containerd

_CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_CONTAINERD = f"""\
version = 2
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{_PLUGINS}"
  conf_dir = "{_NETWORKS}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""
_CONTAINERD2 = f"""\
version = 3
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{images.PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{_PLUGINS}"]
  conf_dir = "{_NETWORKS}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def _containerd(name: str, config: str, executables: Callable[[], str]) -> Runtime:
    """`executables`: the folder of containerd, its shim and ctr, with the slash; empty: those in PATH."""

    def command(folder: Path) -> tuple[str, ...]:
        path = f"PATH={executables()}:/usr/sbin:/usr/bin:/sbin:/bin"  # its shim is found there
        return ("env", path, "containerd", "--config", str(folder / "containerd.toml"))

    def load(archive: Path) -> tuple[str, ...]:
        ctr = str(Path(executables(), "ctr"))
        return (ctr, "--address", _CONTAINERD_SOCKET, "-n", "k8s.io", "images", "import", str(archive))

    return Runtime(name, _CONTAINERD_SOCKET, command, lambda _: {"containerd.toml": config}, load)


# -- CRI-O

_STORAGE = "/var/lib/containers/storage"
_STORAGE_RUN = "/run/containers/storage"
_CRIO = """\
[crio]
root = "{storage}"
runroot = "{storage_run}"
storage_driver = "overlay"
log_dir = "/var/log/crio/pods"
version_file = "/run/crio/version"
clean_shutdown_file = ""

[crio.api]
listen = "/run/crio/crio.sock"

[crio.image]
pause_image = "{pause}"
pause_command = "/pause"
signature_policy = "{folder}/policy.json"

[crio.network]
network_dir = "{networks}"
plugin_dirs = ["{plugins}"]

[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
default_runtime = "runc"
pinns_path = "{pinns}"
apparmor_profile = "unconfined"
hooks_dir = []

[crio.runtime.runtimes.runc]
runtime_path = "/usr/sbin/runc"
monitor_path = "/usr/bin/conmon"
monitor_cgroup = "pod"

[crio.nri]
enable_nri = false
"""


def _crio_files(folder: Path) -> Mapping[str, str]:
    text = _CRIO.format(
        storage=_STORAGE, storage_run=_STORAGE_RUN, pause=images.PAUSE, folder=folder, networks=_NETWORKS,
        plugins=_PLUGINS, pinns=build.ensure(build.CRIO) / "pinns",
    )  # fmt: skip
    return {"crio.conf": text, "policy.json": json.dumps({"default": [{"type": "insecureAcceptAnything"}]})}


def _crio_command(folder: Path) -> tuple[str, ...]:
    return (str(build.ensure(build.CRIO) / "crio"), "--config", str(folder / "crio.conf"), "--config-dir", "")


def _crio_load(archive: Path) -> tuple[str, ...]:
    """CRI-O has no import of its own; its storage is podman's too."""
    podman = ("podman", "--root", _STORAGE, "--runroot", _STORAGE_RUN, "--storage-driver", "overlay")
    return (*podman, "load", "-i", str(archive))


# -- all of them

DEBIAN = "containerd"
_MODULES = {"containerd2": build.CONTAINERD2, "crio": build.CRIO}
BY_NAME: Mapping[str, Runtime] = {
    one.name: one
    for one in (
        _containerd(DEBIAN, _CONTAINERD, lambda: "/usr/bin"),
        _containerd("containerd2", _CONTAINERD2, lambda: str(build.ensure(build.CONTAINERD2))),
        Runtime("crio", "/run/crio/crio.sock", _crio_command, _crio_files, _crio_load),
    )
}
