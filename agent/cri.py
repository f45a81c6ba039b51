"""The container runtime, over CRI: which sandboxes there are, and where their network namespaces are.

Rules
1. A sandbox is READY only after its CNI ADD has finished. containerd does not even list it before, so a
   pod that no CNI call of ours was served for shows up here at the earliest when its default network is
   complete.
2. containerd 1.6 has no event stream, and CRI-O has it switched off: callers ask when they need to know.
   A call costs about a millisecond.
3. The path of the namespace is in no field of CRI. Both runtimes put it into the verbose status as the
   runtime specification of the sandbox; containerd has it as metadata too, for sandboxes without such a
   specification.
4. Every call has a deadline, and the channel reconnects by itself within a second of the runtime's
   return.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.model import ContainerID, PodUID
from cni import jsontext

if TYPE_CHECKING:
    import grpc

    from agent.api import cri_pb2

DEADLINE_S = 5.0

# Annotations are part of the list, and a node may run hundreds of pods: grpc's own 4 MiB would be an outage.
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # which is how long an attempt may take, on a node that is busy too
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


_LAST_PROCESS = 1 << 22  # the kernel's own bound (PID_MAX_LIMIT)


class RuntimeUnavailable(Exception):
    """The container runtime does not answer, or not what CRI says."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    id: ContainerID
    pod_uid: PodUID
    namespace: str
    name: str
    attempt: int
    created_ns: int
    ready: bool


def current(sandboxes: Collection[Sandbox], pod_uid: str) -> Sandbox | None:
    """Return the pod's living sandbox: the ready one of the last attempt, the newest among equals."""
    ready = [one for one in sandboxes if one.pod_uid == pod_uid and one.ready]
    return max(ready, key=lambda one: (one.attempt, one.created_ns), default=None)


@dataclass(frozen=True, slots=True)
class Container:
    """A running one. `image`: its name for the runtime, mostly an ID (Runtime.tag)."""

    name: str
    pod: str  # namespace/name
    image: str


