"""What networks may make of the node."""

from pathlib import Path

import pytest

from agent import policy

FILE = """
namespaceIsolation: true
rules:
  - namespaces: [default, "kube-*"]
    plugins: ["*"]
    ipam: ["*"]
    devices: ["*"]
    interfaces: ["*"]
    bridges: ["*"]
    paths: ["*"]
  - namespaces: ["tenant-*"]
    plugins: [hotnic, macvlan, bridge, tap, ptp, tuning, host-device]
    ipam: [host-local, static]
    devices: ["*", "!host-device"]
    interfaces: ["*", "!uplink"]
    bridges: ["br-*", "!br-admin"]
    paths: ["/var/lib/cni/*"]
    vnis: ["7", "5000-5999", "!5005"]
"""


def refusal(*plugins, namespace="tenant-a", asked=None, text=FILE):
    return policy.parse(text).refusal(namespace, plugins, asked, "eth0".__eq__)


@pytest.mark.parametrize(
    "plugin",
    [
        {"type": "hotnic", "device": "bridge", "bridge": "br-blue"},
        {"type": "hotnic", "device": "macvlan", "master": "eth1"},
        {"type": "macvlan", "master": "eth1", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]}},
        {"type": "bridge", "bridge": "br-blue", "ipam": {"type": "static", "addresses": [{"address": "fd00::5/64"}]}},
        {"type": "bridge", "bridge": "br-1", "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks"}},
        {"type": "hotnic", "device": "macvlan", "master": "eth0", "linkInContainer": True},
        {"type": "hotnic", "device": "overlay", "vni": 7},
        {"type": "hotnic", "device": "veth"},
        {"type": "bridge", "bridge": "br-1", "isGateway": False},
        {"type": "hotnic", "device": "overlay", "vni": 5999},
    ],
)
def test_what_a_rule_has_is_allowed(plugin):
    assert refusal(plugin) == ""


@pytest.mark.parametrize(
    ("plugin", "named"),
    [
        ({"type": "debug"}, "type='debug' (plugins)"),
        ({"type": "../../tmp/mine"}, "(plugins)"),
        ({"type": "bridge", "bridge": "br-1", "ipam": {"type": "evil"}}, "type='evil' (ipam)"),
        ({"type": "bridge", "bridge": "br-1", "delegate": {"type": "evil"}}, "type='evil' (plugins)"),
        ({"type": "bridge", "bridge": "br-1", "delegates": [{"type": "evil"}]}, "type='evil' (plugins)"),
        ({"type": "hotnic", "device": "host-device", "hostInterface": "eth1"}, "device='host-device' (devices)"),
        ({"type": "host-device", "device": "eth0"}, "device='eth0' (interfaces)"),
        ({"type": "host-device", "pciBusID": "0000:00:03.0"}, "pciBusID='0000:00:03.0' (interfaces)"),
        ({"type": "host-device", "hwaddr": "02:00:00:00:00:01"}, "hwaddr"),
        ({"type": "macvlan", "master": "eth0"}, "master='eth0' (interfaces)"),
        ({"type": "macvlan"}, "master='' (interfaces)"),
        ({"type": "hotnic", "device": "macvlan"}, "master='' (interfaces)"),
        ({"type": "hotnic", "device": "overlay", "vni": 6000}, "vni='6000' (vnis)"),
        ({"type": "hotnic", "device": "overlay", "vni": 5005}, "vni='5005' (vnis)"),
        ({"type": "bridge", "bridge": "cni0"}, "bridge='cni0' (bridges)"),
        ({"type": "bridge", "bridge": "br-admin"}, "bridge='br-admin' (bridges)"),
        ({"type": "bridge"}, "bridge='cni0' (bridges)"),
        ({"type": "hotnic", "device": "bridge", "bridge": ""}, "bridge='cni0' (bridges)"),
        ({"type": "bridge", "bridge": "br-1", "isGateway": True}, "isGateway='gateway' (privileges)"),
        ({"type": "bridge", "bridge": "br-1", "isDefaultGateway": "yes"}, "isDefaultGateway='gateway' (privileges)"),
        ({"type": "bridge", "bridge": "br-1", "IPMASQ": True}, "ipMasq='ipMasq' (privileges)"),
        ({"type": "ptp", "ipam": {"type": "static"}}, "type='gateway' (privileges)"),
        ({"type": "hotnic", "device": "veth", "ipam": {"type": "static"}}, "device='gateway' (privileges)"),
        ({"type": "macvlan", "master": "hnb6000"}, "master='hnb6000' (vnis)"),
        ({"type": "macvlan", "master": "hnv6000"}, "master='hnv6000' (vnis)"),
        ({"type": "bridge", "bridge": "hnb6000"}, "(bridges)"),
        ({"type": "bridge", "BRIDGE": "br-admin"}, "bridge='br-admin' (bridges)"),
        ({"type": "host-device", "Device": "eth0"}, "device='eth0' (interfaces)"),
        ({"type": "bridge", "device": "tap", "bridge": "cni0"}, "bridge='cni0' (bridges)"),
        ({"type": "tap", "TYPE": "bridge", "bridge": "cni0"}, "in different case"),
        ({"type": "macvlan", "master": "eth1", "Master": "eth0"}, "in different case"),
        ({"type": "macvlan", "master": "eth0", "linkInContainer": True, "LinkInContainer": False}, "in different case"),
        ({"type": "macvlan", "Master": "eth0"}, "master='eth0' (interfaces)"),
        ({"type": "bridge", "bridge": "br-1", "ipam": {"type": "macvlan"}}, "type='macvlan' (ipam)"),
        ({"type": "macvlan", "master": "eth1", "IPAM": {"Type": "evil"}}, "type='evil' (ipam)"),
        ({"type": "macvlan", "master": "eth1", "plugins": [{"type": "evil"}]}, "type='evil' (plugins)"),
        ({"type": "host-device", "device": "eth0", "linkInContainer": True}, "device='eth0' (interfaces)"),
        ({"type": "macvlan", "master": "eth1", "runtimeConfig": {"deviceID": "x"}}, "deviceID='x' (interfaces)"),
        ({"type": "bridge", "bridge": "br-1", "args": {"cni": {"master": "eth0"}}}, "master='eth0' (interfaces)"),
        ({"type": "bridge", "bridge": "br-1", "links": [{"name": "eth0"}]}, "links='eth0' (interfaces)"),
        (
            {"type": "bridge", "bridge": "br-1", "ipam": {"type": "host-local", "dataDir": "/etc"}},
            "dataDir='/etc' (paths)",
        ),
        (
            {"type": "bridge", "bridge": "br-1", "ipam": {"type": "host-local", "dataDir": "etc"}},
            "dataDir='etc' (paths)",
        ),
        ({"type": "bridge", "bridge": "br-1", "x": [{"y": "/var/lib/cni/../../../etc/passwd"}]}, "(paths)"),
        ({"type": "bridge", "bridge": "br-1", "x": "etc/passwd"}, "(paths)"),
        ({"type": "bridge", "bridge": "br-1", "x": "unix:///run/x.sock"}, "(paths)"),
        ({"type": "hotnic", "device": "bridge", "bridge": "br-1", "runDir": "/run/mine"}, "runDir='/run/mine' (paths)"),
    ],
)
def test_what_a_rule_has_not_is_refused_and_named(plugin, named):
    assert named in refusal(plugin)
    assert "tenant-a" in refusal(plugin)


