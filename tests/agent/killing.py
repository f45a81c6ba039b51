"""ADD and DEL in a process that is killed at a counted point, and what is left of it after the DEL that follows.

One process, which has imported all of it, stands for the node: it has namespaces of its own and forks a child for each
call, as the agent's code for one call without a daemon (agent.standalone): the same code and journal as the agent's.

Rules
1. The points are enumerated: each system call that can change something outside of the process
   (tests.conformance.tracer), as many as there are in a run that nobody disturbs, and on until nothing is hit any more.
2. Each trial has a new state directory and a new container; the node is as before the first ADD, and so is the pod,
   which is the last trial's if that left nothing in it: the kernel takes long to end one.
3. What was there before is there after, and nothing else: tests.agent.audit says so, polled, since the kernel ends
   namespaces later.
"""

import gc
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from agent import standalone
from cni import wire
from e2e import kernel
from tests.agent import audit
from tests.conformance import tracer
from tests.conformance.tracer import End, Victim

SETTLED_S = 20.0
WHO = {Victim.SELF: "agent", Victim.CHILD: "delegate"}
GONE, AGAIN = "the pod is gone by then", "ADD again before that"
PRELOADED = (ovs.jsonrpc, ovs.poller, ovs.stream)  # agent.ovsdb imports them at their first use


@dataclass(frozen=True)
class Kind:
    """One way to use a device. `prepare` yields what says what is there besides what the system's tools show.

    `shared`: links of the node that the first ADD makes and that stay. `replace` makes anew what ended with the pod's
    namespace, since it was in it. `every`: how many of the points one is taken of, where a trial takes seconds.
    """

    config: Mapping[str, Any]
    prepare: Callable[[], AbstractContextManager[Callable[[], str]]] = lambda: nullcontext(str)
    shared: frozenset[str] = frozenset()
    replace: Callable[[], None] = lambda: None
    has_ipam: bool = False
    every: int = 1


@dataclass
class Report:
    """Points hit, by what was killed in which verb; what was wrong, in words."""

    hits: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def hit(self, what: str, end: End) -> None:
        self.hits[what] = self.hits.get(what, 0) + bool(end.before)


def examine(kind: Kind, plugins: Path, shares: int) -> Report:
    """Kill at every point, the points shared out among so many processes."""
    reports = [_forked(kind, plugins, share, shares) for share in range(shares)]
    whole = Report()
    for receive in reports:
        told = json.loads(receive())
        whole.failures += told["failures"]
        for what, count in told["hits"].items():
            whole.hits[what] = whole.hits.get(what, 0) + count
    return whole


def _forked(kind: Kind, plugins: Path, share: int, shares: int) -> Callable[[], bytes]:
    """Begin a share in a process of its own; return what waits for its report."""
    receiving, sending = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            kernel.die_with_parent()
            kernel.unshare(kernel.NEWNET | kernel.NEWNS | kernel.NEWPID)
            kernel.mount("none", Path("/"), flags=kernel.MS_REC | kernel.MS_PRIVATE)
            if first := os.fork():
                os.waitpid(first, 0)
            else:
                kernel.die_with_parent()
                _report_share(kind, plugins, share, shares, sending)
        finally:
            os._exit(0)
    os.close(sending)

    def receive() -> bytes:
        with os.fdopen(receiving, "rb") as pipe:
            told = pipe.read()
        os.waitpid(process, 0)
        return told

    return receive


def _report_share(kind: Kind, plugins: Path, share: int, shares: int, pipe: int) -> None:
    report = Report()
    try:
        _examine_share(kind, plugins, share, shares, report)
    except BaseException:  # noqa: BLE001 -- told, not raised: this is a fork of a test
        report.failures.append(traceback.format_exc())
    with os.fdopen(pipe, "wb") as file:
        file.write(json.dumps({"hits": report.hits, "failures": report.failures}).encode())


def _examine_share(kind: Kind, plugins: Path, share: int, shares: int, report: Report) -> None:
    """In a namespace of its own, as its first process: all that is left over ends with it."""
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="hnkill-", dir="/run") as folder, kind.prepare() as besides:
        node = Node(kind, Path(folder), plugins, besides, report)
        for verb, victim in _killings(kind):
            total = node.undisturbed(verb, victim)
            for point in itertools.count(1 + share * kind.every, shares * kind.every):
                if not node.disturbed(verb, victim, point) and point >= total:
                    break


def _killings(kind: Kind) -> Iterator[tuple[str, Victim]]:
    for victim in (Victim.SELF, Victim.CHILD) if kind.has_ipam else (Victim.SELF,):
        yield "ADD", victim
        yield "DEL", victim


