"""Tells the agent what the cluster's Nodes say of the network between them, whenever that changes.

Rules
1. It is told anew when the agent is there again: that one may have lost its state directory.
2. What does not matter here (most updates of a Node are its kubelet's sign of life) is told to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from controller.known import Table
from controller.model import Outcome
from controller.nodes import Node, Underlay, underlay
from controller.workers import Workers

_WHOLE = "nodes"  # there is one thing to be told


class Agent(Protocol):
    """The node agent. The call may raise Unavailable."""

    def set_underlay(self, told: Underlay) -> None: ...


class Surveyor:
    """Owns what is known of the nodes. To be a listener of the agent's."""

    def __init__(self, own: str, agent: Agent) -> None:
        self._own = own
        self._agent = agent
        self._told: Underlay | None = None
        self._workers: Workers[str] = Workers("underlay", self._tell, count=1)
        self.nodes: Table[str, Node] = Table(lambda node: node.name, self._changed)

    def start(self) -> None:
        """Start telling."""
        self._workers.start()

    def close(self, seconds: float) -> None:
        """Wait at most so long for what is under way."""
        self._workers.close(seconds)

    def dead(self) -> tuple[str, ...]:
        """Return which threads died; none should."""
        return self._workers.dead()

    # -- as a listener of the agent's ---------------------------------------------------------------------------

    def synced(self, outcomes: Iterable[Outcome]) -> None:  # noqa: ARG002 the listener's signature
        self._told = None  # rule 1
        self._workers.touch(_WHOLE)

    def told(self, outcome: Outcome) -> None: ...

    def lost(self) -> None: ...

    # -- telling ------------------------------------------------------------------------------------------------

    def _changed(self, old: Node | None, new: Node | None) -> None:
        if old is None or new is None or old.addresses != new.addresses:
            self._workers.touch(_WHOLE)

    def _tell(self, _: str, since: float) -> None:  # noqa: ARG002 the workers' signature
        nodes = [node for name in self.nodes.keys() if (node := self.nodes.get(name)) is not None]  # noqa: SIM118 a table
        told = underlay(self._own, nodes)
        if told is not None and told != self._told:
            self._told = told  # before it is: who comes back meanwhile is told once more
            try:
                self._agent.set_underlay(told)
            except Exception:
                self._told = None
                raise
