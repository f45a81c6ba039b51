"""The auditor names every kind of thing that can be left behind, told wrongly or missing; each is planted here.

While it is planted agent and controller stand still: they would mend some of it before anybody looks.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e import networks
from e2e.auditor.auditor import Auditor
from e2e.auditor.finding import LACK, LEAK, LIE
from e2e.auditor.node import BUNDLES
from e2e.auditor.told import CONDITION, STATUS
from e2e.product import BIN

pytestmark = pytest.mark.lane

DEAD = "dead" * 16
HOST_END, NETNS = "hn0123456789ab", "cni-01234567-89ab-4def-8123-456789abcdef"
# what makes a living container's file a dead one's: another container, no namespace, and no sum over it
OF_THE_DEAD = f"""-e s/$id/{DEAD}/g -e s#netns/cni-#netns/gone-# -e 's/,"crc32":"[0-9a-f]*"}}/}}/'"""
SHAPED = {"ingressRate": 1000000, "ingressBurst": 80000, "egressRate": 1000000, "egressBurst": 80000}


@dataclass(frozen=True)
class Plant:
    """Shell scripts for the node, and the finding: its kind, what, and a part of where or why."""

    script: str
    undo: str
    kind: str
    what: str
    part: str


# $id, $pod: container and UID of the sandbox; $in: enters its namespace; $end: its host end at br-blue; $record: the
# journal's file of x1
PLANTS = {
    "a veth end": Plant(
        f"ip link add {HOST_END} type veth peer name leakw", f"ip link del {HOST_END}", LEAK, "link", "leakw"
    ),
    "a bridge port": Plant(f"ip link set {HOST_END} master br-blue", ":", LEAK, "port", HOST_END),
    "a link of another kind": Plant(
        "ip link add link br-blue name leakd type macvlan", "ip link del leakd", LEAK, "link", "leakd"
    ),
    "an ifb": Plant("ip link add hni0123456789a type ifb", "ip link del hni0123456789a", LEAK, "ifb", "hni0123456789a"),
    "a qdisc": Plant(
        "tc qdisc add dev br-blue root tbf rate 1mbit burst 10k latency 25ms",
        "tc qdisc del dev br-blue root", LEAK, "qdisc", "br-blue",
    ),
    "a qdisc in a pod": Plant(
        "$in tc qdisc add dev o1 root tbf rate 1mbit burst 10k latency 25ms",
        "$in tc qdisc del dev o1 root", LEAK, "qdisc", "o1",
    ),
    "a lost qdisc": Plant(
        "tc qdisc del dev $shaped root",
        "tc qdisc add dev $shaped root handle 1: tbf rate 1mbit burst 10000 latency 25ms", LACK, "qdisc", "$shaped",
    ),
    "a rule of a dead container": Plant(
        "nft add table inet leak; nft add chain inet leak c;"
        f" nft add rule inet leak c accept comment macspoofchk-{DEAD}-x1",
        "nft delete table inet leak", LEAK, "nft", DEAD,
    ),
    "a rule of nobody": Plant("nft add rule inet leak c drop", ":", LEAK, "nft", "of no container"),
    "a namespace": Plant(f"ip netns add {NETNS}", f"ip netns del {NETNS}", LEAK, "netns", NETNS),
    "a link in a pod": Plant("$in ip link add leak0 type bridge", "$in ip link del leak0", LEAK, "interface", "leak0"),
    "a link that is gone": Plant(
        "$in ip link set v1 down; $in ip link set v1 name elsewhere",
        "$in ip link set elsewhere name v1; $in ip link set v1 up", LACK, "interface", "v1",
    ),
    "a link that is told": Plant(":", ":", LIE, "status", "v1"),
    "readiness that is not": Plant(":", ":", LIE, "condition", "True"),
    "a lost address": Plant("$in ip addr del $ip/24 dev x1", "$in ip addr add $ip/24 dev x1", LIE, "status", "x1"),
    "a port off its bridge": Plant(
        "ip link set $end nomaster", "ip link set $end master br-blue", LACK, "port", "br-blue"
    ),
    "a tunnel to nowhere": Plant(
        "bridge fdb append 00:00:00:00:00:00 dev hnv5001 dst 172.30.0.99",
        "bridge fdb del 00:00:00:00:00:00 dev hnv5001 dst 172.30.0.99", LEAK, "fdb", "172.30.0.99",
    ),
    "a setting": Plant(
        "echo 0 >/proc/sys/net/ipv6/conf/hnb5001/disable_ipv6",
        "echo 1 >/proc/sys/net/ipv6/conf/hnb5001/disable_ipv6", LACK, "sysctl", "hnb5001",
    ),
    "a lease of nobody": Plant(
        f"printf '{DEAD}\\r\\nx9' >$store/10.74.0.99", "rm $store/10.74.0.99", LEAK, "lease", "10.74.0.99"
    ),
    "a second lease": Plant(
        "printf '%s\\r\\nx1' $id >$store/10.74.0.98", "rm $store/10.74.0.98", LEAK, "lease", "10.74.0.98"
    ),
    "a lease in use": Plant(
        "mv $store/$ip $store/.$ip", "mv $store/.$ip $store/$ip", LACK, "lease", "without a lease"
    ),
    "a record": Plant(
        f"sed {OF_THE_DEAD} $record >/var/lib/hotnic/records/leak.json", "rm /var/lib/hotnic/records/leak.json",
        LEAK, "record", DEAD[:12],
    ),
    "a desired set": Plant(
        "sed s/$pod/another/ $(grep -l $pod /var/lib/hotnic/pods/*.json) >/var/lib/hotnic/pods/leak.json",
        "rm /var/lib/hotnic/pods/leak.json", LEAK, "desired", "no pod of this node",
    ),
    "a damaged record": Plant(
        "echo rot >/var/lib/hotnic/damaged/leak.json", "rm /var/lib/hotnic/damaged/leak.json", LEAK, "file", "damaged"
    ),
    "half a record": Plant(
        "echo rot >/var/lib/hotnic/records/leak.tmp", "rm /var/lib/hotnic/records/leak.tmp", LEAK, "file", "leak.tmp"
    ),
    "a call that nobody replays": Plant(
        "echo rot >/run/hotnic/tombstones/leak", "rm /run/hotnic/tombstones/leak", LEAK, "file", "tombstones/leak"
    ),
    "a result cache": Plant(
        f"(cd /var/lib/cni/results; sed {OF_THE_DEAD} lane-$id-eth0 >lane-{DEAD}-eth0)",
        f"rm /var/lib/cni/results/lane-{DEAD}-eth0", LEAK, "cache", DEAD,
    ),
    "a call that hangs": Plant(
        "CNI_COMMAND=ADD CNI_CONTAINERID=$id setsid sleep 987 >/dev/null 2>&1 & echo $! >/run/leak.1",
        "kill $(cat /run/leak.1); rm /run/leak.1", LEAK, "process", "CNI_COMMAND",
    ),
    "a process of a dead container": Plant(
        f"setsid sh -c 'sleep 986; :' {DEAD} >/dev/null 2>&1 & echo $! >/run/leak.2",
        "pkill -P $(cat /run/leak.2); kill $(cat /run/leak.2); rm /run/leak.2", LEAK, "process", DEAD[:12],
    ),
}  # fmt: skip


