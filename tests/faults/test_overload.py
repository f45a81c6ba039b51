"""Too much to do is done in turn: nobody starves, nothing piles up. Full sizes: tests.faults.overload.

Figures are printed. Bounds are far from them: a machine may be five times slower, and busy.
"""

import threading
import time

import pytest

from agent import outcomes as agent_outcomes
from agent import workers as agent_workers
from agent.grpc_server import Servicer
from agent.model import Outcome, Pod, PodUID
from agent.outcomes import Outcomes
from agent.workers import PLACES, Workers
from tests import fresh
from tests.faults import overload

WAIT_S = 30.0
SLOW_S = 20.0  # of an attachment that takes a twentieth of a second
SMALL = {"edits": 3, "hanging": PLACES + 40, "memory": 40, "controller": 50}


def figures(name: str, capsys) -> dict[str, float]:
    found = fresh.call("tests.faults.overload:measured", name, SMALL[name])
    with capsys.disabled():
        print(f"\n  {overload.told(name, SMALL[name], found)}")
    assert found, "it failed"
    return dict(found)


@pytest.mark.netns
def test_a_pod_that_is_edited_in_a_loop_starves_no_other(capsys):
    found = figures("edits", capsys)
    assert found["edits a second"] > 20
    assert found["meanwhile, slowest s"] < SLOW_S


@pytest.mark.netns
def test_pods_whose_delegates_hang_hold_no_other(capsys):
    found = figures("hanging", capsys)
    assert found["delegates"] == SMALL["hanging"]
    assert max(found["first after s"], found["third after s"]) < SLOW_S


@pytest.mark.netns
def test_an_agent_s_memory_is_bounded_by_its_attachments(capsys):
    found = figures("memory", capsys)
    assert found["MiB after"] - found["MiB before"] < 10 + found["attachments"] * 20 / 1024


@pytest.mark.netns
def test_a_controller_s_memory_is_bounded_by_its_elements(capsys):
    found = figures("controller", capsys)
    assert found["MiB after"] - found["MiB before"] < 10 + found["elements"] * 20 / 1024


def test_more_jobs_that_hang_than_places_do_not_keep_the_next_one_waiting():
    release, ran = threading.Event(), threading.Event()
    workers = Workers(lambda key: ran.set() if key == "next" else release.wait(WAIT_S), places=8)
    for number in range(40):
        workers.touch(f"hangs-{number}")
    workers.touch("next")
    assert ran.wait(WAIT_S / 2)
    release.set()
    workers.close()


def test_no_more_jobs_than_places_begin_side_by_side(monkeypatch):
    monkeypatch.setattr(agent_workers, "PATIENCE_S", WAIT_S)
    lock, done, at_once = threading.Lock(), threading.Semaphore(0), [0, 0]

    def job(key: int) -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        time.sleep(0.001)
        with lock:
            at_once[0] -= 1
        done.release()

    workers = Workers(job, places=4)
    for key in range(200):
        workers.touch(key)
    assert all(done.acquire(timeout=WAIT_S) for _ in range(200))
    workers.close()
    assert 1 < at_once[1] <= 4


def test_a_key_that_is_touched_again_goes_behind_those_that_wait(monkeypatch):
    order: list[str] = []
    release, done = threading.Event(), threading.Event()

    def job(key: str) -> None:
        order.append(key)
        release.wait(WAIT_S)
        if len(order) == 4:
            done.set()

    monkeypatch.setattr(agent_workers, "PATIENCE_S", WAIT_S)
    workers = Workers(job, places=1)
    workers.touch("busy")
    while not order:
        time.sleep(0.001)
    for key in ("busy", "a", "busy", "b", "busy"):
        workers.touch(key)
    release.set()
    assert done.wait(WAIT_S)
    workers.close()
    assert order == ["busy", "a", "b", "busy"]


def test_touches_for_about_the_same_time_are_one():
    workers: Workers[str] = Workers(lambda _: None)
    for _ in range(5000):
        workers.touch_after("a", 100.0)
        workers.touch_after("a", 1000.0)
    assert len(workers._due) < 50
    workers.close()


def test_a_job_that_no_thread_is_to_be_had_for_is_done_when_there_is_one(monkeypatch):
    ran = threading.Event()
    workers: Workers[str] = Workers(lambda _: ran.set())
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "pod":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", refuse)
        workers.touch("a")
        assert not ran.wait(0.2)
    assert ran.wait(WAIT_S)
    workers.close()


def test_a_listener_that_hangs_while_pods_come_and_go_is_closed_and_keeps_nothing(monkeypatch):
    monkeypatch.setattr(agent_outcomes, "MOST", 100)
    told = Outcomes()
    with told.listen() as slow:
        for number in range(100):
            told.publish(Outcome(Pod(PodUID(f"u{number}"), "ns", "p"), "r", forgotten=True))
        assert not slow.is_closed
        told.publish(Outcome(Pod(PodUID("one more"), "ns", "p"), "r", forgotten=True))
        assert slow.is_closed
        assert slow.next(0.0) is None
        assert not slow._news
    with told.listen() as again:
        assert not again.is_closed


def test_the_stream_of_a_listener_that_was_closed_ends(monkeypatch):
    class Context:
        def add_callback(self, _: object) -> None: ...

        def is_active(self) -> bool:
            return True

    class Engine:
        def caught_up(self) -> bool:
            return False

    monkeypatch.setattr(agent_outcomes, "MOST", 10)
    told = Outcomes()
    told.publish(Outcome(Pod(PodUID("u"), "ns", "p"), "r"))
    stream = Servicer(Engine(), told, lambda _: None, tuple, "v").Watch(None, Context())
    assert next(stream).pod.uid == "u"
    for number in range(20):
        told.publish(Outcome(Pod(PodUID(f"u{number}"), "ns", "p"), "r", forgotten=True))
    rest: list[object] = []
    thread = threading.Thread(target=lambda: rest.extend([list(stream), "ended"]), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert rest == [[], "ended"]
