"""Every kind of device as the tests of their common life use it: a configuration, and what the node must have for it.

A new kind is one line of `KINDS`; the tests are in test_every_device_kernel.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.agent.native import ip
from tests.kernel_features import needs


def nothing() -> None:
    """No more than an empty node."""


def uplink() -> None:
    """`m0` with 1500 bytes, up and with a carrier; `m1` is the other end of its cable."""
    ip("link", "add", "m0", "type", "veth", "peer", "name", "m1")
    for one in ("m0", "m1"):
        ip("link", "set", one, "up")


@dataclass(frozen=True)
class Kind:
    """`shared`: links of the node that stay, as the first attachment made them. `own_mac`: it can be chosen."""

    config: Mapping[str, Any]
    prepare: Callable[[], None] = nothing
    shared: frozenset[str] = frozenset()
    own_mac: bool = True
    each: Callable[[int], Mapping[str, Any]] = field(default=lambda number: {})  # where many cannot be alike

    @property
    def master(self) -> str:
        return self.config.get("master", "")


KINDS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "bridge": (Kind({"bridge": "br0"}, shared=frozenset({"br0"})), ()),
    "macvlan": (Kind({"master": "m0"}, uplink), ("macvlan",)),
    "ipvlan": (Kind({"master": "m0"}, uplink, own_mac=False), ("ipvlan",)),
    "vlan": (Kind({"master": "m0", "vlanId": 7}, uplink, each=lambda number: {"vlanId": number + 1}), ("vlan",)),
    "veth": (Kind({}), ()),
    "tap": (Kind({}), ("tap",)),
    "dummy": (Kind({}), ("dummy",)),
}
"""Each kind with the features of the kernel that it takes (tests.kernel_features)."""

ELSEWHERE: Mapping[str, str] = {
    "overlay": "takes several nodes",
    "host-device": "takes a device that exists, and makes none",
    "ovs": "takes a running Open vSwitch",
}
"""Kinds with a life of their own, whose own tests have all of it, and why."""


def parameters() -> list[Any]:
    return [
        pytest.param((name, kind), id=name, marks=[needs(*features)] if features else [])
        for name, (kind, features) in KINDS.items()
    ]
