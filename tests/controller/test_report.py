import json
from dataclasses import replace

import pytest

from controller.desired import Attachment, Desired, Hold, Malformed, NotApplicable, Refusal
from controller.model import Condition, Guest, State
from controller.report import EVENT_BYTES, Report, report, shortened
from tests.controller import build
from tests.controller.build import attached, entries, lacking, outcome

NOW, BEFORE = "2026-02-02T00:00:00Z", "2026-01-01T00:00:00Z"
ONE = Desired("r", (Attachment("{}", "{}", "u", "1"),))
TWO = Desired("r", ONE.attachments * 2)
NONE = Desired("r")
PENDING, REFUSED, DETACHING = State.PENDING, State.REFUSED, State.DETACHING


def interfaces(text: str | None) -> list[str]:
    return [entry["interface"] for entry in json.loads(text or "[]")]


def told(found: Report) -> tuple[str, str]:
    (event,) = found.events
    return event.reason, event.message


def tellings(found: Report) -> list[tuple[str, str]]:
    return [(event.reason, event.message) for event in found.events]


# -- what is attached -----------------------------------------------------------------------------------------------


def test_an_attached_interface_is_published_made_ready_and_told():
    found = report(build.pod(networks="blue@net1", status=entries()), ONE, outcome(attached("net1")), NOW)
    assert interfaces(found.status) == ["eth0", "net1"]
    assert found.condition == Condition(True, "AllAttached", "attached: 1", NOW)
    assert told(found) == (
        "AddedInterface",
        "pod [ns/p]: added interface net1 to network: blue(ips: [10.9.0.7], mac: 02:00:00:00:00:01)",
    )


def test_all_interfaces_of_an_edit_are_one_report():
    news = outcome(attached("net1"), attached("net2", "far/red", 1))
    found = report(build.pod(networks="x"), TWO, news, NOW)
    assert interfaces(found.status) == ["net1", "net2"]
    assert told(found)[1] == (
        "pod [ns/p]: added interface net1 to network: blue(ips: [10.9.0.7], mac: 02:00:00:00:00:01)"
        "; added interface net2 to network: far/red(ips: [10.9.0.7], mac: 02:00:00:00:00:01)"
    )


def test_what_is_told_already_is_not_told_again():
    pod = build.pod(status=entries("net1"), conditions=[build.ready("True", "AllAttached", "attached: 1")])
    assert report(pod, ONE, outcome(attached("net1")), NOW) == Report()


def test_what_a_runtime_attached_and_published_is_no_news():
    found = report(build.pod(status=entries("net1")), ONE, outcome(attached("net1")), NOW)
    assert (found.status, found.events) == (None, ())
    assert found.condition is not None


def test_another_address_of_the_same_interface_is_told():
    pod = build.pod(status=entries("net1"))
    found = report(pod, ONE, outcome(attached("net1", ip="10.9.0.8/24")), NOW)
    assert told(found)[1].endswith("added interface net1 to network: blue(ips: [10.9.0.8], mac: 02:00:00:00:00:01)")


def test_another_network_on_the_same_interface_is_removed_and_added():
    pod = build.pod(status=entries("net1", network="ns/red"))
    found = report(pod, ONE, outcome(attached("net1"), released=["net1 ns/blue"]), NOW)
    assert tellings(found) == [
        (
            "AddedInterface",
            "pod [ns/p]: added interface net1 to network: blue(ips: [10.9.0.7], mac: 02:00:00:00:00:01)",
        ),
        ("RemovedInterface", "pod [ns/p]: removed interface net1 from network: red"),
    ]


def test_entries_of_others_are_kept_with_keys_and_order():
    foreign = [{"name": "x", "interface": "net9", "org.foo": {"a": 1}}, {"name": "y"}]
    found = report(build.pod(status=json.dumps(foreign)), ONE, outcome(attached("net1")), NOW)
    assert json.loads(found.status or "")[:2] == foreign


def test_a_status_that_nobody_can_read_is_replaced():
    found = report(build.pod(status="{nonsense"), ONE, outcome(attached("net1")), NOW)
    assert interfaces(found.status) == ["net1"]


# -- what somebody else has changed -----------------------------------------------------------------------------------


def changed(name: str, reason: str, message: str):
    return replace(attached(name), reason=reason, message=message)


