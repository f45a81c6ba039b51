"""Rolling updates of two nodes while pods are edited and runtimes call; a downgrade is refused, and loses nothing.

Of each node it is known from the API alone when its agent was away (e2e.upgrade.absence): calls fail then, and at no
other time, while edits on the other node come true.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from agent import formats
from e2e import audit, installed, networks
from e2e.cluster import Cluster
from e2e.installed import Installed
from e2e.node import Node
from e2e.pods import Api, Namespace, Pod
from e2e.product import NAMESPACE
from e2e.upgrade import absence, later
from e2e.upgrade.absence import Absence
from e2e.upgrade.churn import Frames, Going, Outage, Runtime, Users

pytestmark = pytest.mark.lane

STATE, EXECUTABLE = "/var/lib/hotnic", "/opt/cni/bin/hotnic"
THIS = f"hotnic:{later.OWN_NUMBER}"
ROLLOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Site:
    """The nodes and what is installed there, whose two containers are exchanged one at a time."""

    product: Installed

    def roll_out(self, container: str, image: str) -> None:
        self._set(container, image)
        self.product.start()

    def refuse_downgrade(self) -> Node:
        """Have this version's agent start on what a later one has left: it says why it ends, and changes nothing.

        Return the node where it did; the rollout goes to no other one while the first does not come back.
        """
        for agent in self.product.agents.values():
            agent.hold()  # whichever comes first: it ends when its files can be looked at
        self._set("agent", THIS)
        self._wait("a former pod ends", lambda: any("deletionTimestamp" in one["metadata"] for one in self._pods()))
        (name,) = [one["spec"]["nodeName"] for one in self._pods() if "deletionTimestamp" in one["metadata"]]
        (node,) = [one for one in self.product.cluster.nodes if one.name == name]
        self.product.agents[name].stop()
        left = self.files(node)
        for agent in self.product.agents.values():
            agent.let_restart()
        self._wait(
            "the agent has ended, and been started once more", lambda: self._agent(node).get("restartCount", 0) >= 1
        )
        assert self._agent(node)["lastState"]["terminated"]["exitCode"] == 2
        said = self.product.cluster.kubectl("logs", "-n", NAMESPACE, self._pod(node), "-c", "agent", "--previous")
        assert f"{STATE} says version '{later.FORMAT}'" in said
        assert f"reads {formats.OLDEST} to {formats.CURRENT}" in said
        message = self._agent(node)["lastState"]["terminated"]["message"]
        assert f"{STATE} says version '{later.FORMAT}'" in message  # as `kubectl describe pod` has it
        assert self.files(node) == left
        assert node.path(EXECUTABLE).read_bytes().endswith(later.MARK.encode())
        self._set("agent", later.NAME)
        self.product.start()
        return node

    def doctor(self, node: Node) -> list[Mapping[str, str]]:
        """Have the doctor look, in the image as people would have it, and return all that it finds."""
        arguments = ("exec", "-n", NAMESPACE, self._pod(node), "-c", "agent", "--",
                     "hotnic-agent", "doctor", "--json")  # fmt: skip
        return [json.loads(line) for line in self.product.cluster.kubectl(*arguments, check=False).splitlines()]

    def files(self, node: Node) -> dict[str, bytes]:
        """Return the state directory."""
        folder = node.path(STATE)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def wait_taken_down(self, node: Node) -> None:
        """DELs that found no agent have been done by the next one: nothing of the runtime's calls is left."""
        tombstones = node.path("/run/hotnic/tombstones")
        self._wait("all is taken down", lambda: not list(tombstones.iterdir()) and not self._records_of_calls(node))

    def _records_of_calls(self, node: Node) -> list[str]:
        found = []
        for path in node.path(f"{STATE}/records").glob("*.json"):
            with suppress(FileNotFoundError):  # its DEL came in between
                found.append(json.loads(path.read_text())["containerID"])
        return [one for one in found if one.startswith("upgrade-")]

    def _set(self, container: str, image: str) -> None:
        self.product.cluster.kubectl("set", "image", "-n", NAMESPACE, "daemonset/hotnic", f"{container}={image}")

    def _pods(self) -> list[dict[str, Any]]:
        arguments = ("get", "pods", "-n", NAMESPACE, "-l", absence.SELECTOR, "-o", "json")
        pods: list[dict[str, Any]] = json.loads(self.product.cluster.kubectl(*arguments))["items"]
        return pods

    def _living(self, node: Node) -> dict[str, Any]:
        """Return the node's pod that is not being taken away; nothing while there is none."""
        pods = [one for one in self._pods() if "deletionTimestamp" not in one["metadata"]]
        return next((one for one in pods if one["spec"]["nodeName"] == node.name), {})

    def _pod(self, node: Node) -> str:
        name: str = self._living(node)["metadata"]["name"]
        return name

    def _agent(self, node: Node) -> dict[str, Any]:
        statuses = self._living(node).get("status", {}).get("containerStatuses", ())
        return next((one for one in statuses if one["name"] == "agent"), {})

    def _wait(self, what: str, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + ROLLOUT_S
        while not holds():
            assert time.monotonic() < end, f"{what}\n{self.product.describe()}"
            time.sleep(0.2)


def links(pod: Pod) -> str:
    """What differs once a link was away or down, even for a moment: its index, the count of its carrier's changes."""
    return pod.sh("cd /sys/class/net; for i in s1 s2; do echo $i $(cat $i/ifindex $i/carrier_changes $i/address); done")


@pytest.fixture(scope="module")
def other(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The image of the later version is on the nodes."""
    installed.load(later.archive(tmp_path_factory.mktemp("later")), cluster.nodes)


@pytest.mark.usefixtures("other")
def test_versions_change_under_pods_that_are_edited_and_a_downgrade_is_refused(
    ns: Namespace, api: Api, product: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    site, watcher = Site(product), absence.Watcher(api)
    first, second = product.cluster.nodes
    ns.network("blue", networks.native("br-blue"))
    ns.network("ref", networks.reference_bridge("br-ref", "10.83.0.0/24", name="ref83"))
    steady = ns.pod("steady", "blue@s1,ref@s2", nodeName=first.name)
    peer = ns.pod("peer", "ref@s2", nodeName=first.name)
    steady.wait_ready("s1", "s2")
    peer.wait_ready("s2")
    users = [
        Users(node, ns.pod(f"edited-{network}-{node.name}", nodeName=node.name), network)
        for node, network in ((first, "blue"), (first, "ref"), (second, "blue"))
    ]
    frames, before = Frames(steady, peer.addresses("s2")[0].partition("/")[0]), links(steady)

    with (
        Runtime(first) as one,
        Runtime(second) as another,
        Going(watcher.run, one.run, another.run, frames.run, *(user.run for user in users)) as going,
    ):
        runtimes = (one, another)

        def go_on(what: str) -> None:
            """Edits of each pod, both ways, and calls of each runtime come true."""
            edits, calls = [len(user.edits) for user in users], [len(runtime.calls) for runtime in runtimes]
            going.until(
                f"edits {what}", lambda: all(len(user.edits) >= n + 3 for user, n in zip(users, edits, strict=True))
            )
            going.until(f"calls {what}", lambda: all(
                sum(not call.refusal for call in runtime.calls[n:]) >= 3
                for runtime, n in zip(runtimes, calls, strict=True)
            ))  # fmt: skip

        go_on("before anything changes")
        site.roll_out("controller", later.NAME)
        go_on("with the later controller and this agent")
        site.roll_out("agent", later.NAME)
        go_on("with both of the later version")
        for node in (first, second):
            assert site.files(node)["format"] == f"{later.FORMAT}\n".encode()
            assert node.path(EXECUTABLE).read_bytes().endswith(later.MARK.encode())
        found = site.doctor(second)
        assert [finding for finding in found if finding["status"] == "fail"] == []
        assert f"{later.NUMBER} answers at /run/hotnic/agent.sock" in [finding["found"] for finding in found]
        refused = site.refuse_downgrade()
        go_on("after the refused downgrade")
        site.roll_out("controller", THIS)
        go_on("with the later agent and this controller")

    assert links(steady) == before, "a link was away, or down"
    assert frames.sent > 0
    assert frames.lost == 0
    away = {node.name: list(watcher.absences(node.name)) for node in (first, second)}
    assert {name: len(times) for name, times in away.items()} == {
        node.name: 3 + (node == refused) for node in (first, second)
    }
    assert watcher.fewest() == 1, "agents of both nodes were away at a time"
    for runtime in runtimes:
        assert [call for call in runtime.calls if call.refusal and call.verb == "DEL"] == []
        for outage in runtime.outages():
            check(outage, away[runtime.node.name], runtime.slowest())
    for time_away in (*away[first.name], *away[second.name]):
        elsewhere = [edit for user in users if user.node.name != time_away.node for edit in user.edits]
        assert any(time_away.began < edit.ended < time_away.ended for edit in elsewhere), time_away
    for node in (first, second):
        site.wait_taken_down(node)
    steady.wait_ready("s1", "s2")
    with capsys.disabled():
        report(away, runtimes, users, frames)
    for user in users:
        user.pod.delete()
    audit.wait_clean(second, {user.pod.uid for user in users})


def check(outage: Outage, away: Sequence[Absence], interval: float) -> None:
    """Calls fail during one restart of the agent, and for no longer: but for the calls that were on their way."""
    (restart,) = [one for one in away if one.meets(outage.began, outage.ended)]
    assert [call for call in outage.calls if not restart.meets(call.began, call.ended)] == []
    assert outage.ended - outage.began <= restart.length + interval, (outage, restart)


def report(
    away: Mapping[str, Sequence[Absence]], runtimes: Sequence[Runtime], users: Sequence[Users], frames: Frames
) -> None:
    """Print what was measured; of the times, which the machine's load is in, only that they explain each other."""
    calls = [call for runtime in runtimes for call in runtime.calls]
    edits = [edit for user in users for edit in user.edits]
    outages = [f"{one.ended - one.began:.1f}" for runtime in runtimes for one in runtime.outages()]
    print(
        f"\nagents away for {', '.join(f'{one.length:.1f}' for times in away.values() for one in times)} s;"
        f" {sum(bool(call.refusal) for call in calls)} of {len(calls)} CNI calls failed, over {', '.join(outages)} s;"
        f" {len(edits)} edits, the slowest {max(edit.ended - edit.began for edit in edits):.1f} s;"
        f" {frames.sent} pings, {frames.lost} lost"
    )
