"""Pure: reading the options of a device. Every refusal is a CNIError that names key and value (SPEC 1.1.0 §5).

Options are named as in the plugin that the device replaces; those that every device has are read here as well:
`mtu`, `mac`, `ipam` as everywhere in CNI; `sysctl`, `promisc`, `allmulti`, `txQLen` as in the plugin `tuning`;
`ingressRate`, `ingressBurst`, `egressRate`, `egressBurst` as in the plugin `bandwidth`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.links import Attributes, Bandwidth, Interface, Rate
from agent.model import Key
from cni import errors, names

MIN_MTU, MAX_MTU = 68, 65535
MAX_QUEUE = 1 << 20  # packets
MIN_RATE = 8  # bits a second: the kernel counts in bytes
MAX_RATE, MAX_BURST = (1 << 64) - 1, (((1 << 32) - 1) << 3) - 1  # bits; the reference's uint64, and its 4 GB

_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_SYSCTL = re.compile(r"net\.[A-Za-z0-9_.\-/]+")
_OF_ALL = ("all", "default")  # directories of /proc/sys/net/*/conf, which are no link's
_UP = {"up": True, "down": False}
_BANDWIDTH = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")


@dataclass(frozen=True, slots=True)
class Call:
    """What a device is made from: the attachment's key, its configuration, CNI_ARGS, and what the journal has saved
    for it at the ADD (devices that must give something back: see agent.devices).
    """

    key: Key
    config: Mapping[str, Any]
    args: Mapping[str, str] = field(default_factory=dict)
    saved: Mapping[str, Any] = field(default_factory=dict)

    def asked(self, name: str, old: str = "") -> Any:
        """Return what was asked for this attachment: runtimeConfig beats args.cni beats CNI_ARGS (`old`)."""
        generic = _object(_object(self.config, "args"), "cni")
        runtime = _object(self.config, "runtimeConfig")
        return runtime.get(name) or generic.get(name) or (self.args.get(old) if old else None)


def interface(call: Call, *, own_mac: bool = True) -> Interface:
    """Return the interface in the pod as the options ask for it. `own_mac`: it has one that can be chosen."""
    config = call.config
    asked = mac(call)
    if asked and not own_mac:
        raise unsupported("mac", asked, f"device {config.get('device')} has the MAC of its master")
    return Interface(
        ifname=call.key.ifname,
        mac=(asked or derived_mac(call.key, "pod")) if own_mac else "",
        mtu=mtu(call.asked("mtu") or config.get("mtu")),
        up=_link_state(call),
        sysctls=sysctls(call),
        promiscuous=optional_flag(config, "promisc"),
        all_multicast=optional_flag(config, "allmulti"),
        transmit_queue=whole(config, "txQLen", 1, MAX_QUEUE),
        bandwidth=bandwidth(call),
    )


def ipam(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the IPAM plugin's configuration; None where there is no plugin named: plain L2."""
    value = config.get("ipam") or None
    if value is not None and not isinstance(value, Mapping):
        raise invalid("ipam", value, "must be an object")
    if value and not isinstance(value.get("type") or "", str):
        raise invalid("ipam.type", value["type"], "must be a string")
    if value and value.get("type") == "hotnic":
        raise invalid("ipam.type", value["type"], "gives no addresses")
    return value if value and value.get("type") else None


def mac(call: Call) -> str:
    """The MAC that was asked for, in lower case; "": none was. Raises CNIError 7 for what no interface can have."""
    value = call.asked("mac", "MAC") or call.config.get("mac") or ""
    if not value:
        return ""
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise invalid("mac", value, "must be six bytes in hexadecimal")
    normal = value.replace("-", ":").lower()
    if int(normal[:2], 16) & 1 or normal == "00:00:00:00:00:00":
        raise invalid("mac", value, "must be a unicast address and not zero")
    return normal


def mtu(value: Any) -> int | None:
    if value is None or value == 0:
        return None  # 0 means "not set" to the reference plugins
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_MTU <= value <= MAX_MTU:
        raise invalid("mtu", value, f"must be a whole number of bytes from {MIN_MTU} to {MAX_MTU}")
    return value


def mtu_attribute(value: int | None) -> Attributes:
    return () if value is None else (("IFLA_MTU", value),)


def sysctls(call: Call) -> tuple[tuple[str, str], ...]:
    """The settings of `sysctl`, those of args.cni over the configuration's, IFNAME in a key being the interface.

    As paths below /proc/sys/net. Only what is below `net` has a value for each namespace; the rest is the node's.
    """
    generic = _object(_object(call.config, "args"), "cni")
    wanted = {**_object(call.config, "sysctl"), **_object(generic, "sysctl")}
    return tuple((_sysctl_path(name, call.key.ifname), _sysctl_value(name, value)) for name, value in wanted.items())


def bandwidth(call: Call) -> Bandwidth | None:
    """What was asked for: runtimeConfig.bandwidth beats the configuration's own four keys. None: nothing ever can be.

    Raises CNIError 7 as the plugin `bandwidth` does, and for what the kernel could not do.
    """
    refuse(call.config, ("shapedSubnets", "unshapedSubnets"), "everything is shaped")
    runtime, declared = _object(call.config, "runtimeConfig"), _object(call.config, "capabilities").get("bandwidth")
    source = call.config if runtime.get("bandwidth") is None else _object(runtime, "bandwidth")
    said = source is not call.config or any(source.get(key) is not None for key in _BANDWIDTH)
    if not said and not declared:
        return None
    return replace(companion(call.key), ingress=_rate(source, "ingress"), egress=_rate(source, "egress"), said=said)


