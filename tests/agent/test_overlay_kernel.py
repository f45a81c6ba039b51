"""The device `overlay` on the real kernel: nodes are network namespaces with an underlay of their own between them."""

import contextlib
import itertools
import json
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import agent.netlink
from agent import netns, options, underlay
from agent.device import Native
from agent.model import ContainerID, Key
from agent.netlink import Kernel
from cni import errors
from tests.agent.native import FakeIPAM, Notes, ip, link, ping
from tests.kernel_features import needs

pytestmark = [pytest.mark.netns, needs("vxlan")]

VNI = 5001
CONFIG = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic", "device": "overlay", "vni": VNI}
PREFIX = {4: "192.0.2.{}/24", 6: "2001:db8::{}/64"}  # of the underlay


def sh(command: str, path: str = "") -> str:
    prefix = ["ip", "netns", "exec", Path(path).name] if path else []
    done = subprocess.run([*prefix, "sh", "-ec", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Node:
    """One node, its pods, and the agent's hands in it."""

    def __init__(self, wire: "Wire", number: int) -> None:
        self.wire, self.number, self.name = wire, number, f"n{number}"
        self.path = wire.namespace()
        self.told: underlay.Underlay | None = None
        self.kernel, self.notes = Kernel(lambda: self.told), Notes()
        self.native = Native(self.kernel, FakeIPAM({}), netns.View(), self.notes)
        self.attached: dict[Key, dict[str, object]] = {}
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", Path(self.path).name)
        ip("link", "set", self.name, "mtu", str(wire.mtu), "master", "wire", "up")
        sh(
            f"ip link set lo up; ip link set eth0 mtu {wire.mtu} up; ip addr add {self.cidr} dev eth0 {wire.nodad}",
            self.path,
        )

    @property
    def cidr(self) -> str:
        return PREFIX[self.wire.version].format(self.number)

    @property
    def address(self) -> str:
        return self.cidr.partition("/")[0]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with netns.View().opened(self.path) as fd, netns.entered(fd):
            yield

    def call(self, command: str, pod: "Pod", **config: object):
        document = {**CONFIG, **config}
        env = {"CNI_COMMAND": command, "CNI_CONTAINERID": pod.container, "CNI_IFNAME": "net1", "CNI_NETNS": pod.path}
        with self.entered():
            answer = self.native(command, env, document, 10.0)
        key = Key(ContainerID(pod.container), "net1")
        if command == "ADD":
            self.attached[key] = document
        elif command == "DEL":
            self.attached.pop(key, None)
        return answer

    def tell(self, others: "list[Node]") -> None:
        """What the controller tells, and what the upkeep does then."""
        self.told = underlay.told(self.address, {one.name: one.address for one in others if one is not self})
        self.mend()

    def mend(self) -> None:
        with self.entered():
            for key, config in self.attached.items():
                self.native.mend(key, config)

    def pod(self, **config: object) -> "Pod":
        """A pod with the overlay's interface and addresses."""
        pod = Pod(self.wire.namespace(), next(self.wire.numbers))
        self.call("ADD", pod, **config)
        pod.configure()
        return pod

    def links(self) -> set[str]:
        return {one["ifname"] for one in ip("link", netns=self.path)} - {"lo", "eth0"}

    def peers(self, name: str = f"hnv{VNI}") -> set[str]:
        return {one["dst"] for one in self.table(name) if one["mac"] == underlay.EVERYBODY}

    def table(self, name: str = f"hnv{VNI}") -> list[dict]:
        return [one for one in json.loads(sh(f"bridge -json fdb show dev {name}", self.path)) if "dst" in one]


class Pod:
    def __init__(self, path: str, number: int) -> None:
        self.path, self.number = path, number
        self.container = f"container-{number}"
        self.ipv4, self.ipv6 = f"10.7.0.{number}", f"fd00:7::{number}"

    def configure(self) -> None:
        sh(f"ip addr add {self.ipv4}/24 dev net1; ip addr add {self.ipv6}/64 dev net1 nodad", self.path)

    def reaches(self, other: "Pod") -> None:
        ping(self.path, other.ipv4)
        ping(self.path, other.ipv6, "-6")

    def silent(self, other: "Pod") -> bool:
        command = ["ip", "netns", "exec", Path(self.path).name, "busybox", "ping", "-c", "2", "-W", "1", other.ipv4]
        return subprocess.run(command, capture_output=True, check=False).returncode != 0

    def mtu(self) -> int:
        return link("net1", self.path)["mtu"]


class Wire:
    """The underlay: a bridge in the test's namespace."""

    def __init__(self, version: int, mtu: int = 1500) -> None:
        self.version, self.mtu = version, mtu
        self.nodad = "nodad" if version == 6 else ""
        self.numbers = itertools.count(1)
        self.nodes: list[Node] = []
        self._kernels: list[Kernel] = []
        self._namespaces: list[str] = []
        ip("link", "add", "wire", "type", "bridge")
        ip("link", "set", "wire", "up")

    def namespace(self) -> str:
        name = f"hntest-{uuid.uuid4().hex[:12]}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._namespaces.append(name)
        return f"/run/netns/{name}"

    def node(self, *, tell: bool = True) -> Node:
        """One more node joins; all are told."""
        self.nodes.append(Node(self, len(self.nodes) + 1))
        self._kernels.append(self.nodes[-1].kernel)
        if tell:
            self.tell()
        return self.nodes[-1]

    def leave(self, node: Node) -> None:
        """It is taken out of the cluster, and told so as well; else what it goes on sending would be learned from."""
        self.nodes.remove(node)
        node.tell([])
        self.tell()

    def tell(self) -> None:
        for node in self.nodes:
            node.tell(self.nodes)

    def close(self) -> None:
        for kernel in self._kernels:
            kernel.close()
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture(params=[4, 6], ids=["over-ipv4", "over-ipv6"])
def wire(node_netns: None, request: pytest.FixtureRequest) -> Iterator[Wire]:
    wire = Wire(request.param)
    yield wire
    wire.close()


@pytest.fixture
def wire4(node_netns: None) -> Iterator[Wire]:
    wire = Wire(4)
    yield wire
    wire.close()


def refused(call: Callable[[], object], code: int, *named: str) -> None:
    with pytest.raises(errors.CNIError) as caught:
        call()
    assert caught.value.code == code, str(caught.value)
    for word in named:
        assert word in str(caught.value)


# -- what it carries -----------------------------------------------------------------------------------------------


def test_pods_of_two_nodes_reach_each_other_by_arp_ipv4_and_ipv6(wire):
    one, two = (node.pod() for node in (wire.node(), wire.node()))
    one.reaches(two)
    two.reaches(one)
    neighbours = {entry["dst"]: entry["lladdr"] for entry in ip("neigh", "show", "dev", "net1", netns=one.path)}
    assert neighbours[two.ipv4] == neighbours[two.ipv6] == link("net1", two.path)["address"]


def test_frames_of_the_full_mtu_arrive_both_ways_and_none_is_cut_on_the_way(wire):
    wire.node(), wire.node()
    one, two = (node.pod() for node in wire.nodes)
    assert one.mtu() == two.mtu() == 1500 - {4: 50, 6: 70}[wire.version]
    for here, there in ((one, two), (two, one)):
        with udp(there, "") as receiver, udp(here, "") as sender:
            target, full = (there.ipv4, receiver.getsockname()[1]), here.mtu() - 28
            sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            sender.sendto(b"x" * full, target)
            assert len(receiver.recv(65536)) == full
            with pytest.raises(OSError, match="too long"):
                sender.sendto(b"x" * (full + 1), target)
    for node in wire.nodes:
        counters = sh("cat /proc/net/snmp /proc/net/snmp6", node.path)
        header, values = (line.split() for line in counters.splitlines() if line.startswith("Ip:"))
        assert dict(zip(header, values, strict=True))["FragCreates"] == "0"
        assert [line.split()[1] for line in counters.splitlines() if line.startswith("Ip6FragCreates")] == ["0"]


@contextlib.contextmanager
def udp(pod: Pod, group: str) -> Iterator[socket.socket]:
    """A socket in the pod, in the multicast group if one is named."""
    with netns.View().opened(pod.path) as fd, netns.entered(fd):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with made:
        made.settimeout(5)
        made.bind(("0.0.0.0", 0))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(pod.ipv4))
        if group:
            membership = socket.inet_aton(group) + socket.inet_aton(pod.ipv4)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        yield made


def test_multicast_arrives_at_every_node(wire):
    one, two, three = (node.pod() for node in (wire.node(), wire.node(), wire.node()))
    for here, others in ((one, (two, three)), (three, (one, two))):
        for there in others:
            with udp(there, "239.1.2.3") as receiver, udp(here, "") as sender:
                sender.sendto(b"to all", ("239.1.2.3", receiver.getsockname()[1]))
                assert receiver.recvfrom(100) == (b"to all", (here.ipv4, sender.getsockname()[1]))


def test_a_third_node_joins_and_leaves(wire):
    first, second = wire.node(), wire.node()
    one, two = first.pod(), second.pod()
    one.reaches(two)
    third = wire.node()
    three = third.pod()
    for pod in (one, two):
        pod.reaches(three)
        three.reaches(pod)
    assert first.peers() == {second.address, third.address}
    behind_third = [entry for entry in first.table() if entry["dst"] == third.address]
    assert {entry["mac"] for entry in behind_third} > {underlay.EVERYBODY}  # the pod's MAC was learned
    wire.leave(third)
    assert first.peers() == {second.address}
    assert [entry for entry in first.table() if entry["dst"] == third.address] == []
    one.reaches(two)
    assert one.silent(three)


def test_what_is_unchanged_is_not_touched_when_nodes_join_and_leave(wire4):
    first, second = wire4.node(), wire4.node()
    one, two = first.pod(), second.pod()
    one.reaches(two)
    with subprocess.Popen(
        ["ip", "netns", "exec", Path(first.path).name, "stdbuf", "-oL", "bridge", "monitor", "fdb"],
        stdout=subprocess.PIPE, text=True,
    ) as monitor:  # fmt: skip
        sh("until bridge fdb add 02:00:00:00:00:09 dev eth0 self permanent && sleep 0.2; do :; done", first.path)
        third = wire4.node()
        wire4.leave(third)
        last = "02:00:00:00:00:0a"
        sh(f"bridge fdb add {last} dev eth0 self permanent", first.path)
        told = [line for line in itertools.takewhile(lambda line: last not in line, monitor.stdout)
                if f"hnv{VNI}" in line and "dst" in line]  # fmt: skip
        monitor.terminate()
    assert [("Deleted" in line, third.address in line) for line in told] == [(False, True), (True, True)], told


def test_two_networks_do_not_see_each_other(wire4):
    first, second = wire4.node(), wire4.node()
    one, other = first.pod(), second.pod(vni=VNI + 1, name="red")
    two = second.pod()
    one.reaches(two)
    assert one.silent(other)
    assert other.silent(one)
    assert other.silent(two)  # on the same node


def test_a_link_that_appears_later_gets_the_peers_of_now(wire4):
    first = wire4.node()
    second = wire4.node()
    assert first.links() == set()
    second.pod().reaches(first.pod())


# -- its life ------------------------------------------------------------------------------------------------------


def test_the_last_delete_takes_bridge_and_tunnels_away_and_no_other(wire4):
    node = wire4.node()
    one, two = node.pod(), node.pod()
    assert {f"hnb{VNI}", f"hnv{VNI}"} < node.links()
    node.call("DEL", one)
    assert {f"hnb{VNI}", f"hnv{VNI}"} < node.links()
    for _ in range(3):
        node.call("DEL", two)
    assert node.links() == set()
    assert link("net1", one.path) is link("net1", two.path) is None


def test_a_delete_without_an_add_leaves_what_others_use(wire4):
    node = wire4.node()
    one = node.pod()
    before = node.links()
    node.call("DEL", Pod(wire4.namespace(), 99))
    assert node.links() == before
    node.call("CHECK", one, prevResult={})


def test_a_delete_works_when_the_pod_is_gone(wire4):
    node = wire4.node()
    pod = node.pod()
    subprocess.run(["ip", "netns", "del", Path(pod.path).name], check=True)
    node.call("DEL", pod)
    assert node.links() == set()


def test_the_nodes_have_no_address_in_the_overlay(wire4):
    node = wire4.node()
    node.pod()
    for name in (f"hnb{VNI}", f"hnv{VNI}"):
        assert ip("addr", "show", "dev", name, netns=node.path)[0]["addr_info"] == []


def test_at_every_step_that_fails_the_delete_leaves_nothing_and_the_next_add_is_whole(wire4, monkeypatch):
    node, other = wire4.node(), wire4.node()
    far = other.pod()
    real = agent.netlink.apply
    for number in itertools.count():
        steps = itertools.count()

        class Killed(BaseException):
            pass

        def dying(place, step, steps=steps, number=number, killed=Killed):
            if next(steps) >= number:
                raise killed  # the undoing dies with it
            real(place, step)

        pod = Pod(wire4.namespace(), 100 + number)
        monkeypatch.setattr(agent.netlink, "apply", dying)
        try:
            node.call("ADD", pod)
        except Killed:
            monkeypatch.setattr(agent.netlink, "apply", real)
        else:
            break
        if number % 2:
            node.call("ADD", pod)
            pod.configure()
            pod.reaches(far)
            node.call("CHECK", pod, prevResult={})
        node.call("DEL", pod)
        assert node.links() == set(), number
    assert number > 8


def test_adds_and_deletes_at_once_never_meet_a_segment_that_is_going(wire4):
    node = wire4.node()
    pods = [Pod(wire4.namespace(), number) for number in range(8)]

    def churn(pod: Pod) -> None:
        for _ in range(15):
            node.call("ADD", pod)
            assert f'"master":"hnb{VNI}"' in sh(f"ip -json link show {options.host_name(key(pod))}", node.path)
            node.call("DEL", pod)

    with ThreadPoolExecutor(len(pods)) as pool:
        list(pool.map(churn, pods))
    assert node.links() == set()


def test_what_is_told_while_an_interface_is_made_is_not_missed(wire4):
    node = wire4.node()
    pods = [Pod(wire4.namespace(), number) for number in range(25)]
    with ThreadPoolExecutor(2) as pool:
        for number, pod in enumerate(pods, 1):
            adding = pool.submit(node.call, "ADD", pod)
            node.attached[key(pod)] = CONFIG  # in the journal since before the ADD
            node.told = underlay.told(node.address, {"other": f"192.0.2.{100 + number}"})
            pool.submit(node.mend).result()
            adding.result()
            assert node.peers() == {f"192.0.2.{100 + number}"}
            node.call("DEL", pod)


def key(pod: Pod) -> Key:
    return Key(ContainerID(pod.container), "net1")


# -- what was taken away or changed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (f"ip link del hnb{VNI}", f"hnb{VNI}"),
        (f"ip link del hnv{VNI}", f"hnv{VNI}"),
        (f"ip link set hnv{VNI} nomaster", f"hnv{VNI}"),
        (f"ip link set hnv{VNI} down", f"hnv{VNI}"),
        (f"ip link set hnb{VNI} down", f"hnb{VNI}"),
        (f"ip link set hnv{VNI} mtu 1000", "1000"),
        (f"ip link set hnv{VNI} type vxlan local 192.0.2.77", "192.0.2.77"),
        (f"bridge fdb del {underlay.EVERYBODY} dev hnv{VNI} dst 192.0.2.2", "192.0.2.2"),
        (f"bridge fdb append {underlay.EVERYBODY} dev hnv{VNI} dst 192.0.2.99", "192.0.2.99"),
        (f"ip link set {options.host_name(Key(ContainerID('container-1'), 'net1'))} nomaster", "host end"),
    ],
)
@pytest.mark.parametrize("by", ["upkeep", "add"])
def test_damage_is_named_by_check_and_mended_by_the_upkeep_and_by_the_next_add(wire4, damage, named, by):
    first, second = wire4.node(), wire4.node()
    one, two = first.pod(), second.pod()
    sh(damage, first.path)
    refused(lambda: first.call("CHECK", one, prevResult={}), 999, named)
    if by == "upkeep":
        first.mend()
        first.call("CHECK", one, prevResult={})
        one.reaches(two)
    else:
        first.pod().reaches(two)


