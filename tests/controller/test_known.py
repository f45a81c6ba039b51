from controller.known import Table
from controller.model import Pod, PodUID
from tests.controller import build


def table() -> tuple[Table[PodUID, Pod], list[tuple[str | None, str | None]]]:
    calls: list[tuple[str | None, str | None]] = []

    def changed(old: Pod | None, new: Pod | None) -> None:
        calls.append((old and old.resource_version, new and new.resource_version))

    return Table(lambda pod: pod.ref.uid, changed), calls


def test_a_list_tells_what_came_what_changed_and_what_is_gone():
    known, calls = table()
    known.list([build.pod("a", version=1), build.pod("b", version=1)])
    assert known.listed_once.is_set()
    calls.clear()
    known.list([build.pod("b", version=2), build.pod("c", version=3)])
    assert sorted(calls, key=str) == sorted([("1", None), ("1", "2"), (None, "3")], key=str)
    assert set(known.keys()) == {"uid-b", "uid-c"}


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
    assert known.get(PodUID("uid-p")) is None
    assert calls[-1] == ("1", None)


def test_a_list_wins_over_what_is_known_even_with_lower_versions():
    """An etcd that was restored counts from earlier."""
    known, _ = table()
    known.list([build.pod(version=500)])
    known.list([build.pod(version=20)])
    found = known.get(PodUID("uid-p"))
    assert found is not None
    assert found.resource_version == "20"


def test_the_uid_of_a_mirror_pod_is_the_static_pods():
    pod = build.pod(annotations={"kubernetes.io/config.mirror": "hash-of-the-file"})
    assert pod.ref.uid == "hash-of-the-file"
    assert pod.api_uid == "uid-p"
