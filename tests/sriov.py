"""Virtual functions of an emulated card, which the guest of `make test-kernel` has, and a machine need not have.

    @needs("sriov")
    def test_…(virtual_functions):           the fixture of tests/conftest.py: two functions, made for the test
        virtual_functions.pf                 the card, up, with a cable to
        virtual_functions.peer               another card, up, that sees what leaves a function by the wire
        virtual_functions.vfs                the functions' links; the place in this tuple is the function's number

`sriov.await_carrier(name, pod)` waits until a function that a pod has got carries frames.

Rule 1: cards are known by the addresses that e2e/guest/machine.py gives them: a real card is never touched.
Rule 2: they are in the guest's own network namespace, since that is the one that /sys shows: no `node_netns` here.
Rule 3: Intel's 82576 in QEMU, with Debian's igb and igbvf, has MAC, VLAN with priority, spoof check, trust, and the
        highest rate of a function, that one while its line is up. It has no link state and no lowest rate.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NET = Path("/sys/class/net")
_CARD, _PEER = "02:00:00:00:10:01", "02:00:00:00:10:02"
_WAIT_S = 20  # seconds; the card looks at its line every two, and the machine is emulated


@dataclass(frozen=True, slots=True)
class VirtualFunctions:
    """A card's functions, by the names of their links."""

    pf: str
    peer: str
    vfs: tuple[str, ...]


@contextmanager
def made(count: int) -> Iterator[VirtualFunctions]:
    """Make `count` functions of the emulated card, at most 7; unmake them at the end, wherever they are then."""
    pf, peer = _link(_CARD), _link(_PEER)
    device = _NET / pf / "device"
    try:
        (device / "sriov_numvfs").write_text(str(count))
        for name in (pf, peer):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        _await(lambda: all((_NET / name / "operstate").read_text() == "up\n" for name in (pf, peer)), "a line is down")
        _await(lambda: len(_functions(device)) == count, "no driver has taken the functions")
        yield VirtualFunctions(pf, peer, _functions(device))
    finally:
        (device / "sriov_numvfs").write_text("0")
        for name in (pf, peer):
            subprocess.run(["ip", "address", "flush", "dev", name], check=True)
            subprocess.run(["ip", "link", "set", name, "down"], check=True)


def await_carrier(name: str, pod: str) -> None:
    """Wait until the function `name`, which the namespace named `pod` has, is up; its driver takes some 5 s."""
    shown = ["ip", "-n", pod, "-br", "link", "show", "dev", name]
    _await(lambda: " UP " in subprocess.run(shown, capture_output=True, text=True, check=True).stdout, "it stays down")


def _link(address: str) -> str:
    return next(path.parent.name for path in _NET.glob("*/address") if path.read_text().strip() == address)


def _functions(device: Path) -> tuple[str, ...]:
    links = sorted(device.glob("virtfn*/net/*"), key=lambda path: int(path.parent.parent.name.removeprefix("virtfn")))
    return tuple(path.name for path in links)


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    give_up = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(otherwise)
        time.sleep(0.05)
