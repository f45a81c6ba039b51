"""Agent and controller one version apart, either way: what both know arrives, what one does not know harms nobody."""

import json
import threading

import grpc
import pytest

from agent import grpc_server, underlay
from agent.model import AttachmentOutcome, Guest, Outcome, Pod, PodUID, State
from agent.outcomes import Outcomes
from controller.agents import Agents
from controller.desired import Attachment, Desired
from controller.model import PodRef
from controller.model import PodUID as RefUID
from controller.nodes import Underlay
from controller.workers import Unavailable
from tests.compatibility import peers
from tests.compatibility.peers import Version

POD = Pod(PodUID("u1"), "ns", "p1")
REF = PodRef(RefUID("u1"), "ns", "p1")
ELEMENT = json.dumps({"name": "blue", "namespace": "ns", "interface": "net1"})
OUTCOME = Outcome(
    POD, "r1", settled=True,
    attachments=(
        AttachmentOutcome(0, State.ATTACHED, "ns/blue", "net1", {"cniVersion": "1.1.0"}, attempts=1,
                          guest=Guest("GuestVisible", "eth1", "02:00:00:00:00:01")),
        AttachmentOutcome(1, State.REFUSED, "ns/red", "", None, "Wrong", "no"),
    ),
    released=("net9 ns/green",), sandbox="s1",
)  # fmt: skip
VERSIONS = {**{name: peers.recorded(name) for name in peers.RECORDED}, "the next": peers.next_one()}


@pytest.fixture(params=VERSIONS)
def name(request):
    return request.param


@pytest.fixture
def other(name):
    return Version(VERSIONS[name])


# -- what may change -------------------------------------------------------------------------------------------------


def fields(message):
    return {one.number: (one.name, one.type, one.label, one.type_name) for one in message.field}


@pytest.mark.parametrize("version", peers.RECORDED)
def test_nothing_that_a_version_has_had_is_gone_or_means_something_else(version):
    old, new = peers.recorded(version), peers.present()
    messages = {one.name: fields(one) for one in new.message_type}
    for message in old.message_type:
        now = messages[message.name]
        assert {number: now.get(number) for number in fields(message)} == fields(message)
    enums = {one.name: {(value.number, value.name) for value in one.value} for one in new.enum_type}
    for enum in old.enum_type:
        assert {(value.number, value.name) for value in enum.value} <= enums[enum.name]
    (service,), (was,) = new.service, old.service
    assert (new.package, service.name) == (old.package, was.name)
    calls = {
        one.name: (one.input_type, one.output_type, one.client_streaming, one.server_streaming)
        for one in service.method
    }
    for one in was.method:
        assert calls[one.name] == (one.input_type, one.output_type, one.client_streaming, one.server_streaming)


def test_the_last_recorded_version_is_the_present_one_or_a_part_of_it():
    """A release without its description would leave the next one nothing to be compared with."""
    old, new = peers.recorded("0.1"), peers.present()
    assert len(old.message_type) <= len(new.message_type)
    assert {one.name for one in old.service[0].method} == {"Apply", "Watch", "List", "Health", "SetUnderlay"}


# -- this agent, another controller ----------------------------------------------------------------------------------


class Engine:
    def __init__(self) -> None:
        self.applied, self.told = [], []

    def apply(self, desired):
        self.applied.append(desired)

    def caught_up(self):
        return True


@pytest.fixture
def agent(tmp_path):
    engine, outcomes = Engine(), Outcomes()
    servicer = grpc_server.Servicer(engine, outcomes, engine.told.append, lambda: ("a",), "0.2.0")
    server = grpc_server.serve(servicer, tmp_path)
    with grpc.insecure_channel(f"unix://{tmp_path}/agent.sock") as channel:
        yield engine, outcomes, channel
    server.stop(0).wait()


def later(name):
    """What a later version says more."""
    return {"later": "x"} if name == "the next" else {}


def test_another_controller_has_its_wishes_taken(agent, name, other):
    engine, _, channel = agent
    more = later(name)
    attachment = other.message(
        "Attachment", element=ELEMENT, config="{}", nad_uid="n1", nad_resource_version="7", **more
    )
    request = other.message(
        "ApplyRequest", pod=other.message("Pod", uid="u1", namespace="ns", name="p1", **more), revision="r1",
        attachments=[attachment], **more,
    )  # fmt: skip
    other.call(channel, "Apply", request)
    (desired,) = engine.applied
    assert (desired.pod, desired.revision, desired.ended, desired.keep, desired.vm) == (POD, "r1", False, (), "")
    (wanted,) = desired.attachments
    assert (wanted.selection.network, wanted.config, wanted.nad_uid, wanted.hold) == ("ns/blue", "{}", "n1", None)


