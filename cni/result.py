"""The result of ADD (specification, section 5), in every version.

Rules
1. Reading is liberal: a key of a later version is taken, null is as absent, unknown keys are passed over, the
   version may be missing. Real plugins need that. So is the shape of 0.1.0 and 0.2.0 (`ip4`, `ip6`).
2. A value of the wrong type or out of range is an error that names its key, never a guess.
3. Writing is strict: what a version does not define is left out, unlike in the reference's converters.
4. An interface index says nothing where no interfaces are listed (IPAM results), and is dropped. One beyond a
   list is an error: podman refuses such a result.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cni import errors, names, version
from cni.fields import FieldError, Fields

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
InterfaceAddress = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_WIDEST = 2**32 - 1  # no field of kernel or Go is wider


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    mac: str = ""
    mtu: int | None = None
    sandbox: str = ""  # CNI_NETNS for an interface in the container, empty for one on the node
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class IPConfig:
    address: InterfaceAddress
    gateway: Address | None = None
    interface: int | None = None  # index in Result.interfaces


@dataclass(frozen=True, slots=True)
class Route:
    dst: Network
    gw: Address | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class DNS:
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = field(default_factory=DNS)


def decode(document: Mapping[str, Any]) -> Result:
    """Read the result that a plugin printed. Raises CNIError 6 naming the key that is wrong."""
    try:
        return _decode(Fields(document))
    except FieldError as problem:
        raise errors.CNIError(errors.Code.DECODE_FAILURE, f"invalid result: {problem}") from None


def encode(result: Result, cni_version: str) -> dict[str, Any]:
    """Return the document of that version. Raises CNIError 1 where it has no shape for results of ours."""
    if cni_version not in version.SUPPORTED:
        raise errors.CNIError(
            errors.Code.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"result is asked for in {cni_version!r}, supported are {list(version.SUPPORTED)}",
        )
    since_1_0, since_1_1 = (version.at_least(cni_version, minimum) for minimum in ("1.0.0", "1.1.0"))
    lists = {
        "interfaces": [_interface_document(item, with_1_1=since_1_1) for item in result.interfaces],
        "ips": [_ip_document(item, with_family=not since_1_0) for item in result.ips],
        "routes": [_route_document(item, with_1_1=since_1_1) for item in result.routes],
    }
    dns = dns_document(result.dns)
    return {
        "cniVersion": cni_version,
        **{key: items for key, items in lists.items() if items},
        **({"dns": dns} if dns or not since_1_0 else {}),  # the reference writes {} up to 0.4.0; its readers expect it
    }


def dns_document(dns: DNS) -> dict[str, Any]:
    """Return the DNS part as every version has it; an empty object for nothing."""
    return _present(
        nameservers=list(dns.nameservers),
        domain=dns.domain,
        search=list(dns.search),
        options=list(dns.options),
    )


def _interface_document(interface: Interface, *, with_1_1: bool) -> dict[str, Any]:
    return _present(
        name=interface.name,
        mac=interface.mac,
        mtu=interface.mtu if with_1_1 else None,
        sandbox=interface.sandbox,
        socketPath=interface.socket_path if with_1_1 else None,
        pciID=interface.pci_id if with_1_1 else None,
    )


def _ip_document(ip: IPConfig, *, with_family: bool) -> dict[str, Any]:
    return _present(
        version=str(ip.address.version) if with_family else None,
        interface=ip.interface,
        address=str(ip.address),
        gateway=str(ip.gateway or ""),
    )


def _route_document(route: Route, *, with_1_1: bool) -> dict[str, Any]:
    later = {
        "mtu": route.mtu,
        "advmss": route.advmss,
        "priority": route.priority,
        "table": route.table,
        "scope": route.scope,
    }
    return _present(dst=str(route.dst), gw=str(route.gw or ""), **(later if with_1_1 else {}))


def _present(**values: Any) -> dict[str, Any]:
    """Keep what says something; 0 does (index, table, scope)."""
    return {key: value for key, value in values.items() if value not in (None, "", [])}


def _decode(fields: Fields) -> Result:
    fields.parsed("cniVersion", version.parse)
    families = tuple(filter(None, (fields.object("ip4"), fields.object("ip6"))))
    interfaces = tuple(map(_interface, fields.objects("interfaces")))
    ips = (_ip(item, len(interfaces)) for item in fields.objects("ips"))
    routes = (route for holder in (fields, *families) for route in holder.objects("routes"))
    return Result(
        interfaces=interfaces,
        ips=(*map(_family_ip, families), *ips),
        routes=tuple(map(_route, routes)),
        dns=_dns(fields.object("dns")),
    )


def _family_ip(family: Fields) -> IPConfig:
    """Read `ip4` or `ip6`, the shape of 0.1.0 and 0.2.0."""
    return IPConfig(family.required("ip", _with_prefix), family.parsed("gateway", _address))


def _interface(item: Fields) -> Interface:
    return Interface(
        name=item.required("name", str),
        mac=item.text("mac"),
        mtu=item.number("mtu", 0, _WIDEST) or None,
        sandbox=item.text("sandbox"),
        socket_path=item.text("socketPath"),
        pci_id=item.text("pciID"),
    )


def _ip(item: Fields, interfaces: int) -> IPConfig:
    index = item.number("interface", -1 - _WIDEST, _WIDEST)
    if index is None or index < 0 or interfaces == 0:  # NPWG 5.3.3.1: an index below zero is none
        index = None
    elif index >= interfaces:
        raise item.error("interface", f"points beyond the {interfaces} interfaces of the result")
    return IPConfig(item.required("address", _with_prefix), item.parsed("gateway", _address), index)


def _route(item: Fields) -> Route:
    return Route(
        dst=item.required("dst", _with_prefix).network,
        gw=item.parsed("gw", _address),
        mtu=item.number("mtu", 0, _WIDEST) or None,
        advmss=item.number("advmss", 0, _WIDEST) or None,
        priority=item.number("priority", 0, _WIDEST) or None,
        table=item.number("table", 0, _WIDEST),
        scope=item.number("scope", 0, 255),
    )


def _dns(dns: Fields | None) -> DNS:
    if dns is None:
        return DNS()
    return DNS(dns.texts("nameservers"), dns.text("domain"), dns.texts("search"), dns.texts("options"))


def _address(text: str) -> Address:
    return ipaddress.ip_address(names.ip_with_optional_prefix(text))


def _with_prefix(text: str) -> InterfaceAddress:
    spelt = names.ip_with_optional_prefix(text)
    if "/" not in spelt:
        raise ValueError("has no prefix length")
    return ipaddress.ip_interface(spelt)
