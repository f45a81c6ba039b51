"""Pure: the journal's JSON. `decode_x(encode_x(value)) == value`.

Documents are of the current format (agent.formats). One that lacks a key raises KeyError, one with a value of another
type TypeError or ValueError: what is believed of the disk is acted upon as root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

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
T = TypeVar("T")

_NAMESPACE = {"path": str, "device": int, "inode": int, "cookie": int, "boot": str}


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
            record.namespace.boot,
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
        key=Key(ContainerID(_value(document, "containerID", str)), _value(document, "ifname", str)),
        origin=Origin(document["origin"]),
        phase=Phase(document["phase"]),
        network=_value(document, "network", str),
        element=_value(document, "element", str),
        config=_value(document, "config", str),
        namespace=_decode_namespace(document),
        pod=_decode_pod(document) if document["pod"] else None,
        args=tuple((key, value) for key, value in _rows(document, "args", str, str)),
        runtime=_value(document, "runtime", dict),
        cni_args=_optional(document, "cniArgs"),
        device_id=_value(document, "deviceID", str),
        result=_optional(document, "result"),
        ifindex=_value(document, "ifindex", int),
        displaced=tuple(Displaced(*one) for one in _rows(document, "displaced", str, str, int | None)),
        saved=_value(document, "saved", dict),
        guest=_texts(_value(document, "guest", dict)),
        nad_uid=_value(document, "nadUID", str),
        nad_resource_version=_value(document, "nadResourceVersion", str),
        sequence=_value(document, "sequence", int),
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
        pod=_decode_pod(document),
        revision=_value(document, "revision", str),
        attachments=tuple(map(_decode_wanted, _list(document, "attachments", dict))),
        ended=_value(document, "ended", bool),
        keep=_list(document, "keep", str),
        vm=_value(document, "vm", str),
        asked=tuple(Asked(*one) for one in _rows(document, "asked", str, str)),
        released=_list(document, "released", str),
        examined=tuple(map(ContainerID, _list(document, "examined", str))),
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
    return Wanted(
        selection=multinet.from_json(_value(document, "element", str)),
        config=_value(document, "config", str),
        nad_uid=_value(document, "nadUID", str),
        nad_resource_version=_value(document, "nadResourceVersion", str),
        hold=_decode_hold(document) if document["hold"] else None,
    )


def _decode_hold(document: Document) -> Hold:
    ((state, reason, message),) = _rows({"hold": [document["hold"]]}, "hold", str, str, str)
    return Hold(State(state), reason, message)


def _encode_pod(pod: Pod) -> Document:
    return {"uid": pod.uid, "namespace": pod.namespace, "name": pod.name}


def _decode_pod(document: Document) -> Pod:
    pod = _value(document, "pod", dict)
    return Pod(PodUID(_value(pod, "uid", str)), _value(pod, "namespace", str), _value(pod, "name", str))


def _decode_namespace(document: Document) -> Namespace:
    found = dict(zip(_NAMESPACE, _list(document, "netns", object), strict=True))
    return Namespace(**{name: _value(found, name, kind) for name, kind in _NAMESPACE.items()})


def _texts(values: Document) -> Mapping[str, str]:
    return {name: _value(values, name, str) for name in values}


def _value(document: Document, key: str, kind: type[T]) -> T:
    value = document[key]
    if not _is_a(value, kind):
        raise TypeError(f"{key} is a {type(value).__name__}")
    return value  # type: ignore[no-any-return]  # as was just seen


def _optional(document: Document, key: str) -> Any:
    """Return an object, or None."""
    value = document[key]
    return None if value is None else _value({key: value}, key, dict)


def _list(document: Document, key: str, kind: type[T]) -> tuple[T, ...]:
    return tuple(_value({key: one}, key, kind) for one in _value(document, key, list))


def _rows(document: Document, key: str, *kinds: Any) -> tuple[Sequence[Any], ...]:
    """Return lists that have as many values as there are kinds, each of its kind."""
    rows = _list(document, key, list)
    for row in rows:
        if len(row) != len(kinds) or not all(map(_is_a, row, kinds)):
            raise TypeError(f"{key} has {row!r}")
    return rows


def _is_a(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or kind is object or not isinstance(value, bool))
