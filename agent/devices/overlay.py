"""Pure: the device `overlay`: a veth pair into an L2 segment that spans the nodes, with no switch configured.

    {"type": "hotnic", "device": "overlay", "vni": 5001, "mtu": 1450, "port": 4789}

Rules
1. `vni` has to be said, like a VLAN's number. One that was derived from a name (24 bits) might be another network's as
   well, on a node where that other one is not, and nobody would notice.
2. Where there is no controller that tells the nodes' addresses, the configuration may: `peers`, all nodes' or the
   others', and `local`; without `local` this node's address is the one of `peers` that one of its links has. Where a
   controller has told, this is refused: configurations are written by tenants.
3. The MTU is the underlay link's without VXLAN's share; a greater one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import options, underlay
from agent.devices.contract import Device
from agent.devices.segment import MAX_VNI, OVERHEAD, Segment
from agent.devices.veth_pair import Pair
from agent.links import Change, Have, IndexOf, Interface, Link, Read, Step
from agent.underlay import IPAddress, Peer, Underlay
from cni import errors

DEFAULT_PORT = 4789  # IANA's; Flannel and Cilium use 8472, Calico's VNI is 4096


class Overlay(Device):
    """A port of a segment."""

    OPTIONS = frozenset({"vni", "port", "peers", "local"})

    def __init__(self, call: options.Call) -> None:
        self.interface = options.interface(call)
        vni = options.whole(call.config, "vni", 1, MAX_VNI)
        if vni is None:
            raise options.invalid("vni", None, f"must be said: a whole number from 1 to {MAX_VNI}")
        port = options.whole(call.config, "port", 1, 65535) or DEFAULT_PORT
        self._segment = Segment(str(call.config.get("name") or ""), vni, port, _stated(call.config))
        self._pair = Pair(call.key)

    def reads(self) -> tuple[Read, ...]:
        return (*self._segment.reads(), *self._pair.reads())

    def segment(self) -> str:
        return f"overlay {self._segment.vni}"

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        self._pair.refuse_conflicts(have)
        self._segment.refuse_conflicts(have, self._pair.host_name)
        self._segment.refuse_other_ground(have, self._pair.host_name)
        self._refuse_too_great(want.mtu, have)
        return (*self._segment.steps(have, self._pair.host_name), *self._port_steps(want, have))

    def upkeep(self, have: Have) -> tuple[Step, ...]:
        host = self._pair.host(have)
        if host is None:
            return ()
        self._segment.refuse_conflicts(have, host.name)
        return (*self._segment.steps(have, host.name), *self._master_steps(host, have))

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        found = list(self._segment.mismatches(have, self._pair.host_name))
        host, bridge = self._pair.host(have), self._segment.bridge(have)
        if host is None:
            found.append(f"host end {self._pair.host_name} is missing")
        elif bridge is not None and host.master != bridge.index:
            found.append(f"host end {host.name} is not a port of bridge {bridge.name}")
        try:
            self._refuse_too_great(have.pod.mtu if have.pod else None, have)
        except errors.CNIError as problem:
            found.append(problem.message)
        return tuple(dict.fromkeys(found))

    def shown(self, have: Have) -> tuple[Link, ...]:
        found = (self._segment.bridge(have), self._pair.host(have))
        return tuple(link for link in found if link is not None)

    def host_end(self) -> str:
        return self._pair.host_name

    def kinds(self) -> tuple[str, ...]:
        return ("bridge", "vxlan", "veth")

    def removal(self, have: Have) -> tuple[Step, ...]:
        return (*self._pair.removal(have), *self._segment.removal(have, self._pair.host_name))

    def refuse_unready(self, have: Have) -> None:
        self._segment.refuse_conflicts(have)
        try:
            self._refuse_too_great(self.interface.mtu, have)
        except errors.CNIError as problem:
            code = errors.Code.NOT_AVAILABLE if problem.code == errors.Code.TRY_AGAIN else problem.code
            raise errors.CNIError(code, problem.message) from None

    def _refuse_too_great(self, mtu: int | None, have: Have) -> None:
        """Raise CNIError 7 for an MTU that does not fit, 11 where the underlay is not known."""
        address, link = self._segment.standing(have)
        room = self._segment.room(have)
        if mtu is None:
            self._segment.default_mtu(have)
        elif mtu > room:
            share = OVERHEAD[address.version]
            why = f"does not fit: {link.name} has MTU {link.mtu}, VXLAN takes {share} of it, {room} are left"
            raise options.invalid("mtu", mtu, why)

    def _port_steps(self, want: Interface, have: Have) -> tuple[Step, ...]:
        host = self._pair.host(have)
        if host is None or have.pod is None:
            mtu = want.mtu or self._segment.default_mtu(have)
            return (self._pair.create(want, mtu, (("IFLA_MASTER", IndexOf(self._segment.bridge_name)),)),)
        return (*self._master_steps(host, have), *self._pair.repair(want, have))

    def _master_steps(self, host: Link, have: Have) -> tuple[Step, ...]:
        bridge = self._segment.bridge(have)
        if bridge is not None and host.master == bridge.index:
            return ()
        return (Change(host.name, attributes=(("IFLA_MASTER", IndexOf(self._segment.bridge_name)),)),)


def _stated(config: Mapping[str, Any]) -> Underlay | None:
    """Return the underlay that the configuration states (rule 2). Raises CNIError 7."""
    local, peers = config.get("local"), config.get("peers")
    if local is None and peers is None:
        return None
    if not isinstance(peers, list) or not peers:
        raise options.invalid("peers", peers, "must be a list of the nodes' addresses")
    others = [_address(one, f"peers[{position}]") for position, one in enumerate(peers)]
    own = others if local is None else [_address(local, "local")]
    if len({one.version for one in (*own, *others)}) > 1:
        raise options.invalid("peers", peers, "must be of one family, IPv4 or IPv6, and `local` too")
    return Underlay(tuple(own), tuple(Peer("", one) for one in others))


def _address(text: Any, key: str) -> IPAddress:
    try:
        return underlay.address(text, key)
    except ValueError as problem:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, str(problem)) from None
