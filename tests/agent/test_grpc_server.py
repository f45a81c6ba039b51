"""The declarative API over a real socket, with the controller's own client on the other side of it."""

import json
import time

import grpc
import pytest

from agent import grpc_server, underlay
from agent.api import agent_pb2 as api
from agent.api import agent_pb2_grpc
from agent.guests import wish
from agent.model import KUBEVIRT, AttachmentOutcome, Guest, Hold, NotReady, Outcome, Pod, PodUID, Refused, State
from agent.outcomes import Outcomes

POD = Pod(PodUID("u1"), "ns", "p1")
ELEMENT = json.dumps({"name": "blue", "namespace": "ns", "interface": "net1"})


class Engine:
    def __init__(self) -> None:
        self.applied, self.told, self.ready, self.problem = [], [], False, None

    def apply(self, desired):
        if self.problem:
            raise self.problem
        self.applied.append(desired)

    def caught_up(self):
        return self.ready


@pytest.fixture
def served(tmp_path):
    engine, outcomes = Engine(), Outcomes()
    servicer = grpc_server.Servicer(engine, outcomes, engine.told.append, lambda: ("container runtime: away",), "1.2.3")
    server = grpc_server.serve(servicer, tmp_path)
    with grpc.insecure_channel(f"unix://{tmp_path}/agent.sock") as channel:
        yield engine, outcomes, agent_pb2_grpc.AgentStub(channel), tmp_path
    server.stop(0).wait()


def request(**more):
    return api.ApplyRequest(pod=api.Pod(uid="u1", namespace="ns", name="p1"), revision="r1", **more)


def test_a_desired_set_arrives_as_it_was_sent(served):
    engine, _, stub, _ = served
    hold = api.Hold(state=api.PENDING, reason="NetworkNotFound", message="no red")
    attachments = [
        api.Attachment(element=ELEMENT, config='{"type": "x"}', nad_uid="n1", nad_resource_version="7"),
        api.Attachment(element='{"name": "red", "namespace": "ns"}', hold=hold),
    ]
    stub.Apply(request(attachments=attachments, kubevirt=True), timeout=5)
    desired = engine.applied[0]
    assert (desired.pod, desired.revision, desired.ended, desired.vm) == (POD, "r1", False, KUBEVIRT)
    first, second = desired.attachments
    assert (first.selection.network, first.selection.interface, first.config) == ("ns/blue", "net1", '{"type": "x"}')
    assert (first.nad_uid, first.nad_resource_version, first.hold) == ("n1", "7", None)
    assert second.hold == Hold(State.PENDING, "NetworkNotFound", "no red")


