"""Pure: the device `ipvlan`: an interface that has the MAC of its master, on a link of the node. Options as of the
reference; plain L2 works too, which it does not there.

Rule 1: all ipvlans of one master have one mode, the one that was asked for last: the kernel has it so. CHECK tells.
"""

from __future__ import annotations

import errno

from agent import links, options
from agent.devices.master import OnMaster
from agent.links import Attributes, Change, Link, Refusals, Step

MODES = {"l2": 0, "l3": 1, "l3s": 2}
_MODE = 1


class Ipvlan(OnMaster):
    """An ipvlan interface."""

    kind = "ipvlan"

    OPTIONS = frozenset({"master", "mode", "linkInContainer"})

    def __init__(self, call: options.Call) -> None:
        self._mode = options.choice(call.config, "mode", MODES, "l2")
        super().__init__(call, options.interface(call, own_mac=False))

    def data(self) -> Attributes:
        return (("IFLA_IPVLAN_MODE", MODES[self._mode]),)

    def differences(self, pod: Link) -> tuple[str, ...]:
        is_right = links.number(pod.data, _MODE) == MODES[self._mode]
        return () if is_right else (f"interface {pod.name} is not in mode {self._mode}",)

    def is_contested(self, steps: tuple[Step, ...]) -> bool:
        return any(isinstance(step, Change) and step.data for step in steps)  # rule 1

    def refusals(self, master: Link) -> Refusals:
        return (
            (errno.EINVAL, f"master {master.name} takes no ipvlan: it is no Ethernet link"),
            (errno.EBUSY, f"master {master.name} is in use already, as a bridge's port or for macvlan"),
        )
