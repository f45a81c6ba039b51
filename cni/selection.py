"""One network selection element (NPWG 1.3, section 4.1.2.1), checked key by key.

Rules
1. A wrong value is a FieldError whose text names key and value: the user reads it in an event.
2. Addresses come out in one spelling, so that rewriting an annotation in another one changes nothing.
3. What asks for nothing is as absent: null, "", [], {}, and the zeros that Go writes into `bandwidth`.
   Only an empty `default-route` says something (see `Selection.default_route`).
4. Unknown keys are passed over; the specification wants them to be possible.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cni import names
from cni.fields import FieldError, Fields

_RATES = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_MAX_INT = 2**63 - 1  # Go's int, into which every reader of these numbers puts them


@dataclass(frozen=True, slots=True)
class Selection:
    """To compare, take the JSON (`multinet.to_json`): Python holds {"a": 1} and {"a": true} for equal."""

    namespace: str
    name: str
    interface: str = ""
    ips: tuple[str, ...] = ()
    mac: str = ""
    cni_args: Mapping[str, Any] | None = field(default=None, hash=False)
    port_mappings: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    bandwidth: Mapping[str, int] | None = field(default=None, hash=False)
    default_route: tuple[str, ...] | None = None  # None: not asked for; (): asked for, with the network's own gateway
    infiniband_guid: str = ""
    ipam_claim_reference: str = ""
    device_id: str = ""

    @property
    def network(self) -> str:
        return f"{self.namespace}/{self.name}"


def read(element: object, default_namespace: str) -> Selection:
    """Return the selection that a JSON value is. Raises FieldError saying what is wrong with it."""
    fields = Fields(element)
    selection = Selection(
        namespace=fields.parsed("namespace", _namespace) or default_namespace,
        name=fields.required("name", _name),
        interface=_interface(fields),
        ips=fields.parsed_list("ips", names.ip_with_optional_prefix),
        mac=fields.parsed("mac", names.mac_address) or "",
        cni_args=_cni_args(fields),
        port_mappings=tuple(map(_port_mapping, fields.objects("portMappings"))),
        bandwidth=_bandwidth(fields.object("bandwidth")),
        default_route=_default_route(fields),
        infiniband_guid=fields.parsed("infiniband-guid", _guid) or "",
        ipam_claim_reference=fields.parsed("ipam-claim-reference", _name) or "",
        device_id=fields.text("deviceID"),
    )
    if selection.ips and selection.ipam_claim_reference:
        raise FieldError("ips and ipam-claim-reference exclude each other")
    return selection


def to_json(selection: Selection) -> str:
    """Return the element in canonical form: keys in a fixed order, nothing that asks for nothing."""
    document: dict[str, Any] = {
        "name": selection.name,
        "namespace": selection.namespace,
        "interface": selection.interface,
        "ips": list(selection.ips),
        "mac": selection.mac,
        "cni-args": _sorted(selection.cni_args),
        "portMappings": [dict(mapping) for mapping in selection.port_mappings],
        "bandwidth": dict(selection.bandwidth or {}),
        "infiniband-guid": selection.infiniband_guid,
        "ipam-claim-reference": selection.ipam_claim_reference,
        "deviceID": selection.device_id,
    }
    document = {key: value for key, value in document.items() if value}
    if selection.default_route is not None:
        document["default-route"] = list(selection.default_route)
    return json.dumps(document, separators=(",", ":"))


def _sorted(arguments: Mapping[str, Any] | None) -> Any:
    return json.loads(json.dumps(arguments, sort_keys=True)) if arguments else None


def _namespace(text: str) -> str:
    if not names.is_label(text):
        raise ValueError("is not the name of a namespace")
    return text


def _name(text: str) -> str:
    if not names.is_object_name(text):
        raise ValueError("is not a name that Kubernetes allows")
    return text


def _interface(fields: Fields) -> str:
    """Read the name under its key, and under the one of before the specification (still taken by Multus)."""
    asked = {key: fields.parsed(key, _ifname) for key in ("interface", "interfaceRequest")}
    wanted = set(filter(None, asked.values()))
    if len(wanted) > 1:
        raise fields.error("interfaceRequest", f"differs from interface={asked['interface']!r}")
    return wanted.pop() if wanted else ""


def _ifname(text: str) -> str:
    if fault := names.ifname_fault(text):
        raise ValueError(fault)
    if "%" in text:
        raise ValueError("must not contain %, which the kernel replaces by a number")
    return text


def _guid(text: str) -> str:
    return names.hardware_address(text, 8)


def _cni_args(fields: Fields) -> Mapping[str, Any] | None:
    arguments = fields.object("cni-args")
    return dict(arguments.document) if arguments and arguments.document else None


def _port_mapping(fields: Fields) -> Mapping[str, Any]:
    host_ip = fields.parsed("hostIP", _address)
    return {
        "hostPort": _port(fields, "hostPort"),
        "containerPort": _port(fields, "containerPort"),
        "protocol": fields.parsed("protocol", _protocol) or "TCP",
        **({"hostIP": host_ip} if host_ip else {}),
    }


def _port(fields: Fields, key: str) -> int:
    port = fields.number(key, 1, 65535)
    if port is None:
        raise fields.missing(key)
    return port


def _protocol(text: str) -> str:
    if text.upper() not in _PROTOCOLS:
        raise ValueError(f"is none of {', '.join(_PROTOCOLS)}")
    return text.upper()


def _bandwidth(fields: Fields | None) -> Mapping[str, int] | None:
    if fields is None:
        return None
    asked = {key: rate for key in _RATES if (rate := fields.number(key, 0, _MAX_INT))}
    for direction in ("ingress", "egress"):
        if f"{direction}Burst" in asked and f"{direction}Rate" not in asked:
            raise fields.error(f"{direction}Burst", f"needs {direction}Rate as well")
    return asked or None


def _default_route(fields: Fields) -> tuple[str, ...] | None:
    if fields.document.get("default-route") is None:
        return None
    gateways = fields.parsed_list("default-route", _address)
    families = [ipaddress.ip_address(gateway).version for gateway in gateways]
    if len(families) != len(set(families)):
        raise fields.error("default-route", "has more than one gateway of one address family")
    return gateways


def _address(text: str) -> str:
    if "/" in text:
        raise ValueError("is not an IP address without prefix length")
    return names.ip_with_optional_prefix(text)
