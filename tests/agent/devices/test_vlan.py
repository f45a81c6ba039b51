"""The device `vlan`, decided; what it shares with `macvlan` is tested there."""

import errno
import struct
from dataclasses import replace

import pytest

from agent import options
from agent.devices import parse
from agent.links import Change, Create, Have, Link, NamedLink, Remove
from agent.model import ContainerID, Key
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
MASTER = Link(5, "m0", "", "02:00:00:00:00:05", 1500, up=True)
SEVEN = struct.pack("=HHHxx", 6, 1, 7)
POD_LINK = Link(2, "net1", "vlan", MASTER.mac, 1500, up=True, parent=5, alias=options.mark(KEY), data=SEVEN)


def vlan(**config: object):
    return parse(options.Call(KEY, {"device": "vlan", "master": "m0", "vlanId": 7, **config}))


def have(pod: Link | None = None, master: Link | None = MASTER) -> Have:
    return Have(pod=pod, flags=1, facts={NamedLink("m0"): master})


@pytest.mark.parametrize(
    ("config", "named"),
    [({"vlanId": 4095}, "vlanId=4095"), ({"vlanId": -1}, "vlanId=-1"), ({"vlanId": "7"}, "vlanId='7'"),
     ({"master": ""}, "master=''"), ({"master": None}, "master=''")],
)  # fmt: skip
def test_a_wrong_option_is_refused_and_named(config, named):
    with pytest.raises(errors.CNIError) as caught:
        vlan(**config)
    assert (caught.value.code, named in caught.value.message) == (7, True)


@pytest.mark.parametrize("number", [0, 1, 4094])
def test_it_is_made_with_its_vlan_and_the_masters_mac(number):
    create = vlan(vlanId=number).plan(vlan().interface, have())[0]
    assert create.data == (("IFLA_VLAN_ID", number),)
    assert "IFLA_ADDRESS" not in dict(create.attributes)
    assert ("IFLA_ADDRESS", "02:00:00:00:00:09") in vlan(mac="02:00:00:00:00:09").plan(
        vlan(mac="02:00:00:00:00:09").interface, have()
    )[0].attributes


def test_a_vlan_that_is_taken_is_told_with_the_way_out():
    create = vlan().plan(vlan().interface, have())[0]
    told = dict(create.refusals)[errno.EEXIST]
    assert all(part in told for part in ("vlanId=7", "m0", "another pod", "bridge"))


def test_nothing_is_left_to_do_when_it_is_there_and_another_vlan_is_made_anew():
    assert vlan().plan(vlan().interface, have(POD_LINK)) == ()
    device = vlan(vlanId=8)
    assert device.mismatches(device.interface, have(POD_LINK)) == ("interface net1 is VLAN 7, not 8",)
    assert [type(step) for step in device.plan(device.interface, have(POD_LINK))] == [Remove, Create, Change]


def test_on_a_vlan_it_is_on_that_one_itself():
    inner = replace(MASTER, kind="vlan", parent=3)
    assert vlan().plan(vlan().interface, have(POD_LINK, inner)) == ()


def test_a_master_that_is_down_cannot_carry_it_unless_it_shall_be_down_too():
    down = have(master=replace(MASTER, up=False))
    with pytest.raises(errors.CNIError, match="m0 is down") as caught:
        vlan().refuse_unready(down)
    assert caught.value.code == 50
    vlan(linkState="down").refuse_unready(down)
