"""Found by the story `hotplug`: a pod whose sandbox is another one by now, which cannot be looked into."""

import pytest

from agent.model import ContainerID, Namespace
from agent.sandboxes import Sandbox
from cni import errors
from tests.agent.test_engine import POD, Story, states, wish

SECOND = Sandbox(ContainerID("s2"), Namespace("/run/netns/s2", 4, 2))


@pytest.fixture
def story(tmp_path):
    made = Story(tmp_path).start()
    yield made
    made.stop()


def test_what_the_sandbox_before_had_is_not_told_to_be_attached_in_one_that_cannot_be_read(story):
    story.apply("r1", wish("blue", "net1"))
    assert states(story.settled("r1")) == [("net1", "Attached", "")]
    readable = story.world.pod_links

    def unreadable(sandbox: str) -> object:
        if sandbox == SECOND.id:
            raise errors.CNIError(errors.Code.TRY_AGAIN, "cannot list links", "No buffer space available")
        return readable(sandbox)

    story.world.pod_links = unreadable
    story.world.links[SECOND.id] = {"lo", "eth0"}
    story.world.sandboxes[POD.uid] = SECOND
    story.engine.look(POD.uid)
    held_up = story.outcome(lambda one: one.sandbox == SECOND.id)
    assert states(held_up) == [("net1", "Pending", "SandboxUnreadable")]
    story.world.pod_links = readable
    again = story.outcome(lambda one: one.sandbox == SECOND.id and states(one) == [("net1", "Attached", "")])
    assert again.attachments[0].result["interfaces"][0]["sandbox"] == SECOND.namespace.path
