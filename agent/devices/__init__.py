"""Pure: the kinds of device that the agent makes itself, one module each (agent.devices.contract says what is asked
of them). A new kind is such a module and its line in `KINDS`; what the kernel is to be told that no step of agent.links
can say gets a step of its own, and an adapter in agent.apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agent.devices.bridge import Bridge
from agent.devices.contract import Device
from agent.devices.dummy import Dummy
from agent.devices.host_device import HostDevice
from agent.devices.ipvlan import Ipvlan
from agent.devices.macvlan import Macvlan
from agent.devices.overlay import Overlay
from agent.devices.ovs import Ovs
from agent.devices.tap import Tap
from agent.devices.veth import Veth
from agent.devices.vlan import Vlan
from agent.options import Call, unsupported
from cni import errors


class _Kind(Protocol):
    @property
    def OPTIONS(self) -> frozenset[str]: ...

    def __call__(self, call: Call) -> Device: ...


KINDS: Mapping[str, _Kind] = {
    "bridge": Bridge,
    "macvlan": Macvlan,
    "ipvlan": Ipvlan,
    "vlan": Vlan,
    "veth": Veth,
    "tap": Tap,
    "dummy": Dummy,
    "host-device": HostDevice,
    "overlay": Overlay,
    "ovs": Ovs,
}

_CALLERS = frozenset({"deviceID", "pciBusID"})  # added to any configuration for who has a device of a device plugin
_NOBODYS = frozenset({"ipMasq", "ipMasqBackend"})
_OWNERS: Mapping[str, str] = {
    option: ", ".join(name for name, kind in KINDS.items() if option in kind.OPTIONS)
    for option in frozenset[str]().union(*(kind.OPTIONS for kind in KINDS.values())) - _CALLERS
}

IN_A_DATABASE = ("ovs",)  # the kernel forgets its links, the switch's database does not


def outlives_reboot(config: Mapping[str, Any]) -> bool:
    """Whether an attachment leaves something behind when the power goes; the configuration may be invalid."""
    return bool(config.get("ipam")) or config.get("device") in IN_A_DATABASE


def parse(call: Call) -> Device:
    """Return the device of a configuration. Raises CNIError 7 (wrong value) or 2 (unsupported), naming them."""
    return _kind(call.config)(call)


def refuse_foreign(config: Mapping[str, Any]) -> None:
    """Raise CNIError 2 for an option that only other kinds have: it would have no effect, which nobody would notice.

    What no kind has may be anybody's (a vendor's, or another caller's), and is left alone. Not for a DEL, nor for what
    is attached: it may have been attached when this was not refused.
    """
    own, device = _kind(config).OPTIONS, config.get("device")
    for key, value in config.items():
        if value and key not in own:
            if key in _OWNERS:
                raise unsupported(key, value, f"by device {device}; it is an option of {_OWNERS[key]}")
            if key in _NOBODYS:
                raise unsupported(key, value, f"by device {device}; masquerading is the node's firewall's business")


def _kind(config: Mapping[str, Any]) -> _Kind:
    name = config.get("device")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"device={name!r} is not one of {', '.join(KINDS)}")
    return kind
