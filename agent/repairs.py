"""Pure: when an attachment that others have changed is repaired, and what is told of it. The clock is an argument.

Rules
1. The first repair is made at once. While somebody keeps undoing them the next ones wait: 1, 2, 4 … 60 seconds. After
   a quiet while, at least twice as long as the last wait was, they start anew.
2. Repairs that follow one another so are one incident, and told as one: its text has the time of its beginning, so that
   a later incident is news, and nothing that each repair would change.
3. A repair is told for TOLD_S.
4. After STORM repairs of an incident it is told as one damage that comes back, with a text that stays the same and is
   true of what is whole just now, too. That ends when it has been whole for QUIET_S; what comes after that is news.
5. What waits for its repair is looked at every QUIET_S all the same: somebody else may have made it whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from agent.model import DRIFT_REPAIRED, DRIFTED, Key, Record

FIRST_S, LONGEST_S, QUIET_S, TOLD_S = 1.0, 60.0, 10.0, 600.0
STORM = 3
FOUGHT = "repaired before and changed again: the next repair waits"
AGAIN_AND_AGAIN = "changed again and again, and repaired each time, ever later; first"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is told of an attachment: that it is not as it should be, or that it was not and has been repaired."""

    reason: str  # DRIFTED or DRIFT_REPAIRED
    message: str
    is_gone: bool = False  # there is no link


@dataclass(slots=True)
class _Incident:
    tries: int = 0
    repairs: int = 0  # tries that went well
    last: float = 0.0
    looked: float = 0.0  # when the last look was, at what waits
    whole_since: float | None = None  # as far as looks have seen; None: it is not
    why: str = ""  # it stayed so when it was told last
    since: str = ""
    told: str = ""  # of the first repair
    due: float = 0.0  # when the next look has been asked for
    standing: Standing | None = None

    @property
    def wait_s(self) -> float:
        return min(FIRST_S * 2.0 ** min(self.tries - 1, 20), LONGEST_S)

    @property
    def ends(self) -> float:
        return self.last + max(QUIET_S, 2 * self.wait_s)

    @property
    def is_storm(self) -> bool:
        return self.repairs > STORM

    def is_over(self, now: float) -> bool:
        return not self.tries or now > self.ends


