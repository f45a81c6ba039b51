"""An API server over HTTP: pods of tests.controller.fake_cluster, listed and watched as the real one does it."""

import contextlib
import json
import threading
from typing import Any

from controller.model import Event, Pod
from controller.reconcile import Conflict
from tests.controller import build
from tests.controller.fake_cluster import FakeCluster
from tests.controller.http_server import Request

NODE = {
    "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "uid": "n", "resourceVersion": "1"},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}  # fmt: skip


class Cluster(FakeCluster):
    """Keeps every change, for watches to go on from any."""

    def __init__(self, networks: list[dict[str, Any]]) -> None:
        super().__init__()
        self._others = {"nodes": [NODE], "network-attachment-definitions": networks}
        self._news = threading.Condition()
        self._changes: list[tuple[int, str, dict[str, Any]]] = []
        self.watch_ends = False

    def answer(self, request: Request) -> None:
        """Serve one request (tests.controller.http_server), for a client that may be killed meanwhile."""
        with contextlib.suppress(ConnectionError):
            self._answer(request)

    def _answer(self, request: Request) -> None:
        *_, collection = request.place.split("/")
        match request.command, request.place.split("/")[1:]:
            case "GET", _ if "watch" in request.query:
                self._watch(request, collection)
            case "GET", [*_, "pods" | "nodes" | "network-attachment-definitions"]:
                items = list(self._documents.values()) if collection == "pods" else self._others[collection]
                request.reply(200, {"items": items, "metadata": {"resourceVersion": str(self._version)}})
            case "GET", [*_, "pods", name]:
                self._found(request, name)
            case "PATCH", [*_, "pods", name, "status"]:
                self._patch(request, name)
            case "POST", [*_, "events"]:
                said = request.body
                self.events.append(Event(said["reason"], said["message"], warning=said["type"] == "Warning"))
                request.reply(201, said)
            case _:
                request.reply(404, {"message": "no such place"})

    def _found(self, request: Request, name: str) -> None:
        document = self._documents.get(name)
        request.reply(200 if document else 404, document or {"message": "not found"})

    def _patch(self, request: Request, name: str) -> None:
        if name not in self._documents:
            request.reply(404, {"message": "not found"})
            return
        try:
            self.patch_status(self.pod(name), request.body)
        except Conflict as problem:
            request.reply(
                422, {"message": f"the server rejected our request due to an error in our request: {problem}"}
            )
        else:
            request.reply(200, self._documents[name])

    def _watch(self, request: Request, collection: str) -> None:
        at = int(request.query["resourceVersion"])
        request.start_stream()
        while not self.watch_ends:
            with self._news:
                new = [one for one in self._changes if one[0] > at] if collection == "pods" else []
                if not new:
                    self._news.wait(0.5)
            for version, verb, document in new:
                at = version
                request.event(verb, document)

    def _put(self, document: dict[str, Any]) -> Pod:
        verb = "MODIFIED" if document["metadata"]["name"] in self._documents else "ADDED"
        pod = super()._put(document)
        self._tell(verb, document)
        return pod

    def delete(self, name: str) -> None:
        with self._lock:
            document = self._documents[name]
            super().delete(name)
            self._version += 1
            document["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", document)

    def _tell(self, verb: str, document: dict[str, Any]) -> None:
        with self._news:
            self._changes.append((self._version, verb, document))
            self._news.notify_all()


def network(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": {"config": json.dumps({"cniVersion": "1.1.0", "name": name, "type": "bridge"})},
    }  # fmt: skip


def pod(name: str) -> dict[str, Any]:
    return build.document(name, conditions=[{"type": "Ready", "status": "True"}])
