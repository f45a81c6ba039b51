import json
import tracemalloc
from dataclasses import replace

import pytest

from controller.desired import Desired, Malformed, NotApplicable, desired
from controller.model import Pod, State
from controller.policy import Policy
from tests.controller import build

NETWORKS = {one.key: one for one in (build.network("blue"), build.network("red"), build.network("far", "other"))}
OPEN = Policy()
ISOLATED = Policy(isolated=True, global_namespaces=("default",))


def wish(text: str | None, policy: Policy = OPEN, **parts: object) -> object:
    return desired(build.pod(networks=text, **parts), NETWORKS.get, policy)


def sent(text: str, policy: Policy = OPEN) -> Desired:
    found = wish(text, policy)
    assert isinstance(found, Desired)
    return found


@pytest.mark.parametrize("text", [None, "", "  ", "[]"])
def test_no_networks_asked_for_is_an_empty_set(text):
    assert wish(text) == Desired(sent("").revision)


def test_elements_are_sent_in_order_with_their_definitions():
    found = sent("red,blue@net5")
    assert [json.loads(one.element) for one in found.attachments] == [
        {"name": "red", "namespace": "ns"},
        {"name": "blue", "namespace": "ns", "interface": "net5"},
    ]
    assert [one.nad_uid for one in found.attachments] == ["uid-red", "uid-blue"]
    assert [json.loads(one.config)["name"] for one in found.attachments] == ["red", "blue"]
    assert found.refusals == ()


def test_a_missing_network_is_sent_as_a_hold():
    (one,) = sent("ghost").attachments
    assert one.hold is not None
    assert (one.hold.state, one.hold.reason) == (State.PENDING, "NetworkNotFound")
    assert "ns/ghost" in one.hold.message


def test_a_forbidden_namespace_is_held_and_refused():
    found = sent("other/far,blue", ISOLATED)
    held, free = found.attachments
    assert (held.hold and held.hold.state, held.config) == (State.REFUSED, "")
    assert free.hold is None
    assert [(one.position, one.network, one.reason) for one in found.refusals] == [
        (0, "other/far", "NamespaceForbidden")
    ]


@pytest.mark.parametrize("name", ["eth0", "lo", "all", "default"])
def test_reserved_interface_names_are_refused_and_not_sent(name):
    found = sent(f"blue@{name},red")
    assert [json.loads(one.element)["name"] for one in found.attachments] == ["red"]
    (refusal,) = found.refusals
    assert (refusal.interface, refusal.reason) == (name, "InterfaceReserved")
    assert name in refusal.message


@pytest.mark.parametrize(
    ("text", "position", "cause"),
    [
        ("blue@net1,red@net1", 1, "asked for by an earlier element"),
        ("blue@waytoolongforanyname,red", 0, "longer than 15 bytes"),
        ('[{"name": "blue", "mac": "nonsense"}, {"name": "red"}]', 0, "mac"),
        ('[{"name": "red"}, {"namespace": "ns"}]', 1, "name is missing"),
    ],
)
def test_a_wrong_element_is_refused_and_the_others_are_sent(text, position, cause):
    found = sent(text)
    assert len(found.attachments) == 1
    (refusal,) = found.refusals
    assert (refusal.position, refusal.reason) == (position, "InvalidElement")
    assert f"element {position + 1}" in refusal.message
    assert cause in refusal.message


def test_a_malformed_annotation_says_where():
    found = wish('[{"name": "blue",}]')
    assert isinstance(found, Malformed)
    assert found.position == 17
    assert "JSON" in found.reason


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"host_network": True}, NotApplicable.HOST_NETWORK),
        ({"phase": "Succeeded"}, NotApplicable.COMPLETED),
        ({"phase": "Failed", "deleting": True}, NotApplicable.COMPLETED),
        ({"deleting": True}, NotApplicable.DELETING),
        ({"deleting": True, "host_network": True}, NotApplicable.DELETING),
    ],
)
@pytest.mark.parametrize("text", ["blue", '[{"name": "blue"'])
def test_pods_that_are_not_to_be_changed(parts, why, text):
    assert wish(text, **parts) is why


def test_a_host_network_pod_that_asks_for_nothing_is_no_problem():
    assert isinstance(wish("", host_network=True), Desired)


