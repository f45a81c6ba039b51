"""The device `dummy`, decided."""

from dataclasses import replace

from agent import options
from agent.devices import marked, parse
from agent.links import Change, Create, Have, Link, Remove, Where
from agent.model import ContainerID, Key

KEY = Key(ContainerID("c" * 64), "net1")
POD_LINK = Link(2, "net1", "dummy", options.derived_mac(KEY, "pod"), 1500, up=True, alias=options.mark(KEY))


def dummy(**config: object):
    return parse(options.Call(KEY, {"device": "dummy", **config}))


def test_it_is_born_in_the_pod_and_marked():
    device = dummy(mtu=1400, mac="02:00:00:00:00:09")
    create, mark = device.plan(device.interface, Have())
    attributes = (("IFLA_ADDRESS", "02:00:00:00:00:09"), ("IFLA_MTU", 1400), *marked.newborn(KEY))
    assert create == Create("net1", "dummy", Where.IN_POD, attributes=attributes)
    assert isinstance(mark, Change)


def test_nothing_is_left_to_do_when_it_is_there():
    assert dummy().plan(dummy().interface, Have(pod=POD_LINK)) == ()
    assert dummy().mismatches(dummy().interface, Have(pod=POD_LINK)) == ()


def test_a_link_of_another_kind_is_named_and_made_anew():
    there = Have(pod=replace(POD_LINK, kind="macvlan"))
    assert dummy().mismatches(dummy().interface, there) == ("interface net1 is a macvlan link, not a dummy",)
    assert [type(step) for step in dummy().plan(dummy().interface, there)] == [Remove, Create, Change]
