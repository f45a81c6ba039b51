"""Pure: the device `macvlan`: an interface with a MAC of its own on a link of the node. Options as of the reference.

Rule 1: mode passthru gives the pod the master itself, MAC included: none is derived then, and one that is asked for
        becomes the master's too, until the interface goes (the kernel gives the master its own back).
"""

from __future__ import annotations

import errno
from dataclasses import replace

from agent import links, options
from agent.devices.master import OnMaster
from agent.links import Attributes, Link, Refusals

MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_MODE, _BC_QUEUE_LEN = 1, 7


class Macvlan(OnMaster):
    """A macvlan interface."""

    kind = "macvlan"

    OPTIONS = frozenset({"master", "mode", "linkInContainer", "bcqueuelen"})

    def __init__(self, call: options.Call) -> None:
        self._mode = options.choice(call.config, "mode", MODES, "bridge")
        interface = options.interface(call)
        super().__init__(call, replace(interface, mac=options.mac(call)) if self._mode == "passthru" else interface)
        # 0 is "not set" to the reference
        self._queue = options.whole(call.config, "bcqueuelen", 0, options.MAX_QUEUE) or None

    def data(self) -> Attributes:
        queue: Attributes = (("IFLA_MACVLAN_BC_QUEUE_LEN", self._queue),) if self._queue else ()
        return (("IFLA_MACVLAN_MODE", MODES[self._mode]), *queue)

    def differences(self, pod: Link) -> tuple[str, ...]:
        mode, queue = links.number(pod.data, _MODE), links.number(pod.data, _BC_QUEUE_LEN)
        found = () if mode == MODES[self._mode] else (f"interface {pod.name} is not in mode {self._mode}",)
        if self._queue and queue != self._queue:
            found = (*found, f"interface {pod.name} has a broadcast queue of {queue}, not {self._queue}")
        return found

    def refusals(self, master: Link) -> Refusals:
        return (
            (errno.EINVAL, f"master {master.name} takes no macvlan of mode {self._mode}: it is no Ethernet link, or "
             "has other macvlans while one of mode passthru needs it for itself"),
            (errno.EBUSY, f"master {master.name} is in use already, as a bridge's port or for ipvlan"),
        )  # fmt: skip
