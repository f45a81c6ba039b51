"""Pure: the kinds of device that the agent makes itself, one module each (agent.devices.contract says what is asked
of them). A new kind is such a module and its line in `KINDS`; what the kernel is to be told that no step of agent.links
can say gets a step of its own, and an adapter in agent.apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.devices.bridge import Bridge
from agent.devices.contract import Device
from agent.options import Call
from cni import errors

KINDS: Mapping[str, Callable[[Call], Device]] = {"bridge": Bridge}


def parse(call: Call) -> Device:
    """Return the device of a configuration. Raises CNIError 7 (wrong value) or 2 (unsupported), naming them."""
    kind = call.config.get("device")
    make = KINDS.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"device={kind!r} is not one of {', '.join(KINDS)}")
    return make(call)
