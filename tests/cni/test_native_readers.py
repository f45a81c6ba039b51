"""What the native executable reads, against Python's reading of the same: random and hostile, under the sanitizers.

The documents are the same in every run. For more of them: FUZZ_ROUNDS=1000000 pytest tests/cni/test_native_readers.py
"""

import json
import os
import random
import socket
import subprocess
from pathlib import Path

import pytest

from cni import build, forward, wire
from tests.cni.conftest import SANITIZED, SANITIZER_OPTIONS
from tests.fuzz.folders import CORPUS as CORPUS_OF_FUZZ
from tests.fuzz.folders import FOUND

HERE = Path(__file__).parent
CORPUS = [path.read_bytes() for path in sorted((HERE / "corpus").iterdir())]
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "20000"))
KEYS = ("runDir", "agent", "cniVersion", "device", "require", "prevResult")
KINDS = {bool: "?", int: "n", float: "n", list: "[", dict: "{", type(None): "-"}


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "probe"
    sources = [build.NATIVE / name for name in ("text.c", "config.c", "clock.c", "request.c")]
    options = [*SANITIZED, "-I", str(build.NATIVE), "-o", str(path)]
    build.run_compiler(["gcc", *options, *map(str, [*sources, HERE / "probe.c", SANITIZER_OPTIONS])])
    return path


def made_of(probe, kind, items):
    """Return the probe's line for each item; it is told which one it dies of."""
    stdin = b"".join(kind + len(item).to_bytes(4, "little") + item for item in items)
    done = subprocess.run([probe], input=stdin, capture_output=True, timeout=600, check=False)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b""), f"died of {items[len(lines)][:2000]!r}: {done.stderr.decode()}"
    return lines


def expected(document):
    return [shown(forward.config_value(document, key)) for key in KEYS]


def told(line):
    """Return what the probe says of each key; the text of an object is what it means."""
    return [shown(json.loads(bytes.fromhex(one[1:]))) if one[0] == "{" else one for one in line.split("\t")]


def shown(value):
    if isinstance(value, str):
        return json.dumps(value) + value.encode("utf-8", "replace").hex()
    if isinstance(value, dict):
        return "{" + json.dumps(value)
    if isinstance(value, bool):
        return "?" + json.dumps(value)[0]
    return KINDS[type(value)]


def compare(probe, documents):
    for document, line in zip(documents, made_of(probe, b"c", documents), strict=True):
        assert told(line) == expected(document), document[:2000]


# documents


VALID = (
    "null", "true", "false", "NaN", "-Infinity", "0", "-0", "12", "-1.5", "1e9", "0.1E-9", '""', '"none"', '"/run/x"',
    '"1.1.0"', r'"\u0041\ud83d\ude00\ud800"',
    '"é€😀"', r'"\"\\\/\b\f\n\r\t"', '"\x7f"', '"\ud7ff\ue000"', r'"\udc00\ud800\u0000"',
)  # fmt: skip
INVALID = (
    "01", "1.", ".5", "-", "+1", "1e", "1e+", "nul", "Infinityx", '"\\x"', '"\\u12g4"', '"\t"', "'a'", '"', "",
)  # fmt: skip
NAMES = (
    '"runDir"', '"agent"', '"cniVersion"', r'"r\u0075nDir"', r'"\u0061gent"', r'"cniVersion\u0000"', '"x"', '""',
    '"device"', '"require"', '"prevResult"',
)  # fmt: skip


def scalar(dice):
    return dice.choice(VALID if dice.random() < 0.98 else INVALID)


def key(dice):
    return dice.choice(NAMES if dice.random() < 0.98 else INVALID)


def space(dice):
    return dice.choice(["", "", "", " ", "\n", "\t\r "])


def value(dice, depth):
    shape = dice.randrange(6) if depth else 0
    if shape < 3:
        return scalar(dice)
    count = dice.randrange(4)
    if shape == 3:
        return f"[{space(dice)}{','.join(space(dice) + value(dice, depth - 1) for _ in range(count))}{space(dice)}]"
    return an_object(dice, depth - 1, count)


def an_object(dice, depth, count):
    items = (f"{space(dice)}{key(dice)}{space(dice)}:{space(dice)}{value(dice, depth)}" for _ in range(count))
    return f"{{{space(dice)}{','.join(items)}{space(dice)}}}"


