"""What others do to a pod's interfaces is noticed, told and undone; what cannot be undone is told while it lasts."""

import json
import time

import pytest

from e2e import networks

pytestmark = pytest.mark.lane

CAPABILITIES = {"mac": True, "ips": True}

# Does the damage $2 where $1 is the inode of the pod's namespace, and says in how many milliseconds $3 held again.
_MEASURE = """
for path in /run/netns/*; do [ "$(stat -Lc %i $path)" = "$1" ] && pod=$path; done
inside() { nsenter --net=$pod ip "$@"; }
begun=$(date +%s%N)
eval "$2"
while ! eval "$3"; do
  [ $(( $(date +%s%N) - begun )) -gt 20000000000 ] && { echo never; exit 1; }
  sleep 0.01
done
echo $(( ($(date +%s%N) - begun) / 1000000 ))
"""


def repairs(product, node, cause):
    """Return how many repairs that has led to: an event, or a look now and then."""
    lines = product.metrics(node, "agent").splitlines()
    ours = [one for one in lines if one.startswith("hotnic_agent_drift_total{") and f'cause="{cause}"' in one]
    return sum(float(one.split()[-1]) for one in ours if 'outcome="repaired"' in one)


def test_what_others_do_to_interfaces_is_undone_and_told(ns, product, node, capsys):
    for name in ("blue", "red"):
        ns.network(name, networks.native(f"br-d{name}", capabilities=CAPABILITIES, ipam={"type": "static"}))
    pod = ns.pod("a")
    pod.plug([
        {"name": "red" if number == 5 else "blue", "interface": f"x{number}", "ips": [f"10.8{number}.0.5/24"]}
        for number in range(1, 7)
    ])  # fmt: skip
    names = [f"x{number}" for number in range(1, 7)]
    pod.wait_ready(*names)
    before, macs = pod.status(), pod.interfaces()
    inode = pod.sh("readlink /proc/self/ns/net").strip().removeprefix("net:[").removesuffix("]")
    ends = {one["ifindex"]: one["ifname"] for one in json.loads(node.exec(["ip", "-j", "link"]).stdout)}
    host = {name: ends[int(pod.sh(f"cat /sys/class/net/{name}/iflink"))] for name in names}

    def measured(damage: str, whole: str) -> str:
        return node.exec(["sh", "-c", _MEASURE, "sh", inode, damage, whole], timeout=60).stdout.strip()

    has = "[ -n \"$(inside -o {} dev {} 2>/dev/null | grep '{}')\" ]".format
    events = repairs(product, node, "event")
    took = {
        "host end deleted": measured(
            f"ip link del {host['x1']}",
            f"[ -e /sys/class/net/{host['x1']} ] && {has('addr show', 'x1', '10.81.0.5/24')}",
        ),
        "set down": measured("inside link set x2 down", has("link show", "x2", ",UP")),
        "MAC changed": measured("inside link set x3 address 02:00:00:00:00:99", has("link show", "x3", macs["x3"])),
        "addresses flushed": measured("inside addr flush dev x4", has("addr show", "x4", "10.84.0.5/24")),
        "bridge deleted": measured(
            "ip link del br-dred", f"[ -n \"$(ip -o link show {host['x5']} | grep 'master br-dred')\" ]"
        ),
    }  # fmt: skip
    with capsys.disabled():
        print("\nwhole again after", ", ".join(f"{what}: {milliseconds} ms" for what, milliseconds in took.items()))
    for name in names[:5]:
        pod.wait_event("DriftRepaired", f"interface {name} to network")
    led = lambda: repairs(product, node, "event") - events  # noqa: E731 a deleted link any pass may find as soon
    pod.wait("events have led to the repairs, and not looks now and then", lambda: led() >= len(took) - 1)
    pod.wait("all is told", lambda: all(f"{name} (" in pod.condition()["message"] for name in names[:5]))
    assert (pod.is_ready(), pod.condition()["message"].startswith("attached: 6; ")) == (True, True)
    assert (pod.status(), pod.interfaces()) == (before, macs), "nothing else was touched"
    taken = "inside link set x6 down; inside link set x6 name y6 && inside link add x6 type veth peer name z6"
    measured(taken, "true")
    pod.wait("the condition says it", lambda: pod.condition()["reason"] == "Drifted")
    assert (pod.condition()["status"], "x6 is called y6" in pod.condition()["message"]) == ("False", True)
    pod.wait_event("Drifted", "x6 is called y6")
    measured("inside link del x6", "true")
    pod.wait("it has its name again", lambda: pod.is_ready() and pod.interfaces().get("x6") == macs["x6"])
    assert pod.status() == before
    told = pod.events("DriftRepaired")
    assert len(told) <= 7, told
    assert "never" not in took.values(), took


def test_what_a_plugin_finds_wrong_outlives_the_agent_that_heard_of_it(ns, product, node):
    """No event comes after the agent's end, and only the plugin can tell."""
    ns.network("ref", networks.reference_bridge("br-dref", "10.87.0.0/24", name=f"ref{ns.name[:5]}"))
    pod = ns.pod("a")
    pod.plug("ref@x1")
    pod.wait_ready("x1")
    node.exec(["ip", "link", "del", "br-dref"])
    pod.wait("the condition says it", lambda: "br-dref" in pod.condition()["message"])
    product.agents[node.name].kill()
    product.start_agent(node)
    pod.plug([{"name": "ref", "interface": "x1"}])  # a pass, which tells what it knows
    for _ in range(20):
        assert (pod.condition()["reason"], "br-dref" in pod.condition()["message"]) == ("Drifted", True)
        time.sleep(0.5)
    node.exec(["ip", "link", "add", "br-dref", "type", "bridge"])
    pod.plug("")
    pod.wait_ready()
    node.exec(["ip", "link", "del", "br-dref"])