def test_equal_wishes_have_equal_revisions_however_they_are_written():
    assert sent("blue@net1").revision == sent('[{"interface": "net1", "name": "blue"}]').revision


@pytest.mark.parametrize("text", ["blue@net2", "red@net1", "blue@net1,red", "", "ghost@net1"])
def test_another_wish_is_another_revision(text):
    assert sent(text).revision != sent("blue@net1").revision


def test_an_edited_network_is_another_revision():
    pod: Pod = build.pod(networks="blue")
    newer = desired(pod, lambda _: build.network("blue", version=2), Policy())
    assert isinstance(newer, Desired)
    assert newer.revision != sent("blue").revision


# -- virtual machines -------------------------------------------------------------------------------------------------

LAUNCHER = {"labels": {"kubevirt.io": "virt-launcher"}}


def test_how_a_virtual_machine_is_reached_is_part_of_the_wish():
    vm = {"annotations": {"hotnic.dev/vm": '{"qmp": "/q"}'}}
    found = wish("blue", **vm)
    assert found.vm == '{"qmp": "/q"}'
    assert found.revision != sent("blue").revision


def test_kubevirts_pods_are_known_by_their_label_whatever_else_they_say():
    found = wish("blue@podx", **LAUNCHER, annotations={"hotnic.dev/vm": "{}"})
    assert (found.vm, found.is_kubevirts) == ("", True)
    assert not wish("blue@podx", labels={"kubevirt.io": "virt-handler"}).is_kubevirts


def test_an_annotation_makes_no_pod_kubevirts():
    found = wish("blue", annotations={"hotnic.dev/vm": "kubevirt"})
    assert (found.vm, found.is_kubevirts, len(found.attachments)) == ("kubevirt", False, 1)
    assert found.revision != wish("blue@net1", **LAUNCHER).revision


def test_in_kubevirts_pods_an_element_without_interface_is_none_of_ours():
    found = wish("red,blue@podx", **LAUNCHER)
    assert [json.loads(one.element)["name"] for one in found.attachments] == ["blue"]
    assert found.refusals == ()
    assert wish("ghost/x/y,blue@podx", **LAUNCHER).attachments == found.attachments


def test_the_empty_annotation_that_kubevirt_leaves_asks_for_nothing():
    assert wish("", **LAUNCHER).attachments == ()


def test_a_pod_whose_way_to_the_machine_changes_has_changed():
    before, after = (build.pod(networks="blue", annotations={"hotnic.dev/vm": one}) for one in ("a", "b"))
    assert not before.says_the_same(after)


def test_whatever_the_agent_is_sent_anew_has_another_revision():
    def revision(networks: str = "blue,red", version: int = 1, config: str = "{}", **parts: object) -> str:
        blue = replace(build.network("blue", version=version), config=config)
        found = desired(build.pod(networks=networks, **parts), {**NETWORKS, blue.key: blue}.get, OPEN)
        assert isinstance(found, Desired)
        return found.revision

    assert revision() == revision()
    others = {
        revision("red,blue"), revision("blue,red@net2"), revision("blue,red,ghost"), revision("blue,red,x/y/z@net3"),
        revision(version=2), revision(config="{ }"),
        revision(annotations={"hotnic.dev/vm": "{}"}), revision(**LAUNCHER),
    }  # fmt: skip
    assert len(others | {revision()}) == 9


def test_a_long_definition_that_many_elements_name_costs_no_more_than_once():
    blue = replace(build.network("blue"), config="x" * (1 << 20))
    pod = build.pod(networks=",".join(["blue"] * 256))
    tracemalloc.start()
    try:
        desired(pod, {blue.key: blue}.get, OPEN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_withdrawn_nothing_is_sent_and_every_element_is_refused_without_a_name_that_would_keep_it():
    gone = Policy(withdrawn=True)
    found = sent("red,blue@net5", gone)
    assert (found.attachments, found.keep) == ((), ())
    assert [(one.position, one.network, one.reason) for one in found.refusals] == [
        (0, "ns/red", "Uninstalling"),
        (1, "ns/blue", "Uninstalling"),
    ]
    assert found.revision != sent("red,blue@net5").revision
    assert sent("[not json", gone).refusals == ()
    assert wish("blue", gone, phase="Succeeded") is NotApplicable.COMPLETED
