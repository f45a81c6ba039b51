"""Pure: the journal's JSON. `decode_x(encode_x(value)) == value`; a document that lacks a key raises KeyError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.model import (
    Asked,
    ContainerID,
    Desired,
    Displaced,
    Hold,
    Key,
    Namespace,
    Origin,
    Phase,
    Pod,
    PodUID,
    Record,
    State,
    Wanted,
)
from cni import multinet

Document = Mapping[str, Any]


def encode_record(record: Record) -> Document:
    return {
        "containerID": record.key.container_id,
        "ifname": record.key.ifname,
        "origin": record.origin.value,
        "phase": record.phase.value,
        "network": record.network,
        "element": record.element,
        "config": record.config,
        "netns": [
            record.namespace.path,
            record.namespace.device,
            record.namespace.inode,
            record.namespace.cookie,
        ],
        "pod": _encode_pod(record.pod) if record.pod else None,
        "args": [list(pair) for pair in record.args],
        "runtime": dict(record.runtime),
        "cniArgs": record.cni_args,
        "deviceID": record.device_id,
        "result": record.result,
        "ifindex": record.ifindex,
        "displaced": [[one.gateway, one.ifname, one.metric] for one in record.displaced],
        "saved": dict(record.saved),
        "guest": dict(record.guest),
        "nadUID": record.nad_uid,
        "nadResourceVersion": record.nad_resource_version,
        "sequence": record.sequence,
    }


def decode_record(document: Document) -> Record:
    return Record(
        key=Key(ContainerID(document["containerID"]), document["ifname"]),
        origin=Origin(document["origin"]),
        phase=Phase(document["phase"]),
        network=document["network"],
        element=document["element"],
        config=document["config"],
        namespace=Namespace(*document["netns"]),
        pod=_decode_pod(document["pod"]) if document["pod"] else None,
        args=tuple((key, value) for key, value in document["args"]),
        runtime=document["runtime"],
        cni_args=document["cniArgs"],
        device_id=document["deviceID"],
        result=document["result"],
        ifindex=document["ifindex"],
        displaced=tuple(Displaced(*one) for one in document["displaced"]),
        saved=document.get("saved") or {},  # absent in records of the first version
        guest=document.get("guest") or {},  # absent in records from before virtual machines
        nad_uid=document["nadUID"],
        nad_resource_version=document["nadResourceVersion"],
        sequence=document["sequence"],
    )


def encode_desired(desired: Desired) -> Document:
    return {
        "pod": _encode_pod(desired.pod),
        "revision": desired.revision,
        "attachments": [_encode_wanted(one) for one in desired.attachments],
        "ended": desired.ended,
        "keep": list(desired.keep),
        "vm": desired.vm,
        "asked": [[one.element, one.network_name] for one in desired.asked],
        "released": list(desired.released),
        "examined": list(desired.examined),
    }


def decode_desired(document: Document) -> Desired:
    return Desired(
        pod=_decode_pod(document["pod"]),
        revision=document["revision"],
        attachments=tuple(_decode_wanted(one) for one in document["attachments"]),
        ended=document["ended"],
        keep=tuple(document["keep"]),
        vm=document.get("vm", ""),  # absent in files from before virtual machines
        asked=tuple(Asked(*one) for one in document["asked"]),
        released=tuple(document["released"]),
        examined=tuple(ContainerID(one) for one in document["examined"]),
    )


def _encode_wanted(wanted: Wanted) -> Document:
    hold = wanted.hold
    return {
        "element": multinet.to_json(wanted.selection),
        "config": wanted.config,
        "nadUID": wanted.nad_uid,
        "nadResourceVersion": wanted.nad_resource_version,
        "hold": [hold.state.value, hold.reason, hold.message] if hold else None,
    }


def _decode_wanted(document: Document) -> Wanted:
    hold = document["hold"]
    return Wanted(
        selection=multinet.from_json(document["element"]),
        config=document["config"],
        nad_uid=document["nadUID"],
        nad_resource_version=document["nadResourceVersion"],
        hold=Hold(State(hold[0]), hold[1], hold[2]) if hold else None,
    )


def _encode_pod(pod: Pod) -> Document:
    return {"uid": pod.uid, "namespace": pod.namespace, "name": pod.name}


def _decode_pod(document: Document) -> Pod:
    return Pod(PodUID(document["uid"]), document["namespace"], document["name"])