# what of it `hotnic-agent audit` has words for: what dead containers leave
AUDITED = {
    ("link of ours", HOST_END),
    ("network namespace", NETNS),
    ("host-local lease", "10.74.0.99"),
    ("record of the journal", "x1"),
    ("file set aside by the agent", "leak.json"),
    ("result cache file", f"lane-{DEAD}-eth0"),
}


@pytest.fixture
def pod(ns):
    """A pod with one network of each kind that leaves something on the node."""
    ipam = {"type": "host-local", "subnet": "10.74.0.0/24"}
    ns.network("blue", networks.native("br-blue", name="aud", ipam=ipam, capabilities={"bandwidth": True}))
    ns.network("veth", networks.device("veth"))
    ns.network("wide", networks.device("overlay", vni=5001))
    ns.network("safe", networks.reference_bridge("br-safe", macspoofchk=True))
    pod = ns.pod("a")
    asked = [{"name": name, "interface": ifname} for name, ifname in
             (("blue", "x1"), ("veth", "v1"), ("wide", "o1"), ("safe", "s1"))]  # fmt: skip
    pod.plug([*asked, {"name": "blue", "interface": "x2", "bandwidth": SHAPED}])
    pod.wait_ready("x1", "v1", "o1", "s1", "x2")
    return pod


@pytest.fixture
def stopped(product, node) -> Iterator[None]:
    """Agent and controller stand still."""
    both = (product.agents[node.name], product.controllers[node.name])
    for process in both:
        process.freeze()
    yield
    for process in both:
        process.thaw()


