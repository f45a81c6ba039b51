"""Values of a configuration that become paths, names of links, or settings: none leads where it should not.

For each place every hostile value is tried: it is refused, with the code that says whose fault it is, before anything
is opened.
"""

import json
import os
from pathlib import Path

import pytest

from agent import calls, delegate, devices, netns, options, policy, sysfs
from agent.guests import wish
from agent.model import ContainerID, Key, Refused
from cni import errors, request

CLIMBING = ["..", "../x", "/..", "../../etc/passwd", "a/../../b", "/sys/devices/../../etc", "/proc/self/root/etc"]
NAMES = ["/", "a/b", "/etc/passwd", ".", "a\0b", "\0", "a\nb", " ", "\t", "a:b", "\u2028", "a\u00a0b"]
LONG = ["x" * 16, "x" * 5000, "é" * 8]
HOSTILE = [*CLIMBING, *NAMES, *LONG]
SETTINGS = (
    "..", "net", "net.", "net/", "net..ipv4", "net/../kernel/x", "net/ipv4/../../kernel/x",
    "kernel.core_pattern", "net.ipv4/../../kernel.x", "net//x", "net/./x", "NET.ipv4.x", "net/a\0b",
    "net/a\nb", "net.ipv4.conf.\0", "/net/ipv4/x", "net.ipv4.conf.a b/x", "fs.x", "", "net.../x",
    "net/conf/\u2028",
)  # fmt: skip
ESCAPES = (
    "..", "../x", "/etc", "/var/lib/cni", "/var/lib/cni/..", "/var/lib/cni/../x", "/var/lib/cni/a/../../b",
    "~/x", "~root", "x/y", "./x", "/VAR/LIB/CNI/x", "/var/lib/cnix/y", "\n/var/lib/cni/x", "//var/lib/cni/x",
    " /var/lib/cni/x",
)  # fmt: skip
KEY = Key(ContainerID("c1"), "net1")


def refusal(**config: object) -> errors.CNIError:
    with pytest.raises(errors.CNIError) as caught:
        devices.parse(options.Call(KEY, {"type": "hotnic", **config}))
    assert caught.value.code is errors.Code.INVALID_CONFIG
    return caught.value


@pytest.mark.parametrize("value", [*HOSTILE, "all", "default", "\ud800"])
@pytest.mark.parametrize(
    "config",
    [
        {"device": "bridge", "option": "bridge"},
        {"device": "tap", "option": "bridge"},
        {"device": "macvlan", "option": "master"},
        {"device": "ipvlan", "option": "master"},
        {"device": "vlan", "vlanId": 5, "option": "master"},
        {"device": "host-device", "option": "hostInterface"},
        {"device": "ovs", "option": "bridge"},
    ],
    ids=lambda config: f"{config['device']} {config['option']}",
)
def test_no_name_of_a_link_is_a_path_or_a_directory_of_settings(config, value):
    parts = {name: one for name, one in config.items() if name != "option"}
    assert config["option"] in str(refusal(**parts, **{config["option"]: value}))


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("key", ["kernelpath", "pciBusID", "hwaddr"])
def test_no_choice_of_a_device_leads_out_of_sys(key, value):
    assert key in str(refusal(device="host-device", **{key: value}))


@pytest.mark.parametrize("value", sorted({*HOSTILE} - {"a:b", "x" * 16}))  # which an ID may be
def test_no_device_id_leads_out_of_sys(value):
    refusal(device="host-device", runtimeConfig={"deviceID": value})


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("look", [sysfs.at, sysfs.pci, sysfs.device])
def test_and_sys_is_not_looked_at_outside_whoever_asks(tmp_path, look, value):
    """The second lock: what reads /sys trusts no caller either."""
    (tmp_path / "devices").mkdir()
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    (tmp_path.parent / "b").mkdir(exist_ok=True)
    assert look(tmp_path, value) is None


@pytest.mark.parametrize("value", SETTINGS)
@pytest.mark.parametrize("where", ["configuration", "args.cni"])
def test_no_setting_is_outside_of_net(value, where):
    said = {"sysctl": {value: "1"}}
    refusal(device="veth", **(said if where == "configuration" else {"args": {"cni": said}}))


@pytest.mark.parametrize("value", ["a\nb", "\0", 1, None, ["1"]])
def test_the_value_of_a_setting_is_one_line(value):
    refusal(device="veth", sysctl={"net.ipv4.conf.IFNAME.arp_filter": value})


