"""Real guests of a real libvirt daemon, which runs in a network namespace that stands for the pod's."""

import gc
import importlib.util
import os
import subprocess
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from agent.guests import domain_xml, libvirt, reach, wish
from agent.guests.contract import CALL_S, Nic, Running, Stage
from agent.model import NotReady
from tests import guests, libvirtd

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        importlib.util.find_spec("libvirt") is None,
        reason="libvirt's Python binding is not installed (`make netns` installs it)",
    ),
]

LONG_S = guests.LONG_S
NIC = Nic("ua-net1", "02:aa:00:00:00:01", "tapnet1", 1400)


class Pod:
    """A daemon in a namespace with a bridge, 10.9.0.1, whose ports are the taps that are made."""

    def __init__(self, folder: Path, name: str, user: int = libvirtd.USER) -> None:
        self.netns, self.user, self._folder, self._name = f"hntest-{uuid.uuid4().hex[:12]}", user, folder, name

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            subprocess.run(["ip", "netns", "add", self.netns], check=True)
            undo.callback(subprocess.run, ["ip", "netns", "del", self.netns], check=True)
            self.ip("link add br1 address 02:bb:00:00:00:01 type bridge")
            self.ip("addr add 10.9.0.1/24 dev br1")
            self.ip("link set br1 up")
            self.tap(NIC.tap)
            self.daemon = undo.enter_context(libvirtd.running(self._folder, self.netns, self.user, self._name))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def ip(self, command: str) -> None:
        subprocess.run(["ip", "-n", self.netns, *command.split()], check=True)

    def tap(self, name: str, user: int | None = None) -> None:
        owner = self.user if user is None else user
        self.ip(f"tuntap add mode tap user {owner} group {owner} name {name}")
        self.ip(f"link set {name} mtu {NIC.mtu} master br1 up")

    def connect(self, domain: str = "vm1") -> libvirt.Domain:
        return libvirt.connect(self.daemon.root, wish.Libvirt(self.daemon.socket, domain))

    @contextmanager
    def machine(self) -> Iterator[libvirt.Domain]:
        machine = self.connect()
        try:
            yield machine
        finally:
            machine.close()


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """An unprivileged daemon."""
    with Pod(tmp_path_factory.mktemp("libvirt") / "a", "node1") as made:
        yield made


@pytest.fixture(scope="module")
def guest(pod: Pod) -> guests.Guest:
    """Its domain's guest, which has a guest agent. Each test leaves it without a NIC."""
    started = pod.daemon.start()
    with pod.machine() as machine:
        _await(machine, lambda: _has_agent(pod))
    return started


@pytest.fixture
def machine(pod: Pod, guest: guests.Guest) -> Iterator[libvirt.Domain]:
    with pod.machine() as connected:
        yield connected


def _has_agent(pod: Pod) -> bool:
    return domain_xml.read(_xml(pod)).has_agent


def _xml(pod: Pod, *, is_next: bool = False) -> str:
    """Return the domain's XML as the test's own connection sees it."""
    connection = pod.daemon.connect()
    try:
        return connection.lookupByName("vm1").XMLDesc(2 if is_next else 0)  # VIR_DOMAIN_XML_INACTIVE
    finally:
        connection.close()


def _nics(pod: Pod) -> list[int]:
    """Return how many NICs the domain has now, and at its next start."""
    return [_xml(pod, is_next=is_next).count("<interface ") for is_next in (False, True)]


def _await(machine: libvirt.Domain, holds) -> None:
    give_up = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < give_up, "it did not come to that"
        machine.wait(0.05)


def _await_stage(machine: libvirt.Domain, nic: Nic, stage: Stage):
    _await(machine, lambda: machine.look(nic).stage is stage)
    return machine.look(nic)


def _signal_agent(guest: guests.Guest, signal: str) -> None:
    found = 'for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = qemu-ga ] && echo ${p##*/}; done'
    guest.run(f"kill -{signal} $({found})")


def _await_evidence(machine: libvirt.Domain, evidence: str) -> None:
    _await(machine, lambda: machine.look(NIC).evidence == evidence)


def _plug(machine: libvirt.Domain, nic: Nic) -> None:
    machine.plug(nic, _nobody_opens_it)


def _nobody_opens_it() -> int:
    raise AssertionError("libvirt opens the tap by its name")


def _remove(machine: libvirt.Domain, nic: Nic = NIC) -> None:
    machine.unplug(nic)
    _await_stage(machine, nic, Stage.ABSENT)


