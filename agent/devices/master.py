"""Pure: the link of the node, or of the pod, that an interface is made on, and what macvlan, ipvlan and vlan share.

Rules
1. Without `master` it is the link of the default route at the time of the ADD. Nothing has to remember which one that
   was: the interface keeps it, and with the master the kernel removes what is made on it.
2. What is made on a master of the node is born in the pod (agent.devices.marked).
"""

from __future__ import annotations

from abc import abstractmethod

from agent import options
from agent.devices import marked
from agent.devices.contract import Device
from agent.links import (
    POD,
    Attributes,
    Change,
    Create,
    DefaultLink,
    Have,
    IndexOf,
    Interface,
    Link,
    NamedLink,
    Read,
    Refusals,
    Remove,
    Step,
    Sysctl,
    Where,
    WriteSysctl,
)
from cni import errors

_PLACES = {Where.NODE: "on the node", Where.IN_POD: "in the container"}


class OnMaster(Device):
    """An interface of one kind on the master that the options `master` and `linkInContainer` name."""

    OWN_MAC = False

    kind: str
    changeable = True  # the kernel changes `data` of a link that is there; where not, that is made anew
    interface: Interface

    def __init__(self, call: options.Call, interface: Interface, *, required: bool = False) -> None:
        self.interface = interface
        self._key = call.key
        self._where = Where.IN_POD if options.flag(call.config, "linkInContainer") else Where.NODE
        named = required or bool(call.config.get("master"))
        self._master = options.link_name(call.config, "master") if named else ""

    @abstractmethod
    def data(self) -> Attributes:
        """Return what is particular to the kind, for the message that makes the link or changes it."""

    @abstractmethod
    def differences(self, pod: Link) -> tuple[str, ...]:
        """Return what of that is not so with the link that is there."""

    def refusals(self, master: Link) -> Refusals:
        """Return what the kernel means by an errno (agent.links.Create)."""
        return ()

    def ready(self, want: Interface, have: Have) -> Link:
        """Return the master, fit to carry the interface.

        Raises CNIError: 50 where there is none, 7 where frames of that MTU do not fit through it.
        """
        master = self._link(have)
        if master is None:
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, self._missing())
        if want.mtu is not None and want.mtu > master.mtu:
            raise options.invalid("mtu", want.mtu, f"is more than the {master.mtu} of master {master.name}")
        return master

    def reads(self) -> tuple[Read, ...]:
        return (self._read(), *(marked.reads(self._key) if self._where is Where.NODE else ()))

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        is_there = marked.is_there(self._key, have)
        master = self.ready(want, have)
        if not is_there:
            return (*marked.leftover(self._key, have), *self._making(want, have, master))
        assert have.pod
        is_right = have.pod.kind == self.kind and self._is_on(have.pod, master)
        differs = is_right and bool(self.differences(have.pod))
        if not is_right or (differs and not self.changeable):
            return (Remove(have.pod, Where.IN_POD), *self._making(want, have, master))
        changed = (Change(want.ifname, Where.IN_POD, kind=self.kind, data=self.data()),)
        return (*marked.steps(self._key, have.pod), *(changed if differs else ()))

    def kinds(self) -> tuple[str, ...]:
        return (self.kind,)

    def removal(self, have: Have) -> tuple[Step, ...]:
        return marked.removal(self._key, have)

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        master, pod = self._link(have), have.pod
        found = (self._missing(),) if self._master and master is None else ()
        if pod is None:
            return found
        if pod.kind != self.kind:
            return (*found, f"interface {pod.name} is a {pod.kind or 'physical'} link, not a {self.kind}")
        if master is not None and not self._is_on(pod, master):
            found = (*found, f"interface {pod.name} is not on master {self._master}")
        return (*found, *self.differences(pod))

    def refuse_unready(self, have: Have) -> None:
        if self._where is Where.NODE:  # a container's own link cannot be known
            self.ready(self.interface, have)

    def _making(self, want: Interface, have: Have, master: Link) -> tuple[Step, ...]:
        name = marked.name_at_birth(self._key, have)
        beyond: Attributes = (("IFLA_NET_NS_FD", POD),) if self._where is Where.NODE else ()
        create = Create(
            name,
            self.kind,
            self._where,
            data=self.data(),
            attributes=(
                ("IFLA_LINK", IndexOf(master.name, self._where)),
                *beyond,
                *((("IFLA_ADDRESS", want.mac),) if want.mac else ()),
                *options.mtu_attribute(want.mtu),
                *marked.newborn(self._key),
            ),
            refusals=self.refusals(master),
        )
        return (create, *marked.steps(self._key, None, name), *notifying(want))

    def _is_on(self, pod: Link, master: Link) -> bool:
        """Whether the pod's interface is on the master, if one is named (rule 1)."""
        # what is made on a link of its own kind is put on that one's master
        real = master.parent if master.kind == self.kind and self.kind != "vlan" else master.index
        return not self._master or pod.parent == real

    def _read(self) -> Read:
        return NamedLink(self._master, self._where) if self._master else DefaultLink(self._where)

    def _link(self, have: Have) -> Link | None:
        found: Link | None = have.facts.get(self._read())
        return found

    def _missing(self) -> str:
        place = _PLACES[self._where]
        if self._master:
            return f"master={self._master!r} is not there {place}"
        return f"master is not said, and there is no default route {place} that would tell one"


def notifying(want: Interface) -> tuple[Step, ...]:
    """Return what makes the interface tell its neighbours when it comes up with an address, as the reference does."""
    settings = (f"ipv4/conf/{want.ifname}/arp_notify", f"ipv6/conf/{want.ifname}/ndisc_notify")
    return tuple(WriteSysctl(Sysctl(path), "1", optional=True) for path in settings if want.addresses)
