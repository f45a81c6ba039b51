"""Pure: what is left in the kernel and in Open vSwitch: links, rules, ports, network namespaces."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent import network, options
from agent.audit.contract import (
    Finding,
    RemoveLink,
    RemoveNamespace,
    RemovePort,
    RemoveRules,
    Rule,
    Seen,
    Whose,
)
from agent.audit.life import Life, is_cri, same_place
from agent.devices.segment import Segment
from agent.links import Have, Link, NamedLink
from agent.model import ContainerID, Key, Record
from agent.switch import LinkPort
from cni import errors

_TOLD = "nothing: that nobody needs it is not proven"
_HOST_END = re.compile(r"hn[0-9a-f]{12}")
_COMPANION = re.compile(r"hni[0-9a-f]{11}")
_SEGMENT = re.compile(r"hn[bv]([0-9]{1,8})")
_SHAPER = "bwp"  # of the plugin `bandwidth`: a link of kind ifb
_NAME_LENGTH = 15
_OVS_CNI = "ovs-cni.network.kubevirt.io"
_INET, _IPV4, _BRIDGE, _IPV6 = 1, 2, 7, 10  # NFPROTO_*
_ID = r"[0-9A-Za-z_.-]+"


@dataclass(frozen=True, slots=True)
class _Signature:
    """How a reference plugin signs its rules, and where it makes them: anywhere else it is somebody else's text."""

    families: frozenset[int]
    table: str
    chain: re.Pattern[str]
    text: re.Pattern[str]

    def read(self, rule: Rule) -> re.Match[str] | None:
        if rule.family not in self.families or rule.table != self.table or not self.chain.fullmatch(rule.chain):
            return None
        return self.text.search(rule.text if rule.handle else rule.chain)


_SIGNATURES = (
    _Signature(  # bridge (macspoofchk)
        frozenset({_BRIDGE}), "nat", re.compile(rf"PREROUTING|cni-br-iface-{_ID}"),
        re.compile(rf"(?:macspoofchk-|cni-br-iface-)(?P<both>{_ID})"),
    ),
    _Signature(  # masquerading by nftables; the comment is cut at 128 characters, and begins with a hash of all of it
        frozenset({_INET}), "cni_plugins_masquerade", re.compile("masq_checks"),
        re.compile(rf"-(?P<hash>[0-9a-f]{{16}}), net: .*?, if: (?P<ifname>[^,]*), id: (?P<id>{_ID})"),
    ),
    _Signature(  # portmap and masquerading by iptables
        frozenset({_IPV4, _IPV6}), "nat", re.compile(r"POSTROUTING|CNI-[0-9A-Za-z-]+"),
        re.compile(rf'name: "[^"]*" id: "(?P<id>{_ID})"'),
    ),
    _Signature(  # portmap by nftables, whose comment is the ID alone
        frozenset({_INET, _IPV4, _IPV6}), "cni_hostport", re.compile("hostports|hostip_hostports"),
        re.compile(r"(?<![0-9a-z_.-])(?P<id>[0-9a-f]{64})(?=\0)"),
    ),
)  # fmt: skip
_TARGET = re.compile(r"CNI-(?:DN-|SN-)?[0-9a-f]{20,}")  # a chain of the plugins by iptables, one container's alone


def findings(seen: Seen, life: Life) -> Iterator[Finding]:
    yield from _ports(seen, life)
    yield from _host_ends(seen, life)
    yield from _segments(seen)
    yield from _shapers(seen, life)
    yield from _rules(seen, life)
    yield from _namespaces(seen, life)


# -- Open vSwitch ---------------------------------------------------------------------------------------------------


def _ports(seen: Seen, life: Life) -> Iterator[Finding]:
    """A port's link is there before the port is. One without a link may still be meant for a link that will come."""
    ours = {options.host_name(record.key) for record in seen.records}
    for port in (one for one in seen.ports if not one.there and one.name not in ours):
        ids = port.external_ids
        whose = Whose(ids.get("containerID", ""), ids.get("contIface", ""))
        told = Finding("port of Open vSwitch", f"{port.bridge} {port.name}", whose, "it has no link", otherwise=_TOLD)
        if evidence := _end_of(port, seen, life):
            told = Finding(told.what, told.where, whose, f"it has no link, {evidence}", RemovePort(port))
        yield told


