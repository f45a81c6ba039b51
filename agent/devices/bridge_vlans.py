"""Pure: the VLANs of a bridge's port: `vlan`, `vlanTrunk`, `preserveDefaultVlan`, as the reference `bridge` reads them.

Rules
1. A bridge that exists without VLAN filtering is refused: the VLANs would have no effect, and to switch it on would
   cut off whoever uses that bridge already.
2. A trunk without `vlan` has VLAN 1 untagged, as the reference has it. Where a VLAN is both, it is the untagged one.
3. The port has these VLANs and no other, unless `preserveDefaultVlan`. Those of the bridge itself and of its uplink are
   the administrator's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from agent import links, options
from agent.devices import vlan_ids
from agent.links import Attributes, Have, Link, Read, Step
from agent.ports import PortVlans, SetVlans, Vlan, VlanFiltering
from cni import errors

_DEFAULT = 1  # the VLAN that the kernel gives each port, unless the bridge has another
_FILTERING, _DEFAULT_PVID = 7, 39  # IFLA_BR_VLAN_FILTERING, IFLA_BR_VLAN_DEFAULT_PVID


class Vlans:
    """What one port shall have; nothing where neither option is said."""

    def __init__(self, config: Mapping[str, Any], port: str) -> None:
        self._port = port
        self._preserve = options.flag(config, "preserveDefaultVlan")
        self.access = options.whole(config, "vlan", 0, vlan_ids.MAX_ID) or 0
        self._wanted = frozenset(_wanted(self.access, set(vlan_ids.read(config, "vlanTrunk"))))
        self._asked = ", ".join(f"{key}={config[key]!r}" for key in ("vlan", "vlanTrunk") if config.get(key))

    def reads(self) -> tuple[Read, ...]:
        return (VlanFiltering(), PortVlans(self._port)) if self._wanted else ()

    def of_the_bridge(self) -> Attributes:
        """Return what a bridge that is made has to have."""
        return (("IFLA_BR_VLAN_FILTERING", 1),) if self._wanted else ()

    def refuse(self, name: str, bridge: Link | None, have: Have) -> None:
        """Raise CNIError 50 where the kernel cannot do it, 7 where this bridge does not (rule 1)."""
        if not self._wanted:
            return
        if not have.facts[VlanFiltering()]:
            message = f"{self._asked} needs a kernel with VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING)"
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, message)
        if bridge is not None and not links.number(bridge.data, _FILTERING):
            message = (
                f"{self._asked} has no effect on bridge={name!r}, which exists without VLAN filtering: enable it there "
                f"(ip link set {name} type bridge vlan_filtering 1), or name another bridge"
            )
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)

    def steps(self, bridge: Link | None, have: Have, *, new: bool) -> tuple[Step, ...]:
        """Return what is to be done; `new`: as a port of this bridge, which then has the bridge's default VLAN."""
        if not self._wanted:
            return ()
        there = have.facts.get(PortVlans(self._port))
        current = _given(bridge) if new or there is None else there
        kept = {vlan.id for vlan in self._wanted}
        add = tuple(sorted(self._wanted - current))
        drop = () if self._preserve else tuple(sorted({vlan.id for vlan in current} - kept))
        return (SetVlans(self._port, add, drop),) if add or drop else ()

    def mismatches(self, bridge: Link, have: Have) -> Iterator[str]:
        """Yield what is missing of the port's VLANs; what another has added is no mismatch."""
        if self._wanted and not links.number(bridge.data, _FILTERING):
            yield f"bridge {bridge.name} has no VLAN filtering (any more)"
        there = {vlan.id: vlan for vlan in have.facts.get(PortVlans(self._port)) or ()}
        if missing := sorted({vlan.id for vlan in self._wanted} - there.keys()):
            yield f"port {self._port} has no VLAN {', '.join(_ranges(missing))}"
        for vlan in sorted(self._wanted):
            if there.get(vlan.id, vlan) != vlan:
                yield f"port {self._port} has VLAN {vlan.id} {_kind(there[vlan.id])}, not {_kind(vlan)}"


def _wanted(access: int, trunk: set[int]) -> Iterator[Vlan]:
    native = access or (_DEFAULT if trunk else 0)
    if native:
        yield Vlan(native, pvid=True, untagged=True)
    yield from map(Vlan, trunk - {native})


def _given(bridge: Link | None) -> frozenset[Vlan]:
    """The VLANs that a port has as soon as it is one."""
    default = _DEFAULT if bridge is None else links.number(bridge.data, _DEFAULT_PVID)
    return frozenset({Vlan(default, pvid=True, untagged=True)} if default else ())


def _ranges(numbers: list[int]) -> Iterator[str]:
    """As a trunk of 4094 is best read: `1, 5-7`."""
    for _, run in itertools.groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        ids = [number for _, number in run]
        yield f"{ids[0]}-{ids[-1]}" if len(ids) > 1 else f"{ids[0]}"


def _kind(vlan: Vlan) -> str:
    return f"{'untagged' if vlan.untagged else 'tagged'}{' and PVID' if vlan.pvid else ''}"
