"""One pass over one pod, decided: what goes, what stays, what comes, under which name."""

import itertools
import json
from dataclasses import replace

import pytest

from agent.model import (
    ContainerID,
    Desired,
    Hold,
    Key,
    Namespace,
    Origin,
    Phase,
    Pod,
    PodUID,
    Record,
    State,
    Wanted,
)
from agent.plan import element, plan
from cni import multinet

POD = Pod(PodUID("uid"), "ns", "pod")
SANDBOX = ContainerID("s1")
ETH0 = ("lo", "eth0")


def wish(name: str, interface: str = "", hold: Hold | None = None, **more: object) -> Wanted:
    selection = multinet.from_json(json.dumps({"name": name, "namespace": "ns", "interface": interface, **more}))
    return Wanted(selection, "{}", hold=hold)


def record(wanted: Wanted, ifname: str, *, number: int = 1, sandbox: ContainerID = SANDBOX, **more: object) -> Record:
    base = Record(Key(sandbox, ifname), Origin.ANNOTATION, Phase.ATTACHED, wanted.selection.network, element(wanted),
                  "{}", Namespace("/run/netns/x"), POD, sequence=number)  # fmt: skip
    return replace(base, **more)


def decide(*wishes: Wanted, records: tuple[Record, ...] = (), links: tuple[str, ...] = ETH0, **more: object):
    present = {one.key.ifname for one in records if one.key.container_id == SANDBOX}
    return plan(Desired(POD, "r", wishes, **more), SANDBOX, records, dict.fromkeys((*links, *present), 7))


def names(steps) -> list[str]:
    return [step.ifname for step in steps]


def test_elements_are_attached_in_the_order_of_the_annotation():
    decided = decide(wish("b", "x2"), wish("a", "x1"), wish("c"))
    assert names(decided.attach) == ["x2", "x1", "net1"]
    assert [step.position for step in decided.attach] == [0, 1, 2]


def test_an_unnamed_element_gets_the_first_name_that_is_neither_taken_nor_asked_for():
    decided = decide(wish("a"), wish("b", "net2"), wish("c"), links=(*ETH0, "net1"))
    assert names(decided.attach) == ["net3", "net2", "net4"]


def test_an_unnamed_element_is_matched_to_its_own_attachment_again():
    unnamed = wish("a")
    decided = decide(unnamed, wish("b"), records=(record(unnamed, "net1"),))
    assert [(step.position, step.record.key.ifname) for step in decided.keep] == [(0, "net1")]
    assert names(decided.attach) == ["net2"]


def test_a_name_that_an_unnamed_attachment_got_can_be_written_down():
    unnamed = wish("a")
    three = tuple(record(unnamed, f"net{number}", number=number) for number in (1, 2, 3))
    decided = decide(unnamed, wish("a", "net2"), unnamed, records=three)
    assert (decided.detach, decided.attach, decided.withhold) == ((), (), ())
    assert {step.position: step.record.key.ifname for step in decided.keep} == {0: "net1", 1: "net2", 2: "net3"}
    back = decide(unnamed, wish("a", "net2"), unnamed, wish("b", "x9"), records=three)
    assert names(back.attach) == ["x9"]


def test_a_name_can_be_taken_from_one_element_and_given_to_another_in_one_edit():
    decided = decide(wish("b", "x1"), wish("a"), records=(record(wish("a", "x1"), "x1"),))
    assert [one.key.ifname for one in decided.detach] == ["x1"]
    assert names(decided.attach) == ["x1", "net1"]


def test_the_same_network_twice_is_two_attachments():
    twice = wish("a")
    decided = decide(twice, twice, records=(record(twice, "net1", number=1), record(twice, "net2", number=2)))
    assert [step.record.key.ifname for step in decided.keep] == ["net1", "net2"]
    fewer = decide(twice, records=(record(twice, "net1", number=1), record(twice, "net2", number=2)))
    assert [one.key.ifname for one in fewer.detach] == ["net2"]