def mutated(dice, document):
    data = bytearray(document)
    for _ in range(dice.randrange(1, 4)):
        at, to = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        match dice.randrange(5):
            case 0:
                del data[at : at + dice.randrange(1, 4)]
            case 1:
                data[at:at] = dice.choice(b'{}[]",:\\u0 tn\x00\x1f\x7f\x80\xc0\xe0\xed\xf0\xf4\xff').to_bytes(
                    1, "little"
                )
            case 2:
                data[at:at] = data[at:to]
            case 3:
                del data[to:]
            case 4 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
    return bytes(data)


def test_documents_of_the_corpus(probe):
    compare(probe, CORPUS)


def test_what_fuzzing_kept(probe):
    """`make fuzz` gives it to the same code, and looks only for crashes."""
    kept = [path.read_bytes() for folder in (CORPUS_OF_FUZZ, FOUND) for path in sorted((folder / "native").glob("*"))]
    compare(probe, [data[1:] for data in kept if data[:1] == b"c"])
    replies = [data[1:] for data in kept if data[:1] != b"c"]
    for raw, line in zip(replies, made_of(probe, b"r", replies), strict=True):
        assert line == read_by_python(raw), raw


def test_every_beginning_of_a_document(probe):
    compare(probe, [document[:end] for document in CORPUS for end in range(len(document))])


def test_every_byte_changed_into_a_telling_one(probe):
    telling = b'"\\{}[],:0-eE.nN \x00\x80\xff'
    compare(
        probe,
        [
            doc[:at] + bytes([byte]) + doc[at + 1 :]
            for doc in CORPUS
            for at in range(0, len(doc), 3)
            for byte in telling
        ],
    )


def test_random_documents(probe):
    dice = random.Random(4)
    documents = [an_object(dice, 4, dice.randrange(1, 6)).encode("utf-8", "surrogatepass") for _ in range(ROUNDS)]
    compare(probe, documents)
    say_something = sum(set(expected(document)) != {"-"} for document in documents)
    assert say_something > ROUNDS // 4


@pytest.mark.parametrize("number", ["9" * 4300, "9" * 4301, "-" + "9" * 4300, "9" * 5000 + ".5", "9" * 5000 + "e1"])
def test_long_numbers(probe, number):
    compare(probe, [f'{{"runDir": "/x", "y": {number}}}'.encode(), f'{{"runDir": {number}}}'.encode()])


def test_mutated_documents(probe):
    dice = random.Random(5)
    compare(probe, [mutated(dice, dice.choice(CORPUS)) for _ in range(ROUNDS)])


@pytest.mark.parametrize("depth", [1, 2, 500, 700])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_nested_documents(probe, depth, pair):
    opening = pair[0] if pair == "[]" else '{"agent": '
    inner = opening * depth + "1" + pair[1] * depth
    compare(probe, [f'{{"x": {inner}, "runDir": "/x"}}'.encode(), f'{{"runDir": {inner}, "agent": "none"}}'.encode()])


@pytest.mark.parametrize("opening", ["[", '{"agent":', '[{"x":['])
def test_endlessly_nested_documents_say_nothing(probe, opening):
    document = b'{"runDir": "/x", "y": ' + opening.encode() * 200_000
    compare(probe, [document, document[: len(document) // 2]])


def test_all_sequences_of_bytes_that_may_be_text(probe):
    """Each first byte with each second one, at both ends of what may follow them."""
    tails = [b"", b"\x80", b"\xbf", b"\x80\x80", b"\xbf\xbf", b"a"]
    texts = [bytes([one, two]) + tail for one in range(0x7E, 0x100) for two in range(0x7E, 0x100) for tail in tails]
    compare(probe, [b'{"runDir": "' + text + b'"}' for text in texts])


# replies


def read_by_python(raw):
    ours, its = socket.socketpair()
    with ours, its:
        its.sendall(raw)
        its.shutdown(socket.SHUT_WR)
        try:
            code, stdout = wire.receive_reply(ours)
        except wire.WireError as problem:
            return str(problem)
    return f"{code} {stdout.hex()}"


def test_random_replies(probe):
    dice = random.Random(6)
    numbers = [0, 1, 2, 9, 255, 256, 1 << 16, wire.MAX_REPLY, wire.MAX_REPLY + 1, 1 << 31, (1 << 32) - 1]
    whole = [
        dice.choice(numbers).to_bytes(4, "little")
        + dice.choice(numbers).to_bytes(4, "little")
        + dice.randbytes(dice.randrange(20))
        for _ in range(ROUNDS // 10)
    ]
    replies = [*whole, *(mutated(dice, wire.encode_reply(0, dice.randbytes(30))) for _ in range(ROUNDS // 10))]
    for raw, line in zip(replies, made_of(probe, b"r", replies), strict=True):
        assert line == read_by_python(raw), raw
