"""Names and addresses as CNI, NPWG and the kernel define them."""

from __future__ import annotations

import ipaddress
import re

IFNAME_BYTES = 15  # IFNAMSIZ less its terminating NUL

# CNI section 2 "Parameters" and section 1 "Configuration format" share this one
_CNI_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_HARDWARE_ADDRESS = re.compile(
    r"[0-9a-f]{2}(?:(:[0-9a-f]{2})+|(-[0-9a-f]{2})+)|[0-9a-f]{4}(?:\.[0-9a-f]{4})+", re.IGNORECASE
)


def is_cni_name(text: str) -> bool:
    """Whether `text` may be a container ID or the name of a network configuration."""
    return _CNI_NAME.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether `text` may name a Kubernetes namespace."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def is_object_name(text: str) -> bool:
    """Whether `text` may name a Kubernetes object: labels, with dots between them."""
    return len(text) <= 253 and all(_LABEL.fullmatch(part) for part in text.split("."))


def ifname_fault(name: str) -> str:
    """Return what forbids `name` as the name of an interface, or nothing."""
    if not name:
        return "is empty"
    if len(name.encode("utf-8", "replace")) > IFNAME_BYTES:
        return f"is longer than {IFNAME_BYTES} bytes"
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes of a variable: they could be told to nobody
        return "is not UTF-8"
    if name in {".", ".."}:
        return "is a directory name"
    if any(letter in "/:\0" or letter.isspace() for letter in name):
        return "contains '/', ':', NUL or whitespace"
    return ""


def hardware_address(text: str, size: int) -> str:
    """Return the address of `size` bytes in lower case with colons. Raises ValueError where it is none.

    Taken are the forms that Go's net.ParseMAC takes: 02:00:5e:.., 02-00-5e-.., 0200.5e00..
    """
    digits = re.sub(r"[:.\-]", "", text).lower()
    if not _HARDWARE_ADDRESS.fullmatch(text) or len(digits) != 2 * size:
        raise ValueError(f"is not an address of {size} bytes")
    return ":".join(digits[index : index + 2] for index in range(0, len(digits), 2))


def mac_address(text: str) -> str:
    """Return the MAC that an interface can be given. Raises ValueError where it is none."""
    mac = hardware_address(text, 6)
    if int(mac[:2], 16) & 1:
        raise ValueError("is a multicast address")
    if mac == "00:00:00:00:00:00":
        raise ValueError("is all zero")
    return mac


def ip_with_optional_prefix(text: str) -> str:
    """Return an IP address, with its prefix length where one is given, in the usual spelling.

    Raises ValueError where it is none; netmasks and zones are none, as other CNI programs do not know them.
    """
    _, slash, prefix = text.partition("/")
    if "%" in text or (slash and not (prefix.isascii() and prefix.isdigit())):
        raise ValueError("is not an IP address")
    try:
        return str(ipaddress.ip_interface(text) if slash else ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("is not an IP address") from None
