"""QEMU by its monitor, with real guests: NICs come and go, and what goes wrong is told as what it is."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from agent.guests import qemu, qmp, wish
from agent.guests.contract import Nic, Running, Stage
from agent.model import NotReady
from cni import errors
from tests import guests
from tests.agent.guests import pods
from tests.agent.guests.pods import Pod, backends, devices, gone, nic, until
from tests.guests import LONG_S, Guest
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("tap")]

NUMBERS = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vm-") as name:  # not tmp_path: a Unix socket's path has 107 bytes
        yield Path(name)
    assert guests.processes(Path(name)) == []


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    with pods.made() as made:
        for number in NUMBERS:
            made.wire(number)
        yield made


@pytest.fixture(scope="module")
def guest(folder, pod) -> Iterator[Guest]:
    """One whose QEMU has no capabilities: it could not open a tap that belongs to somebody."""
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    with guests.started(folder / "q35", prefix=[*pod.prefix, *powerless]) as started:
        status = Path(f"/proc/{started.process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        yield started


def connected(guest: Guest, path: Path | None = None, *, agent: bool = True) -> qemu.Qemu:
    return qemu.connect(Path("/"), wish.Qemu(str(path or guest.qmp), str(guest.agent) if agent else ""))


@pytest.fixture
def machine(guest) -> Iterator[qemu.Qemu]:
    machine = connected(guest)
    yield machine
    machine.close()
    guest.monitor("cont")
    machine = connected(guest)  # the test's own may have been given up
    for device in devices(guest) | {name.removeprefix("host") for name in backends(guest)}:
        gone(machine, nic(id=device))
    machine.close()
    assert backends(guest) == []


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The commands that QEMU was given."""
    commands, execute = [], qmp.Monitor.execute

    def recorded(self, command, *arguments, **options):
        commands.append(command)
        return execute(self, command, *arguments, **options)

    monkeypatch.setattr(qmp.Monitor, "execute", recorded)
    return commands


def by_agent(machine: qemu.Qemu, wanted: Nic):
    """Look until the guest's agent has told of the NIC's address."""
    give_up = time.monotonic() + LONG_S
    while not (seen := machine.look(wanted)).addresses:
        assert time.monotonic() < give_up, seen
        machine.wait(0.5)
    return seen


def test_a_nic_comes_works_both_ways_and_leaves_nothing(guest, machine, pod):
    wanted = nic()
    assert machine.look(wanted) == qemu.Seen(Stage.ABSENT)
    assert machine.tap_owner() is None
    machine.plug(wanted, pod.tap("tap1"))
    seen = until(machine, wanted, Stage.VISIBLE)
    assert (seen.port, seen.is_leaving, seen.running) == ("rp1", False, Running.RUNNING)
    name = guest.wait_nic(wanted.mac)
    assert guest.run(f"cat /sys/class/net/{name}/mtu").strip() == "1400"
    pods.give_address(guest, name, "10.9.1.2/24")
    pod.ping("10.9.1.2")
    guest.run("ping -c 1 -W 10 10.9.1.1")
    told = by_agent(machine, wanted)
    assert (told.evidence, told.guest_name, "10.9.1.2/24" in told.addresses) == ("guest agent", name, True)
    gone(machine, wanted)
    guest.wait_nic(wanted.mac, there=False, seconds=0)
    assert (devices(guest), backends(guest), pod.is_open()) == (set(), [], False)


def test_it_comes_again_twenty_times_under_one_name(guest, machine, pod):
    wanted = nic()
    for _ in range(20):
        machine.plug(wanted, pod.tap("tap1"))
        assert until(machine, wanted, Stage.VISIBLE).port == "rp1"
        name = guest.wait_nic(wanted.mac)
        gone(machine, wanted)
        assert guest.nics() == {}
    machine.plug(wanted, pod.tap("tap1"))
    name = guest.wait_nic(wanted.mac)
    pods.give_address(guest, name, "10.9.1.2/24")
    pod.ping("10.9.1.2")


def test_asked_again_it_stays_the_same_also_after_a_restart(guest, machine, pod):
    def never() -> int:
        raise AssertionError("the tap is opened again")

    wanted = nic()
    machine.plug(wanted, pod.tap("tap1"))
    machine.plug(wanted, never)
    machine.close()
    restarted = connected(guest)
    restarted.plug(wanted, never)
    until(restarted, wanted, Stage.VISIBLE)
    assert (devices(guest), len(guest.nics())) == ({wanted.id}, 1)
    restarted.close()