def _end_of(port: LinkPort, seen: Seen, life: Life) -> str:
    """Return what shows that a port's attachment has ended; "": nothing does."""
    ids = port.external_ids
    if ids.get("owner") == "hotnic":
        dead = life.death(ids.get("containerID", ""), None)
        return dead and f"and is of a container that is dead: {dead}"
    there = {one.path for one in seen.signs.namespaces if one.inode}
    netns = same_place(ids.get("contNetns", ""))
    is_away = ids.get("owner") == _OVS_CNI and netns.startswith("/run/netns/") and netns not in there
    return f"and the network namespace {netns} that it was made for is gone" if is_away else ""


# -- links of ours --------------------------------------------------------------------------------------------------


def _host_ends(seen: Seen, life: Life) -> Iterator[Finding]:
    """An attachment's record is there before its link is; the links were read before the records."""
    candidates = _candidates(seen)
    for link in unexplained(seen.links, seen.records):
        key = candidates.get((link.name, link.mac))
        peer = seen.peers.get(link.index)
        whose = Whose(key.container_id, key.ifname) if key else Whose(ifname=peer.ifname if peer else "")
        evidence = "the agent's journal does not have it"
        if key and (dead := life.death(key.container_id, None)) and not (peer and peer.netns in seen.signs.claimed):
            yield Finding("link of ours", link.name, whose, f"{evidence}; {dead}", RemoveLink(link))
        else:
            where = f"; its other end is {peer.ifname} in {peer.netns}" if peer else ""
            yield Finding("link of ours", link.name, whose, evidence + where, otherwise=_TOLD)


def unexplained(there: Iterable[Link], records: Iterable[Record]) -> tuple[Link, ...]:
    """Return the links that are called as ours are, and are none that these records explain."""
    ours = {name for record in records for name in _names(record.key)}
    return tuple(link for link in there if _is_like_ours(link) and link.name not in ours)


def _is_like_ours(link: Link) -> bool:
    pattern = {"veth": _HOST_END, "ifb": _COMPANION}.get(link.kind)
    return pattern is not None and pattern.fullmatch(link.name) is not None


def _names(key: Key) -> tuple[str, str]:
    return options.host_name(key), options.companion(key).companion


def _candidates(seen: Seen) -> Mapping[tuple[str, str], Key]:
    """Return the attachments that anything else on the node tells of, by name and MAC of the links that they had."""
    keys = [Key(ContainerID(container), ifname) for _, container, ifname in seen.on_disk()]
    ends = {(options.host_name(key), options.derived_mac(key, "host")): key for key in keys}
    return ends | {(_names(key)[1], options.derived_mac(key, "companion")): key for key in keys}


# -- overlays -------------------------------------------------------------------------------------------------------


def _segments(seen: Seen) -> Iterator[Finding]:
    for link in _unused_segments(seen.links, seen.records):
        evidence = "no attachment in the agent's journal uses it, and it has no port"
        yield Finding("link of an overlay of ours", link.name, Whose(), evidence, RemoveLink(link))


def is_needed(link: Link, there: Iterable[Link], records: Iterable[Record]) -> bool:
    """Whether a link of ours that nobody needed is in use by now."""
    all_links, all_records = tuple(there), tuple(records)
    if _SEGMENT.fullmatch(link.name):
        return link.name not in {one.name for one in _unused_segments(all_links, all_records)}
    return link.name in {name for record in all_records for name in _names(record.key)}


def _unused_segments(there: Collection[Link], records: Iterable[Record]) -> Iterator[Link]:
    used = {vni for record in records for vni in _vnis(record.config)}
    facts = {NamedLink(link.name): link for link in there}
    for link in there:
        match = _SEGMENT.fullmatch(link.name)
        if match is None or int(match[1]) in used:
            continue
        segment = Segment("", int(match[1]), 0)
        bridge, vxlan = segment.bridge(Have(facts=facts)), segment.vxlan(Have(facts=facts))
        ports = {one.name for one in there if bridge and one.master == bridge.index} - {segment.vxlan_name}
        if link in (bridge, vxlan) and not ports:
            yield link


