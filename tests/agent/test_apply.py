"""What happens when a link goes between two looks at it, as a pod's do while its namespace is taken down."""

import errno

import pytest

from agent import links, rtnl
from agent.apply import Place, apply, read
from agent.place import Gone
from cni import errors


class Node:
    """A route socket whose link goes at the first question that follows the one for it."""

    def __init__(self, code: int) -> None:
        self.code, self.asked = code, []

    def get(self, kind, fields, attributes):
        self.asked.append("get")
        if len(self.asked) > 2:
            raise rtnl.KernelError(errno.ENODEV, "")
        return rtnl.LinkMessage(7, 1, "x", "veth", "", 1500, 0, 0, 0, "", 0, b"", b"", "", "", "", False, b"")

    def dump(self, kind, fields, attributes):
        self.asked.append("dump")
        raise rtnl.KernelError(self.code, "")

    do = dump


def test_what_is_known_of_a_link_that_goes_meanwhile_is_nothing():
    node = Node(errno.ENODEV)
    assert read(Place(node), links.Routes("x", links.Where.NODE)) == frozenset()
    assert node.asked == ["get", "dump", "get"]


def test_any_other_refusal_of_the_kernel_is_an_error():
    node = Node(errno.EPERM)
    with pytest.raises(errors.CNIError, match="cannot read the routes of x"):
        read(Place(node), links.Routes("x", links.Where.NODE))
    assert node.asked == ["get", "dump"]


def test_a_step_on_a_link_that_is_gone_says_so():
    node = Node(errno.ENODEV)
    with pytest.raises(Gone):
        apply(Place(node), links.Change("x", up=True))
