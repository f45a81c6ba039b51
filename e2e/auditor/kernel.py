"""Pure: what the kernel has, against the attachments that are known of.

Rule 1: an attachment is known by the agent's journal or by libcni's result cache; by both only, so that a link of a
        pod that is in neither is nobody's.
Rule 2: the other end of a veth pair is found by the kernel's own numbers, never by a name that somebody derives.
Rule 3: bridges that networks name stay when their last port goes, as those of the reference plugin do. What has a
        derived name (`hnb…`, `hnv…`) is the overlays', and goes with their last port.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from e2e.auditor.finding import LACK, LEAK, Finding
from e2e.auditor.seen import Cluster, Document, Link, Node, Sandbox

UPLINK = "eth0"
_USUAL = frozenset({"noqueue", "noop", "mq", "pfifo", "pfifo_fast", "fq", "fq_codel"})
_ID = re.compile(r"[0-9a-f]{64}")


def differences(node: Node, cluster: Cluster) -> Iterator[Finding]:
    """Yield what is there for nobody, and what shared things lack."""
    ends = {link.name: found for link in node.links if (found := _attachment(node, link)) is not None}
    yield from chain.from_iterable(_link(node, link, ends) for link in node.links)
    yield from _qdiscs(node, ends)
    yield from map(_rule, filter(None, (_dead(node, rule) for rule in node.rules)))
    yield from _tunnels(node, cluster)
    yield from _namespaces(node)


def known(node: Node) -> set[tuple[str, str]]:
    """Return container and interface of each attachment (rule 1)."""
    journalled = {(one["containerID"], one["ifname"]) for one in node.records}
    return journalled | {(container_id, ifname) for _, container_id, ifname in node.caches}


def record_of(node: Node, sandbox: Sandbox, link: Link) -> Document | None:
    """Return the record of a pod's link, by its index too: a pod may rename what is its own."""
    for one in node.records:
        if one["containerID"] == sandbox.id and (one["ifname"] == link.name or one["ifindex"] == link.index):
            return one
    return None


# -- links of the node


def _attachment(node: Node, link: Link) -> Document | None:
    """Return the record of the attachment whose host end this is; an empty one for a runtime's; None: there is none."""
    netns = node.numbers.get(link.peer_namespace) if link.peer_namespace is not None else None
    namespace = node.namespaces.get(netns or "")
    other = next((one for one in namespace.links if one.index == link.peer), None) if namespace else None
    sandbox = next((one for one in node.living().values() if one.netns == netns), None)
    if link.kind != "veth" or other is None or sandbox is None:
        return None
    if (record := record_of(node, sandbox, other)) is not None:
        return record
    return {} if (sandbox.id, other.name) in known(node) else None


def _link(node: Node, link: Link, ends: dict[str, Document]) -> Iterator[Finding]:
    if link.name in ("lo", UPLINK):
        return
    if link.kind == "veth":
        yield from _host_end(link, ends)
    elif link.kind == "vxlan":
        yield from _overlay(node, link)
    elif link.kind == "ifb":
        if link.name not in node.redirections:
            yield Finding(LEAK, "ifb", link.name, "nothing is redirected to it")
    elif link.kind != "bridge":
        yield Finding(LEAK, "link", link.name, f"a {link.kind or 'physical'} link of nobody")
    elif re.fullmatch(r"hnb\d+", link.name) and not any(one.master == link.name for one in node.links):
        yield Finding(LEAK, "link", link.name, "an overlay's bridge that has no port")
    if link.master and link.kind != "vxlan" and link.name not in ends:
        yield Finding(LEAK, "port", link.name, f"is a port of {link.master} for no attachment")


def _host_end(link: Link, ends: dict[str, Document]) -> Iterator[Finding]:
    if link.name not in ends:
        where = "on the node too" if link.peer_namespace is None else "at no attachment"
        at = f", at {link.master}" if link.master else ""
        yield Finding(LEAK, "link", link.name, f"a veth end{at} whose other end is {where}")
    elif (bridge := _bridge(ends[link.name])) and link.master != bridge:
        yield Finding(LACK, "port", link.name, f"is at {link.master or 'no bridge'}, not at {bridge}")


def _overlay(node: Node, link: Link) -> Iterator[Finding]:
    if {one.name for one in node.links if one.master == link.master and link.master} <= {link.name}:
        yield Finding(LEAK, "link", link.name, "an overlay that has no port")
    for name in sorted({link.name, link.master} & node.with_ipv6):
        yield Finding(LACK, "sysctl", name, "an overlay's link has IPv6")


