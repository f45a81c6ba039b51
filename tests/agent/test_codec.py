"""Whatever a record or a desired set holds, the disk gives it back, and gives nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import codec, files
from agent.model import (
    Asked,
    ContainerID,
    Desired,
    Displaced,
    Hold,
    Key,
    Namespace,
    Pod,
    PodUID,
    Record,
    State,
    Wanted,
)
from cni import multinet
from tests.agent.test_journal import DESIRED, RECORD

TEXT = st.text(max_size=20)
WHOLE = st.integers(0, 2**64)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, VALUES, max_size=4)
PODS = st.builds(Pod, st.builds(PodUID, TEXT), TEXT, TEXT)
RECORDS = st.builds(
    Record,
    key=st.builds(Key, st.builds(ContainerID, TEXT), TEXT),
    network=TEXT, element=TEXT, config=TEXT,
    namespace=st.builds(Namespace, TEXT, WHOLE, WHOLE, WHOLE, TEXT),
    pod=st.none() | PODS,
    args=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    runtime=OBJECT, cni_args=st.none() | OBJECT, device_id=TEXT, result=st.none() | OBJECT, ifindex=WHOLE,
    displaced=st.lists(st.builds(Displaced, TEXT, TEXT, st.none() | WHOLE), max_size=2).map(tuple),
    saved=OBJECT, guest=st.dictionaries(TEXT, TEXT, max_size=3),
    nad_uid=TEXT, nad_resource_version=TEXT, sequence=WHOLE,
)  # fmt: skip
SELECTIONS = st.builds(multinet.Selection, st.just("ns"), st.sampled_from(["a", "b.c"]), st.sampled_from(["", "net1"]))
WISHES = st.builds(
    Wanted, SELECTIONS, TEXT, TEXT, TEXT, st.none() | st.builds(Hold, st.sampled_from(State), TEXT, TEXT)
)
DESIREDS = st.builds(
    Desired, PODS, TEXT, st.lists(WISHES, max_size=3).map(tuple), ended=st.booleans(),
    keep=st.lists(TEXT, max_size=2).map(tuple), vm=TEXT,
    asked=st.lists(st.builds(Asked, TEXT, TEXT), max_size=2).map(tuple),
    released=st.lists(TEXT, max_size=2).map(tuple),
    examined=st.lists(st.builds(ContainerID, TEXT), max_size=2).map(tuple),
)  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files") / "x.json"


@given(RECORDS)
def test_a_record_comes_back(path, record):
    files.write(path, codec.encode_record(record), durable=False)
    assert codec.decode_record(files.read(path)) == record


@given(DESIREDS)
def test_a_desired_set_comes_back(path, desired):
    files.write(path, codec.encode_desired(desired), durable=False)
    assert codec.decode_desired(files.read(path)) == desired


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw):
    try:
        document = files.parse(raw)
    except files.Damaged:
        return
    for decode in (codec.decode_record, codec.decode_desired):
        with pytest.raises((KeyError, TypeError, ValueError)):
            decode(document)


@pytest.mark.parametrize("key", codec.encode_record(RECORD))
@given(wrong=st.sampled_from([None, 5, 1.5, True, "x", [], {}, [5], [["a"]], {"a": 5}, [[1, 2, 3]], ["x", "y"]]))
def test_a_value_of_another_type_is_never_believed(key, wrong):
    document = {**codec.encode_record(RECORD), key: wrong}
    try:
        found = codec.decode_record(document)
    except (KeyError, TypeError, ValueError):
        return
    again = codec.encode_record(found)
    assert again[key] == wrong or not wrong  # what is empty may be as what is absent
    assert codec.decode_record(again) == found


@pytest.mark.parametrize("key", codec.encode_desired(DESIRED))
def test_a_missing_key_is_damage(key):
    document = {name: value for name, value in codec.encode_desired(DESIRED).items() if name != key}
    with pytest.raises(KeyError):
        codec.decode_desired(document)
