"""Pure: what is on a node that hotnic is to leave -> what is in the way, and what goes.

Rules
1. What others still need is in the way: a chain on disk that names us, an attachment whose runtime will call us at its
   DEL. Without the executable no pod could start, or end.
2. `detach`: everything that is in the journal is removed first; what cannot be, is in the way. Then nothing stays.
3. `keep`: every attachment stays as it is, and so does the state directory while it holds anything of them: it alone
   says how they are taken down. Whoever installs hotnic again, or detaches later, goes on with it.
4. An option may name any directory, `/run` say. What has none of our names in it is somebody's, and stays.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent import network
from agent.cache import Cached
from agent.model import Record
from cni import errors

TYPE = "hotnic"

_IN_RUN_DIR = ("agent.sock", "cni.sock", "tombstones")
_IN_STATE_DIR = ("damaged", "format*", "lock", "pods", "records", "standalone", "underlay.json*")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found on the node."""

    records: tuple[Record, ...] = ()
    damaged: tuple[Path, ...] = ()  # files of the journal that were set aside
    standalone: int = 0  # attachments of callers without Kubernetes
    chains: tuple[Path, ...] = ()  # networks on disk that name us
    living: tuple[Cached, ...] = ()  # what runtimes remember of containers whose namespaces are there
    unreadable: tuple[Path, ...] = ()  # what they may remember, or the disk may say, besides


def obstacles(seen: Seen, *, keep: bool) -> tuple[str, ...]:
    """Return what is in the way, each with what to do."""
    found = [
        *(f"{path} names hotnic: pods could not start; take it out first" for path in seen.chains),
        *(f"{_of(one)} was attached by a runtime, which calls hotnic when it ends: recreate the pod first"
          for one in seen.living if names_us(one.config_text)),
        *(f"{path} cannot be read, and may be of a pod or a network that needs hotnic: mend it, or remove it if not"
          for path in seen.unreadable),
    ]  # fmt: skip
    if seen.standalone:
        found.append(f"{seen.standalone} attachments are of callers without Kubernetes: end their containers first")
    if not keep:
        found += [f"{_whose(one)} is in a virtual machine: unplug it first" for one in seen.records if one.guest]
        found += [
            f"{path} is damaged, and tells of an attachment or a pod that may be left on the node: look for it"
            " (`hotnic-agent audit` lists what is nobody's), then remove the file"
            for path in seen.damaged
        ]
    return tuple(found)


def names_us(config: str) -> bool:
    """Whether a network's configuration has a plugin of ours; one that cannot be read has none that was executed."""
    try:
        plugins = network.parse(config, "any").plugins
    except errors.CNIError:
        return False
    return any(plugin.get("type") == TYPE for plugin in plugins)


def may_name_us(text: str) -> bool:
    """Whether a file among the networks has a plugin of ours; another program may understand what we do not."""
    try:
        network.parse(text, "any")
    except errors.CNIError:
        return TYPE in text
    return names_us(text)


def state_stays(seen: Seen, *, keep: bool) -> str:
    """Return why the state directory stays, "" where it goes (rule 3)."""
    if not keep or not (seen.records or seen.damaged):
        return ""
    pods = {str(one.pod) for one in seen.records if one.pod}
    return f"it says how {len(seen.records)} attachments of {len(pods)} pods are taken down"


def is_in_run_dir(name: str) -> bool:
    """Whether that is ours in the directory of the sockets (rule 4)."""
    return _is_one(name, _IN_RUN_DIR)


def is_in_state_dir(name: str) -> bool:
    """Whether that is ours in the state directory (rule 4)."""
    return _is_one(name, _IN_STATE_DIR)


def in_order(records: Iterable[Record]) -> tuple[Record, ...]:
    """Return them as they are detached: the last one first, as what came later may lead through what was there."""
    return tuple(sorted(records, key=lambda one: one.sequence, reverse=True))


def _is_one(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _of(one: Cached) -> str:
    args = dict(one.cni_args)
    pod = "/".join(filter(None, (args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME"))))
    return f"{one.ifname} of {f'pod {pod}' if pod else f'container {one.container_id}'}"


def _whose(one: Record) -> str:
    return f"{one.key.ifname} of {f'pod {one.pod}' if one.pod else f'container {one.key.container_id}'}"
