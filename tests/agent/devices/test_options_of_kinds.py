"""Which options are whose: one that only other kinds have is refused, what no kind has is not."""

from collections.abc import Iterator
from typing import Any

import pytest

from agent import devices, options
from agent.model import ContainerID, Key
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
LEAST = {
    "bridge": {},
    "macvlan": {},
    "ipvlan": {},
    "vlan": {"master": "m0"},
    "veth": {},
    "tap": {},
    "dummy": {},
    "host-device": {"hostInterface": "eth1"},
    "overlay": {"vni": 5001},
    "ovs": {"bridge": "br0"},
}
EVERYBODYS = {
    "cniVersion": "1.1.0", "name": "n", "type": "hotnic", "runDir": "/run/x", "mtu": 1400, "mac": "02:00:00:00:00:01",
    "ipam": {"type": "host-local"}, "dns": {"nameservers": ["10.0.0.1"]}, "sysctl": {"net.ipv4.conf.IFNAME.x": "1"},
    "promisc": True, "allmulti": True, "txQLen": 7, "linkState": "up", "ingressRate": 10**6, "ingressBurst": 10**5,
    "capabilities": {"mac": True}, "runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"x": 1}},
    "prevResult": {"cniVersion": "1.1.0"}, "deviceID": "0000:3b:00.1", "pciBusID": "0000:3b:00.1",
    "vendor.example/thing": True, "x-anything": ["y"],
}  # fmt: skip


def refusal(config: dict[str, Any]) -> errors.CNIError:
    with pytest.raises(errors.CNIError) as caught:
        devices.refuse_foreign(config)
    return caught.value


@pytest.mark.parametrize(
    ("device", "option", "value", "owners"),
    [
        ("macvlan", "isGateway", True, "bridge"),
        ("bridge", "master", "eth0", "macvlan, ipvlan, vlan"),
        ("bridge", "bcqueuelen", 9, "macvlan"),
        ("vlan", "vlan", 7, "bridge, host-device, ovs"),
        ("dummy", "hostInterface", "eth0", "veth, host-device"),
        ("overlay", "bridge", "br0", "bridge, tap, ovs"),
        ("veth", "vni", 5001, "overlay"),
        ("ovs", "vlanTrunk", [{"id": 5}], "bridge"),
        ("host-device", "linkInContainer", True, "macvlan, ipvlan, vlan"),
        ("tap", "macspoofchk", True, "bridge"),
    ],
)
def test_an_option_of_other_kinds_is_refused_and_both_are_named(device, option, value, owners):
    problem = refusal({"device": device, option: value})
    assert (problem.code, problem.message) == (
        2, f"{option}={value!r} is not supported: by device {device}; it is an option of {owners}",
    )  # fmt: skip


@pytest.mark.parametrize("device", ["macvlan", "ipvlan", "vlan", "tap", "dummy", "host-device", "overlay", "ovs"])
def test_masquerading_which_no_kind_does_is_refused(device):
    assert refusal({"device": device, "ipMasq": True}).code == 2


@pytest.mark.parametrize("device", devices.KINDS)
def test_what_every_kind_has_and_what_none_has_is_nobodys_to_refuse(device):
    devices.refuse_foreign({"device": device, **EVERYBODYS})


@pytest.mark.parametrize("device", devices.KINDS)
def test_an_option_of_others_that_says_nothing_is_fine(device):
    nothing = {option: value for kind in devices.KINDS.values() for option in kind.OPTIONS for value in (None,)}
    for value in (None, False, 0, "", []):
        devices.refuse_foreign({"device": device, **dict.fromkeys(nothing, value), "ipMasq": False})


@pytest.mark.parametrize(
    "config",
    [
        {"device": "bridge", "bridge": "br0", "isGateway": True, "isDefaultGateway": True, "forceAddress": True,
         "mtu": 1, "hairpinMode": True, "promiscMode": True, "vlan": 5, "vlanTrunk": [{"id": 6}],
         "preserveDefaultVlan": True, "macspoofchk": True, "enabledad": True, "disableContainerInterface": True,
         "portIsolation": True},
        {"device": "macvlan", "master": "m", "mode": "bridge", "mtu": 1, "linkInContainer": True, "bcqueuelen": 5},
        {"device": "ipvlan", "master": "m", "mode": "l2", "mtu": 1, "linkInContainer": True},
        {"device": "vlan", "master": "m", "vlanId": 5, "mtu": 1, "linkInContainer": True},
        {"device": "veth", "mtu": 1, "dns": {}},
        {"device": "tap", "multiQueue": True, "mtu": 1, "mac": "x", "owner": 1, "group": 1, "bridge": "br0"},
        {"device": "host-device", "hwaddr": "x", "kernelpath": "x", "pciBusID": "x", "vlan": 5, "vlanQoS": 1,
         "vlanProto": "802.1q", "min_tx_rate": 1, "max_tx_rate": 1, "spoofchk": "on", "trust": "on",
         "link_state": "auto", "logLevel": "debug", "logFile": "/x"},
        {"device": "ovs", "bridge": "b", "vlan": 5, "trunk": [{"id": 5}], "interface_type": "system",
         "ofport_request": 1, "socket_file": "/x", "link_state_check_retries": 5, "link_state_check_interval": 5},
    ],
    ids=lambda config: config["device"],
)  # fmt: skip
def test_whatever_the_plugin_that_is_replaced_has_is_no_foreign_option(config):
    devices.refuse_foreign(config)


class Read(dict):
    """A configuration that remembers what it was asked for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


def asked(device: str) -> Iterator[str]:
    config = Read({"device": device, **LEAST[device]})
    devices.parse(options.Call(KEY, config))
    return iter(config.asked)


@pytest.mark.parametrize("device", devices.KINDS)
def test_a_kind_says_of_each_option_that_it_reads_that_it_has_it(device):
    of_others = {option for kind in devices.KINDS.values() for option in kind.OPTIONS} - {"deviceID", "pciBusID"}
    undeclared = (of_others & set(asked(device))) - devices.KINDS[device].OPTIONS
    assert undeclared <= {"linkInContainer"}, "read, so that its refusal can be told apart"
    assert set(asked(device)) >= devices.KINDS[device].OPTIONS