@pytest.mark.parametrize("left", ["tap1", "tap2"])
@pytest.mark.parametrize("far", ["getfd", "netdev_add"])
def test_what_a_crash_has_left_is_replaced_not_used(guest, machine, pod, left, far):
    """It has the tap open, which takes one program only, or a tap that was another's."""
    wanted, end = nic(), time.monotonic() + LONG_S
    machine.close()
    killed = connected(guest)
    tap = pod.tap(left)()
    killed._monitor.execute("getfd", {"fdname": "hostua-net1"}, end, fd=tap)
    os.close(tap)
    if far == "netdev_add":
        killed._monitor.execute("netdev_add", {"type": "tap", "id": "hostua-net1", "fd": "hostua-net1"}, end)
    killed.close()
    assert pod.is_open(int(left[-1]))
    with closing(connected(guest)) as machine:
        machine.plug(wanted, pod.tap("tap1"))
        assert (pod.is_open(1), pod.is_open(2), backends(guest)) == (True, False, ["hostua-net1"])
        pods.give_address(guest, guest.wait_nic(wanted.mac), "10.9.1.2/24")
        pod.ping("10.9.1.2")


def test_a_nic_that_comes_while_its_backend_is_cleared_away_comes_anew(guest, machine, pod, monkeypatch):
    """By another that has the machine at the same time: it would be there, and never carry a frame."""
    wanted, answers, has = nic(), [False], qemu.Qemu._has
    with closing(connected(guest, guest.other_qmp, agent=False)) as other:
        other.plug(wanted, pod.tap("tap1"))
    monkeypatch.setattr(qemu.Qemu, "_has", lambda self, *asked: answers.pop() if answers else has(self, *asked))
    with pytest.raises(NotReady, match="came from another") as caught:
        machine.unplug(wanted)
    assert caught.value.reason == "VMRefused"
    give_up = time.monotonic() + LONG_S
    while machine.look(wanted).stage is not Stage.ABSENT:
        assert time.monotonic() < give_up
        machine.wait(0.5)
    machine.plug(wanted, pod.tap("tap1"))
    pods.give_address(guest, guest.wait_nic(wanted.mac), "10.9.1.2/24")
    pod.ping("10.9.1.2")


def test_a_backend_left_by_a_crash_in_the_middle_of_an_unplug_goes(guest, machine, pod):
    wanted = nic()
    machine.plug(wanted, pod.tap("tap1"))
    until(machine, wanted, Stage.VISIBLE)
    guest.monitor("device_del", id=wanted.id)
    guest.wait_nic(wanted.mac, there=False)
    while devices(guest):
        time.sleep(0.01)
    assert backends(guest) == ["hostua-net1"]
    machine.unplug(wanted)
    machine.unplug(wanted)
    assert (backends(guest), pod.is_open()) == ([], False)


