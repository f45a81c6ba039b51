"""Passes over a pod: what should it have, does the agent know, is the user told.

Two kinds, each with its own threads, so that slow writes to the API never delay an edit on its way to the agent:
    apply    pod and networks -> desired set -> agent
    publish  pod and the agent's outcome -> network-status, condition, events

Rules
1. Both start from what is known now, not from what happened: any of them can be repeated at any time.
2. Only an outcome that answers what is desired now is published; one that is not settled yet is sent by the agent
   only where a pass takes long, so that what works is told meanwhile. Where an edit stays without any such outcome
   for OVERDUE_S, that is published.
3. Without the agent nothing is sent. When it is there (again) everything is sent anew: it may have lost something.
4. Before the agent is told that a pod has ended, the API server confirms it: a list for the wrong node would have
   every interface of this one removed.
5. The events come after the patch: whoever crashes in between tells nothing twice. Where it is not known whether a
   patch was made, the pod shows it.
6. The agent is sent an empty set for a pod that asks for nothing, but got interfaces from somebody else: it must know
   that no annotation asked for them before one asks for something alike.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from controller import patch
from controller.desired import Desired, NotApplicable, Wish, desired
from controller.dialogue import ENDED, Dialogue, Letter
from controller.known import Table
from controller.model import Event, Network, Outcome, Pod, PodRef
from controller.policy import Policy
from controller.report import Report, report
from controller.workers import Unavailable, Workers

OVERDUE_S = 2.0  # how long a condition may speak of the edit before, while the agent does not answer
TRIES = 4  # at a patch, when others write the same pod

log = logging.getLogger(__name__)


class Conflict(Exception):
    """The pod is not as the patch expects it."""


class Gone(Exception):
    """There is no such pod any more."""


class Rejected(Exception):
    """The agent will not have it, now or the next time: it holds this UID for another pod."""


class Cluster(Protocol):
    """The API server. Every call may raise Unavailable."""

    def find(self, ref: PodRef) -> Pod | None:
        """Return the pod of that name, whichever its UID."""
        ...

    def patch_status(self, pod: Pod, operations: Sequence[patch.Operation]) -> Pod:
        """Return the pod as it is then. Raises Conflict and Gone."""
        ...

    def tell(self, pod: Pod, event: Event) -> None:
        """Create the event. One that the API server refuses is lost."""
        ...


class Agent(Protocol):
    """The node agent. Every call may raise Unavailable and Rejected."""

    def apply(self, ref: PodRef, wish: Desired) -> None: ...

    def end(self, ref: PodRef) -> None: ...


class Meter(Protocol):
    """Who counts. Seconds are from the news to the end of what it caused."""

    def applied(self, seconds: float) -> None: ...

    def published(self, seconds: float) -> None: ...


class Reconciler:
    """Owns what is known, and the passes over it."""

    def __init__(self, node: str, cluster: Cluster, agent: Agent, policy: Policy, meter: Meter) -> None:
        self._node = node
        self._cluster = cluster
        self._agent = agent
        self._policy = policy
        self._meter = meter
        self._appliers: Workers[PodRef] = Workers("apply", self._apply)
        self._publishers: Workers[PodRef] = Workers("publish", self._publish)
        self.pods: Table[PodRef, Pod] = Table(lambda pod: pod.ref, self._pod_changed)
        self.networks: Table[str, Network] = Table(lambda network: network.key, self._network_changed)
        self._dialogue = Dialogue()
        self._lock = threading.Lock()
        self._named: dict[PodRef, set[str]] = {}  # the networks that a pod's annotation ever named
        self._edited: dict[PodRef, float] = {}  # edits without an answer, since when
        self._doubtful: dict[PodRef, Report] = {}  # patches without an answer
        self._untold: dict[PodRef, tuple[Event, ...]] = {}

    def start(self) -> None:
        """Start the passes. Pods and networks must be listed: one that is not known yet would be told to be missing."""
        self._appliers.start()
        self._publishers.start()

    def close(self, seconds: float) -> None:
        """Start no more passes; wait at most so long for those under way."""
        for workers in (self._appliers, self._publishers):
            workers.close(seconds / 2)

    def depth(self) -> int:
        """Return how many passes wait for a thread."""
        return self._appliers.depth() + self._publishers.depth()

    def dead(self) -> tuple[str, ...]:
        """Return which threads died; none should."""
        return (*self._appliers.dead(), *self._publishers.dead())

    def waiting_for(self) -> tuple[str, ...]:
        """Return what is missing before all pods of the node are served."""
        missing = {
            "the list of pods": self.pods.listed_once.is_set(),
            "the list of networks": self.networks.listed_once.is_set(),
            "the node agent": self._dialogue.is_connected,
        }
        waiting = tuple(what for what, is_there in missing.items() if not is_there)
        return waiting or (self._left() if self._policy.withdrawn else ())

    def _left(self) -> tuple[str, ...]:
        """Return the pods that have something of ours, or are not told yet that they have not."""
        untold = itertools.filterfalse(self._is_told, self.pods.keys())
        return tuple(sorted(f"pod {ref} to be detached" for ref in {*self._dialogue.holding(), *untold}))

    def _is_told(self, ref: PodRef) -> bool:
        pod = self.pods.get(ref)
        wish = None if pod is None else self._wish(pod)
        if pod is None or not isinstance(wish, Desired):
            return True
        is_due, outcome = self._answer(pod, wish)
        return is_due and outcome is not None and report(pod, wish, outcome, _now()) == Report()

    # -- news -------------------------------------------------------------------------------------------------------

    def synced(self, outcomes: Iterable[Outcome]) -> None:
        """Take over everything that the agent knows; it is connected from now on."""
        for ref in {*self._dialogue.synced(outcomes), *self.pods.keys()}:
            self._appliers.touch(ref)

    def told(self, outcome: Outcome) -> None:
        """Take over one pod's outcome."""
        ref = outcome.pod
        self._dialogue.told(outcome)
        (self._appliers if self.pods.get(ref) is None else self._publishers).touch(ref)

    def lost(self) -> None:
        """Take note that the agent does not answer."""
        self._dialogue.lost()

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        if pod is None or (old is not None and new is not None and old.says_the_same(new)):
            return
        ref = pod.ref
        if new is not None and _is_edit(old, new):
            with self._lock:
                self._edited[ref] = time.monotonic()
            self._publishers.touch_after(ref, OVERDUE_S)
        if new is None or _concerns_us(new) or self._dialogue.knows(ref):
            self._appliers.touch(ref)

    def _network_changed(self, old: Network | None, new: Network | None) -> None:
        network = new or old
        if old == new or network is None:
            return
        with self._lock:
            concerned = [ref for ref, named in self._named.items() if network.key in named]
        for ref in concerned:
            self._appliers.touch(ref)

    # -- passes -----------------------------------------------------------------------------------------------------

    def _apply(self, ref: PodRef, since: float) -> None:
        pod = self.pods.get(ref)
        if pod is None:
            self._end(ref)
        elif not (self._dialogue.is_connected and self._send(pod, self._wish(pod), since)):
            self._publishers.touch(ref)

    def _send(self, pod: Pod, wish: Wish, since: float) -> bool:
        """Send what the agent has not got yet; return whether there was anything."""
        is_known = self._dialogue.knows(pod.ref)
        match wish:
            case Desired() if wish.attachments or is_known or pod.has_interfaces():  # rule 6
                letter = Letter(pod.ref, wish.revision, pod.sandbox_hint)
            case NotApplicable.COMPLETED if is_known:
                letter = Letter(pod.ref, ENDED)
            case _:
                return False
        if self._dialogue.is_sent(letter):
            return False
        try:
            with self._dialogue.sending(letter):
                if isinstance(wish, Desired):
                    self._agent.apply(pod.ref, wish)
                else:
                    self._agent.end(pod.ref)
        except Rejected as problem:  # counts as sent: asked again after an edit, or for another sandbox
            log.warning("pod %s: %s", pod.ref, problem)
        self._meter.applied(time.monotonic() - since)
        return True

    def _end(self, ref: PodRef) -> None:
        """Have the agent detach everything of a pod that is gone (rule 4)."""
        with self._lock:
            for memory in (self._named, self._edited, self._doubtful, self._untold):
                memory.pop(ref, None)
        self._dialogue.forget(ref)
        is_open = self._dialogue.is_connected and self._dialogue.knows(ref)
        if not is_open or self._dialogue.is_sent(Letter(ref, ENDED)):
            return
        found = self._cluster.find(ref)
        if found is not None and found.ref == ref:
            if found.node != self._node:
                log.error("pod %s is on node %s and this is node %s: left alone", ref, found.node, self._node)
            return  # else the watch will bring it
        try:
            with self._dialogue.sending(Letter(ref, ENDED)):
                self._agent.end(ref)
        except Rejected as problem:
            log.warning("pod %s: %s", ref, problem)
            self._dialogue.rejected(ref)

    def _publish(self, ref: PodRef, since: float) -> None:
        edited, problem = self._edited.get(ref), None
        for _ in range(TRIES):
            pod = self.pods.get(ref)
            if pod is None:
                return
            self._tell(pod, self._doubtful.get(ref))
            wish = self._wish(pod)
            is_due, outcome = self._answer(pod, wish)
            if not is_due:
                return
            try:
                is_news = self._write(pod, report(pod, wish, outcome, _now()))
            except Conflict as conflict:
                problem = conflict
                self._read_again(pod)
                continue
            except Gone:
                return
            if is_news:
                self._meter.published(time.monotonic() - since)
            if outcome is not None and outcome.settled:
                self._answered(ref, edited)
            return
        raise Unavailable(f"pod {ref}: its status cannot be written: {problem}")

    def _answer(self, pod: Pod, wish: Wish) -> tuple[bool, Outcome | None]:
        """Return whether it is time to publish, and the outcome to publish (rule 2)."""
        ref = pod.ref
        outcome = self._dialogue.outcome(ref)
        if not isinstance(wish, Desired):
            return True, outcome or self._dialogue.farewell(ref)
        if not wish.attachments and not self._dialogue.knows(ref):
            return True, Outcome(pod.ref, wish.revision)
        if outcome is not None and outcome.revision != wish.revision:
            outcome = None
        return outcome is not None or self._is_overdue(ref), outcome

    def _is_overdue(self, ref: PodRef) -> bool:
        edited = self._edited.get(ref)
        return edited is not None and time.monotonic() - edited >= OVERDUE_S

    def _answered(self, ref: PodRef, edited: float | None) -> None:
        with self._lock:
            if self._edited.get(ref) == edited:  # else there was another edit meanwhile
                self._edited.pop(ref, None)

    def _write(self, pod: Pod, news: Report) -> bool:
        if news.status is None and news.condition is None:
            return False
        try:
            newer = self._cluster.patch_status(pod, patch.operations(pod, news.status, news.condition))
        except Unavailable:
            self._doubtful[pod.ref] = news
            raise
        self._refresh(newer)
        self._tell(newer, news)
        return True

    def _tell(self, pod: Pod, written: Report | None) -> None:
        """Tell the events of what was written, if the pod shows that it was, and what could not be told before."""
        ref = pod.ref
        if written is not None and written.is_shown_by(pod):
            self._doubtful.pop(ref, None)
            self._untold[ref] = (*self._untold.get(ref, ()), *written.events)
        while events := self._untold.get(ref):
            self._cluster.tell(pod, events[0])
            self._untold[ref] = events[1:]
        self._untold.pop(ref, None)

    def _read_again(self, pod: Pod) -> None:
        found = self._cluster.find(pod.ref)
        if found is None or found.ref != pod.ref:
            return  # the watch will say so
        self._refresh(found)

    def _refresh(self, pod: Pod) -> None:
        """Take over an answer, and the edits in it: the watch will not bring what it has shown already.

        Edits are told from what was known until now. The pod that a pass began with may be older: a wish that was taken
        back since then, and made again, would look like none.
        """
        known = self.pods.refresh(pod)
        if known is not None and not _asks_the_same(known, pod):
            self._pod_changed(known, pod)

    # -- what a pass needs to know ----------------------------------------------------------------------------------

    def _wish(self, pod: Pod) -> Wish:
        def lookup(name: str) -> Network | None:
            with self._lock:  # before the look: else a network that comes just now finds nobody who waits for it
                self._named.setdefault(pod.ref, set()).add(name)
            return self.networks.get(name)

        return desired(pod, lookup, self._policy)


def _concerns_us(pod: Pod) -> bool:
    return pod.networks is not None or pod.condition is not None or pod.has_interfaces()


def _is_edit(old: Pod | None, new: Pod) -> bool:
    if old is None:
        return new.networks is not None and new.condition is None
    return _asked(old) != _asked(new)


def _asks_the_same(one: Pod, other: Pod) -> bool:
    return (*_asked(one), one.phase, one.deleting, one.sandbox_hint) == (
        *_asked(other), other.phase, other.deleting, other.sandbox_hint,
    )  # fmt: skip


def _asked(pod: Pod) -> tuple[object, ...]:
    return pod.networks, pod.vm, pod.is_kubevirts


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
