"""Pure: a veth pair, one end in the pod and one on the node: what several devices are made of.

The host end is known by its name, derived where none is asked for, and is proven ours by its derived MAC, which no pod
can change. The pod may rename its end and change that one's MAC; removing the host end removes both.
"""

from __future__ import annotations

from agent import options
from agent.devices.contract import name_taken
from agent.links import POD, Attributes, Change, Create, Have, Interface, Link, NamedLink, Read, Remove, Step
from agent.model import Key
from cni import errors


class Pair:
    """The pair of one attachment."""

    def __init__(self, key: Key, host_name: str = "") -> None:
        self._ifname = key.ifname
        self.host_name = host_name or options.host_name(key)
        self._host_mac = options.derived_mac(key, "host")

    def reads(self) -> tuple[Read, ...]:
        return (NamedLink(self.host_name),)

    def host(self, have: Have) -> Link | None:
        """Return the host end, if there is one and it is ours."""
        link = have.link(self.host_name)
        return link if link is not None and link.kind == "veth" and link.mac == self._host_mac else None

    def refuse_conflicts(self, have: Have) -> None:
        """Raise CNIError 7 where either name is another's."""
        if have.link(self.host_name) is not None and self.host(have) is None:
            raise errors.CNIError(errors.Code.INVALID_CONFIG, f"link {self.host_name!r} on the node is not ours")
        if have.pod is not None and self.host(have) is None:
            raise name_taken(self._ifname)

    def create(self, want: Interface, mtu: int | None, host: Attributes = ()) -> Create:
        """The pair in one message, the host end up; only the other cannot be brought up in it (ENOTCONN)."""
        peer: Attributes = (
            ("IFLA_IFNAME", want.ifname),
            ("IFLA_ADDRESS", want.mac),
            ("IFLA_NET_NS_FD", POD),
            *options.mtu_attribute(mtu),
        )
        return Create(
            self.host_name,
            "veth",
            data=(("VETH_INFO_PEER", peer),),
            attributes=(("IFLA_ADDRESS", self._host_mac), *host, *options.mtu_attribute(mtu)),
            up=True,
        )

    def repair(self, want: Interface, have: Have) -> tuple[Step, ...]:
        """The host end of a pair that is there: its MTU, and that it is up. The other end is agent.interface's."""
        host = self.host(have)
        if host is None:
            return ()
        changed = options.mtu_attribute(want.mtu if host.mtu != want.mtu else None)
        return () if host.up and not changed else (Change(host.name, attributes=changed, up=True),)

    def removal(self, have: Have) -> tuple[Step, ...]:
        host = self.host(have)
        return () if host is None else (Remove(host),)
