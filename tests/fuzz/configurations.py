"""Targets: network configurations, which tenants write, and the policy about them, which administrators do."""

import json
from contextlib import suppress

from agent import devices, links, network, options, policy
from agent.model import ContainerID, Key
from cni import errors
from tests.fuzz.standards import CONFIG, RESULT
from tests.fuzz.target import TABLE, as_text, of_code, sendable

KEY = Key(ContainerID("c1"), "net1")
LIST = {
    "cniVersion": "1.1.0",
    "cniVersions": ["0.4.0", "1.0.0"],
    "name": "blue",
    "disableCheck": "yes",
    "disableGC": False,
    "plugins": [CONFIG, {"type": "tuning", "args": {"cni": {"a": 1}}, "ipam": {"type": "host-local", "dataDir": "/x"}}],
}


@TABLE.text("agent.network", json.dumps(LIST), json.dumps(CONFIG), "null")
def networks(data: bytes) -> None:
    text = as_text(data)
    network.name(text, "blue")
    try:
        net = network.parse(text, "blue")
    except errors.CNIError as problem:
        of_code(problem, errors.Code.DECODE_FAILURE, errors.Code.INVALID_CONFIG)
        return
    runtime = {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"]}
    network.undeclared(net, runtime)
    for plugin in net.plugins:
        network.bare(plugin)
        devices.outlives_reboot(plugin)
        sendable(
            network.plugin_stdin(net, plugin, prev_result=RESULT, runtime=runtime, cni_args={"a": 1}, device_id="d")
        )


OPTIONS = {
    "bridge": {
        "bridge": "br0",
        "vlan": 5,
        "vlanTrunk": [{"minID": 1, "maxID": 9}, {"id": 12}],
        "isGateway": True,
        "dns": {"domain": "a"},
        "hairpinMode": True,
        "macspoofchk": True,
        "preserveDefaultVlan": False,
        "enabledad": True,
    },
    "macvlan": {"master": "eth1", "mode": "bridge", "linkInContainer": False, "bcqueuelen": 5},
    "ipvlan": {"master": "eth1", "mode": "l3"},
    "vlan": {"master": "eth1", "vlanId": 5},
    "veth": {"ipam": {"type": "static"}},
    "tap": {"multiQueue": True, "owner": 1, "group": 2, "bridge": "br1"},
    "dummy": {},
    "host-device": {
        "hostInterface": "eth2",
        "vlan": 5,
        "vlanQoS": 1,
        "vlanProto": "802.1q",
        "min_tx_rate": 1,
        "max_tx_rate": 2,
        "trust": "on",
        "spoofchk": "off",
        "link_state": "auto",
        "allowInUse": True,
    },
    "overlay": {"vni": 5000, "local": "10.0.0.1", "peers": ["10.0.0.2"], "port": 4789},
    "ovs": {
        "bridge": "br0",
        "trunk": [{"id": 5}],
        "vlan": 7,
        "ofport_request": 9,
        "socket_file": "unix:/run/ovs/db.sock",
    },
}
COMMON = {
    "mtu": 1400,
    "mac": "02:00:00:00:00:01",
    "ipam": {"type": "host-local"},
    "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
    "promisc": True,
    "allmulti": False,
    "txQLen": 9,
    "ingressRate": 800,
    "ingressBurst": 900,
    "linkState": "up",
    "args": {"cni": {"sysctl": {"net/ipv6/conf/a.b/x": "0"}}},
    "runtimeConfig": {"bandwidth": {"egressRate": 8, "egressBurst": 8}},
    "capabilities": {"bandwidth": True},
}


def device(document: object, kind: str) -> None:
    match document:
        case {"config": dict() as config, "args": dict() as args}:
            pass
        case _:
            return
    spoken = {name: value for name, value in args.items() if isinstance(value, str)}
    call = options.Call(KEY, {**config, "device": kind}, spoken)
    try:
        devices.refuse_foreign(call.config)
        made = devices.parse(call)
        options.ipam(call.config)
    except errors.CNIError as problem:
        of_code(problem, errors.Code.INVALID_CONFIG, errors.Code.UNSUPPORTED_FIELD, errors.Code.DECODE_FAILURE)
        return
    _harmless(made.interface)
    assert made.reads() == made.reads()
    made.kinds()
    made.segment()
    for read in made.reads():
        name = getattr(read, "name", "x")
        assert not isinstance(name, str) or (len(name.encode()) <= 15 and not set(name) & set("/\0\n")), read


def _harmless(interface: links.Interface) -> None:
    """No setting leads out of /proc/sys/net, whatever it is called."""
    for path, value in interface.sysctls:
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts), path
        assert not set(path) & set("\0\n"), path
        assert "\n" not in value


for _kind, _own in OPTIONS.items():
    TABLE.json(
        f"agent.device.{_kind}",
        *({"config": config, "args": {"MAC": "02:00:00:00:00:02"}} for config in (_own, {**_own, **COMMON})),
    )(
        lambda document, kind=_kind: device(document, kind)  # type: ignore[misc]
    )

RULES = policy.parse("""
rules:
  - namespaces: [default]
    plugins: ["*"]
    ipam: ["*", "!dhcp"]
    devices: ["*"]
    interfaces: ["*", "!uplink", "!eth*"]
    bridges: ["br-*"]
    paths: ["/var/lib/cni/*", "!*secret*"]
    vnis: ["5000-5999", "7", "!5005"]
    privileges: [gateway]
""")
_ALL_BUT_PATHS = ["plugins", "ipam", "devices", "interfaces", "bridges", "vnis", "privileges"]
NOTHING = policy.parse("\n".join(["rules:", "- namespaces: ['*']", *(f"  {key}: ['*']" for key in _ALL_BUT_PATHS)]))


@TABLE.json(
    "agent.policy.refusal",
    [{**COMMON, "type": "hotnic", "device": "overlay", "vni": 5000, "bridge": "hnb5000"}],
    [{"type": "macvlan", "master": "eth1", "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/x"}}],
    [
        {
            "type": "bond",
            "links": [{"name": "eth1"}],
            "delegates": [{"type": "bridge", "isGateway": True}],
            "Bridge": "a",
        }
    ],
)
def refusal(document: object) -> None:
    if not isinstance(document, list):
        return
    plugins = [one for one in document if isinstance(one, dict)]
    RULES.refusal("default", plugins, {"a": plugins}, lambda name: name == "eth0")
    if not NOTHING.refusal("x", plugins, None, lambda _: False):
        assert not any(text.startswith("/") for text in _texts(plugins)), "a path where none is allowed"


def _texts(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for below in value.values() for text in _texts(below)]
        case list():
            return [text for below in value for text in _texts(below)]
    return []


@TABLE.bytes(
    "agent.policy",
    "rules: [{namespaces: [a], vnis: ['1-5', '!3'], plugins: ['*']}]\nnamespaceIsolation: true\n",
    "rules: []\n",
    "? [a]\n: b\n",
    words=[
        b"rules",
        b"- ",
        b": ",
        b"&a ",
        b"*a",
        b"!!int ",
        b"!!timestamp ",
        b"2001-99-99",
        b"0x",
        b"<<: ",
        b"[",
        b"{",
        b"|\n",
        b"vnis",
    ],
)
def policy_file(data: bytes) -> None:
    with suppress(policy.PolicyError):
        policy.parse(as_text(data))