@pytest.mark.parametrize("name", ["net.ipv4.conf.IFNAME.x", "net/ipv6/conf/IFNAME/x", "net.ipv4.conf.eth0/100.x"])
def test_a_setting_lies_below_proc_sys_net_whatever_the_interface_is_called(name):
    for ifname in ("net1", "a.b", "..x", "é", "all"):
        call = options.Call(Key(ContainerID("c"), ifname), {"sysctl": {name: "1"}})
        ((path, _),) = options.sysctls(call)
        assert Path("/proc/sys/net", path).resolve().is_relative_to("/proc/sys/net")


@pytest.mark.parametrize("value", ["..", "relative", "unix:relative", "tcp:127.0.0.1:6640", "/../run/x", "/run/../../x",
                                   "unix:/run/..", "/a\0b", "/" + "x" * 200, "ssl:/x", 5, ["/x"]])  # fmt: skip
def test_a_switchs_socket_is_a_plain_path(value):
    assert "socket_file" in str(refusal(device="ovs", bridge="br0", socket_file=value))


@pytest.mark.parametrize("path", ["/../etc", "/a/../../etc", "/var/run/../../../x"])
def test_what_says_no_up_stays_below_the_nodes_root_and_only_that(path):
    """Whoever makes paths for a View sees to it himself: this is why the socket above is refused."""
    assert ".." in netns.View(Path("/host")).place(path)


@pytest.mark.parametrize("value", [*HOSTILE, ""])
def test_no_type_of_a_plugin_is_a_path(tmp_path, value):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("x", "b"):
        (tmp_path / name).write_text("#!/bin/sh\ntouch executed\n")
        (tmp_path / name).chmod(0o755)
    executor = delegate.Executor([folder])
    for act in (
        lambda: executor.run(value, "ADD", {}, b"{}", 5.0),
        lambda: executor.refuse_missing(value),
    ):
        with pytest.raises(delegate.Missing):
            act()
    assert sorted(os.listdir(tmp_path)) == ["b", "bin", "x"]


RULES = policy.parse("""
rules:
  - {namespaces: ["*"], plugins: ["*"], ipam: ["*"], devices: ["*"], interfaces: ["*"], bridges: ["*"],
     paths: ["/var/lib/cni/*"]}
""")


@pytest.mark.parametrize("value", ESCAPES)
@pytest.mark.parametrize("key", ["dataDir", "logFile", "socket_file", "anything", "configuration_path"])
def test_no_value_that_could_lead_to_a_file_escapes_the_policy(key, value):
    for config in ({"type": "x", key: value}, {"type": "x", "ipam": {"type": "y", "deep": [{key: [value]}]}}):
        assert "policy" in RULES.refusal("ns", [config], None, lambda _: False), config
    assert "policy" in RULES.refusal("ns", [{"type": "x"}], {"a": {key: value}}, lambda _: False)


def test_what_the_policy_allows_is_allowed():
    assert RULES.refusal("ns", [{"type": "x", "dataDir": "/var/lib/cni/a"}], None, lambda _: False) == ""


@pytest.mark.parametrize("value", ["", "x", "../x", "a/b", "/a\0b", "/" + "x" * 5000, 5, None, ["/x"]])
@pytest.mark.parametrize("key", ["qmp", "guestAgent", "libvirt"])
def test_a_machines_socket_is_an_absolute_path(key, value):
    """That no such path leads out of the container is tests/agent/guests/test_reach.py's."""
    document = {"qmp": "/q", "guestAgent": value} if key == "guestAgent" else {key: value, "domain": "d"}
    if key == "qmp":
        del document["domain"]
    with pytest.raises(Refused):
        wish.parse(json.dumps(document))


@pytest.mark.parametrize("said", ["abc", "-1", "9" * 5000, "\u0663", "", "99999999999999999999", "4095"])
def test_an_errno_of_the_executables_that_is_none_is_no_defect_of_the_agents(said):
    with pytest.raises(errors.CNIError) as caught:
        calls._checked(None, {"HOTNIC_NETNS_ERRNO": said, "CNI_NETNS": "/x"})
    assert caught.value.code is errors.Code.INVALID_NETNS


@pytest.mark.parametrize("name", ["\udcff", "a\udc80b"])
def test_a_name_of_an_interface_that_is_no_utf_8_is_refused_as_such(name):
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/x", "CNI_IFNAME": name, "CNI_PATH": "/x"}
    with pytest.raises(errors.CNIError, match="is not UTF-8") as caught:
        request.parse(environ, b'{"cniVersion": "1.1.0", "name": "a", "type": "x"}')
    assert caught.value.code is errors.Code.INVALID_ENVIRONMENT
