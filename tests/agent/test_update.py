"""Which changes are made in place; and that a pass makes them so, or replaces where the kernel will not."""

import json
from dataclasses import replace

import pytest

from agent.model import ContainerID, Desired, Hold, Key, Namespace, Origin, Phase, Pod, PodUID, Record, State, Wanted
from agent.plan import element, plan
from agent.update import in_place
from cni import multinet

CAPABILITIES = {"mac": True, "ips": True, "bandwidth": True}
NATIVE = {"cniVersion": "1.1.0", "type": "hotnic", "device": "bridge", "capabilities": CAPABILITIES}
SHAPED = {"ingressRate": 1000, "ingressBurst": 1000}
POD = Pod(PodUID("u"), "ns", "a")


def wish(conf: dict | None = None, **more: object) -> Wanted:
    selection = multinet.from_json(json.dumps({"name": "blue", "namespace": "ns", **more}))
    return Wanted(selection, json.dumps(conf or NATIVE))


def attached(wanted: Wanted, ifname: str = "x1") -> Record:
    return Record(Key(ContainerID("s1"), ifname), Origin.ANNOTATION, Phase.ATTACHED, wanted.selection.network,
                  element(wanted), wanted.config, Namespace("/run/netns/x"), POD, ifindex=7)  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"mac": "02:00:00:00:00:01"}),
        ({"mac": "02:00:00:00:00:01"}, {}),
        ({"bandwidth": SHAPED}, {"bandwidth": {**SHAPED, "ingressRate": 5000}}),
        ({}, {"bandwidth": SHAPED}),
        ({}, {"ips": ["10.1.1.2/24"]}),
        ({"cni-args": {"mtu": 1400}}, {"cni-args": {"mtu": 1300}}),
        ({}, {"cni-args": {"linkState": "down"}}),
        ({"cni-args": {"linkState": "down"}}, {}),
        ({}, {"interface": "x1", "mac": "02:00:00:00:00:01"}),
    ],
)
def test_a_change_that_the_kernel_can_make_is_made_in_place(before, after):
    assert in_place(attached(wish(**before)), wish(**after))


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (attached(wish()), wish({**NATIVE, "mtu": 1400})),
        (attached(wish({**NATIVE, "type": "bridge"})), wish({**NATIVE, "type": "bridge"}, mac="02:00:00:00:00:01")),
        (attached(wish({**NATIVE, "capabilities": {}})), wish({**NATIVE, "capabilities": {}}, mac="02:00:00:00:00:01")),
        (attached(wish(bandwidth=SHAPED)), wish()),
        (attached(wish(**{"cni-args": {"mtu": 1400}})), wish()),
        (attached(wish()), wish(**{"cni-args": {"sysctl": {"net.ipv4.ip_forward": "1"}}})),
        (attached(wish()), wish(**{"default-route": ["10.1.1.1"]})),
        (replace(attached(wish()), phase=Phase.ADDING), wish(mac="02:00:00:00:00:01")),
        (replace(attached(wish()), origin=Origin.ADOPTED), wish(mac="02:00:00:00:00:01")),
        (attached(wish()), replace(wish(mac="02:00:00:00:00:01"), hold=Hold(State.PENDING, "r", "m"))),
    ],
    ids=["definition", "another-plugin", "not-declared", "bandwidth-taken-back", "mtu-taken-back", "setting", "route",
         "half-made", "adopted", "held"],
)  # fmt: skip
def test_everything_else_is_a_replacement(record, wanted):
    assert not in_place(record, wanted)


@pytest.mark.parametrize(("ipam", "possible"), [("static", True), ("host-local", False), ("", True)])
def test_addresses_change_in_place_where_no_lease_has_to_be_swapped(ipam, possible):
    conf = {**NATIVE, "ipam": {"type": ipam}}
    assert in_place(attached(wish(conf)), wish(conf, ips=["10.1.1.2/24"])) is possible


def decide(*wishes: Wanted, records: tuple[Record, ...]):
    return plan(Desired(POD, "r", wishes), ContainerID("s1"), records, {"lo": 1, "x1": 7})


@pytest.mark.parametrize("name", ["x1", ""])
def test_a_pass_updates_what_it_can_and_detaches_nothing(name):
    record = attached(wish(interface=name))
    changed = wish(interface=name, mac="02:00:00:00:00:01")
    decided = decide(changed, records=(record,))
    assert [(step.position, step.wanted, step.record) for step in decided.update] == [(0, changed, record)]
    assert (decided.detach, decided.keep, decided.attach, decided.withhold) == ((), (), (), ())
    assert "update x1" in str(decided)


def test_an_unnamed_wish_takes_no_interface_that_was_asked_for_by_its_name():
    record = attached(wish(interface="x1"))
    decided = decide(wish(mac="02:00:00:00:00:01"), records=(record,))
    assert (decided.update, decided.detach) == ((), (record,))


def test_two_unnamed_wishes_do_not_share_one_interface():
    decided = decide(wish(mac="02:00:00:00:00:01"), wish(mac="02:00:00:00:00:02"), records=(attached(wish()),))
    assert [step.position for step in decided.update] == [0]
    assert [step.position for step in decided.attach] == [1]
