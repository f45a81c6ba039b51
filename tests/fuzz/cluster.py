"""Targets: what the controller reads, objects of the API server with what users wrote into them; a switch's answers.

The API server and the schemas of its kinds see to the types of values (`conformed`), users to all else.
"""

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ovs.jsonrpc import Message

from agent import network, ovsdb
from agent.switch import AddPort, SwitchPort
from cni import errors
from controller import (
    desired,
    kubevirt,
    model,
    nodes,
    policy,
    relay_patch,
    relay_plan,
    relay_status,
    report,
    vm_objects,
    watch,
)
from controller.model import Outcome, Progress, State
from tests.controller import build, machines
from tests.fuzz.standards import ELEMENT, RESULT
from tests.fuzz.target import TABLE, as_text, sendable

_REQUIRED = ("name", "uid", "kind", "type", "resourceVersion")


def conformed(value: Any, shape: Any) -> Any:
    """Return the value as far as it is of the types of `shape`, as a schema lets it pass; else the shape itself."""
    match shape:
        case dict():
            found = value if isinstance(value, dict) else {}
            required = {key: shape[key] for key in _REQUIRED if key in shape}
            return {
                **required,
                **found,
                **{key: conformed(found[key], below) for key, below in shape.items() if key in found},
            }
        case [dict(), *_]:
            either = {key: below for one in shape for key, below in one.items()}
            return [conformed(one, either) for one in value if isinstance(one, dict)] if isinstance(value, list) else []
        case list():
            return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
    return value if type(value) is type(shape) else shape


POD = build.document(
    networks=json.dumps([ELEMENT]),
    status=build.entries("net1"),
    conditions=[build.ready("False", "X", "m")],
    labels={"kubevirt.io": "x"},
    owners=[{"kind": "Node", "name": "n", "uid": "u", "controller": True}],
    annotations={
        "hotnic.dev/vm": "{}",
        "kubernetes.io/config.mirror": "m",
        "kubernetes.io/config.hash": "m",
        "kubernetes.io/config.source": "file",
    },
)
TOLD = [
    {
        "position": 0,
        "state": "Attached",
        "network": "ns/blue",
        "interface": "net1",
        "result": json.dumps(RESULT),
        "reason": "",
        "message": "",
        "attempts": 1,
    },
    {
        "position": -1,
        "state": "Detaching",
        "network": "ns/red",
        "interface": "net2",
        "result": "",
        "reason": "r",
        "message": "m",
        "attempts": 3,
    },
]


@TABLE.json(
    "controller.pod",
    {"pod": POD, "told": TOLD, "released": ["net1 ns/blue"]},
    {"pod": build.document(networks="blue,red@net2", status="[]", phase="Succeeded"), "told": [], "released": []},
    {"pod": {**POD, "spec": {"nodeName": "n", "hostNetwork": True}}, "told": TOLD[:1], "released": []},
)
def pod(document: object) -> None:
    said = {"pod": {}, "told": [], "released": [], **conformed(document, {"pod": POD, "told": TOLD, "released": [""]})}
    here = model.pod_from({**POD, **said["pod"], "metadata": {**POD["metadata"], **said["pod"].get("metadata", {})}})
    wish = desired.desired(
        here, lambda name: build.network() if name.endswith("blue") else None, policy.Policy(isolated=True)
    )
    here.has_interfaces()
    here.says_the_same(here)
    attachments = tuple(_progress(one) for one in said["told"])
    outcome = Outcome(here.ref, getattr(wish, "revision", ""), True, attachments, tuple(said["released"]))
    for answer in (outcome, None):
        told = report.report(here, wish, answer, "2026-01-01T00:00:00Z")
        sendable([told.status, told.condition and told.condition.message, [one.message for one in told.events]])
        assert all(len(one.message.encode()) <= report.EVENT_BYTES for one in told.events)


def _progress(one: dict[str, Any]) -> Progress:
    whole = {**TOLD[1], **one}
    states = [state for state in State if state.value == whole["state"]] or [State.PENDING]
    parts = (whole[key] for key in ("network", "interface", "result", "reason", "message", "attempts"))
    return Progress(whole["position"], states[0], *parts)


