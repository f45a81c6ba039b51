"""Every input that fuzzing kept, and every one that ever broke something, again. `make fuzz` looks for more."""

import importlib
import json
import logging
import random

import pytest

from tests.fuzz import every, mutation
from tests.fuzz.folders import CORPUS, FOUND, HERE
from tests.fuzz.target import Table


@pytest.fixture(autouse=True)
def quiet():
    """What is read is wrong, and said so thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def inputs(name: str) -> dict[str, bytes]:
    folders = [folder / name for folder in (CORPUS, FOUND) if (folder / name).is_dir()]
    return {str(path.relative_to(HERE)): path.read_bytes() for folder in folders for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", every.TARGETS)
def test_no_input_breaks_its_reader(name):
    target = every.TARGETS[name]
    for data in target.seeds:
        target.run(data)
    for path, data in inputs(name).items():
        try:
            target.run(data)
        except Exception as problem:
            raise AssertionError(f"{path}: {data[:2000]!r}") from problem


def test_what_is_kept_is_of_a_target_and_small():
    kept = {path.name for folder in (CORPUS, FOUND) if folder.is_dir() for path in folder.iterdir()}
    assert kept <= {*every.TARGETS, "native"}
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) <= 200 << 10
    assert all(len(list(folder.iterdir())) <= 30 for folder in CORPUS.iterdir())


def test_a_reader_that_breaks_is_found():
    """The net has no hole: what a target raises comes out."""
    table = Table()

    @table.json("broken", {"a": 1})
    def broken(document):
        return document["b"]

    with pytest.raises(KeyError):
        table.targets["broken"].run(b'{"a": 1}')
    table.targets["broken"].run(b"{")  # no input of it


def test_documents_change_and_stay_documents():
    dice, document = random.Random(1), {"a": [1, "b", {"c": None}], "d": '{"e": 1}'}
    made = [mutation.mutated(dice, document, ["net1", "x"]) for _ in range(300)]
    assert document == {"a": [1, "b", {"c": None}], "d": '{"e": 1}'}
    shallow = [one for one in made if len(repr(one)) < 10000]
    texts = {json.dumps(one) for one in shallow}
    assert len(texts) > 200


def test_modules_of_targets_stand_alone():
    """`tests.fuzz.one` loads one of them."""
    for target in every.TARGETS.values():
        assert importlib.import_module(target.module) in every.MODULES
