"""The networks of a soak, and its namespace.

None has `macspoofchk` or `ipMasq` of the reference bridge: that one leaves its rules where a DEL comes after the pod's
namespace has gone (its cmdDel ends before them), and in a soak many do.
"""

from collections.abc import Mapping
from typing import Any

from e2e import networks

NAMESPACE = "soak"
VNI = 5077
_CAPABILITIES = {"bandwidth": True, "mac": True}


def network(name: str, mtu: int = 1350) -> Mapping[str, Any]:
    """Return the configuration of one of plan.NETWORKS."""
    return {**_NETWORKS[name], "mtu": mtu}


def _pool(subnet: str) -> Mapping[str, Any]:
    return {"type": "host-local", "subnet": subnet}


_NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "bridge": networks.native("br-soak"),
    "leased": networks.native("br-lease", name="soak1", ipam=_pool("10.120.0.0/24")),
    "shaped": networks.native("br-soak", macspoofchk=True, capabilities=_CAPABILITIES),
    "veth": networks.device("veth"),
    "macvlan": networks.device("macvlan", master="eth0"),
    "overlay": networks.device("overlay", vni=VNI),
    "tap": networks.device("tap"),
    "reference": networks.reference_bridge("br-ref", "10.121.0.0/24", name="soak2"),
    "plugin": networks.recorder(),
}
