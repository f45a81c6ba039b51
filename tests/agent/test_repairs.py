"""When others' damage is repaired, and what is told of it."""

from agent.model import ContainerID, Key
from agent.repairs import LONGEST_S, QUIET_S, STORM, TOLD_S, Repairs, Standing

KEY, OTHER = (Key(ContainerID("s1"), name) for name in ("net1", "net2"))


def test_the_first_repair_is_at_once_and_those_that_others_undo_wait_ever_longer():
    repairs, now, waits = Repairs(), 1000.0, []
    for _ in range(9):
        waits.append(repairs.not_before(KEY, now) - now)
        now = repairs.not_before(KEY, now)
        repairs.tried(KEY, now, "")
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert repairs.not_before(OTHER, now) == now, "each attachment has its own"


def test_after_a_quiet_while_they_start_anew():
    repairs, now = Repairs(), 1000.0
    repairs.tried(KEY, now, "")
    assert repairs.not_before(KEY, now) == now + 1
    assert repairs.not_before(KEY, now + QUIET_S + 1) == now + QUIET_S + 1
    repairs.tried(KEY, now + QUIET_S + 1, "")
    assert repairs.not_before(KEY, now + QUIET_S + 1) == now + QUIET_S + 2
    for _ in range(9):
        now = repairs.not_before(KEY, now)
        repairs.tried(KEY, now, "")
    patient = now + LONGEST_S + 1
    repairs.tried(KEY, patient, "")
    assert repairs.not_before(KEY, patient) == patient + LONGEST_S, "who undoes it once a minute is no quiet while"


def test_repairs_of_one_incident_are_told_once_and_the_next_incident_is_news():
    repairs, now = Repairs(), 1000.0
    for number in range(STORM):
        repairs.tried(KEY, now + number, f"12:00:0{number}Z")
        news = repairs.repaired(KEY, (f"MAC is {number}",))
        assert news is (number == 0)
        assert repairs.standing(KEY) == Standing("DriftRepaired", "at 12:00:00Z: MAC is 0")
    repairs.tried(KEY, now + 100, "12:01:40Z")
    assert repairs.repaired(KEY, ("MAC is 9",))
    assert repairs.standing(KEY).message == "at 12:01:40Z: MAC is 9"


def test_a_damage_that_stays_is_told_until_it_is_gone_and_a_repair_for_a_while():
    repairs, now = Repairs(), 1000.0
    assert repairs.drifted(KEY, ("it is down", "it is down"), "left as it is")
    assert not repairs.drifted(KEY, ("it is down",), "left as it is")
    assert repairs.standing(KEY) == Standing("Drifted", "it is down; left as it is")
    assert repairs.is_drifted(KEY)
    repairs.well(KEY, now)
    assert (repairs.standing(KEY), repairs.is_drifted(KEY)) == (None, False)
    repairs.tried(KEY, now, "x")
    repairs.repaired(KEY, ("it was down",))
    repairs.well(KEY, now + TOLD_S - 1)
    assert repairs.standing(KEY).reason == "DriftRepaired"
    repairs.well(KEY, now + TOLD_S + 1)
    assert repairs.standing(KEY) is None


def test_what_is_detached_is_forgotten():
    repairs, now = Repairs(), 1000.0
    for key in (KEY, OTHER):
        repairs.tried(key, now, "")
        repairs.drifted(key, ("x",), "")
        repairs.unasked.add(key)
        repairs.asked[key] = now
    repairs.keep({OTHER})
    assert (repairs.standing(KEY), repairs.not_before(KEY, now), repairs.unasked) == (None, now, {OTHER})
    assert repairs.asked == {OTHER: now}
    assert repairs.is_drifted(OTHER)


def test_what_has_been_told_waits_for_its_repair_and_is_asked_for_once():
    repairs, now = Repairs(), 1000.0
    assert not repairs.has_to_wait(KEY, now)
    repairs.tried(KEY, now, "x")
    assert not repairs.has_to_wait(KEY, now), "nobody has been told yet"
    repairs.drifted(KEY, ("MAC is 1",), "it cannot be")
    assert [repairs.has_to_wait(KEY, now + seconds) for seconds in (0, 0.9, 1.1)] == [True, True, False]
    assert [repairs.asks(KEY, due) for due in (now + 1, now + 1, now + 3)] == [True, False, True]


