"""Reads what the doctor judges. What cannot be read is part of what is seen; nothing of it ends the look."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent import cache, cri, delegate, install, installer, netns, policy
from agent.audit import command as audit
from agent.audit.life import GUARD_S
from agent.audit.look import Node
from agent.doctor import chain, cover, door, goprogram, kernel, statedir
from agent.doctor.contract import (
    Configuration,
    Directory,
    Executable,
    Kubelet,
    Leftovers,
    Program,
    Runtime,
    Seen,
)
from agent.netlink import Kernel
from cni import errors, version

CALL_S = 10.0  # of the executable, which has one of its own
_SOCKETS = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/cri-dockerd.sock",
)
_USUAL = (  # where runtimes look for plugins, as their packages and distributions set them up
    "/opt/cni/bin",
    "/usr/libexec/cni",
    "/usr/lib/cni",
    "/var/lib/cni/bin",
    "/var/lib/rancher/k3s/data/cni",
    "/var/lib/rancher/k3s/data/current/bin",
)
_NEIGHBOUR = re.compile(r"multus|dynamic-networks|virt-handler|virt-launcher")
_LARGEST = 1 << 20  # bytes of a configuration
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are; directories of CNI and of results are the node's, as `view` sees them."""

    view: netns.View
    root: Path | None
    cri: str
    bin_dirs: tuple[Path, ...]
    conf_dirs: tuple[Path, ...]
    cache_dirs: tuple[Path, ...]
    state_dir: Path
    run_dir: Path
    policy: Path | None
    brought: Path  # the executable that belongs to this version, if it is here

    def on_node(self, path: Path | str) -> Path:
        return Path(self.view.place(str(path)))

    def of_node(self, path: Path) -> Path:
        """Return what the node calls a path of ours; one that is not below its root is the same there."""
        return Path("/", path.relative_to(self.root)) if self.root and path.is_relative_to(self.root) else path

    def inside(self, action: Callable[[], T]) -> T:
        """Return what `action` returns with the node's root as its own, so that links lead to where they lead there.

        Raises OSError where the root is not to be had, and what `action` raises.
        """
        return action() if self.root is None else delegate.below(self.root, action)


def look(places: Places, own_version: str) -> Seen:
    """Look at everything."""
    directories = tuple(_directory(one, places) for one in places.bin_dirs)
    answer = door.ask(places.run_dir)
    with_runtime = cri.Runtime(places.cri) if places.cri else None
    try:
        runtime = _runtime(with_runtime, places)
        leftovers = _leftovers(with_runtime, places)
    finally:
        if with_runtime:
            with_runtime.close()
    return Seen(
        version=own_version,
        bin_dirs=directories,
        conf_dirs=tuple(_directory(one, places) for one in places.conf_dirs),
        configurations=tuple(one for folder in places.conf_dirs for one in _configurations(folder, places)),
        executable=_executable(places),
        runtime=runtime,
        state=statedir.look(places.state_dir),
        door=answer,
        leftovers=leftovers,
        multus={name: said for folder in places.bin_dirs for name, said in _multus(folder, places).items()},
        policy=str(places.policy or ""),
        policy_problem=_policy_problem(places.policy),
        kernel=kernel.features(places.view.place),
        elsewhere=tuple(_directory(Path(one), places) for one in _USUAL if Path(one) not in places.bin_dirs),
        kubelet=Kubelet() if answer.is_apart else cover.look(places.root),
    )


# -- CNI ------------------------------------------------------------------------------------------------------------


def _directory(path: Path, places: Places) -> Directory:
    try:
        return Directory(str(path), files=places.inside(lambda: _executables(path)))
    except OSError as problem:
        return Directory(str(path), f"cannot be read: {problem.strerror}")


def _executables(folder: Path) -> frozenset[str]:
    return frozenset(one.name for one in folder.iterdir() if os.access(one, os.X_OK) and one.is_file())


def _configurations(folder: Path, places: Places) -> tuple[Configuration, ...]:
    try:
        return places.inside(lambda: tuple(_read(folder)))
    except OSError:
        return ()  # which the directory itself tells


def _read(folder: Path) -> Iterator[Configuration]:
    """Raises OSError where the folder cannot be read."""
    for name in sorted(one for one in os.listdir(folder) if Path(one).suffix in chain.SUFFIXES):
        try:
            with (folder / name).open("rb") as file:
                yield Configuration(str(folder / name), file.read(_LARGEST).decode())
        except (OSError, UnicodeDecodeError) as problem:
            yield Configuration(str(folder / name), "", _in_words(problem))