def test_of_two_that_plug_at_once_one_nic_comes_and_it_works(guest, machine, pod):
    other, wanted = connected(guest, guest.other_qmp, agent=False), nic()
    for _ in range(8):
        start, problems = threading.Barrier(2), []

        def plug(one: qemu.Qemu, start=start, problems=problems) -> None:
            start.wait()
            try:
                one.plug(wanted, pod.tap("tap1"))
            except (NotReady, errors.CNIError) as problem:  # the tap is opened by one only
                problems.append(problem)

        threads = [threading.Thread(target=plug, args=(one,)) for one in (machine, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if any("came from another" in str(one) for one in problems):
            until(machine, wanted, Stage.ABSENT)  # the guest has been asked to let it go, and does so when it likes
        machine.plug(wanted, pod.tap("tap1"))
        until(machine, wanted, Stage.VISIBLE)
        name = guest.wait_nic(wanted.mac)
        assert (devices(guest), len(guest.nics()), backends(guest)) == ({wanted.id}, 1, ["hostua-net1"]), problems
        pods.give_address(guest, name, "10.9.1.2/24")
        pod.ping("10.9.1.2")
        gone(machine, wanted)
    other.close()


def test_each_nic_has_a_port_of_its_own_and_without_one_that_is_said(guest, machine, pod):
    """QEMU takes two NICs on one port, and the guest never sees the second. While it stands still, QEMU's list of PCI
    devices may show none of them.
    """
    guest.monitor("stop")
    for number in (1, 2, 3, 4):
        machine.plug(nic(number), pod.tap(f"tap{number}"))
    assert [machine.look(nic(number)).port for number in (1, 2, 3, 4)] == ["rp1", "rp2", "rp3", "rp4"]
    with pytest.raises(NotReady, match="none of the virtual machine's 4 root ports is free") as caught:
        machine.plug(nic(5), pod.tap("tap5"))
    assert (caught.value.reason, len(backends(guest)), pod.is_open(5)) == ("NoFreePort", 4, False)
    guest.monitor("cont")
    for number in (1, 2, 3, 4):
        until(machine, nic(number), Stage.VISIBLE)
    assert set(guest.nics()) == {nic(number).mac for number in (1, 2, 3, 4)}


def test_the_port_asked_for_is_used_or_nothing_is_done(guest, machine, pod):
    machine.plug(nic(1, port="rp3"), pod.tap("tap1"))
    assert until(machine, nic(1), Stage.VISIBLE).port == "rp3"
    for port, why in (("rp3", "root port rp3 .* is taken"), ("rp9", "no root port rp9, among 4")):
        with pytest.raises(NotReady, match=why) as caught:
            machine.plug(nic(2, port=port), pod.tap("tap2"))
        assert caught.value.reason == "NoFreePort"
    assert (backends(guest), devices(guest)) == (["hostua-net1"], {"ua-net1"})


def test_a_tap_that_is_missing_or_busy_leaves_the_machine_as_it_was(guest, machine, pod):
    """QEMU itself would make the missing one."""
    with pytest.raises(errors.CNIError, match="cannot open tap tap9"):
        machine.plug(nic(tap="tap9"), pod.tap("tap9"))
    held = pod.tap("tap1")()
    with pytest.raises(errors.CNIError, match="in use by another program"):
        machine.plug(nic(), pod.tap("tap1"))
    os.close(held)
    assert (backends(guest), devices(guest), "tap9" in pod.ip("link")) == ([], set(), False)
    machine.plug(nic(), pod.tap("tap1"))
    until(machine, nic(), Stage.VISIBLE)


def test_what_the_machine_refuses_is_told_in_its_words_and_cleaned_up(guest, machine, pod):
    open_files = set()
    for _ in range(3):
        with pytest.raises(NotReady, match=r"refuses: .*not-a-mac") as caught:
            machine.plug(nic(mac="not-a-mac"), pod.tap("tap1"))
        assert (caught.value.reason, backends(guest), pod.is_open()) == ("VMRefused", [], False)
        open_files.add(len(os.listdir("/proc/self/fd")))
    assert len(open_files) == 1


def test_a_paused_guest_takes_and_gives_when_it_runs_again(guest, machine, pod, said):
    wanted = nic()
    guest.monitor("stop")
    machine.plug(wanted, pod.tap("tap1"))
    seen = machine.look(wanted)
    assert (seen.stage, seen.running, seen.evidence) == (Stage.PLUGGED, Running.PAUSED, "")
    guest.monitor("cont")
    until(machine, wanted, Stage.VISIBLE)

    guest.monitor("stop")
    for _ in range(3):
        machine.unplug(wanted)
    seen = machine.look(wanted)
    assert (seen.stage, seen.running, seen.is_leaving) == (Stage.VISIBLE, Running.PAUSED, True)
    assert said.count("device_del") == 1
    guest.monitor("cont")
    give_up = time.monotonic() + LONG_S
    while machine.look(wanted).stage is not Stage.ABSENT:
        assert time.monotonic() < give_up
        machine.wait(0.5)
    assert (backends(guest), pod.is_open()) == ([], False)


def test_a_guest_that_does_not_let_go_is_asked_again_but_not_all_the_time(guest, machine, pod, said, monkeypatch):
    wanted = nic()
    machine.plug(wanted, pod.tap("tap1"))
    guest.monitor("stop")
    monkeypatch.setattr(qemu, "ASK_AGAIN_S", 0.0)
    machine.unplug(wanted)
    machine.unplug(wanted)
    assert said.count("device_del") == 2
    monkeypatch.setattr(qemu, "ASK_AGAIN_S", 3600.0)
    machine.unplug(wanted)
    assert said.count("device_del") == 2
    assert machine.look(wanted).is_leaving


def test_while_it_is_migrated_nothing_comes_and_nothing_goes(guest, machine, pod, monkeypatch):
    first, second = nic(1), nic(2)
    machine.plug(first, pod.tap("tap1"))
    until(machine, first, Stage.VISIBLE)
    running, earlier = qemu.Qemu._running, [Running.RUNNING, None] * 2
    guest.monitor("migrate-set-parameters", max_bandwidth=65536)
    guest.monitor("migrate", uri="exec:cat >/dev/null")
    try:
        seen = machine.look(first)
        assert (seen.stage, seen.running) == (Stage.VISIBLE, Running.MIGRATING)
        refused_while_moving(guest, machine, pod)
        # once more with a migration that begins just after it was asked for
        monkeypatch.setattr(qemu.Qemu, "_running", lambda self, end: earlier.pop(0) or running(self, end))
        refused_while_moving(guest, machine, pod)
    finally:
        guest.monitor("migrate_cancel")
        while guest.monitor("query-migrate")["status"] not in ("cancelled", "failed"):
            time.sleep(0.02)
    monkeypatch.undo()
    machine.plug(second, pod.tap("tap2"))
    until(machine, second, Stage.VISIBLE)


def refused_while_moving(guest: Guest, machine: qemu.Qemu, pod: Pod) -> None:
    with pytest.raises(NotReady, match="is being migrated") as unplugging:
        machine.unplug(nic(1))
    with pytest.raises(NotReady, match="is being migrated") as plugging:
        machine.plug(nic(2), pod.tap("tap2"))
    assert (plugging.value.reason, unplugging.value.reason) == ("VMMigrating", "VMMigrating")
    assert (backends(guest), devices(guest)) == (["hostua-net1"], {"ua-net1"})


def test_a_monitor_that_somebody_has_is_told_and_free_again_afterwards(guest, machine, monkeypatch):
    monkeypatch.setattr(qmp, "GREETING_S", 0.3)
    with pytest.raises(NotReady, match="another client may have it") as caught:
        connected(guest)
    assert caught.value.reason == "VMUnreachable"
    assert machine.look(nic()).stage is Stage.ABSENT
    machine.close()
    monkeypatch.undo()
    connected(guest).close()
    connected(guest).close()


def test_an_agent_that_goes_deaf_or_away_costs_the_name_only(guest, machine, pod):
    wanted = nic()
    machine.plug(wanted, pod.tap("tap1"))
    until(machine, wanted, Stage.VISIBLE)
    pods.give_address(guest, guest.wait_nic(wanted.mac), "10.9.1.2/24")
    assert by_agent(machine, wanted).evidence == "guest agent"
    guest.run("kill -STOP $(cat /run/qga.pid || ps | awk '/bin\\/qemu-ga/ { print $1; exit }')")
    seen = machine.look(wanted)
    assert (seen.stage, seen.evidence, seen.guest_name) == (Stage.VISIBLE, "driver", "")
    machine.close()
    again = connected(guest)
    assert again.look(wanted).evidence == "driver"
    guest.run("kill -CONT $(cat /run/qga.pid || ps | awk '/bin\\/qemu-ga/ { print $1; exit }')")
    again.close()
    fresh = connected(guest)
    assert by_agent(fresh, wanted).evidence == "guest agent"
    fresh.close()


def test_an_older_machine_shows_its_driver_too(guest, machine, pod, monkeypatch):
    execute = qmp.Monitor.execute

    def older(self, command, *arguments, **options):
        if command == "x-query-virtio-status":
            raise qmp.Refusal("CommandNotFound", f"The command {command} has not been found")
        return execute(self, command, *arguments, **options)

    monkeypatch.setattr(qmp.Monitor, "execute", older)
    machine._agent = None
    wanted = nic()
    guest.monitor("stop")
    machine.plug(wanted, pod.tap("tap1"))
    assert machine.look(wanted).stage is Stage.PLUGGED
    guest.monitor("cont")
    assert until(machine, wanted, Stage.VISIBLE).evidence == "driver"


def test_the_old_chipset_takes_nics_into_slots(folder, pod):
    with guests.started(folder / "pc", "pc", prefix=pod.prefix) as guest, closing(connected(guest)) as machine:
        machine.plug(nic(1), pod.tap("tap1"))
        machine.plug(nic(2, port="0x18"), pod.tap("tap2"))
        for number in (1, 2):
            seen = until(machine, nic(number), Stage.VISIBLE)
            assert int(seen.port, 16) in ((0x18,) if number == 2 else range(2, 32))
            guest.wait_nic(nic(number).mac)
        for port in ("0x18", "rp1"):
            with pytest.raises(NotReady):
                machine.plug(nic(3, port=port), pod.tap("tap3"))
        assert (devices(guest), len(backends(guest))) == ({"ua-net1", "ua-net2"}, 2)
        gone(machine, nic(1))
        gone(machine, nic(2))
        assert (guest.nics(), backends(guest)) == ({}, [])
        guest.monitor("stop")
        used = {one["slot"] for one in guest.monitor("query-pci")[0]["devices"]}
        for number in range(32 - len(used)):
            guest.monitor("device_add", driver="virtio-rng-pci", id=f"rng{number}")
        with pytest.raises(NotReady, match="no slot left") as caught:
            machine.plug(nic(1), pod.tap("tap1"))
        assert (caught.value.reason, backends(guest)) == ("NoFreePort", [])


def test_a_deaf_guest_is_never_said_to_have_or_to_have_lost_a_nic(folder, pod, monkeypatch):
    monkeypatch.setattr(qemu, "ASK_AGAIN_S", 0.1)
    wanted = nic()
    options = {"boot": guests.DEAF, "agent": False}
    with (
        guests.started(folder / "deaf", "pc", prefix=pod.prefix, **options) as guest,
        closing(connected(guest)) as machine,
    ):
        machine.plug(wanted, pod.tap("tap1"))
        for _ in range(4):
            machine.wait(0.2)
            assert machine.look(wanted).stage is Stage.PLUGGED
        assert guest.nics() == {}
        for _ in range(4):
            machine.unplug(wanted)
            machine.wait(0.2)
            seen = machine.look(wanted)
            assert (seen.stage, seen.running, seen.is_leaving) == (Stage.PLUGGED, Running.RUNNING, True)
        assert backends(guest) == ["hostua-net1"]
        guest.monitor("system_reset")
        give_up = time.monotonic() + LONG_S
        while machine.look(wanted).stage is not Stage.ABSENT:
            assert time.monotonic() < give_up
            machine.wait(0.5)
        assert (backends(guest), pod.is_open()) == ([], False)


def test_a_machine_that_hangs_or_dies_ends_every_call(folder, pod, monkeypatch):
    wanted = nic()
    with guests.started(folder / "dies", prefix=pod.prefix) as guest:
        machine = connected(guest)
        machine.plug(wanted, pod.tap("tap1"))
        os.kill(guest.process.pid, signal.SIGSTOP)
        monkeypatch.setattr(qemu, "CALL_S", 0.3)
        for call in (machine.look, machine.unplug, lambda one: machine.plug(one, pod.tap("tap1"))):
            with pytest.raises(NotReady, match="does not answer") as caught:
                call(wanted)
            assert caught.value.reason == "VMUnreachable"
        os.kill(guest.process.pid, signal.SIGCONT)
        monkeypatch.setattr(qemu, "CALL_S", 600.0)
        machine.close()
        machine = connected(guest)
        assert machine.look(wanted).stage is not Stage.ABSENT
        os.kill(guest.process.pid, signal.SIGSTOP)
        caught = []

        def look() -> None:
            with pytest.raises(NotReady) as problem:
                machine.look(wanted)
            caught.append(problem.value)

        thread = threading.Thread(target=look)
        thread.start()
        time.sleep(0.2)
        guest.process.kill()
        thread.join(LONG_S)
        assert [one.reason for one in caught] == ["VMUnreachable"]
        for call in (lambda: machine.wait(600), lambda: machine.look(wanted), lambda: machine.unplug(wanted)):
            with pytest.raises(NotReady, match=r"closed the connection|is gone"):
                call()
        guest.process.wait()
        machine.close()
        with pytest.raises(NotReady, match="refused"):
            connected(guest)
        give_up = time.monotonic() + LONG_S
        while pod.is_open():
            assert time.monotonic() < give_up
            time.sleep(0.02)


def test_a_later_qemu_is_understood_as_well(folder, pod):
    later = guests.qemu(backports=True)
    with guests.started(folder / "later", prefix=pod.prefix, program=later) as guest:
        assert guest.monitor("query-version")["qemu"]["major"] >= 10
        with closing(connected(guest)) as machine:
            machine.plug(nic(1), pod.tap("tap1"))
            until(machine, nic(1), Stage.VISIBLE)
            machine.plug(nic(2), pod.tap("tap2"))
            assert until(machine, nic(2), Stage.VISIBLE).port == "rp2"
            pods.give_address(guest, guest.wait_nic(nic(1).mac), "10.9.1.2/24")
            pod.ping("10.9.1.2")
            assert by_agent(machine, nic(1)).evidence == "guest agent"
            gone(machine, nic(1))
            assert (devices(guest), set(guest.nics()), len(backends(guest))) == ({"ua-net2"}, {nic(2).mac}, 1)


def test_nics_move_with_their_guest(folder):
    """First by pre-copy, then by post-copy, to machines that were given them while they waited, in the same ports."""
    first, second = nic(1, port="rp3"), nic(2)
    with ExitStack() as stack:
        nodes = [stack.enter_context(pods.made())]
        switch(nodes[0])
        nodes += [stack.enter_context(pods.made(nodes[0].outside)) for _ in range(2)]
        for number, pod in enumerate(nodes):
            for wanted in (1, 2):
                pod.wire(wanted, f"far{number}{wanted}")
            pod.ip(f"link set far{number}1 master sw", pod.outside)
        guest = stack.enter_context(guests.started(folder / "moving0", prefix=nodes[0].prefix))
        machine = stack.enter_context(closing(connected(guest)))
        machine.plug(first, nodes[0].tap("tap1"))
        until(machine, first, Stage.VISIBLE)
        pods.give_address(guest, guest.wait_nic(first.mac), "10.9.1.2/24")
        nodes[0].ping("10.9.1.2")
        for number, mode in ((1, "pre-copy"), (2, "post-copy")):
            pod, there = nodes[number], folder / f"moving{number}"
            target = stack.enter_context(guests.started(there, prefix=pod.prefix, incoming="defer"))
            new = stack.enter_context(closing(connected(target)))
            brought = [first] if number == 1 else [first, second]
            for wanted in brought:
                assert new.look(wanted) == qemu.Seen(Stage.ABSENT, Running.INCOMING)
                new.plug(nic(int(wanted.tap[-1]), port=machine.look(wanted).port), pod.tap(wanted.tap))
            seen = new.look(first)
            assert (seen.stage, seen.running, seen.port) == (Stage.PLUGGED, Running.INCOMING, "rp3")
            with pytest.raises(NotReady, match="still being received"):
                new.unplug(first)

            moved(guest, target, machine, mode, held=second if number == 1 else nic(3), tap=nodes[0].tap("tap2"))
            machine.unplug(first)
            assert machine.look(first).stage is not Stage.ABSENT
            until_running(new, first)
            assert (until(new, first, Stage.VISIBLE).port, set(target.nics())) == ("rp3", {one.mac for one in brought})
            pod.ping("10.9.1.2")
            if number == 1:  # what was held meanwhile
                new.plug(second, pod.tap("tap2"))
                until(new, second, Stage.VISIBLE)
            guest, machine = target, new
        gone(machine, first)
        target.wait_nic(first.mac, there=False, seconds=0)
        assert (devices(target), backends(target)) == ({second.id}, ["hostua-net2"])


def switch(pod: Pod) -> None:
    """Make what all pods are connected to outside."""
    pod.ip("link add sw type bridge", pod.outside)
    pod.ip("link set sw up", pod.outside)
    pod.ip("addr add 10.9.1.1/24 dev sw", pod.outside)


def moved(source: Guest, target: Guest, machine: qemu.Qemu, mode: str, *, held: Nic, tap) -> None:
    """Migrate it, and ask for one more NIC meanwhile."""
    wanted = ["return-path", *(["postcopy-ram"] if mode == "post-copy" else [])]
    for one in (source, target):
        capabilities = [{"capability": name, "state": True} for name in wanted]
        one.monitor("migrate-set-capabilities", capabilities=capabilities)
    uri = f"unix:{target.folder}/migration.sock"
    target.monitor("migrate-incoming", uri=uri)
    source.monitor("migrate-set-parameters", max_bandwidth=1 << 20)
    source.monitor("migrate", uri=uri)
    assert machine.look(nic(1)).running is Running.MIGRATING
    with pytest.raises(NotReady) as caught:
        machine.plug(held, tap)
    assert caught.value.reason == "VMMigrating"
    source.monitor("migrate-set-parameters", max_bandwidth=1 << 40)
    if mode == "post-copy":
        while source.monitor("query-migrate")["status"] != "active":
            time.sleep(0.01)
        source.monitor("migrate-start-postcopy")
    give_up = time.monotonic() + LONG_S
    while (running := machine.look(nic(1)).running) is not Running.MIGRATED:
        assert running is Running.MIGRATING
        assert time.monotonic() < give_up
        machine.wait(0.05)


def until_running(machine: qemu.Qemu, wanted: Nic) -> None:
    give_up = time.monotonic() + LONG_S
    while (running := machine.look(wanted).running) is not Running.RUNNING:
        assert running in (Running.INCOMING, Running.MIGRATING)
        assert time.monotonic() < give_up
        machine.wait(0.05)
