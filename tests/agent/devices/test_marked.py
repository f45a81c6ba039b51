"""Links that are born in the pod, decided: whose they are."""

from dataclasses import replace

import pytest

from agent import options
from agent.devices import marked
from agent.links import Change, Have, Link, NamedLink, Remove, Where
from agent.model import ContainerID, Key
from cni import errors

KEY, OTHER = Key(ContainerID("c" * 64), "net1"), Key(ContainerID("d" * 64), "net1")
OURS = Link(3, "net1", "macvlan", "02:00:00:00:00:01", 1500, up=True, alias=options.mark(KEY))
BORN = replace(OURS, alias="", group=dict(marked.newborn(KEY))["IFLA_GROUP"])


@pytest.mark.parametrize("link", [OURS, BORN], ids=["whole", "just-born"])
def test_ours_is_there_and_is_removed(link):
    assert marked.is_there(KEY, Have(pod=link))
    assert marked.removal(KEY, Have(pod=link)) == (Remove(link, Where.IN_POD),)


FOREIGN = [
    replace(OURS, alias=""),
    replace(OURS, alias=options.mark(OTHER)),
    replace(BORN, group=dict(marked.newborn(OTHER))["IFLA_GROUP"]),
    replace(BORN, alias="eth0"),
]


@pytest.mark.parametrize("link", FOREIGN)
def test_what_is_not_ours_is_a_conflict_and_is_not_removed(link):
    assert marked.removal(KEY, Have(pod=link)) == ()
    with pytest.raises(errors.CNIError) as caught:
        marked.is_there(KEY, Have(pod=link))
    assert (caught.value.code, "net1" in caught.value.message) == (7, True)


def test_nothing_is_nobodys():
    assert not marked.is_there(KEY, Have())
    assert marked.removal(KEY, Have()) == ()


def test_a_newborn_gets_the_alias_and_the_usual_group_once():
    change = Change("net1", Where.IN_POD, (("IFLA_IFALIAS", options.mark(KEY)), ("IFLA_GROUP", 0)))
    assert marked.steps(KEY, BORN) == marked.steps(KEY, None) == (change,)
    assert marked.steps(KEY, OURS) == ()


BIRTH = NamedLink(options.host_name(KEY, "hb"), Where.IN_POD)


def test_where_the_node_has_the_name_a_link_is_born_under_another_and_renamed():
    there = Have(facts={NamedLink("net1"): replace(OURS, kind="veth", alias="")})
    assert set(marked.reads(KEY)) == {NamedLink("net1"), BIRTH}
    assert marked.name_at_birth(KEY, Have()) == "net1"
    assert marked.name_at_birth(KEY, there) == BIRTH.name
    (change,) = marked.steps(KEY, None, BIRTH.name)
    assert (change.name, dict(change.attributes)["IFLA_IFNAME"]) == (BIRTH.name, "net1")


def test_one_that_a_crash_left_under_the_name_of_its_birth_goes_if_it_is_ours():
    left = replace(BORN, name=BIRTH.name)
    for ours, link in ((True, left), (False, replace(left, group=0)), (False, replace(left, group=BORN.group + 1))):
        removal = (Remove(link, Where.IN_POD),) if ours else ()
        assert marked.leftover(KEY, Have(facts={BIRTH: link})) == removal
        assert marked.removal(KEY, Have(facts={BIRTH: link})) == removal


def test_groups_of_newborns_are_numbers_that_nobody_uses():
    groups = {dict(marked.newborn(Key(ContainerID(str(one)), "net1")))["IFLA_GROUP"] for one in range(500)}
    assert len(groups) == 500
    assert all(1 << 30 <= group < 1 << 31 for group in groups)
