"""A pod with a real libvirt daemon and a real guest, which is emulated: it boots once, and outlives every agent.

Rules
1. What is told of the guest is compared with the domain as libvirt describes it, now and for its next start.
2. Its pod is another one in each telling; the namespace and the guest are the same, and have to be as before.
"""

import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import libvirtd
from tests.agent import audit
from tests.faults.injection import Fault
from tests.faults.node import BRIDGES, Node, Pod, Wrong
from tests.faults.runtime import Sandbox
from tests.faults.stories import networks
from tests.faults.victims import Nursery

_DOMAIN, _NETNS = "vm1", "libvirt"
_NEXT = 2  # VIR_DOMAIN_XML_INACTIVE


@dataclass
class DomainPod(Pod):
    """`asked`: the annotation that says where the domain is."""

    asked: str = ""

    @property
    def vm(self) -> str:
        return self.asked


class DomainNode(Node):
    """`daemon` and its domain run for as long as the node is there."""

    def __init__(self, nursery: Nursery, folder: Path, plugins: Path, effects: list[str]) -> None:
        super().__init__(nursery, folder, plugins, effects)
        self._held = ExitStack()
        subprocess.run(["ip", "netns", "add", _NETNS], check=True)
        self._held.callback(subprocess.run, ["ip", "netns", "del", _NETNS], check=True)
        place = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="domains-"))) / "vm"
        place.parent.chmod(0o755)
        self.daemon = self._held.enter_context(libvirtd.running(place, _NETNS))
        self.daemon.start(_DOMAIN)

    def close(self) -> None:
        super().close()
        self._held.close()

    def pod(self) -> DomainPod:
        self._count += 1
        uid, number = f"uid-{self._count}", self._count
        netns = f"/run/netns/{_NETNS}"
        made = Sandbox(f"sandbox-{number}", uid, uid.replace("uid", "pod"), netns, number, self.daemon.pid)
        self.runtime.sandboxes[made.id] = made
        asked = f'{{"libvirt": "{self.daemon.socket}", "domain": "{_DOMAIN}"}}'
        return DomainPod(uid, made, self.daemon.folder, asked=asked)

    def nics(self, flags: int) -> set[str]:
        """Return the MACs of the domain's NICs."""
        connection = self.daemon.connect()
        try:
            document = ET.fromstring(connection.lookupByName(_DOMAIN).XMLDesc(flags))
        finally:
            connection.close()
        return {one.attrib["address"] for one in document.iterfind("./devices/interface/mac")}

    def picture(self) -> audit.Picture:
        inside = subprocess.run(["ip", "-n", _NETNS, "-br", "link"], check=True, capture_output=True, text=True).stdout
        names = "\n".join(line.split()[0] for line in inside.splitlines())
        return audit.picture("", self.folder, "none", lambda: f"{names}\n{self.nics(0)} {self.nics(_NEXT)}", BRIDGES)

    def _compare_machine(self, folder: Path, outcome: Any) -> None:
        told = {one.guest.mac for one in outcome.attachments}
        if not told == self.nics(0) == self.nics(_NEXT):
            raise Wrong(f"the guest is told to have {told}, and has {self.nics(0)}, next {self.nics(_NEXT)}")


def domain(node: DomainNode, fault: Fault) -> Mapping[str, int]:
    """A new agent; a guest gets a NIC, another one in its place, none; the pod's end."""
    known, pod = networks(node), node.pod()
    node.living().end()
    agent = node.start(fault)
    blue = {"config": known["blue"], "element": {"interface": "net1"}}
    second = {"config": {**known["blue"], "name": "second"}, "element": {"interface": "net2"}}
    node.settle(pod, [blue])
    node.settle(pod, [second])
    node.settle(pod, [])
    node.end(pod)
    del node.runtime.sandboxes[pod.sandbox.id]
    return agent.counted() if not agent.is_dead else {}
