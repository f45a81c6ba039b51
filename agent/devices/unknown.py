"""Pure: the device of a configuration that cannot be read (any more), as a DEL may meet it.

It removes what an attachment of any kind leaves that is proven ours by what is derived from its key alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import options
from agent.devices import marked
from agent.devices.borrowed import Borrowed
from agent.devices.contract import Device
from agent.devices.veth_pair import Pair
from agent.links import Have, Interface, Read, Step
from agent.model import Key
from cni import errors


class Unknown(Device):
    """For `removal` only."""

    def __init__(self, key: Key, saved: Mapping[str, Any]) -> None:
        self.interface = Interface(key.ifname, bandwidth=options.companion(key))
        self._key = key
        self._pair = Pair(key)
        self._borrowed = Borrowed(key, saved)

    def reads(self) -> tuple[Read, ...]:
        return (*self._pair.reads(), *marked.reads(self._key), *self._borrowed.reads())

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"nothing is known of the device of {want.ifname}")

    def removal(self, have: Have) -> tuple[Step, ...]:
        return (
            *self._pair.removal(have),
            *marked.removal(self._key, have),
            *self._borrowed.removal(have),
        )