NAD = {
    "metadata": {"name": "blue", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
    "spec": {"config": '{"type": "hotnic"}'},
}


@TABLE.json("controller.network", NAD, {**NAD, "spec": {"config": {"type": "x"}}}, {**NAD, "spec": [1]})
def definition(document: object) -> None:
    """Where the kind has no schema, `spec` is anything."""
    if not isinstance(document, dict):
        return
    found = model.network_from({"metadata": NAD["metadata"], "spec": document.get("spec")})
    with suppress(errors.CNIError):
        network.parse(found.config, found.name)


MACHINE = machines.document(
    json.dumps([ELEMENT, {"name": "red", "hotnic.dev/model": "e1000", "hotnic.dev/binding": "bridge"}]),
    machines.lists(machines.plugged("net1", tag="t", state="absent")),
    managed="net1,blue-1",
    status=build.entries("net1"),
    conditions=[machines.condition("Failure", reason="HotPlugNetworkInterfaceError", message="m")],
    deleting=True,
    annotations={"hotnic.dev/networks-ready": "True", "hotnic.dev/networks-ready-reason": "r"},
)
INSTANCE = machines.instance_document(
    machines.lists(machines.plugged("net1")),
    machines.link("net1", "domain, guest-agent", ipAddresses=["10.0.0.1"], interfaceName="eth1"),
    conditions=[machines.condition("Synchronized", "False", message="m")],
    migration={"startTimestamp": "x", "completed": True},
    annotations={machines.WISH: "x"},
)


@TABLE.json(
    "controller.machine",
    {"vm": MACHINE, "vmi": INSTANCE},
    {"vm": machines.document("blue,red"), "vmi": machines.instance_document()},
)
def machine(document: object) -> None:
    said = conformed(document, {"vm": MACHINE, "vmi": INSTANCE})
    seen = vm_objects.machine_from(_with_metadata(said.get("vm", {}), MACHINE))
    there = vm_objects.instance_from(_with_metadata(said.get("vmi", {}), INSTANCE))
    for instance in (there, None):
        world = machines.world(instance)
        for alone in (True, False):
            plan = relay_plan.plan(seen, world, {}, alone=alone)
            told = relay_status.report(seen, plan, world)
            sendable(relay_patch.operations(seen, plan.devices, told.annotations))
            sendable([one.message for one in told.events])


def _with_metadata(document: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    return {**document, "metadata": {**shape["metadata"], **document.get("metadata", {})}}


def _object(name: str, shape: dict[str, Any], read: Callable[[Any], object]) -> None:
    TABLE.json(name, shape)(lambda document: read(_with_metadata(conformed(document, shape), shape)))


_object(
    "controller.migration",
    {"metadata": NAD["metadata"], "spec": {"vmiName": "v"}, "status": {"phase": "Running"}},
    lambda document: vm_objects.migration_from(document).is_under_way,
)
_object(
    "controller.kubevirt",
    {
        "metadata": NAD["metadata"],
        "status": {"observedKubeVirtVersion": "v1.7.0"},
        "spec": {
            "configuration": {
                "vmRolloutStrategy": "LiveUpdate",
                "developerConfiguration": {"featureGates": ["LiveUpdateNADRef"]},
                "network": {"defaultNetworkInterface": "bridge"},
            },
            "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]},
        },
    },
    vm_objects.kubevirt_from,
)
_object(
    "controller.node",
    {"metadata": NAD["metadata"], "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}},
    lambda document: nodes.underlay("blue", [nodes.node_from(document), nodes.Node("b", "1", ("10.0.0.2", "fd00::1"))]),
)
_object(
    "controller.lease",
    {
        "metadata": NAD["metadata"],
        "spec": {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "acquireTime": "x",
            "renewTime": "y",
            "leaseTransitions": 1,
        },
    },
    kubevirt._record,
)

EVENT = {"type": "MODIFIED", "object": NAD}


@TABLE.text(
    "controller.watch",
    json.dumps(EVENT)
    + "\n"
    + json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}})
    + "\n",
    json.dumps({"type": "ERROR", "object": {"code": 410, "message": "old"}}) + "\n",
    json.dumps({"type": "ERROR", "object": {"code": 500}}),
)
def stream(data: bytes) -> None:
    for size in (7, 4096):
        with suppress(watch.Broken, watch.Expired):
            for change in watch.changes(data[at : at + size] for at in range(0, len(data), size)):
                assert isinstance(change.verb, watch.Verb)
    with suppress(watch.Broken, watch.Expired):
        watch.process_line(data)
    with suppress(ValueError):
        watch.document(data)


@TABLE.bytes(
    "controller.policy",
    "namespaceIsolation: true\nglobalNamespaces: [a, b]\n",
    "globalNamespaces: a,b\n",
    words=[b"rules: ", b": ", b"!!int ", b"!!timestamp ", b"2001-99-99", b"[", b"{", b"<<: ", b"&a ", b"*a"],
)
def policy_file(data: bytes) -> None:
    with suppress(policy.PolicyError):
        policy.parse(as_text(data))


class _Switch:
    """A connection to a database that has said this."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = list(answers)

    def send(self, request: Any) -> None:
        self._id = request.id

    def run(self) -> None: ...

    def close(self) -> None: ...

    def recv(self) -> tuple[int, Any]:
        if not self._answers:
            return errno.EPIPE, None
        said = self._answers.pop(0)
        whole = isinstance(said, dict) and said.keys() & {"method", "error"}
        message = Message.from_json(
            {"id": self._id, "error": None, "result": said} if not whole else {"id": self._id, **said}
        )
        return (0, message) if isinstance(message, Message) else (errno.EPROTO, None)


ROWS = [
    {"rows": [{"_uuid": ["uuid", "b"]}]},
    {
        "rows": [
            {
                "_uuid": ["uuid", "p"],
                "tag": 5,
                "trunks": ["set", [7, 8]],
                "vlan_mode": ["set", []],
                "external_ids": ["map", [["hotnic", "o"]]],
            }
        ]
    },
    {"rows": [{"ofport": 3, "error": ["set", []]}]},
]
PORT = SwitchPort("/x", "br0", "hn1")


@TABLE.json(
    "agent.ovsdb",
    [ROWS, [{"rows": [{"name": "br0"}]}]],
    [[{"rows": []}], [{"rows": []}, {}, {}, {"count": 1}, {}]],
    [[{"rows": [{"ofport": -1, "error": "no"}]}]],
    [{"method": "echo", "params": [], "id": 0}, [{"rows": [{"next_cfg": 5, "cur_cfg": 5}]}]],
    [{"error": "x", "result": None}, [{"error": "constraint violation", "details": "d"}]],
)
def switch(document: object) -> None:
    if not isinstance(document, list):
        return
    add = AddPort("/x", "br0", "hn1", "o", "access", 5)
    for act in (
        lambda one: one.port(PORT),
        lambda one: one.set(add),
        lambda one: one.remove(one.stale()),
        lambda one: one.refused("hn1"),
        lambda one: one.wait_until_taken(),
        lambda one: ovsdb.link_ports(str, "/x"),
    ):
        ovsdb._connect = lambda path, end: _Switch(document)  # type: ignore[assignment]
        with suppress(errors.CNIError, ovsdb.Unreachable), ovsdb._Database("/x") as database:
            database._end = 0.0
            act(database)