def test_the_upkeep_makes_nothing_for_an_attachment_that_is_gone(wire4):
    node = wire4.node()
    pod = node.pod()
    sh(f"ip link del {options.host_name(key(pod))}; ip link del hnb{VNI}; ip link del hnv{VNI}", node.path)
    node.mend()
    assert node.links() == set()


def test_a_node_that_changes_its_address_is_reached_under_the_new_one(wire):
    first, second = wire.node(), wire.node()
    one, two = first.pod(), second.pod()
    one.reaches(two)
    index = link(f"hnv{VNI}", second.path)["ifindex"]
    sh(f"ip addr del {second.cidr} dev eth0", second.path)
    second.number = 22
    sh(f"ip addr add {second.cidr} dev eth0 {wire.nodad}", second.path)
    wire.tell()
    assert first.peers() == {second.address}
    assert second.address in str(link(f"hnv{VNI}", second.path)["linkinfo"])
    assert link(f"hnv{VNI}", second.path)["ifindex"] == index  # changed in place, nothing is lost
    two.reaches(one)


def test_nodes_that_change_the_family_of_their_addresses_are_joined_by_new_tunnels(wire4):
    first, second = wire4.node(), wire4.node()
    one, two = first.pod(), second.pod()
    one.reaches(two)
    wire4.version, wire4.nodad = 6, "nodad"
    for node in (first, second):
        sh(f"ip addr add {node.cidr} dev eth0 nodad", node.path)
    wire4.tell()
    assert first.peers() == {second.address}
    assert link(f"hnv{VNI}", first.path)["mtu"] == 1430
    refused(lambda: first.call("CHECK", one, prevResult={}), 999, "1450", "1430")  # the pod's MTU does not fit now
    one.reaches(two)


