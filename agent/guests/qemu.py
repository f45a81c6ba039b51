"""A virtual machine that is QEMU, by its monitor (QMP), and by its guest's agent where it has one.

Rules
1. The tap goes to QEMU as a descriptor: QEMU needs no rights for it, and never makes a tap that was missing.
2. What is there is read (`qom-list`), both before anything is done and after a refusal; no error text is understood.
   QEMU takes an id once, which is why two NICs never come from one wish, whoever else asks at the same time.
3. A backend without its device, or a descriptor, may be left over from a crash, and may have the tap open or hold one
   that is another by now: it is not used but removed. Removing it is no good where a device has just come: that goes.
4. A guest that was asked to let a NIC go is asked again, but not more often than every ASK_AGAIN_S. Once it has, the
   backend goes with the next `look` or `unplug`.
5. The driver's sign of life is the device's own status (`x-query-virtio-status`, QEMU 7.2 and later); before that the
   receive filter, which is open for all VLANs until a driver sets it. No event tells of either: `wait` looks.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.guests import contract, pci, reach, wish
from agent.guests.contract import CALL_S, Nic, Running, Seen, Stage
from agent.guests.guest_agent import GuestAgent, Interface
from agent.guests.qmp import Monitor, Refusal
from agent.model import NotReady
from cni import errors

ASK_AGAIN_S = 2.0
LOOK_S = 0.01  # between two looks for a driver, while somebody waits for it
_DRIVER = "virtio-net-pci"
_PERIPHERAL = "/machine/peripheral"

# RunState of QEMU's qapi/run-state.json; what is not named stands still
_RUN_STATES = {
    "running": Running.RUNNING,
    "inmigrate": Running.INCOMING,
    "finish-migrate": Running.MIGRATING,
    "postmigrate": Running.MIGRATED,
    "shutdown": Running.STOPPED,
    "internal-error": Running.STOPPED,
    "guest-panicked": Running.STOPPED,
}
# MigrationStatus of qapi/migration.json: those between its start and its end
_MOVING = {
    "setup", "cancelling", "active", "postcopy-active", "postcopy-paused", "postcopy-recover",
    "postcopy-recover-setup", "pre-switchover", "device", "wait-unplug", "colo",
}  # fmt: skip
_NEWS = {
    "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR", "VSERPORT_CHANGE",
    "STOP", "RESUME", "RESET", "SHUTDOWN", "POWERDOWN", "SUSPEND", "WAKEUP", "GUEST_PANICKED", "MIGRATION",
}  # fmt: skip


def connect(root: Path, asked: wish.Qemu) -> Qemu:
    """Return the machine in the container whose root is at `root` (agent.guests.reach).

    Raises NotReady(VMUnreachable).
    """
    deadline = time.monotonic() + CALL_S
    agent = GuestAgent(lambda end: reach.connect(root, asked.guest_agent, end)) if asked.guest_agent else None
    return Qemu(reach.connect(root, asked.socket, deadline), agent, asked.guest_agent, deadline)


class Qemu(contract.Machine):
    """A connected monitor, which has no other client while this is open."""

    def __init__(self, monitor: socket.socket, agent: GuestAgent | None, agent_socket: str, deadline: float) -> None:
        self._monitor, self._agent, self._agent_socket = Monitor(monitor, deadline), agent, agent_socket
        self._leaving: dict[str, float] = {}  # when the guest was last asked to let the device go
        self._awaited: set[str] = set()  # devices that no driver had taken when they were last looked at
        self._has_news = False

    def tap_owner(self) -> None:
        """Return None: rule 1."""

    def look(self, nic: Nic) -> Seen:
        """Return what is to be seen of the NIC, now. Raises NotReady."""
        with self._call() as deadline:
            self._hear()
            self._has_news = False
            self._awaited.discard(nic.id)
            running = self._running(deadline)
            if not self._has(nic.id, deadline):
                if self._leaving.pop(nic.id, None):
                    self._drop_backend(nic, deadline)
                return Seen(Stage.ABSENT, running)
            return self._seen(nic, running, deadline)

    def plug(self, nic: Nic, opened_tap: Callable[[], int]) -> None:
        """Attach it. What `opened_tap` raises passes through. Raises NotReady."""
        with self._call() as deadline:
            running = self._running(deadline)
            if running in (Running.MIGRATING, Running.MIGRATED):
                raise _migrating(running)
            if running is Running.STOPPED:
                raise NotReady("VMRefused", "the virtual machine has been shut down, or has crashed")
            there = self._listed(_PERIPHERAL, deadline)
            if _is_among(there, nic.id):
                return
            where = self._place(nic.port, there, deadline)
            if self._agent and running is Running.RUNNING:
                self._agent.greet()
            self._add_backend(nic, opened_tap, deadline)
            self._add_device(nic, where, deadline)

    def unplug(self, nic: Nic) -> None:
        """Ask the guest to let it go, or remove what it has left. Raises NotReady."""
        with self._call() as deadline:
            if not self._has(nic.id, deadline):
                self._leaving.pop(nic.id, None)
                self._drop_backend(nic, deadline)
                return
            running = self._running(deadline)
            if running is Running.MIGRATED:
                return  # it will not run again, and where it runs now it is asked
            if running in (Running.MIGRATING, Running.INCOMING):
                raise _migrating(running)
            if time.monotonic() - self._leaving.get(nic.id, -ASK_AGAIN_S) >= ASK_AGAIN_S:
                self._ask_to_leave(nic, deadline)

    def wait(self, seconds: float) -> None:
        """Wait for news (rule 5), at most so long; none is lost between two calls. Raises NotReady(VMUnreachable)."""
        with self._call() as deadline:
            end = time.monotonic() + seconds
            self._hear()
            while not self._has_news:
                soon = time.monotonic() + LOOK_S if self._awaited else end
                self._monitor.listen(min(soon, end))
                self._hear()
                self._has_news |= self._has_driver_come(end, deadline)
                if time.monotonic() >= end:
                    break

    def close(self) -> None:
        """Leave the machine to the next client."""
        self._monitor.close()
        if self._agent:
            self._agent.close()

    # what is there

    def _seen(self, nic: Nic, running: Running, deadline: float) -> Seen:
        driver = self._has_driver(nic.id, deadline)
        if driver is False and running is Running.RUNNING:
            self._awaited.add(nic.id)
        # where the machine cannot tell of a driver, the agent may; where it has none, there is nothing to list
        is_awake = running in (Running.RUNNING, Running.MIGRATING)
        listed = self._listed_by_agent(nic, deadline) if is_awake and driver is not False else None
        return Seen(
            Stage.VISIBLE if driver or listed else Stage.PLUGGED,
            running,
            is_leaving=nic.id in self._leaving,
            port=self._port(nic.id, deadline),
            evidence="guest agent" if listed else "driver" if driver else "",
            guest_name=listed.name if listed else "",
            addresses=listed.addresses if listed else (),
        )

    def _running(self, deadline: float) -> Running:
        status = _object(self._monitor.execute("query-status", {}, deadline)).get("status")
        running = _RUN_STATES.get(str(status), Running.PAUSED)
        if running in (Running.RUNNING, Running.PAUSED):
            moving = _object(self._monitor.execute("query-migrate", {}, deadline)).get("status")
            return Running.MIGRATING if str(moving) in _MOVING else running
        return running

    def _has(self, device: str, deadline: float) -> bool:
        return _is_among(self._listed(_PERIPHERAL, deadline), device)

    def _has_driver_come(self, end: float, deadline: float) -> bool:
        """Whether a driver has taken one of those that are waited for, as far as they are looked at before `end`."""
        return any(time.monotonic() < end and self._has_driver(one, deadline) for one in self._awaited)

    def _has_driver(self, device: str, deadline: float) -> bool | None:
        """Whether the guest's driver has taken the device; None: that cannot be seen."""
        if status := _object(self._asked("x-query-virtio-status", deadline, path=_path(device, "virtio-backend"))):
            said = _object(status.get("status")).get("statuses")
            return any("DRIVER_OK" in str(one) for one in said) if isinstance(said, list) else None
        filters = self._asked("query-rx-filter", deadline, name=device)
        vlan = next((one.get("vlan") for one in _objects(filters)), "all")
        return None if vlan == "all" else True

    def _listed_by_agent(self, nic: Nic, deadline: float) -> Interface | None:
        if not self._agent:
            return None
        for one in _objects(self._asked("query-chardev", deadline)):
            names = str(one.get("filename", "")).removeprefix("disconnected:").split(",")
            if names[0] == f"unix:{self._agent_socket}" and one.get("frontend-open") is False:
                return None  # no agent has opened its port in the guest: nobody has to be waited for
        return self._agent.interface(nic.mac)

    def _port(self, device: str, deadline: float) -> str:
        bus = self._property(_path(device), "parent_bus", deadline)
        addr = self._property(_path(device), "addr", deadline)
        return pci.place(str(bus), addr if isinstance(addr, int) else 0)

    # changes

    def _place(self, asked: str, there: list[Mapping[str, Any]], deadline: float) -> dict[str, str]:
        if self._is_old_chipset(deadline):
            return pci.slot(asked)
        return pci.choose(asked, pci.ports(there), lambda port: self._is_free(port, deadline))

    def _is_old_chipset(self, deadline: float) -> bool:
        return _is_among(self._listed("/machine", deadline), "i440fx")

    def _is_free(self, port: str, deadline: float) -> bool:
        if pci.is_taken(self._listed(_path(port, port), deadline)):
            return False
        return self._property(_path(port), "hotplug", deadline) is not False

    def _add_backend(self, nic: Nic, opened_tap: Callable[[], int], deadline: float) -> None:
        try:
            self._give_tap(nic, opened_tap, deadline)
        except (Refusal, errors.CNIError):
            if self._has(nic.id, deadline):
                return
            if not self._drop_left(nic, deadline):
                raise
            self._give_tap(nic, opened_tap, deadline)

    def _give_tap(self, nic: Nic, opened_tap: Callable[[], int], deadline: float) -> None:
        name, tap = _backend(nic), opened_tap()
        try:
            self._monitor.execute("getfd", {"fdname": name}, deadline, fd=tap)
        finally:
            os.close(tap)
        self._monitor.execute("netdev_add", {"type": "tap", "id": name, "fd": name}, deadline)

    def _drop_left(self, nic: Nic, deadline: float) -> bool:
        """Remove what a crash has left (rule 3); False: nothing."""
        is_dropped = self._drop_backend(nic, deadline)
        try:
            self._monitor.execute("closefd", {"fdname": _backend(nic)}, deadline)
        except Refusal:
            return is_dropped
        return True

    def _add_device(self, nic: Nic, where: Mapping[str, str], deadline: float) -> None:
        arguments: dict[str, Any] = {"driver": _DRIVER, "id": nic.id, "netdev": _backend(nic), "mac": nic.mac}
        arguments |= {"romfile": "", **where}  # no ROM: nobody boots from it, and not every machine has the file
        if self._takes_mtu(deadline):
            arguments["host_mtu"] = nic.mtu
        try:
            self._monitor.execute("device_add", arguments, deadline)
        except Refusal as refusal:
            if self._has(nic.id, deadline):
                return
            self._drop_backend(nic, deadline)
            raise self._reason(refusal, deadline) from None

    def _takes_mtu(self, deadline: float) -> bool:
        known = self._asked("device-list-properties", deadline, typename=_DRIVER)
        return _is_among(_objects(known), "host_mtu")

    def _reason(self, refusal: Refusal, deadline: float) -> NotReady:
        """Return why the machine did not take a device, by what it is seen to be."""
        running = self._running(deadline)
        if running is Running.MIGRATING:
            return _migrating(running)
        if self._is_old_chipset(deadline) and pci.is_full(_objects(self._asked("query-pci", deadline))):
            return NotReady("NoFreePort", f"the virtual machine's PCI bus has no slot left ({refusal})")
        return _refused(refusal)

    def _drop_backend(self, nic: Nic, deadline: float) -> bool:
        """Remove the backend, which has no device; False: there is none."""
        try:
            self._monitor.execute("netdev_del", {"id": _backend(nic)}, deadline)
        except Refusal as refusal:
            if refusal.kind != "DeviceNotFound":
                raise
            return False
        if self._has(nic.id, deadline):
            self._asked("device_del", deadline, id=nic.id)
            raise NotReady("VMRefused", f"{nic.id} came from another at the same moment, and is taken out to come anew")
        return True

    def _ask_to_leave(self, nic: Nic, deadline: float) -> None:
        try:
            self._monitor.execute("device_del", {"id": nic.id}, deadline)
        except Refusal as refusal:
            if not self._has(nic.id, deadline):
                self._drop_backend(nic, deadline)
                return
            if self._running(deadline) is Running.MIGRATING:
                raise _migrating(Running.MIGRATING) from None
            if nic.id not in self._leaving:  # one that has been asked may be busy with letting go
                raise _refused(refusal) from None
        self._leaving[nic.id] = time.monotonic()

    # the monitor

    @contextmanager
    def _call(self) -> Iterator[float]:
        """Give one call of the contract its deadline, its bytes, and its kind of error."""
        self._monitor.allow()
        try:
            yield time.monotonic() + CALL_S
        except Refusal as refusal:
            raise _refused(refusal) from None

    def _hear(self) -> None:
        for event in self._monitor.heard():
            self._has_news = self._has_news or event.name in _NEWS
            if event.name == "VSERPORT_CHANGE" and self._agent:
                self._agent.retry()
            if event.name == "DEVICE_UNPLUG_GUEST_ERROR":
                self._leaving.pop(event.device, None)

    def _listed(self, path: str, deadline: float) -> list[Mapping[str, Any]]:
        return _objects(self._asked("qom-list", deadline, path=path))

    def _property(self, path: str, name: str, deadline: float) -> Any:
        return self._asked("qom-get", deadline, path=path, property=name)

    def _asked(self, question: str, deadline: float, **arguments: str) -> Any:
        """Return the answer to a question that the machine may not know, or whose object may just have gone: None."""
        try:
            return self._monitor.execute(question, arguments, deadline)
        except Refusal:
            return None


def _backend(nic: Nic) -> str:
    return f"host{nic.id}"


def _path(device: str, *below: str) -> str:
    return "/".join((_PERIPHERAL, device, *below))


def _object(answer: Any) -> Mapping[str, Any]:
    return answer if isinstance(answer, Mapping) else {}


def _objects(answer: Any) -> list[Mapping[str, Any]]:
    return [one for one in answer if isinstance(one, Mapping)] if isinstance(answer, list) else []


def _is_among(named: list[Mapping[str, Any]], name: str) -> bool:
    return any(one.get("name") == name for one in named)


def _migrating(running: Running) -> NotReady:
    how = {Running.MIGRATED: "has moved away", Running.INCOMING: "is still being received"}
    return NotReady("VMMigrating", f"the virtual machine {how.get(running, 'is being migrated')}")


def _refused(refusal: Refusal) -> NotReady:
    return NotReady("VMRefused", f"the virtual machine refuses: {refusal}")
