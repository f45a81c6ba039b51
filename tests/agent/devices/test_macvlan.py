"""The device `macvlan`, and with it all that are made on a master, decided."""

import errno
import struct
from dataclasses import replace

import pytest

from agent import options
from agent.devices import marked, parse
from agent.links import (
    POD,
    Change,
    Create,
    DefaultLink,
    Have,
    IndexOf,
    Link,
    NamedLink,
    Remove,
    Sysctl,
    Where,
    WriteSysctl,
)
from agent.model import ContainerID, Key
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
MASTER = Link(5, "m0", "", "02:00:00:00:00:05", 1400, up=True)
MARKED = Change("net1", Where.IN_POD, (("IFLA_IFALIAS", options.mark(KEY)), ("IFLA_GROUP", 0)))


def data(mode: int, queue: int = 1000) -> bytes:
    return struct.pack("=HHI HHI", 8, 1, mode, 8, 7, queue)


POD_LINK = Link(
    2,
    "net1",
    "macvlan",
    options.derived_mac(KEY, "pod"),
    1400,
    up=True,
    parent=5,
    alias=options.mark(KEY),
    data=data(4),
)


def macvlan(**config: object):
    return parse(options.Call(KEY, {"device": "macvlan", "master": "m0", **config}))


def have(pod: Link | None = None, master: Link | None = MASTER, where: Where = Where.NODE) -> Have:
    return Have(pod=pod, flags=1, facts={NamedLink("m0", where): master, DefaultLink(where): master})


def plan(device, there: Have):
    return device.plan(device.interface, there)


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"mode": "source"}, 7, "mode='source'"),
        ({"master": "a/b"}, 7, "master='a/b'"),
        ({"bcqueuelen": -1}, 7, "bcqueuelen=-1"),
        ({"linkInContainer": "yes"}, 7, "linkInContainer='yes'"),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        macvlan(**config)
    assert (caught.value.code, named in caught.value.message) == (code, True)


def test_it_is_born_in_the_pod_with_all_that_it_has_and_is_marked():
    create, mark = plan(macvlan(mtu=1300, bcqueuelen=50), have())
    assert (create.name, create.kind, create.where, create.up) == ("net1", "macvlan", Where.NODE, False)
    assert create.data == (("IFLA_MACVLAN_MODE", 4), ("IFLA_MACVLAN_BC_QUEUE_LEN", 50))
    assert create.attributes == (
        ("IFLA_LINK", IndexOf("m0")),
        ("IFLA_NET_NS_FD", POD),
        ("IFLA_ADDRESS", options.derived_mac(KEY, "pod")),
        ("IFLA_MTU", 1300),
        *marked.newborn(KEY),
    )
    assert mark == MARKED
    assert errno.EINVAL in dict(create.refusals)


def test_with_addresses_it_will_tell_its_neighbours():
    device = macvlan()
    want = replace(device.interface, addresses=("any",))
    steps = [step for step in device.plan(want, have()) if isinstance(step, WriteSysctl)]
    assert [(step.sysctl, step.value, step.optional) for step in steps] == [
        (Sysctl("ipv4/conf/net1/arp_notify"), "1", True), (Sysctl("ipv6/conf/net1/ndisc_notify"), "1", True),
    ]  # fmt: skip


def test_nothing_is_left_to_do_when_it_is_there():
    assert plan(macvlan(), have(POD_LINK)) == ()
    assert macvlan().mismatches(macvlan().interface, have(POD_LINK)) == ()


def test_where_the_node_has_the_name_it_is_born_under_another():
    there = have()
    there.facts[NamedLink("net1")] = MASTER
    create, mark = plan(macvlan(), there)
    assert create.name == mark.name == options.host_name(KEY, "hb")
    assert ("IFLA_IFNAME", "net1") in mark.attributes


def test_one_that_a_crash_left_unmarked_is_marked():
    born = replace(POD_LINK, alias="", group=dict(marked.newborn(KEY))["IFLA_GROUP"])
    assert plan(macvlan(), have(born)) == (MARKED,)


def test_a_master_in_the_container_is_looked_up_and_used_there():
    device = macvlan(linkInContainer=True)
    assert device.reads() == (NamedLink("m0", Where.IN_POD),)
    create, _ = plan(device, have(where=Where.IN_POD))
    assert (create.where, ("IFLA_LINK", IndexOf("m0", Where.IN_POD)) in create.attributes) == (Where.IN_POD, True)
    assert "IFLA_NET_NS_FD" not in dict(create.attributes)
    device.refuse_unready(Have())


def test_without_a_master_it_is_the_default_routes():
    device = parse(options.Call(KEY, {"device": "macvlan"}))
    assert device.reads()[0] == DefaultLink()
    create, _ = plan(device, have())
    assert ("IFLA_LINK", IndexOf("m0")) in create.attributes
    elsewhere = have(replace(POD_LINK, parent=77))
    assert (plan(device, elsewhere), device.mismatches(device.interface, elsewhere)) == ((), ())
    assert device.mismatches(device.interface, have(POD_LINK, None)) == ()


@pytest.mark.parametrize("config", [{}, {"master": ""}])
def test_a_master_that_is_not_there_is_named(config):
    device = macvlan(**config)
    for refuse in (lambda: plan(device, have(master=None)), lambda: device.refuse_unready(have(master=None))):
        with pytest.raises(errors.CNIError, match="default route" if config else "m0") as caught:
            refuse()
        assert caught.value.code == 50


def test_check_names_a_master_that_is_gone():
    device = macvlan()
    assert device.mismatches(device.interface, have(None, None)) == ("master='m0' is not there on the node",)


def test_an_mtu_above_the_masters_names_both():
    with pytest.raises(errors.CNIError, match=r"mtu=1401 .*1400 of master m0") as caught:
        plan(macvlan(mtu=1401), have())
    assert caught.value.code == 7


@pytest.mark.parametrize(
    ("pod", "named"),
    [
        (replace(POD_LINK, parent=9), "not on master m0"),
        (replace(POD_LINK, kind="dummy"), "dummy"),
    ],
)
def test_what_cannot_be_put_right_is_made_anew(pod, named):
    device = macvlan()
    assert named in device.mismatches(device.interface, have(pod))[0]
    steps = plan(device, have(pod))
    assert [type(step) for step in steps] == [Remove, Create, Change]
    assert steps[0] == Remove(pod, Where.IN_POD)


@pytest.mark.parametrize(
    ("there", "config", "named"),
    [(data(1), {}, "mode bridge"), (data(4, 9), {"bcqueuelen": 8}, "queue of 9, not 8")],
)
def test_mode_and_queue_are_set_in_place(there, config, named):
    device, pod = macvlan(**config), replace(POD_LINK, data=there)
    assert plan(device, have(pod)) == (Change("net1", Where.IN_POD, kind="macvlan", data=device.data()),)
    assert named in device.mismatches(device.interface, have(pod))[0]


def test_on_a_macvlan_it_is_on_that_ones_master():
    stacked = replace(MASTER, kind="macvlan", parent=3)
    assert plan(macvlan(), have(replace(POD_LINK, parent=3), stacked)) == ()


def test_passthru_takes_no_mac_but_the_one_asked_for():
    assert macvlan(mode="passthru").interface.mac == ""
    assert macvlan(mode="passthru", mac="02:00:00:00:00:09").interface.mac == "02:00:00:00:00:09"