class Trial:
    """One attachment from beginning to end."""

    def __init__(self, node: "Node", number: int, netns: str) -> None:
        self.container, self.folder, self.netns = f"container-{number}", node.folder / str(number), netns
        self.folder.mkdir()
        self._path = netns
        self._config = {
            "cniVersion": "1.1.0", "name": "kill", "type": "hotnic", "agent": "none", **node.kind.config,
        }  # fmt: skip
        if node.kind.has_ipam:
            pool = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]], "dataDir": f"{self.folder}/leases"}
            self._config["ipam"] = pool
        self._plugins = str(node.plugins)

    def call(self, verb: str, **config: Any) -> tuple[int, dict[str, Any]]:
        """Have it done undisturbed; return exit status and document."""
        return self._asked(verb, config, _perform)

    def killed(self, verb: str, point: int, victim: Victim) -> tuple[End, int]:
        """Have it done and be killed; return how that ended and the exit status, -1 where nobody answered."""
        ends: list[End] = []

        def perform(action: Callable[[], None]) -> None:
            ends.append(tracer.call(action, point, victim))

        code, _ = self._asked(verb, {}, perform)
        return ends[0], code

    def end_pod(self) -> None:
        subprocess.run(["ip", "netns", "del", Path(self.netns).name], check=True)
        self.netns = ""

    def is_attached(self) -> bool:
        """Whether the journal says that an ADD was whole."""
        return any('"attached"' in path.read_text() for path in self.folder.glob("state/records/*.json"))

    def _asked(
        self, verb: str, config: Mapping[str, Any], perform: Callable[[Callable[[], None]], None]
    ) -> tuple[int, dict[str, Any]]:
        ours, its = socket.socketpair()
        with ours:
            with its:
                self._send(ours, verb, config)
                perform(lambda: standalone.serve(its, self.folder / "state"))
            try:
                code, stdout = wire.receive_reply(ours)
            except (OSError, wire.WireError):
                return -1, {}
        return code, json.loads(stdout or b"{}")

    def _send(self, connection: socket.socket, verb: str, config: Mapping[str, Any]) -> None:
        environ = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": self.container, "CNI_IFNAME": "net1",
            "CNI_NETNS": self._path, "CNI_PATH": self._plugins,
        }  # fmt: skip
        request = wire.encode_request(
            {name.encode(): value.encode() for name, value in environ.items()},
            json.dumps({**self._config, **config}).encode(),
        )
        fd = os.open(self.netns, os.O_RDONLY) if self.netns else None
        wire.send_request(connection, request, fd)
        if fd is not None:
            os.close(fd)


def _perform(action: Callable[[], None]) -> None:
    process = os.fork()
    if process == 0:
        try:
            action()
        finally:
            os._exit(0)
    os.waitpid(process, 0)


def _between(verb: str, point: int) -> tuple[str, ...]:
    if point % 3 == 1:
        return "", GONE
    return ("", AGAIN) if point % 3 == 0 and verb == "ADD" else ("",)


class Node:
    """The node, and the trials on it."""

    def __init__(self, kind: Kind, folder: Path, plugins: Path, besides: Callable[[], str], report: Report) -> None:
        self.kind, self.folder, self.plugins = kind, folder, plugins
        self._besides, self._report = besides, report
        self._count = 0
        self._pod = ""
        trial = self._trial()
        self._before = {True: self._picture(trial)}
        trial.end_pod()
        self._before[False] = self._picture(trial)

    def undisturbed(self, verb: str, victim: Victim) -> int:
        """Return how many points there are: of a run that is whole, and leaves nothing."""
        trial = self._trial()
        if verb == "DEL":
            self._add(trial, "undisturbed")
        end, code = trial.killed(verb, 0, victim)
        self._require(code == 0, f"{verb}, traced and not killed, ends with {code}")
        self._finish(trial, f"{verb} undisturbed")
        return end.seen

    def disturbed(self, verb: str, victim: Victim, point: int) -> bool:
        """Kill at this point, then DEL; at a third of the points once more, with something between the two.

        Return whether a run came so far.
        """
        hits = []
        for between in _between(verb, point):
            trial = self._trial()
            if verb == "DEL":
                self._add(trial, "before the DEL that is killed")
            end, _ = trial.killed(verb, point, victim)
            who = WHO[victim]
            hits.append(bool(end.before))
            what = f"{verb} whose {who} was killed before {end.before or 'its end'} (point {point}); {between or 'DEL'}"
            if between == AGAIN and not trial.is_attached():
                self._add(trial, what)
            elif between == GONE:
                trial.end_pod()
            elif not between:
                self._report.hit(f"{who} in {verb}", end)
            self._finish(trial, what)
        return any(hits)

    def _add(self, trial: Trial, when: str) -> None:
        code, document = trial.call("ADD")
        self._require(code == 0, f"ADD {when}: {document}")
        if code == 0:
            code, problem = trial.call("CHECK", prevResult=document)
            self._require(code == 0, f"CHECK after ADD {when}: {problem}")

    def _finish(self, trial: Trial, what: str) -> None:
        code, problem = trial.call("DEL")
        self._require(code == 0, f"DEL after {what}: {problem}")
        end, before = time.monotonic() + SETTLED_S, self._before[bool(trial.netns)]
        if not trial.netns:
            self.kind.replace()
        while (left := self._picture(trial).differences(before)) and time.monotonic() < end:
            time.sleep(0.02)
        self._require(not left, f"{what}: {'; '.join(left)}")
        self._pod = "" if left else trial.netns
        shutil.rmtree(trial.folder)
        for name in self.kind.shared:
            subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)

    def _picture(self, trial: Trial) -> audit.Picture:
        return audit.picture(trial.netns, trial.folder, trial.container, self._besides, self.kind.shared)

    def _trial(self) -> Trial:
        """Rule 2."""
        self._count += 1
        if not self._pod:
            subprocess.run(["ip", "netns", "add", f"pod-{self._count}"], check=True)
        return Trial(self, self._count, self._pod or f"/run/netns/pod-{self._count}")

    def _require(self, holds: bool, claim: str) -> None:
        if not holds:
            self._report.failures.append(claim)
