"""Pure: the kinds of device that the agent makes itself, one module each (agent.devices.contract says what is asked
of them). A new kind is such a module and its line in `KINDS`; what the kernel is to be told that no step of agent.links
can say gets a step of its own, and an adapter in agent.apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
from agent.options import Call
from cni import errors

KINDS: Mapping[str, Callable[[Call], Device]] = {
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

IN_A_DATABASE = ("ovs",)  # the kernel forgets its links, the switch's database does not


def outlives_reboot(config: Mapping[str, Any]) -> bool:
    """Whether an attachment leaves something behind when the power goes; the configuration may be invalid."""
    return bool(config.get("ipam")) or config.get("device") in IN_A_DATABASE


def parse(call: Call) -> Device:
    """Return the device of a configuration. Raises CNIError 7 (wrong value) or 2 (unsupported), naming them."""
    kind = call.config.get("device")
    make = KINDS.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"device={kind!r} is not one of {', '.join(KINDS)}")
    return make(call)
