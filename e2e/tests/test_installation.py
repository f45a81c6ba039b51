"""hotnic brought to a cluster and taken off it again, as users do.

In both ways it is taken off while pods have interfaces: nothing is left of it, or nothing but these. Where hotnic is
installed from its image (e2e.installed), by the one command that users have; else by that command's steps: the
withdrawn controller, and `hotnic-agent uninstall` with the agent's rights.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from e2e import audit, installed, networks, rights, services
from e2e.auditor.auditor import Auditor
from e2e.auditor.finding import LACK
from e2e.installed import Installed
from e2e.pods import Api, Pod
from e2e.process import Process
from e2e.product import BIN, NAMESPACE, REPOSITORY, Product

pytestmark = pytest.mark.lane

INTERFACES = ("x1", "x2", "x3", "x4")
WISH = "blue@x1,ref@x2,over@x3,tap@x4"
KINDS = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"


def script(*words: str, timeout: str = "3m") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "manifests/uninstall.sh", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "TIMEOUT": timeout},
    )  # fmt: skip


def uninstall(product: Product | Installed, node, mode: str) -> None:
    if isinstance(product, Installed):
        done = script(mode)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{product.describe()}"
        kubectl = product.cluster.kubectl
        assert kubectl("get", "namespace", NAMESPACE, "--ignore-not-found") == ""
        assert kubectl("get", KINDS, "-l", "app.kubernetes.io/part-of=hotnic", "-o", "name") == ""
        product.agents.clear()
        product.controllers.clear()
        return
    former = product.controllers[node.name]
    former.stop()
    if mode == "--detach":
        argv = (*former.entered.args, "--withdraw")
        process = Process.of(services.launch(argv, former.log, dict(os.environ)), former.log)
        ends = time.monotonic() + 60
        while (said := product.metrics(node, "controller", "/readyz")) != "ok\n":
            assert time.monotonic() < ends, f"{said}\n{process.output()[-4000:]}"
            time.sleep(0.1)
        process.stop()
    product.agents[node.name].stop()
    print(node.exec(command(mode)).stdout)


def command(mode: str) -> tuple[str, ...]:
    """Return what takes hotnic off a node, with the agent's rights."""
    return rights.of("agent").command((str(BIN / "hotnic-agent"), "uninstall", mode))


def wait_untouched(node, api: Api, before: audit.Traces) -> None:
    """Wait until the node is as before hotnic; the kubelet takes a pod's mounts away once that has gone."""
    ends = time.monotonic() + 60
    while True:
        living = {one["metadata"]["uid"] for one in api.call("list_pod_for_all_namespaces")["items"]}
        if not (left := audit.traces(node).beyond(before, living)):
            return
        assert time.monotonic() < ends, f"left on the node: {sorted(left)}"
        time.sleep(0.5)


def refused(product: Installed, node, pod: Pod) -> None:
    """With something in the way on the node nothing is changed at all: neither is the pod's interface taken."""
    chain = node.path("/etc/cni/net.d/99-chain.conflist")
    chain.symlink_to("/etc/cni/chain.conflist")  # as seen from the node, and nowhere else
    target = node.path("/etc/cni/chain.conflist")
    target.write_text('{"cniVersion": "1.0.0", "name": "chain", "plugins": [{"type": "hotnic", "device": "networks"}]}')
    before = product.cluster.kubectl("get", "daemonset", "hotnic", "-n", NAMESPACE, "-o", "jsonpath={.spec}")
    try:
        done = script("--detach")
    finally:
        chain.unlink()
        target.unlink()
    assert done.returncode == 1, f"{done.stdout}{done.stderr}"
    assert "/etc/cni/net.d/99-chain.conflist names hotnic" in done.stdout
    assert f"nothing was changed; first see to: {node.name}" in done.stderr
    assert product.cluster.kubectl("get", "daemonset", "hotnic", "-n", NAMESPACE, "-o", "jsonpath={.spec}") == before
    assert set(INTERFACES) < set(pod.interfaces())


def links(node) -> set[str]:
    return {one["ifname"] for one in json.loads(node.exec(["ip", "-json", "link"]).stdout)}


def rules(node) -> str:
    return str(node.exec(["nft", "-s", "list", "ruleset"]).stdout)


