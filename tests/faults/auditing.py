"""A node on which dead containers have left whatever can be left, and the command that mends it, beside a living agent.

Rules
1. Two live meanwhile: a pod that the runtime lists, and a container that no runtime of Kubernetes knows, as those of
   podman are. All that is on the node when nothing is planted yet, theirs above all, is there afterwards.
2. Who has the command at hand calls it again until it says that nothing is left.
3. While an effect hangs, the pod gets one more interface.
"""

import base64
import hashlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent import options
from agent.model import ContainerID, Key
from tests.agent import audit as looks
from tests.faults.injection import DELAY, Fault
from tests.faults.node import BOUND_S, LOOK_S, Pod, Wrong, vars_of
from tests.faults.stories import TRIES, networks
from tests.faults.switching import BRIDGE, SWITCHES, SwitchedNode
from tests.faults.victims import Nursery

ROOT = Path(__file__).parents[2]
STATES, SCRATCH, NAMESPACES = Path("/var/lib"), Path("/var/lib/cni/multus"), Path("/run/netns")
LONG_AGO_S = 7200
_BASE = (  # what the reference plugin makes for good, with its first rule
    "add table bridge nat;"
    " add chain bridge nat PREROUTING { type filter hook prerouting priority dstnat; policy accept; }"
)


class AuditedNode(SwitchedNode):
    """With places of its own for what runtimes and Multus keep."""

    def __init__(self, nursery: Nursery, folder: Path, plugins: Path, effects: list[str]) -> None:
        super().__init__(nursery, folder, plugins, effects)
        subprocess.run(["mount", "-t", "tmpfs", "none", STATES], check=True)
        SCRATCH.mkdir(parents=True)
        subprocess.run(["nft", _BASE], check=True)
        database = {"socket_file": str(self.switch.socket)}
        self.define({"cniVersion": "1.1.0", "name": "switched", "type": "hotnic", "device": "ovs", **database})

    def close(self) -> None:
        super().close()
        subprocess.run(["umount", STATES], check=True)

    def picture(self) -> looks.Picture:
        besides = [*self.ports(), *(str(path) for place in (SCRATCH, NAMESPACES) for path in place.glob("*"))]
        return looks.picture("", self.folder, "none", lambda: "\n".join(besides), SWITCHES)

    def stranger(self) -> Pod:
        """Have a container of another runtime's attached, by our executable."""
        return self._of_another_runtime(f"podman-{self._count}")

    def audit(self, fault: Fault, meanwhile: Callable[[], None]) -> Mapping[str, int]:
        """Rule 2. Return the calls of the first one."""
        counted: Mapping[str, int] = {}
        for _ in range(TRIES):
            command = self._nursery.fork(
                "audit", self._effects, folder=str(self.folder), cri=self.runtime.endpoint,
                plugins=[str(self._plugins), str(ROOT / "bin")], fault=vars_of(fault),
            )  # fmt: skip
            ends = time.monotonic() + BOUND_S
            while not command.is_dead:
                if time.monotonic() > ends:
                    raise Wrong(f"the audit hangs\n{self.log()}")
                if command.news(LOOK_S) == DELAY:
                    meanwhile()
                    command.go()
            self.hit = command.hit or self.hit
            counted, fault = counted or command.last.get("counted", {}), Fault()
            if command.last.get("code") == 0:
                return counted
        raise Wrong(f"the audit never ends well\n{self.log()}")

    # -- what the dead leave --------------------------------------------------------------------------------------

    def plant(self, red: Mapping[str, Any]) -> None:
        """Leave one of each kind."""
        self._count += 1
        dead, lessee, other = (_id(f"{kind} {self._count}") for kind in ("dead", "lessee", "other"))
        self._attach_by_reference(dead, red)
        self._write(self.folder / f"cache/red-{dead}-net1", json.dumps(cached(dead, red)))
        self._write(self.folder / "leases/red/10.8.99.99", f"{lessee}\r\nnet1")
        self._write(SCRATCH / dead, "[]")
        self._make_links(dead)
        self.end_namespace(self._of_another_runtime(other))
        subprocess.run(["ip", "netns", "add", f"cni-{uuid.uuid4()}"], check=True)
        port = f"hn{dead[:12]}"
        ids = f"external_ids=owner=hotnic,containerID={dead},contIface=net1"
        self.switch.vsctl("--no-wait", "add-port", BRIDGE, port, "--", "set", "port", port, ids)

    def end_namespace(self, pod: Pod) -> None:
        subprocess.run(["ip", "netns", "del", Path(pod.sandbox.netns).name], check=True)

    def _of_another_runtime(self, container: str) -> Pod:
        pod = self.pod()
        del self.runtime.sandboxes[pod.sandbox.id]
        pod.sandbox = replace(pod.sandbox, id=container)
        if not self.call("ADD", pod, Fault())[0]:
            raise Wrong(f"ADD fails\n{self.log()}")
        return pod

    def _attach_by_reference(self, container: str, red: Mapping[str, Any]) -> None:
        """A lease, and rules of nftables. The link ends with its namespace."""
        name = f"dead-{self._count}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        env = {
            **os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_IFNAME": "net1",
            "CNI_NETNS": f"/run/netns/{name}", "CNI_PATH": str(self._plugins),
        }  # fmt: skip
        config = json.dumps({**red, "macspoofchk": True})
        subprocess.run([self._plugins / red["type"]], input=config, env=env, check=True, capture_output=True, text=True)
        subprocess.run(["ip", "netns", "del", name], check=True)

    def _make_links(self, container: str) -> None:
        """A host end and a shaper of ours, and one of the reference plugin's."""
        key = Key(ContainerID(container), "net1")
        end, shaper = options.host_name(key), options.companion(key).companion
        reference = ("bwp" + hashlib.sha512(f"red{container}".encode()).hexdigest())[:15]
        for words in (
            [end, "address", options.derived_mac(key, "host"), "type", "veth", "peer", "name", f"p{container[:8]}"],
            [shaper, "address", options.derived_mac(key, "companion"), "type", "ifb"],
            [reference, "type", "ifb"],
        ):
            subprocess.run(["ip", "link", "add", *words], check=True)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        os.utime(path, (time.time() - LONG_AGO_S,) * 2)


def _id(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()


def cached(container: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = base64.b64encode(json.dumps(config).encode()).decode()
    whose = {"containerId": container, "ifName": "net1", "networkName": config["name"]}
    return {"kind": "cniCacheV1", **whose, "config": text, "netns": "/run/netns/gone", "result": {}}


def audit(node: AuditedNode, fault: Fault) -> Mapping[str, int]:
    """The dead leave everything; the command is called; the living have what they had (rules 1 to 3)."""
    known, pod = networks(node), node.pod()
    red = json.loads((node.folder / "net.d/red.conf").read_text())
    wanted = {"config": known["red"], "element": {"interface": "net1"}}
    more = {"config": known["green"], "element": {"interface": "net2"}}
    node.settle(pod, [wanted])
    stranger = node.stranger()
    before = node.picture()
    node.plant(red)
    calls = node.audit(fault, lambda: node.settle(pod, [wanted, more]))
    node.settle(pod, [wanted])
    node.refuse_left(before)
    node.call("DEL", stranger, Fault())
    node.end_namespace(stranger)
    node.end(pod)
    node.end_sandbox(pod.sandbox)
    return calls
