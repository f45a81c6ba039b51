"""What hangs on a link: a bridge port's VLANs and source filter, queues for bandwidth, an overlay's peers.

Here the steps of agent.ports, agent.shaping and agent.underlay meet their adapters (vlans, spoofing, tc, fdb).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent import fdb, links, ports, shaping, spoofing, tc, underlay, vlans
from agent.place import Place, found, get, index, read_link, translated


def _read_vlans(place: Place, what: ports.PortVlans) -> frozenset[ports.Vlan] | None:
    there = get(place.node, what.port)
    with translated(f"read the VLANs of {what.port}"):
        return vlans.read(place.node, there.index) if there else None


def _read_vlan_filtering(place: Place, _: ports.VlanFiltering) -> bool:
    with translated("ask for the VLANs of bridges"):
        return vlans.supported(place.node)


def _set_vlans(place: Place, step: ports.SetVlans) -> None:
    with translated(f"set the VLANs of {step.port}"):
        vlans.change(place.node, index(place.node, step.port), step.add, step.drop)


def _read_source_filter(place: Place, what: ports.SourceFilter) -> bytes | None:
    there = get(place.node, what.link)
    with translated(f"read the filter of {what.link}"):
        return spoofing.read(place.node, there.index) if there else None


def _filter_source(place: Place, step: ports.FilterSource) -> None:
    with translated(f"filter what comes in at {step.link}"):
        spoofing.install(place.node, index(place.node, step.link), step.program)


def _read_queue(place: Place, what: shaping.Queue) -> shaping.Bucket | None:
    there = read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the queueing discipline of {what.name}"):
        return tc.bucket(place.socket(what.where), there.index) if there else None


def _read_redirection(place: Place, what: shaping.Redirection) -> int:
    there = read_link(place, links.NamedLink(what.name, what.where))
    with translated(f"read the filters of {what.name}"):
        return tc.redirection(place.socket(what.where), there.index) if there else 0


def _shape(place: Place, step: shaping.Shape) -> None:
    where = place.socket(step.where)
    with translated(f"shape what {step.name} sends"):
        tc.shape(where, index(where, step.name), step.bucket)


def _redirect(place: Place, step: shaping.Redirect) -> None:
    where = place.socket(step.where)
    with translated(f"shape what {step.name} receives"):
        tc.redirect(where, index(where, step.name), index(where, step.to) if step.to else 0)


def _read_ground(place: Place, what: underlay.Ground) -> underlay.Standing | None:
    told = place.underlay()
    given = what.stated or told
    if given is None:
        return None
    overruled = what.stated is not None and told is not None
    for address in given.addresses:
        with translated(f"find the link that has {address}"):
            ifindex = fdb.holder(place.node, address)
        if ifindex is not None and (there := found(place.node, f"link {ifindex}", {"index": ifindex}, [])):
            return underlay.Standing(given, address, there, overruled)
    return underlay.Standing(given, overruled=overruled)


def _read_entries(place: Place, what: underlay.Entries) -> frozenset[underlay.Entry]:
    there = get(place.node, what.name)
    with translated(f"read the forwarding table of {what.name}"):
        return fdb.entries(place.node, there.index) if there and there.kind == "vxlan" else frozenset()


def _reach(place: Place, step: underlay.Reach) -> None:
    ifindex = index(place.node, step.name)
    for entry in step.entries:
        with translated(f"add {entry.address} to the forwarding table of {step.name}"):
            fdb.append(place.node, ifindex, entry)


def _abandon(place: Place, step: underlay.Abandon) -> None:
    ifindex = index(place.node, step.name)
    for entry in step.entries:
        with translated(f"take {entry.address} out of the forwarding table of {step.name}"):
            fdb.delete(place.node, ifindex, entry)


STEPS: Mapping[type, Callable[[Place, Any], None]] = {
    ports.SetVlans: _set_vlans,
    ports.FilterSource: _filter_source,
    shaping.Shape: _shape,
    shaping.Redirect: _redirect,
    underlay.Reach: _reach,
    underlay.Abandon: _abandon,
}

READERS: Mapping[type, Callable[[Place, Any], Any]] = {
    ports.PortVlans: _read_vlans,
    ports.VlanFiltering: _read_vlan_filtering,
    ports.SourceFilter: _read_source_filter,
    shaping.Queue: _read_queue,
    shaping.Redirection: _read_redirection,
    underlay.Ground: _read_ground,
    underlay.Entries: _read_entries,
}
