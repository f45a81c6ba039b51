"""Pure: a VirtualMachine, what is planned for it and what KubeVirt says of its instance -> what to tell the user.

Rules
1. The VM's network-status has an entry for each interface that is asked for or on its way out, in the shape of NPWG 1.3
   section 5: `interface` is the guest's name, and only there once the guest agent tells it. Our keys say how far it is.
   Entries of others stay, and are known by not having our keys.
2. What was told last is the VM itself, so a new leader tells nothing twice.
3. `hotnic.dev/networks-ready` is an annotation: KubeVirt removes from a running VM every condition that its instance
   does not have (v1.7, virt-controller, syncConditions), so a condition of ours would come and go.
4. KubeVirt's word for a whole instance counts for what is not done yet, and where it names interfaces only for those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cni import jsontext
from cni.status import entries as status_entries
from controller.desired import NETWORK_NOT_FOUND
from controller.model import NETWORK_STATUS, NETWORKS, Event
from controller.relay_plan import MAC_IN_USE, Entry, Hold, Plan, World
from controller.report import MESSAGE_BYTES, by_reason, shortened
from controller.vms import MANAGED, READY, REASON, Instance, Link, Machine, Nic, Stage, pod_interface

NAME, STATE = "hotnic.dev/name", "hotnic.dev/state"
_REASON, _MESSAGE = "hotnic.dev/reason", "hotnic.dev/message"
_POD_INTERFACE, _LINK_STATE = "hotnic.dev/pod-interface", "hotnic.dev/link-state"
NOT_RUNNING = "VMNotRunning"

_THERE = {Stage.ATTACHED, Stage.GUEST_VISIBLE}
_GRAVITY = (
    Stage.FAILED, Stage.RESTART_REQUIRED, Stage.MIGRATING, Stage.PENDING, Stage.POD_ATTACHED, Stage.DETACHING,
)  # fmt: skip
# from the gravest; those of pods, and one more
_REASONS = (
    "InterfaceAddRejected",
    "FailedAddingInterface",
    "RestartRequired",
    "AddedInterface",
    "RemovedInterface",
)
_REJECTED, _FAILED, _RESTART, _ADDED, _REMOVED = range(len(_REASONS))
_REFUSALS = {
    "InvalidElement", "Unsupported", "NamespaceForbidden", "NameTaken", MAC_IN_USE, "Denied", "NotUnpluggable",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """The annotations to write (None: to remove), and the events about what is new in them."""

    annotations: Mapping[str, str | None]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    entry: Entry
    state: Hold
    document: Mapping[str, Any]


def report(machine: Machine, plan: Plan, world: World) -> Report:
    """Return what to tell once the plan's changes are made."""
    if not {NETWORKS, MANAGED, READY} & machine.annotations.keys():
        return Report({}, ())
    nics = plan.devices.nics(machine.namespace)
    told = [_told(entry, nics.get(entry.name), machine, world) for entry in plan.entries]
    status = _status(machine, [one.document for one in told])
    ready, reason = _readiness(plan, told)
    annotations = {
        MANAGED: ",".join(sorted(plan.managed)) or None,
        NETWORK_STATUS: status,
        READY: ready,
        REASON: reason,
    }
    return Report(annotations, _events(machine, plan, told, reason))


def _told(entry: Entry, nic: Nic | None, machine: Machine, world: World) -> _Told:
    instance = world.instance if world.instance is not None and world.instance.is_alive else None
    link = instance.link(entry.name) if instance else None
    state = entry.hold or _state(entry, nic, machine, world, instance)
    return _Told(entry, state, _document(entry, state, nic, link))


def _document(entry: Entry, state: Hold, nic: Nic | None, link: Link | None) -> dict[str, Any]:
    is_in_guest = link is not None and "domain" in link.sources
    document = {
        "name": entry.network,
        "interface": link.guest_interface if link and is_in_guest else "",
        "ips": list(link.ips) if link and is_in_guest else [],
        "mac": link.mac if link and is_in_guest else nic.mac if nic else "",
        NAME: entry.name,
        STATE: state.stage.value,
        _REASON: state.reason,
        _MESSAGE: state.message,
        _POD_INTERFACE: (link.pod_interface or pod_interface(entry.name)) if link else "",
        _LINK_STATE: link.link_state if link else "",
    }
    return {key: value for key, value in document.items() if value}