def test_what_has_drifted_makes_the_pod_unready_and_is_told_once_for_as_long_as_it_lasts():
    pod = build.pod(status=entries("net1"), conditions=[build.ready("True", "AllAttached", "attached: 1", BEFORE)])
    news = outcome(changed("net1", "Drifted", "its MAC is another"))
    found = report(pod, ONE, news, NOW)
    assert found.status is None
    assert found.condition == Condition(False, "Drifted", "net1 (ns/blue): Drifted: its MAC is another", NOW)
    assert told(found) == (
        "Drifted",
        "pod [ns/p]: interface net1 to network: blue is not as it was attached: its MAC is another",
    )
    assert found.events[0].warning
    message = found.condition.message
    pod = build.pod(status=entries("net1"), conditions=[build.ready("False", "Drifted", message, BEFORE)])
    assert report(pod, ONE, news, NOW) == Report()
    found = report(pod, ONE, outcome(attached("net1")), NOW)
    assert (found.condition, found.events) == (Condition(True, "AllAttached", "attached: 1", NOW), ())


def test_a_repair_is_told_once_and_stays_in_the_condition():
    pod = build.pod(status=entries("net1"), conditions=[build.ready("True", "AllAttached", "attached: 1", BEFORE)])
    news = outcome(changed("net1", "DriftRepaired", "at 12:00:00Z: link net1 is down"))
    found = report(pod, ONE, news, NOW)
    message = "attached: 1; net1 (ns/blue): DriftRepaired: at 12:00:00Z: link net1 is down"
    assert (found.status, found.condition) == (None, Condition(True, "AllAttached", message, BEFORE))
    assert told(found) == (
        "DriftRepaired",
        "pod [ns/p]: interface net1 to network: blue had been changed and is repaired: at 12:00:00Z: link net1 is down",
    )
    assert not found.events[0].warning
    pod = build.pod(status=entries("net1"), conditions=[build.ready("True", "AllAttached", message, BEFORE)])
    assert report(pod, ONE, news, NOW) == Report()
    found = report(pod, ONE, outcome(attached("net1")), NOW)
    assert (found.condition.message, found.events) == ("attached: 1", ())


def test_a_worse_lack_names_the_condition_and_a_repair_is_told_beside_it():
    news = outcome(
        changed("net1", "DriftRepaired", "at 12:00:00Z: it was down"),
        lacking(PENDING, "net2", "NoRoom", "full", position=1),
    )
    found = report(build.pod(status=entries("net1")), TWO, news, NOW)
    assert (found.condition.reason, "DriftRepaired: at 12" in found.condition.message) == ("NoRoom", True)


def test_what_is_gone_and_stays_so_leaves_the_status():
    gone = lacking(PENDING, "net1", "Drifted", "interface net1 is gone", attempts=0)
    found = report(build.pod(status=entries("net1")), ONE, outcome(gone, released=["net1 ns/blue"]), NOW)
    assert interfaces(found.status) == ["eth0"]
    assert [reason for reason, _ in tellings(found)] == ["Drifted", "RemovedInterface"]


# -- what is gone ---------------------------------------------------------------------------------------------------


def test_a_released_interface_leaves_the_status_and_is_told():
    pod = build.pod(status=entries("net1"), conditions=[build.ready("True", "AllAttached", "attached: 1", BEFORE)])
    found = report(pod, NONE, outcome(released=["net1 ns/blue"]), NOW)
    assert interfaces(found.status) == ["eth0"]
    assert found.condition == Condition(True, "NoNetworks", "", BEFORE)
    assert told(found) == ("RemovedInterface", "pod [ns/p]: removed interface net1 from network: blue")


def test_an_entry_of_another_network_under_a_released_name_is_somebody_elses():
    pod = build.pod(
        status=entries("net1", network="ns/theirs"), conditions=[build.ready("True", "NoNetworks", "", BEFORE)]
    )
    assert report(pod, NONE, outcome(released=["net1 ns/blue"]), NOW) == Report()


def test_a_default_networks_entry_is_never_released():
    assert report(build.pod(status=entries()), NONE, outcome(released=["eth0 cni0"]), NOW) == Report()


def test_an_interface_that_does_not_go_stays_published():
    stuck = lacking(DETACHING, "net1", "DelFailed", "busy", position=-1)
    found = report(build.pod(status=entries("net1")), NONE, outcome(stuck), NOW)
    assert found.status is None
    assert found.condition == Condition(False, "DelFailed", "net1 (ns/blue): DelFailed: busy", NOW)
    assert told(found) == (
        "FailedRemovingInterface",
        "pod [ns/p]: failed removing interface net1 from network: blue: busy",
    )


# -- what is not ready ----------------------------------------------------------------------------------------------


