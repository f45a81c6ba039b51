"""Who leads: never two, soon somebody."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from controller import leader
from controller.leader import Elector, Record
from controller.reconcile import Conflict
from controller.workers import Unavailable


class Store:
    """A Lease as the API server keeps it: replaced only as it was seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.record: Record | None = None
        self.is_down = False
        self.writes = 0
        self.slow: Callable[[], None] = lambda: None

    def read_lease(self):
        if self.is_down:
            raise Unavailable("API server: connection refused")
        return self.record

    def write_lease(self, record, seconds):
        self.slow()
        if self.is_down:
            raise Unavailable("API server: connection refused")
        with self._lock:
            if record.version != (self.record.version if self.record else ""):
                raise Conflict("the lease has been modified")
            self.writes += 1
            self.record = replace(record, version=str(self.writes))
            return self.record


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch) -> Clock:
    monkeypatch.setattr(leader, "clock", lambda: Clock.now)
    return Clock


@pytest.fixture
def store() -> Store:
    return Store()


def elector(store: Store, name: str) -> tuple[Elector, list[str]]:
    calls: list[str] = []
    return Elector(store, name, lambda: calls.append(name)), calls


def attempt(one: Elector) -> bool:
    """Try once, as its thread would."""
    with contextlib.suppress(Conflict, Unavailable):
        one._try()
    return one.remaining() > 0


def test_the_first_one_leads_and_is_told_so_once(store, clock):
    (one, calls), (other, others) = elector(store, "a"), elector(store, "b")
    assert one.remaining() <= 0
    assert [attempt(one), attempt(other), attempt(one)] == [True, False, True]
    assert (calls, others) == (["a"], [])
    assert (store.record.holder, store.record.duration_s, store.record.transitions) == ("a", 15, 0)


def test_a_leader_that_cannot_renew_stops_before_another_may_begin(store, clock):
    (one, _), (other, calls) = elector(store, "a"), elector(store, "b")
    assert attempt(one)
    began = clock.now
    assert not attempt(other)  # sees it
    ended = None
    while not attempt(other):
        if one.remaining() <= 0 and ended is None:
            ended = clock.now
        clock.now += 0.5
    assert ended is not None
    assert ended - began <= leader.LEAD_S + 0.5
    assert clock.now - ended >= leader.LEASE_S - leader.LEAD_S - 0.5
    assert calls == ["b"]
    assert store.record.transitions == 1


def test_a_slow_answer_counts_from_the_question(store, clock):
    one, _ = elector(store, "a")
    store.slow = lambda: setattr(clock, "now", clock.now + 8.0)
    attempt(one)
    assert one.remaining() == pytest.approx(leader.LEAD_S - 8.0)


def test_a_leader_that_was_stopped_for_long_leads_no_more_and_writes_nothing_of_the_lease(store, clock):
    (one, calls), (other, _) = elector(store, "a"), elector(store, "b")
    attempt(one)
    attempt(other)
    clock.now += 60.0
    assert one.remaining() <= 0
    assert attempt(other)
    assert not attempt(one)
    assert store.record.holder == "b"
    assert calls == ["a"]


def test_who_comes_back_to_an_expired_lease_of_his_own_begins_anew(store, clock):
    one, calls = elector(store, "a")
    attempt(one)
    store.is_down = True
    clock.now += 60.0
    assert not attempt(one)
    store.is_down = False
    assert attempt(one)
    assert calls == ["a", "a"]


def test_a_renewal_that_is_answered_after_the_old_term_has_ended_begins_anew(store, clock):
    """Whatever was left undone in the gap must be taken up."""
    one, calls = elector(store, "a")
    attempt(one)
    clock.now += leader.LEAD_S - 1.0
    store.slow = lambda: setattr(clock, "now", clock.now + 2.0)
    assert attempt(one)
    assert calls == ["a", "a"]
    store.slow = lambda: None
    assert attempt(one)
    assert calls == ["a", "a"]


def test_a_renewal_that_somebody_else_was_quicker_than_does_not_count(store, clock):
    (one, _), (other, _) = elector(store, "a"), elector(store, "b")
    attempt(one)
    attempt(other)
    clock.now += 60.0

    def overtake():
        store.slow = lambda: None
        assert attempt(other)

    store.slow = overtake
    assert not attempt(one)
    assert store.record.holder == "b"


def test_a_follower_goes_by_its_own_clock_not_by_the_leases_times(store, clock):
    store.record = Record("ghost", 15, "2020-01-01T00:00:00.000000Z", "2020-01-01T00:00:00.000000Z", 3, "7")
    one, _ = elector(store, "a")
    assert not attempt(one)
    clock.now += 14.0
    assert not attempt(one)
    store.record = replace(store.record, version="8")  # still alive
    clock.now += 14.0
    assert not attempt(one)
    clock.now += 15.5
    store.writes = 8
    assert attempt(one)
    assert store.record.transitions == 4


def test_a_lease_that_was_given_up_is_free_at_once(store, clock):
    (one, _), (other, calls) = elector(store, "a"), elector(store, "b")
    attempt(one)
    attempt(other)
    one._give_up()
    assert one.remaining() <= 0
    assert attempt(other)
    assert calls == ["b"]


# -- with threads ---------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(leader, "RETRY_S", 0.02)
    monkeypatch.setattr(leader, "LEASE_S", 1.0)
    monkeypatch.setattr(leader, "LEAD_S", 0.5)
    return


def test_of_many_always_one_leads_and_who_stops_lets_the_next_one_at_once(store, quick):
    candidates = []
    for name in "abc":
        one, calls = elector(store, name)
        stop = threading.Event()
        thread = threading.Thread(target=one.run, args=(stop,), daemon=True)
        thread.start()
        candidates.append((one, calls, stop, thread))
    for left in (3, 2, 1):
        deadline = time.monotonic() + 10
        while not (leaders := [which for which in candidates if which[0].remaining() > 0]):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert len(leaders) == 1
        assert len(candidates) == left
        (_, calls, stop, thread) = leaders[0]
        assert len(calls) >= 1
        stop.set()
        thread.join(5)
        candidates.remove(leaders[0])
    assert store.record.holder == ""
