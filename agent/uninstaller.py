"""`hotnic-agent uninstall --detach | --keep`: takes hotnic off this node, once its agent has ended.

Rules
1. Nothing is changed while anything is in the way (agent.uninstall), unless `--force` says so, or while an agent runs.
   `--check` says what is in the way, and no more. It asks no journal, so it may be asked while the agent runs: what
   its attachments would have in the way, an interface in a virtual machine, is known only then.
2. It can be repeated at any time, and goes on where it was stopped: what is gone already is no error.
3. The executable goes first: what it would leave behind for an agent would be left for nobody.
4. With `--stay` it takes the agent's place in its pod: it tries until all is done, answers the pod's probes, which say
   why it is not done yet, and then waits for its end, as the pods of a DaemonSet may not end by themselves.

Exit status: 0 hotnic is gone, 1 something was in the way, 2 something could not be read or removed.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from agent import cache, confdir, delegate, descendants, device, files, install, installer, metrics, netns, uninstall
from agent.attach import Attachments, Settings
from agent.journal import InUse, Journal
from agent.model import NotReady
from agent.netlink import Kernel
from agent.peers import Peers
from agent.uninstall import Seen
from cni import errors

GONE, IN_THE_WAY = 0, 1
PATIENCE_S = 60.0  # an agent that was told to end finishes the calls that are under way
AGAIN_S = 5.0
PROFILE = Path("hotnic/agent.json")  # below the kubelet's folder of seccomp profiles


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this command has besides the agent's own options."""
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--detach", action="store_true", help="remove every attachment, then everything else")
    mode.add_argument("--keep", action="store_true", help="leave attachments, and the state directory while it has any")
    add = parser.add_argument
    add("--check", action="store_true", help="only say what is in the way; may be asked while the agent runs")
    add("--force", action="store_true", help="though something is in the way")
    add("--stay", action="store_true", help="in the agent's place in a pod: try until it is done, then stay")
    add("--seccomp-dir", type=Path, default=Path("/var/lib/kubelet/seccomp"), metavar="DIR",
        help="the kubelet's profiles (default %(default)s)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Return the exit status. Raises OSError, ValueError and CNIError for what cannot be read or removed."""
    if arguments.stay and not arguments.check:
        return _stay(arguments)
    told = Node(arguments).obstacles(keep=arguments.keep) if arguments.check else _try(arguments)
    sys.stderr.writelines(f"hotnic-agent uninstall: {one}\n" for one in told)
    return IN_THE_WAY if told else GONE


def _try(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return what is in the way."""
    try:
        with closing(Node(arguments)) as node:
            node.open()
            told = node.uninstall(keep=arguments.keep, force=arguments.force)
    except InUse as problem:
        return (f"{problem}: end it first",)
    if not told:
        sys.stdout.write("hotnic is gone from this node\n")
        sys.stdout.flush()
    return told


def _stay(arguments: argparse.Namespace) -> int:
    """Rule 4."""
    stop, in_the_way = threading.Event(), ["it has just begun"]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if arguments.metrics_address:
        metrics.serve(arguments.metrics_address, lambda: tuple(in_the_way), tuple)
    while in_the_way and not stop.is_set():
        try:
            in_the_way[:] = _try(arguments)
        except (OSError, ValueError, errors.CNIError) as problem:
            in_the_way[:] = [str(problem)]
        stop.wait(AGAIN_S if in_the_way else None)
    return IN_THE_WAY if in_the_way else GONE


class Node:
    """What hotnic has on this node."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._view = netns.View(arguments.host_root)
        self._executable: Path = (arguments.install_dir or self._place(arguments.cni_bin_dir[0])) / install.EXECUTABLE
        self._caches = tuple(map(self._place, arguments.cni_cache_dir))
        self._run_dir: Path = arguments.run_dir
        self._state_dir: Path = arguments.state_dir
        self._journal: Journal | None = None

    def open(self) -> None:
        """Have the journal, if there is one, for nobody else. Without a state directory none is made.

        Raises InUse where an agent does not end, ValueError where a newer one wrote it.
        """
        if self._state_dir.exists():
            self._journal = Journal(self._state_dir, PATIENCE_S)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def uninstall(self, *, keep: bool, force: bool) -> tuple[str, ...]:
        """Return what is in the way; nothing where all is done."""
        seen = self._look()
        if (found := uninstall.obstacles(seen, keep=keep)) and not force:
            return found
        if not keep and (left := tuple(self._detach(seen))):
            return left
        self._remove(seen, keep=keep)
        return ()

    def obstacles(self, *, keep: bool) -> tuple[str, ...]:
        """Return what is in the way, besides what the journal says where it is not open."""
        return uninstall.obstacles(self._look(), keep=keep)

    def _look(self) -> Seen:
        remembered, unreadable = cache.survey(self._caches)
        configs, unknown = self._configurations()
        return Seen(
            records=self._journal.records() if self._journal else (),
            damaged=tuple(files.listed(self._state_dir / "damaged")),
            standalone=sum(path.suffix == ".json" for path in files.listed(self._state_dir / "standalone/records")),
            chains=tuple(path for path, text in configs.items() if uninstall.may_name_us(text)),
            unreadable=(*unreadable, *unknown),
            living=tuple(one for one in remembered if not one.netns or self._place(Path(one.netns)).exists()),
        )

    def _configurations(self) -> tuple[Mapping[Path, str], Mapping[Path, str]]:
        """Return the networks on disk, and what cannot be read of them. Links lead to where they lead on the node."""
        root: Path | None = self._arguments.host_root
        dirs: list[Path] = self._arguments.cni_conf_dir
        return confdir.survey(dirs) if root is None else delegate.below(root, lambda: confdir.survey(dirs))

    def _place(self, path: Path) -> Path:
        return Path(self._view.place(str(path)))

    # -- attachments

    def _detach(self, seen: Seen) -> Iterator[str]:
        """Remove every attachment with the configuration of its ADD; yield what could not be."""
        if self._journal is None or not seen.records:
            return
        kernel = Kernel(Peers(self._state_dir).get, self._view)
        try:
            attachments = self._attachments(self._journal, kernel)
            for record in uninstall.in_order(seen.records):
                try:
                    attachments.detach(record)
                    sys.stdout.write(f"detached {record.key.ifname} of {record.pod or record.key.container_id}\n")
                except (NotReady, errors.CNIError) as problem:
                    yield f"{record.key.ifname} of {record.pod or record.key.container_id}: {problem}"
        finally:
            kernel.close()

    def _attachments(self, journal: Journal, kernel: Kernel) -> Attachments:
        execute = delegate.Executor(self._arguments.cni_bin_dir, self._arguments.host_root)
        descendants.kill_survivors()  # of the agent: an ADD that finishes late would leak
        native = device.Native(kernel, execute, self._view, journal)
        conf_dirs = tuple(map(self._place, self._arguments.cni_conf_dir))
        settings = Settings(tuple(self._arguments.cni_bin_dir), conf_dirs, self._view)
        return Attachments(journal, kernel, native, execute, settings)

    # -- files

    def _remove(self, seen: Seen, *, keep: bool) -> None:
        """Rule 3. Raises OSError where something cannot be removed."""
        self._remove_executable()
        profile: Path = self._arguments.seccomp_dir / PROFILE
        _remove_file(profile)
        with suppress(FileNotFoundError):
            profile.parent.rmdir()
        _remove_tree(self._run_dir, uninstall.is_in_run_dir)
        if why := uninstall.state_stays(seen, keep=keep):
            sys.stdout.write(f"{self._state_dir} stays: {why}\n")
        else:
            _remove_tree(self._state_dir, uninstall.is_in_state_dir)

    def _remove_executable(self) -> None:
        """What has its name and is somebody else's stays (agent.install, rule 1)."""
        found = installer.found(self._executable)
        if found is not None and install.says_what_it_is(found):
            _remove_file(self._executable)
        with suppress(FileNotFoundError):
            for name in os.listdir(self._executable.parent):
                if install.is_on_its_way(name, install.EXECUTABLE):
                    _remove_file(self._executable.with_name(name))


def _remove_tree(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove what is ours in it, and the folder. One that is a mount stays, empty: who has mounted it removes it."""
    if not folder.exists():
        return
    for path in (one for one in folder.iterdir() if is_ours(one.name)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if others := sorted(one.name for one in folder.iterdir()):
        sys.stdout.write(f"{folder} stays: {', '.join(others)} in it is not hotnic's\n")
        return
    try:
        folder.rmdir()
        sys.stdout.write(f"removed {folder}\n")
    except OSError as problem:
        if problem.errno != errno.EBUSY:
            raise
        sys.stdout.write(f"{folder} is a mount, and is empty now\n")


def _remove_file(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
        sys.stdout.write(f"removed {path}\n")
