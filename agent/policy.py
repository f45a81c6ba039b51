"""Pure: what a network may make of the node, by the namespace that it is defined in.

Network definitions are written by tenants, and their plugins run as root: without rules a definition is as good as the
node. `rules` of the policy file say who may use what; the first rule that matches the namespace decides, a namespace
that none matches may use nothing.

    rules:
      - namespaces: [default, kube-system]                  the administrators' own
        plugins: ["*"]
        ipam: ["*"]
        devices: ["*"]
        interfaces: ["*"]
        bridges: ["*"]
        paths: ["*"]
      - namespaces: ["*"]
        plugins: [hotnic, macvlan, tuning]                  every `type`, those of delegates too
        ipam: [host-local, static]                          but for these
        devices: ["*", "!host-device"]                      kinds of the type hotnic
        interfaces: ["*", "!uplink"]                        of the node; the word means what bears a default route
        bridges: ["br-tenant-*"]
        paths: ["/var/lib/cni/*"]                           values that are paths on the node
        vnis: ["5000-5999"]                                 network numbers of the device overlay
        privileges: [gateway]                               see rule 7
        drift: report                                       see rule 8
    drift: repair                                           of all whose rule does not say otherwise

Rules
1. A list has shell patterns, that of VNIs numbers and ranges besides. `!` before one excludes what it matches,
   wherever it stands. An absent list is empty.
2. Every string of a configuration that could lead to a file is a path, whatever its key: plugins have many such keys
   (dataDir, logFile, socket_file), and more will come. One with `..` in it could lead anywhere.
3. An interface that is chosen otherwise than by name (MAC, PCI address, device ID) can be any: that takes a list with
   `*`, and no exclusion. A macvlan or ipvlan without a master is on the uplink.
4. Calls that name no namespace are the administrator's own (podman, cnitool): nothing is asked of them.
5. Keys are read however they are written, as plugins in Go do, and where plugins look besides: args.cni, runtimeConfig.
6. Keys of the file that are not known are an error: a typo must not open the node.
7. `gateway`: the node gets an address that the network chooses, and routes through it (isGateway, ptp, veth with
   addresses): one of the node's own peers could be chosen. `ipMasq`: the node translates addresses.
8. `drift`: what is done about an attachment that somebody else has changed or damaged: `repair`, which is the default,
   or `report`: it is told, and left as it is.
"""

from __future__ import annotations

import collections
import fnmatch
import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import yaml

# besides its own error the library raises what comes, for a date or a number that is none
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
UPLINK = "uplink"
REPAIR, REPORT = "repair", "report"  # rule 8
OTHERS = ("namespaceIsolation", "globalNamespaces")  # the controller's keys of the same file

_CHOSEN_OTHERWISE = ("hwaddr", "kernelpath", "pciBusID", "deviceID")
_DELEGATES = ("ipam", "delegate", "delegates", "plugins")
_ON_A_MASTER = frozenset({"macvlan", "ipvlan", "vlan"})
_SEGMENT = re.compile(r"hn[bv](\d+)")  # as devices.segment names the links of an overlay
_PATTERN = re.compile(r"!?[^\s!][^\s]*")
_DIGITS = 20  # of a number that anybody means; Python refuses to read one of thousands
_RANGE = re.compile(rf"(\d{{1,{_DIGITS}}})-(\d{{1,{_DIGITS}}})")
_ON_UPLINK = frozenset({"macvlan", "ipvlan"})  # by default
DEFAULT_BRIDGE = "cni0"  # of the reference plugin, and of ours
_PATH_KEYS = ("dir", "file", "path", "socket")  # so end the keys whose values are paths even if they look like words


class PolicyError(ValueError):
    """The policy file is wrong; `str()` says where, and how."""


@dataclass(frozen=True, slots=True)
class Rule:
    namespaces: tuple[str, ...]
    plugins: tuple[str, ...] = ()
    ipam: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    vnis: tuple[str, ...] = ()
    privileges: tuple[str, ...] = ()
    drift: str = ""  # as the policy has it


@dataclass(frozen=True, slots=True)
class Policy:
    """`rules` None: the file says nothing of them, everything is allowed."""

    rules: tuple[Rule, ...] | None = None
    drift: str = REPAIR

    def repairs(self, namespace: str) -> bool:
        """Whether attachments to networks of that namespace are repaired where somebody else has changed them."""
        rule = self._rule(namespace) if namespace else None
        return ((rule.drift if rule else "") or self.drift) == REPAIR

    def refusal(
        self,
        namespace: str,
        plugins: Collection[Mapping[str, Any]],
        asked: Mapping[str, Any] | None,
        is_uplink: Callable[[str], bool],
    ) -> str:
        """Return why a network of that namespace may not be attached; "": it may.

        `plugins`: their configurations. `asked`: the annotation's cni-args. `is_uplink`: whether an interface of the
        node bears a default route, asked only where one is named.
        """
        if self.rules is None or not namespace:
            return ""
        rule = self._rule(namespace)
        if rule is None:
            return f"policy: no rule lets networks of namespace {namespace} use anything"
        if twice := next(filter(None, map(_written_twice, plugins)), ""):
            return f"policy: networks of namespace {namespace} may not write a key twice in different case: {twice}"
        wishes = [wish for plugin in plugins for wish in (*_wishes(plugin), *_paths(plugin, ""))]
        wishes += _paths(asked or {}, "cni-args")
        for wish in wishes:
            if not wish.is_allowed(rule, is_uplink):
                return f"policy: networks of namespace {namespace} may not use {wish}"
        return ""

    def _rule(self, namespace: str) -> Rule | None:
        return next((one for one in self.rules or () if _allowed(one.namespaces, namespace)), None)