def test_no_annotation_is_taken_for_the_word_that_kubevirt_runs_the_machine(served):
    engine, _, stub, _ = served
    for text in ('{"qmp": "/q"}', KUBEVIRT):
        stub.Apply(request(vm=text), timeout=5)
    assert engine.applied[0].vm == '{"qmp": "/q"}'
    assert engine.applied[1].vm != KUBEVIRT
    with pytest.raises(Refused, match="not JSON"):
        wish.parse(engine.applied[1].vm)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (api.ApplyRequest(revision="r"), "pod"),
        (request(attachments=[api.Attachment(element="{")]), "attachments[0].element"),
        (
            request(attachments=[api.Attachment(element=ELEMENT, hold=api.Hold(state=api.ATTACHED))]),
            "attachments[0].hold",
        ),
    ],
)
def test_what_no_controller_would_send_is_refused_and_named(served, message, named):
    engine, _, stub, _ = served
    with pytest.raises(grpc.RpcError) as caught:
        stub.Apply(message, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in caught.value.details()
    assert engine.applied == []


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Refused("OtherPod", "not yours"), grpc.StatusCode.FAILED_PRECONDITION),
        (NotReady("RuntimeUnavailable", "not yours"), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_a_set_that_the_engine_does_not_take_is_answered_with_the_cause(served, problem, code):
    engine, _, stub, _ = served
    engine.problem = problem
    with pytest.raises(grpc.RpcError) as caught:
        stub.Apply(request(), timeout=5)
    assert (caught.value.code(), caught.value.details()) == (code, "not yours")


def test_a_watch_tells_what_is_known_then_synced_then_what_comes(served):
    engine, outcomes, stub, _ = served
    attachment = AttachmentOutcome(0, State.ATTACHED, "ns/blue", "net1", {"cniVersion": "1.1.0"}, "", "", 0)
    outcomes.publish(Outcome(POD, "r1", settled=True, attachments=(attachment,), released=("old",), sandbox="s1"))
    stream = stub.Watch(api.WatchRequest(), timeout=20)
    first = next(stream)
    assert (first.pod.uid, first.revision, first.settled, list(first.released)) == ("u1", "r1", True, ["old"])
    assert (first.attachments[0].state, json.loads(first.attachments[0].result)) == (
        api.ATTACHED,
        {"cniVersion": "1.1.0"},
    )
    engine.ready = True  # not before: what was in the journal may still be looked at
    assert next(stream).synced
    outcomes.publish(Outcome(POD, "r2", forgotten=True))
    assert next(stream).forgotten
    stream.cancel()


def watched(stub) -> grpc.StatusCode:
    """Begin to watch, and end it; return OK or why it was refused."""
    stream = stub.Watch(api.WatchRequest(), timeout=60)
    try:
        next(stream)
    except grpc.RpcError as problem:
        return problem.code()
    stream.cancel()
    return grpc.StatusCode.OK


def test_watchers_beyond_the_bound_are_refused_the_others_calls_are_answered_and_a_place_gets_free_again(served):
    engine, _, stub, _ = served
    engine.ready = True
    streams = [stub.Watch(api.WatchRequest(), timeout=120) for _ in range(grpc_server.WATCHERS)]
    assert all(next(stream).synced for stream in streams)
    for _ in range(40):  # more than there are threads
        assert watched(stub) is grpc.StatusCode.RESOURCE_EXHAUSTED
    stub.Apply(request(), timeout=60)
    streams.pop().cancel()
    end = time.monotonic() + 60
    while (code := watched(stub)) is not grpc.StatusCode.OK and time.monotonic() < end:
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        time.sleep(0.05)
    assert code is grpc.StatusCode.OK
    for one in streams:
        one.cancel()


def test_how_far_an_interface_has_got_in_a_virtual_machine_is_told(served):
    _, outcomes, stub, _ = served
    guest = Guest("GuestVisible", "eth1", "02:00:00:00:00:01", ("10.1.0.2/24",), "rp1", "driver")
    attachment = AttachmentOutcome(0, State.ATTACHED, "ns/blue", "net1", guest=guest)
    outcomes.publish(Outcome(POD, "r1", settled=True, attachments=(attachment,)))
    (outcome,) = stub.List(api.ListRequest(), timeout=5).outcomes
    told = outcome.attachments[0].guest
    assert (told.state, told.interface, told.mac) == ("GuestVisible", "eth1", "02:00:00:00:00:01")
    assert (list(told.addresses), told.port, told.evidence) == (["10.1.0.2/24"], "rp1", "driver")


def test_a_watch_is_not_synced_before_the_first_passes_are_done(served):
    _, _, stub, _ = served
    stream = stub.Watch(api.WatchRequest(), timeout=0.5)
    with pytest.raises(grpc.RpcError):
        next(stream)


def test_list_and_health(served):
    _, outcomes, stub, _ = served
    outcomes.publish(Outcome(POD, "r1"))
    assert [one.revision for one in stub.List(api.ListRequest(), timeout=5).outcomes] == ["r1"]
    health = stub.Health(api.HealthRequest(), timeout=5)
    assert (health.ready, list(health.waiting_for), health.version) == (False, ["container runtime: away"], "1.2.3")


def test_the_underlay_arrives_as_it_was_told(served):
    engine, _, stub, _ = served
    peers = [api.Peer(node="n3", address="192.0.2.3"), api.Peer(node="n2", address="192.0.2.2")]
    stub.SetUnderlay(api.SetUnderlayRequest(address="192.0.2.1", peers=peers), timeout=5)
    assert engine.told == [underlay.told("192.0.2.1", {"n2": "192.0.2.2", "n3": "192.0.2.3"})]


@pytest.mark.parametrize(
    ("own", "other", "named"),
    [
        ("", "192.0.2.2", "address=''"),
        ("192.0.2.1", "no.host", "peer n2"),
        ("192.0.2.1", "2001:db8::2", "n2"),
        ("224.0.0.1", "192.0.2.2", "224.0.0.1"),
        ("fe80::1", "fe80::2", "fe80::1"),
    ],
)
def test_an_underlay_that_no_tunnel_could_use_is_refused_and_named(served, own, other, named):
    engine, _, stub, _ = served
    with pytest.raises(grpc.RpcError) as caught:
        stub.SetUnderlay(api.SetUnderlayRequest(address=own, peers=[api.Peer(node="n2", address=other)]), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in caught.value.details()
    assert engine.told == []


def test_the_socket_is_for_root_only(served):
    assert (served[3] / "agent.sock").stat().st_mode & 0o777 == 0o600
