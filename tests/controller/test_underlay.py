"""When the agent is told of the nodes: by every change that matters, once."""

import threading
from collections.abc import Iterator

import pytest

from controller import workers
from controller.nodes import Node, Underlay
from controller.underlay import Surveyor
from controller.workers import Unavailable


class Agent:
    """Takes note of what it is told."""

    def __init__(self) -> None:
        self.told: list[Underlay] = []
        self.refusals = 0
        self._said = threading.Condition()

    def set_underlay(self, told: Underlay) -> None:
        with self._said:
            if self.refusals:
                self.refusals -= 1
                raise Unavailable("agent: UNAVAILABLE")
            self.told.append(told)
            self._said.notify_all()

    def wait(self, number: int) -> list[Underlay]:
        with self._said:
            assert self._said.wait_for(lambda: len(self.told) >= number, 5), self.told
            return self.told


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def surveyor(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Iterator[Surveyor]:
    monkeypatch.setattr(workers, "FIRST_RETRY_S", 0.01)
    surveyor = Surveyor("n1", agent)
    surveyor.start()
    yield surveyor
    surveyor.close(2)


def node(number: int, version: int = 1, address: str = "") -> Node:
    return Node(f"n{number}", str(version), (address or f"192.0.2.{number}",))


def told(*others: int, own: str = "192.0.2.1") -> Underlay:
    return Underlay(own, {f"n{number}": f"192.0.2.{number}" for number in others})


def test_the_first_list_and_each_node_that_joins_leaves_or_moves_is_told(surveyor, agent):
    surveyor.nodes.list([node(1), node(2)])
    assert agent.wait(1) == [told(2)]
    surveyor.nodes.change(node(3))
    assert agent.wait(2)[-1] == told(2, 3)
    surveyor.nodes.delete(node(2))
    assert agent.wait(3)[-1] == told(3)
    surveyor.nodes.change(node(3, 2, "192.0.2.33"))
    assert agent.wait(4)[-1] == Underlay("192.0.2.1", {"n3": "192.0.2.33"})
    surveyor.nodes.change(node(1, 2, "192.0.2.11"))
    assert agent.wait(5)[-1].address == "192.0.2.11"


def test_signs_of_life_are_told_to_nobody(surveyor, agent):
    surveyor.nodes.list([node(1), node(2)])
    agent.wait(1)
    for version in range(2, 9):
        surveyor.nodes.change(node(2, version))
    surveyor.nodes.list([node(1), node(2, 10)])
    surveyor.nodes.change(node(3))
    assert agent.wait(2) == [told(2), told(2, 3)]


def test_an_agent_that_comes_back_is_told_anew(surveyor, agent):
    surveyor.synced(())  # before anything is known
    surveyor.nodes.list([node(1), node(2)])
    agent.wait(1)
    surveyor.lost()
    surveyor.synced(())
    assert agent.wait(2) == [told(2), told(2)]


def test_an_agent_that_does_not_answer_is_told_later(surveyor, agent):
    agent.refusals = 2
    surveyor.nodes.list([node(1), node(2)])
    assert agent.wait(1) == [told(2)]


def test_what_was_told_stays_when_this_node_is_deleted(surveyor, agent):
    surveyor.nodes.list([node(1), node(2)])
    agent.wait(1)
    surveyor.nodes.delete(node(1))
    surveyor.nodes.change(node(1, 5))
    surveyor.nodes.change(node(3))
    assert agent.wait(2) == [told(2), told(2, 3)]
