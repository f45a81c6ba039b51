"""The device `ipvlan`, decided; what it shares with `macvlan` is tested there."""

import struct
from dataclasses import replace

import pytest

from agent import options
from agent.devices import parse
from agent.links import Change, Have, Link, NamedLink, Where
from agent.model import ContainerID, Key
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
MASTER = Link(5, "m0", "", "02:00:00:00:00:05", 1500, up=True)
L2 = struct.pack("=HHHxx", 6, 1, 0)
POD_LINK = Link(2, "net1", "ipvlan", MASTER.mac, 1500, up=True, parent=5, alias=options.mark(KEY), data=L2)


def ipvlan(**config: object):
    return parse(options.Call(KEY, {"device": "ipvlan", "master": "m0", **config}))


def have(pod: Link | None = None) -> Have:
    return Have(pod=pod, flags=1, facts={NamedLink("m0"): MASTER})


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [({"mode": "l4"}, 7, "mode='l4'"), ({"mac": "02:00:00:00:00:09"}, 2, "mac='02:00:00:00:00:09'")],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    with pytest.raises(errors.CNIError) as caught:
        ipvlan(**config)
    assert (caught.value.code, named in caught.value.message) == (code, True)


@pytest.mark.parametrize(("mode", "number"), [("", 0), ("l2", 0), ("l3", 1), ("l3s", 2)])
def test_it_has_the_mode_that_is_asked_for_and_no_mac_of_its_own(mode, number):
    device = ipvlan(mode=mode)
    create = device.plan(device.interface, have())[0]
    assert create.data == (("IFLA_IPVLAN_MODE", number),)
    assert "IFLA_ADDRESS" not in dict(create.attributes)


def test_the_mode_is_set_in_place_where_it_differs():
    assert ipvlan().plan(ipvlan().interface, have(POD_LINK)) == ()
    device, pod = ipvlan(mode="l3s"), replace(POD_LINK, data=L2)
    change = Change("net1", Where.IN_POD, kind="ipvlan", data=(("IFLA_IPVLAN_MODE", 2),))
    assert device.plan(device.interface, have(pod)) == (change,)
    assert device.mismatches(device.interface, have(pod)) == ("interface net1 is not in mode l3s",)
