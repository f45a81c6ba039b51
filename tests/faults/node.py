"""A node with the real agent, as the others see it: a controller that keeps asking, a runtime, a pod, and who audits.

Rules
1. The controller's part is the real one's, in short: a call that fails is made again, a new agent is told everything.
2. What is told is compared with what the system's tools see in the pod, each time that something is told to be done.
3. While an effect hangs, the opposite edit and a DEL of the runtime's arrive; the agent answers others meanwhile.
"""

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from agent.api import agent_pb2 as api
from agent.api import agent_pb2_grpc
from cni import wire
from tests.agent import audit
from tests.faults import machine
from tests.faults.injection import DELAY, Fault
from tests.faults.runtime import Runtime, Sandbox
from tests.faults.victims import Nursery, Victim

BOUND_S = 60.0  # of one step of a story
SETTLED_S = 30.0
CALL_S = 10.0
LOOK_S = 0.01
STARTS = 5  # of an agent, in a row
BRIDGES = frozenset({"br-blue", "br-green", "br-red"})  # the first attachment makes them, and they stay
_BLUE = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "bridge", "bridge": "br-blue"}
Attachments = Sequence[Mapping[str, Any]]


class Wrong(Exception):
    """What the story ends with."""


@dataclass
class Pod:
    """`machine`: the folder of the virtual machine in it, if there is one (tests.faults.machine)."""

    uid: str
    sandbox: Sandbox
    machine: Path | None = None
    revision: int = 0

    @property
    def vm(self) -> str:
        if self.machine is None:
            return ""
        return json.dumps({"qmp": str(self.machine / machine.QMP), "guestAgent": str(self.machine / machine.AGENT)})

    def next_revision(self) -> str:
        self.revision += 1
        return str(self.revision)