def test_one_works_and_one_fails_is_what_the_user_reads():
    failed = lacking(PENDING, "net2", "AddFailed", "no address left", network="ns/red", position=1)
    found = report(build.pod(networks="x"), TWO, outcome(attached("net1"), failed), NOW)
    assert interfaces(found.status) == ["net1"]
    assert found.condition == Condition(False, "AddFailed", "net2 (ns/red): AddFailed: no address left", NOW)
    assert tellings(found) == [
        ("FailedAddingInterface", "pod [ns/p]: failed adding interface net2 to network: red: no address left"),
        (
            "AddedInterface",
            "pod [ns/p]: added interface net1 to network: blue(ips: [10.9.0.7], mac: 02:00:00:00:00:01)",
        ),
    ]
    assert [event.warning for event in found.events] == [True, False]


def test_a_retry_that_ends_as_before_writes_nothing():
    failed = lacking(PENDING, "net1", "AddFailed", "busy", attempts=7)
    pod = build.pod(conditions=[build.ready("False", "AddFailed", "net1 (ns/blue): AddFailed: busy")])
    assert report(pod, ONE, outcome(failed), NOW) == Report()


def test_only_the_failure_that_is_new_is_told():
    pod = build.pod(conditions=[build.ready("False", "AddFailed", "net1 (ns/blue): AddFailed: busy", BEFORE)])
    news = outcome(
        lacking(PENDING, "net1", "AddFailed", "busy"), lacking(PENDING, "net2", "AddFailed", "no", position=1)
    )
    found = report(pod, TWO, news, NOW)
    assert told(found)[1] == "pod [ns/p]: failed adding interface net2 to network: blue: no"
    assert found.condition is not None
    assert found.condition.since == BEFORE


def test_a_cause_that_grew_is_news():
    pod = build.pod(conditions=[build.ready("False", "AddFailed", "net1 (ns/blue): AddFailed: busy (2)")])
    found = report(pod, ONE, outcome(lacking(PENDING, "net1", "AddFailed", "busy")), NOW)
    assert told(found)[1].endswith(": busy")


def test_healing_is_ready_again():
    pod = build.pod(conditions=[build.ready("False", "AddFailed", "net1 (ns/blue): AddFailed: busy", BEFORE)])
    found = report(pod, ONE, outcome(attached("net1")), NOW)
    assert found.condition == Condition(True, "AllAttached", "attached: 1", NOW)


def test_waiting_is_no_failure():
    waits = lacking(PENDING, "net1", "InProgress", "being attached", attempts=0)
    found = report(build.pod(), ONE, outcome(waits), NOW)
    assert found.events == ()
    assert found.condition == Condition(False, "InProgress", "net1 (ns/blue): InProgress: being attached", NOW)


def test_a_missing_network_is_told_though_nothing_was_tried():
    held = Desired("r", (Attachment("{}", "", "", "", Hold(PENDING, "NetworkNotFound", "not there")),))
    waits = lacking(PENDING, "net1", "NetworkNotFound", "not there", attempts=0)
    reason, message = told(report(build.pod(), held, outcome(waits), NOW))
    assert reason == "FailedAddingInterface"
    assert message.endswith("failed adding interface net1 to network: blue: not there")


def test_what_the_agent_refuses_is_rejected():
    refused = lacking(REFUSED, "net1", "CapabilityMissing", "no plugin takes ips")
    found = report(build.pod(), ONE, outcome(refused), NOW)
    assert told(found) == (
        "InterfaceAddRejected",
        "pod [ns/p]: will not add interface net1 to network: blue: no plugin takes ips",
    )
    assert found.condition is not None
    assert found.condition.reason == "CapabilityMissing"


def test_the_gravest_lack_names_the_condition_and_each_reason_is_an_event_of_its_own_interfaces():
    news = outcome(
        lacking(PENDING, "net1", "AddFailed", "busy"),
        lacking(REFUSED, "net2", "Wrong", "as asked", position=1),
        lacking(DETACHING, "net3", "DelFailed", "stuck", position=-1),
        attached("net4", position=2),
        lacking(PENDING, "net5", "AddFailed", "full", position=3),
        released=["net6 ns/blue"],
    )
    found = report(build.pod(status=entries("net6")), TWO, news, NOW)
    assert found.condition is not None
    assert found.condition.reason == "Wrong"
    parts = {reason: message.removeprefix("pod [ns/p]: ").split("; ") for reason, message in tellings(found)}
    assert [(reason, [" ".join(part.split()[:5]) for part in said]) for reason, said in parts.items()] == [
        ("InterfaceAddRejected", ["will not add interface net2"]),
        ("FailedAddingInterface", ["failed adding interface net1 to", "failed adding interface net5 to"]),
        ("FailedRemovingInterface", ["failed removing interface net3 from"]),
        ("AddedInterface", ["added interface net4 to network:"]),
        ("RemovedInterface", ["removed interface net6 from network:"]),
    ]


