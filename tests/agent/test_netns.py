import pytest

from agent import netns
from agent.model import Namespace


def test_one_namespace_found_at_two_places_is_the_same():
    assert Namespace("/a", 4, 7, 100).is_same(Namespace("/b", 4, 7, 100))


@pytest.mark.parametrize("other", [Namespace("/a", 4, 8, 100), Namespace("/a", 5, 7, 100), Namespace("/a", 4, 7, 101)])
def test_another_inode_or_another_cookie_is_another_namespace(other):
    assert not Namespace("/a", 4, 7, 100).is_same(other)


def test_where_no_cookie_is_known_the_inode_decides():
    assert Namespace("/a", 4, 7).is_same(Namespace("/a", 4, 7, 100))
    assert Namespace("/a", 4, 7, 100).is_same(Namespace("/a", 4, 7))


@pytest.mark.netns
def test_a_namespace_that_got_the_inode_of_one_that_ended_is_not_that_one(pod_netns, second_pod_netns):
    with netns.View().opened(pod_netns) as fd, netns.View().opened(second_pod_netns) as other:
        one, two = netns.identify(fd, pod_netns), netns.identify(other, second_pod_netns)
        assert one.is_same(netns.identify(fd, "/elsewhere"))
    assert one.cookie != two.cookie
    recycled = Namespace(one.path, one.device, one.inode, two.cookie)
    assert not recycled.is_same(one)
