"""The list of effect functions is whole, and true: read from the code, so that nothing new escapes the harness."""

from tests.faults import effects, primitives
from tests.faults.effects import EFFECTS, Bound


def test_every_call_that_leaves_the_process_lies_in_a_listed_effect_function():
    found = primitives.functions()
    unlisted = {name: sorted(calls) for name, calls in found.items() if name not in EFFECTS}
    assert not unlisted, "new ways out: put them into tests/faults/effects.py, with error, deadline and story"
    assert not EFFECTS.keys() - found.keys(), "listed, but without a primitive: take them out"
    print(f"{len(found)} effect functions with {sum(map(len, found.values()))} primitives")


def test_an_effect_function_has_a_story_or_says_where_else_it_is_tried():
    lost = [name for name, one in EFFECTS.items() if not one.stories and not one.besides]
    assert lost == []
    assert {story for one in EFFECTS.values() for story in one.stories} == set(effects.STORIES)


def test_every_deadline_is_one_that_the_code_keeps():
    bounds = {name: one.deadline for name, one in EFFECTS.items() if isinstance(one.deadline, Bound)}
    broken = [name for name, bound in bounds.items() if bound.name not in primitives.names_in(bound.where)]
    assert broken == []
    assert all(one.deadline for one in EFFECTS.values())
