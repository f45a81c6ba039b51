import logging
import threading
import time

from controller.workers import Unavailable, Workers


def test_a_key_that_hangs_delays_no_other():
    release, done = threading.Event(), threading.Event()

    def work(key: str, _: float) -> None:
        if key == "slow":
            release.wait(5)
        else:
            done.set()

    workers: Workers[str] = Workers("do", work, 2)
    workers.start()
    workers.touch("slow")
    workers.touch("quick")
    assert done.wait(2)
    release.set()
    workers.close(2)


def test_no_key_has_two_threads():
    lock, at_work, seen = threading.Lock(), set(), []

    def work(key: int, _: float) -> None:
        with lock:
            assert key not in at_work
            at_work.add(key)
        time.sleep(0.001)
        with lock:
            at_work.discard(key)
            seen.append(key)

    workers: Workers[int] = Workers("do", work, 8)
    workers.start()
    for number in range(300):
        workers.touch(number % 5)
        if number % 20 == 0:
            time.sleep(0.002)
    deadline = time.monotonic() + 5
    while workers.depth() and time.monotonic() < deadline:
        time.sleep(0.005)
    workers.close(2)
    assert set(seen) == {0, 1, 2, 3, 4}
    assert not at_work


def test_failures_are_tried_again_and_told_once(caplog):
    tries, done = [], threading.Event()

    def work(key: str, _: float) -> None:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise Unavailable("the API server sleeps")
        done.set()

    workers: Workers[str] = Workers("do", work, 1)
    with caplog.at_level(logging.WARNING):
        workers.start()
        workers.touch("a")
        assert done.wait(5)
        workers.close(2)
    assert tries[1] - tries[0] >= 0.09
    assert [record.message for record in caplog.records] == ["do a: the API server sleeps; will be tried again"]


def test_a_bug_is_told_with_its_trace_and_ends_no_thread(caplog):
    done = threading.Event()

    def work(key: str, _: float) -> None:
        if key == "bad":
            raise KeyError("oops")
        done.set()

    workers: Workers[str] = Workers("do", work, 1)
    workers.start()
    workers.touch("bad")
    workers.touch("good")
    assert done.wait(2)
    assert workers.dead() == ()
    workers.close(2)
    assert any(record.exc_info for record in caplog.records)


def test_two_keys_that_fall_due_together_run_side_by_side():
    meet = threading.Barrier(2, timeout=5)
    met = []

    def work(key: str, _: float) -> None:
        meet.wait()
        met.append(key)

    workers: Workers[str] = Workers("do", work, 4)
    workers.start()
    workers.touch_after("a", 0.05)
    workers.touch_after("b", 0.05)
    deadline = time.monotonic() + 5
    while len(met) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    workers.close(2)
    assert sorted(met) == ["a", "b"]
