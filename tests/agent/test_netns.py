import os
from dataclasses import replace

import pytest

from agent import codec, formats, netns
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Record


def test_one_namespace_found_at_two_places_is_the_same():
    assert Namespace("/a", 4, 7, 100).is_same(Namespace("/b", 4, 7, 100))


@pytest.mark.parametrize("other", [Namespace("/a", 4, 8, 100), Namespace("/a", 5, 7, 100), Namespace("/a", 4, 7, 101)])
def test_another_inode_or_another_cookie_is_another_namespace(other):
    assert not Namespace("/a", 4, 7, 100).is_same(other)


def test_where_no_cookie_is_known_the_inode_decides():
    assert Namespace("/a", 4, 7).is_same(Namespace("/a", 4, 7, 100))
    assert Namespace("/a", 4, 7, 100).is_same(Namespace("/a", 4, 7))


def test_nothing_outlives_its_boot_not_even_a_namespace_with_the_same_numbers():
    before = Namespace("/a", 4, 7, 100, "boot 1")
    assert not before.is_same(Namespace("/a", 4, 7, 100, "boot 2"))
    assert before.is_same(Namespace("/b", 4, 7, 100, "boot 1"))
    assert before.is_same(Namespace("/a", 4, 7, 100))  # of a record from before boots were noted


def test_what_a_record_of_an_earlier_boot_names_is_not_there_any_more():
    here = os.stat(netns.OWN)
    today = Namespace(netns.OWN, here.st_dev, here.st_ino, boot=netns.boot())
    assert netns.View().still_there(today)
    assert not netns.View().still_there(replace(today, boot="another"))
    assert netns.View().still_there(replace(today, boot=""))


def test_a_boot_that_could_not_be_read_once_is_read_later_and_is_no_other_one_meanwhile(monkeypatch, tmp_path):
    here = os.stat(netns.OWN)
    today = Namespace(netns.OWN, here.st_dev, here.st_ino, boot="today")
    netns._boot.cache_clear()
    monkeypatch.setattr(netns, "_BOOT", tmp_path / "boot_id")
    try:
        assert netns.boot() == ""
        assert netns.View().still_there(today)
        (tmp_path / "boot_id").write_text("today\n")
        assert netns.boot() == "today"
        assert not netns.View().still_there(replace(today, boot="yesterday"))
    finally:
        netns._boot.cache_clear()


def test_a_record_keeps_the_boot_and_one_of_before_is_read_without():
    namespace = Namespace("/a", 4, 7, 100, "boot 1")
    key = Key(ContainerID("c"), "net1")
    document = codec.encode_record(Record(key, Origin.RUNTIME, Phase.ATTACHED, "", "", "{}", namespace))
    assert codec.decode_record(document).namespace == namespace
    older = codec.decode_record(formats.present(formats.RECORDS, {**document, "netns": document["netns"][:4]}))
    assert older.namespace == replace(namespace, boot="")


@pytest.mark.netns
def test_a_namespace_that_got_the_inode_of_one_that_ended_is_not_that_one(pod_netns, second_pod_netns):
    with netns.View().opened(pod_netns) as fd, netns.View().opened(second_pod_netns) as other:
        one, two = netns.identify(fd, pod_netns), netns.identify(other, second_pod_netns)
        assert one.is_same(netns.identify(fd, "/elsewhere"))
    assert one.cookie != two.cookie
    recycled = Namespace(one.path, one.device, one.inode, two.cookie)
    assert not recycled.is_same(one)
