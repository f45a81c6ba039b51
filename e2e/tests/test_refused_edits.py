"""A wrong edit of what works: it is told, and what works goes on working, as the same link."""

import pytest

from e2e import networks

pytestmark = pytest.mark.lane

CAPABILITIES = {"mac": True, "bandwidth": True}
WRONG = {
    "an-mtu-that-cannot-be": ({"cni-args": {"mtu": 70000}}, "mtu=70000"),
    "no-state": ({"cni-args": {"linkState": "sideways"}}, "linkState='sideways'"),
    "half-a-bandwidth": ({"bandwidth": {"ingressRate": 1000}}, "Rate"),
    "a-capability-that-is-not-declared": ({"ips": ["10.1.1.1/24"]}, "ips"),
    "a-network-that-is-not-there": ({"name": "nope"}, "nope does not exist"),
    "what-the-policy-forbids": ({"cni-args": {"logFile": "/etc/passwd"}}, "/etc/passwd"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_attached_stays(ns, case):
    wrong, named = WRONG[case]
    ns.network("blue", networks.native("br-blue", capabilities=CAPABILITIES))
    pod = ns.pod("a")
    right = {"name": "blue", "interface": "net1"}
    pod.plug([right])
    pod.wait_ready("net1")
    index, entry = pod.sh("cat /sys/class/net/net1/ifindex"), pod.reported()["net1"]
    pod.plug([{**right, **wrong}])
    pod.wait("the cause is told", lambda: named in pod.condition().get("message", ""))
    assert (pod.sh("cat /sys/class/net/net1/ifindex"), pod.reported()["net1"]) == (index, entry)
    pod.plug([right])
    pod.wait_ready("net1")
    assert pod.sh("cat /sys/class/net/net1/ifindex") == index
