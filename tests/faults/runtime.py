"""A container runtime without containers: the CRI calls that an agent makes, over the real gRPC."""

import json
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from agent.api import cri_pb2, cri_pb2_grpc


@dataclass(frozen=True)
class Sandbox:
    """`process`: the first one of its only container; 0: it has none."""

    id: str
    uid: str
    name: str
    netns: str
    number: int
    process: int = 0


class Runtime(cri_pb2_grpc.RuntimeServiceServicer):
    """Lists what it is given."""

    def __init__(self, socket: Path) -> None:
        self.sandboxes: dict[str, Sandbox] = {}
        self.endpoint = f"unix://{socket}"
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        cri_pb2_grpc.add_RuntimeServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.endpoint)
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()

    def ListPodSandbox(self, request: Any, context: Any) -> Any:
        items = [
            cri_pb2.PodSandbox(
                id=one.id, metadata=cri_pb2.PodSandboxMetadata(name=one.name, namespace="ns", uid=one.uid),
                state=cri_pb2.SANDBOX_READY, created_at=one.number,
            )
            for one in tuple(self.sandboxes.values())
        ]  # fmt: skip
        return cri_pb2.ListPodSandboxResponse(items=items)

    def PodSandboxStatus(self, request: Any, context: Any) -> Any:
        one = self._found(request.pod_sandbox_id, context)
        reply = cri_pb2.PodSandboxStatusResponse()
        reply.status.linux.namespaces.options.network = cri_pb2.POD
        namespaces = [{"type": "network", "path": one.netns}]
        reply.info["info"] = json.dumps({"runtimeSpec": {"linux": {"namespaces": namespaces}}})
        return reply

    def ListContainers(self, request: Any, context: Any) -> Any:
        one = self.sandboxes.get(request.filter.pod_sandbox_id)
        metadata = cri_pb2.ContainerMetadata(name="vm")
        found = [cri_pb2.Container(id=f"{one.id}-vm", metadata=metadata)] if one and one.process else []
        return cri_pb2.ListContainersResponse(containers=found)

    def ContainerStatus(self, request: Any, context: Any) -> Any:
        one = self._found(request.container_id.removesuffix("-vm"), context)
        reply = cri_pb2.ContainerStatusResponse()
        reply.info["info"] = json.dumps({"pid": one.process})
        return reply

    def _found(self, sandbox: str, context: Any) -> Sandbox:
        if (one := self.sandboxes.get(sandbox)) is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such sandbox")
        return one
