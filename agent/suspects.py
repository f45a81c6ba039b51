"""Which attachments an event is about, and which ones a pass is to look at.

Rules
1. A link of a pod is known by its index, one of the node by the names that attachments need (agent.needs).
2. Events may be a pod's own doing, on and on. When AT_ONCE looks because of events have found nothing wrong, the next
   ones wait: FIRST_S after the last one, then ever longer, up to LONGEST_S; until one finds something, or QUIET_S pass.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from agent import network
from agent.model import ContainerID, Key, Phase, PodUID, Record
from agent.needs import needs
from cni import version

_OURS = "hotnic"
AT_ONCE, FIRST_S, LONGEST_S, QUIET_S = 3, 1.0, 8.0, 30.0


@dataclass(slots=True)
class Suspected:
    """Attachments of one pod that are to be looked at: `heard` because of an event, `to_ask` by other plugins, too."""

    keys: set[Key] = field(default_factory=set)
    heard: set[Key] = field(default_factory=set)
    to_ask: set[Key] = field(default_factory=set)


class Suspects:
    """What passes are to look at, and what came of it. Safe for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[PodUID, Suspected] = {}
        self._in_vain: dict[Key, tuple[int, float]] = {}  # looks in a row that found nothing, and when the last was

    def add(self, uid: PodUID, keys: Collection[Key], *, heard: bool = False, to_ask: bool = False) -> None:
        with self._lock:
            suspected = self._of.setdefault(uid, Suspected())
            suspected.keys.update(keys)
            suspected.heard.update(keys if heard else ())
            suspected.to_ask.update(keys if to_ask else ())

    def is_heard_of(self, uid: PodUID, key: Key) -> bool:
        """Whether an event is why this one is to be looked at."""
        with self._lock:
            return uid in self._of and key in self._of[uid].heard

    def take(self, uid: PodUID) -> Suspected:
        """Return what is to be looked at, and forget it."""
        with self._lock:
            return self._of.pop(uid, None) or Suspected()

    def found(self, key: Key, now: float, *, is_wrong: bool) -> None:
        """Take note of what a look because of an event has found (rule 2)."""
        with self._lock:
            count, last = self._in_vain.pop(key, (0, now))
            if not is_wrong:
                self._in_vain[key] = ((count if now - last < QUIET_S else 0) + 1, now)

    def not_before(self, key: Key, now: float) -> float:
        """Return when an event may have it looked at (rule 2)."""
        with self._lock:
            count, last = self._in_vain.get(key, (0, now))
        if count < AT_ONCE or now - last >= QUIET_S:
            return now
        return max(now, last + min(FIRST_S * 2.0 ** min(count - AT_ONCE, 20), LONGEST_S))

    def keep(self, keys: Collection[Key]) -> None:
        """Forget all others."""
        with self._lock:
            self._in_vain = {key: found for key, found in self._in_vain.items() if key in keys}
            for uid, suspected in tuple(self._of.items()):
                for some in (suspected.keys, suspected.heard, suspected.to_ask):
                    some.intersection_update(keys)
                if not suspected.keys:
                    del self._of[uid]


def has_others(record: Record) -> bool:
    """Whether other plugins than ours made it, and may be asked how it is. Raises CNIError for an invalid record."""
    net = network.parse(record.config, record.network.rpartition("/")[2])
    others = any(plugin["type"] != _OURS for plugin in net.plugins)
    return others and not net.disable_check and version.at_least(net.cni_version, "0.4.0")


class Map:
    """Which attachments an event is about. Used by one thread."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}
        self._needs: dict[Key, frozenset[str]] = {}
        self._by_need: dict[str, set[Key]] = {}
        self._by_index: dict[tuple[ContainerID, int], Key] = {}

    def follow(self, records: Iterable[Record]) -> None:
        """Know these, and no others."""
        now = {record.key: record for record in records if record.phase is Phase.ATTACHED}
        for key, record in tuple(self._records.items()):
            if now.get(key) is not record:
                self._drop(record)
        for key, record in now.items():
            if key not in self._records:
                self._records[key] = record
                self._by_index[key.container_id, record.ifindex] = key
                self._needs[key] = needs(record)
                for name in self._needs[key]:
                    self._by_need.setdefault(name, set()).add(key)

    def records(self) -> Collection[Record]:
        return self._records.values()

    def record(self, key: Key) -> Record | None:
        return self._records.get(key)

    def databases(self) -> frozenset[str]:
        """Return the paths of the switches' databases that the attachments need."""
        return frozenset(name for name in self._by_need if name.startswith("/"))

    def on_node(self, name: str) -> Collection[Key]:
        """Return the attachments that need the node's link, or database, of that name."""
        return self._by_need.get(name, ())

    def in_pod(self, container_id: ContainerID, index: int, name: str = "") -> Collection[Key]:
        """Return the attachment of that link, or one that needs it; of an unknown link (0) any may be."""
        if index:
            key = self._by_index.get((container_id, index))
            besides = [one for one in self._by_need.get(name, ()) if one.container_id == container_id]
            return besides if key is None else (key,)
        return [key for key in self._records if key.container_id == container_id]

    def _drop(self, record: Record) -> None:
        del self._records[record.key]
        self._by_index.pop((record.key.container_id, record.ifindex), None)
        for name in self._needs.pop(record.key):
            if keys := self._by_need.get(name):
                keys.discard(record.key)
                if not keys:
                    del self._by_need[name]
