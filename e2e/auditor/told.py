"""Pure: what the API is told of a pod, against what is in the pod and what was asked for.

Rule 1: an element is possible when its network is defined and all plugins of that are on the node.
Rule 2: NetworksReady is True exactly when everything that was asked for is in the pod, and nothing else of ours is.
Rule 3: each interface has one entry of the status, and each entry an interface, with its MAC, MTU and addresses.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from e2e.auditor import asked
from e2e.auditor.asked import Element
from e2e.auditor.finding import LACK, LEAK, LIE, Finding
from e2e.auditor.kernel import plugins
from e2e.auditor.seen import Cluster, Document, Node, Sandbox
from e2e.auditor.stores import held_leases, without_lease

STATUS = "k8s.v1.cni.cncf.io/network-status"
CONDITION = "hotnic.dev/NetworksReady"


def differences(node: Node, cluster: Cluster) -> Iterator[Finding]:
    """Yield what is told and not so, and what is wanted, possible and not there."""
    for pod in cluster.pods:
        meta = pod["metadata"]
        name = f"{meta['namespace']}/{meta['name']}"
        sandbox = next((one for one in node.living().values() if one.uid == meta["uid"]), None)
        if pod["spec"].get("hostNetwork"):
            continue
        if meta.get("deletionTimestamp"):
            yield Finding(LACK, "pod", name, "is being deleted")
        elif pod["status"].get("phase") in ("Succeeded", "Failed"):
            continue
        elif pod["status"].get("phase") != "Running" or sandbox is None:
            yield Finding(LACK, "pod", name, f"has no living sandbox (phase {pod['status'].get('phase')})")
        else:
            yield from _Pod(name, pod, sandbox, node, cluster).differences()


class _Pod:
    """One running pod."""

    def __init__(self, name: str, pod: Document, sandbox: Sandbox, node: Node, cluster: Cluster) -> None:
        self._name, self._pod, self._node, self._cluster = name, pod, node, cluster
        namespace = node.namespaces.get(sandbox.netns)
        self._links = {link.name: link for link in namespace.links} if namespace else {}
        self._records = {
            one["ifname"]: one
            for one in node.records
            if one["containerID"] == sandbox.id and one["origin"] != "runtime" and one["phase"] == "attached"
        }
        self._elements = asked.read(pod)
        self._met, self._unmet = _matched(self._elements or (), self._records)

    def differences(self) -> Iterator[Finding]:
        yield from self._status()
        yield from self._wishes()
        yield from self._condition()

    # -- rule 3

    def _status(self) -> Iterator[Finding]:
        text = (self._pod["metadata"].get("annotations") or {}).get(STATUS)
        try:
            entries = _entries(text)
        except (ValueError, AttributeError):
            yield self._found(LIE, "status", "", "is no list of entries")
            return
        told: dict[str, Mapping[str, Any]] = {}
        for entry in entries:
            ifname = entry["interface"]
            if ifname in told:
                yield self._found(LIE, "status", ifname, "has two entries")
            told[ifname] = entry
            yield from (self._found(LIE, "status", ifname, why) for why in self._untrue(ifname, entry))
        for ifname in self._records.keys() & self._links.keys() - told.keys():
            yield self._found(LIE, "status", ifname, "is in the pod and has no entry")

    def _untrue(self, ifname: str, entry: Mapping[str, Any]) -> Iterator[str]:
        link, record = self._links.get(ifname), self._records.get(ifname)
        if link is None:
            yield "has an entry and is not in the pod"
            return
        if entry.get("mac", link.mac) != link.mac:
            yield f"is told to have MAC {entry['mac']}, and has {link.mac}"
        if entry.get("mtu") not in (None, 0, link.mtu):
            yield f"is told to have MTU {entry['mtu']}, and has {link.mtu}"
        if missing := {str(ip) for ip in entry.get("ips", ())} - {one.partition("/")[0] for one in link.addresses}:
            yield f"is told to have {sorted(missing)}, and has {sorted(link.addresses)}"
        if record is not None and entry.get("name") != record["network"]:
            yield f"is told to be of {entry.get('name')}, and is of {record['network']}"

    # -- rules 1 and 2

    def _wishes(self) -> Iterator[Finding]:
        for element in self._lacking():
            if not element.wrong and self._is_possible(element):
                yield self._found(LACK, "interface", element.interface or element.network, "is asked for and not there")
        for ifname, why in self._changed():
            yield self._found(LACK, "interface", ifname, why)
        for ifname in self._surplus():
            yield self._found(LEAK, "interface", ifname, "nobody asks for it")

    def _lacking(self) -> list[Element]:
        gone = [element for ifname, element in self._met.items() if ifname not in self._links]
        return [*self._unmet, *gone]

    def _changed(self) -> Iterator[tuple[str, str]]:
        """Yield the interfaces that are not as their element asks."""
        for ifname, element in self._met.items():
            link = self._links.get(ifname)
            if link is not None and element.mac not in ("", link.mac):
                yield ifname, f"is to have MAC {element.mac}, and has {link.mac}"
            if link is not None and (missing := _plain(element.ips) - _plain(link.addresses)):
                yield ifname, f"is to have {sorted(missing)}, and has {sorted(link.addresses)}"

    def _surplus(self) -> set[str]:
        kept = {element.interface for element in self._elements or () if element.wrong}
        return set() if self._elements is None else self._records.keys() - self._met.keys() - kept

    def _is_possible(self, element: Element) -> bool:
        found = plugins(self._cluster.networks.get(element.network, ""))
        return bool(found) and all(one.get("type") in self._node.plugins for one in found)

    def _condition(self) -> Iterator[Finding]:
        conditions = self._pod["status"].get("conditions", ())
        told = next((one for one in conditions if one["type"] == CONDITION), None)
        wrong = self._elements is None or any(element.wrong for element in self._elements)
        is_so = not (wrong or self._lacking() or self._surplus() or any(self._changed()))
        if told is None:
            if self._records or self._elements is None or self._elements:
                yield self._found(LIE, "condition", "", "is not there, though something was asked for")
        elif (told["status"] == "True") != is_so and not (is_so and self._may_differ()):
            why = f"{told['status']} ({told.get('reason')}: {told.get('message')}), and that is not so"
            yield self._found(LIE, "condition", "", why)

    def _may_differ(self) -> bool:
        """Whether an attachment has lost its lease: its plugins' CHECK may tell so, or may not have been asked yet."""
        held = held_leases(self._node)
        return any(without_lease(one, held) for one in self._records.values())

    def _found(self, kind: str, what: str, ifname: str, why: str) -> Finding:
        return Finding(kind, what, f"{self._name} {ifname}".strip(), why)


def _matched(
    elements: tuple[Element, ...], records: Mapping[str, Document]
) -> tuple[dict[str, Element], list[Element]]:
    """Return the element of each interface, and those that have none. Elements without a name take what is left."""
    met: dict[str, Element] = {}
    unmet: list[Element] = []
    for element in sorted(elements, key=lambda one: not one.interface):
        names = (element.interface,) if element.interface else sorted(records.keys() - met.keys())
        found = [name for name in names if name in records and records[name]["network"] == element.network]
        if found and not element.wrong:
            met[found[0]] = element
        else:
            unmet.append(element)
    return met, unmet


def _entries(text: str | None) -> list[Mapping[str, Any]]:
    """Return the entries that name an interface. Raises ValueError or AttributeError where it is no list of such."""
    found = json.loads(text or "[]")
    if not isinstance(found, list):
        raise ValueError("no list")  # noqa: TRY004 one way of being no list, as wrong JSON is
    return [one for one in found if one.get("interface")]


def _plain(addresses: Any) -> set[str]:
    return {str(one).partition("/")[0] for one in addresses}
