"""Pure: what the `bridge` device wants in the kernel, and the steps from what is there to what is wanted.

Options are named as in the reference `bridge` plugin, so that changing `"type": "bridge"` to
`"type": "hotnic", "device": "bridge"` is the whole migration; one that this device cannot honour yet is an
error (CNI code 2), never silently ignored.

Rules
1. Everything is derived from (container ID, interface name): the host end's name and both MACs. So a retry finds
   its own leftover, and a DEL without any record still knows which host end is ours, and proves it by the MAC.
2. `plan` of what has been read twice is empty, or the work is not done.
3. The bridge's own MAC is pinned when it is made: an unpinned bridge takes the lowest MAC of its ports and changes
   identity whenever one comes or goes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.model import Key
from cni import errors, result

DEFAULT_BRIDGE = "cni0"  # as the reference plugin has it
MIN_MTU, MAX_MTU = 68, 65535
UNSUPPORTED = ("vlan", "vlanTrunk", "preserveDefaultVlan", "macspoofchk", "isGateway", "isDefaultGateway", "ipMasq",
               "promiscMode", "enabledad", "disableContainerInterface")  # fmt: skip
Address = result.InterfaceAddress

_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_BAD_NAME = re.compile(r"[\s/:]")


@dataclass(frozen=True, slots=True)
class Options:
    """The parsed configuration of one call."""

    bridge: str
    mtu: int | None
    mac: str
    hairpin: bool
    isolated: bool
    ipam: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel describes it. `mtu` in bytes."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    master: int = 0


@dataclass(frozen=True, slots=True)
class Want:
    """One pod interface on a bridge, as it shall be."""

    ifname: str
    mac: str
    mtu: int | None
    host_name: str
    host_mac: str
    bridge: str
    hairpin: bool = False
    isolated: bool = False
    addresses: tuple[Address, ...] = ()
    routes: tuple[result.Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Have:
    """What the kernel has under the names that a `Want` uses."""

    bridge: Link | None = None
    host: Link | None = None
    pod: Link | None = None
    addresses: frozenset[Address] = field(default_factory=frozenset)
    routes: frozenset[result.Route] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class CreateBridge:
    """With a MAC of its own, pinned (rule 3)."""

    name: str
    mtu: int | None


@dataclass(frozen=True, slots=True)
class BringUp:
    """Set a link of the node up."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateVeth:
    """The pair in one message: the host end on its bridge and up, the pod end born in the pod."""

    want: Want
    mtu: int | None


@dataclass(frozen=True, slots=True)
class SetPort:
    name: str
    hairpin: bool
    isolated: bool


@dataclass(frozen=True, slots=True)
class BringUpInPod:
    ifname: str


@dataclass(frozen=True, slots=True)
class AddAddress:
    ifname: str
    address: Address


@dataclass(frozen=True, slots=True)
class AddRoute:
    ifname: str
    route: result.Route


Step = CreateBridge | BringUp | CreateVeth | SetPort | BringUpInPod | AddAddress | AddRoute


def parse(config: Mapping[str, Any], args: Mapping[str, str]) -> Options:
    """Read the device's options. Raises CNIError 7 (wrong value) or 2 (unsupported), naming key and value."""
    for key in UNSUPPORTED:
        if config.get(key):
            raise errors.CNIError(
                errors.Code.UNSUPPORTED_FIELD, f"{key}={config[key]!r} is not supported by device bridge"
            )
    ipam = config.get("ipam") or None
    if ipam is not None and not isinstance(ipam, Mapping):
        raise _invalid("ipam", ipam, "must be an object")
    return Options(
        bridge=_bridge_name(config.get("bridge") or DEFAULT_BRIDGE),
        mtu=_mtu(config.get("mtu")),
        mac=_requested_mac(config, args),
        hairpin=_flag(config, "hairpinMode"),
        isolated=_flag(config, "portIsolation"),
        ipam=ipam if ipam and ipam.get("type") else None,
    )


def want(key: Key, options: Options, addresses: result.Result | None = None) -> Want:
    """Return what the kernel shall have for this attachment, with the IPAM result's addresses and routes."""
    return Want(
        ifname=key.ifname,
        mac=options.mac or derived_mac(key, "pod"),
        mtu=options.mtu,
        host_name=host_name(key),
        host_mac=derived_mac(key, "host"),
        bridge=options.bridge,
        hairpin=options.hairpin,
        isolated=options.isolated,
        addresses=tuple(ip.address for ip in addresses.ips) if addresses else (),
        routes=_with_gateways(addresses) if addresses else (),
    )


def plan(want: Want, have: Have) -> tuple[Step, ...]:
    """Return the steps that lead from `have` to `want`; none when they agree. Raises CNIError 7 on a conflict."""
    _refuse_conflicts(want, have)
    return (*_bridge_steps(want, have), *_link_steps(want, have), *_address_steps(want, have))