def _ping(guest: guests.Guest, name: str) -> None:
    ping = "ping -c 3 -i 0.2 -W 10 10.9.0.1"
    guest.run(f"ip addr replace 10.9.0.2/24 dev {name}; ip link set {name} up; {ping} || {ping}")


def _refusal(call, *arguments) -> str:
    with pytest.raises(NotReady) as problem:
        call(*arguments)
    return problem.value.reason


def test_a_nic_comes_goes_and_comes_again(pod, guest, machine):
    assert machine.tap_owner() == (libvirtd.USER, libvirtd.USER)
    for _ in range(2):
        assert machine.look(NIC).stage is Stage.ABSENT
        _plug(machine, NIC)
        name = guest.wait_nic(NIC.mac)
        assert guest.run(f"cat /sys/class/net/{name}/mtu").strip() == "1400"
        _ping(guest, name)
        seen = _await_stage(machine, NIC, Stage.VISIBLE)
        assert (seen.running, seen.evidence, seen.guest_name) == (Running.RUNNING, "guest agent", name)
        assert "10.9.0.2/24" in seen.addresses
        assert seen.port in libvirtd.PORTS
        assert _nics(pod) == [1, 1]
        with pod.machine() as another:  # as after a crash
            _plug(another, NIC)
            assert another.look(NIC).stage is Stage.VISIBLE
        _plug(machine, NIC)
        assert _nics(pod) == [1, 1]
        _remove(machine)
        assert _nics(pod) == [0, 0]
        machine.unplug(NIC)
        guest.wait_nic(NIC.mac, there=False)


def test_what_somebody_has_taken_out_of_one_of_the_two_is_put_back_there_alone(pod, guest, machine):
    _plug(machine, NIC)
    connection = pod.daemon.connect()
    connection.lookupByName("vm1").detachDeviceAlias(NIC.id, 2)  # VIR_DOMAIN_AFFECT_CONFIG
    assert _nics(pod) == [1, 0]
    _plug(machine, NIC)
    assert _nics(pod) == [1, 1]
    connection.lookupByName("vm1").detachDeviceAlias(NIC.id, 1)  # VIR_DOMAIN_AFFECT_LIVE
    connection.close()
    _await_stage(machine, NIC, Stage.ABSENT)
    assert _nics(pod) == [0, 1]
    machine.unplug(NIC)
    assert _nics(pod) == [0, 0]


def test_an_interface_with_a_dot_in_its_name_is_one_nic_too(pod, guest, machine):
    nic = replace(NIC, id="ua-eth0.100")
    _plug(machine, nic)
    _plug(machine, nic)
    assert _nics(pod) == [1, 1]
    _await_stage(machine, nic, Stage.VISIBLE)
    _remove(machine, nic)
    assert _nics(pod) == [0, 0]


def test_a_users_daemon_that_looks_like_roots_is_asked_as_a_users_in_the_end(pod, guest, monkeypatch):
    """As root's daemon does, in a container with users of its own, that looks like a user's."""
    monkeypatch.setattr(reach, "peer", lambda _: (os.getpid(), 0, 0))
    with pod.machine() as machine:
        assert machine.look(NIC).running is Running.RUNNING


def test_a_port_is_taken_where_it_is_asked_for_and_none_is_taken_twice(pod, guest, machine):
    free = libvirtd.PORTS[1:]  # the first has the channel of the guest agent
    nics = [Nic(f"ua-p{n}", f"02:aa:00:00:01:0{n}", f"tap{n}", 1500, port) for n, port in enumerate(reversed(free))]
    for nic in nics:
        pod.tap(nic.tap)
        _plug(machine, nic)
        assert machine.look(nic).port == nic.port
    assert _refusal(_plug, machine, NIC) == "NoFreePort"
    assert _refusal(_plug, machine, replace(NIC, port=free[0])) == "NoFreePort"
    assert _refusal(_plug, machine, replace(NIC, port="rp1")) == "VMRefused"
    assert machine.look(NIC).stage is Stage.ABSENT
    for nic in nics:
        guest.wait_nic(nic.mac)
        _remove(machine, nic)
        pod.ip(f"link del {nic.tap}")


def test_a_tap_that_is_missing_or_in_use_or_anothers_is_refused_and_leaves_nothing(pod, guest, machine):
    _plug(machine, NIC)
    pod.tap("tapother", user=libvirtd.USER + 1)
    for tap in ("tapmissing", NIC.tap, "tapother"):
        another = Nic("ua-net2", "02:aa:00:00:00:02", tap, 1500)
        assert _refusal(_plug, machine, another) == "VMRefused"
        assert machine.look(another).stage is Stage.ABSENT
        assert _nics(pod) == [1, 1]
    pod.ip("link del tapother")
    _remove(machine)


