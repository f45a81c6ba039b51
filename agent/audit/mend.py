"""The repairs. Each looks first whether what it is about to remove is still what was found (agent.audit, rule 5)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from agent import cache, chain, files, netns, network, ovsdb
from agent.audit import links, nft
from agent.audit.contract import (
    Delete,
    Forget,
    Lease,
    NamespaceFile,
    Release,
    RemoveFile,
    RemoveLink,
    RemoveNamespace,
    RemovePort,
    RemoveRules,
    Repair,
)
from agent.audit.look import Node, is_namespace
from agent.device import TYPE
from agent.links import Link
from agent.model import Record
from cni import errors

DEADLINE_S = 30.0  # of the plugins of one network
_LOCK_S = 10.0  # for a store's lock
_RETRY_S = 0.02
_FRESH_S = 5.0  # longer than a look is proof: what is younger has been written since
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class Mender:
    """Performs repairs on a node; `execute` runs plugins of `bin_dirs`."""

    def __init__(self, node: Node, execute: chain.Plugin, bin_dirs: Sequence[Path]) -> None:
        self._node = node
        self._execute = execute
        self._path = tuple(str(directory) for directory in bin_dirs)

    def perform(self, repair: Repair) -> str:
        """Return what was in the way; "": nothing."""
        try:
            self._perform(repair)
        except (OSError, errors.CNIError, ovsdb.Unreachable, _Changed) as problem:
            return str(problem)
        return ""

    def _perform(self, repair: Repair) -> None:
        match repair:
            case Delete(cached):
                self._delete(cached)
            case Forget(record, alone):
                self._forget(record, alone=alone)
            case Release(lease):
                _release(lease)
            case RemoveFile(path):
                self._remove_file(path)
            case RemoveLink(link):
                self._remove_link(link)
            case RemoveRules(rules, targets):
                nft.remove(rules)
                for target in targets:
                    nft.remove_unused(target)
            case RemovePort(port):
                ovsdb.drop_port(self._node.view.place, port)
            case RemoveNamespace(file):
                _remove_namespace(Path(self._node.view.place(file.path)), file)

    def _delete(self, cached: cache.Cached) -> None:
        """As libcni would: every plugin, backward, then the file. There is no namespace to name any more."""
        now = [one for one in cache.read((cached.path.parent,), cached.container_id) if one.path == cached.path]
        if not cached.path.exists():
            return
        if now != [cached] or _is_fresh(cached.path):
            raise _Changed(f"{cached.path} has been written anew")
        net = network.parse(cached.config_text, cached.network)
        call = chain.Call(
            cached.container_id, "", cached.ifname, cached.cni_args, cached.capability_args,
            path=self._path, deadline_s=DEADLINE_S,
        )  # fmt: skip
        chain.delete(net, call, self._execute, cached.result)
        cached.path.unlink(missing_ok=True)

    def _forget(self, record: Record, *, alone: bool) -> None:
        """Only calls of the plugin `hotnic` make such a record: one more such call ends it, under its owner's locks."""
        now = [one for one in self._node.records() if one.key == record.key]
        if not now:
            return
        if now != [record] * len(now):
            raise _Changed(f"{record.key} has been attached anew")
        config = json.loads(record.config) | ({"agent": "none"} if alone else {"runDir": str(self._node.run_dir)})
        env = {
            "CNI_COMMAND": "DEL", "CNI_CONTAINERID": record.key.container_id, "CNI_IFNAME": record.key.ifname,
            "CNI_NETNS": "", "CNI_ARGS": "", "CNI_PATH": ":".join(self._path),
        }  # fmt: skip
        self._execute(TYPE, "DEL", env, config, DEADLINE_S)

    def _remove_file(self, path: Path) -> None:
        """Also a result that cannot be read is one whose DEL nobody has done."""
        left = [one for folder in self._node.caches for one in files.listed(folder) if f"-{path.name}-" in one.name]
        if left:
            raise _Changed(f"{left[0]} is still there: what is in this may be needed for its DEL")
        if path.exists() and _is_fresh(path):
            raise _Changed(f"{path} has been written anew")
        path.unlink(missing_ok=True)

    def _remove_link(self, link: Link) -> None:
        kernel = self._node.kernel
        with netns.own() as own:
            now = kernel.pod_link_at(own, link.index)
            if now is None:
                return
            if (now.name, now.mac, now.kind) != (link.name, link.mac, link.kind):
                raise _Changed(f"{link.name} is another link now")
            if links.is_needed(link, self._node.links(), self._node.records()):
                raise _Changed(f"{link.name} is in use now")
            kernel.delete_in_pod(own, now)


class _Changed(Exception):
    """It is not any more what was found."""


def _is_fresh(path: Path) -> bool:
    return time.time() - path.stat().st_mtime < _FRESH_S


def _release(lease: Lease) -> None:
    with suppress(FileNotFoundError), _held(lease.path.with_name("lock")):  # perhaps the whole store has gone
        if lease.path.read_text(errors="replace") != lease.text:
            raise _Changed("it has been given to somebody else")
        lease.path.unlink()


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of a store of host-local. Raises OSError where others hold it for too long."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        ends = time.monotonic() + _LOCK_S
        while not _locked(fd):
            if time.monotonic() > ends:
                raise TimeoutError(errno.ETIMEDOUT, f"{path} is held by somebody else")
            time.sleep(_RETRY_S)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_namespace(path: Path, file: NamespaceFile) -> None:
    """Without the mount here the kernel lets the file go, and ends its mounts elsewhere."""
    status = path.stat()
    if file.inode and status.st_ino != file.inode:
        raise _Changed(f"{path} is another namespace now")
    if not file.inode and (not path.is_file() or status.st_size or is_namespace(path)):
        raise _Changed(f"{path} is no empty file any more")
    if file.inode and _libc.umount2(os.fsencode(path), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        message = f"unmount: {os.strerror(number)}; on the node itself: umount {file.path}; rm {file.path}"
        raise OSError(number, message)
    path.unlink()
