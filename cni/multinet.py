"""The networks annotation (NPWG 1.3, section 4): a text in, selections out.

Rules
1. A value that cannot be split into elements is an AnnotationError as a whole. A wrong element is one Invalid
   among the others, which are good: one attachment's failure is its own.
2. Elements keep their order. Their position counts from 0, wrong ones included.
3. An interface name belongs to the first element that asks for it, even if that one is wrong otherwise:
   mending it must not move an attachment made meanwhile. So does `default-route` (4.1.2.1.9).
4. Both forms are read: JSON as soon as the value has one of [ { ", else `[namespace/]name[@interface], ...`.
   An empty value asks for no networks.
5. More than MAX_ELEMENTS elements are an AnnotationError: each costs its readers time and memory, and no pod has
   use for so many.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cni import jsontext, selection
from cni.fields import FieldError
from cni.selection import Selection, to_json
from cni.status import IN_VM
from cni.status import entry as status_entry
from cni.status import merge as merge_status

MAX_ELEMENTS = 256

__all__ = [
    "IN_VM",
    "MAX_ELEMENTS",
    "AnnotationError",
    "Invalid",
    "Selection",
    "capability_args",
    "from_json",
    "merge_status",
    "parse",
    "status_entry",
    "to_json",
]


class AnnotationError(ValueError):
    """The annotation as a whole is malformed. `position` counts from 0, `line` and `column` from 1."""

    def __init__(self, reason: str, text: str, position: int = 0) -> None:
        self.reason = reason
        self.position = position
        self.line = text.count("\n", 0, position) + 1
        self.column = position - text.rfind("\n", 0, position)
        super().__init__(f"line {self.line} column {self.column}: {reason}")


@dataclass(frozen=True, slots=True)
class Invalid:
    """One wrong element; network and interface as far as they can be told, to find it again."""

    position: int
    network: str
    interface: str
    reason: str


def parse(annotation: str, default_namespace: str) -> tuple[Selection | Invalid, ...]:
    """Return what the annotation asks for. Raises AnnotationError and nothing else."""
    taken: set[str] = set()
    parsed = []
    printable = annotation.encode("utf-8", "replace").decode()  # half surrogate pairs could not be told to anyone
    elements = _elements(printable)
    if len(elements) > MAX_ELEMENTS:
        raise AnnotationError(
            f"{len(elements)} networks are more than the {MAX_ELEMENTS} that a pod may ask for", printable
        )
    for position, element in enumerate(elements):
        parsed.append(_selection_or_invalid(position, element, default_namespace, taken))
        taken |= _claims(element)
    return tuple(parsed)


def from_json(text: str) -> Selection:
    """Return the selection that `to_json` wrote. Raises ValueError where the text is none."""
    element = jsontext.loads(text)
    if not isinstance(element, dict) or not element.get("namespace"):
        raise ValueError("a selection names its namespace")
    return selection.read(element, "")


def capability_args(wanted: Selection) -> dict[str, Any]:
    """Return what was asked of the plugins' capabilities, under CNI's names for them (CONVENTIONS.md)."""
    arguments = {
        "ips": list(wanted.ips),
        "mac": wanted.mac,
        "bandwidth": dict(wanted.bandwidth or {}),
        "portMappings": [dict(mapping) for mapping in wanted.port_mappings],
        "infinibandGUID": wanted.infiniband_guid,
        "deviceID": wanted.device_id,
    }
    return {capability: value for capability, value in arguments.items() if value}


def _elements(annotation: str) -> list[Any]:
    if any(mark in annotation for mark in '[{"'):
        return _json_elements(annotation)
    return [_short_element(item.strip()) for item in annotation.split(",")] if annotation.strip() else []


def _json_elements(annotation: str) -> list[Any]:
    try:
        elements = jsontext.loads(annotation)
    except json.JSONDecodeError as problem:
        raise AnnotationError(f"not JSON: {problem.msg}", annotation, problem.pos) from None
    except ValueError as problem:
        raise AnnotationError(f"not JSON: {problem}", annotation) from None
    if not isinstance(elements, list):
        start = len(annotation) - len(annotation.lstrip())
        raise AnnotationError("not a list of networks: JSON must be written as [ ... ]", annotation, start)
    return elements


def _short_element(item: str) -> Mapping[str, str] | FieldError:
    """Return the JSON form of `[namespace/]name[@interface]`, or what is wrong with it."""
    place, at, interface = item.partition("@")
    namespace, slash, name = place.rpartition("/")
    if not name or "/" in namespace or "@" in interface or (slash and not namespace) or (at and not interface):
        return FieldError(f"{item!r} is not [namespace/]name[@interface]")
    return {"namespace": namespace.strip(), "name": name.strip(), "interface": interface.strip()}


def _selection_or_invalid(position: int, element: Any, default_namespace: str, taken: set[str]) -> Selection | Invalid:
    try:
        return _selection(element, default_namespace, taken)
    except FieldError as problem:
        interface = _text(element, "interface") or _text(element, "interfaceRequest")
        return Invalid(position, _network(element, default_namespace), interface, str(problem))


def _selection(element: Any, default_namespace: str, taken: set[str]) -> Selection:
    if isinstance(element, FieldError):
        raise element
    if twice := sorted(taken & _claims(element)):
        raise FieldError(f"{twice[0]} is asked for by an earlier element already")
    return selection.read(element, default_namespace)


def _claims(element: Any) -> set[str]:
    """Return what only one element may ask for (rule 3), in words for a message."""
    names = {_text(element, key) for key in ("interface", "interfaceRequest")} - {""}
    routed = isinstance(element, Mapping) and element.get("default-route") is not None
    return {f"interface {name!r}" for name in names} | ({"default-route"} if routed else set())


def _network(element: Any, default_namespace: str) -> str:
    name = _text(element, "name")
    return f"{_text(element, 'namespace') or default_namespace}/{name}" if name else ""


def _text(element: Any, key: str) -> str:
    value = element.get(key) if isinstance(element, Mapping) else None
    return value if isinstance(value, str) else ""
