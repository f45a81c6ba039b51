"""Every field of a selection element reaches the delegate as the standard says, or is refused; and names."""

import json

import pytest

from e2e import audit, networks

pytestmark = pytest.mark.lane


@pytest.fixture(autouse=True)
def recorder(node):
    networks.install_recorder(node)
    networks.tell_recorder(node, "")


def call(node, ifname: str, command: str = "ADD") -> tuple[dict, dict]:
    """Return (CNI_ARGS, stdin) of the last call for an interface."""
    _, args, stdin = [one for one in networks.recorded(node, command) if one[0] == ifname][-1]
    return dict(pair.split("=", 1) for pair in args.split(";")), json.loads(stdin)


EVERYTHING = {
    "ips": ["10.1.2.3/24"],
    "mac": "02:00:00:11:22:33",
    "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4000},
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
    "infiniband-guid": "c2:11:22:33:44:55:66:77",
    "cni-args": {"color": "green", "deep": {"a": [1]}},
}
CAPABILITY = {
    "ips": "ips",
    "mac": "mac",
    "bandwidth": "bandwidth",
    "portMappings": "portMappings",
    "infiniband-guid": "infinibandGUID",
}


def test_all_fields_reach_the_delegate(ns, node):
    ns.network("rec", networks.recorder(*networks.ALL_CAPABILITIES))
    pod = ns.pod("a")
    pod.plug([{"name": "rec", "interface": "all1", **EVERYTHING}])
    pod.wait_ready("all1")
    args, stdin = call(node, "all1")
    for key, capability in CAPABILITY.items():
        got = stdin["runtimeConfig"][capability]
        assert json.dumps(got).lower() == json.dumps(EVERYTHING[key]).lower()
    assert stdin["args"]["cni"] == EVERYTHING["cni-args"]
    assert args["K8S_POD_NAME"] == "a"
    assert args["K8S_POD_NAMESPACE"] == ns.name
    assert args["K8S_POD_UID"] == pod.uid
    assert args["K8S_POD_INFRA_CONTAINER_ID"]
    assert (stdin["name"], stdin["cniVersion"]) == ("rec", "1.0.0")


@pytest.mark.parametrize("key", sorted(CAPABILITY))
def test_a_field_whose_capability_is_not_declared_is_refused_and_the_rest_attached(ns, key):
    others = [one for one in networks.ALL_CAPABILITIES if one != CAPABILITY[key]]
    ns.network("rec", networks.recorder(*others))
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug([{"name": "rec", "interface": "x1", key: EVERYTHING[key]}, {"name": "blue", "interface": "x2"}])
    pod.wait_event("InterfaceAddRejected", "x1", CAPABILITY[key])
    pod.wait("x2 is published", lambda: "x2" in pod.reported())
    assert "x1" not in pod.reported()
    assert set(pod.interfaces()) == {"eth0", "x2"}
    assert (pod.condition()["status"], "x1" in pod.condition()["message"]) == ("False", True)


def test_default_route_moves_to_the_interface_and_comes_back(ns):
    conf = networks.reference_bridge("br-gw", "10.62.0.0/24", name="gw", capabilities={"ips": True})
    ns.network("gw", conf)
    pod = ns.pod("a")
    before = pod.sh("ip route show default").split()
    pod.plug([{"name": "gw", "interface": "net1", "default-route": ["10.62.0.1"]}])
    pod.wait_ready("net1")
    assert pod.sh("ip route show default").split()[:5] == ["default", "via", "10.62.0.1", "dev", "net1"]
    pod.plug([])
    pod.wait_ready()
    assert pod.sh("ip route show default").split()[:5] == before[:5]


def test_a_default_route_that_cannot_be_set_costs_the_pod_nothing(ns):
    ns.network("gw", networks.reference_bridge("br-gw2", "10.62.1.0/24", name="gw2"))
    pod = ns.pod("a")
    before = pod.sh("ip route show default")
    pod.plug([{"name": "gw", "interface": "net1", "default-route": ["192.0.2.1"]}])
    pod.wait_event("FailedAddingInterface", "net1", "default route")
    assert pod.sh("ip route show default") == before
    pod.wait("nothing of a try stays", lambda: set(pod.interfaces()) == {"eth0"})  # the next one may be under way
    pod.plug([{"name": "gw", "interface": "net1", "default-route": []}])
    pod.wait_event("InterfaceAddRejected", "net1", "default-route")
    pod.plug([])
    pod.wait_ready()
    assert pod.sh("ip route show default") == before


