"""Pure: the device `dummy`: an interface that drops what is sent: a place for addresses. Options as of the reference,
`mac` and `mtu` besides; plain L2 works too, which it does not there.
"""

from __future__ import annotations

from agent import options
from agent.devices import marked
from agent.devices.contract import Device
from agent.links import Create, Have, Interface, Read, Remove, Step, Where

KIND = "dummy"


class Dummy(Device):
    """A dummy interface."""

    def __init__(self, call: options.Call) -> None:
        self.interface = options.interface(call)
        self._key = call.key

    def reads(self) -> tuple[Read, ...]:
        return ()

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        if not marked.is_there(self._key, have):
            return self._making(want)
        assert have.pod
        if have.pod.kind != KIND:
            return (Remove(have.pod, Where.IN_POD), *self._making(want))
        return marked.steps(self._key, have.pod)

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        if have.pod is None or have.pod.kind == KIND:
            return ()
        return (f"interface {have.pod.name} is a {have.pod.kind or 'physical'} link, not a {KIND}",)

    def kinds(self) -> tuple[str, ...]:
        return (KIND,)

    def removal(self, have: Have) -> tuple[Step, ...]:
        return marked.removal(self._key, have)

    def _making(self, want: Interface) -> tuple[Step, ...]:
        attributes = (
            ("IFLA_ADDRESS", want.mac),
            *options.mtu_attribute(want.mtu),
            *marked.newborn(self._key),
        )
        create = Create(want.ifname, KIND, Where.IN_POD, attributes=attributes)
        return (create, *marked.steps(self._key, None))