class Node:
    """In namespaces of its own."""

    PROGRAM = "agent"

    def __init__(self, nursery: Nursery, folder: Path, plugins: Path, effects: list[str]) -> None:
        self._nursery, self.folder, self._plugins = nursery, folder, plugins
        self._effects = [one for one in effects if not _is_the_executables(one)]
        self._executables = [one for one in effects if _is_the_executables(one)]
        for name in ("run", "leases", "net.d", "cache"):
            (folder / name).mkdir(parents=True)
        self.runtime = Runtime(folder.parent / "cri.sock")
        self._count = 0
        self.agent: Victim | None = None
        self.hit = ""  # the fault that has happened

    def close(self) -> None:
        if self.agent is not None:
            self.agent.end()
        self.runtime.close()

    # -- the agent --------------------------------------------------------------------------------------------------

    def start(self, fault: Fault | None = None) -> Victim:
        """Start an agent on what the last one left; return once it serves, or has ended."""
        door = self.folder / "run/agent.sock"
        door.unlink(missing_ok=True)
        armed = {"fault": vars_of(fault)} if fault else {}
        self.agent = self._nursery.fork(
            self.PROGRAM, self._effects, folder=str(self.folder), cri=self.runtime.endpoint, plugins=str(self._plugins),
            **armed,
        )  # fmt: skip
        ends = time.monotonic() + BOUND_S
        while not door.exists() and not self.agent.is_dead:
            if self._news() == DELAY:
                self.agent.go()
            if time.monotonic() > ends:
                raise Wrong(f"the agent does not serve: {self.log()}")
        self._channel = grpc.insecure_channel(f"unix://{door}", options=(("grpc.initial_reconnect_backoff_ms", 20),))
        self._stub = agent_pb2_grpc.AgentStub(self._channel)
        return self.agent

    def _news(self) -> str:
        """Wait a moment for a fault; return its kind."""
        assert self.agent is not None
        kind = self.agent.news(LOOK_S)
        self.hit = self.agent.hit or self.hit
        return kind

    def living(self) -> Victim:
        """Return the agent; a new one where the last one is dead."""
        for _ in range(STARTS):
            if self.agent is not None and not self.agent.is_dead:
                return self.agent
            if self.agent is not None:
                self.agent.end()
                self._channel.close()
            self.start()
        raise Wrong(f"no agent stays alive: {self.log()}")

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return self.folder.with_suffix(".log").read_text()[-1500:]
        return ""

    def take_aside(self, count: int) -> None:
        """Look at what was set aside as damaged, as people do, and remove it; raise Wrong where it is not so many."""
        found = list((self.folder / "state/damaged").iterdir())
        if len(found) != count:
            raise Wrong(f"set aside: {found}\n{self.log()}")
        for path in found:
            path.unlink()

    def define(self, network: Mapping[str, Any]) -> None:
        """Put a network's configuration on the node's disk."""
        (self.folder / f"net.d/{network['name']}.conf").write_text(json.dumps(network))

    # -- pods -------------------------------------------------------------------------------------------------------

    def pod(self) -> Pod:
        self._count += 1
        return Pod(f"uid-{self._count}", self.sandbox(f"uid-{self._count}"))

    def machine(self, pod: Pod) -> Victim:
        """Have a virtual machine run in the pod."""
        pod.machine = self.folder.parent / pod.sandbox.id
        pod.machine.mkdir()
        process = self._nursery.fork("machine", [], folder=str(pod.machine), netns=pod.sandbox.netns)
        pod.sandbox = self.runtime.sandboxes[pod.sandbox.id] = replace(pod.sandbox, process=process.pid)
        ends = time.monotonic() + BOUND_S
        while not (pod.machine / machine.QMP).is_socket():
            if time.monotonic() > ends:
                raise Wrong("the machine does not serve")
            time.sleep(LOOK_S)
        return process

    def sandbox(self, uid: str) -> Sandbox:
        """Make a sandbox for the pod, which the runtime lists from now on."""
        self._count += 1
        name = f"pod-{self._count}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        made = Sandbox(f"sandbox-{self._count}", uid, uid.replace("uid", "pod"), f"/run/netns/{name}", self._count)
        self.runtime.sandboxes[made.id] = made
        return made

    def beside(self, pod: Pod, uid: str) -> Pod:
        """Return another pod, whose sandbox has the same namespace: enough for one in which nothing is made."""
        self._count += 1
        number = self._count
        made = Sandbox(f"sandbox-{number}", uid, uid.replace("uid", "pod"), pod.sandbox.netns, number)
        self.runtime.sandboxes[made.id] = made
        return Pod(uid, made)

    def delegates(self) -> list[int]:
        """Return the processes of plugins."""
        mark = f"CNI_PATH={self._plugins}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                found += [int(path.parts[2])] if mark in path.read_bytes().split(b"\0") else []
        return found

    def end_sandbox(self, sandbox: Sandbox) -> None:
        self.runtime.sandboxes.pop(sandbox.id, None)
        subprocess.run(["ip", "netns", "del", Path(sandbox.netns).name], check=True)

    def recreate(self, pod: Pod) -> None:
        """Give the pod another sandbox."""
        self.end_sandbox(pod.sandbox)
        pod.sandbox = self.sandbox(pod.uid)

    # -- what a controller does ---------------------------------------------------------------------------------------

    def settle(self, pod: Pod, wanted: Attachments, is_enough: Callable[[Any], bool] = lambda _: True) -> None:
        """Ask for these, until they are told to be attached; and look whether that is true (rules 1, 2)."""
        request = _request(pod, wanted)
        outcome = self._until(pod, request, lambda one: _is_done(one, request, pod) and is_enough(one))
        self._compare(pod, outcome)

    def ask(self, pod: Pod, wanted: Attachments) -> None:
        """Ask for these once, whatever comes of it."""
        self._said(lambda: self._stub.Apply(_request(pod, wanted), timeout=CALL_S))

    def await_attached(self, pods: Sequence[Pod], count: int, seconds: float) -> None:
        """Wait until all of these have so many interfaces."""
        ends, left = time.monotonic() + seconds, {pod.uid for pod in pods}
        while left:
            time.sleep(0.2)
            listed = self._listed() or {}
            left = {uid for uid in left if uid not in listed or not _has_attached(listed[uid], count)}
            if time.monotonic() > ends:
                raise Wrong(f"{len(left)} pods have not all that they asked for, such as {listed.get(min(left))}")

    def end(self, pod: Pod) -> None:
        """Have the pod forgotten, with all that it had."""
        self._until(pod, api.ApplyRequest(pod=_pod(pod), ended=True), lambda outcome: outcome is None)

    def tell_underlay(self, address: str) -> None:
        """Tell the node's address until it is taken."""
        ends = time.monotonic() + BOUND_S
        while not self._said(lambda: self._stub.SetUnderlay(api.SetUnderlayRequest(address=address), timeout=CALL_S)):
            self._meanwhile_or_wait(None)
            if time.monotonic() > ends:
                raise Wrong("the underlay is not taken")

    def _until(self, pod: Pod, request: Any, is_done: Callable[[Any], bool]) -> Any:
        ends, is_told, outcome = time.monotonic() + BOUND_S, False, None
        while time.monotonic() < ends:
            agent = self.living()
            if self._meanwhile_or_wait(pod) or self.agent is not agent or agent.is_dead:
                is_told, request.revision = False, pod.next_revision()  # of an edit that came after all
                continue
            is_told = is_told or self._applied(request, pod)
            if is_told and (listed := self._listed()) is not None:
                outcome = listed.get(pod.uid)
                if is_done(outcome):
                    return outcome
        raise Wrong(f"hangs with {outcome}\n{self.log()}")

    def _applied(self, request: Any, pod: Pod) -> bool:
        """Send it as a thread of the controller's does: one that hangs holds nobody else."""
        done: list[bool] = []
        sending = threading.Thread(
            target=lambda: done.append(self._said(lambda: self._stub.Apply(request, timeout=CALL_S))), daemon=True
        )
        sending.start()
        while sending.is_alive():
            sending.join(LOOK_S)
            if self._meanwhile_or_wait(pod):
                sending.join()
                request.revision = pod.next_revision()
                return False
        return done == [True]

    def _said(self, call: Callable[[], object]) -> bool:
        self.living()
        try:
            call()
        except (grpc.RpcError, ValueError):  # ValueError: of a channel that was closed meanwhile
            return False
        return True

    def _listed(self) -> Mapping[str, Any] | None:
        try:
            return {one.pod.uid: one for one in self._stub.List(api.ListRequest(), timeout=CALL_S).outcomes}
        except (grpc.RpcError, ValueError):
            return None

    # -- what a runtime does ------------------------------------------------------------------------------------------

    def call(self, verb: str, pod: Pod, fault: Fault) -> tuple[bool, Mapping[str, int]]:
        """Have the executable called for the pod's net1; return whether it succeeded, and its calls of effects."""
        asked, said = self.folder.parent / "stdin", self.folder.parent / "stdout"
        asked.write_text(json.dumps({**_BLUE, "runDir": str(self.folder / "run")}))
        said.write_text("-")
        environ = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": pod.sandbox.id, "CNI_IFNAME": "net1",
            "CNI_NETNS": pod.sandbox.netns, "CNI_PATH": str(self._plugins),
        }  # fmt: skip
        caller = self._nursery.fork(
            "executable", self._executables, environ=environ, stdin=str(asked), stdout=str(said), fault=vars_of(fault)
        )
        ends = time.monotonic() + BOUND_S
        while not caller.is_dead:
            if time.monotonic() > ends:
                raise Wrong(f"{verb} hangs\n{self.log()}")
            if caller.news(LOOK_S) == DELAY:
                caller.go()
            if self.agent is not None and not self.agent.is_dead and self._news() == DELAY:
                self.agent.go()
        self.hit = caller.hit or self.hit
        return caller.last.get("code") == 0, caller.last.get("counted", {})

    def await_tombstones(self) -> None:
        """Wait until the agent has taken up what was put down for it."""
        ends = time.monotonic() + BOUND_S
        while any((self.folder / "run/tombstones").glob("*.bin")):
            if self.living() and self._news() == DELAY:
                self.living().go()
            if time.monotonic() > ends:
                raise Wrong(f"a tombstone is not replayed\n{self.log()}")

    # -- rule 3 -------------------------------------------------------------------------------------------------------

    def _meanwhile_or_wait(self, pod: Pod | None) -> bool:
        """Wait a moment; where an effect begins to hang, do all of rule 3, and return whether it was so."""
        if self._news() != DELAY:
            return False
        assert self.agent is not None
        try:
            if pod is not None:
                self._meanwhile(pod)
        finally:
            self.agent.go()
        return True

    def _meanwhile(self, pod: Pod) -> None:
        opposite = api.ApplyRequest(pod=_pod(pod), revision="opposite", vm=pod.vm)
        calls = [threading.Thread(target=self._said, args=(lambda: self._stub.Apply(opposite, timeout=CALL_S),))]
        if pod.machine is None:  # no runtime takes a NIC from a machine that runs
            calls.append(threading.Thread(target=self._runtime_deletes, args=(pod,)))
        for one in calls:
            one.start()
        for one in calls:
            one.join(0.1)  # both may wait for the effect that hangs
        if self._listed() is None:
            raise Wrong("an effect that hangs keeps the agent from answering")
        assert self.agent is not None
        self.agent.go()
        for one in calls:
            one.join(BOUND_S)
            if one.is_alive():
                raise Wrong("a call never ends")

    def _runtime_deletes(self, pod: Pod) -> None:
        environ = {
            "CNI_COMMAND": "DEL", "CNI_CONTAINERID": pod.sandbox.id, "CNI_IFNAME": "net1",
            "CNI_NETNS": pod.sandbox.netns, "CNI_PATH": str(self._plugins),
        }  # fmt: skip
        request = wire.encode_request(
            {key.encode(): value.encode() for key, value in environ.items()}, json.dumps(_BLUE).encode()
        )
        with contextlib.suppress(OSError, wire.WireError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(BOUND_S)
            connection.connect(f"{self.folder}/run/cni.sock")
            wire.send_request(connection, request, None)
            wire.receive_reply(connection)

    # -- rule 2 -------------------------------------------------------------------------------------------------------

    def _compare(self, pod: Pod, outcome: Any) -> None:
        told = {one.interface: json.loads(one.result) for one in outcome.attachments if one.result}
        if pod.machine is not None:
            self._compare_machine(pod.machine, outcome)
        seen = {name: link for name, link in links(pod.sandbox.netns).items() if name.startswith("net")}
        if told.keys() != seen.keys():
            raise Wrong(f"told {sorted(told)}, there are {sorted(seen)}")
        for name, result in told.items():
            mac = next(one["mac"] for one in result["interfaces"] if one["name"] == name and one.get("sandbox"))
            if not pod.vm and mac != seen[name]["address"]:
                raise Wrong(f"{name} is told to be {mac}, and is {seen[name]['address']}")
            has = {f"{one['local']}/{one['prefixlen']}" for one in seen[name]["addr_info"]}
            if missing := {one["address"] for one in result.get("ips", ())} - has:
                raise Wrong(f"{name} is told to have {missing}, and has {has}")

    def _compare_machine(self, folder: Path, outcome: Any) -> None:
        has = json.loads((folder / machine.STATE).read_text())
        told = {one.guest.mac for one in outcome.attachments}
        if told != set(has["nics"].values()) or len(has["taps"]) != len(told):
            raise Wrong(f"the guest is told to have {told}, and has {has}")

    def picture(self) -> audit.Picture:
        """Return what there is on the node, besides pods."""
        return audit.picture("", self.folder, "none", ignored=BRIDGES)

    def refuse_left(self, before: audit.Picture) -> None:
        """Wait until all is as before: the kernel ends namespaces later."""
        ends = time.monotonic() + SETTLED_S
        while left := self.picture().differences(before):
            if time.monotonic() > ends:
                raise Wrong(f"left: {left}\n{self.log()}")
            time.sleep(0.05)


def links(netns: str) -> dict[str, Any]:
    """Return the links of a pod, as the system's tool lists them, by name."""
    listed = subprocess.run(
        ["ip", "-n", Path(netns).name, "-json", "address"], check=True, capture_output=True, text=True
    ).stdout
    return {one["ifname"]: one for one in json.loads(listed) if one}


def _is_the_executables(effect: str) -> bool:
    return effect.startswith("cni.") and effect != "cni.wire:_receive"


def status(pid: int) -> Mapping[str, int]:
    """Return the numbers of /proc/<pid>/status; sizes are in KiB."""
    rows = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def vars_of(fault: Fault) -> dict[str, Any]:
    return {"effect": fault.effect, "number": fault.number, "kind": fault.kind}


def _pod(pod: Pod) -> Any:
    return api.Pod(uid=pod.uid, namespace="ns", name=pod.uid.replace("uid", "pod"))


def _request(pod: Pod, wanted: Attachments) -> Any:
    attachments = [_attachment(one) for one in wanted]
    return api.ApplyRequest(pod=_pod(pod), revision=pod.next_revision(), attachments=attachments, vm=pod.vm)


def _has_attached(outcome: Any, count: int) -> bool:
    return [one.state for one in outcome.attachments] == [api.ATTACHED] * count


def _attachment(one: Mapping[str, Any]) -> Any:
    element = {"namespace": "ns", "name": one["config"]["name"], **one["element"]}
    is_here = one["config"].keys() & {"type", "plugins"}  # else it is on the node's disk
    config = json.dumps(one["config"]) if is_here else ""
    return api.Attachment(element=json.dumps(element), config=config, nad_uid="n")


def _is_done(outcome: Any, request: Any, pod: Pod) -> bool:
    if outcome is None or not outcome.settled or outcome.revision != request.revision:
        return False
    is_here = outcome.sandbox == pod.sandbox.id
    states = [one.state for one in outcome.attachments]
    return is_here and states == [api.ATTACHED] * len(request.attachments)
