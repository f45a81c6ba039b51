import threading
import time
from dataclasses import replace

import grpc
import pytest

from agent.api import agent_pb2 as api
from controller.agents import Agents, Listeners
from controller.desired import Attachment, Desired, Hold
from controller.model import Guest, PodRef, PodUID, State
from controller.nodes import Underlay
from controller.reconcile import Rejected
from controller.workers import Unavailable
from tests.controller.fake_agent import FakeAgent, serving

REF = PodRef(PodUID("uid-p"), "ns", "p")
WISH = Desired(
    "r1",
    (
        Attachment('{"name":"blue","namespace":"ns"}', "{}", "nad", "7"),
        Attachment(
            '{"name":"ghost","namespace":"ns"}', "", "", "", Hold(State.PENDING, "NetworkNotFound", "not there")
        ),
    ),
)


class Listener:
    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.news = threading.Condition()

    def synced(self, outcomes) -> None:
        self._note("synced", [(one.pod.uid, one.revision) for one in outcomes])

    def told(self, outcome) -> None:
        self._note("told", outcome)

    def lost(self) -> None:
        self._note("lost", None)

    def _note(self, what, about) -> None:
        with self.news:
            self.calls.append((what, about))
            self.news.notify_all()

    def wait(self, *expected: str) -> None:
        with self.news:
            assert self.news.wait_for(lambda: [what for what, _ in self.calls] == list(expected), 5), self.calls


@pytest.fixture
def target(tmp_path):
    return f"unix://{tmp_path}/agent.sock"


@pytest.fixture
def agents(target):
    one = Agents(target)
    yield one
    one.close()


def test_a_wish_arrives_as_it_was_meant(target, agents):
    fake = FakeAgent()
    with serving(fake, target):
        agents.apply(REF, WISH)
        agents.end(REF)
    wish, end = fake.requests("uid-p")
    assert (wish.pod.namespace, wish.pod.name, wish.revision, wish.ended) == ("ns", "p", "r1", False)
    blue, ghost = wish.attachments
    assert (blue.element, blue.config, blue.nad_uid, blue.nad_resource_version) == (
        '{"name":"blue","namespace":"ns"}', "{}", "nad", "7",
    )  # fmt: skip
    assert not blue.HasField("hold")
    assert (ghost.hold.state, ghost.hold.reason, ghost.hold.message) == (api.PENDING, "NetworkNotFound", "not there")
    assert end.ended


def test_an_agent_that_is_away_is_unavailable_at_once(agents):
    started = time.monotonic()
    with pytest.raises(Unavailable, match="UNAVAILABLE"):
        agents.apply(REF, WISH)
    assert time.monotonic() - started < 5


def test_what_the_agent_refuses_says_why(target, agents):
    fake = FakeAgent()
    fake.refuse = grpc.StatusCode.INVALID_ARGUMENT
    with serving(fake, target), pytest.raises(Unavailable, match="INVALID_ARGUMENT: as the test wants it"):
        agents.apply(REF, WISH)


def test_everything_known_comes_first_and_then_every_change(target, agents):
    fake, listener, stop = FakeAgent(), Listener(), threading.Event()
    with serving(fake, target):
        agents.apply(REF, WISH)
        threading.Thread(target=agents.follow, args=(listener, stop), daemon=True).start()
        listener.wait("synced")
        fake.settle("uid-p")
        listener.wait("synced", "told")
        stop.set()
    assert listener.calls[0][1] == [("uid-p", "r1")]
    outcome = listener.calls[1][1]
    attached, held = outcome.attachments
    assert (attached.state, attached.interface, attached.position) == (State.ATTACHED, "net1", 0)
    assert (held.state, held.reason) == (State.PENDING, "NetworkNotFound")
    assert (outcome.settled, outcome.sandbox) == (True, "sandbox-1")


def test_an_agent_that_comes_back_is_found_within_a_second(target, agents):
    fake, listener, stop = FakeAgent(), Listener(), threading.Event()
    with serving(fake, target) as kill:
        threading.Thread(target=agents.follow, args=(listener, stop), daemon=True).start()
        listener.wait("synced")
        kill()
        listener.wait("synced", "lost")
        time.sleep(1.0)
        started = time.monotonic()
        with serving(fake, target):
            listener.wait("synced", "lost", "synced")
            assert time.monotonic() - started < 5
            agents.apply(REF, WISH)
            stop.set()


def test_the_nodes_addresses_arrive_as_they_were_told(agents, target):
    agent = FakeAgent()
    with serving(agent, target):
        agents.set_underlay(Underlay("192.0.2.1", {"n2": "192.0.2.2"}))
        agent.refuse = grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(Unavailable, match="as the test wants it"):
            agents.set_underlay(Underlay("", {}))
    (request,) = agent.underlays
    assert (request.address, [(peer.node, peer.address) for peer in request.peers]) == (
        "192.0.2.1", [("n2", "192.0.2.2")],
    )  # fmt: skip


def test_several_listeners_hear_the_same():
    ears = Listener(), Listener()
    everybody = Listeners(*ears)
    everybody.synced(iter(()))
    everybody.told("outcome")
    everybody.lost()
    assert ears[0].calls == ears[1].calls == [("synced", []), ("told", "outcome"), ("lost", None)]


@pytest.mark.parametrize(
    ("code", "error"),
    [(grpc.StatusCode.FAILED_PRECONDITION, Rejected), (grpc.StatusCode.UNAVAILABLE, Unavailable)],
)
def test_what_the_agent_will_never_take_is_told_from_what_can_be_tried_again(target, agents, code, error):
    fake = FakeAgent()
    fake.refuse = code
    with serving(fake, target):
        for send in (lambda: agents.apply(REF, WISH), lambda: agents.end(REF)):
            with pytest.raises(error, match="as the test wants it"):
                send()


def test_the_virtual_machine_goes_both_ways(target, agents):
    guest = api.Guest(state="Attached", interface="eth1", mac="m", addresses=["a"], port="rp1", evidence="driver")
    message = api.Outcome(
        pod=api.Pod(uid="u", namespace="ns", name="p"),
        attachments=[api.AttachmentOutcome(state=api.PENDING, guest=guest), api.AttachmentOutcome(state=api.ATTACHED)],
    )
    fake, listener, stop = FakeAgent(), Listener(), threading.Event()
    with serving(fake, target):
        agents.apply(REF, replace(WISH, vm="{}"))
        agents.apply(REF, replace(WISH, is_kubevirts=True))
        assert [(one.vm, one.kubevirt) for one in fake.requests("uid-p")] == [("{}", False), ("", True)]
        threading.Thread(target=agents.follow, args=(listener, stop), daemon=True).start()
        listener.wait("synced")
        fake.say(message)
        listener.wait("synced", "told")
        stop.set()
    one, other = listener.calls[1][1].attachments
    assert (one.guest, other.guest) == (Guest("Attached", "eth1", "m", ("a",), "rp1", "driver"), None)