class Runtime:
    """One runtime endpoint, such as `unix:///run/containerd/containerd.sock`. Usable from any thread."""

    def __init__(self, endpoint: str, deadline_s: float = DEADLINE_S) -> None:
        # here, since who asks no runtime (agent.standalone) need not wait 80 ms for these
        import grpc  # noqa: PLC0415

        from agent.api import cri_pb2, cri_pb2_grpc  # noqa: PLC0415

        self._grpc, self._messages = grpc, cri_pb2
        self._endpoint = endpoint
        self._deadline_s = deadline_s
        self._channel = grpc.insecure_channel(endpoint, options=_OPTIONS)
        self._stub = cri_pb2_grpc.RuntimeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._images = cri_pb2_grpc.ImageServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def version(self) -> str:
        """Return the runtime's name and version."""
        try:
            reply = self._stub.Version(self._messages.VersionRequest(), timeout=self._deadline_s)
        except self._grpc.RpcError as error:
            raise self._unavailable("Version", error) from error
        return f"{reply.runtime_name} {reply.runtime_version}"

    def sandboxes(self) -> tuple[Sandbox, ...]:
        """Return all sandboxes of the node in all states."""
        request = self._messages.ListPodSandboxRequest()
        try:
            reply = self._stub.ListPodSandbox(request, timeout=self._deadline_s)
        except self._grpc.RpcError as error:
            raise self._unavailable("ListPodSandbox", error) from error
        return tuple(_sandbox(item, ready=item.state == self._messages.SANDBOX_READY) for item in reply.items)

    def netns(self, sandbox_id: str) -> str:
        """Return the path of the sandbox's network namespace; "" where it has none of its own, or is gone."""
        request = self._messages.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        try:
            reply = self._stub.PodSandboxStatus(request, timeout=self._deadline_s)
        except self._grpc.RpcError as error:
            if error.code() is self._grpc.StatusCode.NOT_FOUND:
                return ""
            raise self._unavailable("PodSandboxStatus", error) from error
        if reply.status.linux.namespaces.options.network == self._messages.NODE:
            return ""
        try:
            return namespace_path(jsontext.loads(reply.info["info"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RuntimeUnavailable(
                f"container runtime at {self._endpoint} does not say where the network namespace of sandbox "
                f"{sandbox_id} is: {error!r} in its verbose status"
            ) from error

    def containers(self, sandbox_id: str) -> Mapping[str, str]:
        """Return the running containers of a sandbox, name to ID."""
        state = self._messages.ContainerStateValue(state=self._messages.CONTAINER_RUNNING)
        wanted = self._messages.ContainerFilter(state=state, pod_sandbox_id=sandbox_id)
        request = self._messages.ListContainersRequest(filter=wanted)
        try:
            reply = self._stub.ListContainers(request, timeout=self._deadline_s)
        except self._grpc.RpcError as error:
            raise self._unavailable("ListContainers", error) from error
        return {one.metadata.name: one.id for one in reply.containers}

    def running(self) -> tuple[Container, ...]:
        """Return the running containers of the node."""
        state = self._messages.ContainerStateValue(state=self._messages.CONTAINER_RUNNING)
        request = self._messages.ListContainersRequest(filter=self._messages.ContainerFilter(state=state))
        try:
            reply = self._stub.ListContainers(request, timeout=self._deadline_s)
        except self._grpc.RpcError as error:
            raise self._unavailable("ListContainers", error) from error
        return tuple(Container(one.metadata.name, _pod(one.labels), one.image.image) for one in reply.containers)

    def tag(self, image: str) -> str:
        """Return the name and tag by which people know an image; `image` itself where it has none."""
        request = self._messages.ImageStatusRequest(image=self._messages.ImageSpec(image=image))
        try:
            reply = self._images.ImageStatus(request, timeout=self._deadline_s)
        except self._grpc.RpcError as error:
            raise self._unavailable("ImageStatus", error) from error
        return str(next(iter(reply.image.repo_tags), image))

    def process(self, container_id: str) -> int:
        """Return the ID of a container's first process, as the node counts; 0 where it has none any more."""
        request = self._messages.ContainerStatusRequest(container_id=container_id, verbose=True)
        try:
            reply = self._stub.ContainerStatus(request, timeout=self._deadline_s)
        except self._grpc.RpcError as error:
            if error.code() is self._grpc.StatusCode.NOT_FOUND:
                return 0
            raise self._unavailable("ContainerStatus", error) from error
        try:
            return _process(jsontext.loads(reply.info["info"])["pid"])
        except (KeyError, TypeError, ValueError) as error:
            raise RuntimeUnavailable(
                f"container runtime at {self._endpoint} does not say which process container {container_id} is: "
                f"{error!r} in its verbose status"
            ) from error

    def close(self) -> None:
        self._channel.close()

    def _unavailable(self, call: str, error: grpc.RpcError) -> RuntimeUnavailable:
        return RuntimeUnavailable(
            f"container runtime at {self._endpoint}: {call}: {error.code().name}: {error.details()}"
        )


def namespace_path(info: Mapping[str, Any]) -> str:
    """Find the path in a verbose status (rule 3). Fails where the status is of another shape."""
    if info.get("netNamespaceClosed"):
        return ""
    if info.get("runtimeSpec") is None:
        return _path(info["sandboxMetadata"]["Metadata"]["NetNSPath"])
    namespaces = info["runtimeSpec"]["linux"].get("namespaces") or ()
    # No entry of the type: the sandbox shares the node's. One without a path: no runtime of ours makes such.
    return next((_path(one.get("path", "")) for one in namespaces if one["type"] == "network"), "")


def _path(said: Any) -> str:
    if not isinstance(said, str) or "\0" in said:
        raise ValueError(f"{said!r} is no path")
    return said


def _process(said: Any) -> int:
    if not isinstance(said, int) or isinstance(said, bool) or not 0 <= said <= _LAST_PROCESS:
        raise ValueError(f"{said!r} is no process")
    return said


def _pod(labels: Mapping[str, str]) -> str:
    return f"{labels.get('io.kubernetes.pod.namespace', '')}/{labels.get('io.kubernetes.pod.name', '')}"


def _sandbox(item: cri_pb2.PodSandbox, *, ready: bool) -> Sandbox:
    return Sandbox(
        id=ContainerID(item.id),
        pod_uid=PodUID(item.metadata.uid),
        namespace=item.metadata.namespace,
        name=item.metadata.name,
        attempt=item.metadata.attempt,
        created_ns=item.created_at,
        ready=ready,
    )
