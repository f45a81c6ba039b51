"""Pure: the networks annotation of a VirtualMachine -> what it asks of KubeVirt, and under which names.

Rules
1. What KubeVirt cannot do is refused, with the reason; so is what its webhooks accept and then silently ignore.
2. An element that is wrong or refused keeps what is plugged for it: mending a typo must not cost the guest its NIC.
3. An element without `interface` has what the annotation made for such a one before, and else the first free
   `<definition>-<n>`. An interface of somebody else's is taken for it only under that very name, on that very network.
4. Keys of ours: `hotnic.dev/binding` (bridge) and `hotnic.dev/model`. Another key of ours is a typo.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cni import jsontext, multinet, names
from cni.selection import Selection
from controller.desired import Malformed, Refusal
from controller.policy import Policy
from controller.vms import BRIDGE, Nic

_BINDING, _MODEL, _OURS = "hotnic.dev/binding", "hotnic.dev/model", "hotnic.dev/"
_MODELS = ("virtio", "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139")
_LABEL = 63  # characters

_BINDINGS = {
    "masquerade": "KubeVirt has it for the pod network only",
    "sriov": "KubeVirt cannot unplug it again",
    "macvtap": "KubeVirt has it at a VM's start only",
    "passt": "KubeVirt has it for the pod network only",
    "slirp": "KubeVirt does not have it any more",
}
_IGNORED = "KubeVirt takes binding plugins, and then ignores them until the VM is restarted"


@dataclass(frozen=True, slots=True)
class Wish:
    """One element of the annotation. "" stands for what it leaves open."""

    position: int
    network: str
    interface: str = ""
    mac: str = ""
    model: str = ""
    refusal: Refusal | None = None

    def is_met_by(self, nic: Nic) -> bool:
        return (
            self.network == nic.network
            and self.mac in {"", nic.mac}
            and self.model in {"", nic.model or _MODELS[0]}  # KubeVirt's default
        )


def read(annotation: str, namespace: str, policy: Policy) -> tuple[Wish, ...] | Malformed:
    """Return what the annotation asks for; `namespace` is the VM's."""
    try:
        elements = multinet.parse(annotation, namespace)
    except multinet.AnnotationError as problem:
        return Malformed(problem.position, problem.reason)
    keys = _own_keys(annotation)
    return tuple(
        _wish(position, element, keys.get(position, {}), namespace, policy) for position, element in enumerate(elements)
    )


def named(wishes: Sequence[Wish], nics: Mapping[str, Nic], managed: frozenset[str], busy: frozenset[str]) -> list[str]:
    """Return a name for each wish; "" where a wrong one has none.

    `nics`: the VM's; `managed`: those that the annotation made; `busy`: names that the instance still has.
    """
    chosen: dict[int, str] = {}
    taken: set[str] = set()

    def choose(wish: Wish, name: str) -> None:
        chosen[wish.position] = name
        taken.add(name)

    for wish in wishes:
        if wish.interface and wish.interface not in taken:  # a name that is asked for twice is the first one's
            choose(wish, wish.interface)
    open_wishes = sorted((wish for wish in wishes if not wish.interface and wish.network), key=_is_refused)
    for is_alike in (_is_exact, _is_unasked, _is_on_network, _is_leaving):
        for wish in open_wishes:
            if wish.position not in chosen:
                found = (name for name, nic in nics.items() if name in managed and name not in taken)
                if name := next((name for name in found if is_alike(wish, nics[name])), ""):
                    choose(wish, name)
    for wish in open_wishes:
        if wish.position not in chosen and wish.refusal is None:
            choose(wish, _fresh(wish, nics, busy, taken))
    return [chosen.get(wish.position, "") for wish in wishes]


def _is_refused(wish: Wish) -> bool:
    return wish.refusal is not None  # they keep what the others leave


def _is_exact(wish: Wish, nic: Nic) -> bool:
    return bool(wish.mac) and not nic.absent and wish.is_met_by(nic)


def _is_unasked(wish: Wish, nic: Nic) -> bool:
    return not wish.mac and not nic.absent and wish.network == nic.network


def _is_on_network(wish: Wish, nic: Nic) -> bool:
    return not nic.absent and wish.network == nic.network


