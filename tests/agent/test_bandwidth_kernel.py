"""Bandwidth on the real kernel: what passes is measured, what is left behind is counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent import netlink, options, rtnl, shaping
from agent.model import ContainerID, Key
from cni import errors
from tests.agent import kinds
from tests.agent.native import CONTAINER, ip, link
from tests.agent.native import Plugin as AnyPlugin
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("tbf", "ifb"), pytest.mark.usefixtures("node_netns", "kernel")]

MBIT = 1_000_000
SHAPED = {"ingressRate": 10 * MBIT, "ingressBurst": 256_000, "egressRate": 20 * MBIT, "egressBurst": 256_000}
# what an emulated machine can fill, too
SLOW = {"ingressRate": 2 * MBIT, "ingressBurst": 80_000, "egressRate": 4 * MBIT, "egressBurst": 80_000}
KEY = Key(ContainerID(CONTAINER), "net1")
HOST, COMPANION = options.host_name(KEY), options.host_name(KEY, "hni")

SERVER = """
import socket, sys, time
listening = socket.create_server((sys.argv[1], 5001))
print("listens", flush=True)
connection, _ = listening.accept()
received = late = 0
begin = time.monotonic()
while data := connection.recv(1 << 16):
    received += len(data)
    if not late and time.monotonic() - begin > 0.5:  # the burst is through
        late, since = received, time.monotonic()
print((received - late) * 8 / (time.monotonic() - since))
"""
CLIENT = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5001))
end = time.monotonic() + 2.5
while time.monotonic() < end:
    connection.sendall(bytes(1 << 15))
"""


def Plugin(pod_netns, **config):
    return AnyPlugin(pod_netns, **{"device": "bridge", "bridge": "br0", **config})


def throughput(sender: str, receiver: str, address: str) -> float:
    """Bits a second that TCP gets from one namespace into the other, at `address` there."""
    inside = [["ip", "netns", "exec", Path(path).name, sys.executable, "-c"] for path in (receiver, sender)]
    server = subprocess.Popen([*inside[0], SERVER, address], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "listens\n"
    try:
        subprocess.run([*inside[1], CLIENT, address], check=True, timeout=30)
        return float(server.communicate(timeout=30)[0])
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def pair(request, pod_netns, second_pod_netns):
    """A shaped attachment and one that is not, on the same segment, with addresses."""

    def made(**config):
        kind = KINDS[request.param]
        plugins = Plugin(pod_netns, **kind, **config), Plugin(second_pod_netns, **kind)
        for number, plugin in enumerate(plugins, 1):
            plugin("ADD", container=CONTAINER if number == 1 else "other")
            ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=plugin.netns)
        return plugins

    if "master" in KINDS[request.param]:
        ip("link", "add", "m0", "type", "veth", "peer", "name", "m1")
        for name in ("m0", "m1"):
            ip("link", "set", name, "up")
    return made


KINDS = {"bridge": {}, "macvlan": {"device": "macvlan", "master": "m0", "bridge": ""}}
EACH_KIND = pytest.mark.parametrize("pair", KINDS, indirect=True)


@EACH_KIND
def test_what_passes_in_each_direction_is_what_was_asked_for(pair, pod_netns, second_pod_netns):
    pair(**SLOW)
    ingress = throughput(second_pod_netns, pod_netns, "10.7.0.1")
    egress = throughput(pod_netns, second_pod_netns, "10.7.0.2")
    assert (ingress, egress) == (pytest.approx(2 * MBIT, rel=0.2), pytest.approx(4 * MBIT, rel=0.2))


