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


def _objects(text: str) -> list[object] | None:
    """Return the objects that come one after the other there; None where anything else does."""
    found: list[object] = []
    with suppress(ValueError, RecursionError):
        while text := text.lstrip(" \t\r\n"):
            one, end = json.JSONDecoder().raw_decode(text)
            if not isinstance(one, dict):
                return None
            found.append(one)
            text = text[end:]
        return found
    return None


@TABLE.text("agent.jsonstream", _STREAM, ' {"a": "\\"}"}\n{"b": [{"c": "\\\\"}, {}]}', '{"a": ', "{} 7", "{{}", "}")
def stream(data: bytes) -> None:
    """What are objects come as such, in whatever pieces; what else comes is refused here or by its decoder."""
    with suppress(UnicodeDecodeError):
        expected = _objects(data.decode())
        for size in (1, 3, 64, max(1, len(data))):
            messages, found = jsonstream.Messages(), []
            try:
                for start in range(0, len(data), size):
                    found += messages.take(data[start : start + size])
            except ValueError:
                assert expected is None
            else:
                assert expected is None or [json.loads(one) for one in found] == expected


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
