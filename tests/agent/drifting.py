"""A whole engine on a real kernel, and what is done to its attachments behind its back.

with running(tmp_path) as node:
    pod = node.pod("a", path)
    pod.attach("net1", device="bridge", bridge="br0")
    ip("link", "del", pod.host("net1"))
    pod.whole("net1")                   within a bounded time, and has been told
"""

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import drift, metrics, netns, options
from agent.attach import Attachments, Settings
from agent.device import Native
from agent.engine import Engine
from agent.guests.relay import Relay
from agent.inspection import Inspector
from agent.journal import Journal
from agent.locks import Locks
from agent.model import ContainerID, Desired, Key, Outcome, Pod, PodUID, Wanted
from agent.netlink import Kernel
from agent.outcomes import Outcomes
from agent.policy import Policy
from agent.sandboxes import Sandbox, Sandboxes
from agent.upkeep import Upkeep
from agent.watch import Watch
from cni import errors, multinet
from tests.agent.native import ip, link

WAIT_S = 20.0  # for what takes a fraction of a second
QUIET_S = 1.2  # in which a storm would show


def until(holds: Callable[[], Any], what: str = "") -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < end, what or "it never came true"
        time.sleep(0.02)
    return found


def counted(outcome: str, cause: str) -> float:
    """Return how often drift came to that, as the metric has it."""
    return metrics.DRIFT.labels(outcome, cause)._value.get()


def _no_guest(*_: object) -> Any:
    raise AssertionError("there is no virtual machine here")


class Plugins:
    """In place of executables: an IPAM plugin, and another plugin whose CHECK says what a test wants."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.check: errors.CNIError | None = None
        self.plain = False  # one address, one route

    def __call__(self, plugin_type, command, env, config, deadline_s):
        self.calls.append((plugin_type, command))
        if command == "CHECK" and self.check is not None and plugin_type != "addresses":
            raise self.check
        if plugin_type == "addresses":
            return self._addresses(env["CNI_IFNAME"]) if command == "ADD" else None
        if previous := config.get("prevResult"):
            return previous if command == "ADD" else None  # one that only changes what others made
        host = f"dlg-{env['CNI_IFNAME']}"
        if command == "ADD":
            inside = Path(env["CNI_NETNS"]).name
            ip("link", "add", host, "type", "veth", "peer", "name", env["CNI_IFNAME"], "netns", inside)
            return {"cniVersion": "1.0.0", "interfaces": [{"name": env["CNI_IFNAME"], "sandbox": env["CNI_NETNS"]}]}
        if command == "DEL" and link(host):
            ip("link", "del", host)
        return None

    def _addresses(self, ifname: str) -> dict[str, Any]:
        """For net1: 10.51.0.7/24, fd51::7/64, and routes to 10.61.0.0/16 and 10.71.0.0/16."""
        number = ifname[-1]
        ips = [{"address": f"10.5{number}.0.7/24", "gateway": f"10.5{number}.0.1"}, {"address": f"fd5{number}::7/64"}]
        routes = [{"dst": f"10.6{number}.0.0/16"}, {"dst": f"10.7{number}.0.0/16", "gw": f"10.5{number}.0.9"}]
        count = 1 if self.plain else 2
        return {"cniVersion": "1.1.0", "ips": ips[:count], "routes": routes[:count]}

    def refuse_missing(self, plugin_type):
        pass


@dataclass(slots=True)
class FakePod:
    """One pod, in a namespace of the test's own."""

    node: "Node"
    pod: Pod
    sandbox: Sandbox
    wishes: dict[str, Wanted] = field(default_factory=dict)
    revision: int = 0
    vm: str = ""

    @property
    def netns(self) -> str:
        return self.sandbox.namespace.path

    def attach(self, ifname: str, network: str = "n", namespace: str = "ns", chain: tuple = (), **config: Any) -> None:
        """Attach, and wait until it is told."""
        self.wish(ifname, network, namespace, chain, **config)
        self.attached(ifname)

    def wish(self, ifname: str, network: str = "n", namespace: str = "ns", chain: tuple = (), **config: Any) -> None:
        own = {"cniVersion": "1.1.0", "name": network, "type": "hotnic", **config}
        asked = own.pop("element", {})
        document = {"cniVersion": "1.1.0", "name": network, "plugins": [own, *chain]} if chain else own
        selection = multinet.Selection(namespace, network, interface=ifname, **asked)
        self.wishes[ifname] = Wanted(selection, json.dumps(document))
        self.apply()

    def drop(self, ifname: str) -> None:
        del self.wishes[ifname]
        self.apply()
        until(lambda: not self.node.journal.record(self.key(ifname)), f"{ifname} stays")

    def apply(self) -> None:
        self.revision += 1
        self.node.engine.apply(Desired(self.pod, str(self.revision), tuple(self.wishes.values()), vm=self.vm))

    def key(self, ifname: str) -> Key:
        return Key(self.sandbox.id, ifname)

    def host(self, ifname: str) -> str:
        return options.host_name(self.key(ifname))

    def outcome(self) -> Outcome | None:
        return self.node.outcomes.of(self.pod.uid)

    def told(self, ifname: str) -> tuple[str, str, str]:
        """Return what is told of an attachment now: state, reason, message."""
        outcome = self.outcome()
        for one in outcome.attachments if outcome else ():
            if (one.interface or "") == ifname:
                return one.state.value, one.reason, one.message
        return "", "", ""

    def attached(self, ifname: str) -> None:
        until(lambda: self.told(ifname)[0] == "Attached", f"{ifname} is not attached: {self.told(ifname)}")

    def repaired(self, ifname: str, *words: str) -> str:
        """Wait until a repair is told; return the words for it."""
        until(lambda: self.told(ifname)[:2] == ("Attached", "DriftRepaired"), f"{ifname}: {self.told(ifname)}")
        message = self.told(ifname)[2]
        assert all(word in message for word in words), message
        return message

    def drifted(self, ifname: str, *words: str) -> tuple[str, str, str]:
        """Wait until a damage that stays is told."""
        until(
            lambda: self.told(ifname)[1] == "Drifted" and all(word in self.told(ifname)[2] for word in words),
            f"{ifname}: {self.told(ifname)}",
        )
        return self.told(ifname)

    def settled(self) -> None:
        """Wait until all that our own doing has caused is over: what is heard from now on is somebody else's."""
        time.sleep(drift.BATCH_S + drift.OWN_S)
        until(lambda: not self.node.engine.drift._later and not self.node.engine.drift._running)
        time.sleep(drift.BATCH_S + drift.OWN_S + 0.1)

    def link(self, ifname: str) -> dict[str, Any] | None:
        return link(ifname, self.netns)

    def addresses(self, ifname: str) -> set[str]:
        found = ip("addr", "show", "dev", ifname, netns=self.netns)
        return {f"{one['local']}/{one['prefixlen']}" for one in found[0]["addr_info"] if one["scope"] != "link"}

    def routes(self, ifname: str) -> set[str]:
        return {one["dst"] for one in ip("route", "show", "dev", ifname, netns=self.netns)}


