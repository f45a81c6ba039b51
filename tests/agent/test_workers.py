"""Work by key, retries, locks: who waits for whom."""

import threading
import time

from agent.locks import Locks
from agent.model import ContainerID, PodUID, State
from agent.retries import LONGEST_S, Retries
from agent.workers import Workers

WAIT_S = 10
UID = PodUID("u")


def test_a_key_never_runs_twice_at_once_and_touches_in_between_run_once_more():
    started, release, runs = threading.Semaphore(0), threading.Semaphore(0), []

    def job(key: str) -> None:
        runs.append(key)
        started.release()
        release.acquire(timeout=WAIT_S)

    workers = Workers(job)
    workers.touch("a")
    assert started.acquire(timeout=WAIT_S)
    for _ in range(5):
        workers.touch("a")
    assert runs == ["a"]
    release.release(2)
    assert started.acquire(timeout=WAIT_S)
    workers.close()
    assert runs == ["a", "a"]


def test_a_hanging_key_delays_no_other():
    release, others = threading.Event(), threading.Semaphore(0)

    def job(key: int) -> None:
        if key == 0:
            release.wait(WAIT_S)
        else:
            others.release()

    workers = Workers(job)
    for key in range(50):
        workers.touch(key)
    assert all(others.acquire(timeout=WAIT_S) for _ in range(49))
    release.set()
    workers.close()


def test_a_job_that_raises_is_run_again_when_touched(caplog):
    ran = threading.Semaphore(0)

    def job(key: str) -> None:
        ran.release()
        raise RuntimeError(key)

    workers = Workers(job)
    for _ in range(2):
        workers.touch("a")
        assert ran.acquire(timeout=WAIT_S)
        time.sleep(0.01)
    workers.close()
    assert "RuntimeError: a" in caplog.text


def test_a_later_touch_comes_in_its_time_and_earlier_ones_first():
    order: list[str] = []
    done = threading.Event()

    def job(key: str) -> None:
        order.append(key)
        if len(order) == 3:
            done.set()

    workers = Workers(job)
    workers.touch_after("late", 0.2)
    workers.touch_after("early", 0.1)
    workers.touch("now")
    assert done.wait(WAIT_S)
    workers.close()
    assert order == ["now", "early", "late"]


def test_waiting_doubles_up_to_five_minutes_and_never_ends():
    retries, now = Retries(), 0.0
    waits = []
    for _ in range(40):
        failure = retries.failed(UID, "w", State.PENDING, "R", "m", now)
        waits.append(failure.not_before - now)
        assert not retries.is_due(UID, "w", failure.not_before - 0.01)
        assert retries.is_due(UID, "w", failure.not_before)
        now = failure.not_before
    assert 0.4 <= waits[0] <= 0.5
    assert 0.8 * LONGEST_S <= waits[-1] <= LONGEST_S
    assert failure.attempts == 40


def test_a_refusal_waits_the_longest_and_wakes_for_nothing_but_a_change():
    retries = Retries()
    retries.failed(UID, "w", State.REFUSED, "R", "m", 0.0)
    assert not retries.is_due(UID, "w", LONGEST_S - 1)
    assert retries.is_due(UID, "w", LONGEST_S)
    assert list(retries.waiting()) == []
    retries.forget(UID)
    assert retries.is_due(UID, "w", 0.0)


def test_one_sandbox_is_worked_on_by_one_and_others_do_not_wait():
    locks = Locks()
    a, b = ContainerID("a"), ContainerID("b")
    got = threading.Event()

    def other(container: ContainerID) -> None:
        with locks.held({container}):
            got.set()

    with locks.held({a}):
        threading.Thread(target=other, args=(b,), daemon=True).start()
        assert got.wait(WAIT_S)
        got.clear()
        threading.Thread(target=other, args=(a,), daemon=True).start()
        assert not got.wait(0.05)
    assert got.wait(WAIT_S)


def test_a_lock_that_somebody_has_is_not_waited_for_by_who_only_asks():
    locks = Locks()
    with locks.held(["s1"]):
        with locks.free("s1") as is_free, locks.free("s2") as other:
            assert (is_free, other) == (False, True)
        with locks.free("s1") as is_free:
            assert not is_free, "nobody gave back what is another's"
    with locks.free("s1") as is_free:
        assert is_free
    assert not locks._locks
