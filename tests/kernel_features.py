"""What a test needs of the kernel, and what happens where the kernel has not got it.

    from tests.kernel_features import needs

    pytestmark = [pytest.mark.netns, needs("vlan")]         a whole file
    @needs("bridge_vlan", "dummy")                          one test
    pytest.param("ipvlan", marks=needs("ipvlan"))           one set of parameters

A feature is one of `FEATURES`: vlan, bridge_vlan, ipvlan, macvlan, dummy, bond, vrf, vxlan, ovs_kernel, ifb, tbf,
matchall, tap, nft_bridge, sriov.

Rule 1: the kernel is tried, not asked for its version: the thing is made in a network namespace that ends with the
        probe, once for each feature that a test of the run needs.
Rule 2: a kernel without it skips the test, and the reason names `make test-kernel`, which has a kernel that runs it.
Rule 3: where the whole kernel is promised (`HOTNIC_FULL_KERNEL=1`: in that guest) it fails the test instead, so that
        none is skipped in both places.
"""

import functools
import os
import subprocess
from collections.abc import Mapping
from types import MappingProxyType

import pytest

_PAIR = "ip link add name e0 type veth peer name e1; "
FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "vlan": _PAIR + "ip link add link e0 name v0 type vlan id 5",
        # a kernel without it takes `vlan_filtering 1` in some versions, and does nothing: only a VLAN of a port tells
        "bridge_vlan": _PAIR + "ip link add name br0 type bridge vlan_filtering 1; ip link set e0 master br0; "
        "bridge vlan add dev e0 vid 7; bridge -json vlan show dev e0 | grep -q '\"vlan\":7'",
        "ipvlan": _PAIR + "ip link add link e0 name v0 type ipvlan mode l2",
        "macvlan": _PAIR + "ip link add link e0 name v0 type macvlan mode bridge",
        "dummy": "ip link add name d0 type dummy",
        "bond": "ip link add name b0 type bond mode active-backup",
        "vrf": "ip link add name r0 type vrf table 10",
        "vxlan": "ip link add name x0 type vxlan id 5 dstport 4789",
        "ovs_kernel": "genl ctrl get name ovs_datapath",
        "ifb": "ip link add name i0 type ifb",
        "tbf": _PAIR + "tc qdisc add dev e0 root tbf rate 1mbit burst 32kbit latency 50ms",
        "matchall": _PAIR + "tc qdisc add dev e0 clsact; "
        "tc filter add dev e0 ingress matchall action mirred egress redirect dev e1",
        "tap": "ip tuntap add mode tap name t0",
        "nft_bridge": "nft 'add table bridge t; add chain bridge t c { type filter hook prerouting priority 0; }; "
        "add rule bridge t c ether saddr 02:00:00:00:00:01 drop'",
        # the guest's emulated card, never one of the machine's own (tests/sriov.py)
        "sriov": "test -w $(dirname $(grep -lx 02:00:00:00:10:01 /sys/class/net/*/address))/device/sriov_numvfs",
    }
)
"""Each feature with the shell commands that work only on a kernel that has it."""


def needs(*features: str) -> pytest.MarkDecorator:
    """Mark what runs only on a kernel with all of these features. Raises ValueError for one that is not known."""
    if unknown := set(features) - set(FEATURES):
        raise ValueError(f"no such kernel feature: {', '.join(sorted(unknown))}; there are {', '.join(FEATURES)}")
    return pytest.mark.needs(*features)


@functools.cache
def missing(feature: str) -> str:
    """Return why this kernel has not got `feature`; an empty string if it has. Takes root."""
    command = ["unshare", "--net", "sh", "-ec", FEATURES[feature]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or "it does nothing"


def lacking(item: pytest.Item) -> dict[str, str]:
    """Return the features that the test's `needs` marks name and this kernel has not got, each with the reason."""
    wanted = {feature: None for mark in item.iter_markers("needs") for feature in mark.args}
    return {feature: why for feature in wanted if (why := missing(feature))}


def require(item: pytest.Item) -> None:
    """Skip or fail the test (rules 2 and 3) if this kernel lacks what it needs."""
    if not (absent := lacking(item)):
        return
    if os.environ.get("HOTNIC_FULL_KERNEL") == "1":
        reasons = "; ".join(f"{feature}: {why}" for feature, why in absent.items())
        pytest.fail(f"this kernel is to have everything, and lacks {reasons}", pytrace=False)
    pytest.skip(f"this kernel has no {', '.join(absent)}; `make test-kernel` runs it")