def mismatches(want: Want, have: Have) -> tuple[str, ...]:
    """What CHECK reports. More than `want` (other addresses, routes, a bridge shared with others) is no mismatch."""
    if have.pod is None:
        return (f"interface {want.ifname} is missing",)
    found = [f"interface {want.ifname} has MAC {have.pod.mac}, not {want.mac}"] if have.pod.mac != want.mac else []
    if have.host is None:
        found.append(f"host end {want.host_name} is missing")
    elif have.bridge is None or have.host.master != have.bridge.index:
        found.append(f"host end {want.host_name} is not a port of bridge {want.bridge}")
    found += [f"address {address} is missing" for address in want.addresses if address not in have.addresses]
    found += [f"route to {route.dst} is missing" for route in want.routes if not _has_route(route, have)]
    return tuple(found)


def is_ours(key: Key, host: Link) -> bool:
    """Whether a link of the node is the host end that this attachment made (rule 1): never delete on a name alone."""
    return host.kind == "veth" and host.mac == derived_mac(key, "host")


def host_name(key: Key) -> str:
    return "hn" + hashlib.sha256(f"{key.container_id}/{key.ifname}".encode()).hexdigest()[:12]


def derived_mac(key: Key, end: str) -> str:
    """Return a locally administered unicast MAC that is the same at every call."""
    digest = hashlib.sha256(f"{key.container_id}/{key.ifname}/{end}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def _refuse_conflicts(want: Want, have: Have) -> None:
    if have.bridge is not None and have.bridge.kind != "bridge":
        kind = have.bridge.kind or "physical"
        raise errors.CNIError(
            errors.Code.INVALID_CONFIG, f"bridge={want.bridge!r} exists and is a {kind} link, not a bridge"
        )
    if have.pod is not None and have.host is None:
        raise errors.CNIError(
            errors.Code.INVALID_CONFIG, f"interface name {want.ifname!r} exists already in the container"
        )
    if have.host is not None and have.host.mac != want.host_mac:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"link {want.host_name!r} on the node is not ours")


def _bridge_steps(want: Want, have: Have) -> tuple[Step, ...]:
    if have.bridge is None:
        return (CreateBridge(want.bridge, want.mtu), BringUp(want.bridge))
    return () if have.bridge.up else (BringUp(want.bridge),)


def _link_steps(want: Want, have: Have) -> tuple[Step, ...]:
    if have.pod is None or have.host is None:
        mtu = want.mtu or (have.bridge.mtu if have.bridge else None)
        port = (SetPort(want.host_name, want.hairpin, want.isolated),) if want.hairpin or want.isolated else ()
        return (CreateVeth(want, mtu), *port, BringUpInPod(want.ifname))
    return () if have.pod.up else (BringUpInPod(want.ifname),)


def _address_steps(want: Want, have: Have) -> tuple[Step, ...]:
    missing = [AddAddress(want.ifname, address) for address in want.addresses if address not in have.addresses]
    routes = [AddRoute(want.ifname, route) for route in want.routes if not _has_route(route, have)]
    return (*missing, *routes)


def _has_route(route: result.Route, have: Have) -> bool:
    return any(
        (there.dst, there.gw, there.table or 254) == (route.dst, route.gw, route.table or 254)
        and all(getattr(route, name) in (None, getattr(there, name)) for name in ("mtu", "advmss", "priority", "scope"))
        for there in have.routes
    )


def _with_gateways(addresses: result.Result) -> tuple[result.Route, ...]:
    """Routes without a gateway go through the gateway of the address of their family, as the reference has it."""
    gateways = {ip.gateway.version: ip.gateway for ip in reversed(addresses.ips) if ip.gateway}
    return tuple(
        route
        if route.gw or route.scope == 253
        else result.Route(
            route.dst,
            gateways.get(route.dst.version),
            route.mtu,
            route.advmss,
            route.priority,
            route.table,
            route.scope,
        )
        for route in addresses.routes
    )


def _requested_mac(config: Mapping[str, Any], args: Mapping[str, str]) -> str:
    """The MAC of runtimeConfig beats args.cni beats CNI_ARGS. Raises CNIError 7 for what no interface can have."""
    generic = (config.get("args") or {}).get("cni") or {}
    value = (config.get("runtimeConfig") or {}).get("mac") or generic.get("mac") or args.get("MAC") or ""
    if not value:
        return ""
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise _invalid("mac", value, "must be six bytes in hexadecimal")
    mac = value.replace("-", ":").lower()
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise _invalid("mac", value, "must be a unicast address and not zero")
    return mac


def _bridge_name(value: Any) -> str:
    good = (
        isinstance(value, str)
        and len(value.encode()) <= 15
        and value not in (".", "..")
        and not _BAD_NAME.search(value)
    )
    if not good:
        raise _invalid("bridge", value, "must be an interface name of at most 15 bytes")
    return str(value)


def _mtu(value: Any) -> int | None:
    if value is None or value == 0:
        return None  # 0 means "not set" to the reference plugin
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_MTU <= value <= MAX_MTU:
        raise _invalid("mtu", value, f"must be a whole number of bytes from {MIN_MTU} to {MAX_MTU}")
    return value


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise _invalid(key, value, "must be true or false")
    return value


def _invalid(key: str, value: Any, why: str) -> errors.CNIError:
    return errors.CNIError(errors.Code.INVALID_CONFIG, f"{key}={value!r} {why}")