@pytest.fixture
def back(ns, product, node) -> Iterator[None]:  # noqa: ARG001 it ends before that
    """Have hotnic there again, before anybody looks whether the namespace is left clean."""
    yield
    running = product.agents.get(node.name)
    if running is None or running.poll() is not None:
        product.install()
        product.start()


def chapter() -> list[tuple[str, str]]:
    """Return prompt and command of each command in README's chapter: `$` an administrator's, `#` on every node."""
    text = (REPOSITORY / "README.md").read_text().partition("\n## Install\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [(line[0], line[2:]) for block in blocks for line in block.splitlines()]


@pytest.mark.skipif(not installed.is_chosen(), reason="is about the image: in the lane `hotnic installed`")
@pytest.mark.usefixtures("back")
def test_every_command_of_the_install_chapter_does_what_it_says(ns, node, product):
    commands = chapter()
    assert {prompt for prompt, _ in commands} == {"$", "#"}
    words = ("make image", "images import", "apply -k", "rollout status", "uninstall.sh --detach")
    assert all(any(word in command for _, command in commands) for word in words)
    ns.network("blue", networks.native("br-blue"))
    pod = ns.pod("a", "blue@x1")
    for prompt, line in commands:
        if "uninstall.sh" in line:
            pod.wait_ready("x1", timeout=60)
            product.agents.clear()
            product.controllers.clear()
        if prompt == "#":
            node.exec(["sh", "-euc", line], timeout=300)
        else:
            done = subprocess.run(["sh", "-euc", line], capture_output=True, text=True, check=False, cwd=REPOSITORY)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}\n{product.describe()}"
    assert audit.installation(node) == set()
    assert set(pod.interfaces()) == {"eth0"}


@pytest.mark.usefixtures("back")
def test_detached_nothing_is_left_of_it_and_kept_nothing_but_the_interfaces(ns, node, api, product, untouched):
    ns.network("blue", networks.native("br-blue", ingressRate=8_000_000, ingressBurst=80_000))
    ns.network("ref", networks.reference_bridge("br-ref", "10.82.0.0/24", name="ref82", macspoofchk=True))
    ns.network("over", networks.device("overlay", vni=82))
    ns.network("tap", networks.device("tap"))
    pod = ns.pod("a")
    before = links(node)
    pod.plug(WISH)
    pod.wait_ready(*INTERFACES)
    assert "cni-br-iface" in rules(node)  # of macspoofchk
    if isinstance(product, Installed):
        refused(product, node, pod)

    uninstall(product, node, "--detach")
    assert audit.installation(node) == set()
    assert set(pod.interfaces()) == {"eth0"}
    assert (set(pod.reported()) - {"eth0"}, pod.condition()["reason"]) == (set(), "Uninstalling")
    assert links(node) - before <= {"br-blue", "br-ref"}  # networks name them: they stay, as those of other plugins do
    assert (audit.addresses(node, "ref82"), "cni-br-iface" in rules(node)) == (set(), False)
    Auditor(node, api, lambda finding: finding.kind == LACK).wait_quiet()
    wait_untouched(node, api, untouched)

    product.install()
    product.start()
    pod.wait_ready(*INTERFACES, timeout=60)
    indexes = pod.sh("cat /sys/class/net/*/ifindex")
    told, leases, has_rules = pod.status(), audit.addresses(node, "ref82"), rules(node)
    uninstall(product, node, "--keep")
    assert audit.installation(node) == {audit.STATE}
    assert len(audit.records(node)) == len(INTERFACES)
    assert pod.sh("cat /sys/class/net/*/ifindex") == indexes
    assert (pod.status(), audit.addresses(node, "ref82"), rules(node)) == (told, leases, has_rules)

    product.install()
    product.start()
    pod.plug("blue@x1,ref@x2")
    pod.wait_ready("x1", "x2", timeout=60)
    assert set(pod.sh("cat /sys/class/net/x[12]/ifindex").split()) < set(indexes.split())
    if isinstance(product, Product):
        product.stop()
        print(node.exec(command("--detach")).stdout)  # as where the cluster is away for good
        assert audit.installation(node) == set()
        assert set(pod.interfaces()) == {"eth0"}
        assert audit.addresses(node, "ref82") == set()
        product.install()
        product.start()
        pod.wait_ready("x1", "x2", timeout=60)
    pod.plug([])
    pod.wait_ready()
    assert audit.addresses(node, "ref82") == set()
    Auditor(node, api).wait_quiet()
