"""A pod for a virtual machine, as far as its NICs need one: a namespace with bridges and taps, and who is outside.

outside: eth1 10.9.1.1 ── net1, br1, tap1 ══ the guest's NIC          the same for every number
"""

import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent import netns, tap
from agent.guests.contract import Nic, Running, Seen, Stage
from agent.guests.qemu import Qemu
from tests.guests import LONG_S, Guest


def nic(number: int = 1, **changes) -> Nic:
    values = {"id": f"ua-net{number}", "mac": f"02:aa:00:00:00:{number:02x}", "tap": f"tap{number}", "mtu": 1400}
    return Nic(**{**values, **changes})


@dataclass(slots=True)
class Pod:
    """Its namespace, and that of the network outside, both by name."""

    name: str
    outside: str

    @property
    def prefix(self) -> list[str]:
        """What a program in the pod is started with."""
        return ["ip", "netns", "exec", self.name]

    def wire(self, number: int, far: str = "") -> None:
        """Make interface, bridge and tap of that number. `far`: the other end's name, which then gets no address."""
        self.ip(f"link add br{number} type bridge")
        # with the same index at both ends a pair forwards up to a second late
        end = far or f"eth{number}"
        self.ip(f"link add net{number} index {100 + number} type veth peer name {end} netns {self.outside}")
        self.ip(f"tuntap add mode tap user 5 group 6 vnet_hdr name tap{number}")
        for link in (f"net{number}", f"tap{number}"):
            self.ip(f"link set {link} mtu 1400 master br{number} up")
        self.ip(f"link set br{number} up")
        self.ip(f"link set {end} mtu 1400 up", self.outside)
        if not far:
            self.ip(f"addr add 10.9.{number}.1/24 dev {end}", self.outside)

    def ip(self, arguments: str, where: str = "") -> str:
        command = ["ip", "-n", where or self.name, *arguments.split()]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def tap(self, name: str) -> Callable[[], int]:
        """Return what opens the tap of that name, as the agent does."""

        def opened() -> int:
            with netns.View().opened(f"/run/netns/{self.name}") as fd:
                return tap.opened(fd, name)

        return opened

    def is_open(self, number: int = 1) -> bool:
        """Whether a program has the tap open."""
        return "LOWER_UP" in self.ip(f"link show tap{number}")

    def ping(self, address: str, tries: int = 20) -> None:
        """Ask from outside until there is an answer, or the test fails."""
        command = ["ip", "netns", "exec", self.outside, "busybox", "ping", "-c", "1", "-W", "2", address]
        for _ in range(tries):
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"{address} does not answer")


@contextmanager
def made(outside: str = "") -> Iterator[Pod]:
    """Make a pod, and its outside where there is none yet; both go."""
    pod = Pod(f"hntest-{uuid.uuid4().hex[:12]}", outside or f"hntest-{uuid.uuid4().hex[:12]}")
    own = [pod.name] if outside else [pod.name, pod.outside]
    for name in own:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield pod
    finally:
        for name in own:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def until(machine: Qemu, wanted: Nic, stage: Stage, seconds: float = LONG_S) -> Seen:
    """Look, and wait for news, until the NIC has got that far."""
    give_up = time.monotonic() + seconds
    while (seen := machine.look(wanted)).stage is not stage:
        assert time.monotonic() < give_up, f"{wanted.id} is {seen}, not {stage}"
        machine.wait(0.5)
    return seen


def gone(machine: Qemu, wanted: Nic) -> None:
    """Ask for the NIC to be let go until it is."""
    give_up = time.monotonic() + LONG_S
    machine.unplug(wanted)
    while (seen := machine.look(wanted)).stage is not Stage.ABSENT:
        assert time.monotonic() < give_up, f"{wanted.id} is {seen}"
        machine.wait(0.5)
        machine.unplug(wanted)
    assert seen.running is Running.RUNNING


def give_address(guest: Guest, name: str, address: str) -> None:
    """Make the guest use the NIC."""
    guest.run(f"ip addr flush dev {name}; ip link set {name} up; ip addr add {address} dev {name}")


def backends(guest: Guest) -> list[str]:
    """Return the names of QEMU's network backends; they are in the human monitor only."""
    said = guest.monitor("human-monitor-command", command_line="info network")
    return [line.strip(" \\").partition(":")[0] for line in said.splitlines() if "type=tap" in line]


def devices(guest: Guest) -> set[str]:
    """Return the names of the machine's NICs."""
    listed = guest.monitor("qom-list", path="/machine/peripheral")
    return {one["name"] for one in listed if one["type"] == "child<virtio-net-pci>"}


ROOT = Path("/")  # of a container that is none
