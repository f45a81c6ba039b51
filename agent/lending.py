"""Interfaces of the node that go to a pod and come back: choosing them, and performing the steps of agent.hardware."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent import borrowing, hardware, netns, returning, rtnl, sysfs
from agent.layer3 import addresses, routes
from agent.links import Link, Where
from agent.place import NO_LINK, NO_STATISTICS, Place, get, index, link, translated
from cni import errors

log = logging.getLogger(__name__)


def _read_chosen(place: Place, what: hardware.Chosen) -> hardware.Selection:
    root = Path(place.view.place("/sys"))
    device = _LOOKUPS[what.key](root, what.value)
    with translated("list links"):
        there = place.node.dump(rtnl.GETLINK, {}, [NO_STATISTICS])
        chosen = borrowing.chosen(there, what, device)
        return hardware.Selection(device, tuple(_candidate(place.node, root, one, there) for one in chosen))


_LOOKUPS: Mapping[str, Callable[[Path, str], hardware.Hardware | None]] = {
    "hostInterface": lambda _, __: None,
    "hwaddr": lambda _, __: None,
    "kernelpath": sysfs.at,
    "pciBusID": sysfs.pci,
    "deviceID": sysfs.device,
}


def _candidate(
    node: rtnl.Socket, root: Path, one: rtnl.LinkMessage, there: list[rtnl.LinkMessage]
) -> hardware.Candidate:
    function, settings = None, None
    device = sysfs.behind(root, one.bus, one.device)
    card = next((link for link in there if device and (link.bus, link.device) in device.card), None)
    if device and card:
        function = hardware.Function(card.name, device.number)
        settings = _settings(node, function)
    return hardware.Candidate(
        link(one),
        borrowing.state(one),
        borrowing.users(one, there),
        addresses(node, one.index),
        any(route.dst.prefixlen == 0 for route in routes(node, one.index)),
        returning.read(node, one.index),
        function,
        settings,
    )


def _read_taken(place: Place, what: hardware.Taken) -> tuple[Link, Where] | None:
    """Where several are as good, as the ports of a card or what is made on one link, the mark says which one it is."""
    name = what.was.name if what.was else ""
    with translated("list links"):
        there = [(one, Where.IN_POD) for one in _taken_in_pod(place, what)]
        on_node = place.node.dump(rtnl.GETLINK, {}, [NO_STATISTICS])
        there += [(one, Where.NODE) for one in on_node if borrowing.is_taken_on_node(one, what)]
    there.sort(key=lambda found: (not borrowing.is_marked(found[0], what), found[0].name != name))
    return (link(there[0][0]), there[0][1]) if there else None


def _taken_in_pod(place: Place, what: hardware.Taken) -> list[rtnl.LinkMessage]:
    if place.pod is None:
        return []
    pod = place.pod
    if netns.is_own(place.netns_fd):  # CNI_NETNS_OVERRIDE: the mark of what is in there nobody but the node has set
        return [one for one in pod.dump(rtnl.GETLINK, {}, [NO_STATISTICS]) if borrowing.is_marked(one, what)]
    with netns.own() as node:
        there = pod.dump(rtnl.GETLINK, {}, [NO_STATISTICS])
        proven = [
            one
            for one in there
            if borrowing.is_taken_in_pod(one, what, lambda name: borrowing.name_on_node(pod, node, name))
        ]
    for one in there if not proven else ():
        if borrowing.is_marked(one, what):
            name = what.was.name if what.was else "unknown"
            log.warning("link %s of a pod bears the mark of interface %s, and is not proven to be it", one.name, name)
    return proven


def _read_settings(place: Place, what: hardware.Settings) -> hardware.VirtualFunction | None:
    with translated(f"read the functions of {what.function.card}"):
        return _settings(place.node, what.function)


def _settings(node: rtnl.Socket, function: hardware.Function) -> hardware.VirtualFunction | None:
    try:
        card = node.get(rtnl.GETLINK, {}, [("IFLA_IFNAME", function.card), borrowing.WITH_FUNCTIONS])
    except rtnl.KernelError as problem:
        if problem.code in NO_LINK:
            return None
        raise
    return borrowing.settings(card, function.number)


def _mark(place: Place, step: hardware.Mark) -> None:
    with translated(f"mark interface {step.link.name}"):
        borrowing.mark(place.node, step.link.index, step.alias)


def _lend(place: Place, step: hardware.Lend) -> None:
    with translated(f"make interface {step.link.name} the pod's {step.name}"):
        if step.where is Where.IN_POD:
            borrowing.rename(place.socket(Where.IN_POD), step.link.index, step.name)
        else:
            borrowing.move(place.node, step.link.index, place.netns_fd, step.name)


def _give_back(place: Place, step: hardware.GiveBack) -> None:
    name = _free_name(place.node, step)
    if name != step.was.name:
        log.warning("interface %s comes back to the node as %s: another link has its name", step.was.name, name)
    with translated(f"give interface {name} back to the node"):
        if step.where is Where.IN_POD:
            with netns.own() as node:
                alias = f"{step.taken.mark} {step.was.name}"
                borrowing.move(place.socket(Where.IN_POD), step.link.index, node, name, alias)
        elif step.link.name != name:
            borrowing.rename(place.node, step.link.index, name)
        there = place.node.get(rtnl.GETLINK, {}, [("IFLA_IFNAME", name)])
        if not borrowing.is_it(there, step.taken):
            _refuse(place, step, there.index)
        borrowing.restore(place.node, there, step.was)
        returning.put_back(place.node, there.index, step.setup)
        borrowing.mark(place.node, there.index, step.was.alias)


def _refuse(place: Place, step: hardware.GiveBack, ifindex: int) -> None:
    """Raise CNIError 11; a link that the pod has put in the other's place since it was read goes back to it."""
    if step.where is Where.IN_POD:
        borrowing.move(place.node, ifindex, place.netns_fd, step.link.name)
    message = f"what is in the place of interface {step.was.name} is not the one that was lent"
    raise errors.CNIError(errors.Code.TRY_AGAIN, message)


def _free_name(node: rtnl.Socket, step: hardware.GiveBack) -> str:
    """Return the name for a link that comes back: nobody's, or its own. Raises CNIError 11 where there is none."""
    for name in hardware.names(step.was.name):
        taken = get(node, name)
        if taken is None or (step.where is Where.NODE and taken.index == step.link.index):
            return name
    message = f"cannot give interface {step.link.name} back to the node: it has another {step.was.name} by now"
    raise errors.CNIError(errors.Code.TRY_AGAIN, message)


def _set_function(place: Place, step: hardware.SetFunction) -> None:
    with translated(f"set {step.settings} for function {step.function.number} of {step.function.card}"):
        borrowing.set_function(place.node, index(place.node, step.function.card), step.function, step.settings)


STEPS: Mapping[type, Callable[[Place, Any], None]] = {
    hardware.Mark: _mark,
    hardware.Lend: _lend,
    hardware.GiveBack: _give_back,
    hardware.SetFunction: _set_function,
}

READERS: Mapping[type, Callable[[Place, Any], Any]] = {
    hardware.Chosen: _read_chosen,
    hardware.Taken: _read_taken,
    hardware.Settings: _read_settings,
}
