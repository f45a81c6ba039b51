"""Where JSON objects end that come one after the other."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import jsonstream
from agent.jsonstream import Messages

TEXTS = st.text('"\\{}[], aü', max_size=6)
VALUES = TEXTS | st.none() | st.lists(TEXTS, max_size=3) | st.dictionaries(TEXTS, TEXTS, max_size=3)
OBJECTS = st.dictionaries(TEXTS, st.lists(VALUES, max_size=2) | VALUES, max_size=3)


@settings(max_examples=100)
@given(st.lists(OBJECTS, max_size=4), st.booleans(), st.integers(1, 7), st.sampled_from(["", " ", "\n\t "]))
def test_objects_come_whole_in_whatever_pieces_they_come(objects, is_ascii, size, between):
    data = between.join(json.dumps(one, ensure_ascii=is_ascii) for one in objects).encode()
    messages, found = Messages(), []
    for start in range(0, len(data), size):
        found += messages.take(data[start : start + size])
    assert [json.loads(one) for one in found] == objects
    assert not messages.has_rest


def test_what_has_begun_is_a_rest_and_what_is_blank_is_none():
    messages = Messages()
    assert (messages.take(b' {"a": "}'), messages.has_rest) == ([], True)
    assert (messages.take(b'"} '), messages.has_rest) == ([b' {"a": "}"}'], False)


@pytest.mark.parametrize("data", [b"1", b'"', b"x{}", b"{} 7", b"{}]", b"{}}", b"[" * 1000, b"{ {} {", b"}"])
def test_what_cannot_become_an_object_is_refused(data):
    with pytest.raises(ValueError, match=r"JSON|begins|Expecting|Extra"):
        list(map(json.loads, Messages().take(data)))


def test_a_message_has_an_end(monkeypatch):
    monkeypatch.setattr(jsonstream, "MESSAGE_BYTES", 100)
    messages = Messages()
    messages.take(b'{"' + b"x" * 90)
    with pytest.raises(ValueError, match="no end"):
        messages.take(b"x" * 10)


def test_what_has_been_looked_at_is_not_looked_at_again():
    """Though no message ends: neither what is between texts, nor a text."""
    messages, passed = Messages(), []
    look = messages._pass
    messages._pass = lambda expression: (passed.append(len(found := look(expression))), found)[1]
    for piece in (b'{"a": [1, {"b": 2},', b' {"c": "' + b"x" * 1000):
        for _ in range(100):
            messages.take(piece)
    assert sum(passed) <= 100 * 20 + 100 * 1010