def parse(text: str) -> Policy:
    """Return the policy that a YAML document is. Raises PolicyError."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 it is a safe one
    except PolicyError:
        raise
    except _NO_YAML as problem:
        raise PolicyError(f"not YAML: {problem}") from None
    if document is None:
        return Policy()
    if not isinstance(document, dict):
        raise PolicyError("not a mapping of keys to values")
    if unknown := sorted(set(document) - {"rules", "drift", *OTHERS}, key=str):
        raise PolicyError(f"unknown key {unknown[0]!r}")
    drift = _drift(document.get("drift", REPAIR), "drift")
    if "rules" not in document:
        return Policy(None, drift)
    rules = document["rules"]
    if not isinstance(rules, list):
        raise PolicyError("rules is not a list")
    return Policy(tuple(_rule(rule, f"rules[{position}]") for position, rule in enumerate(rules)), drift)


class _Loader(yaml.SafeLoader):
    """Minds a key that is there twice: the first one would count for nothing, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 as overridden
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise PolicyError(f"key {twice[0]!r} is there twice")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class _Wish:
    """One thing of the node that a configuration names. `name` "": chosen otherwise than by name."""

    kind: str  # the list of the rule that decides
    key: str
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value!r} ({self.kind})"

    def is_allowed(self, rule: Rule, is_uplink: Callable[[str], bool]) -> bool:
        patterns = getattr(rule, self.kind)
        if not self.name:
            return "*" in patterns and not any(pattern.startswith("!") for pattern in patterns)
        also = UPLINK if self.kind in ("interfaces", "bridges") and is_uplink(self.name) else ""
        return _allowed(patterns, self.name, also)


def _wishes(plugin: Mapping[str, Any], listed: str = "plugins") -> Iterator[_Wish]:
    """What one plugin's configuration names besides paths, its delegates' too. `listed`: where its type has to be."""
    types, devices = set(_texts(plugin, "type")), set(_texts(plugin, "device"))
    for kind in sorted(types):
        yield _Wish(listed, "type", kind, kind)
    if "hotnic" in types:
        for device in sorted(devices or {""}):
            yield _Wish("devices", "device", device, device)
        kinds = (types - {"hotnic"}) | devices
    else:
        kinds = types
    # what `device` is to the plugin host-device, and who knows to which others
    named = {"master", "hostInterface"} | (set() if types == {"hotnic"} else {"device"})
    for source in _sources(plugin):
        yield from _interfaces(source, kinds, named)
        yield from _bridges(source, kinds)
    yield from _privileges(plugin, kinds)
    for key in _DELEGATES:
        for delegate in _delegates(plugin, key):
            yield from _wishes(delegate, "ipam" if key == "ipam" else "plugins")


