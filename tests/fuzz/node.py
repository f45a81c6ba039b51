"""Targets: what the agent reads of plugins, runtimes, the kernel, the controller and its own disk."""

import errno
import json
import struct
from contextlib import suppress
from pathlib import Path

from agent import (
    cache,
    codec,
    confdir,
    cri,
    delegate,
    formats,
    grpc_server,
    links,
    network,
    rtnl,
    underlay,
)
from agent.api import agent_pb2, cri_pb2
from agent.model import ContainerID, Key
from cni import errors, result
from tests.fuzz.configurations import LIST
from tests.fuzz.standards import CONFIG, ELEMENT, RESULT
from tests.fuzz.target import TABLE, as_text, sendable

KEY = Key(ContainerID("c1"), "net1")


class _Told(delegate.Executor):
    """One whose plugin has said this."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self._said = status, delegate._Output(bytearray(stdout), bytearray(stderr), has_exited=True)

    def run(self, *_: object) -> bytes:
        return delegate._verdict("x", *self._said)


@TABLE.text(
    "agent.delegate", json.dumps(RESULT), '{"code": 7, "msg": "m", "details": "d"}', "", "null", "[]", "\x00Error: no"
)
def plugin(data: bytes) -> None:
    for status in (0, 1, -9, -200):
        try:
            said = _Told(status, data, data[::-1])("x", "ADD", {}, {}, 1.0)
            if said is not None:
                result.decode(said)
        except errors.CNIError as problem:
            sendable(problem.document("1.1.0"))


class _Stub:
    """A container runtime that has said this."""

    def __init__(self, **answers: object) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> object:
        return lambda request, timeout: self._answers[name]


RUNTIME = cri.Runtime("unix:///dev/null")
INFO = {
    "pid": 5,
    "runtimeSpec": {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}]}},
    "netNamespaceClosed": False,
}


@TABLE.text(
    "agent.cri.info",
    json.dumps(INFO),
    json.dumps({"pid": 1, "sandboxMetadata": {"Metadata": {"NetNSPath": "/run/netns/b"}}}),
    "{}",
)
def info(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    said = {"info": text}
    RUNTIME._stub = _Stub(
        PodSandboxStatus=cri_pb2.PodSandboxStatusResponse(info=said),
        ContainerStatus=cri_pb2.ContainerStatusResponse(info=said),
    )
    with suppress(cri.RuntimeUnavailable):
        path = RUNTIME.netns("s")
        assert "\0" not in path
        path.encode()
    with suppress(cri.RuntimeUnavailable):
        assert 0 <= RUNTIME.process("c") < 1 << 32


@TABLE.bytes(
    "agent.cri.messages",
    cri_pb2.ListPodSandboxResponse(
        items=[
            cri_pb2.PodSandbox(
                id="a", metadata=cri_pb2.PodSandboxMetadata(uid="u", name="n", namespace="s", attempt=1), created_at=5
            )
        ]
    ).SerializeToString(),
    cri_pb2.ListContainersResponse(
        containers=[cri_pb2.Container(id="a", metadata=cri_pb2.ContainerMetadata(name="m"))]
    ).SerializeToString(),
)
def messages(data: bytes) -> None:
    try:
        sandboxes = cri_pb2.ListPodSandboxResponse.FromString(data)
        containers = cri_pb2.ListContainersResponse.FromString(data)
    except Exception:  # noqa: BLE001 grpc's to refuse
        return
    RUNTIME._stub = _Stub(ListPodSandbox=sandboxes, ListContainers=containers)
    found = RUNTIME.sandboxes()
    assert cri.current(found, "u") is None or cri.current(found, "u") in found
    RUNTIME.containers("a")


CACHED = {
    "kind": "cniCacheV1",
    "containerId": "c1",
    "networkName": "blue",
    "ifName": "net1",
    "netns": "/x",
    "config": "e30=",
    "cniArgs": [["IgnoreUnknown", "1"]],
    "capabilityArgs": {"mac": "x"},
    "result": RESULT,
}


@TABLE.json("agent.cache", CACHED, {**CACHED, "cniArgs": None, "result": None})
def cached(document: object) -> None:
    with suppress(ValueError, KeyError, TypeError):
        found = cache._decode(document, Path("x"))  # type: ignore[arg-type]
        sendable([found.network, found.ifname, found.config_text, found.cni_args, found.capability_args, found.result])
        network.name(found.config_text, "blue")


@TABLE.text("agent.confdir", json.dumps(LIST), "[]")
def conf(data: bytes) -> None:
    confdir._name(as_text(data), Path("x"))


RECORD = {
    "containerID": "c1",
    "ifname": "net1",
    "origin": "annotation",
    "phase": "attached",
    "network": "ns/blue",
    "element": json.dumps(ELEMENT),
    "config": json.dumps(CONFIG),
    "netns": ["/run/netns/a", 4, 5, 6, "boot"],
    "pod": {"uid": "u", "namespace": "ns", "name": "p"},
    "args": [["K8S_POD_NAME", "p"]],
    "runtime": {"mac": "x"},
    "cniArgs": {"a": 1},
    "deviceID": "",
    "result": RESULT,
    "ifindex": 7,
    "displaced": [["10.0.0.1", "eth0", 100], ["::1", "eth0", None]],
    "saved": {"claims": ["a"]},
    "guest": {"id": "x"},
    "nadUID": "n",
    "nadResourceVersion": "1",
    "sequence": 3,
}
DESIRED = {
    "pod": RECORD["pod"],
    "revision": "r",
    "ended": False,
    "keep": ["net5"],
    "vm": "{}",
    "asked": [["{}", "blue"]],
    "released": ["net9 x"],
    "examined": ["c1"],
    "attachments": [
        {
            "element": json.dumps({"name": "a", "namespace": "b"}),
            "config": "{}",
            "nadUID": "",
            "nadResourceVersion": "",
            "hold": ["Pending", "r", "m"],
        }
    ],
}


@TABLE.json("agent.journal.record", RECORD, {**RECORD, "pod": None, "cniArgs": None, "result": None, "netns": ["/x"]})
def record(document: object) -> None:
    with suppress(ValueError, KeyError, TypeError):
        older = formats.present(formats.RECORDS, document) if isinstance(document, dict) else document
        found = codec.decode_record(older)  # type: ignore[arg-type]
        hash(found.key)
        assert codec.decode_record(json.loads(json.dumps(codec.encode_record(found)))) == found
        _of_their_types(found)


def _of_their_types(found: codec.Record) -> None:
    assert isinstance(found.sequence, int)
    assert isinstance(found.ifindex, int)
    whole = (found.namespace.device, found.namespace.inode, found.namespace.cookie)
    assert all(isinstance(one, int) and not isinstance(one, bool) for one in whole)
    texts = (
        *found.key,
        found.network,
        found.element,
        found.config,
        found.namespace.path,
        found.device_id,
        found.nad_uid,
    )
    assert all(isinstance(one, str) for one in texts)
    assert all(isinstance(one, dict) for one in (found.runtime, found.saved, found.guest))
    assert all(isinstance(one, str) for pair in found.args for one in pair)


@TABLE.json("agent.journal.desired", DESIRED, {**DESIRED, "attachments": []})
def desired(document: object) -> None:
    with suppress(ValueError, KeyError, TypeError):
        older = formats.present(formats.DESIRED, document) if isinstance(document, dict) else document
        found = codec.decode_desired(older)  # type: ignore[arg-type]
        hash(found.pod)
        assert codec.decode_desired(json.loads(json.dumps(codec.encode_desired(found)))) == found
        texts = (found.revision, found.vm, *found.keep, *found.released, *found.examined, found.pod.uid, found.pod.name)
        assert all(isinstance(one, str) for one in texts)


@TABLE.json(
    "agent.underlay",
    {"format": 1, "address": "10.0.0.1", "peers": {"n2": "10.0.0.2"}},
    {"format": 1, "address": "fd00::1", "peers": {}},
)
def told(document: object) -> None:
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        found = underlay.decode(document)  # type: ignore[arg-type]
        assert underlay.decode(underlay.encode(found)) == found


@TABLE.bytes(
    "agent.api",
    agent_pb2.ApplyRequest(
        pod=agent_pb2.Pod(uid="u", namespace="s", name="n"),
        revision="r",
        keep=["a"],
        vm="{}",
        attachments=[
            agent_pb2.Attachment(
                element='{"name":"a","namespace":"b"}',
                config="{}",
                hold=agent_pb2.Hold(state=agent_pb2.PENDING, reason="r"),
            )
        ],
    ).SerializeToString(),
)
def apply_request(data: bytes) -> None:
    try:
        said = agent_pb2.ApplyRequest.FromString(data)
    except Exception:  # noqa: BLE001 grpc's to refuse
        return
    with suppress(ValueError):
        wish = grpc_server._desired(said)
        assert codec.decode_desired(json.loads(json.dumps(codec.encode_desired(wish)))) == wish


class _Kernel:
    """A netlink socket on which this is heard, once."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def settimeout(self, _: float) -> None: ...

    def setsockopt(self, *_: int) -> None: ...

    def send(self, _: bytes) -> None: ...

    def recv(self, _: int) -> bytes:
        data, self._data = self._data, b""
        if not data:
            raise TimeoutError
        return data