def test_the_tunnels_follow_the_mtu_of_the_underlay(wire4):
    node = wire4.node()
    pod = node.pod(mtu=1300)
    sh("ip link set eth0 mtu 1400", node.path)
    refused(lambda: node.call("CHECK", pod, prevResult={}, mtu=1300), 999, "MTU 1450", "1350")
    node.mend()
    node.call("CHECK", pod, prevResult={}, mtu=1300)
    assert link(f"hnv{VNI}", node.path)["mtu"] == 1350


# -- what is refused ---------------------------------------------------------------------------------------------


def test_without_word_of_the_nodes_the_add_waits_and_makes_nothing(wire4):
    node = wire4.node(tell=False)
    pod = Pod(wire4.namespace(), 1)
    refused(lambda: node.call("ADD", pod), 11, "no controller")
    refused(lambda: node.call("STATUS", pod), 50, "no controller")
    assert (node.links(), link("net1", pod.path)) == (set(), None)
    wire4.tell()
    node.call("STATUS", pod)
    node.call("ADD", pod)


def test_an_address_that_no_link_has_is_waited_for_and_there_is_no_tunnel_from_another(wire4):
    node = wire4.node()
    node.told = underlay.told("192.0.2.200", {})
    pod = Pod(wire4.namespace(), 1)
    refused(lambda: node.call("ADD", pod), 11, "192.0.2.200")
    refused(lambda: node.call("STATUS", pod), 50, "192.0.2.200")
    assert node.links() == set()


