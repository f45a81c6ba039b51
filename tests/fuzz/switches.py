"""Targets: what is read of Open vSwitch's database, which may be anybody's socket."""

import json
from contextlib import suppress

from agent import jsonstream, switchwatch
from tests.fuzz.target import TABLE

_ROWS = {
    "Bridge": {"b1": {"new": {"name": "br0", "ports": ["set", [["uuid", "p1"], ["uuid", "p2"]]]}}},
    "Port": {
        "p1": {"new": {"name": "net1", "tag": 7, "trunks": ["set", []], "external_ids": ["map", [["a", "}"]]]}},
        "p2": {"new": {"name": "br0", "tag": ["set", []]}},
    },
    "Interface": {"i1": {"new": {"name": "net1", "error": "no"}}},
}
_GONE = {"Port": {"p1": {"old": {"name": "net1"}}}, "Bridge": {"b1": {"new": {"name": "br0", "ports": ["uuid", "p2"]}}}}
_SAID = [
    {"id": 0, "error": None, "result": _ROWS},
    {"method": "update", "params": [None, _GONE], "id": None},
    {"method": "echo", "params": [], "id": "echo"},
]
_STREAM = "".join(json.dumps(one) for one in _SAID)
_REFUSALS = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)  # that read() documents


def _cut(data: bytes, size: int) -> tuple[list[bytes], bool]:
    """Return the messages of what comes in pieces of that size, and whether it was refused."""
    messages, found = jsonstream.Messages(), []
    try:
        for start in range(0, len(data), size):
            found += messages.take(data[start : start + size])
    except ValueError:
        return found, True
    return found, False


@TABLE.text("agent.jsonstream", _STREAM, ' {"a": "\\"}"}\n{"b": [{"c": "\\\\"}, {}]}', '{"a": ', "{} 7", "{{}", "}")
def stream(data: bytes) -> None:
    """What is one message does not depend on how it comes."""
    whole, is_refused = _cut(data, max(1, len(data)))
    for size in (1, 3, 64):
        pieces, refused = _cut(data, size)
        if not is_refused and not refused:
            assert [one.strip() for one in pieces] == [one.strip() for one in whole]
    for one in whole:
        assert one.strip()[:1] + one[-1:] == b"{}"


class _Switch:
    """A socket on which this comes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, _: int) -> bytes:
        size = 1 + len(self._data) // 2
        data, self._data = self._data[:size], self._data[size:]
        return data

    def sendall(self, data: bytes) -> None:
        json.loads(data)


@TABLE.text("agent.switchwatch", _STREAM, json.dumps(_SAID[0]), json.dumps({"id": 0, "error": "no", "result": None}))
def monitor(data: bytes) -> None:
    connected = switchwatch._Monitor(_Switch(data))  # type: ignore[arg-type]
    with suppress(*_REFUSALS):
        while True:  # up to the end, which is a ConnectionResetError
            for ports in connected.read():
                assert all(isinstance(name, str) and isinstance(said, str) for name, said in ports.items())
    assert connected._size >= 0
