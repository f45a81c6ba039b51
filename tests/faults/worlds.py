"""Each story with its world."""

from collections.abc import Mapping
from pathlib import Path

from e2e import build
from tests.faults import stories
from tests.faults.desk import Desk
from tests.faults.node import Node
from tests.faults.trials import Told
from tests.faults.victims import Nursery


def node(nursery: Nursery, folder: Path, effects: list[str]) -> Node:
    return Node(nursery, folder, build.tools(), effects)


STORIES: Mapping[str, Told] = {
    "start": Told(stories.start, node),
    "hotplug": Told(stories.hotplug, node),
    "guest": Told(stories.guest, node),
    "executable": Told(stories.executable, node),
    "controller": Told(stories.controller, Desk),
}