# -- refusals of our own --------------------------------------------------------------------------------------------


def test_a_refusal_of_ours_is_told_beside_what_was_attached():
    wish = Desired("r", ONE.attachments, (Refusal(1, "ns/red", "eth0", "InterfaceReserved", "is the pod's own"),))
    found = report(build.pod(), wish, outcome(attached("net1")), NOW)
    assert interfaces(found.status) == ["net1"]
    assert found.condition == Condition(
        False, "InterfaceReserved", "eth0 (ns/red): InterfaceReserved: is the pod's own", NOW
    )
    assert tellings(found)[0] == (
        "InterfaceAddRejected", "pod [ns/p]: will not add interface eth0 to network: red: is the pod's own",
    )  # fmt: skip
    assert [reason for reason, _ in tellings(found)[1:]] == ["AddedInterface"]


def test_an_element_without_any_name_is_told_by_its_place():
    wish = Desired("r", (), (Refusal(2, "", "", "InvalidElement", "element 3: name is missing"),))
    found = report(build.pod(), wish, outcome(), NOW)
    assert found.condition is not None
    assert found.condition.message == "element 3: InvalidElement: element 3: name is missing"
    assert told(found)[1] == "pod [ns/p]: will not add interface: element 3: name is missing"


def test_a_forbidden_network_that_is_attached_stays_published_and_is_refused_once():
    hold = Hold(REFUSED, "NamespaceForbidden", "policy")
    wish = Desired(
        "r", (Attachment("{}", "", "", "", hold),), (Refusal(0, "ns/blue", "net1", "NamespaceForbidden", "policy"),)
    )
    for one in (attached("net1"), lacking(REFUSED, "net1", "NamespaceForbidden", "policy", attempts=0)):
        found = report(build.pod(status=entries("net1")), wish, outcome(one), NOW)
        assert found.status is None
        assert found.condition is not None
        assert found.condition.message == "net1 (ns/blue): NamespaceForbidden: policy"


# -- pods that are not changed ----------------------------------------------------------------------------------------


def test_a_malformed_annotation_is_told_with_its_place_once():
    pod = build.pod(status=entries("net1"), networks="[")
    found = report(pod, Malformed(17, "not JSON"), outcome(attached("net1")), NOW)
    assert found.status is None
    assert found.condition is not None
    assert (found.condition.ready, found.condition.reason) == (False, "InvalidAnnotation")
    assert told(found)[0] == "InterfaceAddRejected"
    assert "position 17: not JSON" in told(found)[1]
    condition = build.ready("False", "InvalidAnnotation", found.condition.message)
    again = build.pod(status=entries("net1"), networks="[", conditions=[condition])
    assert report(again, Malformed(17, "not JSON"), outcome(attached("net1")), NOW) == Report()


def test_a_host_network_pod_is_told_once():
    found = report(build.pod(), NotApplicable.HOST_NETWORK, None, NOW)
    assert told(found) == ("InterfaceAddRejected", "pod [ns/p]: will not add interface to host networked pod")
    assert found.condition is not None
    condition = build.ready("False", found.condition.reason, found.condition.message)
    assert report(build.pod(conditions=[condition]), NotApplicable.HOST_NETWORK, None, NOW) == Report()


@pytest.mark.parametrize("why", [NotApplicable.COMPLETED, NotApplicable.DELETING])
def test_nothing_is_written_about_a_pod_that_ends(why):
    assert report(build.pod(status=entries("net1")), why, outcome(released=["net1 ns/blue"]), NOW) == Report()


def test_a_pod_that_never_asked_gets_no_condition():
    assert report(build.pod(), NONE, outcome(), NOW) == Report()


def test_a_pod_that_is_being_started_is_not_told_that_it_waits():
    waits = lacking(PENDING, "", "NoSandbox", "no sandbox yet", attempts=0)
    assert report(build.pod(), ONE, outcome(waits, sandbox=""), NOW) == Report()


def test_a_pod_that_lost_its_sandbox_is_not_ready():
    waits = lacking(PENDING, "net1", "NoSandbox", "no sandbox yet", attempts=0)
    pod = build.pod(conditions=[build.ready("True", "AllAttached", "attached: 1", BEFORE)])
    found = report(pod, ONE, outcome(waits, sandbox=""), NOW)
    assert found.condition == Condition(False, "NoSandbox", "net1 (ns/blue): NoSandbox: no sandbox yet", NOW)
    assert found.events == ()