def test_an_mtu_that_does_not_fit_is_refused_with_both_numbers(wire4):
    node = wire4.node()
    pod = Pod(wire4.namespace(), 1)
    refused(lambda: node.call("ADD", pod, mtu=1451), 7, "mtu=1451", "1450")
    assert node.links() == set()
    node.call("ADD", pod, mtu=1450)


def test_an_address_on_the_loopback_says_no_mtu(wire4):
    node = wire4.node()
    sh("ip addr add 198.51.100.1/32 dev lo", node.path)
    node.told = underlay.told("198.51.100.1", {})
    pod = Pod(wire4.namespace(), 1)
    refused(lambda: node.call("ADD", pod), 7, "lo", "mtu")
    node.call("ADD", pod, mtu=1400)
    assert pod.mtu() == 1400


@pytest.mark.parametrize(
    ("foreign", "named"),
    [
        (f"ip link add hnb{VNI} type bridge", f"hnb{VNI}"),
        (f"ip link add hnb{VNI} type veth peer name x", f"hnb{VNI}"),
        (f"ip link add hnv{VNI} type vxlan id 7 dstport 4789", f"hnv{VNI}"),
        (f"ip link add theirs type vxlan id {VNI} dstport 4789", "theirs"),
        ("ip link add theirs type vxlan external dstport 4789", "theirs"),
    ],
)
def test_what_is_somebody_elses_is_refused_and_left_as_it_is(wire4, foreign, named):
    node = wire4.node()
    sh(foreign, node.path)
    before = ip("-d", "link", netns=node.path)
    pod = Pod(wire4.namespace(), 1)
    refused(lambda: node.call("ADD", pod), 7, named)
    node.call("DEL", pod)
    assert ip("-d", "link", netns=node.path) == before


