"""What a tenant's network may not make of the node: refused with the cause, with nothing executed and nothing lost."""

import json

import pytest

from e2e import networks

pytestmark = pytest.mark.lane

REFUSED = {
    "the-uplink": ({"type": "host-device", "device": "eth0"}, "type='host-device'"),
    "the-uplink-natively": ({"type": "hotnic", "device": "host-device"}, "device='host-device'"),
    "a-plugin-of-no-list": ({"type": "debug"}, "type='debug'"),
    "a-path-as-type": ({"type": "../../../tmp/mine"}, "type='../../../tmp/mine'"),
    "files-of-the-node": (
        {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": "/etc/cron.d"}},
        "dataDir='/etc/cron.d'",
    ),
    "another-agent": (networks.native("br-blue", runDir="/run/mine"), "runDir='/run/mine'"),
}


def own_links(node) -> set[str]:
    """The node's, but for the ends of pods' interfaces, which come and go."""
    names = {link["ifname"] for link in json.loads(node.exec(["ip", "-json", "link"]).stdout)}
    return {name for name in names if not name.startswith(("veth", "hn"))}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_the_cause_and_the_rest_is_attached(ns, node, case):
    conf, named = REFUSED[case]
    before = own_links(node)
    ns.network("bad", {"cniVersion": "1.0.0", **conf})
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a")
    pod.plug([{"name": "bad", "interface": "x1"}, {"name": "blue", "interface": "x2"}])
    pod.wait_event("InterfaceAddRejected", "x1", named)
    pod.wait("x2 is published", lambda: "x2" in pod.reported())
    assert set(pod.interfaces()) == {"eth0", "x2"}
    assert named in pod.condition()["message"]
    assert before <= own_links(node)


def test_the_annotations_arguments_are_looked_at_too(ns, node):
    networks.install_recorder(node)
    ns.network("rec", networks.recorder())
    pod = ns.pod("a")
    pod.plug([{"name": "rec", "interface": "x1", "cni-args": {"logFile": "/etc/passwd"}}])
    pod.wait_event("InterfaceAddRejected", "x1", "logFile='/etc/passwd'")


def test_administrators_may_use_what_tenants_may_not(ns):
    conf = networks.reference_bridge("br-admin", "10.71.0.0/24")
    conf["ipam"]["dataDir"] = "/run/of-the-administrator"
    definition = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "of-the-administrator", "namespace": "default"},
        "spec": {"config": json.dumps(conf)},
    }
    kubectl = ns.api.cluster.kubectl
    kubectl("apply", "-f", "-", input=json.dumps(definition))
    try:
        pod = ns.pod("a")
        pod.plug([{"name": "of-the-administrator", "namespace": "default", "interface": "net1"}])
        pod.wait_ready("net1")
        pod.plug([])
        pod.wait("net1 is gone", lambda: "net1" not in pod.interfaces())
    finally:
        kubectl("delete", "-f", "-", input=json.dumps(definition))