def test_a_paused_guest_neither_takes_a_nic_nor_lets_it_go_and_nobody_says_so(pod, guest, machine):
    connection = pod.daemon.connect()
    domain = connection.lookupByName("vm1")
    domain.suspend()
    _plug(machine, NIC)
    seen = machine.look(NIC)
    assert (seen.stage, seen.running) == (Stage.PLUGGED, Running.PAUSED)
    domain.resume()
    assert _await_stage(machine, NIC, Stage.VISIBLE).running is Running.RUNNING

    domain.suspend()
    machine.unplug(NIC)
    machine.unplug(NIC)
    with pod.machine() as another:
        another.unplug(NIC)
        seen = another.look(NIC)
        assert (seen.stage, seen.running, seen.is_leaving) == (Stage.PLUGGED, Running.PAUSED, True)
    domain.resume()
    _await_stage(machine, NIC, Stage.ABSENT)
    assert _nics(pod) == [0, 0]
    connection.close()


def test_an_agent_that_does_not_answer_costs_a_second_and_what_the_driver_sends_is_evidence_too(pod, guest, machine):
    _signal_agent(guest, "STOP")
    _plug(machine, NIC)
    name = guest.wait_nic(NIC.mac)
    assert machine.look(NIC).evidence in ("", "driver")
    _ping(guest, name)
    seen = machine.look(NIC)
    assert (seen.stage, seen.evidence, seen.guest_name) == (Stage.VISIBLE, "driver", "")
    _signal_agent(guest, "CONT")
    with pod.machine() as another:
        _await_evidence(another, "guest agent")
    _remove(machine)


def test_a_nic_whose_tap_goes_while_it_is_looked_at_is_no_refusal(pod, guest, machine):
    """Of such a tap the daemon has no statistics."""
    _signal_agent(guest, "STOP")
    _plug(machine, NIC)
    name = guest.wait_nic(NIC.mac)
    _ping(guest, name)
    assert machine.look(NIC).evidence == "driver"
    pod.ip(f"link del {NIC.tap}")
    seen = machine.look(NIC)
    assert (seen.stage, seen.evidence) == (Stage.PLUGGED, "")
    _signal_agent(guest, "CONT")
    _remove(machine)
    pod.tap(NIC.tap)


def test_a_domain_that_there_is_not_has_stopped(pod, guest):
    machine = pod.connect("vm2")
    seen = machine.look(NIC)
    assert (seen.stage, seen.running) == (Stage.ABSENT, Running.STOPPED)
    assert _refusal(_plug, machine, NIC) == "VMUnreachable"
    machine.unplug(NIC)
    machine.close()


def test_a_daemon_that_was_restarted_has_the_nic_that_it_had(pod, guest, machine):
    _plug(machine, NIC)
    guest.wait_nic(NIC.mac)
    pod.daemon.restart()
    assert _refusal(machine.look, NIC) == "VMUnreachable"
    with pod.machine() as another:
        _await_stage(another, NIC, Stage.VISIBLE)
        _plug(another, NIC)
        assert _nics(pod) == [1, 1]
        _remove(another)


def test_who_waits_hears_of_the_end_of_the_daemon_and_nothing_is_left_of_the_connection(pod, guest):
    machine = pod.connect()
    machine.wait(0)  # subscribes
    waiting = threading.Thread(target=machine.wait, args=(10 * LONG_S,))
    waiting.start()
    pod.daemon.restart()
    waiting.join(LONG_S)
    assert not waiting.is_alive()
    machine.close()
    left = weakref.ref(machine)
    del machine, waiting
    gc.collect()
    assert left() is None  # libvirt has let go of what was to be called


def test_a_daemon_that_stands_still_holds_nobody(pod, guest, machine):
    threads = threading.active_count()
    pod.daemon.freeze()
    try:
        for call, argument in ((machine.look, NIC), (pod.connect, "vm1")):
            before = time.monotonic()
            assert _refusal(call, argument) == "VMUnreachable"
            assert time.monotonic() - before < 2 * CALL_S  # CALL_S, but for a machine that is busy
        assert _refusal(machine.unplug, NIC) == "VMUnreachable"  # at once: the connection is known to be broken
        machine.close()
    finally:
        pod.daemon.thaw()
    assert threading.active_count() < threads
    with pod.machine() as again:
        assert again.look(NIC).running is Running.RUNNING


