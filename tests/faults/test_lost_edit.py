"""Found by the story `controller`: an edit that came while a status was being written, and was like one before it."""

import pytest

from tests.controller import build
from tests.controller.fake_agent import serving
from tests.controller.test_story import Story, until

BOTH = "blue@net1,red@net2"


@pytest.fixture
def story(tmp_path):
    one = Story(f"unix://{tmp_path}/agent.sock")
    one.cluster.put(build.document(conditions=[{"type": "Ready", "status": "True"}]))
    with serving(one.agent, one.target):
        one.start()
        yield one
        one.stop()


def test_a_wish_that_is_taken_back_and_made_again_while_its_status_is_written_is_not_lost(story):
    """The answer to the write shows the new wish before the watch does, and it is the one that the pass began with."""

    def take_back_and_wish_again() -> None:
        story.cluster.before_patch = lambda: None
        story.cluster.annotate("p", networks=None)
        until(lambda: story.links() == [])
        story.cluster.lags = True
        story.cluster.annotate("p", networks=BOTH)

    story.cluster.before_patch = take_back_and_wish_again
    story.cluster.annotate("p", networks=BOTH)
    until(lambda: story.cluster.lags)
    until(lambda: story.links() == ["net1", "net2"], 30)  # while the watch shows nothing of it
    story.cluster.catch_up()
    until(lambda: story.condition() == (True, "AllAttached"))
    assert story.published() == ["net1", "net2"]
