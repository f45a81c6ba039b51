"""The device `overlay`, decided: options, steps, mismatches, removal."""

import ipaddress
import struct
from dataclasses import replace

import pytest

from agent import options, underlay
from agent.devices import parse
from agent.devices.overlay import Overlay
from agent.devices.segment import Segment
from agent.links import (
    BridgePorts,
    Change,
    Create,
    Have,
    IndexOf,
    Link,
    LinksOfKind,
    NamedLink,
    Remove,
    Sysctl,
    Where,
    WriteSysctl,
)
from agent.model import ContainerID, Key
from agent.underlay import EVERYBODY, Abandon, Entries, Entry, Ground, Reach, Standing
from cni import errors

KEY = Key(ContainerID("c" * 64), "net1")
HOST = options.host_name(KEY)
NAMES = ("hnb5001", "hnv5001")
TOLD = underlay.told("192.0.2.1", {"n2": "192.0.2.2", "n3": "192.0.2.3"})
UPLINK = Link(index=2, name="eth0", kind="", mac="02:00:00:00:00:02", mtu=1500, up=True)
STANDING = Standing(TOLD, ipaddress.ip_address("192.0.2.1"), UPLINK)


def tunnels(*addresses: str) -> tuple[Entry, ...]:
    return tuple(Entry(EVERYBODY, ipaddress.ip_address(one)) for one in addresses)


def overlay(**config: object) -> Overlay:
    device = parse(options.Call(KEY, {"device": "overlay", "name": "blue", "vni": 5001, **config}))
    assert isinstance(device, Overlay)
    return device


def data(vni: int = 5001, local: str = "192.0.2.1", port: int = 4789, *, external: bool = False) -> bytes:
    """What the kernel says of a VXLAN link: IFLA_INFO_DATA."""
    address = ipaddress.ip_address(local)
    parts = [(1, struct.pack("=I", vni)), (4 if address.version == 4 else 17, address.packed),
             (15, struct.pack(">H", port)), (25, bytes([external]))]  # fmt: skip
    return b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4) for kind, value in parts
    )


def mac(what: str) -> str:
    creates = [step for step in overlay().plan(overlay().interface, have()) if isinstance(step, Create)]
    return str(dict(next(step for step in creates if step.kind == what).attributes)["IFLA_ADDRESS"])


def have(
    bridge: Link | None = None,
    vxlan: Link | None = None,
    host: Link | None = None,
    pod: Link | None = None,
    *,
    peers: tuple[str, ...] = (),
    others: tuple[str, ...] = (),
    learned: tuple[Entry, ...] = (),
    neighbours: tuple[Link, ...] = (),
    standing: Standing | None = STANDING,
    ipv6: str = "1",
) -> Have:
    facts = {
        NamedLink(NAMES[0]): bridge,
        NamedLink(NAMES[1]): vxlan,
        NamedLink(HOST): host,
        LinksOfKind("vxlan"): frozenset(filter(None, (vxlan, *neighbours))),
        BridgePorts(NAMES[0]): frozenset((*(one.name for one in (vxlan, host) if one and one.master), *others)),
        Entries(NAMES[1]): frozenset((*tunnels(*peers), *learned)),
        Ground(None): standing,
        **{Sysctl(f"ipv6/conf/{name}/disable_ipv6", Where.NODE): ipv6 for name in NAMES},
    }
    return Have(pod=pod, flags=1, facts=facts)


BRIDGE = Link(5, NAMES[0], "bridge", mac("bridge"), 1450, up=True, alias="hotnic overlay blue")
VXLAN = Link(6, NAMES[1], "vxlan", mac("vxlan"), 1450, up=True, master=5, data=data())
PORT = Link(7, HOST, "veth", options.derived_mac(KEY, "host"), 1450, up=True, master=5)
POD = Link(2, "net1", "veth", options.derived_mac(KEY, "pod"), 1450, up=True)
PEERS = ("192.0.2.2", "192.0.2.3")


def plan(there: Have, **config: object):
    device = overlay(**config)
    return device.plan(device.interface, there)


def whole(**more) -> Have:
    return have(BRIDGE, VXLAN, PORT, POD, **{"peers": PEERS, **more})