def storm(repairs, now, gone=False):
    """Somebody undoes each repair at once. Return what was news, and when the last repair was."""
    news = []
    for number in range(STORM + 20):
        now = repairs.not_before(KEY, now)
        repairs.tried(KEY, now, f"12:00:{number:02}Z")
        news.append(repairs.repaired(KEY, (f"MAC is {number}",)))
        if not repairs.has_to_wait(KEY, now):  # else nobody looks
            news.append(repairs.fought(KEY, (f"MAC is {number + 1}",), is_gone=gone))
    return news, now


def test_a_long_fight_is_told_as_one_damage_whose_words_stay():
    repairs = Repairs()
    news, now = storm(repairs, 1000.0)
    assert news == [True, True] * STORM + [True] + [False] * 19
    steady = repairs.standing(KEY)
    assert steady == Standing(
        "Drifted", "changed again and again, and repaired each time, ever later; first at 12:00:00Z: MAC is 0"
    )
    repairs.well(KEY, now + QUIET_S - 1)
    assert repairs.standing(KEY) == steady, "it may be the fighter's pause"
    repairs.well(KEY, now + QUIET_S)
    assert repairs.standing(KEY) == Standing("DriftRepaired", "at 12:00:00Z: MAC is 0"), "it has been whole since"
    repairs.well(KEY, now + TOLD_S + 1)
    assert repairs.standing(KEY) is None


def test_after_a_long_fight_the_next_incident_is_told_as_the_first_one_was():
    repairs = Repairs()
    _, now = storm(repairs, 1000.0)
    repairs.well(KEY, now + QUIET_S)
    now += 2 * LONGEST_S + 1
    repairs.tried(KEY, now, "13:00:00Z")
    repairs.repaired(KEY, ("MAC is 7",))
    assert repairs.standing(KEY) == Standing("DriftRepaired", "at 13:00:00Z: MAC is 7")


def test_a_fighter_who_comes_back_after_a_pause_is_told_again_in_the_same_words():
    repairs = Repairs()
    _, now = storm(repairs, 1000.0)
    steady = repairs.standing(KEY)
    repairs.well(KEY, now + QUIET_S)
    assert repairs.fought(KEY, ("MAC is 8",))
    assert repairs.standing(KEY) == steady
    repairs.well(KEY, now + QUIET_S + 5)
    assert repairs.standing(KEY) == steady, "whole since just now, not since the repair"
    repairs.well(KEY, now + 2 * QUIET_S + 5)
    assert repairs.standing(KEY).reason == "DriftRepaired"
    assert repairs.not_before(KEY, now + 30) == now + LONGEST_S, "its next repair waits as before"


def test_what_waits_for_its_repair_is_looked_at_now_and_then_and_told_as_it_is():
    repairs, now = Repairs(), 1000.0
    for _ in range(8):
        now = repairs.not_before(KEY, now)
        repairs.tried(KEY, now, "x")
        repairs.drifted(KEY, ("link net1 is down",), "File exists")
    assert repairs.not_before(KEY, now) == now + LONGEST_S
    assert [repairs.has_to_wait(KEY, now + seconds) for seconds in (QUIET_S - 1, QUIET_S + 1)] == [True, False]
    repairs.looked(KEY, now + QUIET_S + 1)
    assert repairs.look_not_before(KEY, now + QUIET_S + 1) == now + 2 * QUIET_S + 1
    assert not repairs.fought(KEY, ("link net1 is down",)), "nobody has undone anything"
    assert repairs.fought(KEY, ("MAC is 1",))
    assert repairs.standing(KEY).message == "MAC is 1; File exists"
    repairs.well(KEY, now + 2 * QUIET_S)
    assert repairs.standing(KEY) is None


def test_of_a_link_that_others_delete_again_and_again_it_is_told_whether_it_is_there_in_the_same_words():
    repairs = Repairs()
    _, now = storm(repairs, 1000.0)
    there = repairs.standing(KEY)
    assert repairs.fought(KEY, ("interface net1 is gone",), is_gone=True)
    gone = repairs.standing(KEY)
    assert (gone.message, gone.is_gone, there.is_gone) == (there.message, True, False)
    repairs.well(KEY, now + 1)
    assert repairs.standing(KEY) == there


def test_a_damage_that_cannot_be_repaired_is_no_fight():
    repairs, now = Repairs(), 1000.0
    for _ in range(3 * STORM):
        repairs.tried(KEY, now, "x")
        repairs.drifted(KEY, ("it is down",), "it cannot be")
        now = repairs.not_before(KEY, now)
    assert repairs.standing(KEY) == Standing("Drifted", "it is down; it cannot be")


def test_why_it_is_looked_at_is_told_to_who_counts():
    repairs = Repairs()
    repairs.heard = frozenset({KEY})
    assert (repairs.cause(KEY), repairs.cause(OTHER)) == ("event", "look")
