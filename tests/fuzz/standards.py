"""Targets: what the CNI and NPWG specifications have others write (package cni)."""

import json
import os
import socket
from contextlib import suppress

from agent import calls, cni_connection, primary
from agent.calls import Answer
from cni import errors, fields, jsontext, multinet, names, request, result, selection, status, version, wire
from tests.fuzz.target import TABLE, as_text, of_code, sendable

ELEMENT = {
    "name": "blue",
    "namespace": "ns",
    "interface": "net1",
    "ips": ["10.0.0.5/24", "fd00::5"],
    "mac": "02:00:00:00:00:01",
    "cni-args": {"a": {"b": [1]}},
    "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "::1"}],
    "bandwidth": {"ingressRate": 8, "ingressBurst": 80},
    "default-route": ["10.0.0.1", "fd00::1"],
    "deviceID": "0000:3b:00.1",
    "infiniband-guid": "c2:11:22:33:44:55:66:77",
}
RESULT = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "br0", "mac": "02:00:00:00:00:02", "mtu": 1500},
        {"name": "net1", "sandbox": "/run/netns/a"},
    ],
    "ips": [
        {"interface": 1, "address": "10.0.0.5/24", "gateway": "10.0.0.1"},
        {"address": "fd00::5/64", "version": "6"},
    ],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400, "table": 0, "scope": 0, "priority": 5, "advmss": 1}],
    "dns": {"nameservers": ["10.0.0.2"], "domain": "a", "search": ["b"], "options": ["c"]},
}
OLD_RESULT = {
    "cniVersion": "0.2.0",
    "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
}
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/a",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin:/x",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=a;=;b",
    "CNI_NETNS_OVERRIDE": "true",
}
CONFIG = {
    "cniVersion": "1.1.0",
    "name": "blue",
    "type": "hotnic",
    "device": "bridge",
    "prevResult": RESULT,
    "runtimeConfig": {"mac": "02:00:00:00:00:01"},
    "capabilities": {"mac": True},
    "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}],
}


@TABLE.text(
    "cni.annotation",
    json.dumps([ELEMENT, {"name": "red", "default-route": None}]),
    '[{"name": "a"}, {"name": "a", "interfaceRequest": "x"}, 5]',
    "blue, ns/red@net1 , a/b/c@",
    "a@b@c,,",
)
def annotation(data: bytes) -> None:
    text = as_text(data)
    try:
        elements = multinet.parse(text, "ns")
    except multinet.AnnotationError as problem:
        _malformed(problem, text)
        return
    interfaces = [one.interface for one in elements if isinstance(one, multinet.Selection) and one.interface]
    assert len(set(interfaces)) == len(interfaces)
    for position, one in enumerate(elements):
        if isinstance(one, multinet.Invalid):
            assert one.position == position
            sendable([one.network, one.interface, one.reason])
        else:
            _selection(one)


def _malformed(problem: multinet.AnnotationError, text: str) -> None:
    assert 0 <= problem.position <= len(text)
    assert problem.line >= 1
    assert problem.column >= 1
    sendable([str(problem), problem.reason])


def _selection(one: selection.Selection) -> None:
    text = multinet.to_json(one)
    assert multinet.to_json(multinet.from_json(text)) == text
    assert names.is_object_name(one.name)
    assert names.is_label(one.namespace)
    assert not one.interface or not names.ifname_fault(one.interface)
    sendable(multinet.capability_args(one))


@TABLE.text(
    "cni.selection_of_the_wire",
    multinet.to_json(multinet.parse(json.dumps([ELEMENT]), "ns")[0]),
    '{"name": "a", "namespace": "b"}',
)
def selection_of_the_wire(data: bytes) -> None:
    with suppress(ValueError):
        _selection(multinet.from_json(as_text(data)))


@TABLE.json(
    "cni.network_status",
    [
        json.dumps([{"name": "ns/blue", "interface": "net1", "ips": ["10.0.0.5"], "dns": {}, "foreign": {"a": 1}}]),
        RESULT,
        ["net2"],
    ],
    [
        json.dumps([{"name": "x", "default": True, "interface": "eth0"}, 5, None, {"interface": "net2"}]),
        OLD_RESULT,
        ["net2", "eth0"],
    ],
    [None, RESULT, []],
)
def network_status(document: object) -> None:
    match document:
        case [str() | None as current, dict() as said, list() as released]:
            pass
        case _:
            return
    before = status.entries(current)
    status.by_interface(current)
    try:
        ours = [status.entry("ns/blue", "net1", result.decode(said))]
    except errors.CNIError:
        ours = []
    try:
        text = status.merge(current, ours, {one for one in released if isinstance(one, str)})
    except ValueError:
        return
    after = status.entries(text)
    sendable(after)
    foreign = [one for one in before if not isinstance(one, dict) or one.get("default") is True]
    assert json.dumps([one for one in after if not isinstance(one, dict) or one.get("default") is True]) == json.dumps(
        foreign
    )
    assert all(name in status.by_interface(text) for name in [one["interface"] for one in ours])
    assert status.merge(text, ours, ()) == text


