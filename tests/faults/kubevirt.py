"""An API server over HTTP with KubeVirt's objects, and as much of KubeVirt as copies interfaces from VM to instance.

What is real runs in e2e/relay and e2e/kubevirt.
"""

import contextlib
import copy
import itertools
import json
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from controller.reconcile import Conflict
from tests.controller import machines
from tests.controller.fake_cluster import patched
from tests.controller.http_server import Request
from tests.faults import apiserver

MACHINES, INSTANCES, NETWORKS = "virtualmachines", "virtualmachineinstances", "network-attachment-definitions"
LEASES, MIGRATIONS, INSTALLATIONS = "leases", "virtualmachineinstancemigrations", "kubevirts"
INSTALLATION = {"metadata": {"name": "kubevirt", "namespace": "kubevirt"}, "spec": {}}


class Cluster:
    """Keeps every change, for watches to go on from any."""

    def __init__(self) -> None:
        self._news = threading.Condition(threading.RLock())
        self._objects: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in (MACHINES, INSTANCES, NETWORKS, LEASES, MIGRATIONS, INSTALLATIONS)
        }
        self._version = 100
        self._changes: dict[str, list[tuple[int, str, dict[str, Any]]]] = {kind: [] for kind in self._objects}
        self.events: list[str] = []
        self.is_over = False
        for name in ("blue", "red"):
            self.put(NETWORKS, apiserver.network(name))
        self.put(INSTALLATIONS, copy.deepcopy(INSTALLATION))
        threading.Thread(target=self._be_kubevirt, daemon=True).start()

    # -- as the users see it ------------------------------------------------------------------------------------------

    def machine(self, name: str) -> dict[str, Any]:
        with self._news:
            return copy.deepcopy(self._objects[MACHINES][name])

    def instance(self, name: str) -> dict[str, Any]:
        with self._news:
            return copy.deepcopy(self._objects[INSTANCES][name])

    def names(self) -> set[str]:
        with self._news:
            return {*self._objects[MACHINES], *self._objects[INSTANCES]}

    def runs(self, name: str) -> bool:
        with self._news:
            return name in self._objects[INSTANCES]

    def create(self, name: str) -> None:
        """Create a VM, which runs as soon as KubeVirt has seen it."""
        self.put(MACHINES, machines.document(name=name))

    def annotate(self, name: str, wish: str | None) -> None:
        def change(document: dict[str, Any]) -> None:
            annotations = document["metadata"].setdefault("annotations", {})
            annotations.pop(machines.WISH, None)
            annotations.update({} if wish is None else {machines.WISH: wish})

        self._edit(MACHINES, name, change)

    def delete(self, name: str) -> None:
        with self._news:
            for kind in (INSTANCES, MACHINES):
                self._tell("DELETED", kind, self._objects[kind].pop(name))

    # -- over HTTP ----------------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> None:
        """Serve one request, for a client that may be killed meanwhile."""
        with contextlib.suppress(ConnectionError):
            self._answer(request)

    def _answer(self, request: Request) -> None:
        *_, place = request.place.split("/namespaces/")
        kind, name = [*place.split("/")[1:], ""][:2] if "/namespaces/" in request.place else (place.split("/")[-1], "")
        match request.command:
            case "GET" if "watch" in request.query:
                self._watch(request, kind)
            case "GET" if name:
                self._reply(request, self._objects[kind].get(name))
            case "GET":
                with self._news:
                    items = copy.deepcopy(list(self._objects[kind].values()))
                    request.reply(200, {"items": items, "metadata": {"resourceVersion": str(self._version)}})
            case "POST" if kind == "events":
                self.events.append(request.body["message"])
                request.reply(201, request.body)
            case "PATCH":
                self._write(request, lambda: self._patch(kind, name, request.body))
            case "POST" | "PUT":
                self._write(request, lambda: self._replace(kind, request.body, is_new=request.command == "POST"))

    def _write(self, request: Request, write: Callable[[], dict[str, Any] | None]) -> None:
        try:
            with self._news:
                document = write()
        except Conflict as problem:
            request.reply(409, {"message": f"the server rejected our request: {problem}"})
        else:
            self._reply(request, document)

    @staticmethod
    def _reply(request: Request, document: Mapping[str, Any] | None) -> None:
        request.reply(200 if document else 404, document or {"message": "not found"})

    def _patch(self, kind: str, name: str, operations: list[Mapping[str, Any]]) -> dict[str, Any] | None:
        if (old := self._objects[kind].get(name)) is None:
            return None
        new = patched(old, [one for one in operations if one["op"] != "remove"])
        for one in (one for one in operations if one["op"] == "remove"):
            del new["metadata"]["annotations"][one["path"].rpartition("/")[2].replace("~1", "/")]
        return self.put(kind, new)

    def _replace(self, kind: str, document: dict[str, Any], *, is_new: bool) -> dict[str, Any]:
        old = self._objects[kind].get(document["metadata"]["name"])
        version = document["metadata"].get("resourceVersion")
        if (old is not None) == is_new or (old is not None and old["metadata"]["resourceVersion"] != version):
            raise Conflict("it has been modified")
        return self.put(kind, document)

    def _watch(self, request: Request, kind: str) -> None:
        at = int(request.query["resourceVersion"])
        request.start_stream()
        while not self.is_over and not _is_gone(request):
            with self._news:
                if not (new := self._since(kind, at)):
                    self._news.wait(0.5)
            for version, verb, document in new:
                at = version
                request.event(verb, document)

    def _since(self, kind: str, version: int) -> list[tuple[int, str, dict[str, Any]]]:
        newest_first = itertools.takewhile(lambda one: one[0] > version, reversed(self._changes[kind]))
        return list(newest_first)[::-1]

    # -- what is kept -------------------------------------------------------------------------------------------------

    def put(self, kind: str, document: dict[str, Any]) -> dict[str, Any]:
        with self._news:
            old = self._objects[kind].get(document["metadata"]["name"])
            if old and old.get("spec") != document.get("spec"):
                document["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
            self._objects[kind][document["metadata"]["name"]] = document
            self._tell("MODIFIED" if old else "ADDED", kind, document)
            return copy.deepcopy(document)

    def _edit(self, kind: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        with self._news:
            document = copy.deepcopy(self._objects[kind][name])
            change(document)
            self.put(kind, document)

    def _tell(self, verb: str, kind: str, document: dict[str, Any]) -> None:
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)
        self._changes[kind].append((self._version, verb, copy.deepcopy(document)))
        self._news.notify_all()

    # -- KubeVirt -----------------------------------------------------------------------------------------------------

    def _be_kubevirt(self) -> None:
        while not self.is_over:
            with self._news:
                for name in self._objects[MACHINES]:
                    self._play(name)
                self._news.wait(0.5)

    def _play(self, name: str) -> None:
        """Plug what is new, forget what is absent."""
        old = self._objects[MACHINES][name]["spec"]["template"]["spec"]
        kept = [one for one in old["domain"]["devices"]["interfaces"] if one.get("state") != "absent"]
        names = {one["name"] for one in kept}
        spec = {"domain": {"devices": {"interfaces": kept}}}
        spec["networks"] = [one for one in old["networks"] if one["name"] in names]
        links = [machines.link(one["name"], mac=one["macAddress"]) for one in kept if "macAddress" in one]
        instance = self._objects[INSTANCES].get(name)
        if instance is None or instance["spec"] != spec or instance["status"]["interfaces"] != links:
            self.put(INSTANCES, machines.instance_document(copy.deepcopy(spec), *links, name=name))
        if old != spec:
            self._edit(MACHINES, name, lambda document: document["spec"]["template"].update(spec=copy.deepcopy(spec)))


def _is_gone(request: Request) -> bool:
    """Whether the client of a watch, which says no more, has hung up."""
    try:
        return not request.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def interfaces(document: Mapping[str, Any]) -> set[str]:
    """Return the names of what the spec of a VM or an instance has besides the pod network."""
    spec = document["spec"].get("template", document)["spec"]
    return {one["name"] for one in spec["domain"]["devices"]["interfaces"]} - {"default"}


def told(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what a VM's status says of each interface."""
    annotations = document["metadata"].get("annotations", {})
    entries = json.loads(annotations.get(machines.STATUS, "[]"))
    return {one["hotnic.dev/name"]: one["hotnic.dev/state"] for one in entries}
