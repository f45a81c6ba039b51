"""Pure: which links of the node an attachment stands on, or would: those that it reads, those that its result names.

Rules
1. Names only; and the path of the database that has a port of it, if it is one of our device's (Open vSwitch): what
   begins with a slash is such a path, and no other plugin's word is taken for one. What is chosen otherwise (by a MAC,
   by its device) may be any: ANY. Where a route or an address of the node decides, it is that which is needed: ADDRESS.
2. Of other plugins' configurations the keys count that are used for it everywhere.
3. The link that an attachment's bandwidth takes besides its own (agent.shaping) may be on the node or in the pod.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from agent import devices, network, options
from agent.devices import marked
from agent.devices.contract import Device
from agent.hardware import Chosen
from agent.links import DefaultLink, NamedLink, Read, Where
from agent.model import ContainerID, Key, Record
from agent.switch import SwitchPort
from agent.underlay import Ground
from cni import errors, result

ANY, ADDRESS = "*", "@"  # no names of links
_KEPT_CHARACTERS = 64 << 10
_KEYS = ("master", "bridge", "device", "hostInterface")


def needs(record: Record) -> frozenset[str]:
    """Return the names for an attachment that is there."""
    found = set(_needed(record.config, record.network.rpartition("/")[2], record.key))
    try:
        made = result.decode(record.result or {})
    except errors.CNIError:
        return frozenset(found)
    return frozenset(found | {one.name for one in made.interfaces if not one.sandbox and _is_name(one.name)})


def needed(config: str, name: str) -> frozenset[str]:
    """Return the names for a network's configuration, which may be invalid."""
    return (_of_network if len(config) <= _KEPT_CHARACTERS else _of_network.__wrapped__)(config, name)


@functools.lru_cache(maxsize=128)  # many pods wait for one network, whenever a link comes
def _of_network(config: str, name: str) -> frozenset[str]:
    return _needed(config, name, Key(ContainerID("any"), "net1"))


def _needed(config: str, name: str, key: Key) -> frozenset[str]:
    try:
        net = network.parse(config, name)
        return frozenset(one for plugin in net.plugins for one in _of_plugin(plugin, key))
    except errors.CNIError:
        return frozenset()


def _of_plugin(plugin: Mapping[str, Any], key: Key) -> Iterator[str]:
    if plugin["type"] != "hotnic":
        yield from (value for name in _KEYS if isinstance(value := plugin.get(name), str) and _is_name(value))
        if plugin["type"] in ("macvlan", "ipvlan") and not plugin.get("master"):
            yield ADDRESS
        return
    device = devices.parse(options.Call(key, plugin))
    if device.interface.bandwidth:
        yield device.interface.bandwidth.companion
    for read in _reads(device, key):
        match read:
            case NamedLink(name, Where.NODE):
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


def _reads(device: Device, key: Key) -> list[Read]:
    """Return what the device reads, but for what only a birth needs: the node's link that has the name by chance."""
    reads, of_birth = list(device.reads()), marked.reads(key)
    if all(one in reads for one in of_birth):
        for one in of_birth:
            reads.remove(one)  # once: its master may have that name, too
    return reads


def _is_name(value: str) -> bool:
    """Rule 1. No link has a slash in its name."""
    return bool(value) and "/" not in value
