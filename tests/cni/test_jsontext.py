"""Strict JSON, and reading objects key by key."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import jsontext
from cni.fields import FieldError, Fields, shorten

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_what_json_writes_is_read(value):
    assert jsontext.loads(json.dumps(value)) == value


@given(st.text())
def test_nothing_but_value_error_comes_of_any_text(text):
    with contextlib.suppress(ValueError):
        jsontext.loads(text)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "-Infinity", "1e999", "[" * 5000, '{"a":' * 5000, "9" * 5000, "\ufeff{}"]
)
def test_values_that_others_could_not_read_are_refused(text):
    with pytest.raises(ValueError):
        jsontext.loads(text)


def test_nesting_has_a_bound():
    assert jsontext.loads("[" * 100 + "]" * 100)
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        jsontext.loads("[" * 102 + "]" * 102)


@pytest.mark.parametrize("text", [r'{"\ud800k": "\udfffv"}', '{"\ud800k": "\udfffv"}'])
def test_half_surrogate_pairs_become_printable(text):
    assert jsontext.loads(text) == {"?k": "?v"}


def test_whole_surrogate_pairs_stay():
    assert jsontext.loads(r'"\ud83d\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: f.text("n"), "at.n=3 is not a string"),
        (lambda f: f.number("s", 0, 9), "at.s='x' is not a whole number"),
        (lambda f: f.number("b", 0, 9), "at.b=true is not a whole number"),
        (lambda f: f.number("f", 0, 9), "at.f=1.0 is not a whole number"),
        (lambda f: f.number("n", 4, 9), "at.n=3 is not within 4 and 9"),
        (lambda f: f.texts("s"), "at.s='x' is not a list"),
        (lambda f: f.texts("l"), "at.l[0]=1 is not a string"),
        (lambda f: f.objects("l"), "at.l[0]=1 is not an object"),
        (lambda f: f.object("l"), "at.l=[1, None] is not an object"),
        (lambda f: f.required("none", str), "at.none is missing"),
        (lambda f: f.required("gone", str), "at.gone is missing"),
    ],
)
def test_a_wrong_field_is_told_by_key_and_value(read, message):
    fields = Fields({"n": 3, "s": "x", "b": True, "f": 1.0, "l": [1, None], "none": None}, "at")
    with pytest.raises(FieldError) as caught:
        read(fields)
    assert str(caught.value) == message


def test_null_is_as_absent():
    fields = Fields(dict.fromkeys(["t", "n", "l", "o"]))
    found = (fields.text("t"), fields.number("n", 0, 9), fields.texts("l"), fields.objects("l"), fields.object("o"))
    assert found == ("", None, (), (), None)


@pytest.mark.parametrize("value", ["x" * 500, [1] * 500, None, True])
def test_values_in_messages_fit_a_line(value):
    assert 0 < len(shorten(value)) <= 80