@pytest.mark.parametrize("named", kinds.parameters())
def test_every_kind_is_shaped_with_no_options_of_its_own_and_leaves_nothing(named, pod_netns):
    name, kind = named
    kind.prepare()
    before = {one["ifname"] for one in ip("link")} | kind.shared
    plugin = AnyPlugin(pod_netns, **{"device": name, **kind.config, **SHAPED})
    plugin("CHECK", prevResult=plugin("ADD"))
    shaped = [("", HOST)] if link(HOST) else [(pod_netns, "net1")]
    rates = {rate for path, one in [*shaped, (shaped[0][0], COMPANION)] for _, rate in qdiscs(one, path)}
    assert rates == {10 * MBIT // 8, 20 * MBIT // 8}
    plugin("DEL")
    assert {one["ifname"] for one in ip("link")} <= before
    assert [one["ifname"] for one in ip("link", netns=pod_netns)] == ["lo"]


@EACH_KIND
def test_delete_leaves_no_companion_and_a_second_does_nothing(pair, pod_netns):
    shaped, other = pair(**SHAPED)
    assert link(COMPANION) or link(COMPANION, pod_netns)
    shaped("DEL")
    shaped("DEL")
    other("DEL", container="other")
    assert [one["ifname"] for one in ip("link") if one["ifname"] not in ("m0", "m1")] in (["lo"], ["lo", "br0"])
    assert [one["ifname"] for one in ip("link", netns=pod_netns)] == ["lo"]


def test_a_pod_that_ended_leaves_its_companion_to_the_delete(pod_netns):
    Plugin(pod_netns, **SHAPED)("ADD")
    subprocess.run(["ip", "netns", "del", Path(pod_netns).name], check=True)
    Plugin("", **SHAPED)("DEL")
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]


def test_a_delete_without_a_readable_configuration_removes_the_companion(pod_netns):
    Plugin(pod_netns, **SHAPED)("ADD")
    Plugin(pod_netns, device="nonsense")("DEL")
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]


def test_a_link_that_has_the_companions_name_and_is_not_ours_is_left_alone(pod_netns):
    ip("link", "add", COMPANION, "type", "ifb")
    Plugin(pod_netns, **SHAPED)("DEL")
    assert link(COMPANION)


@pytest.mark.parametrize("done", range(5))
def test_after_a_crash_at_any_step_an_add_again_is_whole_and_a_delete_leaves_nothing(pod_netns, done, monkeypatch):
    performed, perform = [], netlink.apply

    def crashing(place, step):
        if isinstance(step, shaping.Shape | shaping.Redirect) or getattr(step, "kind", "") == "ifb":
            if len(performed) == done:
                raise MemoryError
            performed.append(step)
        perform(place, step)

    plugin = Plugin(pod_netns, **SHAPED)
    monkeypatch.setattr(netlink, "apply", crashing)
    monkeypatch.setattr(netlink.Kernel, "remove", lambda *_: None)  # nobody undoes it
    if done < 4:
        with pytest.raises(MemoryError):
            plugin("ADD")
    monkeypatch.undo()
    plugin("CHECK", prevResult=plugin("ADD"))
    plugin("DEL")
    assert [one["ifname"] for one in ip("link")] == ["lo", "br0"]


