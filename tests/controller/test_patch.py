import copy

import pytest

from controller.model import Condition, pod_from
from controller.patch import operations
from controller.reconcile import Conflict
from tests.controller import build
from tests.controller.fake_cluster import patched

READY = Condition(True, "AllAttached", "attached: 1", "2026-02-02T00:00:00Z")
OTHERS = ({"type": "Ready", "status": "True"}, {"type": "example.com/X", "status": "False"})
DOCUMENTS = {
    "nothing": build.document(),
    "annotations": build.document(networks="blue"),
    "status": build.document(networks="blue", status="[]"),
    "conditions": build.document(networks="blue", conditions=OTHERS),
    "all": build.document(status="[]", conditions=[OTHERS[0], build.ready("False", "AddFailed"), OTHERS[1]]),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize(("status", "condition"), [("[1]", READY), ("[1]", None), (None, READY)])
def test_the_patch_writes_what_it_is_told_and_nothing_else(kind, status, condition):
    document = DOCUMENTS[kind]
    before = pod_from(document)
    after = pod_from(patched(document, operations(before, status, condition)))
    assert after.network_status == (status or before.network_status)
    assert after.condition == (condition or before.condition)
    assert after.networks == before.networks
    assert [one for one in after.conditions if "hotnic" not in one["type"]] == [
        one for one in before.conditions if "hotnic" not in one["type"]
    ]


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_writer_who_has_not_seen_the_first_ones_write_is_stopped(kind):
    """The status of both is the same value, so that only the tests of the patch can tell."""
    document = DOCUMENTS[kind]
    before = pod_from(document)
    written = patched(document, operations(before, "[1]", READY))
    with pytest.raises(Conflict):
        patched(written, operations(before, "[2]", READY))


def test_a_condition_is_never_there_twice():
    document = DOCUMENTS["conditions"]
    written = patched(document, operations(pod_from(document), None, READY))
    with pytest.raises(Conflict):
        patched(written, operations(pod_from(document), None, READY))


def test_a_condition_that_moved_is_not_mistaken_for_another():
    document = copy.deepcopy(DOCUMENTS["all"])
    patch = operations(pod_from(document), None, READY)
    document["status"]["conditions"].insert(0, {"type": "example.com/Y"})
    with pytest.raises(Conflict):
        patched(document, patch)


def test_a_pod_of_the_same_name_is_another_pod():
    patch = operations(pod_from(DOCUMENTS["status"]), "[1]", None)
    with pytest.raises(Conflict):
        patched(build.document(networks="blue", status="[]", uid="another"), patch)