def _is_leaving(wish: Wish, nic: Nic) -> bool:
    return wish.network == nic.network


def _fresh(wish: Wish, nics: Mapping[str, Nic], busy: frozenset[str], taken: set[str]) -> str:
    for name in _candidates(wish.network.rpartition("/")[2]):
        nic = nics.get(name)
        if name not in taken and (nic is None or is_adoptable(wish, nic)) and (nic is not None or name not in busy):
            return name
    raise AssertionError("there is always one more number")


def is_adoptable(wish: Wish, nic: Nic) -> bool:
    """Whether somebody else's interface, of the name that the wish has, is what the wish asks for."""
    return nic.binding == BRIDGE and not nic.absent and wish.is_met_by(nic)


def _candidates(definition: str) -> Iterator[str]:
    stem = definition.replace(".", "-")
    for number in itertools.count(1):
        suffix = f"-{number}"
        yield stem[: _LABEL - len(suffix)].rstrip("-") + suffix


# -- one element ----------------------------------------------------------------------------------------------------


def _wish(
    position: int,
    element: Selection | multinet.Invalid,
    keys: Mapping[str, Any],
    namespace: str,
    policy: Policy,
) -> Wish:
    if isinstance(element, multinet.Invalid):
        refusal = Refusal(position, element.network, element.interface, "InvalidElement", element.reason)
        return Wish(position, element.network, element.interface, refusal=refusal)
    wish = Wish(position, element.network, element.interface, element.mac)
    if problem := _problem(element, keys, namespace, policy):
        return replace(wish, refusal=Refusal(position, element.network, element.interface, *problem))
    return replace(wish, model=keys.get(_MODEL) or "")


def _problem(element: Selection, keys: Mapping[str, Any], namespace: str, policy: Policy) -> tuple[str, str] | None:
    """Return reason and message of a refusal."""
    if not policy.allows(namespace, element.namespace):
        return "NamespaceForbidden", f"policy: no networks of namespace {element.namespace} here"
    if element.interface and not names.is_label(element.interface):
        return "InvalidElement", f"interface={element.interface!r} is no name for KubeVirt: lower case, digits, hyphens"
    if unknown := sorted(set(keys) - {_BINDING, _MODEL}):
        return "InvalidElement", f"{unknown[0]} is not a key of a VM's network"
    if keys.get(_MODEL) not in (None, *_MODELS):
        return "InvalidElement", f"{_MODEL}={keys[_MODEL]!r} is none of {', '.join(_MODELS)}"
    if keys.get(_BINDING) not in (None, BRIDGE):
        return "Unsupported", f"{_BINDING}={keys[_BINDING]!r}: {_BINDINGS.get(str(keys[_BINDING]), _IGNORED)}"
    return next((("Unsupported", text) for has, text in _UNSUPPORTED if has(element)), None)


_GUEST = "the guest's addresses are the guest's business: use cloud-init or DHCP"
_POD = "it would reach the pod, and not the guest"
_UNSUPPORTED: tuple[tuple[Callable[[Selection], bool], str], ...] = (
    (lambda one: bool(one.ips), f"ips: {_GUEST}"),
    (lambda one: one.default_route is not None, f"default-route: {_GUEST}"),
    (lambda one: bool(one.bandwidth), "bandwidth: KubeVirt does not hand it on to the network"),
    (lambda one: bool(one.port_mappings), f"portMappings: {_POD}"),
    (lambda one: bool(one.cni_args), "cni-args: KubeVirt does not hand them on to the network"),
    (lambda one: bool(one.infiniband_guid), "infiniband-guid: KubeVirt has no such interfaces"),
    (lambda one: bool(one.ipam_claim_reference), f"ipam-claim-reference: {_GUEST}"),
    (lambda one: bool(one.device_id), "deviceID: KubeVirt chooses devices by the network's resource"),
)


def _own_keys(annotation: str) -> dict[int, dict[str, Any]]:
    """Return the elements' keys of ours, by position. The reader of the standard passes them over."""
    try:
        elements = jsontext.loads(annotation)
    except ValueError:  # the short form, which has no keys
        return {}
    return {
        position: {key: value for key, value in element.items() if key.startswith(_OURS)}
        for position, element in enumerate(elements if isinstance(elements, list) else ())
        if isinstance(element, dict)
    }