class Node:
    """The parts of an agent that attach and keep whole; no Kubernetes, no container runtime."""

    def __init__(self, folder: Path, policy: Policy, plugins: Plugins) -> None:
        self.kernel, self.journal, self.outcomes = Kernel(), Journal(folder), Outcomes()
        self.plugins, view = plugins, netns.View()
        self.locks = locks = Locks()
        native = Native(self.kernel, plugins, view, self.journal)
        settings = Settings((), (folder / "net.d",), view, policy=policy)
        attachments = Attachments(self.journal, self.kernel, native, plugins, settings)
        self.sandboxes = Sandboxes(None, self.journal, view)
        guests = Relay(self.journal, self.kernel, view, _no_guest)
        inspector = Inspector(self.kernel, native, attachments, plugins, view)
        self.watch = Watch()
        self.engine = Engine(
            self.journal, self.sandboxes, attachments, self.kernel, self.outcomes, locks, view, lambda _: (), guests,
            inspector, self.watch,
        )  # fmt: skip
        self.upkeep = Upkeep(self.journal, native, inspector, locks)
        self.engine.drift.runtimes, self.upkeep.found = self.upkeep.look, self.engine.drift.found
        self.native, self.attachments = native, attachments

    def start(self) -> None:
        self.engine.start()
        self.upkeep.start()

    def pod(self, name: str, path: str) -> FakePod:
        with netns.View().opened(path) as fd:
            sandbox = Sandbox(ContainerID(f"{name}-sandbox"), netns.identify(fd, path))
        pod = Pod(PodUID(f"{name}-uid"), "ns", name)
        self.sandboxes.begin(pod, sandbox)
        return FakePod(self, pod, sandbox)

    def close(self) -> None:
        self.engine.close()
        self.upkeep.close()
        self.kernel.close()
        self.journal.close()


@contextmanager
def running(
    folder: Path, policy: Policy | None = None, plugins: Plugins | None = None, pods: Collection[FakePod] = ()
) -> Iterator[Node]:
    """Run a node; `pods` are those of a run before on the same folder, and are this one's from now on."""
    node = Node(folder / "state", policy or Policy(), plugins or Plugins())
    for pod in pods:
        pod.node = node
        node.sandboxes.begin(pod.pod, pod.sandbox)
    node.start()
    try:
        yield node
    finally:
        node.close()
