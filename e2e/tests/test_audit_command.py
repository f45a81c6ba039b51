"""`hotnic-agent audit` on a node: what was left while nobody looked is told and mended, and the living keep theirs."""

import base64
import hashlib
import json
import os
import time
import uuid
from pathlib import Path

import pytest

from e2e import audit, audit_command, networks
from e2e.node import Node
from e2e.pods import Pod
from e2e.product import Product

pytestmark = pytest.mark.lane


def record(node: Node, pod: Pod, ifname: str) -> tuple[Path, str]:
    """Return the journal's file of an attachment, and its container."""
    for path in audit.records(node):
        document = json.loads(path.read_text())
        if (document["pod"] or {}).get("uid") == pod.uid and document["ifname"] == ifname:
            return path, document["containerID"]
    raise AssertionError(f"no record of {ifname}")


def plant_cache(node: Node, container: str, network: str) -> list[Path]:
    """What a runtime keeps of an attachment whose DEL it never did: its result, and the address that it had."""
    config = networks.reference_bridge("br-aud", "10.74.0.0/24", name=network)
    document = {
        "kind": "cniCacheV1", "containerId": container, "ifName": "x7", "networkName": network,
        "config": base64.b64encode(json.dumps(config).encode()).decode(),
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "n"], ["K8S_POD_NAME", "lost"]], "result": {},
    }  # fmt: skip
    file = node.path(f"/var/lib/cni/results/{network}-{container}-x7")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    lease = node.path(f"/var/lib/cni/networks/{network}/10.74.0.99")
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.write_text(f"{container}\r\nx7")
    return [file, lease]


def plant_link(node: Node, container: str, ifname: str) -> str:
    """The host end that this attachment would have (agent.options), here of a pair that leads nowhere."""
    key = f"{container}/{ifname}"
    name = "hn" + hashlib.sha256(key.encode()).hexdigest()[:12]
    mac = bytes((2, *hashlib.sha256(f"{key}/host".encode()).digest()[:5])).hex(":")
    node.exec(["ip", "link", "add", name, "address", mac, "type", "veth", "peer", "name", "nowhere"])
    return name


def plant_namespace(node: Node) -> Path:
    """One that a runtime has forgotten; nobody is in it."""
    path = f"/run/netns/cni-{uuid.uuid4()}"
    node.exec(["unshare", "--net", "sh", "-c", f"touch {path}; mount --bind /proc/self/ns/net {path}"])
    return node.path(path)


def plant_rules(node: Node, container: str) -> None:
    """As the plugin `bridge` leaves them where the namespace is gone before its DEL."""
    chain, comment = f"cni-br-iface-{container}-x7", f'comment "macspoofchk-{container}-x7"'
    lines = [
        "add table bridge nat", "add chain bridge nat PREROUTING { type filter hook prerouting priority -300; }",
        f"add chain bridge nat {chain}", f"add chain bridge nat {chain}-mac",
        f"add rule bridge nat PREROUTING iifname vx jump {chain} {comment}",
        f"add rule bridge nat {chain} jump {chain}-mac {comment}", f"add rule bridge nat {chain}-mac drop {comment}",
    ]  # fmt: skip
    node.exec(["nft", "-f", "-"], input="\n".join(lines) + "\n")


def facts(pod: Pod) -> str:
    return pod.sh("ip -o -4 addr show; cat /sys/class/net/*/ifindex /sys/class/net/*/address")


def collected(node: Node) -> list[dict[str, str]]:
    """What the agent's last garbage collection has called valid."""
    calls = networks.recorded(node, "GC")
    found: list[dict[str, str]] = json.loads(calls[-1][2])["cni.dev/valid-attachments"] if calls else []
    return found


def valid_are(node: Node, living: str, dead: str) -> bool:
    """Whether the last collection has spared the one only; there may have been one while both lived."""
    containers = {one["containerID"] for one in collected(node)}
    return living in containers and dead not in containers


def test_what_was_left_while_nobody_looked_is_listed_and_mended(ns, node: Node, product: Product):
    audit_command.wait_clean(node)  # a node on which much has happened, and nothing is left
    store, lost = f"aud-{uuid.uuid4().hex[:6]}", uuid.uuid4().hex * 2
    ns.network("ref", networks.reference_bridge("br-aud", "10.73.0.0/24", name=store))
    ns.network("blue", networks.native("br-blue"))
    networks.install_recorder(node)
    ns.network("rec", {**networks.recorder(), "cniVersion": "1.1.0"})
    kept, gone = ns.pod("a", wait=False), ns.pod("b", wait=False)
    for pod in (kept, gone):
        pod.wait_running()
        pod.plug("ref@x1,blue@x2,rec@x3")
        pod.wait_ready("x1", "x2", "x3")
    before, rules = facts(kept), node.exec(["nft", "list", "ruleset"]).stdout
    (file, container), (other, _) = record(node, gone, "x1"), record(node, gone, "x2")
    _, keeper = record(node, kept, "x3")

    product.agents[node.name].kill()
    gone.delete()
    end = time.monotonic() + 30
    while not any(one["what"] == "record of the journal" for one in audit_command.run(node)[1]):
        assert time.monotonic() < end, audit_command.run(node)
        time.sleep(0.5)
    file.unlink()  # its address is nobody's now
    files = plant_cache(node, lost, store)
    link, namespace = plant_link(node, lost, "x7"), plant_namespace(node)
    plant_rules(node, lost)
    time.sleep(audit_command.REPAIR_GUARD_S + 1)

    status, told, words = audit_command.run(node)
    found = {(one["what"], one["container"]): one for one in told}
    assert (status, words) == (1, "")
    assert found.keys() == {
        ("record of the journal", container), ("host-local lease", container),
        ("result cache file", lost), ("host-local lease", lost), ("link of ours", lost), ("rules of nftables", lost),
        ("network namespace", ""),
    }  # fmt: skip
    assert found["result cache file", lost]["pod"] == "n/lost"
    assert {one["repair"] for (what, _), one in found.items() if what.startswith("record")} == {""}
    assert all(path.exists() for path in (*files, other, namespace))

    product.start_agent(node)
    status, told, words = audit_command.repair(node)
    outcomes = {one["what"]: one["outcome"] for one in told if not one["what"].startswith("record")}
    assert "on the node itself: umount" in outcomes.pop("network namespace")  # the agent may not mount or unmount
    assert (set(outcomes.values()), words) == ({"mended"}, ""), told
    assert audit_command.repair(node, free=True)[1][-1]["outcome"] == "mended"
    audit_command.wait_clean(node)
    assert not any(os.path.lexists(path) for path in (*files, other, namespace))
    assert link not in node.exec(["ip", "-br", "link"]).stdout
    assert node.exec(["nft", "list", "ruleset"]).stdout.count(lost) == rules.count(lost) == 0
    assert len(audit.addresses(node, store)) == 1
    assert facts(kept) == before
    kept.wait("the plugin is told who is valid", lambda: valid_are(node, keeper, container))
    kept.plug("blue@x2")
    kept.wait_ready("x2")
    assert audit.addresses(node, store) == set()