def _vnis(config: str) -> Iterator[int]:
    try:
        plugins = network.parse(config, "any").plugins
    except errors.CNIError:
        return
    yield from (plugin["vni"] for plugin in plugins if isinstance(plugin.get("vni"), int))


# -- what the plugin `bandwidth` has made ---------------------------------------------------------------------------


def _shapers(seen: Seen, life: Life) -> Iterator[Finding]:
    """Its link is named after network and container, and after nothing else (its hash cannot be read backwards)."""
    named = {_shaper(name, container): (name, container) for name, container, _ in seen.on_disk()}
    for link in seen.links:
        found = named.get(link.name) if link.kind == "ifb" else None
        if found and (evidence := life.death(found[1], None)):
            whose = Whose(found[1], network=found[0], pod=life.pod(found[1]))
            yield Finding("link of the plugin bandwidth", link.name, whose, evidence, RemoveLink(link))


def _shaper(network_name: str, container: str) -> str:
    return (_SHAPER + hashlib.sha512(f"{network_name}{container}".encode()).hexdigest())[:_NAME_LENGTH]


# -- rules ----------------------------------------------------------------------------------------------------------


def _rules(seen: Seen, life: Life) -> Iterator[Finding]:
    """What they name is proof if it is whole: an ID as Kubernetes' runtimes have it, or one that is on disk as well."""
    on_disk = {container for _, container, _ in seen.on_disk()}

    def is_known(container: str) -> bool:
        return is_cri(container) or container in on_disk

    found: dict[tuple[str, int, str, bool], list[Rule]] = {}
    for rule in seen.rules:
        for container, whole in _dead_signers(rule, life, is_known):
            proven = whole and is_known(container)
            found.setdefault((container, rule.family, rule.table, proven), []).append(rule)
    for (container, _, table, proven), rules in sorted(found.items()):
        chains = sorted({rule.chain for rule in rules})
        where = f"table {table}, {'chains' if len(chains) > 1 else 'chain'} {', '.join(chains)}"
        whose, evidence = Whose(container, pod=life.pod(container)), life.death(container, None)
        repair = RemoveRules(tuple(rules), _targets(rules)) if proven else None
        yield Finding("rules of nftables", where, whose, evidence, repair, "" if proven else _TOLD)


def _targets(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    found = {(rule.family, rule.table, name) for rule in rules for name in _TARGET.findall(rule.text)}
    return tuple(Rule(*chain) for chain in sorted(found))


def _dead_signers(rule: Rule, life: Life, is_known: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """Yield the dead container that a rule or a chain names, and whether that is its whole ID.

    Of what could be two containers, both have to be dead; of what was cut, all that begin so.
    """
    for match in (match for signature in _SIGNATURES if (match := signature.read(rule))):
        groups = match.groupdict()
        readings = [groups["id"]] if "id" in groups else list(_readings(groups["both"].removesuffix("-mac")))
        if readings and all(life.death(one, None) for one in readings):
            whole = "hash" not in groups or groups["hash"] == _hash(f"{groups['ifname']}:{groups['id']}")
            if whole or not life.is_beginning(groups["id"]):
                yield max(readings, key=is_known), whole


def _hash(text: str) -> str:
    """As the reference plugins have it in the comments of their rules."""
    return hashlib.sha512(text.encode()).hexdigest()[:16]


def _readings(both: str) -> Iterator[str]:
    """Yield what may be the container in `<container>-<interface>`, where either may have dashes."""
    parts = both.split("-")
    yield from ("-".join(parts[:end]) for end in range(1, len(parts)))


# -- network namespaces ---------------------------------------------------------------------------------------------


def _namespaces(seen: Seen, life: Life) -> Iterator[Finding]:
    for file in seen.signs.namespaces:
        if life.is_left(file):
            what = "no process is in it" if file.inode else "it is none, but an empty file in its place"
            evidence = f"no container that the runtime lists has it, and {what}"
            repair = RemoveNamespace(file) if life.is_abandoned(file) else None
            yield Finding("network namespace", file.path, Whose(), evidence, repair, "" if repair else _TOLD)