# -- how far an interface is ----------------------------------------------------------------------------------------


def _state(entry: Entry, nic: Nic | None, machine: Machine, world: World, instance: Instance | None) -> Hold:
    is_leaving = nic is None or nic.absent
    if instance is None and is_leaving:
        return Hold(Stage.DETACHING, NOT_RUNNING, "KubeVirt has not removed its entry from the VM yet")
    if instance is None or nic is None:
        return Hold(Stage.PENDING, NOT_RUNNING, "plugged when the VM starts")
    link = instance.link(entry.name)
    if is_leaving:
        return _leaving(nic, instance, link)
    return _differing(nic, machine, world, instance) or _coming(nic, world, instance, link)


def _leaving(nic: Nic, instance: Instance, link: Link | None) -> Hold:
    if instance.has_ordinal_names():
        text = "its pod's interfaces are numbered, as before KubeVirt 1.0: they go when the VM restarts or migrates"
        return Hold(Stage.RESTART_REQUIRED, "OrdinalNames", text)
    trouble = _trouble(nic.name, instance)
    if link is None:
        reason, text = "WaitingForKubeVirt", "KubeVirt has not removed its entry yet"
    elif "domain" in link.sources:
        reason, text = "WaitingForGuest", "the guest has not let go of it yet"
    else:
        reason, text = "WaitingForPod", "it has left the guest, and is being removed from the pod"
    return Hold(Stage.DETACHING, reason, f"{text}: {trouble}" if trouble else text)


def _differing(nic: Nic, machine: Machine, world: World, instance: Instance) -> Hold | None:
    """Return what to say where the instance's spec is not as the VM's."""
    there = instance.nics.get(nic.name)
    if there is None:
        if machine.failure:
            return Hold(Stage.FAILED, "HotPlugNetworkInterfaceError", machine.failure)
        return Hold(Stage.PENDING, "WaitingForKubeVirt", "KubeVirt has not handed it over to the instance yet")
    if there.absent:
        return Hold(Stage.DETACHING, "Replacing", "plugged again once KubeVirt has unplugged what was there before")
    if (there.mac, there.model, there.binding) == (nic.mac, nic.model, nic.binding):
        if there.network == nic.network:
            return None
        if world.kubevirt.exchanges_networks and instance.migratable:
            return Hold(Stage.MIGRATING, "NetworkChanged", "KubeVirt migrates the VM to its new network")
    return Hold(Stage.RESTART_REQUIRED, "SpecChanged", "it was changed in a way that KubeVirt makes at a restart only")


def _coming(nic: Nic, world: World, instance: Instance, link: Link | None) -> Hold:
    sources = link.sources if link else frozenset[str]()
    must_migrate = instance.migration_required == "True"
    if "domain" in sources and not (must_migrate and world.kubevirt.exchanges_networks):
        return Hold(Stage.GUEST_VISIBLE if "guest-agent" in sources else Stage.ATTACHED, "", "")
    if must_migrate or world.migration:
        return Hold(Stage.MIGRATING, "MigrationRequired", "it is plugged by the VM's migration")
    if trouble := _trouble(nic.name, instance):
        return Hold(Stage.FAILED, "NotSynchronized", trouble)
    if "multus-status" in sources:
        return Hold(Stage.POD_ATTACHED, "WaitingForGuest", "the pod has it, the guest does not yet")
    if instance.phase != "Running":
        return Hold(Stage.PENDING, "VMStarting", "the VM is starting")
    return Hold(Stage.PENDING, "WaitingForPod", "the launcher pod does not have it yet")


def _trouble(name: str, instance: Instance) -> str:
    """Return KubeVirt's complaint, if it may be about this interface (rule 4)."""
    names = {one for one in instance.nics if _is_named(one, instance.trouble)}
    return instance.trouble if not names or name in names else ""


