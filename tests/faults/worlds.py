"""Each story with its world."""

from collections.abc import Mapping
from pathlib import Path

from e2e import build
from tests.faults import stories
from tests.faults.auditing import AuditedNode, audit
from tests.faults.collecting import CollectedNode, collect
from tests.faults.desk import Desk
from tests.faults.domains import DomainNode, domain
from tests.faults.node import Node
from tests.faults.plugins import PluggedNode, plugins
from tests.faults.relaying import Estate, relay
from tests.faults.switching import SwitchedNode, switch
from tests.faults.trials import Told
from tests.faults.victims import Nursery


def node(nursery: Nursery, folder: Path, effects: list[str]) -> Node:
    return Node(nursery, folder, build.tools(), effects)


def switched(nursery: Nursery, folder: Path, effects: list[str]) -> SwitchedNode:
    return SwitchedNode(nursery, folder, build.tools(), effects)


def audited(nursery: Nursery, folder: Path, effects: list[str]) -> AuditedNode:
    return AuditedNode(nursery, folder, build.tools(), effects)


def plugged(nursery: Nursery, folder: Path, effects: list[str]) -> PluggedNode:
    return PluggedNode(nursery, folder, build.tools(), effects)


def collected(nursery: Nursery, folder: Path, effects: list[str]) -> CollectedNode:
    return CollectedNode(nursery, folder, build.tools(), effects)


def virtual(nursery: Nursery, folder: Path, effects: list[str]) -> DomainNode:
    return DomainNode(nursery, folder, build.tools(), effects)


STORIES: Mapping[str, Told] = {
    "start": Told(stories.start, node),
    "hotplug": Told(stories.hotplug, node),
    "guest": Told(stories.guest, node),
    "executable": Told(stories.executable, node),
    "controller": Told(stories.controller, Desk),
    "switch": Told(switch, switched),
    "audit": Told(audit, audited),
    "relay": Told(relay, Estate),
    "plugins": Told(plugins, plugged),
    "collect": Told(collect, collected),
    "damage": Told(stories.damage, node),
    "domain": Told(domain, virtual),
}
