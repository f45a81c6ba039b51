"""Which sandbox is a pod's, and where its network namespace is.

Asked of the container runtime over CRI; where that is away, the calls that our own CNI server took say it too.
What was found is kept for as long as the namespace is there: a sandbox that is stopped loses its namespace, so the
check is one `stat`, and a pod that is edited again costs no call.

A pod is its UID, namespace and name together: the UID of the mirror of a static pod is told by an annotation, so
somebody may have written another pod's there, and must not get into that one's sandbox.

Where we are in the chain of the pod's own network (agent.primary), the runtime's calls say when a sandbox begins and
ends: it is not listed yet then, or is listed still.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from agent import cri, netns
from agent.journal import Journal
from agent.model import ContainerID, Namespace, NotReady, Origin, Pod, Refused
from cni import errors

LEAVING_S = 600.0  # how long a sandbox that was ended may still be listed as living
HOST_NETWORK = "the pod uses the node's own network, which is never changed"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sandbox:
    id: ContainerID
    namespace: Namespace


class Sandboxes:
    """Finds and remembers sandboxes. Safe for use by many threads."""

    def __init__(self, runtime: cri.Runtime | None, journal: Journal, view: netns.View) -> None:
        self._runtime = runtime
        self._journal = journal
        self._view = view
        self._lock = threading.RLock()
        self._known: dict[Pod, Sandbox] = {}
        self._host_network: set[ContainerID] = set()
        self._leaving: dict[ContainerID, float] = {}  # since when
        self._told = ""  # the runtime's last problem

    def begin(self, pod: Pod, sandbox: Sandbox) -> None:
        """Take note of a sandbox that the runtime is making for the pod."""
        with self._lock:
            self._leaving.pop(sandbox.id, None)
            self._known[pod] = sandbox

    def end(self, container_id: ContainerID) -> None:
        """Take note of a sandbox that the runtime is taking down: it is nobody's any more."""
        now = time.monotonic()
        with self._lock:
            recent = {one: since for one, since in self._leaving.items() if now - since < LEAVING_S}
            self._leaving = {**recent, container_id: now}
            self._known = {pod: one for pod, one in self._known.items() if one.id != container_id}

    def of(self, pod: Pod) -> Sandbox | None:
        """Return the pod's living sandbox; None while it has none.

        Raises Refused for a pod in the node's own network, NotReady where the runtime does not answer.
        """
        with self._lock:
            known = self._known.get(pod)
        if known is not None and self._view.still_there(known.namespace):
            return known
        found = self._look_up(pod)
        return None if found is None or self._is_leaving(found.id) else found

    def is_listed(self, pod: Pod) -> bool:
        """Whether the UID is this pod's, as the runtime says. Raises NotReady where it does not answer."""
        if self._runtime is None:
            return self._of_calls(pod) is not None
        try:
            return any(_pod(one) == pod for one in self._runtime.sandboxes())
        except cri.RuntimeUnavailable as problem:
            raise NotReady("RuntimeUnavailable", f"container runtime: {problem}") from None

    def known(self, pod: Pod) -> str:
        """Return the ID of the sandbox that was last seen living for the pod, "" for none; asks nobody."""
        with self._lock:
            known = self._known.get(pod)
        return known.id if known else ""

    def inodes(self, containers: Collection[ContainerID]) -> frozenset[int]:
        """Return the inodes of these sandboxes' network namespaces, as far as they are known; asks nobody."""
        with self._lock:
            return frozenset(one.namespace.inode for one in self._known.values() if one.id in containers)

    def refresh(self) -> Collection[ContainerID] | None:
        """Learn all sandboxes of the node ahead of need; return the IDs of the living ones, None if unknown."""
        if self._runtime is None:
            return None
        try:
            listed = self._runtime.sandboxes()
        except cri.RuntimeUnavailable as problem:
            self._tell(str(problem))
            return None
        self._tell("")
        ready = [one for one in listed if one.ready]
        self._host_network &= {one.id for one in ready}
        for one in ready:
            if self.known(_pod(one)) != one.id and one.id not in self._host_network:
                try:
                    self._learn(_pod(one), listed)
                except Refused:
                    continue  # its own passes say so
                except (cri.RuntimeUnavailable, NotReady) as problem:
                    log.warning("sandbox %s of %s/%s: %s", one.id, one.namespace, one.name, problem)
        self._drop({_pod(one) for one in ready})
        return {one.id for one in ready}

    def unavailable(self) -> str:
        """Return why the runtime does not answer, or "" when it does."""
        if self._runtime is None:
            return ""
        try:
            self._runtime.sandboxes()
        except cri.RuntimeUnavailable as problem:
            return str(problem)
        return ""

    def _look_up(self, pod: Pod) -> Sandbox | None:
        if self._runtime is None:
            return self._of_calls(pod)
        try:
            return self._learn(pod, self._runtime.sandboxes())
        except cri.RuntimeUnavailable as problem:
            if (served := self._of_calls(pod)) is not None:
                return served
            raise NotReady("RuntimeUnavailable", f"container runtime: {problem}") from None

    def _learn(self, pod: Pod, listed: Collection[cri.Sandbox]) -> Sandbox | None:
        assert self._runtime is not None
        current = _current(listed, pod)
        if current is None or self._is_leaving(current.id):
            return None
        path = self._runtime.netns(current.id)
        if not path and _current(self._runtime.sandboxes(), pod) != current:
            return None  # no path because it is gone, not because it has none
        found = self._open(current.id, path)
        with self._lock:
            if found is not None and not self._is_leaving(found.id):
                self._known[pod] = found
        return found

    def _tell(self, problem: str) -> None:
        """Once, for as long as the runtime says the same."""
        if problem and problem != self._told:
            log.warning("container runtime: %s", problem)
        self._told = problem

    def _is_leaving(self, container_id: ContainerID) -> bool:
        with self._lock:
            return time.monotonic() - self._leaving.get(container_id, -LEAVING_S) < LEAVING_S

    def _of_calls(self, pod: Pod) -> Sandbox | None:
        for record in reversed(self._journal.of_pod(pod.uid)):
            if record.pod == pod and record.origin is Origin.RUNTIME and self._view.still_there(record.namespace):
                return Sandbox(record.key.container_id, record.namespace)
        return None

    def _drop(self, living: Collection[Pod]) -> None:
        with self._lock:
            for pod in [pod for pod in self._known if pod not in living]:
                if not self._view.still_there(self._known[pod].namespace):
                    del self._known[pod]

    def _open(self, container_id: ContainerID, path: str) -> Sandbox | None:
        if not path:
            self._host_network.add(container_id)
            raise Refused("HostNetwork", HOST_NETWORK)
        try:
            with self._view.opened(path) as fd:
                if netns.is_own(fd):
                    raise Refused("HostNetwork", HOST_NETWORK)
                return Sandbox(container_id, netns.identify(fd, path))
        except OSError:
            return None  # stopped between the runtime's answer and now
        except errors.CNIError as problem:
            raise NotReady("NodeError", str(problem)) from None


def _pod(one: cri.Sandbox) -> Pod:
    return Pod(one.pod_uid, one.namespace, one.name)


def _current(listed: Collection[cri.Sandbox], pod: Pod) -> cri.Sandbox | None:
    return cri.current([one for one in listed if _pod(one) == pod], pod.uid)
