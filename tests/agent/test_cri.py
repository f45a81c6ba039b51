"""CRI against a real gRPC server with the shapes that containerd and CRI-O answer in."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent import cri
from agent.api import cri_pb2, cri_pb2_grpc
from agent.model import ContainerID, PodUID

NETNS = "/var/run/netns/cni-1"
SPEC = {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": NETNS}]}}
HOST_SPEC = {"linux": {"namespaces": [{"type": "pid"}]}}
METADATA = {"Version": "v1", "Metadata": {"ID": "s1", "NetNSPath": NETNS, "Config": {}}}


class Service(cri_pb2_grpc.RuntimeServiceServicer, cri_pb2_grpc.ImageServiceServicer):
    """Answers with what the test put in."""

    def __init__(self) -> None:
        self.items: list[cri_pb2.PodSandbox] = []
        self.status = cri_pb2.PodSandboxStatusResponse()
        self.containers: list[cri_pb2.Container] = []
        self.tags: dict[str, list[str]] = {}
        self.container = cri_pb2.ContainerStatusResponse()
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.requests: list[Any] = []
        self.released = threading.Event()
        self.released.set()

    def Version(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answering(request, context)
        return cri_pb2.VersionResponse(runtime_name="containerd", runtime_version="1.6.20")

    def ImageStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answering(request, context)
        return cri_pb2.ImageStatusResponse(image=cri_pb2.Image(repo_tags=self.tags.get(request.image.image, ())))

    def ListPodSandbox(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answering(request, context)
        return cri_pb2.ListPodSandboxResponse(items=self.items)

    def PodSandboxStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answering(request, context)
        return self.status

    def ListContainers(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answering(request, context)
        return cri_pb2.ListContainersResponse(containers=self.containers)

    def ContainerStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._answering(request, context)
        return self.container

    def _answering(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.released.wait(10)
        if self.error:
            context.abort(*self.error)


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/cri.sock"


@pytest.fixture
def service(endpoint: str) -> Iterator[Service]:
    service = Service()
    server = serve(service, endpoint)
    yield service
    service.released.set()
    server.stop(0).wait()


@pytest.fixture
def runtime(endpoint: str) -> Iterator[cri.Runtime]:
    runtime = cri.Runtime(endpoint)
    yield runtime
    runtime.close()


def serve(service: Service, endpoint: str) -> grpc.Server:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    cri_pb2_grpc.add_RuntimeServiceServicer_to_server(service, server)
    cri_pb2_grpc.add_ImageServiceServicer_to_server(service, server)
    server.add_insecure_port(endpoint)
    server.start()
    return server


def answer(info: Any, network: int = cri_pb2.POD) -> cri_pb2.PodSandboxStatusResponse:
    response = cri_pb2.PodSandboxStatusResponse()
    response.status.linux.namespaces.options.network = network
    if info is not None:
        response.info["info"] = info if isinstance(info, str) else json.dumps(info)
    return response


def unavailable(action: Any) -> str:
    with pytest.raises(cri.RuntimeUnavailable) as caught:
        action()
    return str(caught.value)


# -- who it is, and what runs ---------------------------------------------------------------------------------


def container(name: str, pod: str, image: str) -> cri_pb2.Container:
    namespace, _, own = pod.partition("/")
    labels = {"io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.name": own}
    spec = cri_pb2.ImageSpec(image=image)
    return cri_pb2.Container(id="c1", metadata=cri_pb2.ContainerMetadata(name=name), image=spec, labels=labels)


def test_a_runtime_says_who_it_is_and_what_runs(service, runtime):
    service.containers, service.tags = [container("c", "ns/p", "sha256:1")], {"sha256:1": ["r/p:v1", "r/p:v2"]}
    assert runtime.version() == "containerd 1.6.20"
    assert runtime.running() == (cri.Container("c", "ns/p", "sha256:1"),)
    assert service.requests[-1].filter.state.state == cri_pb2.CONTAINER_RUNNING
    assert not service.requests[-1].filter.pod_sandbox_id
    assert runtime.tag("sha256:1") == "r/p:v1"
    assert runtime.tag("sha256:2") == "sha256:2"


@pytest.mark.parametrize("ask", [cri.Runtime.version, cri.Runtime.running, lambda one: one.tag("x")])
def test_a_runtime_that_refuses_is_unavailable(service, runtime, ask):
    service.error = (grpc.StatusCode.UNIMPLEMENTED, "unknown service")
    assert "UNIMPLEMENTED: unknown service" in unavailable(lambda: ask(runtime))


# -- which sandboxes ------------------------------------------------------------------------------------------


def test_all_sandboxes_are_listed_in_all_states(service, runtime):
    metadata = cri_pb2.PodSandboxMetadata(name="p", namespace="ns", uid="u", attempt=3)
    service.items = [
        cri_pb2.PodSandbox(id="s1", metadata=metadata, state=cri_pb2.SANDBOX_READY, created_at=7),
        cri_pb2.PodSandbox(id="s2", metadata=metadata, state=cri_pb2.SANDBOX_NOTREADY),
    ]
    first = cri.Sandbox(ContainerID("s1"), PodUID("u"), "ns", "p", attempt=3, created_ns=7, ready=True)
    assert runtime.sandboxes() == (first, replace(first, id="s2", created_ns=0, ready=False))


def test_a_node_full_of_large_annotations_can_be_listed(service, runtime):
    labels = {"k": "v" * 100_000}
    service.items = [cri_pb2.PodSandbox(id=str(number), labels=labels) for number in range(100)]
    assert len(runtime.sandboxes()) == 100


OLD = cri.Sandbox(ContainerID("old"), PodUID("u"), "ns", "p", attempt=0, created_ns=1, ready=False)
NEW = cri.Sandbox(ContainerID("new"), PodUID("u"), "ns", "p", attempt=1, created_ns=2, ready=True)


@pytest.mark.parametrize(
    ("sandboxes", "expected"),
    [
        ([], None),
        ([OLD], None),
        ([OLD, NEW], NEW),
        ([NEW, OLD], NEW),
        ([NEW, replace(OLD, ready=True, created_ns=9)], NEW),
        ([NEW, replace(NEW, id="newer", created_ns=3)], replace(NEW, id="newer", created_ns=3)),
        ([replace(NEW, pod_uid="other")], None),
        ([NEW, replace(NEW, id="next", attempt=2, ready=False)], NEW),
    ],
)
def test_the_current_sandbox_is_the_ready_one_of_the_last_attempt(sandboxes, expected):
    assert cri.current(sandboxes, "u") == expected


# -- where its namespace is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        pytest.param({"pid": 5, "netNamespaceClosed": False, "runtimeSpec": SPEC}, NETNS, id="containerd 1.6"),
        pytest.param({"runtimeSpec": SPEC, "sandboxMetadata": METADATA}, NETNS, id="containerd 2"),
        pytest.param({"runtimeSpec": None, "sandboxMetadata": METADATA}, NETNS, id="containerd, no specification"),
        pytest.param({"netNamespaceClosed": True, "runtimeSpec": SPEC}, "", id="containerd, stopped"),
        pytest.param({"image": "pause", "pid": 5, "runtimeSpec": SPEC}, NETNS, id="CRI-O"),
        pytest.param({"runtimeSpec": SPEC}, NETNS, id="CRI-O without infra container"),
        pytest.param({"runtimeSpec": HOST_SPEC}, "", id="host network by specification"),
        pytest.param({"runtimeSpec": {"linux": {}}}, "", id="no namespaces at all"),
    ],
)
def test_the_path_of_the_namespace_is_found(service, runtime, info, expected):
    service.status = answer(info)
    assert runtime.netns("s1") == expected
    assert service.requests == [cri_pb2.PodSandboxStatusRequest(pod_sandbox_id="s1", verbose=True)]


def test_a_sandbox_on_the_host_network_has_none(service, runtime):
    service.status = answer({"runtimeSpec": SPEC}, network=cri_pb2.NODE)
    assert runtime.netns("s1") == ""


def test_a_sandbox_that_is_gone_has_none(service, runtime):
    service.error = (grpc.StatusCode.NOT_FOUND, "no such sandbox")
    assert runtime.netns("s1") == ""


@pytest.mark.parametrize(
    "info",
    [None, "", "{", "[]", "null", {}, {"runtimeSpec": None}, {"runtimeSpec": {}}, {"runtimeSpec": {"linux": 5}}],
)
def test_an_answer_of_an_unknown_shape_is_told_not_guessed(service, runtime, info):
    service.status = answer(info)
    told = unavailable(lambda: runtime.netns("s1"))
    assert "does not say where the network namespace of sandbox s1 is" in told


# -- when it does not answer ----------------------------------------------------------------------------------


def test_errors_say_which_call_of_which_runtime_failed_and_why(service, runtime, endpoint):
    service.error = (grpc.StatusCode.UNKNOWN, "out of luck")
    expected = f"container runtime at {endpoint}: ListPodSandbox: UNKNOWN: out of luck"
    assert unavailable(runtime.sandboxes) == expected
    assert "PodSandboxStatus: UNKNOWN: out of luck" in unavailable(lambda: runtime.netns("s1"))


def test_a_runtime_that_hangs_is_given_up_at_the_deadline(service, endpoint):
    service.released.clear()
    runtime = cri.Runtime(endpoint, deadline_s=0.1)
    begun = time.monotonic()
    assert "DEADLINE_EXCEEDED" in unavailable(runtime.sandboxes)
    assert time.monotonic() - begun < 5
    runtime.close()


def test_a_runtime_that_is_not_there_is_told_at_once_and_found_when_it_comes_back(endpoint, runtime):
    begun = time.monotonic()
    assert "UNAVAILABLE" in unavailable(runtime.sandboxes)
    assert time.monotonic() - begun < 5
    for _ in range(2):
        server = serve(Service(), endpoint)
        assert answers_within(runtime, 3)
        server.stop(0).wait()
        unavailable(runtime.sandboxes)


def answers_within(runtime: cri.Runtime, seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            runtime.sandboxes()
        except cri.RuntimeUnavailable:
            time.sleep(0.05)
        else:
            return True
    return False


def test_the_running_containers_of_a_sandbox_are_asked_for_by_name(service, runtime):
    service.containers = [cri_pb2.Container(id="c1", metadata=cri_pb2.ContainerMetadata(name="vm"))]
    assert runtime.containers("s1") == {"vm": "c1"}
    wanted = service.requests[0].filter
    assert (wanted.pod_sandbox_id, wanted.state.state) == ("s1", cri_pb2.CONTAINER_RUNNING)


def test_a_containers_process_is_in_the_verbose_status(service, runtime):
    service.container.info["info"] = json.dumps({"pid": 4711, "sandboxID": "s1"})
    assert runtime.process("c1") == 4711
    service.error = (grpc.StatusCode.NOT_FOUND, "no such container")
    assert runtime.process("c1") == 0


@pytest.mark.parametrize("info", [{}, {"info": "{"}, {"info": "{}"}, {"info": "[]"}, {"info": '{"pid": "x"}'}])
def test_a_container_of_an_unknown_shape_is_told_not_guessed(service, runtime, info):
    service.container.info.update(info)
    with pytest.raises(cri.RuntimeUnavailable, match="which process container c1 is"):
        runtime.process("c1")