def surroundings(pod, node) -> str:
    """The variables of the scripts."""
    found = json.loads(node.exec(["ip", "-json", "-d", "link"]).stdout)
    shaped = next(
        one["ifname"] for one in found if one.get("qdisc") == "tbf" and one["linkinfo"]["info_kind"] == "veth"
    )
    end = next(one["ifname"] for one in found if one.get("master") == "br-blue" and one["ifname"] != shaped)
    return f"""
pod={pod.uid} end={end} shaped={shaped} ip={pod.reported()["x1"]["ips"][0]} store=/var/lib/cni/networks/aud
for id in $(cd {BUNDLES}; grep -l $pod */config.json); do
  id=${{id%/*}}; [ -e /var/lib/cni/results/lane-$id-eth0 ] && break
done
in="nsenter -t $(cat {BUNDLES}/$id/init.pid) -n"
record=$(grep -l "$id\\",\\"ifname\\":\\"x1" /var/lib/hotnic/records/*.json)
"""


def test_it_names_each_kind_of_leak_lie_and_lack_and_is_quiet_without(pod, node, api, request):
    auditor = Auditor(node, api)
    auditor.wait_quiet()
    variables = surroundings(pod, node)
    request.getfixturevalue("stopped")
    failed = run(node, variables, [plant.script for plant in PLANTS.values()])
    found = auditor.findings()
    told = audited(node)
    run(node, variables, [plant.undo for plant in reversed(PLANTS.values())])
    assert not failed
    shaped = next(line for line in variables.split() if line.startswith("shaped=")).partition("=")[2]
    missed = {
        name: plant
        for name, plant in PLANTS.items()
        if not any(
            (one.kind, one.what) == (plant.kind, plant.what) and plant.part.replace("$shaped", shaped) in str(one)
            for one in found
        )
    }
    assert not missed, "\n".join(map(str, found))
    assert told >= AUDITED
    auditor.wait_quiet()  # a pod of before may just be ending


def audited(node) -> set[tuple[str, str]]:
    """Return what the product's own command finds, with the last word of where."""
    command = [str(BIN / "hotnic-agent"), "audit", "--json", "--guard", "0", "--cri", f"unix://{node.cri_socket}"]
    done = node.exec(command, check=False)
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {(one["what"], re.split(r"[/ ]", one["where"])[-1]) for one in lines}


def run(node, variables: str, scripts: list[str]) -> str:
    """Run each script, also after one failed; return what failed."""
    checked = [f"{script}\n[ $? = 0 ] || echo failed: {number}" for number, script in enumerate(scripts)]
    return node.exec(["sh", "-c", "\n".join((variables, *checked)) + "\n:"]).stdout


LIES = {
    "a foreign entry": (lambda entries: [*entries, {"name": "theirs", "interface": "net9"}], "net9"),
    "a missing entry": (lambda entries: entries[1:], "x1: is in the pod and has no entry"),
    "two entries": (lambda entries: [*entries, entries[0]], "two entries"),
    "a wrong MAC": (lambda entries: [{**entries[0], "mac": "02:00:00:00:00:01"}, *entries[1:]], "02:00:00:00:00:01"),
    "a wrong MTU": (lambda entries: [{**entries[0], "mtu": 9000}, *entries[1:]], "9000"),
    "a wrong address": (lambda entries: [{**entries[0], "ips": ["10.74.0.77"]}, *entries[1:]], "10.74.0.77"),
    "a wrong network": (lambda entries: [{**entries[0], "name": "no/such"}, *entries[1:]], "no/such"),
    "no list": (lambda _: {}, "no list"),
}


def test_it_names_each_lie_in_the_status(pod, node, api, request):
    auditor = Auditor(node, api)
    auditor.wait_quiet()
    before = pod.status()
    assert before[0]["interface"] == "x1"
    request.getfixturevalue("stopped")
    unnoticed = []
    for name, (change, part) in LIES.items():
        tell(pod, change(before))
        found = auditor.findings()
        if not any(one.kind == LIE and part in str(one) for one in found):
            unnoticed.append((name, found))
    tell(pod, before)
    assert not unnoticed
    condition(pod, "False")
    found = auditor.findings()
    condition(pod, "True")
    assert [(one.kind, one.what) for one in found] == [(LIE, "condition")]
    auditor.wait_quiet()  # a pod of before may just be ending


def tell(pod, entries) -> None:
    body = {"metadata": {"annotations": {STATUS: json.dumps(entries)}}}
    pod.namespace.api.call("patch_namespaced_pod", pod.name, pod.namespace.name, body)


def condition(pod, status: str) -> None:
    body = {"status": {"conditions": [{"type": CONDITION, "status": status}]}}
    pod.namespace.api.call("patch_namespaced_pod_status", pod.name, pod.namespace.name, body)
