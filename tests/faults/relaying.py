"""The real cluster role before an API server of HTTP, with users of virtual machines and a part of KubeVirt.

Rules
1. What a VM tells is compared with what VM and instance have.
2. While an effect hangs, another replica starts, and the user wishes the opposite. Where the lease's renewal hangs, the
   other takes over and fulfils it, before the first goes on.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.agent import audit
from tests.controller import http_server
from tests.faults import kubevirt
from tests.faults.desk import KUBECONFIG
from tests.faults.injection import DELAY, Fault
from tests.faults.node import Wrong, vars_of
from tests.faults.victims import Nursery, Victim

BOUND_S = 60.0
LOOK_S = 0.01
LEASE = "controller.kubevirt:Leases.write_lease"


class Estate:
    """All around the replicas of the cluster role."""

    def __init__(self, nursery: Nursery, folder: Path, effects: list[str]) -> None:
        self._nursery, self._folder, self._effects = nursery, folder, effects
        self.cluster = kubevirt.Cluster()
        self._held = contextlib.ExitStack()
        url = self._held.enter_context(http_server.serving(self.cluster.answer))
        self._held.callback(setattr, self.cluster, "is_over", True)
        self._config = folder.parent / "kubeconfig"
        self._config.write_text(KUBECONFIG.format(url=url))
        self._replica: Victim | None = None
        self.hit, self._count = "", 0

    def close(self) -> None:
        if self._replica is not None:
            self._replica.end()
        self._held.close()

    def start(self, fault: Fault) -> Victim:
        """Start a replica, at which the fault happens from its first moment."""
        self._fault = fault
        self._replica = self._forked(fault)
        return self._replica

    def stop(self) -> Mapping[str, int]:
        """End the replica as the kubelet does; return its calls of effects."""
        assert self._replica is not None
        self._end(self._replica)
        return self._replica.last.get("counted", {})

    def _forked(self, fault: Fault) -> Victim:
        return self._nursery.fork(
            "cluster", self._effects, folder=str(self._folder), kubeconfig=str(self._config), fault=vars_of(fault)
        )

    def _end(self, replica: Victim) -> None:
        """It finishes what is under way, and gives the lease up."""
        with contextlib.suppress(ProcessLookupError):
            replica.send(signal.SIGTERM)
        ends = time.monotonic() + BOUND_S
        while not replica.is_dead:
            if replica.news(LOOK_S) == DELAY:
                replica.go()
            self.hit = replica.hit or self.hit
            if time.monotonic() > ends:
                raise Wrong(f"a replica does not end\n{self.log()}")

    # -- what a user does ---------------------------------------------------------------------------------------------

    def machine(self) -> str:
        self._count += 1
        name = f"v{self._count}"
        self.cluster.create(name)
        self._until(name, None, lambda: self.cluster.runs(name))
        return name

    def settle(self, name: str, wish: str | None) -> None:
        """Wish for these, until the VM tells that they are there; and look whether they are (rule 1)."""
        self.cluster.annotate(name, wish)
        self._until(name, wish, lambda: self._is_told(name, wish))

    def end(self, name: str) -> None:
        self.cluster.delete(name)

    def _until(self, name: str, wish: str | None, is_so: Callable[[], object]) -> None:
        ends = time.monotonic() + BOUND_S
        while not is_so():
            if time.monotonic() > ends:
                raise Wrong(f"hangs: {wish} of {name}: {self.cluster.machine(name)}\n{self.log()}")
            if self._replica is None:
                time.sleep(LOOK_S)
                continue
            if self._replica.is_dead:
                self._replica = self._forked(Fault())
            if self._replica.news(LOOK_S) == DELAY:
                self._be_deposed(self._replica, name, wish)
            self.hit = self._replica.hit or self.hit

    def _be_deposed(self, replica: Victim, name: str, wish: str | None) -> None:
        """Rule 2."""
        rival = self._forked(Fault())
        try:
            self.cluster.annotate(name, None)
            self._await_rival(name)
            replica.go()
        finally:
            self._end(rival)
        self.cluster.annotate(name, wish)

    def _await_rival(self, name: str) -> None:
        ends = time.monotonic() + BOUND_S
        while self._fault.effect == LEASE and kubevirt.interfaces(self.cluster.machine(name)):
            if time.monotonic() > ends:
                raise Wrong(f"nobody takes over: {self.cluster.machine(name)}\n{self.log()}")
            time.sleep(LOOK_S)

    def _is_told(self, name: str, wish: str | None) -> bool:
        machine, instance = self.cluster.machine(name), self.cluster.instance(name)
        asked = {one.partition("@")[2] for one in (wish or "").split(",") if one}
        told = {one for one, stage in kubevirt.told(machine).items() if stage == "Attached"}
        there = {link["name"] for link in instance["status"]["interfaces"]}
        managed = set(
            filter(None, machine["metadata"]["annotations"].get("hotnic.dev/managed-interfaces", "").split(","))
        )
        ready = machine["metadata"]["annotations"].get("hotnic.dev/networks-ready")
        is_so = kubevirt.told(machine).keys() == told == asked == managed and ready == "True"
        if is_so and not there == asked == kubevirt.interfaces(machine) == kubevirt.interfaces(instance):
            raise Wrong(f"told {asked}, and there are {there}: {machine}")
        return is_so

    # -- who audits ---------------------------------------------------------------------------------------------------

    def picture(self) -> audit.Picture:
        return audit.Picture(frozenset(self.cluster.names()))

    def refuse_left(self, before: audit.Picture) -> None:
        if left := self.picture().differences(before):
            raise Wrong(f"left: {left}\n{self.log()}")

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return self._folder.with_suffix(".log").read_text()[-3000:]
        return ""


def relay(estate: Estate, fault: Fault) -> Mapping[str, int]:
    """A replica starts; a user wishes for an interface, for another, for the first no more, for none; it ends."""
    name = estate.machine()
    estate.start(fault)
    for wish in ("blue@net1", "blue@net1,red@net2", "red@net2", None):
        estate.settle(name, wish)
    calls = estate.stop()
    estate.end(name)
    return calls