def refusal(act) -> errors.CNIError:
    with pytest.raises(errors.CNIError) as caught:
        act()
    return caught.value


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({"vni": None}, 7, "vni=None"),
        ({"vni": 0}, 7, "vni=0"),
        ({"vni": 1 << 24}, 7, "vni=16777216"),
        ({"vni": True}, 7, "vni=True"),
        ({"vni": "5001"}, 7, "vni='5001'"),
        ({"port": 65536}, 7, "port=65536"),
        ({"peers": "192.0.2.2"}, 7, "peers"),
        ({"peers": []}, 7, "peers"),
        ({"local": "192.0.2.1"}, 7, "peers=None"),
        ({"peers": ["192.0.2.2", "n3"]}, 7, "peers[1]='n3'"),
        ({"peers": ["192.0.2.2", "2001:db8::3"]}, 7, "one family"),
        ({"local": "2001:db8::1", "peers": ["192.0.2.2"]}, 7, "one family"),
        ({"local": "224.0.0.1", "peers": ["192.0.2.2"]}, 7, "local='224.0.0.1'"),
    ],
)
def test_a_wrong_option_is_refused_and_named(config, code, named):
    problem = refusal(lambda: overlay(**config))
    assert (problem.code, named in str(problem)) == (code, True), problem


def test_everything_is_made_in_order_where_nothing_is():
    made = plan(have())
    off = [WriteSysctl(Sysctl(f"ipv6/conf/{name}/disable_ipv6", Where.NODE), "1", optional=True) for name in NAMES]
    assert [type(step) for step in made] == [
        Create, Change, WriteSysctl, Create, WriteSysctl, Reach, Change, Change, Create,
    ]  # fmt: skip
    bridge, alias, _, vxlan, _, reached, _, _, pair = made
    assert (bridge.name, bridge.kind, bridge.data) == (NAMES[0], "bridge", (("IFLA_BR_MCAST_SNOOPING", 0),))
    assert alias.attributes == (("IFLA_IFALIAS", "hotnic overlay blue"),)
    assert [made[2], made[4]] == off
    assert (vxlan.name, vxlan.kind, vxlan.up, vxlan.shared) == (NAMES[1], "vxlan", False, False)
    assert dict(vxlan.data) == {
        "IFLA_VXLAN_ID": 5001, "IFLA_VXLAN_LOCAL": "192.0.2.1", "IFLA_VXLAN_PORT": 4789, "IFLA_VXLAN_LEARNING": 1,
    }  # fmt: skip
    assert {("IFLA_MASTER", IndexOf(NAMES[0])), ("IFLA_MTU", 1450)} < set(vxlan.attributes)
    assert reached == Reach(NAMES[1], tunnels(*PEERS))
    assert made[6:8] == (Change(NAMES[1], up=True), Change(NAMES[0], up=True))  # not before all tunnels are there
    assert ("IFLA_MTU", 1450) in pair.attributes
    assert ("IFLA_MASTER", IndexOf(NAMES[0])) in pair.attributes


def test_nothing_is_left_to_do_when_everything_is_there():
    device = overlay()
    assert plan(whole()) == device.upkeep(replace(whole(), pod=None)) == ()
    assert device.mismatches(device.interface, whole()) == ()


def test_over_ipv6_the_tunnel_takes_twenty_bytes_more():
    told = underlay.told("2001:db8::1", {"n2": "2001:db8::2"})
    there = have(standing=Standing(told, ipaddress.ip_address("2001:db8::1"), UPLINK))
    vxlan = next(step for step in plan(there) if isinstance(step, Create) and step.kind == "vxlan")
    assert dict(vxlan.data)["IFLA_VXLAN_LOCAL6"] == "2001:db8::1"
    assert ("IFLA_MTU", 1430) in vxlan.attributes


def test_only_what_differs_is_changed_when_nodes_come_and_go():
    assert plan(whole(peers=PEERS[:1])) == (Reach(NAMES[1], tunnels(PEERS[1])),)
    gone = ipaddress.ip_address("192.0.2.9")
    behind, elsewhere = Entry("02:aa:00:00:00:01", gone), Entry("02:aa:00:00:00:02", ipaddress.ip_address(PEERS[0]))
    steps = plan(whole(peers=(*PEERS, "192.0.2.9"), learned=(behind, elsewhere)))
    assert steps == (Abandon(NAMES[1], (*tunnels("192.0.2.9"), behind)),)


def test_what_a_stranger_has_sent_is_no_reason_to_work_for_ever():
    learned = Entry("02:aa:00:00:00:01", ipaddress.ip_address("192.0.2.77"))
    assert plan(whole(learned=(learned,))) == ()


