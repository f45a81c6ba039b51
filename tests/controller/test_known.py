import pytest

from controller.known import Table
from controller.model import Pod, PodRef
from tests.controller import build
from tests.controller.build import STATIC


def table() -> tuple[Table[PodRef, Pod], list[tuple[str | None, str | None]]]:
    calls: list[tuple[str | None, str | None]] = []

    def changed(old: Pod | None, new: Pod | None) -> None:
        calls.append((old and old.resource_version, new and new.resource_version))

    return Table(lambda pod: pod.ref, changed), calls


def test_a_list_tells_what_came_what_changed_and_what_is_gone():
    known, calls = table()
    known.list([build.pod("a", version=1), build.pod("b", version=1)])
    assert known.listed_once.is_set()
    calls.clear()
    known.list([build.pod("b", version=2), build.pod("c", version=3)])
    assert sorted(calls, key=str) == sorted([("1", None), ("1", "2"), (None, "3")], key=str)
    assert sorted(ref.name for ref in known.keys()) == ["b", "c"]  # noqa: SIM118 a table


def test_a_watch_that_lags_behind_our_own_write_changes_nothing():
    known, calls = table()
    known.list([build.pod(version=5)])
    known.refresh(build.pod(version=9, status="[]"))
    calls.clear()
    known.change(build.pod(version=7))
    known.change(build.pod(version=9))
    assert calls == []
    known.change(build.pod(version=10))
    assert calls == [("9", "10")]


def test_versions_are_numbers_not_texts():
    known, calls = table()
    known.list([build.pod(version=9)])
    known.change(build.pod(version=10))
    assert calls[-1] == ("9", "10")


def test_versions_that_are_no_numbers_are_taken_as_they_come():
    known, calls = table()
    known.list([build.pod(version="x")])
    known.change(build.pod(version="x"))
    known.change(build.pod(version="a"))
    assert calls == [(None, "x"), ("x", "a")]


def test_the_answer_to_a_write_brings_back_nothing_that_was_deleted():
    known, calls = table()
    known.list([build.pod(version=1)])
    known.delete(build.pod(version=2))
    known.refresh(build.pod(version=3))
    assert known.get(build.pod().ref) is None
    assert calls[-1] == ("1", None)


def test_a_list_wins_over_what_is_known_even_with_lower_versions():
    """An etcd that was restored counts from earlier."""
    known, _ = table()
    known.list([build.pod(version=500)])
    known.list([build.pod(version=20)])
    found = known.get(build.pod().ref)
    assert found is not None
    assert found.resource_version == "20"


def test_the_uid_of_a_mirror_pod_is_the_static_pods():
    pod = build.pod(**STATIC)
    assert pod.ref.uid == "hash-of-the-file"
    assert pod.api_uid == "uid-p"


@pytest.mark.parametrize(
    "without",
    [
        {"annotations": {**STATIC["annotations"], "kubernetes.io/config.hash": "another"}},
        {"annotations": {**STATIC["annotations"], "kubernetes.io/config.source": "api"}},
        {"owners": []},
        {"owners": [{**STATIC["owners"][0], "name": "node-2"}]},
    ],
)
def test_an_annotation_alone_makes_no_mirror_pod(without):
    assert build.pod(**{**STATIC, **without}).ref.uid == "uid-p"


def test_a_change_that_cannot_be_dealt_with_is_told_and_the_others_are(caplog):
    dealt_with: list[str] = []

    def changed(old: Pod | None, new: Pod | None) -> None:
        name = (new or old or build.pod()).ref.name
        if name == "bad":
            raise RecursionError
        dealt_with.append(name)

    known: Table[PodRef, Pod] = Table(lambda pod: pod.ref, changed)
    known.list([build.pod("bad"), build.pod("a")])
    assert known.listed_once.is_set()
    known.change(build.pod("bad", version=2))
    known.delete(build.pod("bad", version=3))
    known.change(build.pod("b"))
    assert dealt_with == ["a", "b"]
    assert len([one for one in caplog.records if "ns/bad" in one.getMessage()]) == 3


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 5_000 + "]" * 5_000, "{", "7", '[7, {"interface": 7}]', "[NaN]"])
def test_a_status_that_nobody_can_read_tells_of_no_interfaces(text):
    assert not build.pod(status=text).has_interfaces()
