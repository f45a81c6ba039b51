"""Pure: the device `tap`: a tap in the pod, for a virtual machine or another program. Options as of the reference.

Rules
1. With `owner` and with `group` both must match those of a program that opens the tap without CAP_NET_ADMIN: the
   kernel has it so. Say one of them.
2. `bridge` names a bridge in the pod, which the tap is made a port of; it has to be there.
3. A tap has the SELinux label of the thread that makes it, and SELinux lets no single thread of a process change its
   own freely: `selinuxContext` is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent import links, options
from agent.devices import marked
from agent.devices.contract import Device
from agent.devices.master import notifying
from agent.links import (
    Change,
    CreateTap,
    Have,
    IndexOf,
    Interface,
    Link,
    NamedLink,
    Read,
    Remove,
    Step,
    TapDriver,
    Where,
)
from cni import errors

KIND = "tun"
MAX_ID = 0xFFFFFFFE  # the highest number means "nobody"
_OWNER, _GROUP, _MULTI_QUEUE = 1, 2, 7
_SELINUX = "a tap has the label of the agent, whose threads cannot change theirs one by one"


class Tap(Device):
    """A tap."""

    OPTIONS = frozenset({"multiQueue", "owner", "group", "bridge"})

    def __init__(self, call: options.Call) -> None:
        options.refuse(call.config, ("selinuxContext",), _SELINUX)
        self.interface = options.interface(call)
        self._key = call.key
        self._multi_queue = options.flag(call.config, "multiQueue")
        self._owner = options.whole(call.config, "owner", 0, MAX_ID)
        self._group = options.whole(call.config, "group", 0, MAX_ID)
        self._bridge = options.link_name(call.config, "bridge") if call.config.get("bridge") else ""

    def reads(self) -> tuple[Read, ...]:
        return (TapDriver(), *((NamedLink(self._bridge, Where.IN_POD),) if self._bridge else ()))

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        is_there = marked.is_there(self._key, have)
        bridge = self._ready_bridge(have)
        if not is_there or have.pod is None:
            return (*self._making(want), *self._joining(bridge))
        if any(self._differences(have.pod)):
            return (Remove(have.pod, Where.IN_POD), *self._making(want), *self._joining(bridge))
        return self._joining(bridge) if bridge and have.pod.master != bridge.index else ()

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        if have.pod is None:
            return ()
        bridge = have.link(self._bridge, Where.IN_POD) if self._bridge else None
        found = tuple(self._differences(have.pod))
        if self._bridge and (bridge is None or have.pod.master != bridge.index):
            return (*found, f"interface {have.pod.name} is not a port of bridge {self._bridge}")
        return found

    def removal(self, have: Have) -> tuple[Step, ...]:
        return marked.removal(self._key, have)

    def refuse_unready(self, have: Have) -> None:
        if problem := have.facts.get(TapDriver()):
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, problem)

    def _making(self, want: Interface) -> tuple[Step, ...]:
        attributes = (("IFLA_ADDRESS", want.mac), *options.mtu_attribute(want.mtu), *marked.alias(self._key))
        create = CreateTap(want.ifname, attributes, self._multi_queue, self._owner, self._group)
        return (create, *notifying(want))

    def _joining(self, bridge: Link | None) -> tuple[Step, ...]:
        master = ("IFLA_MASTER", IndexOf(self._bridge, Where.IN_POD))
        return (Change(self._key.ifname, Where.IN_POD, (master,)),) if bridge else ()

    def _ready_bridge(self, have: Have) -> Link | None:
        """Return the bridge that the tap joins, if any. Raises CNIError 7 where it is no bridge."""
        if not self._bridge:
            return None
        bridge = have.link(self._bridge, Where.IN_POD)
        if bridge is None or bridge.kind != "bridge":
            raise options.invalid("bridge", self._bridge, "must be a bridge in the container")
        return bridge

    def _differences(self, pod: Link) -> Iterator[str]:
        if pod.kind != KIND:
            yield f"interface {pod.name} is a {pod.kind or 'physical'} link, not a tap"
            return
        for name, number, wanted in (("owner", _OWNER, self._owner), ("group", _GROUP, self._group)):
            if (there := links.number(pod.data, number)) != wanted:
                yield f"the {name} of {pod.name} is {there}, not {wanted}"
        if bool(links.number(pod.data, _MULTI_QUEUE)) != self._multi_queue:
            yield f"{pod.name} has {'one queue' if self._multi_queue else 'many queues'}"