def test_beside_somebody_elses_tunnels_another_port_works(wire4):
    wire4.node(), wire4.node()
    for node in wire4.nodes:
        sh("ip link add theirs type vxlan external dstport 4789; ip link set theirs up", node.path)
    one, two = (node.pod(port=14789) for node in wire4.nodes)
    one.reaches(two)


def test_a_second_network_with_the_vni_is_refused_while_the_first_one_is_there(wire4):
    node = wire4.node()
    first, second = node.pod(), Pod(wire4.namespace(), 50)
    refused(lambda: node.call("ADD", second, name="red"), 7, "'blue'", "'red'")
    refused(lambda: node.call("ADD", second, port=14789), 7, "4789")
    node.call("CHECK", first, prevResult={})
    node.call("DEL", first)
    node.call("ADD", second, name="red")


def test_a_name_that_is_taken_in_the_pod_is_an_error_and_nothing_stays(wire4):
    node = wire4.node()
    pod = Pod(wire4.namespace(), 1)
    ip("link", "add", "net1", "type", "veth", "peer", "name", "other", netns=pod.path)
    before = link("net1", pod.path)
    refused(lambda: node.call("ADD", pod), 7, "net1")
    assert (node.links(), link("net1", pod.path)) == (set(), before)


# -- without a controller ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False])
def test_peers_of_the_configuration_need_no_controller(wire, local):
    for _ in range(2):
        wire.node(tell=False)
    addresses = [node.address for node in wire.nodes]
    one, two = (node.pod(peers=addresses, **({"local": node.address} if local else {})) for node in wire.nodes)
    assert wire.nodes[0].peers() == {wire.nodes[1].address}
    one.reaches(two)


def test_two_definitions_of_one_network_keep_each_others_peers_until_their_attachments_are_gone(wire4):
    one, two, three = (wire4.node(tell=False) for _ in range(3))
    older = one.pod(peers=[one.address, two.address])
    newer = one.pod(peers=[one.address, three.address])
    assert one.peers() == {two.address, three.address}
    far = two.pod(peers=[one.address, two.address])
    older.reaches(far)
    for pod in (older, newer):
        key = Key(ContainerID(pod.container), "net1")
        one.call("CHECK", pod, prevResult={}, peers=one.attached[key]["peers"])
    one.mend()
    assert one.peers() == {two.address, three.address}
    one.call("DEL", older)
    one.mend()
    assert one.peers() == {three.address}


def test_peers_of_the_configuration_are_refused_where_a_controller_has_told(wire4):
    node = wire4.node()
    pod = Pod(wire4.namespace(), 1)
    refused(lambda: node.call("ADD", pod, peers=[node.address, "192.0.2.200"]), 7, "`peers`")
    assert node.links() == set()
