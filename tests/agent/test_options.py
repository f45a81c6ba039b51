"""Options that every device has: what is read, and what is refused by which name."""

import pytest

from agent import options
from agent.devices import KINDS, parse
from agent.model import ContainerID, Key
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")


def interface(cni_args=None, **config):
    return options.interface(options.Call(KEY, config, cni_args or {}))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"mtu": "1400"}, "mtu='1400'"),
        ({"mtu": True}, "mtu=True"),
        ({"mtu": 10}, "mtu=10"),
        ({"mtu": -5}, "mtu=-5"),
        ({"runtimeConfig": {"mac": "01:00:00:00:00:01"}}, "mac='01:00:00:00:00:01'"),
        ({"runtimeConfig": {"mac": "00:00:00:00:00:00"}}, "mac='00:00:00:00:00:00'"),
        ({"runtimeConfig": {"mac": "zz"}}, "mac='zz'"),
        ({"runtimeConfig": "zz"}, "runtimeConfig='zz'"),
        ({"args": {"cni": 3}}, "cni=3"),
        ({"linkState": "sideways"}, "linkState='sideways'"),
        ({"promisc": 1}, "promisc=1"),
        ({"txQLen": 0}, "txQLen=0"),
        ({"sysctl": {"net.ipv4.ip_forward": 1}}, "net.ipv4.ip_forward=1"),
        ({"sysctl": {"net.ipv4.ip_forward": "1\n2"}}, "one line"),
        ({"sysctl": {"kernel.core_pattern": "x"}}, "kernel.core_pattern"),
        ({"sysctl": {"net/../kernel/core_pattern": "x"}}, "below net"),
        ({"sysctl": {"net.ipv4...//etc/x": "x"}}, "below net"),
        ({"sysctl": {"net": "x"}}, "below net"),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, named):
    with pytest.raises(errors.CNIError) as caught:
        interface(**config)
    assert (caught.value.code, named in caught.value.message) == (7, True)


def test_a_sysctl_of_the_interface_may_be_asked_for_in_either_notation():
    wanted = {"net.ipv4.conf.IFNAME.arp_filter": "1", "net/ipv6/conf/IFNAME/accept_ra": "0", "net.ipv4.ip_forward": "1"}
    paths = dict(interface(sysctl=wanted).sysctls)
    assert paths == {"ipv4/conf/net1/arp_filter": "1", "ipv6/conf/net1/accept_ra": "0", "ipv4/ip_forward": "1"}


def test_the_dots_of_an_interface_name_are_no_separators():
    dotted = options.Call(Key(KEY.container_id, "net1.5"), {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}})
    assert options.sysctls(dotted) == (("ipv4/conf/net1.5/arp_filter", "1"),)


@pytest.mark.parametrize("ipam", [None, {}, {"type": ""}])
def test_no_ipam_type_means_layer_two_only(ipam):
    assert options.ipam({"ipam": ipam}) is None


@pytest.mark.parametrize("ipam", ["static", 3, {"type": 3}])
def test_an_ipam_that_is_none_is_refused(ipam):
    with pytest.raises(errors.CNIError, match="ipam"):
        options.ipam({"ipam": ipam})


def test_the_mac_of_runtime_config_beats_args_which_beat_cni_args():
    runtime, args, old = "0A-00-00-00-00-01", "0a:00:00:00:00:02", {"MAC": "0a:00:00:00:00:03"}
    everything = {"runtimeConfig": {"mac": runtime}, "args": {"cni": {"mac": args}}}
    assert interface(old, **everything).mac == "0a:00:00:00:00:01"
    assert interface(old, args={"cni": {"mac": args}}).mac == args
    assert interface(old).mac == old["MAC"]


def test_names_and_macs_are_the_same_at_every_call_and_differ_between_attachments():
    other = Key(KEY.container_id, "net2")
    assert interface() == interface()
    assert options.host_name(KEY) != options.host_name(other)
    assert options.derived_mac(KEY, "pod") != options.derived_mac(KEY, "host")
    assert len(options.host_name(KEY).encode()) <= 15


@pytest.mark.parametrize("device", ["nonesuch", None, 3, ["bridge"]])
def test_an_unknown_device_is_refused_with_the_known_ones(device):
    with pytest.raises(errors.CNIError) as caught:
        parse(options.Call(KEY, {"device": device}))
    assert (caught.value.code, all(kind in caught.value.message for kind in KINDS)) == (7, True)