def test_a_mac_and_an_address_are_really_the_interfaces(ns):
    ipam = {"type": "static"}
    ns.network("static", networks.native("br-st", ipam=ipam, capabilities={"mac": True, "ips": True}))
    pod = ns.pod("a")
    pod.plug([{"name": "static", "interface": "net1", "mac": "02:00:00:AA:BB:CC", "ips": ["10.63.0.9/24"]}])
    pod.wait_ready("net1")
    assert pod.interfaces()["net1"] == "02:00:00:aa:bb:cc"
    assert pod.addresses("net1") == ["10.63.0.9/24"]
    assert pod.reported()["net1"]["ips"] == ["10.63.0.9"]


def test_unnamed_elements_are_named_reported_matched_again_and_unplugged(ns):
    for name in ("blue", "red"):
        ns.network(name, networks.native(f"br-{name}"))
    pod = ns.pod("a")
    pod.plug("blue")
    pod.wait_ready("net1")
    mac = pod.interfaces()["net1"]
    pod.plug("blue,red,blue")
    pod.wait_ready("net1", "net2", "net3")
    assert pod.interfaces()["net1"] == mac
    assert {name: one["name"].split("/")[1] for name, one in pod.reported().items() if name.startswith("net")} == {
        "net1": "blue", "net2": "red", "net3": "blue",
    }  # fmt: skip
    pod.plug("red")
    pod.wait_ready("net2")
    assert set(pod.interfaces()) == {"eth0", "net2"}


@pytest.mark.parametrize("changed", ["network", "mac", "ips"])
def test_a_change_under_the_same_name_replaces_and_releases(ns, node, changed):
    caps = {"mac": True, "ips": True}
    left, right = f"l{ns.name[:6]}", f"r{ns.name[:6]}"
    ns.network("left", networks.reference_bridge("br-l", "10.64.0.0/24", name=left, capabilities=caps))
    ns.network("right", networks.reference_bridge("br-r", "10.65.0.0/24", name=right, capabilities=caps))
    pod = ns.pod("a")
    element = {"name": "left", "interface": "net1", "ips": ["10.64.0.20/24"]}
    pod.plug([element])
    pod.wait_ready("net1")
    changes = {
        "network": {"name": "right", "ips": ["10.65.0.20/24"]},
        "mac": {"mac": "02:00:00:00:00:99"},
        "ips": {"ips": ["10.64.0.30/24"]},
    }
    pod.plug([{**element, **changes[changed]}])
    address = changes[changed].get("ips", element["ips"])[0]
    mac = changes[changed].get("mac")
    pod.wait(
        "the change is published",
        lambda: (
            pod.reported()["net1"]["ips"] == [address.split("/")[0]] and mac in (None, pod.reported()["net1"]["mac"])
        ),
    )
    assert pod.addresses("net1") == [address]
    held = audit.addresses(node, left) | audit.addresses(node, right)
    assert held == {address.split("/")[0]}


def test_eth0_is_refused_and_unharmed(ns):
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    before = pod.sh("ip addr show dev eth0")
    pod.plug([{"name": "blue", "interface": "eth0"}, {"name": "blue", "interface": "x1"}])
    pod.wait_event("InterfaceAddRejected", "eth0")
    pod.wait("x1 is published", lambda: "x1" in pod.reported())
    assert "interface eth0" not in pod.wait_event("AddedInterface", "interface x1 ")  # an event of its own
    pod.plug([{"name": "blue", "interface": "x1"}])
    pod.wait_ready("x1")
    pod.plug([])
    pod.wait_ready()
    assert pod.sh("ip addr show dev eth0") == before


def test_a_name_twice_a_name_too_long_and_a_forbidden_namespace_are_refused_and_the_rest_attached(ns, api):
    other = api.namespace(f"{ns.name}-o")
    try:
        other.network("theirs", networks.native("br-theirs"))
        ns.network("blue", networks.native("br-blue"))
        pod = ns.pod("a")
        pod.plug([
            {"name": "blue", "interface": "x1"},
            {"name": "blue", "interface": "x1"},
            {"name": "blue", "interface": "a-name-much-too-long"},
            {"name": "theirs", "namespace": other.name, "interface": "x4"},
            {"name": "blue", "interface": "x5"},
        ])  # fmt: skip
        message = pod.wait_event("InterfaceAddRejected", "a-name-much-too-long", "x4", other.name)
        assert "x1" in message
        pod.wait("x1 and x5 are published", lambda: {"x1", "x5"} <= set(pod.reported()))
        assert set(pod.interfaces()) == {"eth0", "x1", "x5"}
    finally:
        other.drop()
