"""Nodes that reboot, sandboxes that are replaced, a kubelet that is away: the dead are cleaned up, the living served.

A reboot is here what namespaces can show of one: all processes of the node end at once, its links, its network
namespaces and /run are gone, /var/lib stays. What the kernel itself forgets at a reboot, and that its numbers start
anew, is not shown.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e import audit, networks
from e2e.auditor.auditor import Auditor
from e2e.auditor.node import BUNDLES

pytestmark = pytest.mark.lane

QUIET_S = 150.0
PAUSE_S = 2.0
ORDERS = {
    "the agent last": ("kubelet", "controller", "agent"),
    "the controller last": ("agent", "kubelet", "controller"),
}


@pytest.fixture
def three(ns, node):
    """Three pods with the same networks: one that stays, one to be deleted, one whose networks will be others."""
    node.exec(["rm", "-rf", "/run/recorder"])
    networks.install_recorder(node)
    networks.tell_recorder(node, "")
    ns.network("pool", networks.native("br-boot", name="boot1", ipam={"type": "host-local", "subnet": "10.75.0.0/24"}))
    ns.network("theirs", networks.reference_bridge("br-boot2", "10.76.0.0/24", name="boot2"))
    ns.network("rec", {**networks.recorder(), "color": "as it was"})
    pods = [ns.pod(name, "pool@x1,theirs@x2,rec@x3") for name in ("stays", "goes", "changes")]
    for pod in pods:
        pod.wait_ready("x1", "x2", "x3")
    return pods


def leases(node) -> set[str]:
    return audit.addresses(node, "boot1") | audit.addresses(node, "boot2")


def deleted_as_added(node, ids: set[str], added: dict[str, dict]) -> set[str]:
    """Return the containers whose DEL came with the configuration and the result of their ADD."""
    found = set()
    for path in node.path("/run/recorder").glob("*.DEL"):
        _, _, args, netns, stdin = path.read_text().split("\n", 4)
        container = dict(pair.split("=", 1) for pair in args.split(";"))["K8S_POD_INFRA_CONTAINER_ID"]
        document = json.loads(stdin)
        before = document.pop("prevResult", None)
        if container in ids and document == added[container] and before and not netns:
            found.add(container)
    return found


def additions(node) -> dict[str, dict]:
    """Return the configuration of each container's ADD."""
    return {
        dict(pair.split("=", 1) for pair in args.split(";"))["K8S_POD_INFRA_CONTAINER_ID"]: json.loads(stdin)
        for _, args, stdin in networks.recorded(node, "ADD")
    }


@pytest.mark.parametrize("order", ORDERS)
def test_a_node_that_reboots_cleans_up_after_the_dead_and_serves_the_living(ns, api, node, product, three, order):
    stays, goes, changes = three
    auditor = Auditor(node, api, excused=is_kubelets)
    auditor.wait_quiet()
    before, added = leases(node), additions(node)
    assert len(before) == 6
    power_off(node, product)
    api.call("delete_namespaced_pod", goes.name, ns.name, grace_period_seconds=0)
    ns.drop_network("rec")
    ns.network("pool", networks.native("br-other", name="boot3"))
    changes.plug("pool@x1,theirs@x4")
    node.power_on()
    networks.install_recorder(node)
    start_all(node, product, ORDERS[order])
    # an agent that has no controller yet makes what it was told before: the lost network may be back as well
    stays.wait("its networks are back", lambda: not leases(node) & before and shown(stays) >= {"x1", "x2"}, QUIET_S)
    changes.wait("it has what it asks for now", lambda: shown(changes) == {"x1", "x4"} and changes.is_ready(), QUIET_S)
    auditor.wait_quiet(QUIET_S)
    assert deleted_as_added(node, set(added), added) == set(added)
    assert (stays.exists(), goes.exists(), changes.exists()) == (True, False, True)
    ns.network("rec", networks.recorder())
    stays.wait_ready("x1", "x2", "x3")


def is_kubelets(one) -> bool:
    """Whether it is of the pods' own network: kubelet ends sandboxes of pods that are no more once in a minute."""
    return one.what in ("lease", "cache") and ("lane" in one.where or "loopback" in one.where)


def power_off(node, product) -> None:
    """Cut the power; what was started by the product went with it."""
    node.power_off()
    for process in (product.agents[node.name], product.controllers[node.name]):
        process.wait()


def start_all(node, product, order: tuple[str, ...]) -> None:
    """Start what a node runs, one after the other: one that waits for a later one goes on waiting."""
    start = {"kubelet": node.start_kubelet, "agent": lambda: product.start_agent(node),
             "controller": lambda: product.start_controller(node)}  # fmt: skip
    with ThreadPoolExecutor() as pool:
        started = []
        for one in order:
            started.append(pool.submit(start[one]))
            time.sleep(PAUSE_S)
    for one in started:
        one.result()


def shown(pod) -> set[str]:
    return set(pod.reported()) - {"eth0"}


def test_pods_that_end_while_the_kubelet_is_away_are_cleaned_up_before_it_is_back(ns, api, node, three):
    stays, goes, changes = three
    auditor = Auditor(node, api, excused=is_kubelets)
    auditor.wait_quiet()
    kept, left, lost = (addresses(pod) for pod in three)
    node.stop_kubelet()
    try:
        api.call("delete_namespaced_pod", goes.name, ns.name, grace_period_seconds=0)
        node.exec(["kill", "-KILL", *main_pids(node, changes)])
        stays.wait("the deleted pod's addresses are free", lambda: not leases(node) & left, QUIET_S)
        audit.wait_clean(node, {goes.uid})
        assert (shown(stays), kept <= leases(node)) == ({"x1", "x2", "x3"}, True)
    finally:
        node.start_kubelet()
    # its namespace stays until the kubelet asks for its end, and so does what is in it
    changes.wait("its addresses are those of a new sandbox", lambda: has_others(node, kept, lost), QUIET_S)
    auditor.wait_quiet(QUIET_S)


def addresses(pod) -> set[str]:
    return {ip for entry in pod.status() for ip in entry.get("ips", ())}


def has_others(node, kept: set[str], lost: set[str]) -> bool:
    return len(leases(node) - kept - lost) == len(lost) and not leases(node) & lost


def main_pids(node, pod) -> list[str]:
    """The pids, on the node, of all that the pod runs."""
    folders = [folder for folder in node.path(BUNDLES).iterdir() if pod.uid in (folder / "config.json").read_text()]
    return [(folder / "init.pid").read_text() for folder in folders]


def test_a_runtime_that_restarts_with_new_sandboxes_serves_the_same_pods(api, node, three):
    auditor = Auditor(node, api, excused=is_kubelets)
    auditor.wait_quiet()
    before = leases(node)
    node.stop_runtime()
    node.exec(["kill", "-KILL", *(pid for pod in three for pid in main_pids(node, pod))])
    node.start_runtime()
    three[0].wait("all have their networks in new sandboxes", lambda: len(leases(node) - before) == 6, QUIET_S)
    auditor.wait_quiet(QUIET_S)
    assert [shown(pod) for pod in three] == [{"x1", "x2", "x3"}] * 3
