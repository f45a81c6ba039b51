"""What a pass does about attachments that somebody else has changed: look, repair, tell (agent.drift says when).

Rules
1. An attachment that is suspect, or was not as it should be the last time, is looked at; all others are not. At the
   start all are, by the first pass over their pod, before it tells anything; but only for START_S, so that edits do not
   wait behind it: what is left then has its turn when agent.drift comes to it.
2. A link that is gone is made anew by the plan: detach, attach. Where the policy says that drift is only told, or
   others undo it again and again, the plan is told that the link is there.
3. What is not repaired, for whatever reason, is told, and looked at again when agent.repairs says. Until then nothing
   of it is news: who changes it on and on gives nobody anything to write.
4. A link that a runtime made may have gone because the pod ends: its DEL comes before we hear of the end. It is made
   anew only if the sandbox still lives LEAVING_S later.
5. Other plugins' CHECK runs when somebody else was at work, and with each look at everything: what went wrong while
   nobody listened has no event any more. Of one attachment every CHECK_S at most, and of all pods' CHECKS at once: a
   bridge of theirs that is deleted is about all its pods. Who waits for its turn is not looked at meanwhile, and is
   called when one ends, or TURN_S later.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from agent import metrics
from agent.inspection import Found, Inspector
from agent.journal import Journal
from agent.model import ContainerID, Desired, Key, NotReady, Origin, Phase, PodUID, Record
from agent.plan import Keep
from agent.progress import Progress
from agent.repairs import Repairs, lost
from agent.suspects import Suspected, Suspects
from cni import errors

CHECK_S, CHECK_LONGEST_S, CHECKS, TURN_S = 10.0, 300.0, 4, 10.0
LEAVING_S = 10.0
START_S = 0.8  # a pass that takes longer than a second is told of before it ends
REPORTED = "left as it is, as the policy says"
LEAVING = "the pod may be about to end"

log = logging.getLogger(__name__)


class Mending:
    """Serves the passes of all pods. `again` starts a pass over a pod at that time (monotonic seconds)."""

    def __init__(
        self, inspector: Inspector, suspects: Suspects, journal: Journal, again: Callable[[PodUID, float], None]
    ) -> None:
        self._inspector = inspector
        self._suspects = suspects
        self._journal = journal
        self._again = again
        self._of: dict[PodUID, Repairs] = {}
        self._turns = threading.Semaphore(CHECKS)
        self._lock = threading.Lock()  # of the next
        self._starts_until: float | None = None  # rule 1; from the first pass on
        self._waiting: dict[PodUID, None] = {}  # for a turn, in their order

    def with_the_gone(
        self, desired: Desired, sandbox: ContainerID, records: Collection[Record], links: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Return the pod's links, name to index, with those that are gone and stay so for now (rule 2)."""
        repairs, now = self._repairs(desired), time.monotonic()
        repairs.begin(desired.revision, sandbox)
        whole = [one for one in records if one.key.container_id == sandbox and _is_ours_and_whole(one)]
        gone = lost(whole, links)
        repairs.anew -= {one.key for one in gone}  # whether now is the time is decided anew
        uid = desired.pod.uid
        repairs.heard = frozenset(one.key for one in gone if self._suspects.is_heard_of(uid, one.key))
        for record in whole:
            if record not in gone:
                repairs.is_there(record.key)
            standing = repairs.standing(record.key)
            if standing and standing.is_gone and record not in gone:
                repairs.well(record.key, now)
        return {**links, **{f"{one.key.ifname} (gone)": one.ifindex for one in gone if self._stays_gone(desired, one)}}

    def _stays_gone(self, desired: Desired, record: Record) -> bool:
        repairs, key, now = self._repairs(desired), record.key, time.monotonic()
        differences = (f"interface {key.ifname} is gone",)
        if not self._inspector.repairs(record):
            self._drifted(desired, key, differences, REPORTED, is_gone=True)
            return True
        if record.origin is Origin.ADOPTED and (leaving := repairs.gone_since(key, now) + LEAVING_S) > now:
            self._drifted(desired, key, differences, LEAVING, is_gone=True)
            self._look_again(desired, key, leaving)
            return True
        if (not_before := repairs.not_before(key, now)) > now:
            self._told(desired, key, is_news=repairs.fought(key, differences, is_gone=True))
            self._look_again(desired, key, not_before)
            return True
        repairs.tried(key, now, _clock())
        repairs.anew.add(key)
        return False

    def mend(self, progress: Progress, kept: Collection[Keep]) -> None:
        """Look at what is suspect among the attachments that stay, and repair it."""
        desired = progress.desired
        repairs, suspected = self._repairs(desired), self._suspects.take(desired.pod.uid)
        progress.is_look = bool(suspected.keys)
        repairs.heard = frozenset(suspected.heard)
        is_first, repairs.is_new = repairs.is_new, False
        for record in (step.record for step in kept):
            key = record.key
            standing = repairs.standing(key)
            if standing and standing.is_gone:
                continue
            if is_first and self._start_left_s() > 0:
                suspected.keys.add(key)
                suspected.to_ask.add(key)
            if key in suspected.keys or repairs.is_drifted(key) or key in repairs.unasked:
                self._try_to_look(desired, record, suspected)
            else:
                repairs.well(key, time.monotonic())

    def made_anew(self, progress: Progress) -> None:
        """Take note of which links that were gone are there again."""
        repairs = self._repairs(progress.desired)
        for key in repairs.anew & progress.in_pod.keys():
            self._repaired(progress.desired, key, (f"interface {key.ifname} was gone, and has been made anew",))
            repairs.anew.discard(key)

    def tell(self, progress: Progress) -> None:
        """Have the outcome say how attachments stand."""
        desired = progress.desired
        repairs = self._repairs(desired)
        if repairs.is_idle():
            return
        repairs.keep({record.key for record in self._journal.of_pod(desired.pod.uid)} | repairs.anew)
        for key, position in progress.in_pod.items():
            standing = repairs.standing(key)
            if standing is None:
                progress.drifted(position)
            else:
                progress.drifted(position, standing.reason, standing.message, is_gone=standing.is_gone)

    def forget(self, uid: PodUID) -> None:
        """The pod has ended."""
        self._of.pop(uid, None)
        self._suspects.take(uid)
        with self._lock:
            self._waiting.pop(uid, None)

    def _try_to_look(self, desired: Desired, record: Record, suspected: Suspected) -> None:
        """What cannot be looked at stays suspect, and is looked at again as late as a repair that others undo."""
        uid, key, now = desired.pod.uid, record.key, time.monotonic()
        repairs, foreign = self._repairs(desired), key in suspected.to_ask
        try:
            if key in suspected.keys or not repairs.is_to_be_asked_about(key, now, CHECK_S, CHECK_LONGEST_S):
                self._look(desired, record, foreign=foreign)
                return
            with self._turn(uid) as has_turn:
                if has_turn:
                    self._look(desired, record, foreign=foreign, has_turn=True)
        except (NotReady, errors.CNIError) as problem:
            log.warning("pod %s: %s cannot be looked at: %s", desired.pod, key.ifname, problem)
            repairs.tried(key, now, _clock())
            self._suspects.add(uid, [key], to_ask=foreign)
            self._look_again(desired, key, repairs.not_before(key, now))

    # -- one attachment ---------------------------------------------------------------------------------------------

    def _look(self, desired: Desired, record: Record, *, foreign: bool, has_turn: bool = False) -> None:
        repairs, key, now = self._repairs(desired), record.key, time.monotonic()
        if repairs.has_to_wait(key, now):
            self._look_again(desired, key, repairs.look_not_before(key, now))
            return
        repairs.looked(key, now)
        is_shared = bool(desired.vm or record.guest)
        found = self._inspector.look(record, shared=is_shared, repair=False)
        if key in repairs.heard:
            self._suspects.found(key, now, is_wrong=bool(found.differences))
        if not found.differences:
            if not is_shared and self._inspector.has_others(record):
                self._check(desired, record, foreign=foreign, has_turn=has_turn)
            else:
                self._well(desired, key)
        elif not self._inspector.repairs(record):
            if repairs.not_before(key, now) <= now:
                repairs.tried(key, now, _clock())
            self._drifted(desired, key, found.differences, REPORTED)
            self._look_again(desired, key, repairs.look_not_before(key, now))
        elif repairs.not_before(key, now) > now:
            self._told(desired, key, is_news=repairs.fought(key, found.differences))
            self._look_again(desired, key, repairs.look_not_before(key, now))
        else:
            self._repair(desired, record, found, is_shared=is_shared)

    def _repair(self, desired: Desired, record: Record, found: Found, *, is_shared: bool) -> None:
        repairs, key, now = self._repairs(desired), record.key, time.monotonic()
        repairs.tried(key, now, _clock())
        done = self._inspector.look(record, shared=is_shared, repair=True)
        if done.problem:
            self._drifted(desired, key, found.differences, done.problem)
            self._look_again(desired, key, repairs.look_not_before(key, now))
        else:
            self._repaired(desired, key, found.differences)

    def _check(self, desired: Desired, record: Record, *, foreign: bool, has_turn: bool) -> None:
        """Ask other plugins, from when somebody else was at work until they are content (rule 5)."""
        repairs, key, now = self._repairs(desired), record.key, time.monotonic()
        if foreign:
            repairs.unasked.add(key)
        if key not in repairs.unasked:
            self._well(desired, key)
        elif not repairs.is_to_be_asked_about(key, now, CHECK_S, CHECK_LONGEST_S):
            self._look_again(desired, key, repairs.check_not_before(key, CHECK_S, CHECK_LONGEST_S))
        elif has_turn:
            self._ask(desired, record)
        else:
            with self._turn(desired.pod.uid) as is_given:
                if is_given:
                    self._ask(desired, record)

    def _ask(self, desired: Desired, record: Record) -> None:
        repairs, key, now = self._repairs(desired), record.key, time.monotonic()
        found = self._inspector.check(record)
        repairs.checked(key, now, is_content=not found.differences)
        if found.differences:
            self._drifted(desired, key, found.differences, found.problem)
            self._look_again(desired, key, repairs.check_not_before(key, CHECK_S, CHECK_LONGEST_S))
        else:
            repairs.unasked.discard(key)
            self._well(desired, key)

    def _start_left_s(self) -> float:
        with self._lock:
            if self._starts_until is None:
                self._starts_until = time.monotonic() + START_S
            return self._starts_until - time.monotonic()

    @contextmanager
    def _turn(self, uid: PodUID) -> Iterator[bool]:
        """Hold one of the turns, if there is one, or will be in time for rule 1; else the pod comes back for it."""
        is_given = self._turns.acquire(timeout=max(0.0, self._start_left_s()))
        with self._lock:
            is_given = is_given or self._turns.acquire(blocking=False)
            self._waiting.pop(uid, None) if is_given else self._waiting.setdefault(uid)
        if not is_given:
            self._again(uid, time.monotonic() + TURN_S)
            yield False
            return
        try:
            yield True
        finally:
            with self._lock:
                self._turns.release()
                following = next(iter(self._waiting), None)
                if following is not None:
                    del self._waiting[following]
            if following is not None:
                self._again(following, time.monotonic())

    # -- what came of it --------------------------------------------------------------------------------------------

    def _drifted(
        self, desired: Desired, key: Key, differences: Collection[str], why: str, *, is_gone: bool = False
    ) -> None:
        is_news = self._repairs(desired).drifted(key, differences, why, is_gone=is_gone)
        self._told(desired, key, is_news=is_news)

    def _repaired(self, desired: Desired, key: Key, differences: Collection[str]) -> None:
        repairs = self._repairs(desired)
        metrics.DRIFT.labels("repaired", repairs.cause(key)).inc()
        is_news, standing = repairs.repaired(key, differences), repairs.standing(key)
        if is_news and standing:
            log.warning("pod %s: %s had drifted and is repaired: %s", desired.pod, key.ifname, standing.message)
        self._well(desired, key)

    def _told(self, desired: Desired, key: Key, *, is_news: bool) -> None:
        repairs = self._repairs(desired)
        if is_news and (standing := repairs.standing(key)):
            metrics.DRIFT.labels("reported", repairs.cause(key)).inc()
            log.warning("pod %s: %s has drifted: %s", desired.pod, key.ifname, standing.message)

    def _well(self, desired: Desired, key: Key) -> None:
        """A storm is told until it is over: then is the next look."""
        repairs = self._repairs(desired)
        repairs.well(key, time.monotonic())
        if repairs.is_drifted(key):
            self._look_again(desired, key, repairs.quiet_at(key))

    def _look_again(self, desired: Desired, key: Key, due: float) -> None:
        if self._repairs(desired).asks(key, due):
            self._again(desired.pod.uid, due)

    def _repairs(self, desired: Desired) -> Repairs:
        return self._of.setdefault(desired.pod.uid, Repairs())


def _is_ours_and_whole(record: Record) -> bool:
    return record.origin is not Origin.RUNTIME and record.phase is Phase.ATTACHED


def _clock() -> str:
    return dt.datetime.now(dt.UTC).strftime("%H:%M:%SZ")
