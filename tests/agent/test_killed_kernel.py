"""kill -9 at every step of ADD and DEL, for every kind of device: the DEL that follows leaves nothing (killing.py)."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from agent.devices import KINDS
from e2e import build, debs
from tests import fresh, openvswitch
from tests.agent.killing import Kind, Report, examine
from tests.kernel_features import needs

pytestmark = pytest.mark.netns

AT_ONCE = len(os.sched_getaffinity(0))


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def uplink() -> Iterator[Callable[[], str]]:
    """`m0`, up and with a carrier, and with the address of a node."""
    ip("link", "add", "m0", "type", "veth", "peer", "name", "m1")
    for one in ("m0", "m1"):
        ip("link", "set", one, "up")
    ip("addr", "add", "192.0.2.1/24", "dev", "m0")
    yield str


def make_device() -> None:
    """`d0`, which the pod is to have, and the other end of its cable. A physical one would outlive the pod."""
    subprocess.run(["ip", "link", "del", "d1"], check=False, capture_output=True)
    ip("link", "add", "d0", "mtu", "1400", "address", "02:00:00:00:01:01", "type", "veth", "peer", "name", "d1")
    ip("link", "set", "d0", "alias", "mine")
    subprocess.run(["ip", "link", "set", "d1", "address", "02:00:00:00:01:02"], check=True)


@contextmanager
def device() -> Iterator[Callable[[], str]]:
    make_device()
    yield str


@contextmanager
def switch() -> Iterator[Callable[[], str]]:
    """A bridge of an Open vSwitch, and what its database has."""
    folder = Path(SWITCH)
    folder.mkdir()
    with openvswitch.running(folder, "netdev") as one:
        one.add_bridge("br0")
        tables = [word for table in ("port", "interface") for word in ("--", "--columns=name", "list", table)]
        yield lambda: one.vsctl("--bare", *tables)


SWITCH = "/run/openvswitch"  # of the mount namespace that the trials are in
BANDWIDTH = {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000}
BRIDGE = {"device": "bridge", "bridge": "br0"}
BR0 = frozenset({"br0"})
VARIANTS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "bridge": (Kind(BRIDGE, shared=BR0), ()),
    "bridge, gateway": (Kind({**BRIDGE, "isDefaultGateway": True, "hairpinMode": True}, shared=BR0, has_ipam=True), ()),
    "bridge, macspoofchk": (Kind({**BRIDGE, "macspoofchk": True}, shared=BR0), ("nft_bridge",)),
    "bridge, vlan": (Kind({**BRIDGE, "vlan": 7}, shared=BR0), ("bridge_vlan",)),
    "macvlan": (Kind({"device": "macvlan", "master": "m0"}, uplink), ("macvlan",)),
    "ipvlan": (Kind({"device": "ipvlan", "master": "m0"}, uplink), ("ipvlan",)),
    "vlan": (Kind({"device": "vlan", "master": "m0", "vlanId": 7}, uplink), ("vlan",)),
    "veth": (Kind({"device": "veth"}), ()),
    "veth, bandwidth": (
        Kind({"device": "veth", "runtimeConfig": {"bandwidth": BANDWIDTH}}),
        ("tbf", "ifb", "matchall"),
    ),
    "tap": (Kind({"device": "tap"}), ("tap",)),
    "dummy": (Kind({"device": "dummy"}), ("dummy",)),
    "host-device": (
        Kind({"device": "host-device", "hostInterface": "d0", "mtu": 1300}, device, replace=make_device),
        (),
    ),
    "overlay": (Kind({"device": "overlay", "vni": 5001, "peers": ["192.0.2.1", "192.0.2.2"]}, uplink), ("vxlan",)),
    "ovs": (Kind({"device": "ovs", "bridge": "br0", "vlan": 5, "socket_file": f"{SWITCH}/db.sock"}, switch), ()),
}
"""Each way to use a device, with the features of the kernel that it takes (tests.kernel_features)."""
EMULATED = {"bridge, vlan": 2, "ipvlan": 4, "vlan": 4, "dummy": 4, "veth, bandwidth": 4}
"""What runs in the emulated machine, where a trial takes seconds: one of so many points is taken. What their code
shares with bridge, macvlan and tap is killed at every point here."""


def examined(name: str, plugins: str) -> dict[str, Any]:
    """In a fresh interpreter: what is killed is forked."""
    return asdict(examine(replace(VARIANTS[name][0], every=EMULATED.get(name, 1)), Path(plugins), AT_ONCE))


def test_no_kind_of_device_is_forgotten():
    assert {kind.config["device"] for kind, _ in VARIANTS.values()} == set(KINDS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(name, kind, id=name, marks=needs(*features)) for name, (kind, features) in VARIANTS.items()],
)
def test_killed_at_any_point_it_leaves_nothing(name, kind, capsys):
    if name == "ovs":
        debs.unpacked(*debs.OPENVSWITCH)
    report = Report(**fresh.call("tests.agent.test_killed_kernel:examined", name, str(build.tools())))
    with capsys.disabled():
        print(
            f"\n{name}: killed at {', '.join(f'{count} points of the {what}' for what, count in report.hits.items())}"
        )
    assert not report.failures, "\n".join(report.failures)
    killed = [
        f"{who} in {verb}" for who in ("agent", *(["delegate"] if kind.has_ipam else [])) for verb in ("ADD", "DEL")
    ]
    assert [what for what in killed if report.hits.get(what, 0) < 10 // EMULATED.get(name, 1)] == []