def test_every_plugin_of_a_chain_and_the_annotations_arguments_are_looked_at():
    fine = {"type": "bridge", "bridge": "br-1"}
    assert "'debug'" in refusal(fine, {"type": "debug"})
    assert "(paths)" in refusal(fine, asked={"logFile": "/etc/passwd"})
    assert refusal(fine, asked={"labels": [{"key": "a"}]}) == ""


@pytest.mark.parametrize("namespace", ["default", "kube-system", ""])
def test_the_administrators_may_use_everything(namespace):
    assert refusal({"type": "debug", "dataDir": "/etc", "pciBusID": "x"}, namespace=namespace) == ""


def test_a_namespace_without_a_rule_may_use_nothing():
    assert "no rule" in refusal({"type": "bridge"}, namespace="other")


def test_a_file_without_rules_allows_everything():
    assert refusal({"type": "debug"}, text="namespaceIsolation: false") == ""
    assert refusal({"type": "debug"}, text="") == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rules: 3", "rules is not a list"),
        ("rules: [3]", "rules[0]"),
        ("rules: [{plugins: [a]}]", "names no namespaces"),
        ("rules: [{namespaces: [a], plugin: [b]}]", "unknown key 'plugin'"),
        ("rules: [{namespaces: a}]", "rules[0].namespaces='a'"),
        ("rules: [{namespaces: [a], paths: ['!']}]", "rules[0].paths"),
        ("rulez: []", "unknown key 'rulez'"),
        ("rules:", "rules is not a list"),
        ("rules: [{namespaces: [a], interfaces: ['! uplink']}]", "rules[0].interfaces"),
        ("rules: [{namespaces: [a], vnis: ['9-1']}]", "'9-1'"),
        ("rules: [{namespaces: [a], vnis: ['5 - 6']}]", "rules[0].vnis"),
        ("rules: [{namespaces: [a], vnis: [abc]}]", "'abc'"),
        ("rules: []\nrules: []", "'rules' is there twice"),
        ("rules: [{namespaces: [a], namespaces: [b]}]", "'namespaces' is there twice"),
        ("[", "not YAML"),
        ("[1]", "not a mapping"),
    ],
)
def test_a_wrong_file_is_refused_and_the_place_named(text, named):
    with pytest.raises(policy.PolicyError) as caught:
        policy.parse(text)
    assert named in str(caught.value)


def test_drift_is_repaired_unless_the_file_or_the_rule_of_the_namespace_says_otherwise():
    assert policy.Policy().repairs("any")
    assert policy.parse("drift: repair").repairs("any")
    assert not policy.parse("drift: report").repairs("any")
    ruled = policy.parse("drift: report\nrules: [{namespaces: [a], drift: repair}, {namespaces: ['*']}]")
    assert [ruled.repairs(name) for name in ("a", "b", "")] == [True, False, False]
    ruled = policy.parse("rules: [{namespaces: [a], drift: report}]")
    assert [ruled.repairs(name) for name in ("a", "b", "")] == [False, True, True]


@pytest.mark.parametrize("text", ["drift: maybe", "drift: true", "rules: [{namespaces: [a], drift: [repair]}]"])
def test_a_word_for_drift_that_is_none_is_an_error(text):
    with pytest.raises(policy.PolicyError, match="neither repair nor report"):
        policy.parse(text)


def test_the_file_that_is_installed_repairs():
    text = (Path(__file__).parent.parent.parent / "manifests/base/policy.yaml").read_text()
    assert policy.parse(text).repairs("tenant")
