"""The device `tap`, decided."""

import struct
from dataclasses import replace

import pytest

from agent import options
from agent.devices import parse
from agent.links import Change, CreateTap, Have, IndexOf, Link, NamedLink, Remove, TapDriver, Where
from agent.model import ContainerID, Key
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
BRIDGE = Link(4, "br1", "bridge", "02:00:00:00:00:04", 1500, up=True)


def data(owner: int | None = None, group: int | None = None, multi_queue: int = 0) -> bytes:
    numbers = [(1, owner), (2, group)]
    held = b"".join(struct.pack("=HHI", 8, kind, value) for kind, value in numbers if value is not None)
    return held + struct.pack("=HHBxxx", 5, 7, multi_queue)


POD_LINK = Link(
    2, "net1", "tun", options.derived_mac(KEY, "pod"), 1500, up=True, alias=options.mark(KEY), data=data(1234, 107)
)


def tap(**config: object):
    return parse(options.Call(KEY, {"device": "tap", "owner": 1234, "group": 107, **config}))


def have(pod: Link | None = None, bridge: Link | None = None) -> Have:
    return Have(pod=pod, flags=1, facts={NamedLink("br1", Where.IN_POD): bridge, TapDriver(): ""})


def plan(device, there: Have):
    return device.plan(device.interface, there)


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"owner": -1}, 7, "owner=-1"),
        ({"group": 0xFFFFFFFF}, 7, "group=4294967295"),
        ({"multiQueue": 1}, 7, "multiQueue=1"),
        ({"bridge": "a b"}, 7, "bridge='a b'"),
        ({"selinuxContext": "system_u:object_r:x:s0"}, 2, "selinuxContext="),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        tap(**config)
    assert (caught.value.code, named in caught.value.message) == (code, True)


def test_it_is_made_whole_with_its_mark():
    assert plan(tap(multiQueue=True, mtu=1400, owner=0), have()) == (
        CreateTap(
            "net1",
            (
                ("IFLA_ADDRESS", options.derived_mac(KEY, "pod")),
                ("IFLA_MTU", 1400),
                ("IFLA_IFALIAS", options.mark(KEY)),
            ),
            multi_queue=True,
            owner=0,
            group=107,
        ),
    )


def test_nothing_is_left_to_do_when_it_is_there():
    assert plan(tap(), have(POD_LINK)) == ()
    assert tap().mismatches(tap().interface, have(POD_LINK)) == ()


@pytest.mark.parametrize(
    ("pod", "named"),
    [
        (replace(POD_LINK, data=data(1, 107)), "owner of net1 is 1, not 1234"),
        (replace(POD_LINK, data=data(1234, None)), "group of net1 is None, not 107"),
        (replace(POD_LINK, data=data(1234, 107, 1)), "many queues"),
        (replace(POD_LINK, kind="veth"), "veth"),
    ],
)
def test_one_that_is_not_as_asked_is_named_and_made_anew(pod, named):
    assert named in tap().mismatches(tap().interface, have(pod))[0]
    assert [type(step) for step in plan(tap(), have(pod))] == [Remove, CreateTap]


def test_it_joins_the_bridge_of_the_pod_and_comes_back_to_it():
    device, join = tap(bridge="br1"), Change("net1", Where.IN_POD, (("IFLA_MASTER", IndexOf("br1", Where.IN_POD)),))
    assert plan(device, have(None, BRIDGE))[1:] == (join,)
    assert plan(device, have(POD_LINK, BRIDGE)) == (join,)
    assert "not a port of bridge br1" in device.mismatches(device.interface, have(POD_LINK, BRIDGE))[0]
    assert plan(device, have(replace(POD_LINK, master=4), BRIDGE)) == ()


@pytest.mark.parametrize("bridge", [None, replace(BRIDGE, kind="veth")])
def test_what_is_no_bridge_is_refused(bridge):
    with pytest.raises(errors.CNIError, match="bridge='br1' must be a bridge") as caught:
        plan(tap(bridge="br1"), have(None, bridge))
    assert caught.value.code == 7


def test_status_says_what_is_in_the_way():
    tap().refuse_unready(have())
    with pytest.raises(errors.CNIError, match="no driver") as caught:
        tap().refuse_unready(Have(facts={TapDriver(): "no driver"}))
    assert caught.value.code == 50