def _is_named(name: str, text: str) -> bool:
    suffix = pod_interface(name).removeprefix("pod")  # also in tap…, k6t-…, …-nic
    return suffix in text or re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


# -- what is written ------------------------------------------------------------------------------------------------


def _status(machine: Machine, ours: Sequence[Mapping[str, Any]]) -> str | None:
    old = machine.annotations.get(NETWORK_STATUS)
    entries = [*(one for one in status_entries(old) if not _is_ours(one)), *ours]
    if not entries:
        return None
    text = jsontext.dumps(entries)
    return old if old is not None and status_entries(old) == entries else text


def _is_ours(entry: Any) -> bool:
    return isinstance(entry, dict) and STATE in entry


def _readiness(plan: Plan, told: Sequence[_Told]) -> tuple[str, str]:
    """Return the two annotations' values."""
    if plan.malformed is not None:
        text = f"annotation {NETWORKS}, position {plan.malformed.position}: {plan.malformed.reason}"
        return "False", f"InvalidAnnotation: will not change interfaces: {text}"
    lacks = [one for one in told if one.state.stage not in _THERE or not one.entry.is_wanted]
    if not lacks:
        return "True", f"AllAttached: {len(told)}" if told else "NoNetworks"
    gravest = min(lacks, key=lambda one: _gravity(one.state.stage))
    return "False", shortened(f"{gravest.state.reason}: {'; '.join(map(_sentence, lacks))}", MESSAGE_BYTES)


def _gravity(stage: Stage) -> int:
    return _GRAVITY.index(stage) if stage in _GRAVITY else len(_GRAVITY)


def _sentence(one: _Told) -> str:
    return f"{_place(one.entry)}: {one.state.stage.value}: {one.state.message}"


def _place(entry: Entry) -> str:
    return f"{entry.name} ({entry.network})" if entry.name and entry.network else entry.name or entry.network or "?"


# -- the events -----------------------------------------------------------------------------------------------------


def _events(machine: Machine, plan: Plan, told: Sequence[_Told], reason: str) -> tuple[Event, ...]:
    clauses: list[tuple[int, str]] = []
    if plan.malformed is not None and machine.annotations.get(REASON) != reason:
        clauses.append((_REJECTED, reason.partition(": ")[2]))
    before = {_key(one): one for one in status_entries(machine.annotations.get(NETWORK_STATUS)) if _is_ours(one)}
    clauses += [clause for one in told if (clause := _news(one, before.get(_key(one.document), {})))]
    names = {one.entry.name for one in told}
    for (name, network), entry in before.items():
        if name and name not in names and entry.get(STATE) not in {Stage.PENDING.value, Stage.FAILED.value}:
            clauses.append((_REMOVED, f"removed interface {name} from network: {network}"))
    return by_reason(f"vm [{machine.key}]", clauses, _REASONS, _RESTART)


def _key(document: Mapping[str, Any]) -> tuple[str, str]:
    return str(document.get(NAME, "")), str(document.get("name", ""))


def _news(one: _Told, before: Mapping[str, Any]) -> tuple[int, str] | None:
    """Return the clause about what was not told before."""
    stage, reason, message = one.state.stage, one.state.reason, one.state.message
    was = before.get(STATE)
    if stage in _THERE:
        is_known = was in {known.value for known in _THERE}
        return None if is_known or not one.entry.is_wanted else (_ADDED, _added(one))
    if (was, before.get(_MESSAGE)) == (stage.value, message):
        return None
    place = f"interface{_spaced(one.entry.name)} to network: {one.entry.network}"
    if stage is Stage.FAILED and reason in _REFUSALS:
        return _REJECTED, f"will not add {place}: {message}"
    if stage is Stage.FAILED or reason == NETWORK_NOT_FOUND:
        return _FAILED, f"failed adding {place}: {message}"
    if stage is Stage.RESTART_REQUIRED:
        return _RESTART, f"interface {one.entry.name}: {message}"
    return None


def _spaced(name: str) -> str:
    return f" {name}" if name else ""


def _added(one: _Told) -> str:
    mac = one.document.get("mac", "")
    return f"added interface {one.entry.name} to network: {one.entry.network}(mac: {mac})"
