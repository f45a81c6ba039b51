"""The device `ovs`, decided: the port that is wanted, what is a conflict, what is removed."""

from dataclasses import replace

import pytest

from agent import options
from agent.devices import parse
from agent.links import Create, Have, Link, NamedLink, Remove
from agent.model import ContainerID, Key
from agent.switch import AddPort, Port, RemovePort, SwitchPort
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
HOST = options.host_name(KEY)
DATABASE = "/run/ovs/db.sock"
PAIR = Link(6, HOST, "veth", options.derived_mac(KEY, "host"), 1500, up=True)
POD = Link(2, "net1", "veth", options.derived_mac(KEY, "pod"), 1500, up=True)
WHOLE = Port(there=True, bridge="br0", owner=options.mark(KEY), mode="access", tag=5, number=3)


def ovs(**config: object):
    conf = {"device": "ovs", "bridge": "br0", "socket_file": f"unix:{DATABASE}", "vlan": 5, **config}
    return parse(options.Call(KEY, conf))


def have(port: Port | None = Port(), host: Link | None = None, pod: Link | None = None) -> Have:  # noqa: B008 a value
    return Have(pod=pod, facts={SwitchPort(DATABASE, "br0", HOST): port, NamedLink(HOST): host})


def plan(device, there: Have):
    return device.plan(device.interface, there)


def test_the_pair_comes_first_and_then_the_port():
    pair, port = plan(ovs(), have())
    assert isinstance(pair, Create)
    assert isinstance(port, AddPort)
    assert (pair.name, port.name, port.bridge, port.mode, port.tag) == (HOST, HOST, "br0", "access", 5)
    assert port.external_ids == {"contIface": "net1", "containerID": KEY.container_id}


def test_nothing_is_left_to_do_when_everything_is_there():
    assert plan(ovs(), have(WHOLE, PAIR, POD)) == ()
    assert ovs().mismatches(ovs().interface, have(WHOLE, PAIR, POD)) == ()


@pytest.mark.parametrize(
    "changed",
    [{"tag": 6}, {"mode": "trunk"}, {"bridge": "br1"}, {"trunks": (9,)}, {"number": -1}, {"number": None}],
)
def test_a_port_that_is_not_as_wanted_is_set_again_and_named_by_check(changed):
    there = have(replace(WHOLE, **changed), PAIR, POD)
    assert [type(step) for step in plan(ovs(), there)] == [AddPort]
    assert ovs().mismatches(ovs().interface, there)


def test_a_new_pair_means_a_new_port_even_if_the_database_remembers_one():
    assert [type(step) for step in plan(ovs(), have(WHOLE))] == [Create, AddPort]


@pytest.mark.parametrize(
    ("there", "code", "named"),
    [
        (have(None), 11, "no Open vSwitch"),
        (have(Port(has_bridge=False)), 7, "bridge='br0' does not exist"),
        (have(replace(WHOLE, owner="another")), 7, "not ours"),
        (have(replace(WHOLE, owner="")), 7, "not ours"),
        (have(host=replace(PAIR, mac="02:00:00:00:00:01")), 7, "not ours"),
        (have(pod=POD), 7, "net1"),
    ],
)
def test_what_is_in_the_way_is_told_and_nothing_is_done(there, code, named):
    with pytest.raises(errors.CNIError) as caught:
        plan(ovs(), there)
    assert (caught.value.code, named in caught.value.message) == (code, True)


def test_only_our_port_and_our_pair_are_removed():
    gone = RemovePort(DATABASE, HOST, options.mark(KEY))
    assert ovs().removal(have(WHOLE, PAIR, POD)) == (gone, Remove(PAIR))
    assert ovs().removal(have(replace(WHOLE, owner="another"), replace(PAIR, mac="02:00:00:00:00:01"))) == ()
    assert ovs().removal(have(Port())) == ()
    assert ovs().removal(have(WHOLE)) == (gone,)