def companion(key: Key) -> Bandwidth:
    """Return what is known of any attachment's bandwidth: which link it may have left besides."""
    return Bandwidth(host_name(key, "hni"), derived_mac(key, "companion"), said=False)


def link_name(config: Mapping[str, Any], key: str, default: str = "") -> str:
    """Return an interface name. Raises CNIError 7 where it is none, or there is neither one nor a default."""
    value = config.get(key) or default
    if not isinstance(value, str) or names.ifname_fault(value) or value in _OF_ALL:
        raise invalid(key, value, "must be an interface name of at most 15 bytes")
    return value


def flag(config: Mapping[str, Any], key: str) -> bool:
    return bool(optional_flag(config, key))


def optional_flag(config: Mapping[str, Any], key: str) -> bool | None:
    """None: not said."""
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise invalid(key, value, "must be true or false")
    return value


def whole(config: Mapping[str, Any], key: str, least: int, most: int) -> int | None:
    """Return a whole number in its range; None where it is not said."""
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(key, value, f"must be a whole number from {least} to {most}")
    return value


def choice(config: Mapping[str, Any], key: str, known: Collection[str], default: str) -> str:
    value = config.get(key) or default
    if not isinstance(value, str) or value not in known:
        raise invalid(key, value, f"must be one of {', '.join(known)}")
    return str(value)


def refuse(config: Mapping[str, Any], keys: Collection[str], why: str) -> None:
    """Raise CNIError 2 where an option is said that the device cannot honour: never silently ignored."""
    for key in keys:
        if config.get(key):
            raise unsupported(key, config[key], why)


def host_name(key: Key, prefix: str = "hn") -> str:
    """Return the name of the attachment's link on the node, the same at every call (at most 15 bytes)."""
    return prefix + hashlib.sha256(f"{key.container_id}/{key.ifname}".encode()).hexdigest()[: 14 - len(prefix)]


def derived_mac(key: Key, end: str) -> str:
    """Return a locally administered unicast MAC that is the same at every call."""
    digest = hashlib.sha256(f"{key.container_id}/{key.ifname}/{end}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def mark(key: Key) -> str:
    """Return the alias of a link that the attachment made in the pod: what shows later that it is ours."""
    return "hotnic " + hashlib.sha256(f"{key.container_id}/{key.ifname}/alias".encode()).hexdigest()[:24]


def invalid(key: str, value: Any, why: str) -> errors.CNIError:
    return errors.CNIError(errors.Code.INVALID_CONFIG, f"{key}={value!r} {why}")


def unsupported(key: str, value: Any, why: str) -> errors.CNIError:
    return errors.CNIError(errors.Code.UNSUPPORTED_FIELD, f"{key}={value!r} is not supported: {why}")


def _link_state(call: Call) -> bool:
    value = call.asked("linkState") or call.config.get("linkState") or "up"
    if not isinstance(value, str) or value not in _UP:
        raise invalid("linkState", value, "must be up or down")
    return _UP[value]


def _rate(source: Mapping[str, Any], direction: str) -> Rate | None:
    rate_key, burst_key = f"{direction}Rate", f"{direction}Burst"
    rate = whole(source, rate_key, 0, MAX_RATE) or 0
    burst = whole(source, burst_key, 0, MAX_BURST) or 0
    if not rate and not burst:
        return None
    if not burst:
        raise invalid(burst_key, source.get(burst_key), f"must be set where {rate_key} is")
    if not rate:
        raise invalid(rate_key, source.get(rate_key), f"must be set where {burst_key} is")
    if rate < MIN_RATE:
        raise invalid(rate_key, rate, f"must be at least {MIN_RATE} bits a second")
    return Rate(rate, burst)


def _sysctl_path(name: str, ifname: str) -> str:
    """Dots separate, as in sysctl(8), and slashes where the first separator is one: an interface may have dots."""
    if name.startswith("net/"):
        parts = name.split("/")
    elif _SYSCTL.fullmatch(name) and "/" not in name.partition(".")[0]:
        # in the dotted form a slash stands for the dot of a name (`net.ipv4.conf.eth0/100.arp_filter`)
        parts = [part.replace("/", ".") for part in name.split(".")]
    else:
        raise invalid("sysctl", name, "must be a setting below net")
    bad = [part for part in parts if part in ("", ".", "..") or "/" in part or not part.isprintable()]
    if parts[0] != "net" or len(parts) < 2 or bad:
        raise invalid("sysctl", name, "must be a setting below net")
    return "/".join(ifname if part == "IFNAME" else part for part in parts[1:])


def _sysctl_value(name: str, value: Any) -> str:
    if not isinstance(value, str) or "\n" in value or "\0" in value:
        raise invalid(f"sysctl {name}", value, "must be a string of one line")
    return value


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise invalid(key, value, "must be an object")
    return value