@contextmanager
def _migrating(pod: Pod, target: Pod, flags: int = 0) -> Iterator[Any]:
    """Yield the domain, which moves so slowly that it does not arrive before it is let; then it has arrived."""
    import libvirt as binding  # noqa: PLC0415

    source, destination = pod.daemon.connect(), target.daemon.connect()
    domain = source.lookupByName("vm1")
    slowly = {
        binding.VIR_MIGRATE_PARAM_URI: "unix:///run/between/migration",
        binding.VIR_MIGRATE_PARAM_BANDWIDTH: 2,  # MiB/s
    }
    flags |= binding.VIR_MIGRATE_LIVE | binding.VIR_MIGRATE_PERSIST_DEST
    migration = threading.Thread(target=domain.migrate3, args=(destination, slowly, flags))
    migration.start()
    yield domain
    migration.join(LONG_S)
    assert not migration.is_alive()
    source.close()
    destination.close()


def _is_sending(domain: Any) -> bool:
    return domain.jobStats().get("memory_processed", 0) > 0


def test_a_migration_takes_the_nic_along_and_nothing_is_changed_during_it(pod, guest, machine):
    _plug(machine, NIC)
    _ping(guest, guest.wait_nic(NIC.mac))
    other = replace(NIC, id="ua-net2", mac="02:aa:00:00:00:02")
    with Pod(pod.daemon.folder.parent / "b", "node2") as target, target.machine() as arriving:
        with _migrating(pod, target) as domain:
            _await(machine, lambda: machine.look(NIC).running is Running.MIGRATING)
            _await(arriving, lambda: arriving.look(NIC).running is Running.INCOMING)
            for one in (machine, arriving):
                before = time.monotonic()
                assert _refusal(_plug, one, other) == "VMMigrating"
                assert _refusal(one.unplug, NIC) == "VMMigrating"
                assert time.monotonic() - before < CALL_S  # libvirt would have needed 30 s
            _await(machine, lambda: _is_sending(domain))  # before that, it would set the speed anew
            domain.migrateSetMaxSpeed(10_000)
        assert machine.look(NIC).running is Running.MIGRATED
        seen = _await_stage(arriving, NIC, Stage.VISIBLE)
        assert (seen.running, seen.evidence) == (Running.RUNNING, "guest agent")
        arrived = target.daemon.guest()
        _ping(arrived, arrived.wait_nic(NIC.mac))
        _remove(arriving)
        arrived.wait_nic(NIC.mac, there=False)


def test_roots_daemon_with_a_guest_that_has_no_agent_moves_by_post_copy_and_is_shut_off(tmp_path):
    import libvirt as binding  # noqa: PLC0415

    with Pod(tmp_path / "a", "node1", user=0) as pod, Pod(tmp_path / "b", "node2", user=0) as target:
        guest = pod.daemon.start(agent=False)
        with pod.machine() as machine, target.machine() as arriving:
            assert machine.tap_owner() == (0, 0)
            _plug(machine, NIC)
            name = guest.wait_nic(NIC.mac)
            seen = machine.look(NIC)
            assert (seen.stage, seen.evidence) == (Stage.PLUGGED, "")  # it may have a driver; nothing has shown it
            _ping(guest, name)
            seen = _await_stage(machine, NIC, Stage.VISIBLE)
            assert (seen.evidence, seen.guest_name) == ("driver", "")

            with _migrating(pod, target, binding.VIR_MIGRATE_POSTCOPY) as domain:
                _await(machine, lambda: _is_sending(domain))
                domain.migrateStartPostCopy()
            assert machine.look(NIC).running is Running.MIGRATED
            _ping(arrived := target.daemon.guest(), arrived.wait_nic(NIC.mac))
            seen = _await_stage(arriving, NIC, Stage.VISIBLE)
            assert (seen.running, seen.evidence) == (Running.RUNNING, "driver")

            connection = target.daemon.connect()
            connection.lookupByName("vm1").destroy()
            connection.close()
            for one, where in ((machine, pod), (arriving, target)):
                assert _refusal(_plug, one, replace(NIC, id="ua-net2")) == "VMRefused"
                assert one.look(NIC).stage is Stage.PLUGGED  # at its next start
                one.unplug(NIC)
                assert "ua-net1" not in _xml(where)
                assert one.look(NIC).stage is Stage.ABSENT
            assert arriving.look(NIC).running is Running.STOPPED