@pytest.mark.parametrize(
    "changed",
    [wish("b", "x1"), wish("a", "x1", mac="02:00:00:00:00:01"), wish("a", "x1", ips=["10.0.0.1/24"]),
     wish("a", "x1", **{"cni-args": {"k": 1}})],
    ids=["network", "mac", "ips", "cni-args"],
)  # fmt: skip
def test_a_change_of_the_same_interface_name_is_a_replacement(changed):
    old = record(wish("a", "x1"), "x1")
    decided = decide(changed, records=(old,))
    assert decided.detach == (old,)
    assert names(decided.attach) == ["x1"]


def test_a_changed_network_definition_replaces_nothing():
    old = record(wish("a", "x1"), "x1")
    decided = decide(replace(wish("a", "x1"), config='{"type": "other"}', nad_uid="new"), records=(old,))
    assert (decided.detach, decided.attach) == ((), ())


def test_what_is_half_made_goes_first_even_where_it_is_wanted():
    half = record(wish("a", "x1"), "x1", phase=Phase.ADDING)
    decided = decide(wish("a", "x1"), records=(half,))
    assert decided.detach == (half,)
    assert names(decided.attach) == ["x1"]


def test_what_lost_its_link_is_made_anew_and_what_was_renamed_is_not():
    there = record(wish("a", "x1"), "x1", ifindex=5)
    desired = Desired(POD, "r", (wish("a", "x1"),))
    for links, expected in (({"eth0": 2}, ["x1"]), ({"other": 5}, []), ({"x1": 5}, []), (None, [])):
        assert names(plan(desired, SANDBOX, (there,), links).attach) == expected


def test_a_name_that_the_pod_gave_to_another_link_is_not_free_when_ours_goes():
    there = record(wish("a", "x1"), "x1", ifindex=5)
    decided = plan(Desired(POD, "r", (wish("a", "x1"),)), SANDBOX, (there,), {"x1": 6})
    assert (decided.detach, decided.attach) == ((there,), ())
    assert [step.hold.reason for step in decided.withhold] == ["InterfaceExists"]


def test_a_held_element_is_not_attached_but_stays_where_it_is_attached():
    hold = Hold(State.PENDING, "NetworkNotFound", "no such network")
    held = wish("a", "x1", hold)
    assert [step.hold for step in decide(held).withhold] == [hold]
    kept = decide(held, records=(record(held, "x1"),))
    assert [step.record.key.ifname for step in kept.keep] == ["x1"]
    assert kept.detach == ()


def test_what_a_held_element_would_replace_stays_until_it_can_be_attached_or_is_taken_out():
    hold = Hold(State.PENDING, "NetworkNotFound", "no such network")
    there, held = record(wish("a", "x1"), "x1"), wish("nope", "x1", hold)
    decided = decide(held, records=(there,))
    assert (decided.detach, decided.attach, [step.hold for step in decided.withhold]) == ((), (), [hold])
    again = decide(held, wish("a"), records=(there,))  # the name is taken
    assert (again.detach, names(again.attach)) == ((), ["net1"])
    found = decide(wish("nope", "x1"), records=(there,))
    assert (found.detach, names(found.attach)) == ((there,), ["x1"])
    for others in ((), (wish("nope", "x2", hold),), (wish("nope", "", hold),)):
        assert decide(*others, records=(there,)).detach == (there,)
    assert decide(held, records=(there,), ended=True).detach == (there,)
    half = record(wish("a", "x1"), "x1", phase=Phase.ADDING)
    assert decide(held, records=(half,)).detach == (half,)


def test_a_forbidden_element_keeps_what_it_would_replace_whether_or_not_its_name_is_sent_to_be_kept():
    hold, there = Hold(State.REFUSED, "NamespaceForbidden", "policy"), record(wish("a", "x1"), "x1")
    for keep in ((), ("x1",)):
        decided = decide(wish("far", "x1", hold), keep=keep, records=(there,))
        assert (decided.detach, decided.attach) == ((), ())


def test_what_a_wrong_element_names_stays_until_it_is_mended_or_the_pod_ends():
    there = record(wish("a", "x1"), "x1")
    assert decide(keep=("x1",), records=(there,)).detach == ()
    assert decide(keep=("x2",), records=(there,)).detach == (there,)
    assert decide(keep=("x1",), records=(there,), ended=True).detach == (there,)
    replaced = decide(wish("b", "x1"), keep=("x1",), records=(there,))  # two elements ask for x1: the good one counts
    assert (replaced.detach, names(replaced.attach)) == ((there,), ["x1"])