def _executable(places: Places) -> Executable:
    folder = _folder_of_executable(places)
    if folder is None:
        return Executable()
    path = folder / install.EXECUTABLE
    try:
        brought, there = installer.found(places.brought), places.inside(lambda: installer.found(path))
    except OSError as problem:
        return Executable(str(path), problem=_in_words(problem))
    decision = install.decide(brought, there) if brought else None
    if decision is install.Decision.REFUSE:
        return Executable(str(path), decision)  # and it is not executed
    execute = delegate.Executor([folder], places.root)
    try:
        versions = _versions(execute)
    except errors.CNIError as problem:
        return Executable(str(path), decision, problem=str(problem))
    return Executable(str(path), decision, versions, status=_status(execute, places.of_node(places.run_dir)))


def _folder_of_executable(places: Places) -> Path | None:
    def first() -> Path | None:
        return next((one for one in places.bin_dirs if os.path.lexists(one / install.EXECUTABLE)), None)

    try:
        return places.inside(first)
    except OSError:
        return None


def _versions(execute: delegate.Executor) -> tuple[str, ...]:
    """Raises CNIError where it does not answer as a plugin does."""
    answer = execute(install.EXECUTABLE, "VERSION", {}, {"cniVersion": version.CURRENT}, CALL_S)
    listed = (answer or {}).get("supportedVersions")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def _status(execute: delegate.Executor, run_dir: Path) -> str:
    """Return why the agent, asked by the executable as by a runtime, could not serve; "": it could."""
    config = {"cniVersion": version.CURRENT, "name": "doctor", "type": install.EXECUTABLE, "device": "veth",
              "runDir": str(run_dir)}  # fmt: skip
    try:
        execute(install.EXECUTABLE, "STATUS", {}, config, 2 * CALL_S)
    except errors.CNIError as problem:
        return str(problem)
    return ""


def _multus(folder: Path, places: Places) -> Mapping[str, str]:
    """Return the executables of Multus in a directory, and the version that each says it is."""
    try:
        return places.inside(lambda: {name: _version(folder / name) for name in _executables(folder) & chain.MULTUS})
    except OSError:
        return {}  # which the directory itself tells


def _version(path: Path) -> str:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
            return goprogram.version(program)
    except (OSError, ValueError):  # nothing can be read of it, or nothing is in it
        return ""


# -- the runtime, and who else it runs ------------------------------------------------------------------------------


def _runtime(runtime: cri.Runtime | None, places: Places) -> Runtime:
    others = tuple(f"unix://{path}" for one in _SOCKETS if (path := places.on_node(one)).is_socket())
    if runtime is None:
        return Runtime("", problem="no endpoint was named", others=others)
    try:
        return Runtime(places.cri, runtime.version(), "", others, tuple(_programs(runtime)))
    except cri.RuntimeUnavailable as problem:
        return Runtime(places.cri, problem=str(problem), others=others)


def _programs(runtime: cri.Runtime) -> Iterator[Program]:
    """Yield the containers of those that we know and who have to do with networks."""
    for one in runtime.running():
        if _NEIGHBOUR.search(f"{one.name} {one.pod} {one.image}"):
            yield Program(one.name, one.pod, _tag(runtime, one.image))


def _tag(runtime: cri.Runtime, image: str) -> str:
    try:
        return runtime.tag(image)
    except cri.RuntimeUnavailable:
        return image  # its name is all the same a finding


def _leftovers(runtime: cri.Runtime | None, places: Places) -> Leftovers:
    if runtime is None:
        return Leftovers(blind=("without a container runtime nobody can tell who lives",))
    audited = Kernel()
    try:
        node = Node(
            places.view, runtime, audited, places.state_dir, places.run_dir,
            _all(places.cache_dirs, places), _all(places.conf_dirs, places),
        )  # fmt: skip
        seen = node.look()
        found = audit.judged(seen, GUARD_S)
    except (OSError, ValueError, errors.CNIError) as problem:
        where = f"{problem.filename}: " if isinstance(problem, OSError) and problem.filename else ""
        return Leftovers(blind=(f"{where}{_in_words(problem)}",))
    finally:
        audited.close()
    return Leftovers(tuple(f"{one.what} {one.where}" for one in found), seen.blind)


def _all(paths: Sequence[Path], places: Places) -> tuple[Path, ...]:
    return tuple(map(places.on_node, paths))


# -- the agent's own ------------------------------------------------------------------------------------------------


def _policy_problem(path: Path | None) -> str:
    """Return what an agent would refuse it for; "": nothing."""
    try:
        if path is not None:
            policy.parse(path.read_text())
    except (OSError, ValueError) as problem:
        return _in_words(problem)
    return ""


def _in_words(problem: Exception) -> str:
    match problem:
        case OSError(strerror=str(said)):
            return said
        case UnicodeDecodeError():
            return f"it is no UTF-8 text at byte {problem.start}"
        case _:
            return cache.fault(problem)
