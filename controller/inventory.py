"""What there is in the cluster that the relay goes by, and which virtual machines a piece of news concerns.

Rules
1. Everything comes from one watch for each kind; nothing is read for a single VM.
2. News that says nothing new here (another label, a heartbeat of the guest agent) concerns nobody. Neither does any
   news of a VM that never asked for networks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

from controller.known import Table
from controller.macs import Range, Register
from controller.model import NETWORKS, Network
from controller.policy import Policy
from controller.relay_plan import Plan, World
from controller.vms import MANAGED, READY, Instance, KubeVirt, Machine, Migration, macs


class Inventory:
    """The tables that the watches fill. `touch` is called with the key of each VM or instance to be looked at."""

    def __init__(self, policy: Policy, addresses: Range, touch: Callable[[str], None]) -> None:
        self._policy = policy
        self._touch_one = touch
        self._register = Register(addresses, self._freed)
        self.machines: Table[str, Machine] = Table(lambda one: one.key, self._machine_changed)
        self.instances: Table[str, Instance] = Table(lambda one: one.key, self._instance_changed)
        self.migrations: Table[str, Migration] = Table(lambda one: one.key, self._migration_changed)
        self.networks: Table[str, Network] = Table(lambda one: one.key, self._network_changed)
        self.installations: Table[str, KubeVirt] = Table(lambda one: one.key, self._installation_changed)
        self._lock, self._noting = threading.Lock(), threading.Lock()
        self._under_way: dict[str, set[str]] = {}  # migrations by instance
        self._named: dict[str, set[str]] = {}  # by VM, the networks that its last pass asked for
        self._waiting: dict[str, set[str]] = {}  # VMs by the MAC that they ask for and somebody else has

    def touch_all(self) -> None:
        """Have everything looked at."""
        self._touch({*self.machines.keys(), *self.instances.keys()})

    def waiting_for(self) -> tuple[str, ...]:
        """Return what is not listed yet."""
        tables = {
            "VirtualMachines": self.machines.listed_once,
            "VirtualMachineInstances": self.instances.listed_once,
            "VirtualMachineInstanceMigrations": self.migrations.listed_once,
            "NetworkAttachmentDefinitions": self.networks.listed_once,
            "KubeVirt": self.installations.listed_once,
        }
        return tuple(f"the list of {what}" for what, listed in tables.items() if not listed.is_set())

    # -- what a pass needs to know, and what it finds out -------------------------------------------------------------

    def world(self, machine: Machine) -> World:
        """Return what surrounds a VM, for one pass."""
        instance = self.instances.get(machine.key)
        if instance is not None and instance.owner != machine.uid:
            instance = None
        with self._lock:
            self._named[machine.key] = set()
            migration = min(self._under_way.get(machine.key, ()), default="")
        if not migration and instance is not None and instance.migrating:
            migration = machine.name
        installation = next(iter(self.installations.keys()), "")
        return World(
            instance=instance,
            migration=migration if instance is not None and instance.is_alive else "",
            kubevirt=self.installations.get(installation) or KubeVirt(),
            has_network=lambda network: self._has_network(machine.key, network),
            policy=self._policy,
            addresses=self._register,
        )

    def _has_network(self, key: str, network: str) -> bool:
        with self._lock:  # before the look: else a network that comes just now finds nobody who waits for it
            self._named.setdefault(key, set()).add(network)
        return self.networks.get(network) is not None

    def planned(self, machine: Machine, draft: Plan) -> None:
        """Take note of the addresses that a plan uses, and of those that it could not have."""
        self._register.keep(machine.key, macs(draft.devices.interfaces or ()))
        self._wait_for(machine.key, draft.missed)
        if not all(self._register.holder(machine.key, address) for address in draft.missed):
            self._touch_one(machine.key)  # it was given up before it was known that somebody waits

    def learn(self, machine: Machine) -> None:
        """Take over what a read or a write has answered: the watch will not bring what is known already."""
        self.machines.refresh(machine)
        self._note_addresses(machine.key)

    def forget(self, key: str) -> None:
        """Give up what was kept for a VM that is gone."""
        self._wait_for(key, ())
        self._register.keep(key, ())
        with self._lock:
            self._named.pop(key, None)

    def _wait_for(self, key: str, addresses: Collection[str]) -> None:
        with self._lock:
            for address in [one for one, keys in self._waiting.items() if key in keys and one not in addresses]:
                self._waiting[address].discard(key)
                if not self._waiting[address]:
                    del self._waiting[address]
            for address in addresses:
                self._waiting.setdefault(address, set()).add(key)

    def _note_addresses(self, key: str) -> None:
        with self._noting:  # so that nobody notes what was there before the other one's look
            machine = self.machines.get(key)
            self._register.seen(key, "vm", macs(machine.devices.interfaces or ()) if machine else ())

    # -- news -----------------------------------------------------------------------------------------------------

    def _machine_changed(self, old: Machine | None, new: Machine | None) -> None:
        one = new or old
        if one is None or old == new:
            return
        self._note_addresses(one.key)
        if new is None or _concerns_us(new):
            self._touch_one(one.key)

    def _instance_changed(self, old: Instance | None, new: Instance | None) -> None:
        one = new or old
        if one is None or old == new:
            return
        found = (link.mac for link in new.links) if new else ()
        self._register.seen(one.key, "instance", {*macs(new.devices.interfaces or ()), *found} - {""} if new else ())
        machine = self.machines.get(one.key)
        if (machine and _concerns_us(machine)) or one.annotation is not None:
            self._touch_one(one.key)

    def _migration_changed(self, old: Migration | None, new: Migration | None) -> None:
        one = new or old
        if one is None:
            return
        is_under_way = new is not None and new.is_under_way
        with self._lock:
            known = self._under_way.setdefault(one.instance_key, set())
            is_news = is_under_way != (one.name in known)
            (known.add if is_under_way else known.discard)(one.name)
            if not known:
                del self._under_way[one.instance_key]
        if is_news:
            self._touch_one(one.instance_key)

    def _network_changed(self, old: Network | None, new: Network | None) -> None:
        one = new or old
        if one is None or (old is not None and new is not None):
            return
        with self._lock:
            concerned = [key for key, named in self._named.items() if one.key in named]
        self._touch(concerned)

    def _installation_changed(self, old: KubeVirt | None, new: KubeVirt | None) -> None:
        if old != new:
            self._touch(key for key in self.machines.keys() if self._is_known(key))  # noqa: SIM118 a table

    def _is_known(self, key: str) -> bool:
        machine = self.machines.get(key)
        return machine is not None and _concerns_us(machine)

    def _freed(self, addresses: Collection[str]) -> None:
        with self._lock:
            concerned = {key for address in addresses for key in self._waiting.get(address, ())}
        self._touch(concerned)

    def _touch(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._touch_one(key)


def _concerns_us(machine: Machine) -> bool:
    return bool({NETWORKS, MANAGED, READY} & machine.annotations.keys())