def test_a_hold_of_a_kind_that_only_a_later_controller_knows_is_refused_and_not_guessed(agent):
    engine, _, channel = agent
    newer = Version(VERSIONS["the next"])
    hold = newer.message("Hold", state=peers.LATER, reason="Later")
    attachment = newer.message("Attachment", element=ELEMENT, hold=hold)
    request = newer.message(
        "ApplyRequest", pod=newer.message("Pod", uid="u1", namespace="ns", name="p1"), attachments=[attachment]
    )
    with pytest.raises(grpc.RpcError) as refused:
        newer.call(channel, "Apply", request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert engine.applied == []


def test_another_controller_hears_all_that_it_can_know(agent, name, other):
    _, outcomes, channel = agent
    outcomes.publish(OUTCOME)
    stream = other.call(channel, "Watch", other.message("WatchRequest", **later(name)))
    told, synced = next(stream), next(stream)
    assert synced.synced
    for one in (told, other.call(channel, "List", other.message("ListRequest")).outcomes[0]):
        assert (one.pod.uid, one.revision, one.settled, one.sandbox) == ("u1", "r1", True, "s1")
        first, second = one.attachments
        assert (first.state, first.interface, json.loads(first.result)) == (2, "net1", {"cniVersion": "1.1.0"})
        assert (second.state, second.reason, second.message) == (3, "Wrong", "no")
        assert list(one.released) == ["net9 ns/green"]
    stream.cancel()
    health = other.call(channel, "Health", other.message("HealthRequest"))
    assert (health.ready, list(health.waiting_for), health.version) == (False, ["a"], "0.2.0")


def test_another_controller_tells_of_the_underlay(agent, name, other):
    engine, _, channel = agent
    if "SetUnderlay" in other.methods:
        peer = other.message("Peer", node="n2", address="10.0.0.2", **later(name))
        other.call(
            channel, "SetUnderlay", other.message("SetUnderlayRequest", address="10.0.0.1", peers=[peer], **later(name))
        )
        assert engine.told == [underlay.told("10.0.0.1", {"n2": "10.0.0.2"})]
    else:
        assert name == "first"


# -- this controller, another agent ----------------------------------------------------------------------------------


class Listener:
    def __init__(self) -> None:
        self.known, self.news, self.changed = None, [], threading.Condition()

    def synced(self, outcomes) -> None:
        with self.changed:
            self.known = list(outcomes)
            self.changed.notify_all()

    def told(self, outcome) -> None:
        with self.changed:
            self.news.append(outcome)
            self.changed.notify_all()

    def lost(self) -> None: ...


class Older:
    """An agent of another version: takes wishes, and tells one outcome at the start and one after."""

    def __init__(self, version: Version, name: str) -> None:
        self._version, self._more = version, later(name)
        self.applied, self.underlays = [], []

    def Apply(self, request, context):
        self.applied.append(request)
        return self._version.message("ApplyResponse")

    def SetUnderlay(self, request, context):
        self.underlays.append(request)
        return self._version.message("SetUnderlayResponse")

    def Watch(self, request, context):
        make = self._version.message
        pod = make("Pod", uid="u1", namespace="ns", name="p1")
        attached = make(
            "AttachmentOutcome", position=0, state=2, network="ns/blue", interface="net1", result="{}", **self._more
        )
        odd = [make("AttachmentOutcome", position=1, state=peers.LATER)] if self._more else []
        yield make(
            "Outcome", pod=pod, revision="r1", settled=True, attachments=[attached, *odd], sandbox="s1", **self._more
        )
        yield make("Outcome", synced=True)
        yield make("Outcome", pod=pod, revision="r1", forgotten=True)
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait(60)


@pytest.fixture
def controller(tmp_path, name, other):
    endpoint = f"unix://{tmp_path}/agent.sock"
    peer = Older(other, name)
    server = other.serve(endpoint, {one: getattr(peer, one) for one in ("Apply", "Watch", "SetUnderlay")})
    agents = Agents(endpoint)
    yield agents, peer
    agents.close()
    server.stop(0).wait()


def test_the_controllers_wishes_reach_another_agent(controller):
    agents, peer = controller
    agents.apply(REF, Desired("r1", (Attachment(ELEMENT, "{}", "n1", "7"),), vm='{"qmp": "/q"}'))
    agents.end(REF)
    first, last = peer.applied
    assert (first.pod.uid, first.revision, first.attachments[0].element, first.ended) == ("u1", "r1", ELEMENT, False)
    assert (last.pod.uid, last.ended) == ("u1", True)


def test_the_controller_hears_another_agent_and_passes_over_what_it_cannot_know(controller):
    agents, _ = controller
    listener, stop = Listener(), threading.Event()
    thread = threading.Thread(target=agents.follow, args=(listener, stop))
    thread.start()
    try:
        with listener.changed:
            assert listener.changed.wait_for(lambda: listener.news, 20)
    finally:
        stop.set()
        agents.close()
        thread.join(20)
    (known,) = listener.known
    assert (known.pod, known.revision, known.settled, known.sandbox) == (REF, "r1", True, "s1")
    assert [(one.position, one.network, one.interface, one.result) for one in known.attachments] == [
        (0, "ns/blue", "net1", "{}")
    ]
    assert listener.news[0].forgotten


def test_an_agent_that_knows_no_underlay_is_one_to_be_told_again(controller, other):
    agents, peer = controller
    told = Underlay("10.0.0.1", {"n2": "10.0.0.2"})
    if "SetUnderlay" in other.methods:
        agents.set_underlay(told)
        assert peer.underlays[0].peers[0].node == "n2"
    else:
        with pytest.raises(Unavailable, match="UNIMPLEMENTED"):
            agents.set_underlay(told)
