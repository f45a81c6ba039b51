"""Pure: which links of the node an attachment stands on, or would: those that it reads, those that its result names.

Rules
1. Names only; and the path of the database that has a port of it (Open vSwitch). What is chosen otherwise (by a MAC,
   by its device) may be any: ANY. Where a route or an address of the node decides, it is that which is needed: ADDRESS.
2. Of other plugins' configurations the keys count that are used for it everywhere.
3. The link that an attachment's bandwidth takes besides its own (agent.shaping) may be on the node or in the pod.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from agent import devices, network, options
from agent.hardware import Chosen
from agent.links import DefaultLink, NamedLink, Where
from agent.model import ContainerID, Key, Record
from agent.switch import SwitchPort
from agent.underlay import Ground
from cni import errors, result

ANY, ADDRESS = "*", "@"  # no names of links
_KEYS = ("master", "bridge", "device", "hostInterface")


def needs(record: Record) -> frozenset[str]:
    """Return the names for an attachment that is there."""
    found = set(_needed(record.config, record.network.rpartition("/")[2], record.key))
    try:
        made = result.decode(record.result or {})
    except errors.CNIError:
        return frozenset(found)
    return frozenset(found | {one.name for one in made.interfaces if not one.sandbox})


@functools.lru_cache(maxsize=1024)  # many pods wait for one network, whenever a link comes
def needed(config: str, name: str) -> frozenset[str]:
    """Return the names for a network's configuration, which may be invalid."""
    return _needed(config, name, Key(ContainerID("any"), "net1"))


def _needed(config: str, name: str, key: Key) -> frozenset[str]:
    try:
        net = network.parse(config, name)
        return frozenset(one for plugin in net.plugins for one in _of_plugin(plugin, key))
    except errors.CNIError:
        return frozenset()


def _of_plugin(plugin: Mapping[str, Any], key: Key) -> Iterator[str]:
    if plugin["type"] != "hotnic":
        yield from (value for name in _KEYS if isinstance(value := plugin.get(name), str) and value)
        if plugin["type"] in ("macvlan", "ipvlan") and not plugin.get("master"):
            yield ADDRESS
        return
    device = devices.parse(options.Call(key, plugin))
    if device.interface.bandwidth:
        yield device.interface.bandwidth.companion
    for read in device.reads():
        match read:
            case NamedLink(name, Where.NODE) if name != key.ifname:
                yield name
            case SwitchPort(database, bridge, name):
                yield from (database, bridge, name)
            case Chosen("hostInterface", name):
                yield name
            case Chosen():
                yield ANY
            case DefaultLink(Where.NODE) | Ground():
                yield ADDRESS
    yield from filter(None, (device.host_end(),))
