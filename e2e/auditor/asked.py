"""What a pod's annotation asks for (NPWG 1.3, section 4), read by this auditor's own means.

Rule 1: only what the tests write is read: names, interfaces, MACs and addresses. What is wrong in the specification's
        eyes is wrong here as well, or the verdict would be.
Rule 2: an interface name belongs to the first element that asks for it.
"""

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NETWORKS = "k8s.v1.cni.cncf.io/networks"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_SHORT = re.compile(r"(?:(?P<namespace>[^/@]+)/)?(?P<name>[^/@]+)(?:@(?P<interface>[^/@]*))?")


@dataclass(frozen=True, slots=True)
class Element:
    """One element. `wrong`: why it cannot be fulfilled as it stands, "" where it may be."""

    network: str
    interface: str = ""
    mac: str = ""
    ips: tuple[str, ...] = ()
    wrong: str = ""


def read(pod: Mapping[str, Any]) -> tuple[Element, ...] | None:
    """Return the elements of the pod's annotation; None where nobody can read it."""
    meta = pod["metadata"]
    text = str((meta.get("annotations") or {}).get(NETWORKS) or "").strip()
    try:
        found = _json(text) if re.search(r'[\[{"]', text) else _short(text)
    except (ValueError, TypeError):
        return None
    return tuple(_checked(found, meta["namespace"]))


def _json(text: str) -> list[dict[str, Any]]:
    found = json.loads(text)
    if not isinstance(found, list):
        raise TypeError("no list")
    return found


def _short(text: str) -> list[dict[str, Any]]:
    found = []
    for word in filter(None, (one.strip() for one in text.split(","))):
        match = _SHORT.fullmatch(word)
        if match is None:
            raise ValueError(word)
        found.append({key: value for key, value in match.groupdict().items() if value})
    return found


def _checked(found: list[dict[str, Any]], namespace: str) -> Iterator[Element]:
    taken: set[str] = set()
    for one in found:
        interface, mac = str(one.get("interface") or ""), str(one.get("mac") or "").lower()
        network = f"{one.get('namespace') or namespace}/{one.get('name')}"
        ips = tuple(str(ip) for ip in one.get("ips") or ())
        yield Element(
            network, interface, mac, ips, _wrong(one, interface, mac, ips) or (interface in taken and "taken") or ""
        )
        taken |= {interface} - {""}


def _wrong(one: Mapping[str, Any], interface: str, mac: str, ips: tuple[str, ...]) -> str:
    if not _LABEL.fullmatch(str(one.get("name") or "")):
        return "name"
    if interface in ("eth0", "lo") or len(interface) > 15 or re.search(r"[\s/:]", interface):
        return "interface"
    if mac and not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac):
        return "mac"
    try:
        [ipaddress.ip_interface(ip) for ip in ips]
    except ValueError:
        return "ips"
    return ""
