"""Performs steps, and reads what devices want to know: the agent's hands in the kernel, one function each.

`STEPS` and `READERS` say which function serves which class; those of agent.links are here, all others in the modules
that are named there.

Rules
1. "Already there" on a create of something shared, and "already gone" on a removal are success; nothing else is.
2. Errors leave as CNIError with the kernel's word for them, and with what was being done.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent import fdb, hardware, layer3, lending, links, netns, ovsdb, rtnl, switch, sysfs, tap, wiring
from agent.links import Link, Where
from agent.place import NO_STATISTICS, UP, Gone, Place, delete, get, index, link, read_link, translated
from cni import errors


def apply(place: Place, step: links.Step) -> None:
    """Perform one step. Raises CNIError: 11 where the kernel was busy, 999 for any other refusal of it."""
    STEPS[type(step)](place, step)


def read(place: Place, what: links.Read) -> Any:
    """Return what is known of `what`; None where it is not there."""
    try:
        return READERS[type(what)](place, what)
    except Gone:  # between two looks at it, as a pod's links do while the kernel takes its namespace down
        return READERS[type(what)](place, what)


def _read_kind(place: Place, what: links.LinksOfKind) -> frozenset[Link]:
    asked = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", what.kind)]})
    with translated(f"list {what.kind} links"):
        listed = map(link, place.node.dump(rtnl.GETLINK, {}, [asked, NO_STATISTICS]))
        return frozenset(one for one in listed if one.kind == what.kind)  # unknown to the kernel: it lists all


def _read_bridge_ports(place: Place, what: links.BridgePorts) -> frozenset[str]:
    bridge = get(place.node, what.bridge)
    if bridge is None:
        return frozenset()
    with translated(f"list the ports of {what.bridge}"):
        return fdb.ports(place.node, bridge.index)


def _create(place: Place, step: links.Create) -> None:
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", step.kind)]
    if step.data:
        info.append(("IFLA_INFO_DATA", _resolved(place, step.data)))
    attributes = [("IFLA_IFNAME", step.name), *_resolved(place, step.attributes)["attrs"]]
    with translated(f"create {step.kind} link {step.name}", step.refusals):
        try:
            fields = UP if step.up else {}
            where = place.socket(step.where)
            where.do(rtnl.NEWLINK, fields, [*attributes, ("IFLA_LINKINFO", {"attrs": info})], rtnl.CREATE | rtnl.EXCL)
        except rtnl.KernelError as problem:
            if not (step.shared and problem.code == errno.EEXIST):
                raise


def _change(place: Place, step: links.Change) -> None:
    """Change a link: one message that names it, where that can say all. In others the name is the one that it gets."""
    where = place.socket(step.where)
    attributes = _resolved(place, step.attributes)["attrs"]
    is_plain = not step.data and not step.port and "IFLA_IFNAME" not in dict(attributes)
    if step.data:
        info = [("IFLA_INFO_KIND", step.kind), ("IFLA_INFO_DATA", _resolved(place, step.data))]
        attributes.append(("IFLA_LINKINFO", {"attrs": info}))
    if step.port:
        info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", _resolved(place, step.port))]
        attributes.append(("IFLA_LINKINFO", {"attrs": info}))
    values, mask = step.flags
    if step.up is not None:
        values, mask = values | int(step.up), mask | 1
    with translated(f"change link {step.name}"):
        fields = {"flags": values, "change": mask}
        if is_plain:
            where.do(rtnl.SETLINK, fields, [("IFLA_IFNAME", step.name), *attributes])
        else:
            where.do(rtnl.NEWLINK, {"index": index(where, step.name), **fields}, attributes)


def _remove(place: Place, step: links.Remove) -> None:
    delete(place.socket(step.where), step.link)


def _resolved(place: Place, attributes: links.Attributes) -> dict[str, list[tuple[str, Any]]]:
    """Return the attributes with what is known only now (links, rule 2)."""
    return {"attrs": [(name, _value(place, value)) for name, value in attributes]}


def _value(place: Place, value: Any) -> Any:
    match value:
        case links.IndexOf(name, Where.NODE):
            return _index_here(name)
        case links.IndexOf(name, where):
            return index(place.socket(where), name)
        case links.POD:
            return place.netns_fd
        case links.RANDOM_MAC:
            return bytes((2, *os.urandom(5))).hex(":")
        case tuple():
            return _resolved(place, value)
    return value


def _index_here(name: str) -> int:
    """Return the index of the node's link of that name, without a wait for whoever changes some link just now."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise Gone(errors.Code.INTERNAL, f"interface {name} is gone") from None


# -- settings ----------------------------------------------------------------------------------------------------


def _read_sysctl(place: Place, what: links.Sysctl) -> str | None:
    try:
        return _in_namespace(place, what, lambda knob: knob.read_text().strip())
    except OSError:
        return None


def _write_sysctl(place: Place, step: links.WriteSysctl) -> None:
    try:
        _in_namespace(place, step.sysctl, lambda knob: _write(knob, step.value))
    except OSError as problem:
        if not (step.optional and problem.errno == errno.ENOENT):
            message = f"cannot set sysctl net/{step.sysctl.path} to {step.value!r}: {problem.strerror}"
            raise errors.CNIError(errors.Code.INTERNAL, message) from None


def _write(knob: Path, value: str) -> str:
    with knob.open("r+") as file:  # never made where it is missing
        file.write(value)
    return value


def _in_namespace(place: Place, what: links.Sysctl, act: Callable[[Path], str]) -> str:
    knob = Path(place.view.place("/proc/sys/net"), what.path)  # a container's own cannot be written
    if what.where is Where.NODE:
        return act(knob)
    place.socket(Where.IN_POD)
    with netns.entered(place.netns_fd):  # /proc/sys/net shows the namespace of the thread that opens it
        return act(knob)


STEPS: Mapping[type, Callable[[Place, Any], None]] = {
    links.Create: _create,
    links.CreateTap: lambda place, step: tap.create(place.socket(Where.IN_POD), place.netns_fd, step),
    links.Change: _change,
    links.Remove: _remove,
    links.WriteSysctl: _write_sysctl,
    switch.AddPort: lambda place, step: ovsdb.add_port(place.view.place, step),
    switch.RemovePort: lambda place, step: ovsdb.remove_port(place.view.place, step),
    **layer3.STEPS,
    **wiring.STEPS,
    **lending.STEPS,
}

READERS: Mapping[type, Callable[[Place, Any], Any]] = {
    links.NamedLink: read_link,
    links.LinksOfKind: _read_kind,
    links.BridgePorts: _read_bridge_ports,
    links.TapDriver: lambda _, __: tap.what_is_in_the_way(),
    links.Sysctl: _read_sysctl,
    hardware.Behind: lambda place, what: sysfs.behind(Path(place.view.place("/sys")), what.bus, what.device),
    switch.SwitchPort: lambda place, what: ovsdb.read_port(place.view.place, what),
    **layer3.READERS,
    **wiring.READERS,
    **lending.READERS,
}
