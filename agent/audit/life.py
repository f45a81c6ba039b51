"""Pure: which container is dead, and how that is known (agent.audit, rules 1 and 2)."""

from __future__ import annotations

import re
from collections.abc import Collection

from agent.audit.contract import NamespaceFile, Signs

GUARD_S = 300.0  # the kubelet waits four minutes for a sandbox to be made
_WORD = re.compile(r"[0-9A-Za-z]+")
# as containerd, podman and CRI-O call the namespaces that they make; others are people's own
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RUNTIMES_NAME = re.compile(rf"(cni-|netns-)?{_UUID}")
_ITS_ALONE = re.compile(rf"cni-{_UUID}")  # what else is only a UUID, schedulers call so as well that start things later
_CRI_ID = re.compile(r"[0-9a-f]{64}")
_LONG = 12  # of an ID: as few as this are enough to find it anywhere in a name


class Life:
    """Judges by signs that were read together."""

    def __init__(self, signs: Signs, guard_s: float = GUARD_S, young: Collection[str] = ()) -> None:
        """`young`: containers of which something is younger than the guard."""
        self._signs = signs
        self._guard_s = guard_s
        self._young = frozenset(young)
        listed = signs.sandboxes or ()
        self._ready = {one.id for one in listed if one.ready}
        self._stopped = {one.id for one in listed if not one.ready}
        self._pods = {str(one.id): f"{one.namespace}/{one.name}" for one in listed}
        self._noters: dict[str, set[str]] = {}
        for container, paths in signs.noted.items():
            for path in paths:
                self._noters.setdefault(path, set()).add(container)
        self._abandoned = {one.path for one in signs.namespaces if self._is_unused(one) and self._is_forgotten(one)}
        self._words = {word for cgroup in signs.cgroups for word in _WORD.findall(cgroup)}

    def death(self, container: str, age_s: float | None) -> str:
        """Return what shows that a container is dead; "": it may live. `age_s`: of what is left; None: has none."""
        if self._signs.sandboxes is None or not container or container in self._ready | self._young:
            return ""
        if not self._is_old(age_s):
            return ""
        if self._signs.noted.get(container, frozenset()) - self._abandoned or self._runs(container):
            return ""
        if any(one.inode and container in one.path.rpartition("/")[2] for one in self._signs.namespaces):
            return ""
        listed = "the runtime lists it as stopped" if container in self._stopped else "the runtime does not list it"
        return f"{listed}, no network namespace of it is in use, no process runs in it"

    def abandoned(self, age_s: float) -> str:
        """Return what shows that a thing is nobody's which its maker names at once; "": it may be being made."""
        return "" if age_s < self._guard_s else f"it names nobody, {age_s:.0f} s after it was made"

    def is_beginning(self, cut: str) -> bool:
        """Whether the ID of any that may live begins so."""
        living = self._ready | self._young | self._signs.noted.keys() | self._words
        return any(one.startswith(cut) for one in living) or self._runs(cut)

    def is_left(self, file: NamespaceFile) -> bool:
        """Whether a namespace, or what should be one, looks as if nobody had it any more."""
        return self._is_unused(file) and (not file.inode or self._is_forgotten(file))

    def is_abandoned(self, file: NamespaceFile) -> bool:
        """Whether it is beyond doubt a runtime's of Kubernetes, which has forgotten it.

        A service may have mounts of its own: from here its namespace looks like an empty file.
        """
        return self._is_unused(file) and self._is_forgotten(file) and _named(file, _ITS_ALONE)

    def _is_unused(self, file: NamespaceFile) -> bool:
        known = self._signs.sandboxes is not None
        return known and not file.used and file.path not in self._signs.claimed and file.age_s >= self._guard_s

    def _is_forgotten(self, file: NamespaceFile) -> bool:
        """Whether a runtime has named it, and nobody notes it whom the runtime of Kubernetes could not list."""
        return _named(file, _RUNTIMES_NAME) and all(map(is_cri, self._noters.get(file.path, ())))

    def pod(self, container: str) -> str:
        """Return the pod that the runtime has the container for; "": it does not say."""
        return self._pods.get(container, "")

    def _is_old(self, age_s: float | None) -> bool:
        return not self._is_anybody_born() if age_s is None else age_s >= self._guard_s

    def _is_anybody_born(self) -> bool:
        """Whether a container may be in the making: what it has first is its namespace."""
        return any(
            one.inode and one.age_s < self._guard_s and one.path not in self._signs.claimed
            for one in self._signs.namespaces
        )

    def _runs(self, container: str) -> bool:
        parts = {word for word in _WORD.findall(container) if len(word) >= _LONG}  # nerdctl: `default-<ID>`
        if self._words & {container, *parts}:
            return True
        is_telling = len(container) >= _LONG or not container.isalnum()
        return is_telling and any(container in cgroup for cgroup in self._signs.cgroups)


def is_cri(container: str) -> bool:
    """Whether an ID is one as the runtimes of Kubernetes give them: never given again, and listed while it lives."""
    return _CRI_ID.fullmatch(container) is not None


def _named(file: NamespaceFile, pattern: re.Pattern[str]) -> bool:
    return pattern.fullmatch(file.path.rpartition("/")[2]) is not None


def same_place(path: str) -> str:
    """Return a path as others are compared with it: /var/run is another name of /run."""
    return path[4:] if path.startswith("/var/run/") else path
