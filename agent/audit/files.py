"""Pure: what is left in files: leases, result caches, the agent's journal, what was set aside."""

from __future__ import annotations

from collections.abc import Iterator

from agent.audit.contract import Delete, Finding, Forget, Release, RemoveFile, Seen, Whose
from agent.audit.life import Life
from agent.cache import Cached
from agent.model import Origin, Record

_AGENT = "nothing: the agent does so by itself, as soon as the plugins' DEL succeeds"
_PEOPLE = "nothing: look at it and delete it"
TOMBSTONE_S = 60.0  # how old a call may be that the agent has not replayed yet


def findings(seen: Seen, life: Life) -> Iterator[Finding]:
    yield from _records(seen, life)
    yield from _caches(seen, life)
    yield from _leases(seen, life)
    yield from _scratch(seen, life)
    yield from _put_by(seen)


def _records(seen: Seen, life: Life) -> Iterator[Finding]:
    """A pod's are the agent's work of this moment. Of others it cannot know that no DEL will come."""
    for record in seen.records:
        if evidence := life.death(record.key.container_id, None):
            is_anybodys = record.origin is Origin.RUNTIME and record.pod is None
            repair = Forget(record, record.key in seen.alone) if is_anybodys else None
            where = f"{record.key.container_id}/{record.key.ifname}"
            yield Finding(
                "record of the journal", where, _of_record(record), evidence, repair, "" if repair else _AGENT
            )


def _caches(seen: Seen, life: Life) -> Iterator[Finding]:
    ours = {record.key.container_id for record in seen.records}
    for cached, age_s in seen.cached:
        if evidence := life.death(cached.container_id, age_s):
            repair = None if cached.container_id in ours else Delete(cached)
            otherwise = "" if repair else "nothing yet: the agent's journal has it too, and comes first"
            yield Finding("result cache file", str(cached.path), _of_cached(cached), evidence, repair, otherwise)
    for path, reason in sorted(seen.unreadable.items()):
        yield Finding("result cache file", str(path), Whose(), f"it cannot be read: {reason}", otherwise=_PEOPLE)


def _leases(seen: Seen, life: Life) -> Iterator[Finding]:
    ours = {(record.key.container_id, record.key.ifname) for record in seen.records}
    pods = {cached.container_id: _of_cached(cached).pod for cached, _ in seen.cached}
    for lease in seen.leases:
        if (lease.container, lease.ifname) in ours:
            continue
        pod = life.pod(lease.container) or pods.get(lease.container, "")
        evidence = life.death(lease.container, lease.age_s) if lease.container else life.abandoned(lease.age_s)
        if evidence:
            whose = Whose(lease.container, lease.ifname, lease.network, pod)
            yield Finding("host-local lease", str(lease.path), whose, evidence, Release(lease))


def _scratch(seen: Seen, life: Life) -> Iterator[Finding]:
    for file in seen.scratch:
        if evidence := life.death(file.path.name, file.age_s):
            whose = Whose(file.path.name, pod=life.pod(file.path.name))
            yield Finding("delegates kept by Multus", str(file.path), whose, evidence, RemoveFile(file.path))


def _put_by(seen: Seen) -> Iterator[Finding]:
    for file in seen.aside:
        yield Finding("file set aside by the agent", str(file.path), Whose(), "it could not be read", otherwise=_PEOPLE)
    for file in seen.tombstones:
        if file.age_s >= TOMBSTONE_S:
            evidence = f"it was not replayed for {file.age_s:.0f} s: the agent is down, or its DEL fails"
            yield Finding("call that waits for the agent", str(file.path), Whose(), evidence, otherwise=_AGENT)


def _of_record(record: Record) -> Whose:
    return Whose(record.key.container_id, record.key.ifname, record.network, str(record.pod) if record.pod else "")


def _of_cached(cached: Cached) -> Whose:
    args = dict(cached.cni_args)
    namespace, name = args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", "")
    return Whose(cached.container_id, cached.ifname, cached.network, f"{namespace}/{name}" if namespace else name)