def test_another_wish_replaces_the_rates_in_place_and_none_removes_them(pod_netns):
    result = Plugin(pod_netns, **SHAPED)("ADD")
    less = {"ingressRate": 5 * MBIT, "ingressBurst": 80_000, "egressRate": 0, "egressBurst": 0}
    env = {"CNI_CONTAINERID": CONTAINER, "CNI_IFNAME": "net1", "CNI_NETNS": pod_netns}
    changed, nothing = Plugin(pod_netns, **less), Plugin(pod_netns, runtimeConfig={"bandwidth": {}})
    changed.native.update(env, changed.config, 10.0, result)
    assert (qdiscs(HOST), link(COMPANION)) == ([("tbf", 5 * MBIT // 8)], None)
    nothing.native.update(env, nothing.config, 10.0, result)
    assert qdiscs(HOST) == []
    changed = Plugin(pod_netns, **SHAPED)
    changed.native.update(env, changed.config, 10.0, result)
    assert (qdiscs(HOST), qdiscs(COMPANION)) == ([("tbf", 10 * MBIT // 8)], [("tbf", 20 * MBIT // 8)])


def qdiscs(name: str, netns: str = "") -> list[tuple[str, int]]:
    """The link's disciplines that hold something back: kind and bytes a second."""
    inside = ["ip", "netns", "exec", Path(netns).name] if netns else []
    shown = subprocess.run([*inside, "tc", "-json", "qdisc", "show", "dev", name], check=True, capture_output=True)
    found = json.loads(shown.stdout)
    return [(one["kind"], one["options"]["rate"]) for one in found if one["kind"] == "tbf"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (["tc", "qdisc", "del", "dev", HOST, "root"], "ingress is not shaped to 10000000 bit/s"),
        (["tc", "qdisc", "del", "dev", HOST, "clsact"], "egress is not shaped to 20000000 bit/s"),
        (["tc", "qdisc", "del", "dev", COMPANION, "root"], "egress is not shaped to 20000000 bit/s"),
        (["ip", "link", "del", COMPANION], "egress is not shaped to 20000000 bit/s"),
        (["tc", "qdisc", "replace", "dev", HOST, "root", "tbf", "rate", "1mbit", "burst", "9k", "latency", "9ms"],
         "ingress is not shaped to 10000000 bit/s"),
    ],
)  # fmt: skip
def test_check_names_what_is_not_shaped_any_more_and_another_add_mends_it(pod_netns, damage, named):
    plugin = Plugin(pod_netns, **SHAPED)
    previous = plugin("ADD")
    plugin("CHECK", prevResult=previous)
    subprocess.run(damage, check=True)
    with pytest.raises(errors.CNIError) as caught:
        plugin("CHECK", prevResult=previous)
    assert named in caught.value.message
    plugin("ADD")
    plugin("CHECK", prevResult=previous)


def test_a_burst_as_kubernetes_says_it_and_a_rate_beyond_four_gigabytes_are_set(pod_netns):
    config = {"ingressRate": 80_000 * MBIT, "ingressBurst": 2**32 - 1, "egressRate": 8, "egressBurst": 8}
    plugin = Plugin(pod_netns, runtimeConfig={"bandwidth": config}, capabilities={"bandwidth": True})
    plugin("CHECK", prevResult=plugin("ADD"))
    assert (qdiscs(HOST), qdiscs(COMPANION)) == ([("tbf", 80_000 * MBIT // 8)], [("tbf", 1)])


def test_who_asks_for_no_bandwidth_pays_for_none(pod_netns, monkeypatch):
    sent, answers = [], rtnl.Socket._answers

    def noting(self, request, flags, decode):
        sent.append(request)
        return answers(self, request, flags, decode)

    def about_bandwidth(command, **config):
        sent.clear()
        Plugin(pod_netns, **config)(command)
        kinds = [int.from_bytes(one[4:6], sys.byteorder) for one in sent]
        return sum(COMPANION.encode() in one for one in sent) + sum(rtnl.NEWQDISC <= kind < 48 for kind in kinds)

    monkeypatch.setattr(rtnl.Socket, "_answers", noting)
    assert [about_bandwidth(verb) for verb in ("ADD", "DEL")] == [0, 0]
    declared = {"capabilities": {"bandwidth": True}}
    assert [about_bandwidth(verb, **declared) for verb in ("ADD", "DEL")] == [0, 2]  # an update may have made one


def test_the_source_filter_and_the_shaping_share_a_link(pod_netns):
    plugin = Plugin(pod_netns, macspoofchk=True, **SHAPED)
    plugin("CHECK", prevResult=plugin("ADD"))
    shown = subprocess.run(["tc", "filter", "show", "dev", HOST, "ingress"], capture_output=True, text=True, check=True)
    assert ("bpf" in shown.stdout, "u32" in shown.stdout) == (True, True)


def test_a_port_of_open_vswitch_is_shaped_and_the_switch_leaves_it_so(openvswitch, pod_netns, second_pod_netns):
    openvswitch.add_bridge("br0")
    paths, config = (pod_netns, second_pod_netns), {"device": "ovs", "socket_file": str(openvswitch.socket)}
    shaped, other = Plugin(pod_netns, **config, **SLOW), Plugin(second_pod_netns, **config)
    previous = shaped("ADD")
    other("ADD", container="other")
    openvswitch.vsctl("set", "interface", HOST, "external_ids:somebody=writes")  # which makes the switch look at it
    for number, path in enumerate(paths, 1):
        ip("addr", "add", f"10.7.0.{number}/24", "dev", "net1", netns=path)
    if openvswitch.datapath == "system":  # the other one has no TCP between veths: it fills in no checksums
        assert throughput(*reversed(paths), "10.7.0.1") == pytest.approx(2 * MBIT, rel=0.2)
        assert throughput(*paths, "10.7.0.2") == pytest.approx(4 * MBIT, rel=0.2)
    shaped("CHECK", prevResult=previous)
    shaped("DEL")
    assert link(COMPANION) is None
