"""What the relay knows of KubeVirt's objects (kubevirt.io/v1). Values only, no effects.

Rules
1. API objects become these views at once. The two lists that a patch tests are kept exactly as they are.
2. `resource_version` does not count when two views are compared: most updates say nothing new here.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MANAGED = "hotnic.dev/managed-interfaces"
READY = "hotnic.dev/networks-ready"
REASON = "hotnic.dev/networks-ready-reason"

BRIDGE = "bridge"
_NO_BINDING = {
    "name", "model", "ports", "macAddress", "bootOrder", "pciAddress", "dhcpOptions", "tag", "acpiIndex", "state",
}  # fmt: skip
# KubeVirt creates no second migration meanwhile, and has chosen nothing for this one yet
_NOT_BEGUN = {"", "Pending"}
_ENDED = {"Succeeded", "Failed"}

Raw = Mapping[str, Any]


class Stage(enum.Enum):
    """How far an interface of a VM has got; the words of its network-status."""

    PENDING = "Pending"
    POD_ATTACHED = "PodAttached"
    ATTACHED = "Attached"  # the guest's machine has the device
    GUEST_VISIBLE = "GuestVisible"  # and the guest agent tells of it
    MIGRATING = "Migrating"
    RESTART_REQUIRED = "RestartRequired"
    FAILED = "Failed"
    DETACHING = "Detaching"


@dataclass(frozen=True, slots=True)
class Nic:
    """An interface of a spec, with the network of the same name. `network` is namespace/name; "" where it is no NAD."""

    name: str
    network: str
    mac: str
    model: str
    binding: str
    absent: bool


@dataclass(frozen=True, slots=True)
class Devices:
    """The two lists of a spec, as they are in the API object; None where there is none."""

    interfaces: tuple[Raw, ...] | None
    networks: tuple[Raw, ...] | None

    def nics(self, namespace: str) -> dict[str, Nic]:
        """Return the interfaces by name; `namespace`: of networks that name none."""
        sources = {one.get("name"): one for one in self.networks or ()}
        return {
            str(one.get("name")): _nic(one, sources.get(one.get("name"), {}), namespace)
            for one in self.interfaces or ()
        }

    def entry(self, name: str) -> tuple[Raw, Raw]:
        """Return interface and network of that name; one that is missing has its name only."""
        nothing = {"name": name}
        return (
            next((one for one in self.interfaces or () if one.get("name") == name), nothing),
            next((one for one in self.networks or () if one.get("name") == name), nothing),
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """A VirtualMachine."""

    namespace: str
    name: str
    uid: str
    resource_version: str = field(compare=False)
    generation: int
    deleting: bool
    annotated: bool  # whether there are annotations at all
    annotations: Mapping[str, str]  # those that the relay reads or writes
    devices: Devices
    has_device_map: bool  # whether spec.template.spec.domain.devices is there
    attaches_pod_network: bool  # where both lists are empty, KubeVirt adds the pod network at every start
    has_preference: bool
    failure: str  # why KubeVirt could not hand the interfaces over to the instance
    busy: str  # the snapshot or restore of the VM that is being made: KubeVirt denies changes meanwhile

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def nics(self) -> dict[str, Nic]:
        return self.devices.nics(self.namespace)


@dataclass(frozen=True, slots=True)
class Link:
    """An interface of an instance's status."""

    name: str
    mac: str
    ips: tuple[str, ...]
    pod_interface: str
    guest_interface: str
    sources: frozenset[str]  # who tells of it: multus-status, domain, guest-agent
    link_state: str


@dataclass(frozen=True, slots=True)
class Instance:
    """A VirtualMachineInstance."""

    namespace: str
    name: str
    uid: str
    resource_version: str = field(compare=False)
    owner: str  # the UID of its VirtualMachine; "" for one that stands alone
    phase: str
    deleting: bool
    annotation: str | None
    devices: Devices
    links: tuple[Link, ...]
    migrating: bool
    migratable: bool
    migration_required: str  # "True", "False" (about to be), ""
    trouble: str  # why it does not become as its spec says

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def nics(self) -> dict[str, Nic]:
        return self.devices.nics(self.namespace)

    @property
    def is_alive(self) -> bool:
        return not self.deleting and self.phase not in _ENDED

    def link(self, name: str) -> Link | None:
        return next((one for one in self.links if one.name == name), None)

    def has_ordinal_names(self) -> bool:
        """Whether its pod's interfaces are net1, net2, …: KubeVirt before 1.0 made them, and unplugs none of them."""
        return any(re.fullmatch(r"net\d+", one.pod_interface) for one in self.links)


@dataclass(frozen=True, slots=True)
class Migration:
    """A VirtualMachineInstanceMigration."""

    namespace: str
    name: str
    resource_version: str = field(compare=False)
    instance: str
    phase: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def instance_key(self) -> str:
        return f"{self.namespace}/{self.instance}"

    @property
    def is_under_way(self) -> bool:
        """Whether the target is chosen or being made: it has the interfaces of that moment."""
        return self.phase not in _ENDED | _NOT_BEGUN


@dataclass(frozen=True, slots=True)
class KubeVirt:
    """The installation."""

    key: str = ""
    resource_version: str = field(default="", compare=False)
    pod_binding: str = BRIDGE  # of the pod network that KubeVirt adds by itself
    exchanges_networks: bool = False  # it migrates a VM whose interface got another network


def pod_interface(name: str) -> str:
    """Return what KubeVirt calls the interface in the pod for the network of that name (namescheme package)."""
    return f"pod{hashlib.sha256(name.encode()).hexdigest()[:11]}"


def macs(interfaces: Iterable[Raw]) -> frozenset[str]:
    return frozenset(_mac(one) for one in interfaces) - {""}


def _nic(interface: Raw, source: Raw, namespace: str) -> Nic:
    network = (source.get("multus") or {}).get("networkName") or ""
    return Nic(
        name=str(interface.get("name")),
        network=network if not network or "/" in network else f"{namespace}/{network}",
        mac=_mac(interface),
        model=interface.get("model") or "",
        binding=_binding(interface),
        absent=interface.get("state") == "absent",
    )


def _binding(interface: Raw) -> str:
    plugin = interface.get("binding")
    if isinstance(plugin, Mapping):
        return f"plugin {plugin.get('name')}"
    return next((key for key in interface if key not in _NO_BINDING), "")


def _mac(interface: Raw) -> str:
    return str(interface.get("macAddress") or "").lower().replace("-", ":")