@TABLE.json(
    "cni.request",
    {"env": ENVIRONMENT, "stdin": CONFIG},
    {"env": {**ENVIRONMENT, "CNI_COMMAND": "GC"}, "stdin": CONFIG},
    {
        "env": {"CNI_COMMAND": "STATUS", "CNI_PATH": "/x"},
        "stdin": {"cniVersion": "1.1.0", "name": "blue", "device": "none"},
    },
    {"env": {"CNI_COMMAND": "VERSION"}, "stdin": "{"},
)
def cni_request(document: object) -> None:
    match document:
        case {"env": dict() as env, "stdin": stdin}:
            pass
        case _:
            return
    environ = {name: value for name, value in env.items() if isinstance(value, str)}
    raw = stdin.encode() if isinstance(stdin, str) else json.dumps(stdin).encode()
    _request(environ, raw)


@TABLE.text("cni.stdin", json.dumps(CONFIG), "null", "{}", '{"name": "a", "cniVersion": "0.3.0"}')
def stdin(data: bytes) -> None:
    for command in ("ADD", "DEL", "GC"):
        _request({**ENVIRONMENT, "CNI_COMMAND": command}, data)


def _request(environ: dict[str, str], raw: bytes) -> None:
    assert calls._version(raw) in version.SUPPORTED
    try:
        call = request.parse(environ, raw)
    except errors.CNIError as problem:
        json.dumps(problem.document("1.1.0"))
        return
    assert names.is_cni_name(call.config.name)
    for reads in (lambda: request.valid_attachments(call.config), lambda: primary.options(call.config.raw)):
        with suppress(errors.CNIError):
            reads()
    primary.is_meant(call.config.raw)
    primary.awaited(call.config.raw, call.args)


@TABLE.bytes(
    "cni.wire",
    wire.encode_request({b"CNI_COMMAND": b"ADD", b"A": b"\xff"}, b"{}"),
    wire.encode_request({}, b""),
    b"\1\0\0\0\0\0\0\0x",
)
def framing(data: bytes) -> None:
    """As the agent's door reads it, and as a tombstone is read."""
    heard: list[tuple[dict[str, str], bytes]] = []

    def handle(environ: dict[str, str], raw: bytes, netns: int | None) -> Answer:
        heard.append((environ, raw))
        return Answer(0, raw[:10])

    ours, its = socket.socketpair()
    with ours:
        ours.sendall(data[:65536])
        ours.shutdown(socket.SHUT_WR)
        cni_connection.serve(its, handle)
    try:
        environ, raw = wire.decode_request(data)
    except wire.WireError:
        return
    again = wire.encode_request({os.fsencode(name): os.fsencode(value) for name, value in environ.items()}, raw)
    assert wire.decode_request(again) == (environ, raw)
    assert os.geteuid() != 0 or len(data) > 65536 or heard == [(environ, raw)]
    _request(environ, raw)


@TABLE.json("cni.result", RESULT, OLD_RESULT, {"code": 11, "msg": "a", "details": "b", "cniVersion": "1.0.0"})
def results(document: object) -> None:
    if not isinstance(document, dict):
        return
    json.dumps(errors.CNIError.from_document(document).document("1.1.0"))
    try:
        found = result.decode(document)
    except errors.CNIError as problem:
        of_code(problem, errors.Code.DECODE_FAILURE)
        return
    for spoken in version.SUPPORTED:
        written = result.encode(found, spoken)
        assert result.encode(result.decode(written), spoken) == written
    assert result.decode(result.encode(found, "1.1.0")) == found
    sendable(status.entry("ns/blue", "net1", found))


@TABLE.text("cni.json", json.dumps({"a": [1, -1.5e3, "é\\ud800", None, True]}), "[[[1e999]]]", '{"a":1,"a":2}')
def json_text(data: bytes) -> None:
    try:
        value = jsontext.loads(as_text(data))
    except ValueError:
        return
    text = jsontext.dumps(value)
    text.encode()
    assert jsontext.dumps(jsontext.loads(text)) == text
    fields.shorten(value)
