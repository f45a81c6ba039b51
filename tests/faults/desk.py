"""The real controller between an API server of HTTP and an agent of gRPC, each without what is behind it.

Rules
1. A user edits annotations, and looks at the pod: what it says is compared with what the agent has attached.
2. While an effect hangs, the user takes the annotation back, and then has another wish.
"""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.agent import audit
from tests.controller import http_server
from tests.controller.fake_agent import FakeAgent, serving
from tests.faults import apiserver
from tests.faults.injection import DELAY, Fault
from tests.faults.victims import Nursery, Victim

BOUND_S = 60.0
LOOK_S = 0.01
KUBECONFIG = """{{"apiVersion": "v1", "kind": "Config", "current-context": "c",
"clusters": [{{"name": "c", "cluster": {{"server": "{url}"}}}}], "users": [{{"name": "u", "user": {{"token": "t"}}}}],
"contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "u"}}}}]}}"""


class Wrong(Exception):
    """What the story ends with."""


class Desk:
    """All around one controller."""

    def __init__(self, nursery: Nursery, folder: Path, effects: list[str]) -> None:
        self._nursery, self._folder, self._effects = nursery, folder, effects
        self.cluster = apiserver.Cluster([apiserver.network("blue"), apiserver.network("red")])
        self.agent = FakeAgent()
        self._held = contextlib.ExitStack()
        self._target = f"unix://{folder.parent}/agent.sock"
        self._held.enter_context(serving(self.agent, self._target))
        url = self._held.enter_context(http_server.serving(self.cluster.answer))
        self._held.callback(setattr, self.cluster, "watch_ends", True)
        self._config = folder.parent / "kubeconfig"
        self._config.write_text(KUBECONFIG.format(url=url))
        self.controller: Victim | None = None
        self.hit, self._count = "", 0

    def close(self) -> None:
        if self.controller is not None:
            self.controller.end()
        self._held.close()

    def living(self) -> Victim:
        """Return the controller; a new one where there is none."""
        if self.controller is None or self.controller.is_dead:
            if self.controller is not None:
                self.controller.end()
            self.controller = self._nursery.fork(
                "controller", self._effects, folder=str(self._folder), agent=self._target, kubeconfig=str(self._config)
            )
        return self.controller

    def restart(self, fault: Fault) -> Victim:
        """Start a new controller, at which the fault happens from its first moment."""
        if self.controller is not None:
            self.controller.end()
        about = {"effect": fault.effect, "number": fault.number, "kind": fault.kind}
        self.controller = self._nursery.fork(
            "controller", self._effects, folder=str(self._folder), agent=self._target, kubeconfig=str(self._config),
            fault=about,
        )  # fmt: skip
        return self.controller

    # -- what a user does ---------------------------------------------------------------------------------------------

    def pod(self) -> str:
        self._count += 1
        name = f"p{self._count}"
        self.cluster.put(apiserver.pod(name))
        return name

    def settle(self, name: str, networks: str) -> None:
        """Wish for these, until the pod tells that they are attached; and look whether they are (rule 1)."""
        self.cluster.annotate(name, networks=networks)
        self.await_published(name, networks)

    def await_published(self, name: str, networks: str) -> None:
        self._until(name, networks, lambda: self._is_published(name, networks))

    def end(self, name: str) -> None:
        self.cluster.delete(name)
        self._until("", "", lambda: f"uid-{name}" not in self.agent.pods)

    def await_underlay(self) -> None:
        self._until("", "", lambda: self.agent.underlays)

    def _until(self, name: str, networks: str, is_so: Callable[[], object]) -> None:
        ends = time.monotonic() + BOUND_S
        while not is_so():
            if time.monotonic() > ends:
                raise Wrong(f"hangs: {networks} of {name}: {self.cluster.pods()}\n{self.log()}")
            controller = self.living()
            if controller.news(LOOK_S) == DELAY:
                if name:
                    self.cluster.annotate(name, networks=None)
                    time.sleep(LOOK_S)
                controller.go()
                if name:
                    self.cluster.annotate(name, networks=networks)
            self.hit = controller.hit or self.hit

    def _is_published(self, name: str, networks: str) -> bool:
        pod = self.cluster.pod(name)
        if pod.condition is None or not pod.condition.ready or (pod.networks or "") != networks:
            return False
        told = {entry["interface"] for entry in json.loads(pod.network_status or "[]")}
        asked = {one.partition("@")[2] for one in networks.split(",") if one}
        return told == asked == self._attached(name)

    def _attached(self, name: str) -> set[str]:
        there = self.agent.pods.get(f"uid-{name}")
        return set(there.links) if there else set()

    # -- who audits ---------------------------------------------------------------------------------------------------

    def picture(self) -> audit.Picture:
        return audit.Picture(frozenset([*self.agent.pods, *(pod.ref.name for pod in self.cluster.pods())]))

    def refuse_left(self, before: audit.Picture) -> None:
        if left := self.picture().differences(before):
            raise Wrong(f"left: {left}\n{self.log()}")

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return self._folder.with_suffix(".log").read_text()[-3000:]
        return ""