def _message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


_LINK = (
    struct.pack("=BxHiII", 0, 1, 5, 1, 0)
    + _attribute(3, b"net1\0")
    + _attribute(18, _attribute(1, b"veth\0") + _attribute(2, b""))
    + _attribute(37, b"\1\0\0\0")
)
_ADDRESS = struct.pack("=BBBBI", 2, 24, 0, 0, 5) + _attribute(1, b"\x0a\0\0\1") + _attribute(2, b"\x0a\0\0\1")
_ROUTE = (
    struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + _attribute(5, b"\x0a\0\0\1") + _attribute(4, b"\5\0\0\0")
)
_REFUSED = struct.pack("=i", -errno.EEXIST) + bytes(16) + _attribute(1, b"no\0")


@TABLE.bytes(
    "agent.netlink",
    _message(rtnl.NEWLINK, _LINK, rtnl.MULTI) + _message(3, struct.pack("=i", 0), rtnl.MULTI),
    _message(rtnl.NEWADDR, _ADDRESS, rtnl.MULTI) + _message(3, struct.pack("=i", 0), rtnl.MULTI),
    _message(rtnl.NEWROUTE, _ROUTE, rtnl.MULTI) + _message(3, bytes(4)),
    _message(2, _REFUSED, rtnl.ACK_TLVS),
)
def netlink(data: bytes) -> None:
    for ask in (
        lambda one: one.get(rtnl.GETLINK, {}, []),
        lambda one: one.dump(rtnl.GETLINK, {}, []),
        lambda one: one.do(rtnl.NEWLINK, {}, []),
        lambda one: [links.attributes(body, 4) for body in one.exchange(rtnl.GETVLAN, b"")],
    ):
        with suppress(rtnl.KernelError):
            ask(rtnl.Socket(_Kernel(data)))  # type: ignore[arg-type]
    links.number(data, 5)