def _bridge(record: Document) -> str:
    """Return the bridge that the attachment's host end belongs to, "" where its network says none."""
    for plugin in plugins(record.get("config") or "{}"):
        if plugin.get("device", plugin.get("type")) in ("bridge", "cnv-bridge"):
            return str(plugin.get("bridge") or "cni0")
        if plugin.get("device") == "overlay":
            return f"hnb{plugin.get('vni')}"
    return ""


def plugins(config: str) -> list[Document]:
    """Return the plugins of a network's configuration, none where it is no JSON."""
    try:
        document = json.loads(config)
        return [one for one in document.get("plugins", [document]) if isinstance(one, dict)]
    except (ValueError, AttributeError):
        return []


# -- traffic control and filters


def _qdiscs(node: Node, ends: dict[str, Document]) -> Iterator[Finding]:
    yield from _odd(node.qdiscs, {name for name, one in ends.items() if _wants_qdisc(one)} | node.redirections, "")
    for sandbox in node.living().values():
        if (namespace := node.namespaces.get(sandbox.netns)) is not None:
            records = [(link, record_of(node, sandbox, link)) for link in namespace.links]
            shaped = {link.name for link, one in records if one and _wants_qdisc(one)}
            helpers = {link.name for link in namespace.links if shaped and link.kind == "ifb"}
            yield from _odd(namespace.qdiscs, shaped | helpers, f" of pod {sandbox.uid}")
    buckets = {one["dev"] for one in node.qdiscs if one["kind"] == "tbf"}
    for name, record in ends.items():
        if record.get("runtime", {}).get("bandwidth", {}).get("ingressRate") and name not in buckets:
            yield Finding(LACK, "qdisc", name, f"{record['ifname']} is to be shaped, and is not")


def _odd(qdiscs: Iterable[Document], explained: Iterable[str], whose: str) -> Iterator[Finding]:
    for one in qdiscs:
        if one["kind"] not in _USUAL and one["dev"] not in set(explained):
            yield Finding(LEAK, "qdisc", f"{one['dev']}{whose}", f"{one['kind']} that no attachment asks for")


def _wants_qdisc(record: Document) -> bool:
    config = record.get("config") or ""
    return (
        bool(record.get("runtime", {}).get("bandwidth")) or "ingressRate" in config or '"macspoofchk": true' in config
    )


def _dead(node: Node, rule: Document) -> tuple[Document, str] | None:
    """Return the rule and what is wrong with it, None where it is some attachment's."""
    ids = set(_ID.findall(json.dumps(rule)))
    attached = {container_id for container_id, _ in known(node)}
    if ids:
        dead = ids - (attached & node.living().keys())
        return (rule, f"of container {min(dead)}, which does not live") if dead else None
    is_structure = all("jump" in one or "goto" in one for one in rule.get("expr", ()))
    return None if is_structure and rule.get("expr") else (rule, "of no container")


def _rule(found: tuple[Document, str]) -> Finding:
    rule, why = found
    return Finding(LEAK, "nft", f"{rule['family']} {rule['table']} {rule['chain']} {rule['handle']}", why)


# -- what attachments share


def _tunnels(node: Node, cluster: Cluster) -> Iterator[Finding]:
    own = {address.partition("/")[0] for link in node.links for address in link.addresses}
    others = cluster.nodes - own
    for link in node.links:
        if link.kind == "vxlan":
            there = {address for name, address in node.tunnels if name == link.name}
            yield from (Finding(LEAK, "fdb", f"{link.name} {one}", "leads to no node") for one in there - others)
            yield from (
                Finding(LACK, "fdb", f"{link.name} {one}", "a node that it does not reach") for one in others - there
            )


def _namespaces(node: Node) -> Iterator[Finding]:
    living = node.living()
    netns = {one.netns: one for one in living.values() if one.netns}
    attached = known(node)
    for name, namespace in node.namespaces.items():
        sandbox = netns.get(name)
        if sandbox is None:
            yield Finding(LEAK, "netns", name, "of no living sandbox")
            continue
        records = [record_of(node, sandbox, link) for link in namespace.links]
        is_shaped = any(one and _wants_qdisc(one) for one in records)
        for link, record in zip(namespace.links, records, strict=True):
            ours = link.name == "lo" or record is not None or (sandbox.id, link.name) in attached
            if not ours and not (link.kind == "ifb" and is_shaped):
                yield Finding(
                    LEAK, "interface", f"{link.name} of pod {sandbox.uid}", f"a {link.kind} link of no attachment"
                )