def test_a_taken_name_is_withheld_and_the_rest_attached():
    decided = decide(wish("a", "eth1"), wish("b", "x1"), links=(*ETH0, "eth1"))
    assert [(step.position, step.hold.reason, step.hold.state) for step in decided.withhold] == [
        (0, "InterfaceExists", State.PENDING)
    ]
    assert names(decided.attach) == ["x1"]


@pytest.mark.parametrize("name", ["eth0", "lo"])
def test_the_pods_own_interfaces_are_refused(name):
    decided = decide(wish("a", name))
    assert [(step.hold.reason, step.hold.state) for step in decided.withhold] == [("InterfaceReserved", State.REFUSED)]


def test_what_a_runtime_attached_unasked_is_left_alone_and_its_name_is_taken():
    theirs = record(wish("a", "x1"), "net1", origin=Origin.RUNTIME)
    decided = decide(wish("b", "net1"), wish("c"), records=(theirs,))
    assert decided.detach == ()
    assert [step.hold.reason for step in decided.withhold] == ["InterfaceExists"]
    assert names(decided.attach) == ["net2"]
    assert decide(records=(theirs,)).detach == ()


def test_attachments_of_a_dead_sandbox_go_and_are_made_anew_in_the_living_one():
    old = record(wish("a", "x1"), "x1", sandbox=ContainerID("dead"))
    decided = decide(wish("a", "x1"), records=(old,))
    assert decided.detach == (old,)
    assert names(decided.attach) == ["x1"]


def test_without_a_sandbox_nothing_is_attached_and_the_dead_are_removed():
    old = record(wish("a", "x1"), "x1", sandbox=ContainerID("dead"))
    decided = plan(Desired(POD, "r", (wish("a", "x1"),)), None, (old,), ())
    assert (decided.detach, decided.attach) == ((old,), ())


def test_a_pod_that_ended_loses_everything_that_was_asked_for():
    mine, theirs = record(wish("a", "x1"), "x1"), record(wish("b"), "net9", origin=Origin.RUNTIME)
    decided = decide(wish("a", "x1"), records=(mine, theirs), ended=True)
    assert (decided.detach, decided.attach, decided.keep) == ((mine,), (), ())


SMALL_WORLD = [
    tuple(group)
    for size in range(3)
    for group in itertools.product(
        [
            wish("a"),
            wish("b"),
            wish("a", "net1"),
            wish("b", "net1"),
            wish("a", "net2"),
            wish("a", mac="02:00:00:00:00:01"),
        ],
        repeat=size,
    )
    if len({one.selection.interface for one in group if one.selection.interface})
    == sum(1 for one in group if one.selection.interface)
]


@pytest.mark.parametrize("first", SMALL_WORLD, ids=lambda wishes: "+".join(element(one) for one in wishes) or "none")
def test_every_edit_settles_in_one_pass(first):
    """From whatever was attached before, each wish ends up attached once, and a second pass has nothing to do.

    The exception: an unnamed element that is attached already keeps a name that another one asks for now.
    """
    for second in SMALL_WORLD:
        records = perform((), decide(*first))
        records = perform(records, decide(*second, records=records))
        again = decide(*second, records=records)
        assert (again.detach, again.attach) == ((), ())
        kept_unnamed = {one.record.key.ifname for one in again.keep if not second[one.position].selection.interface}
        assert {one.wanted.selection.interface for one in again.withhold} <= kept_unnamed
        positions = [one.position for one in (*again.keep, *again.withhold)]
        assert sorted(positions) == list(range(len(second)))
        assert len({one.key for one in records}) == len(records) == len(again.keep)


def perform(records, decided):
    """Do what a plan says, on a list."""
    left = [one for one in records if one not in decided.detach]
    number = max((one.sequence for one in left), default=0)
    return (
        *left,
        *(record(step.wanted, step.ifname, number=number + 1 + at) for at, step in enumerate(decided.attach)),
    )