class Repairs:
    """What has been found and done, by attachment, in one pod; used by one thread at a time."""

    def __init__(self) -> None:
        self._incidents: dict[Key, _Incident] = {}
        self.is_new = True  # no pass has looked yet
        self.anew: set[Key] = set()  # to be attached anew, by this pass or, where that fails, by a later one
        self._of = ("", "")
        self.heard: frozenset[Key] = frozenset()  # which that pass looks at because of an event
        self.unasked: set[Key] = set()  # of whose state other plugins are to be asked
        self.asked: dict[Key, float] = {}  # when they were
        self._discontent: dict[Key, int] = {}  # how often in a row they were not content
        self._gone: dict[Key, float] = {}  # since when the link has been missing

    def begin(self, revision: str, sandbox: str) -> None:
        """Begin a pass. What was to be made anew may not be wanted any more after an edit, or in another sandbox."""
        if self._of != (revision, sandbox):
            self._of = (revision, sandbox)
            self.anew.clear()

    def not_before(self, key: Key, now: float) -> float:
        """Return when the attachment may be repaired (rule 1)."""
        incident = self._incidents.get(key)
        return now if incident is None or incident.is_over(now) else incident.last + incident.wait_s

    def has_to_wait(self, key: Key, now: float) -> bool:
        """Whether it has been told how it is, and nothing is to be done about it yet (rule 5)."""
        return self.is_drifted(key) and self.look_not_before(key, now) > now

    def look_not_before(self, key: Key, now: float) -> float:
        """Return when the next look is due, for a repair or without one."""
        incident = self._incidents.get(key)
        if incident is None:
            return now
        return min(self.not_before(key, now), max(incident.last, incident.looked) + QUIET_S)

    def looked(self, key: Key, now: float) -> None:
        """Take note that it is looked at."""
        if incident := self._incidents.get(key):
            incident.looked = now

    def asks(self, key: Key, due: float) -> bool:
        """Take note that a look at it is due then; return whether that was not asked for already."""
        incident = self._incidents.setdefault(key, _Incident())
        is_news, incident.due = incident.due != due, due
        return is_news

    def tried(self, key: Key, now: float, clock: str) -> None:
        """Take note that it is repaired now; `clock`: the time of day."""
        incident = self._incidents.setdefault(key, _Incident())
        if incident.is_over(now):
            incident.tries, incident.repairs, incident.since, incident.told = 0, 0, clock, ""
        incident.tries, incident.last, incident.whole_since = incident.tries + 1, now, None

    def gone_since(self, key: Key, now: float) -> float:
        """Return since when the link has been missing, which it is now."""
        return self._gone.setdefault(key, now)

    def is_there(self, key: Key) -> None:
        """Take note that the link is there."""
        self._gone.pop(key, None)

    def checked(self, key: Key, now: float, *, is_content: bool) -> None:
        """Take note of what the other plugins said."""
        self.asked[key] = now
        self._discontent[key] = 0 if is_content else self._discontent.get(key, 0) + 1

    def is_to_be_asked_about(self, key: Key, now: float, first_s: float, longest_s: float) -> bool:
        """Whether the other plugins are to be asked, and may be by now."""
        return key in self.unasked and now >= self.check_not_before(key, first_s, longest_s)

    def check_not_before(self, key: Key, first_s: float, longest_s: float) -> float:
        """Return when the other plugins may be asked again: ever later while they say the same; 0.0: at once."""
        if key not in self.asked:
            return 0.0
        times = max(self._discontent.get(key, 0) - 1, 0)
        return self.asked[key] + min(first_s * 2.0 ** min(times, 20), longest_s)

    def standing(self, key: Key) -> Standing | None:
        """Return what is to be told; None: it is as it should be."""
        incident = self._incidents.get(key)
        return incident.standing if incident else None

    def is_drifted(self, key: Key) -> bool:
        standing = self.standing(key)
        return standing is not None and standing.reason == DRIFTED

    def drifted(self, key: Key, differences: Collection[str], why: str, *, is_gone: bool = False) -> bool:
        """It is not as it should be, and stays so for that reason. Return whether that is news."""
        text = "; ".join(dict.fromkeys(filter(None, (*differences, why))))
        self._incidents.setdefault(key, _Incident()).why = why
        return self._tell(key, Standing(DRIFTED, text, is_gone))

    def fought(self, key: Key, differences: Collection[str], *, is_gone: bool = False) -> bool:
        """It is not as it should be, and its repair waits: somebody has undone the last one, or that has failed.

        Return whether that is news.
        """
        incident = self._incidents[key]
        is_undone, incident.whole_since = incident.whole_since is not None, None
        if incident.is_storm:
            return self._tell(key, self._steady(key, is_gone=is_gone))
        return self.drifted(key, differences, FOUGHT if is_undone else incident.why or FOUGHT, is_gone=is_gone)

    def repaired(self, key: Key, differences: Collection[str]) -> bool:
        """It is as it should be again. Return whether that is news."""
        incident = self._incidents[key]
        incident.repairs, incident.whole_since = incident.repairs + 1, incident.last
        incident.told = incident.told or f"at {incident.since}: {'; '.join(differences)}"  # rule 2
        return self._tell(key, self._steady(key) if incident.is_storm else Standing(DRIFT_REPAIRED, incident.told))

    def well(self, key: Key, now: float) -> None:
        """It is as it should be (rules 3 and 4)."""
        incident = self._incidents.get(key)
        if incident is None:
            return
        incident.whole_since = now if incident.whole_since is None else incident.whole_since
        if incident.standing is None:
            return
        if incident.standing.reason == DRIFTED and incident.is_storm:
            is_quiet = now >= self.quiet_at(key)
            incident.standing = (
                Standing(DRIFT_REPAIRED, incident.told) if is_quiet else replace(incident.standing, is_gone=False)
            )
        elif incident.standing.reason == DRIFTED or now - incident.last > TOLD_S:
            incident.standing = None

    def quiet_at(self, key: Key) -> float:
        """Return when it has been whole for long enough, if nothing more happens (rule 4)."""
        incident = self._incidents[key]
        return (incident.last if incident.whole_since is None else incident.whole_since) + QUIET_S

    def cause(self, key: Key) -> str:
        """Return why it is looked at in the pass that is under way, for the metric."""
        return "event" if key in self.heard else "look"

    def is_idle(self) -> bool:
        """Whether nothing is known of any attachment: there is nothing to tell."""
        return not (self._incidents or self.asked or self.unasked or self._gone)

    def keep(self, keys: Collection[Key]) -> None:
        """Forget all others."""
        self._incidents = {key: one for key, one in self._incidents.items() if key in keys}
        self.asked = {key: when for key, when in self.asked.items() if key in keys}
        self._discontent = {key: count for key, count in self._discontent.items() if key in keys}
        self._gone = {key: since for key, since in self._gone.items() if key in keys}
        self.unasked &= set(keys)

    def _steady(self, key: Key, *, is_gone: bool = False) -> Standing:
        return Standing(DRIFTED, f"{AGAIN_AND_AGAIN} {self._incidents[key].told}", is_gone)

    def _tell(self, key: Key, standing: Standing) -> bool:
        incident = self._incidents.setdefault(key, _Incident())
        is_news, incident.standing = incident.standing != standing, standing
        return is_news


def lost(records: Collection[Record], links: Mapping[str, int]) -> tuple[Record, ...]:
    """Return those whose link is gone from the pod, under whatever name. `links`: name to index."""
    there = set(links.values())
    return tuple(record for record in records if record.ifindex and record.ifindex not in there)
