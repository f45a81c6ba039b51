"""A rolling update while pods are edited and a runtime calls; then a downgrade, which is refused and loses nothing."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from agent import formats
from e2e import networks, runtimes
from e2e.installed import Installed
from e2e.node import Node
from e2e.pods import Namespace, Pod
from e2e.product import NAMESPACE
from e2e.upgrade import later
from e2e.upgrade.churn import Call, Frames, Going, Runtime, Users

pytestmark = pytest.mark.lane

STATE, EXECUTABLE = "/var/lib/hotnic", "/opt/cni/bin/hotnic"
THIS = f"hotnic:{later.OWN_NUMBER}"
ROLLOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """The time from the change of the DaemonSet until the new pod serves."""

    began: float
    ended: float

    def explains(self, call: Call) -> bool:
        return call.began <= self.ended and call.ended >= self.began


@dataclass(frozen=True, slots=True)
class Site:
    """The node and what is installed there, whose two containers are exchanged one at a time."""

    product: Installed
    node: Node

    def roll_out(self, container: str, image: str) -> Rollout:
        began = time.monotonic()
        self._set(container, image)
        self.product.start()
        return Rollout(began, time.monotonic())

    def refuse_downgrade(self) -> Rollout:
        """Have this version's agent start on what a later one has left: it says why it ends, and changes nothing."""
        agent, began = self.product.agents[self.node.name], time.monotonic()
        agent.stop()
        left, former = self.files(), self._pod()["metadata"]["name"]
        self._set("agent", THIS)
        self._wait(
            "the former pod ends", lambda: former not in [one["metadata"]["name"] for one in self._pods(ending=False)]
        )
        agent.let_restart()
        self._wait("the agent has ended, and been started once more", lambda: self._agent().get("restartCount", 0) >= 1)
        assert self._agent()["lastState"]["terminated"]["exitCode"] == 2
        name = self._pod()["metadata"]["name"]
        said = self.product.cluster.kubectl("logs", "-n", NAMESPACE, name, "-c", "agent", "--previous")
        assert f"{STATE} says version '{later.FORMAT}'" in said
        assert f"reads {formats.OLDEST} to {formats.CURRENT}" in said
        message = self._agent()["lastState"]["terminated"]["message"]
        assert f"{STATE} says version '{later.FORMAT}'" in message  # as `kubectl describe pod` has it
        assert self.files() == left
        assert self.node.path(EXECUTABLE).read_bytes().endswith(later.MARK.encode())
        self._set("agent", later.NAME)
        self.product.start()
        return Rollout(began, time.monotonic())

    def doctor(self) -> list[Mapping[str, str]]:
        """Have the doctor look, in the image as people would have it, and return all that it finds."""
        arguments = ("exec", "-n", NAMESPACE, self._pod()["metadata"]["name"], "-c", "agent", "--",
                     "hotnic-agent", "doctor", "--json")  # fmt: skip
        return [json.loads(line) for line in self.product.cluster.kubectl(*arguments, check=False).splitlines()]

    def files(self) -> dict[str, bytes]:
        """Return the state directory."""
        folder = self.node.path(STATE)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def wait_taken_down(self) -> None:
        """DELs that found no agent have been done by the next one: nothing of the runtime's calls is left."""
        tombstones = self.node.path("/run/hotnic/tombstones")
        self._wait("all is taken down", lambda: not list(tombstones.iterdir()) and not self._records_of_calls())

    def _records_of_calls(self) -> list[str]:
        found = []
        for path in self.node.path(f"{STATE}/records").glob("*.json"):
            with suppress(FileNotFoundError):  # its DEL came in between
                found.append(json.loads(path.read_text())["containerID"])
        return [one for one in found if one.startswith("upgrade-")]

    def _set(self, container: str, image: str) -> None:
        self.product.cluster.kubectl("set", "image", "-n", NAMESPACE, "daemonset/hotnic", f"{container}={image}")

    def _pods(self, *, ending: bool) -> list[dict[str, Any]]:
        arguments = ("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=hotnic", "-o", "json")
        pods = json.loads(self.product.cluster.kubectl(*arguments))["items"]
        return [one for one in pods if ending or "deletionTimestamp" not in one["metadata"]]

    def _pod(self) -> dict[str, Any]:
        (pod,) = self._pods(ending=False)
        return pod

    def _agent(self) -> dict[str, Any]:
        statuses = [one for pod in self._pods(ending=False) for one in pod["status"].get("containerStatuses", ())]
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
def other(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The image of the later version is on the node."""
    made = later.archive(tmp_path_factory.mktemp("later"))
    node.exec(runtimes.chosen().load(made), timeout=300)


@pytest.mark.usefixtures("other")
def test_versions_change_under_pods_that_are_edited_and_a_downgrade_is_refused(
    ns: Namespace, node: Node, product: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(product, node)
    ns.network("blue", networks.native("br-blue"))
    ns.network("ref", networks.reference_bridge("br-ref", "10.83.0.0/24", name="ref83"))
    steady, peer = ns.pod("steady", "blue@s1,ref@s2"), ns.pod("peer", "ref@s2")
    steady.wait_ready("s1", "s2")
    peer.wait_ready("s2")
    users = [Users(ns.pod(f"edited-{network}"), network) for network in ("blue", "ref")]
    frames, before = Frames(steady, peer.addresses("s2")[0].partition("/")[0]), links(steady)

    with Runtime(node) as runtime, Going(runtime.run, frames.run, *(one.run for one in users)) as going:

        def go_on(what: str) -> None:
            """Edits of each pod, both ways, and calls of the runtime come true."""
            edits, calls = [len(one.edits) for one in users], len(runtime.calls)
            going.until(
                f"edits {what}", lambda: all(len(one.edits) >= had + 3 for one, had in zip(users, edits, strict=True))
            )
            going.until(f"calls {what}", lambda: sum(not one.refusal for one in runtime.calls[calls:]) >= 3)

        go_on("before anything changes")
        updated = site.roll_out("agent", later.NAME)
        go_on("with the later agent and this controller")
        rollouts = [updated, site.roll_out("controller", later.NAME)]
        go_on("with both of the later version")
        assert site.files()["format"] == f"{later.FORMAT}\n".encode()
        assert node.path(EXECUTABLE).read_bytes().endswith(later.MARK.encode())
        found = site.doctor()
        assert [one for one in found if one["status"] == "fail"] == []
        assert f"{later.NUMBER} answers at /run/hotnic/agent.sock" in [one["found"] for one in found]
        rollouts.append(site.refuse_downgrade())
        go_on("after the refused downgrade")
        rollouts.append(site.roll_out("controller", THIS))
        go_on("with the controller one version back")

    assert links(steady) == before, "a link was away, or down"
    assert frames.sent > 0
    assert frames.lost == 0
    failed = [one for one in runtime.calls if one.refusal]
    assert [one for one in failed if one.verb == "DEL"] == []
    assert [one for one in failed if not any(rollout.explains(one) for rollout in rollouts)] == []
    site.wait_taken_down()
    steady.wait_ready("s1", "s2")
    with capsys.disabled():
        report(updated, runtime.calls, users, frames)


def report(updated: Rollout, calls: list[Call], users: list[Users], frames: Frames) -> None:
    """Print what was measured; the machine's load is in it, so nothing of it is asserted."""
    hit = [one for one in calls if one.refusal and updated.explains(one)]
    outage = max((one.ended for one in hit), default=0) - min((one.began for one in hit), default=0)
    slowest = max(one for user in users for one in user.edits)
    print(
        f"\nan agent's rollout: {updated.ended - updated.began:.1f} s; {len(hit)} of {len(calls)} CNI calls failed,"
        f" over {outage:.1f} s; {sum(len(user.edits) for user in users)} edits, the slowest {slowest:.1f} s;"
        f" {frames.sent} pings, {frames.lost} lost"
    )
