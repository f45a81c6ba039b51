"""Pure: a VirtualMachine, its annotation and what surrounds it -> the change of its spec that KubeVirt turns into NICs.

Rules
1. Entries are added, and marked `state: absent`; only KubeVirt deletes them. A name is used again when it is gone from
   both the VM and the instance.
2. Only what the annotation made is changed or unplugged. `hotnic.dev/managed-interfaces` says which that is; somebody
   else's entry becomes ours only if it is what the annotation asks for already.
3. A running guest is changed by plug and unplug alone: another MAC or model is both, in that order. So is another
   network, unless KubeVirt can exchange it under the guest by migrating it.
4. Nothing changes while the VM migrates: the target was made with the interfaces of before.
5. MAC and model are always written: what KubeVirt fills in later would look like a change that needs a restart.
6. A VM that names no interfaces gets the pod network at every start. The first entry that is added ends that, so the
   pod network is written beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from controller import relay_wishes
from controller.desired import NETWORK_NOT_FOUND, Malformed
from controller.model import NETWORKS
from controller.policy import Policy
from controller.relay_wishes import Wish
from controller.vms import BRIDGE, MANAGED, Devices, Instance, KubeVirt, Machine, Nic, Raw, Stage

MAC_IN_USE = "MacInUse"
_DEFAULT_MODEL = "virtio"


class Taken(Exception):
    """No address can be had. `str()` says why."""


class Addresses(Protocol):
    """Who has which MAC in the cluster."""

    def claim(self, owner: str, address: str) -> str:
        """Claim the address; return the owner who has it instead, or nothing."""
        ...

    def choose(self, owner: str, stem: str, taken: Collection[str]) -> str:
        """Claim and return an address that follows from `stem`, none of `taken`. May raise Taken."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """What decides beside the VM itself. `migration`: what is under way, "" for nothing."""

    instance: Instance | None
    migration: str
    kubevirt: KubeVirt
    has_network: Callable[[str], bool]
    policy: Policy
    addresses: Addresses


@dataclass(frozen=True, slots=True)
class Hold:
    """Why something is not as asked (yet)."""

    stage: Stage
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """One entry that is added, or replaced under its name."""

    name: str
    interface: Raw
    network: Raw

    @property
    def fingerprint(self) -> str:
        return json.dumps([self.interface, self.network], sort_keys=True)

    def is_in(self, devices: Devices) -> bool:
        """Whether it is made there just so."""
        return devices.entry(self.name) == (self.interface, self.network)


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is to tell about one interface that is asked for, or on its way out."""

    name: str
    network: str
    is_wanted: bool
    hold: Hold | None = None


@dataclass(slots=True)
class Plan:
    """`managed` and `devices` are as they are once the changes are made."""

    entries: list[Entry] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    managed: set[str] = field(default_factory=set)
    devices: Devices = field(default_factory=lambda: Devices(None, None))
    missed: set[str] = field(default_factory=set)  # MACs that are asked for and that another VM has
    malformed: Malformed | None = None


def managed(machine: Machine) -> frozenset[str]:
    """Return the names that the annotation made, as far as they can be read."""
    return frozenset(filter(None, machine.annotations.get(MANAGED, "").split(",")))


def plan(machine: Machine, world: World, denied: Mapping[str, str], *, alone: bool) -> Plan:
    """Return what to change. `denied`: changes that the API server refused, and why; `alone`: one change at most."""
    wishes = relay_wishes.read(machine.annotations.get(NETWORKS, ""), machine.namespace, world.policy)
    if isinstance(wishes, Malformed):
        return _as_it_is(machine, wishes)
    return _Draft(machine, world, denied, 1 if alone else len(wishes) + len(machine.nics)).plan(wishes)


def _as_it_is(machine: Machine, malformed: Malformed) -> Plan:
    """Nothing can be said of what is asked for: what was made before stays."""
    kept = {name: nic for name, nic in machine.nics.items() if name in managed(machine)}
    entries = [Entry(name, nic.network, is_wanted=not nic.absent) for name, nic in kept.items()]
    return Plan(entries, managed=set(kept), devices=machine.devices, malformed=malformed)


