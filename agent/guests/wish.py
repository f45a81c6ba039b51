"""Pure: the annotation `hotnic.dev/vm` on a pod: how the virtual machine in it is reached.

    {"qmp": "/run/vm/qmp.sock", "guestAgent": "/run/vm/qga.sock", "container": "qemu", "ports": {"net1": "rp2"}}
    {"libvirt": "/run/libvirt/libvirt-sock", "domain": "vm1", "container": "libvirt"}

Paths are those that the container sees. `container` may be left out where the pod has one only. `guestAgent` is a
socket of QEMU's guest agent that nobody else uses; libvirt has its own. `ports` says which root port a NIC must sit
in, by the pod's interface: for the destination of a migration, whose NICs must sit where the source's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.model import Refused
from cni import jsontext, names

PATH_BYTES = 4096
_KEYS = {"qmp": {"qmp", "guestAgent", "container", "ports"}, "libvirt": {"libvirt", "domain", "container"}}


@dataclass(frozen=True, slots=True)
class Qemu:
    """QEMU by its machine protocol (QMP): the monitor must be this agent's alone."""

    socket: str
    guest_agent: str = ""
    container: str = ""
    ports: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Libvirt:
    """A domain of a libvirt daemon in the pod."""

    socket: str
    domain: str
    container: str = ""


Wish = Qemu | Libvirt


def parse(text: str) -> Wish:
    """Read the annotation. Raises Refused, naming what is wrong."""
    try:
        document = jsontext.loads(text)
    except ValueError as problem:
        raise _wrong(f"is not JSON: {problem}") from None
    if not isinstance(document, dict):
        raise _wrong("must be a JSON object")
    kinds = [kind for kind in _KEYS if kind in document]
    if len(kinds) != 1:
        raise _wrong("must have one of the keys qmp and libvirt")
    (kind,) = kinds
    if unknown := sorted(document.keys() - _KEYS[kind]):
        raise _wrong(f"has unknown keys: {', '.join(unknown)}")
    container = _string(document, "container")
    if kind == "qmp":
        agent = _path(document, "guestAgent") if "guestAgent" in document else ""
        return Qemu(_path(document, "qmp"), agent, container, _ports(document))
    return Libvirt(_path(document, "libvirt"), _string(document, "domain", is_required=True), container)


def _path(document: Mapping[str, Any], key: str) -> str:
    path = _string(document, key, is_required=True)
    if not path.startswith("/") or "\0" in path or len(path.encode()) > PATH_BYTES:
        raise _wrong(f"{key} must be an absolute path in the container")
    return path


def _ports(document: Mapping[str, Any]) -> Mapping[str, str]:
    ports = document.get("ports", {})
    if not isinstance(ports, dict) or not all(isinstance(port, str) and port for port in ports.values()):
        raise _wrong("ports must be an object of interface names and port ids")
    if bad := [name for name in ports if names.ifname_fault(name)]:
        raise _wrong(f"ports: {bad[0]!r} is no interface name")
    return ports


def _string(document: Mapping[str, Any], key: str, *, is_required: bool = False) -> str:
    value = document.get(key, "")
    if not isinstance(value, str) or (is_required and not value):
        raise _wrong(f"{key} must be a string that is not empty" if is_required else f"{key} must be a string")
    return value


def _wrong(what: str) -> Refused:
    return Refused("InvalidVM", f"annotation hotnic.dev/vm {what}")