def test_an_edit_without_an_answer_is_not_ready():
    pod = build.pod(status=entries("net1"), conditions=[build.ready("True", "AllAttached", "attached: 1")])
    found = report(pod, ONE, None, NOW)
    assert found.status is None
    assert found.condition == Condition(False, "NoAnswer", "the node agent has not answered yet", NOW)


def test_texts_are_cut_between_characters():
    news = outcome(lacking(REFUSED, "net1", "Wrong", "ä" * 5000))
    found = report(build.pod(), ONE, news, NOW)
    assert len(told(found)[1].encode()) <= EVENT_BYTES
    assert told(found)[1].endswith("ä…")
    assert found.condition is not None
    assert len(found.condition.message.encode()) <= 4096


# -- virtual machines -------------------------------------------------------------------------------------------------


def in_guest(one, state="GuestVisible", **more):
    return replace(one, guest=Guest(state, mac="02:00:00:00:00:01", **more))


VISIBLE = in_guest(attached("net1"), interface="eth1", port="rp2", evidence="driver", addresses=("10.1.0.2/24",))


def test_what_the_guest_has_is_published_made_ready_and_told():
    found = report(build.pod(networks="x"), ONE, outcome(VISIBLE), NOW)
    (entry,) = json.loads(found.status)
    assert entry["hotnic.dev/vm"] == {
        "state": "GuestVisible", "interface": "eth1", "mac": "02:00:00:00:00:01", "ips": ["10.1.0.2/24"],
        "port": "rp2", "evidence": "driver",
    }  # fmt: skip
    assert found.condition.ready
    assert told(found)[1].endswith("), in the virtual machine eth1")


def test_what_is_only_in_the_pod_is_published_and_not_ready():
    waiting = replace(attached("net1"), state=PENDING, reason="VMPaused", message="it is paused")
    found = report(build.pod(networks="x"), ONE, outcome(in_guest(waiting, "Attached")), NOW)
    assert json.loads(found.status)[0]["hotnic.dev/vm"]["state"] == "Attached"
    assert (found.condition.ready, found.condition.reason) == (False, "VMPaused")
    assert told(found) == (
        "AddedInterface",
        "pod [ns/p]: added interface net1 to network: blue(ips: [10.9.0.7], mac: 02:00:00:00:00:01)",
    )
    pod = build.pod(networks="x", status=found.status, conditions=[build.ready("False", "VMPaused")])
    later = report(pod, ONE, outcome(VISIBLE), NOW)
    assert later.condition.ready
    assert "in the virtual machine eth1" in told(later)[1]


def test_what_the_guest_has_not_let_go_stays_published_as_that():
    pod = build.pod(networks="", status=report(build.pod(networks="x"), ONE, outcome(VISIBLE), NOW).status)
    going = lacking(DETACHING, "net1", "WaitingForGuest", "not yet", position=-1, attempts=0)
    found = report(pod, NONE, outcome(in_guest(going, "Detaching")), NOW)
    (entry,) = json.loads(found.status)
    assert (entry["hotnic.dev/vm"]["state"], entry["hotnic.dev/vm"]["port"]) == ("Detaching", "rp2")
    assert (found.condition.reason, found.events) == ("WaitingForGuest", ())


def test_an_entry_of_another_network_is_not_said_to_leave():
    pod = build.pod(networks="", status=entries("net1", network="ns/red"))
    going = lacking(DETACHING, "net1", "WaitingForGuest", "not yet", position=-1, attempts=0)
    assert report(pod, NONE, outcome(in_guest(going, "Detaching")), NOW).status is None


def test_an_interface_that_is_no_longer_a_guests_loses_what_was_said_of_it():
    pod = build.pod(networks="x", status=report(build.pod(networks="x"), ONE, outcome(VISIBLE), NOW).status)
    assert "hotnic.dev/vm" not in json.loads(report(pod, ONE, outcome(attached("net1")), NOW).status)[0]


@pytest.mark.parametrize("before", ["[" * 100_000, "[" * 5_000 + "]" * 5_000])
def test_a_status_that_is_nested_too_deeply_is_replaced(before):
    found = report(build.pod(networks="blue@net1", status=before), ONE, outcome(attached("net1")), NOW)
    assert interfaces(found.status) == ["net1"]


def test_half_a_surrogate_pair_in_the_status_is_told_as_what_can_be_sent():
    before = json.dumps([{"name": "ns/\ud800", "interface": "net1", "ips": ["\ud800"]}])
    found = report(build.pod(status=before), NONE, outcome(released=["net1 ns/?"]), NOW)
    assert "net1" in told(found)[1]
    assert told(found)[1].isascii()
    assert shortened("\ud800", 100) == "?"
