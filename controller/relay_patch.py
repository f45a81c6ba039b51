"""Pure: what is to be written to a VirtualMachine, as one JSON Patch (RFC 6902) that can take nothing from anybody.

Rules
1. Spec and annotations go in one patch: whoever dies in between leaves nothing half done.
2. What was decided upon is tested: the UID, the networks annotation, the old lists and every value that is replaced.
   Where a test fails the API server answers 422, and the caller reads the VM again and decides anew. So a patch that
   was decided by a leader of the past can only do what the present one would do.
3. A list that is absent cannot be tested; then the resource version is.
4. A member that is absent is tested as null, as in controller.patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.model import NETWORKS
from controller.vms import Devices, Machine, Raw

Operation = Mapping[str, Any]

_TEMPLATE = "/spec/template/spec"
_ANNOTATIONS = "/metadata/annotations"


def operations(machine: Machine, devices: Devices, annotations: Mapping[str, str | None]) -> list[Operation]:
    """Return the patch that makes the VM's lists `devices` and its annotations as named; None removes one.

    Empty where all is so already.
    """
    new = {key: text for key, text in annotations.items() if text != machine.annotations.get(key)}
    spec = _spec(machine, devices) if devices != machine.devices else []
    if not new and not spec:
        return []
    return [_test("/metadata/uid", machine.uid), *_tested_wish(machine), *spec, *_annotated(machine, new)]


def _tested_wish(machine: Machine) -> list[Operation]:
    return [_test(_path(NETWORKS), machine.annotations.get(NETWORKS))] if machine.annotated else []


def _spec(machine: Machine, devices: Devices) -> list[Operation]:
    networks = _list(machine, f"{_TEMPLATE}/networks", machine.devices.networks, devices.networks)
    if not machine.has_device_map:
        value = {"interfaces": list(devices.interfaces or ())}
        return [*networks, *_guard(machine), _add(f"{_TEMPLATE}/domain/devices", value)]
    path = f"{_TEMPLATE}/domain/devices/interfaces"
    return [*networks, *_list(machine, path, machine.devices.interfaces, devices.interfaces)]


def _list(machine: Machine, path: str, old: tuple[Raw, ...] | None, new: tuple[Raw, ...] | None) -> list[Operation]:
    if old is None:
        return [*_guard(machine), _add(path, list(new or ()))]
    return [_test(path, list(old)), _add(path, list(new or ()))]


def _guard(machine: Machine) -> list[Operation]:
    return [_test("/metadata/resourceVersion", machine.resource_version)]


def _annotated(machine: Machine, new: Mapping[str, str | None]) -> list[Operation]:
    if not machine.annotated:
        return [_test(_ANNOTATIONS, None), _add(_ANNOTATIONS, dict(new))] if new else []
    patch: list[Operation] = []
    for key, text in new.items():
        patch.append(_test(_path(key), machine.annotations.get(key)))
        patch.append({"op": "remove", "path": _path(key)} if text is None else _add(_path(key), text))
    return patch


def _path(annotation: str) -> str:
    return f"{_ANNOTATIONS}/{annotation.replace('~', '~0').replace('/', '~1')}"


def _test(path: str, value: Any) -> Operation:
    return {"op": "test", "path": path, "value": value}


def _add(path: str, value: Any) -> Operation:
    return {"op": "add", "path": path, "value": value}
