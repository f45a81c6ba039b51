"""Whether the kubelet's directory is covered in the agent's view of the node, which docs/rights.md promises.

Rules
1. Nobody is asked where the kubelet has its directory (`--root-dir`). It has made this container's own volumes there,
   and /proc/self/mountinfo says which directory of which file system each mount is.
2. It lies open where the same directory of the same file system is reached below the node's root, with this pod in it.
3. A runtime that has containers below /run mounts /run into the agent's after it has mounted the node's root there:
   what it mounts has the container in it, and in that the node's root once more, without what covers the first one.
   That is no finding: who looks for tokens there finds them in /proc as well (docs/threat-model.md).
4. Where the kubelet has made no volume, as for an agent that is a service of the node, nothing is found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.contract import Kubelet

_VOLUME = re.compile(r"(?P<folder>.*)(?P<pod>/pods/[^/]+)/volumes/kubernetes\.io~(?P<kind>[^/]+)/(?P<name>[^/]+).*")
_COVER = ("empty-dir", "nothing")  # the volume, in manifests/base/daemonset.yaml
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo (proc(5)): a directory `root` of the file system `device` is at `point`."""

    device: str
    root: str
    point: Path


def look(root: Path | None) -> Kubelet:
    """Return what is seen of it below `root`, where the node's root is mounted. Raises OSError."""
    if root is None:
        return Kubelet()
    mounts = tuple(parse(Path("/proc/self/mountinfo").read_text(errors="surrogateescape")))
    places = dict(_places(mounts, root))
    again = _again(mounts, root)
    inner = {place for place in places if any(place.is_relative_to(one) for one in again)}
    bare = {place for place, pod in places.items() if os.path.isdir(f"{place}{pod}")}  # noqa: PTH112 - one that cannot be read lies not open
    return Kubelet(
        lies_open=tuple(_of_node(place, root) for place in places if place in bare - inner),
        covered=tuple(_of_node(place, root) for place in places if place not in bare | inner),
        covers=tuple(_of_node(one.point, root) for one in mounts if _is_cover(one) and one.point.is_relative_to(root)),
    )


def parse(text: str) -> Iterator[Mount]:
    """Yield the mounts of a mountinfo."""
    for line in text.splitlines():
        _, _, device, root, point, *_ = line.split(" ")
        yield Mount(device, _plain(root), Path(_plain(point)))


def _places(mounts: Sequence[Mount], root: Path) -> Iterator[tuple[Path, str]]:
    """Yield where the kubelet's directory is below `root`, and what this pod's is called in it (rules 1 and 2).

    What is mounted as such a directory comes before what merely has it somewhere below.
    """
    of_node = [one for one in mounts if one.point.is_relative_to(root)]
    of_node.sort(key=lambda one: len(one.root), reverse=True)
    for volume in mounts:
        if volume in of_node or not (said := _VOLUME.fullmatch(volume.root)):
            continue
        folder = Path(said["folder"] or "/")
        for one in of_node:
            if one.device == volume.device and folder.is_relative_to(one.root):
                yield one.point / folder.relative_to(one.root), said["pod"]


def _again(mounts: Iterable[Mount], root: Path) -> tuple[Path, ...]:
    """Return where the node's root is once more below itself, in what the runtime has of this container (rule 3)."""
    of_root = {(one.device, one.root) for one in mounts if one.point == root}
    inner = Path(*root.parts[1:])
    return tuple(
        one.point
        for one in mounts
        if (one.device, one.root) in of_root and one.point.is_relative_to(root) and one.point != root
        if one.point.match(f"*/{inner}")
    )


def _is_cover(one: Mount) -> bool:
    said = _VOLUME.fullmatch(one.root)
    return said is not None and (said["kind"], said["name"]) == _COVER


def _of_node(path: Path, root: Path) -> str:
    return str(Path("/", path.relative_to(root)))


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda one: chr(int(one[1], 8)), text)