def _sources(plugin: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The places of a configuration in which plugins look for their options."""
    yield plugin
    for args in _objects(plugin, "args"):
        yield from _objects(args, "cni")
    yield from _objects(plugin, "runtimeConfig")


def _interfaces(source: Mapping[str, Any], kinds: set[str], named: set[str]) -> Iterator[_Wish]:
    in_pod = kinds <= _ON_A_MASTER and any(value is True for value in _values(source, "linkInContainer"))
    for key in sorted(named - ({"master"} if in_pod else set())):
        for value in _texts(source, key):
            yield _Wish("interfaces", key, value, value)
            if segment := _SEGMENT.fullmatch(value):
                yield _Wish("vnis", key, segment[1], value)
    for links in _values(source, "links"):  # of a bond
        for link in links if isinstance(links, list) else ():
            for name in _texts(link, "name") if isinstance(link, Mapping) else ():
                yield _Wish("interfaces", "links", name, name)
    for key in _CHOSEN_OTHERWISE:
        for value in _texts(source, key):
            yield _Wish("interfaces", key, "", value)
    if kinds & _ON_UPLINK and not in_pod and "type" in source and not any(_texts(source, "master")):
        yield _Wish("interfaces", "master", UPLINK, "")


def _bridges(source: Mapping[str, Any], kinds: set[str]) -> Iterator[_Wish]:
    names = list(_texts(source, "bridge"))
    if "bridge" in kinds and "type" in source and not names:
        names = [DEFAULT_BRIDGE]
    if kinds != {"tap"}:  # whose bridge is one of the pod
        for name in names:
            yield _Wish("bridges", "bridge", name, name)
            if segment := _SEGMENT.fullmatch(name):  # on this bridge one is in that overlay
                yield _Wish("vnis", "bridge", segment[1], name)
    for vni in _values(source, "vni"):
        yield _Wish("vnis", "vni", str(vni), str(vni))


def _privileges(plugin: Mapping[str, Any], kinds: set[str]) -> Iterator[_Wish]:
    for key in ("isGateway", "isDefaultGateway"):
        if any(_values(plugin, key)):
            yield _Wish("privileges", key, "gateway", "gateway")
    has_addresses = any(any(_texts(ipam, "type")) for ipam in _objects(plugin, "ipam"))
    if "ptp" in kinds or ("veth" in kinds and has_addresses):
        yield _Wish("privileges", "type" if "ptp" in kinds else "device", "gateway", "gateway")
    if any(_values(plugin, "ipMasq")):
        yield _Wish("privileges", "ipMasq", "ipMasq", "ipMasq")


def _delegates(plugin: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    for value in _values(plugin, key):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield one


def _written_twice(value: Any) -> str:
    """Return a key that is there twice but for its case: whoever reads it does not read what was judged."""
    if isinstance(value, list):
        return next(filter(None, map(_written_twice, value)), "")
    if not isinstance(value, Mapping):
        return ""
    counted = collections.Counter(str(name).casefold() for name in value)
    twice = next((name for name, count in counted.items() if count > 1), "")
    return twice or next(filter(None, map(_written_twice, value.values())), "")


def _values(source: Mapping[str, Any], key: str) -> Iterator[Any]:
    """The values of a key however it is written: most plugins are in Go, whose JSON does not mind the case (rule 5)."""
    return (value for name, value in source.items() if str(name).casefold() == key.casefold())


def _texts(source: Mapping[str, Any], key: str) -> Iterator[str]:
    return (value for value in _values(source, key) if isinstance(value, str) and value)


def _objects(source: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    return (value for value in _values(source, key) if isinstance(value, Mapping))


def _paths(value: Any, key: str) -> Iterator[_Wish]:
    """Every string below `value` that could lead to a file (rule 2)."""
    match value:
        case str() if _is_path(value, key):
            yield _Wish("paths", key, "" if ".." in value.split("/") else value, value)
        case Mapping():
            for name, below in value.items():
                yield from _paths(below, str(name))
        case list() | tuple():
            for below in value:
                yield from _paths(below, key)


def _is_path(value: str, key: str) -> bool:
    if key.lower().endswith(_PATH_KEYS):
        return value != ""
    return value == ".." or value.startswith("~") or ("/" in value and not _is_network(value))


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_interface(value)
    except ValueError:
        return False
    return True


def _allowed(patterns: Collection[str], *names: str) -> bool:
    """Whether the first of the names is allowed; the others are words that it goes by besides (rule 1)."""

    def matches(pattern: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) or _is_in_range(name, pattern) for name in names if name)

    excluded = any(matches(pattern[1:]) for pattern in patterns if pattern.startswith("!"))
    return not excluded and any(matches(pattern) for pattern in patterns if not pattern.startswith("!"))


def _is_in_range(name: str, pattern: str) -> bool:
    if not (found := _RANGE.fullmatch(pattern)) or not name.isdecimal():
        return False
    digits = name.lstrip("0")
    return len(digits) <= _DIGITS and int(found[1]) <= int(digits or "0") <= int(found[2])


def _rule(value: Any, where: str) -> Rule:
    known = {field.name for field in fields(Rule)}
    if not isinstance(value, dict):
        raise PolicyError(f"{where} is not a mapping of keys to values")
    if unknown := sorted(set(value) - known, key=str):
        raise PolicyError(f"{where}: unknown key {unknown[0]!r}")
    if "namespaces" not in value:
        raise PolicyError(f"{where} names no namespaces")
    lists = {key: _patterns(one, f"{where}.{key}") for key, one in value.items() if key != "drift"}
    return Rule(**lists, drift=_drift(value["drift"], f"{where}.drift") if "drift" in value else "")


def _drift(value: Any, where: str) -> str:
    if value not in (REPAIR, REPORT):
        raise PolicyError(f"{where}={value!r} is neither {REPAIR} nor {REPORT}")
    return str(value)


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and _PATTERN.fullmatch(one) for one in value):
        raise PolicyError(f"{where}={value!r} is not a list of patterns")
    if where.endswith(".vnis") and (wrong := [one for one in value if not _is_of_numbers(one)]):
        raise PolicyError(f"{where}: {wrong[0]!r} is no number, no range and not *")
    return tuple(value)


def _is_of_numbers(pattern: str) -> bool:
    numbers = pattern.removeprefix("!")
    found = _RANGE.fullmatch(numbers)
    return numbers == "*" or numbers.isdecimal() or (bool(found) and _ascends(numbers))


def _ascends(numbers: str) -> bool:
    low, _, high = numbers.partition("-")
    return int(low) <= int(high)
