"""Pure: the device `vlan`: one VLAN of a link of the node, untagged in the pod. Options as of the reference; plain L2
works too, which it does not there.

Rules
1. A link has each VLAN once, whatever the namespace: the second pod is refused, and told what to use instead.
2. The interface has the MAC of its master unless one is asked for.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from agent import links, options
from agent.devices.master import OnMaster
from agent.links import Attributes, Have, Interface, Link, Refusals
from cni import errors

MAX_VLAN = 4094
_ID = 1


class Vlan(OnMaster):
    """A VLAN interface."""

    kind = "vlan"
    changeable = False

    OPTIONS = frozenset({"master", "vlanId", "linkInContainer"})

    def __init__(self, call: options.Call) -> None:
        super().__init__(call, replace(options.interface(call), mac=options.mac(call)), required=True)
        self._id = options.whole(call.config, "vlanId", 0, MAX_VLAN) or 0

    def data(self) -> Attributes:
        return (("IFLA_VLAN_ID", self._id),)

    def differences(self, pod: Link) -> tuple[str, ...]:
        there = links.number(pod.data, _ID)
        return () if there == self._id else (f"interface {pod.name} is VLAN {there}, not {self._id}",)

    def ready(self, want: Interface, have: Have) -> Link:
        master = super().ready(want, have)
        if want.up and not master.up:
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, f"master {master.name} is down, so its VLANs are")
        return master

    def refusals(self, master: Link) -> Refusals:
        taken = (
            f"vlanId={self._id!r} of master {master.name} is another pod's already: a link has each VLAN once. "
            "For many pods in one VLAN use device bridge with its option vlan"
        )
        return ((errno.EEXIST, taken),)
