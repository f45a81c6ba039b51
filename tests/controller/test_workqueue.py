from controller.workqueue import Queue


def queue() -> Queue[str]:
    return Queue(0.2, 10.0, lambda: 0.0)


def taken(waiting: Queue[str]) -> list[str]:
    keys = []
    while (job := waiting.take()) is not None:
        keys.append(job.key)
    return keys


def test_keys_come_in_the_order_of_their_addition_each_once():
    waiting = queue()
    for key in "abac":
        waiting.add(key, 0.0)
    assert len(waiting) == 3
    assert taken(waiting) == ["a", "b", "c"]


def test_a_key_that_is_worked_on_is_not_given_out_again():
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take()
    waiting.add("a", 1.0)
    waiting.add("a", 2.0)
    assert taken(waiting) == []
    waiting.done("a")
    job = waiting.take()
    assert job is not None
    assert job.since == 1.0
    waiting.done("a")
    assert taken(waiting) == []


def test_a_failed_key_comes_again_later_each_time():
    waiting = queue()
    waiting.add("a", 0.0)
    now, delays = 0.0, []
    for _ in range(8):
        assert taken(waiting) == ["a"]
        waiting.failed("a", now)
        due = waiting.add_due(now)
        assert due is not None
        delays.append(round(due - now, 3))
        now = due
        assert waiting.add_due(now) is None
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_success_forgives_failures():
    waiting = queue()
    for fail in (True, True, False, True):
        waiting.add("a", 0.0)
        assert taken(waiting)[:1] == ["a"]
        if fail:
            count = waiting.failed("a", 0.0)
        else:
            waiting.done("a")
    assert count == 1


def test_an_addition_brings_a_failed_key_at_once():
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take()
    waiting.failed("a", 0.0)
    waiting.add("a", 0.01)
    assert taken(waiting) == ["a"]


def test_an_addition_while_it_fails_is_not_lost():
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take()
    waiting.add("a", 0.0)
    waiting.failed("a", 0.0)
    assert taken(waiting) == ["a"]


def test_a_delay_is_never_longer_and_at_least_half():
    for chance in (0.0, 0.5, 0.999):
        waiting: Queue[str] = Queue(1.0, 10.0, lambda chance=chance: chance)
        waiting.add("a", 0.0)
        waiting.take()
        waiting.failed("a", 0.0)
        due = waiting.add_due(0.0)
        assert due is not None
        assert 0.5 <= due <= 1.0


def test_what_falls_due_is_added_in_order_of_time():
    waiting = queue()
    waiting.add_at("late", 5.0)
    waiting.add_at("early", 3.0)
    assert waiting.add_due(2.9) == 3.0
    assert taken(waiting) == []
    assert waiting.add_due(5.0) is None
    assert taken(waiting) == ["early", "late"]