def test_this_node_is_no_peer_of_itself():
    told = underlay.told("192.0.2.1", {"n1": "192.0.2.1", "n2": "192.0.2.2"})
    there = have(standing=Standing(told, ipaddress.ip_address("192.0.2.1"), UPLINK))
    assert Reach(NAMES[1], tunnels("192.0.2.2")) in plan(there)


@pytest.mark.parametrize(
    ("vxlan", "steps"),
    [
        (replace(VXLAN, mtu=1400), (Change(NAMES[1], attributes=(("IFLA_MTU", 1450),)),)),
        (replace(VXLAN, master=0), (Change(NAMES[1], attributes=(("IFLA_MASTER", IndexOf(NAMES[0])),)),)),
        (replace(VXLAN, up=False), (Change(NAMES[1], up=True),)),
        (
            replace(VXLAN, data=data(local="192.0.2.8")),
            (Change(NAMES[1], kind="vxlan", data=(("IFLA_VXLAN_LOCAL", "192.0.2.1"),)),),
        ),
    ],
)
def test_a_tunnel_that_was_changed_is_changed_back(vxlan, steps):
    there = have(BRIDGE, vxlan, PORT, POD, peers=PEERS)
    assert plan(there) == overlay().upkeep(there) == steps
    device = overlay()
    assert len(device.mismatches(device.interface, there)) == 1


@pytest.mark.parametrize("other", [data(local="2001:db8::1"), data(port=4790)])
def test_a_tunnel_of_another_family_or_port_is_made_anew_with_all_its_peers(other):
    old = replace(VXLAN, data=other)
    steps = plan(have(BRIDGE, old, PORT, POD, peers=PEERS))
    assert [type(step) for step in steps] == [Remove, Create, WriteSysctl, Reach, Change]
    assert (steps[0], steps[-1]) == (Remove(old), Change(NAMES[1], up=True))


def test_an_ipv6_that_was_switched_on_is_switched_off():
    assert [step.value for step in plan(whole(ipv6="0"))] == ["1", "1"]


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (whole(others=()), "net1"),
        (have(replace(BRIDGE, mac="02:00:00:00:00:05")), "hnb5001"),
        (have(replace(BRIDGE, kind="veth")), "hnb5001"),
        (have(BRIDGE, replace(VXLAN, mac="02:00:00:00:00:06")), "hnv5001"),
        (have(BRIDGE, replace(VXLAN, data=data(vni=7))), "hnv5001"),
        (have(replace(BRIDGE, alias="hotnic overlay red")), "'red'"),
        (have(BRIDGE, replace(VXLAN, data=data(port=4790)), others=("hnother",)), "4790"),
        (have(neighbours=(replace(VXLAN, name="theirs", mac="02:00:00:00:00:07"),)), "theirs"),
        (have(neighbours=(Link(9, "flow", "vxlan", "", 1500, up=True, data=data(0, external=True)),)), "flow"),
        (have(BRIDGE, VXLAN, replace(PORT, mac="02:00:00:00:00:01")), "not ours"),
    ],
)
def test_what_is_not_ours_is_a_conflict_and_no_step(there, named):
    if named == "net1":
        there = replace(there, facts={**there.facts, NamedLink(HOST): None})
    problem = refusal(lambda: plan(there))
    assert (problem.code, named in str(problem)) == (7, True), problem


@pytest.mark.parametrize(
    "neighbour",
    [data(vni=4096), data(port=8472), data(0, port=8472, external=True)],
    ids=["another-vni", "another-port", "external-elsewhere"],
)
def test_other_tunnels_on_the_node_are_no_conflict(neighbour):
    assert plan(whole(neighbours=(Link(9, "theirs", "vxlan", "", 1450, up=True, data=neighbour),))) == ()


def test_an_unfinished_bridge_without_its_name_is_finished():
    steps = plan(have(replace(BRIDGE, alias="", up=False)))
    assert steps[0] == Change(NAMES[0], attributes=(("IFLA_IFALIAS", "hotnic overlay blue"),))
    assert Change(NAMES[0], up=True) in steps


@pytest.mark.parametrize(
    ("standing", "named"),
    [(None, "no controller"), (Standing(TOLD), "192.0.2.1")],
)
def test_without_a_place_in_the_underlay_it_is_waited_for(standing, named):
    device = overlay()
    there = whole(standing=standing)
    for act, code in ((lambda: plan(there), 11), (lambda: device.refuse_unready(there), 50)):
        problem = refusal(act)
        assert (problem.code, named in str(problem)) == (code, True)
    assert named in " ".join(device.mismatches(device.interface, there))
    assert device.removal(there) == (Remove(PORT), Remove(VXLAN), Remove(BRIDGE))  # a DEL needs none