class _Draft:
    """A plan in the making."""

    def __init__(self, machine: Machine, world: World, denied: Mapping[str, str], limit: int) -> None:
        self._machine = machine
        self._world = world
        self._denied = denied
        self._limit = limit  # of changes
        self._nics = machine.nics
        self._managed = managed(machine)
        instance = world.instance
        self._running = instance if instance is not None and instance.is_alive else None
        self._plan = Plan(managed=set(self._managed & self._nics.keys()))

    def plan(self, wishes: Sequence[Wish]) -> Plan:
        left = self._running.nics.keys() | {link.name for link in self._running.links} if self._running else set()
        names = relay_wishes.named(wishes, self._nics, self._managed, frozenset(left))
        for wish, name in zip(wishes, names, strict=True):
            self._want(wish, name)
        for name in sorted(self._plan.managed - set(names)):
            self._drop(self._nics[name])
        self._plan.devices = self._changed()
        return self._plan

    # -- what is asked for ----------------------------------------------------------------------------------------

    def _want(self, wish: Wish, name: str) -> None:
        decision: Change | Hold | None
        if wish.refusal is not None:
            decision = Hold(Stage.FAILED, wish.refusal.reason, wish.refusal.message)
        else:
            decision = self._decide(wish, name)
        network = self._nics[name].network if decision and name in self._plan.managed else wish.network
        self._note(Entry(name, network or wish.network, is_wanted=True), decision)

    def _note(self, entry: Entry, decision: Change | Hold | None) -> None:
        if isinstance(decision, Change):
            decision = self._allowed(decision)
        if isinstance(decision, Change):
            self._plan.changes.append(decision)
            self._plan.managed.add(decision.name)
            decision = None
        self._plan.entries.append(replace(entry, hold=decision))

    def _allowed(self, change: Change) -> Change | Hold:
        if cause := self._denied.get(change.fingerprint):
            return Hold(Stage.FAILED, "Denied", cause)
        if len(self._plan.changes) >= self._limit:
            return Hold(Stage.PENDING, "Waiting", "another change of the VM is made first")
        return change

    def _decide(self, wish: Wish, name: str) -> Change | Hold | None:
        nic = self._nics.get(name)
        if nic is None:
            return self._add(wish, name)
        if nic.absent:
            return Hold(Stage.DETACHING, "Replacing", "plugged again once KubeVirt has unplugged what was there before")
        if name not in self._managed:
            if not relay_wishes.is_adoptable(wish, nic):
                return Hold(
                    Stage.FAILED, "NameTaken", f"the VM has another interface {name}, not made from its annotation"
                )
            self._plan.managed.add(name)
            return None
        return None if wish.is_met_by(nic) else self._replace(wish, nic)

    def _add(self, wish: Wish, name: str) -> Change | Hold:
        if self._running and (name in self._running.nics or self._running.link(name)):
            return self._again(wish, name, self._running)
        if hold := self._waits(wish) or self._pod_network_is_unknown():
            return hold
        mac = self._mac(wish.mac, name)
        if isinstance(mac, Hold):
            return mac
        interface = {"name": name, "model": wish.model or _DEFAULT_MODEL, "macAddress": mac, BRIDGE: {}}
        return Change(name, interface, _source(name, wish.network))

    def _again(self, wish: Wish, name: str, instance: Instance) -> Change | Hold:
        """The instance still has an interface of that name, and the VM has none."""
        nic = instance.nics.get(name)
        if nic is None or nic.absent:
            return Hold(Stage.DETACHING, "Replacing", "plugged again once KubeVirt has unplugged what was there before")
        if wish.is_met_by(nic):
            return Change(name, *instance.devices.entry(name))  # just as it is: else it would need a restart
        text = "its entry was deleted from the VM; KubeVirt lets go of the interface when the VM restarts"
        return Hold(Stage.RESTART_REQUIRED, "EntryDeleted", text)

    def _replace(self, wish: Wish, nic: Nic) -> Change | Hold:
        """Change what is there: in place where that is enough (rule 3)."""
        if hold := self._waits(wish):
            return hold
        if nic.binding != BRIDGE:
            return Hold(
                Stage.FAILED,
                "NotUnpluggable",
                f"its binding was changed to {nic.binding}: KubeVirt unplugs bridge only",
            )
        mac = nic.mac if wish.mac in {"", nic.mac} else self._mac(wish.mac, nic.name)
        if isinstance(mac, Hold):
            return mac
        if not self._running or self._is_exchanged(wish, nic, self._running):
            return self._edited(nic.name, wish, mac)
        return self._absent(nic.name)

    def _is_exchanged(self, wish: Wish, nic: Nic, running: Instance) -> bool:
        is_network_alone = replace(wish, network=nic.network).is_met_by(nic)
        return is_network_alone and running.migratable and self._world.kubevirt.exchanges_networks

    def _edited(self, name: str, wish: Wish, mac: str) -> Change:
        interface, _ = self._machine.devices.entry(name)
        model = {"model": wish.model} if wish.model else {}
        return Change(name, {**interface, **model, "macAddress": mac}, _source(name, wish.network))

    def _absent(self, name: str) -> Change:
        interface, network = self._machine.devices.entry(name)
        return Change(name, {**interface, "state": "absent"}, network)

    # -- what is not asked for any more ---------------------------------------------------------------------------

    def _drop(self, nic: Nic) -> None:
        decision: Change | Hold | None = None
        if not nic.absent:
            if nic.binding != BRIDGE:
                text = f"its binding was changed to {nic.binding}: KubeVirt unplugs bridge only"
                decision = Hold(Stage.FAILED, "NotUnpluggable", text)
            else:
                decision = self._migrates("unplugged") or self._absent(nic.name)
        self._note(Entry(nic.name, nic.network, is_wanted=False), decision)

    # -- what stands in the way -----------------------------------------------------------------------------------

    def _waits(self, wish: Wish) -> Hold | None:
        if not self._world.has_network(wish.network):
            text = f"NetworkAttachmentDefinition {wish.network} does not exist"
            return Hold(Stage.PENDING, NETWORK_NOT_FOUND, text)
        return self._migrates("plugged")

    def _migrates(self, verb: str) -> Hold | None:
        if not self._world.migration:
            return None
        return Hold(Stage.MIGRATING, "MigrationInProgress", f"{verb} when migration {self._world.migration} has ended")

    def _pod_network_is_unknown(self) -> Hold | None:
        is_unknown = self._machine.has_preference or not self._world.kubevirt.key
        if self._has_hidden_pod_network() and not self._running and is_unknown:
            text = "the VM names no interfaces, and what it gets is known once it runs: start it, or name them"
            return Hold(Stage.PENDING, "PodNetworkUnknown", text)
        return None

    def _mac(self, asked: str, name: str) -> str | Hold:
        owner, others = self._machine.key, self._other_macs(name)
        if not asked:
            try:
                return self._world.addresses.choose(owner, f"{self._machine.uid} {name}", others)
            except Taken as problem:
                return Hold(Stage.FAILED, MAC_IN_USE, str(problem))
        who = owner if asked in others else self._world.addresses.claim(owner, asked)
        if not who:
            return asked
        if who != owner:
            self._plan.missed.add(asked)
        return Hold(Stage.FAILED, MAC_IN_USE, f"mac={asked!r} is in use by VM {who}")

    def _other_macs(self, name: str) -> set[str]:
        """Return what the VM's other interfaces have, those that are about to be added too."""
        macs = {nic.mac for nic in self._nics.values() if nic.name != name}
        macs |= {str(change.interface.get("macAddress")) for change in self._plan.changes if change.name != name}
        return macs | {link.mac for link in (self._running.links if self._running else ()) if link.name != name}

    # -- the result -----------------------------------------------------------------------------------------------

    def _has_hidden_pod_network(self) -> bool:
        devices = self._machine.devices
        return self._machine.attaches_pod_network and not devices.interfaces and not devices.networks

    def _changed(self) -> Devices:
        """Return the lists with all changes made: in place, or at the end."""
        if not self._plan.changes:
            return self._machine.devices
        changes = {change.name: change for change in self._plan.changes}
        interfaces, networks = self._start()
        for change in changes.values():
            _put(interfaces, change.interface)
            _put(networks, change.network)
        return Devices(tuple(interfaces), tuple(networks))

    def _start(self) -> tuple[list[Raw], list[Raw]]:
        devices = self._machine.devices
        if not self._has_hidden_pod_network():
            return list(devices.interfaces or ()), list(devices.networks or ())
        if self._running is None:
            return [{"name": "default", self._world.kubevirt.pod_binding: {}}], [{"name": "default", "pod": {}}]
        networks = [one for one in self._running.devices.networks or () if "pod" in one]
        names = {one["name"] for one in networks}
        return [one for one in self._running.devices.interfaces or () if one["name"] in names], networks


def _source(name: str, network: str) -> Raw:
    return {"name": name, "multus": {"networkName": network}}


def _put(entries: list[Raw], entry: Raw) -> None:
    for index, one in enumerate(entries):
        if one.get("name") == entry["name"]:
            entries[index] = entry
            return
    entries.append(entry)
