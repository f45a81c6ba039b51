"""A node whose agent collects garbage all the time, and an IPAM plugin whose store has what belongs to nobody.

Rules
1. A lease is the living's whose pod has it, and whose the runtime's result cache says so. Both stay; the dead's go.
2. The plugin is ours, as `host-local` does not know GC (SPEC 1.1.0 section 2): it keeps a file for each attachment.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.auditing import cached
from tests.faults.injection import Fault
from tests.faults.node import BOUND_S, Attachments, Pod, Wrong
from tests.faults.plugins import PluggedNode

_LEDGER = """
import hashlib, json, os, sys
asked = json.load(sys.stdin)
store, verb = asked["ipam"]["dataDir"], os.environ["CNI_COMMAND"]
whose = os.environ["CNI_CONTAINERID"] + "-" + os.environ["CNI_IFNAME"]
path = os.path.join(store, whose)
if verb == "ADD":
    open(path, "w").write(whose)
    last = hashlib.sha256(whose.encode()).digest()
    print(json.dumps({"cniVersion": "1.1.0", "ips": [{"address": f"10.6.{last[0]}.{last[1] or 1}/16"}]}))
elif verb == "DEL" and os.path.exists(path):
    os.unlink(path)
elif verb == "GC":
    valid = {one["containerID"] + "-" + one["ifname"] for one in asked["cni.dev/valid-attachments"]}
    for name in set(os.listdir(store)) - valid:
        os.unlink(os.path.join(store, name))
"""


class CollectedNode(PluggedNode):
    """Its agent is in a hurry."""

    PROGRAM = "collector"
    SCRIPTS: Mapping[str, str] = {"ledger": _LEDGER}

    def network(self, pod: Pod) -> Mapping[str, Any]:
        """Return one of this pod's own: nothing has ever been collected of it."""
        name = f"gold-{pod.uid}"
        self.store = self.folder / f"leases/{name}"
        self.store.mkdir()
        ipam = {"type": "ledger", "dataDir": str(self.store)}
        own = {"type": "hotnic", "device": "bridge", "bridge": "br-blue"}
        return {"cniVersion": "1.1.0", "name": name, **own, "ipam": ipam}

    def leave(self, gold: Mapping[str, Any], container: str, ifname: str, netns: str) -> Path:
        """Leave a result in the runtime's cache, and a lease; return the lease."""
        document = {**cached(container, gold), "ifName": ifname, "netns": netns}
        (self.folder / f"cache/{gold['name']}-{container}-{ifname}").write_text(json.dumps(document))
        lease = self.store / f"{container}-{ifname}"
        lease.write_text(lease.name)
        return lease

    def await_collected(self, pod: Pod, wanted: Attachments, lease: Path) -> None:
        ends = time.monotonic() + BOUND_S
        while lease.exists():
            self.living()
            if self._meanwhile_or_wait(pod):
                self.settle(pod, wanted)
            if time.monotonic() > ends:
                raise Wrong(f"{lease} is never collected\n{self.log()}")

    def unplant(self, kept: Path) -> None:
        """Remove what has to be there still; raise Wrong where it is not."""
        if not kept.exists():
            raise Wrong(f"the lease of a living pod is collected\n{self.log()}")
        for path in (kept, *(self.folder / "cache").iterdir()):
            path.unlink()


def collect(node: CollectedNode, fault: Fault) -> Mapping[str, int]:
    """A pod attaches; what the dead left goes, by itself; the pod keeps what it has."""
    pod = node.pod()
    gold = node.network(pod)
    wanted = [{"config": gold, "element": {"interface": "net1"}}]
    kept = node.leave(gold, pod.sandbox.id, "net7", pod.sandbox.netns)  # before anybody collects there
    node.settle(pod, wanted)
    agent = node.living()
    agent.arm(fault)
    for container in ("gone", "lost"):
        node.await_collected(pod, wanted, node.leave(gold, container, "net1", f"/run/netns/{container}"))
        node.settle(pod, wanted)
    calls = agent.counted() if not agent.is_dead else {}
    node.unplant(kept)
    if not (node.store / f"{pod.sandbox.id}-net1").exists():
        raise Wrong(f"what the pod has is collected\n{node.log()}")
    node.end(pod)
    node.end_sandbox(pod.sandbox)
    return calls
