"""The plan of a soak is its seed's, and puts right what it breaks."""

import json

import pytest

from e2e.soak import plan

SEEDS = range(20)


def actions(phase: plan.Phase) -> list[plan.Action]:
    return [action for track in phase.tracks.values() for action in track]


def test_a_seed_makes_the_same_plan_and_another_one_another():
    assert plan.phases(7, 100, 40) == plan.phases(7, 100, 40)
    assert plan.setup(7) == plan.setup(7)
    assert plan.phases(7, 100, 40) != plan.phases(8, 100, 40)


@pytest.mark.parametrize("kills", [0, 1, 17, 1000])
def test_it_kills_as_often_as_it_is_told(kills):
    kinds = [action.kind for phase in plan.phases(3, 120, kills) for action in actions(phase)]
    assert sum(kind in ("kill-agent", "kill-controller") for kind in kinds) == kills


@pytest.mark.parametrize("seed", SEEDS)
def test_each_phase_puts_right_what_it_broke(seed):
    for phase in plan.phases(seed, 200, 20):
        assert all([action.at for action in track] == sorted(action.at for action in track)
                   for track in phase.tracks.values())  # fmt: skip
        kinds = [action.kind for action in phase.tracks["outages"]]
        assert [f"start-{kind.partition('-')[2]}" for kind in kinds[::2]] == kinds[1::2]
        users = phase.tracks["users"]
        lost = [action for action in users if action.kind == "lose-network"]
        for one in lost:
            later = [other for other in users if other.kind == "define-network" and other.at > one.at]
            assert any(other.arguments[0] == one.arguments[0] for other in later)
        moods = [action.arguments[0] for action in users if action.kind == "mood"]
        assert not moods or not moods[-1]


@pytest.mark.parametrize("seed", SEEDS)
def test_pods_are_made_before_anything_is_done_to_them_and_are_as_many_all_the_time(seed):
    living = {action.arguments[0] for action in plan.setup(seed)}
    assert len(living) == plan.PODS
    for phase in plan.phases(seed, 200, 0):
        made = {action.arguments[0] for action in phase.tracks["users"] if action.kind == "create"}
        gone = {action.arguments[0] for action in phase.tracks["users"] if action.kind in ("delete", "force-delete")}
        assert gone <= living | made
        living = (living | made) - gone
        assert len(living) == plan.PODS


def test_some_annotations_are_wrong_and_most_are_not():
    texts = [
        action.arguments[1] for phase in plan.phases(1, 400, 0) for action in actions(phase) if action.kind == "plug"
    ]
    wrong = [text for text in texts if not _is_json(text)]
    assert 0 < len(wrong) < len(texts) / 4


def test_every_kind_of_trouble_comes():
    kinds = {action.kind for phase in plan.phases(2, 1200, 50) for action in actions(phase)}
    assert kinds >= {"plug", "create", "delete", "force-delete", "restart-container", "kill-sandbox", "edit-network",
                     "lose-network", "mood", "delete-link", "lose-lease", "stop-apiserver", "stop-runtime",
                     "kill-runtime", "stop-kubelet", "kill-agent", "kill-controller"}  # fmt: skip


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
