"""A node with a real Open vSwitch, on its userspace datapath, and what happens at its bridge.

Rules
1. What the switch has of ours is exactly what is told of pods; that is asked of it with its own tools.
2. A port whose removal failed has no link any more, and leaves with the next change (agent.ovsdb, rule 3): the story
   ends with one, and with a pod that lived all the time.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import openvswitch
from tests.agent import audit
from tests.faults.injection import Fault
from tests.faults.node import BRIDGES, Attachments, Node, Pod, Wrong
from tests.faults.victims import Nursery

BRIDGE = "br-ovs"
SWITCHES = BRIDGES | {BRIDGE, "ovs-netdev", "ovs-system"}


class SwitchedNode(Node):
    """`switch`: runs for as long as the node is there."""

    def __init__(self, nursery: Nursery, folder: Path, plugins: Path, effects: list[str]) -> None:
        super().__init__(nursery, folder, plugins, effects)
        self._held = ExitStack()
        place = folder.parent / "ovs"
        place.mkdir()
        self.switch = self._held.enter_context(openvswitch.running(place, "netdev"))
        self.switch.add_bridge(BRIDGE)

    def close(self) -> None:
        super().close()
        self._held.close()

    def attachment(self, ifname: str, network: str = "access", **options: Any) -> Mapping[str, Any]:
        config = {
            "cniVersion": "1.1.0", "name": network, "type": "hotnic", "device": "ovs", "bridge": BRIDGE,
            "socket_file": str(self.switch.socket), **options,
        }  # fmt: skip
        return {"config": config, "element": {"interface": ifname}}

    def settle_ports(self, pod: Pod, wanted: Attachments, beside: Mapping[str, str]) -> None:
        """Settle; each attachment has a port then with its VLANs, and there are no others but those of `beside`."""
        self.settle(pod, wanted)
        ports = self.ports()
        new = sorted(said for name, said in ports.items() if name not in beside)
        asked = sorted(_vlans(one["config"]) for one in wanted)
        if new != asked or {name: ports.get(name) for name in beside} != dict(beside):
            raise Wrong(f"ports {ports}, and not {asked} beside {beside}\n{self.log()}")

    def ports(self) -> dict[str, str]:
        """Return the bridge's ports by name, as words of their VLANs."""
        listed = self.switch.vsctl("list-ports", BRIDGE).split()
        table = json.loads(self.switch.vsctl("--format=json", "--columns=name,vlan_mode,tag,trunks", "list", "port"))
        return {name: json.dumps(said) for name, *said in table["data"] if name in listed}

    def picture(self) -> audit.Picture:
        return audit.picture("", self.folder, "none", lambda: "\n".join(self.ports()), SWITCHES)


def _vlans(config: Mapping[str, Any]) -> str:
    if "vlan" in config:
        return json.dumps(["access", config["vlan"], ["set", []]])
    return json.dumps(["trunk", ["set", []], ["set", [one["id"] for one in config["trunk"]]]])


def switch(node: SwitchedNode, fault: Fault) -> Mapping[str, int]:
    """An access port beside a pod that has one, a trunk in its place, a new sandbox, the pod's end; then rule 2."""
    neighbour, pod = node.pod(), node.pod()
    first = node.attachment("net1", vlan=5)
    access, trunk = node.attachment("net1", vlan=6), node.attachment("net1", "trunk", trunk=[{"id": 7}, {"id": 8}])
    node.settle_ports(neighbour, [first], {})
    beside = node.ports()
    node.living().end()
    agent = node.start(fault)  # anew: it connects to the database to be told of changes, once
    node.settle_ports(pod, [access], beside)
    node.settle_ports(pod, [trunk], beside)
    node.recreate(pod)
    node.settle(pod, [trunk])
    node.end(pod)
    calls = agent.counted() if not agent.is_dead else {}
    node.living().arm(Fault())
    node.settle_ports(neighbour, [first, node.attachment("net2", vlan=9)], {})
    node.end(neighbour)
    for one in (pod, neighbour):
        node.end_sandbox(one.sandbox)
    return calls
