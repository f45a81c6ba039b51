"""Pure: a report as a JSON Patch (RFC 6902) on a pod's status subresource that can take nothing from anybody.

Rules
1. Before a value is replaced, its old value is tested; where the test fails the API server answers 422, and the caller
   reads the pod again and decides anew.
2. A member that is absent is tested as null: the API server holds the two for equal. (RFC 6902 says that such a test
   fails, so this is the API server's own; tests on the real one watch over it.)
3. The pod's UID is tested: a new pod of the same name is another pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.model import NETWORK_STATUS, READY, Condition, Pod

_STATUS = "/metadata/annotations/" + NETWORK_STATUS.replace("/", "~1")
_CONDITIONS = "/status/conditions"

Operation = Mapping[str, Any]


def operations(pod: Pod, status: str | None, condition: Condition | None) -> list[Operation]:
    """Return the patch that writes what is not None; `pod` is what was decided upon."""
    patch: list[Operation] = [_operation("test", "/metadata/uid", pod.api_uid)]
    if status is not None:
        patch += _annotation(pod, status)
    if condition is not None:
        patch += _condition(pod, condition)
    return patch


def _annotation(pod: Pod, status: str) -> list[Operation]:
    if not pod.annotated:
        annotations = "/metadata/annotations"
        return [_operation("test", annotations, None), _operation("add", annotations, {NETWORK_STATUS: status})]
    return [_operation("test", _STATUS, pod.network_status), _operation("add", _STATUS, status)]


def _condition(pod: Pod, condition: Condition) -> list[Operation]:
    value = _document(condition)
    for index, item in enumerate(pod.conditions):
        if item.get("type") == READY:
            path = f"{_CONDITIONS}/{index}"
            return [_operation("test", f"{path}/type", READY), _operation("replace", path, value)]
    if not pod.conditions:
        return [_operation("test", _CONDITIONS, None), _operation("add", _CONDITIONS, [value])]
    # the whole list: another writer of ours may have added the condition meanwhile, and it must not be there twice
    return [_operation("test", _CONDITIONS, list(pod.conditions)), _operation("add", f"{_CONDITIONS}/-", value)]


def _document(condition: Condition) -> dict[str, str]:
    return {
        "type": READY,
        "status": "True" if condition.ready else "False",
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.since,
    }


def _operation(verb: str, path: str, value: Any) -> Operation:
    return {"op": verb, "path": path, "value": value}
