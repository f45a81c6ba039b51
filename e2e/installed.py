"""hotnic as users install it: its image in the nodes' container runtime, its manifests by `kubectl apply -k`.

The other way than e2e.product for the same tests: the lane's suite chooses it by the environment (CHOICE).

Rules
1. The manifests are not touched. A kustomization names them, as users write one: with settings and a policy.
2. What keeps the processes is the kubelet. What a test ends stays so until the test starts it (e2e.contained).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e import product, runtimes
from e2e.cluster import Cluster
from e2e.contained import Contained
from e2e.node import Node
from e2e.product import NAMESPACE, REPOSITORY

CHOICE = "HOTNIC_INSTALLED"
"""The name in the environment that, with any value, says that tests want this one."""
ARCHIVE = REPOSITORY / "dist/hotnic.oci.tar"
_ROLLOUT_S = 120


def is_chosen() -> bool:
    """Whether the environment asks for the image and the manifests."""
    return bool(os.environ.get(CHOICE))


def load(archive: Path, nodes: Sequence[Node]) -> None:
    """Import an image on each of these nodes."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: node.exec(runtimes.chosen().load(archive), timeout=300), nodes))


@dataclass
class Installed:
    """What `kubectl apply -k` has made in one cluster, and the processes of its pods by their nodes."""

    cluster: Cluster
    settings: Mapping[str, str] | None = None
    """Other values than manifests/base/settings.yaml has; with them comes the tests' policy. None: all as shipped."""
    isolation: bool = False
    overlay: str = product.OVERLAY
    archive: Path = ARCHIVE
    agents: dict[str, Contained] = field(default_factory=dict)
    controllers: dict[str, Contained] = field(default_factory=dict)

    def install(self) -> None:
        """Import the image on every node, and apply the overlay."""
        load(self.archive, self.cluster.nodes)
        folder = REPOSITORY / self.overlay if self.settings is None else self._written(self.settings)
        self.cluster.kubectl("apply", "-k", str(folder))
        product.wait_established(self.cluster)

    def start(self) -> None:
        """Wait until the rollout is complete."""
        wait = f"--timeout={_ROLLOUT_S}s"
        arguments = ("rollout", "status", "daemonset/hotnic", "-n", NAMESPACE, wait)
        try:
            self.cluster.kubectl(*arguments, timeout=_ROLLOUT_S + 10)
        except RuntimeError as problem:
            raise RuntimeError(f"{problem}\n{self.describe()}") from None
        for node in self.cluster.nodes:
            self.start_agent(node)
            self.start_controller(node)

    def start_agent(self, node: Node) -> Contained:
        """Have the node's agent run, and wait until it serves."""
        return self._started("agent", "/healthz", self.agents, node)

    def start_controller(self, node: Node) -> Contained:
        """Have the node's controller run, and wait until it is ready."""
        return self._started("controller", "/readyz", self.controllers, node)

    def stop(self) -> None:
        """Take the pods away, and wait until they are gone."""
        for process in (*self.agents.values(), *self.controllers.values()):
            process.let_restart()
        gone = ("--cascade=foreground", "--wait", "--ignore-not-found")
        self.cluster.kubectl("delete", "daemonset", "hotnic", "-n", NAMESPACE, *gone)

    def manifests(self) -> list[dict[str, Any]]:
        """Return the objects of the overlay, as they are shipped."""
        return product.manifests(self.cluster, self.overlay)

    def metrics(self, node: Node, role: str, path: str = "/metrics") -> str:
        """Return what the process answers over HTTP; empty where it does not."""
        return product.metrics(node, role, path)

    def describe(self) -> str:
        """Return what is known of the pods, for who looks for a cause."""
        asked: tuple[tuple[str, ...], ...] = (("describe", "pods", "-n", NAMESPACE),)
        asked += tuple(
            ("logs", "-n", NAMESPACE, "daemonset/hotnic", "--tail=40", "-c", role) for role in product.METRICS
        )
        return "\n".join(self.cluster.kubectl(*arguments, check=False) for arguments in asked)

    def _written(self, settings: Mapping[str, str]) -> Path:
        """Write a kustomization as a user would (rule 1); return its folder."""
        folder = self.cluster.state / "kustomization"
        folder.mkdir(exist_ok=True)
        shipped = next(one for one in self.manifests() if one["kind"] == "ConfigMap" and "policy.yaml" in one["data"])
        text = product.policy(shipped["data"]["policy.yaml"], isolation=self.isolation)
        folder.joinpath("policy.yaml").write_text(text)
        self._write_settings(folder / "settings", settings)
        ours = (REPOSITORY / self.overlay, REPOSITORY / "manifests/components/settings")
        shipped_overlay, settled = (os.path.relpath(path, folder) for path in ours)
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [shipped_overlay],
            "components": ["settings", settled],
            "configMapGenerator": [
                {"name": "hotnic-config", "namespace": NAMESPACE, "behavior": "merge", "files": ["policy.yaml"]}
            ],
        }
        folder.joinpath("kustomization.yaml").write_text(yaml.safe_dump(document))
        return folder

    def _write_settings(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Write what patches the settings; a component, so that it comes before those are put where they belong."""
        folder.mkdir(exist_ok=True)
        replaced = [{"op": "replace", "path": f"/data/{name}", "value": value} for name, value in settings.items()]
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1alpha1",
            "kind": "Component",
            "patches": [{"target": {"kind": "ConfigMap", "name": "hotnic-settings"}, "patch": json.dumps(replaced)}],
        }
        folder.joinpath("kustomization.yaml").write_text(yaml.safe_dump(document))

    def _started(self, role: str, path: str, running: dict[str, Contained], node: Node) -> Contained:
        """Wait until the kubelet has that container of the node run, and it answers."""
        former = running.get(node.name)
        if former:
            former.let_restart()
        found: list[Contained] = []

        def works() -> bool:
            found[:] = [one for one in (self._find(role, node),) if one]
            return bool(found) and product.metrics(node, role, path) == "ok\n" and found[0].poll() is None

        self._wait(works, f"{role} of {node.name}")
        running[node.name] = found[0]
        return found[0]

    def _find(self, role: str, node: Node) -> Contained | None:
        selector = (f"--field-selector=spec.nodeName={node.name}", "-l", "app.kubernetes.io/name=hotnic")
        pods = json.loads(self.cluster.kubectl("get", "pods", "-n", NAMESPACE, *selector, "-o", "json"))["items"]
        for pod in pods:
            for status in pod["status"].get("containerStatuses", ()):
                if status["name"] == role and "containerID" in status:
                    return Contained.find(status["containerID"].rpartition("/")[2])
        return None

    def _wait(self, works: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _ROLLOUT_S
        while not works():
            if time.monotonic() > end:
                raise RuntimeError(f"does not serve: {what}\n{self.describe()}")
            time.sleep(0.05)