def test_peers_cannot_be_stated_where_a_controller_has_told():
    there = whole(standing=replace(STANDING, overruled=True))
    problem = refusal(lambda: plan(there))
    assert (problem.code, "`peers`" in problem.message) == (7, True)
    assert overlay().removal(there) == (Remove(PORT), Remove(VXLAN), Remove(BRIDGE))


def test_an_mtu_has_to_fit():
    for mtu in (1450, 1300):
        assert ("IFLA_MTU", mtu) in plan(have(), mtu=mtu)[-1].attributes
    problem = refusal(lambda: plan(have(), mtu=1451))
    assert (problem.code, "mtu=1451" in problem.message, "1450" in problem.message) == (7, True, True)
    device = overlay()
    (found,) = device.mismatches(device.interface, have(BRIDGE, VXLAN, PORT, replace(POD, mtu=1500), peers=PEERS))
    assert "1500" in found


def test_only_the_last_one_takes_the_segment_away():
    assert overlay().removal(whole()) == (Remove(PORT), Remove(VXLAN), Remove(BRIDGE))
    assert overlay().removal(whole(others=("hnother",))) == (Remove(PORT),)
    assert overlay().removal(have(BRIDGE, VXLAN, others=("hnother",))) == ()
    assert overlay().removal(have(BRIDGE, VXLAN)) == (Remove(VXLAN), Remove(BRIDGE))
    assert overlay().removal(have(None, VXLAN)) == (Remove(VXLAN),)


@pytest.mark.parametrize("foreign", [{"mac": "02:00:00:00:00:05"}, {"kind": "dummy"}])
def test_only_what_is_ours_is_removed(foreign):
    assert overlay().removal(have(replace(BRIDGE, **foreign), replace(VXLAN, **foreign))) == ()


def test_nothing_is_kept_up_for_an_attachment_that_is_gone():
    assert overlay().upkeep(have(BRIDGE, replace(VXLAN, up=False))) == ()


def stated(there: Have, local: str = "192.0.2.1", peers: tuple[str, ...] = PEERS) -> tuple[Have, Overlay]:
    """A node and an attachment whose configuration states the peers."""
    device = overlay(peers=list(peers), local=local)
    (ground,) = [read for read in device.reads() if isinstance(read, Ground)]
    standing = Standing(ground.stated, ipaddress.ip_address(local), UPLINK)
    return replace(there, facts={**there.facts, ground: standing}), device


def test_peers_that_configurations_state_are_added_and_another_attachments_are_not_taken_away():
    there, device = stated(whole(peers=("192.0.2.2", "192.0.2.9"), others=("hnother",)))
    added = Reach(NAMES[1], tunnels(PEERS[1]))
    assert device.plan(device.interface, there) == device.upkeep(there) == (added,)
    there, device = stated(whole(peers=(*PEERS, "192.0.2.9"), others=("hnother",)))
    assert device.mismatches(device.interface, there) == device.plan(device.interface, there) == ()


def test_who_is_alone_leaves_no_peer_of_an_older_configuration():
    there, device = stated(whole(peers=(*PEERS, "192.0.2.9")))
    assert device.plan(device.interface, there) == device.upkeep(there) == (Abandon(NAMES[1], tunnels("192.0.2.9")),)
    assert len(device.mismatches(device.interface, there)) == 1


@pytest.mark.parametrize("local", ["192.0.2.8", "2001:db8::8"])
def test_another_address_of_the_node_is_refused_while_others_use_the_one_that_is_there(local):
    peers = PEERS if local == "192.0.2.8" else ("2001:db8::2",)
    there, device = stated(whole(others=("hnother",)), local, peers)
    problem = refusal(lambda: device.plan(device.interface, there))
    assert (problem.code, "192.0.2.1" in problem.message, local in problem.message) == (7, True, True)
    there, device = stated(whole(), local, peers)
    assert device.plan(device.interface, there)


def test_two_nodes_bridges_have_two_macs():
    def made(address: str) -> str:
        standing = Standing(underlay.told(address, {}), ipaddress.ip_address(address), UPLINK)
        return dict(plan(have(standing=standing))[0].attributes)["IFLA_ADDRESS"]

    assert made("192.0.2.1") != made("192.0.2.2")


def test_names_of_links_fit_for_every_vni():
    segment = Segment("blue", (1 << 24) - 1, 4789)
    assert max(len(segment.bridge_name), len(segment.vxlan_name)) <= 15
