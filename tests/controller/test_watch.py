import json

import pytest

from controller import watch


def line(verb: str, version: str, **document: object) -> bytes:
    event = {"type": verb, "object": {"metadata": {"resourceVersion": version}, **document}}
    return json.dumps(event).encode() + b"\n"


def seen(*chunks: bytes) -> list[tuple[str, str]]:
    return [(change.verb.value, change.version) for change in watch.changes(chunks)]


def test_lines_are_put_together_however_they_are_cut():
    whole = line("ADDED", "1") + line("MODIFIED", "2") + line("DELETED", "3") + line("BOOKMARK", "4")
    expected = [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "3"), ("BOOKMARK", "4")]
    for size in (1, 7, 60, len(whole)):
        assert seen(*(whole[start : start + size] for start in range(0, len(whole), size))) == expected


def test_a_change_is_told_before_the_next_chunk_is_asked_for():
    told = []

    def chunks():
        yield line("ADDED", "1")
        assert told == ["1"]
        yield line("ADDED", "2")

    for change in watch.changes(chunks()):
        told.append(change.version)  # noqa: PERF401 the point is what is there in between
    assert told == ["1", "2"]


def test_an_unfinished_line_is_no_change():
    assert seen(line("ADDED", "1"), line("ADDED", "2")[:-5]) == [("ADDED", "1")]


def test_an_expired_version_is_told_from_other_errors():
    gone = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}).encode()
    with pytest.raises(watch.Expired, match="too old"):
        watch.process_line(gone)
    other = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}}).encode()
    with pytest.raises(watch.Broken, match="etcd"):
        watch.process_line(other)


@pytest.mark.parametrize(
    "text",
    [b"garbage", b"[]", b"7", b"{}", b'{"type": "ADDED"}', b'{"type": "NEW", "object": {"metadata": {}}}', b"\xff"],
)
def test_what_is_no_event_breaks_the_stream(text):
    with pytest.raises(watch.Broken):
        watch.process_line(text)


def test_a_line_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(watch, "MAX_LINE", 100)
    with pytest.raises(watch.Broken, match="100 bytes"):
        seen(b"x" * 60, b"x" * 60)


def test_backoff_doubles_up_to_its_limit_and_starts_anew_after_success():
    backoff = watch.Backoff(0.2, 1.0, lambda: 0.0)
    assert [backoff.after_failure() for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.succeeded()
    assert backoff.after_failure() == 0.2
