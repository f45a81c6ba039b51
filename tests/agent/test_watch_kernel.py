"""What the kernel tells of, on the real one: of the node's namespace and of those that were asked for, and no more."""

import os
import subprocess
import time

import pytest

from agent import netns, watch
from agent.watch import NODE, Event, Watch, What
from tests.agent.native import ip

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

WAIT_S = 10


@pytest.fixture
def heard():
    made = Watch()
    yield made
    made.close()


def number(heard, path):
    with netns.View().opened(path) as fd:
        return heard.number(fd)


def read(heard, holds):
    """Read events until one is there for which `holds`; return all."""
    found, end = [], time.monotonic() + WAIT_S
    while not any(map(holds, found)):
        assert time.monotonic() < end, found
        heard.wait(0.2)
        found += heard.read()
    return found


def marked(heard):
    """Return all events so far: what comes after the mark has come after them."""
    name = f"mark{time.monotonic_ns() % 10**9}"
    ip("link", "add", name, "type", "bridge")
    return [one for one in read(heard, lambda one: one.name == name) if one.name != name]


def test_a_pods_events_come_with_its_number_and_others_do_not_come(heard, pod_netns, second_pod_netns):
    pod = number(heard, pod_netns)
    assert number(heard, pod_netns) == pod >= 0
    for path in (pod_netns, second_pod_netns):
        ip("link", "add", "net1", "type", "veth", "peer", "name", "x1", netns=path)
        ip("link", "set", "net1", "up", netns=path)
        ip("addr", "add", "10.9.0.1/24", "dev", "net1", netns=path)
    assert {(one.where, one.name) for one in marked(heard)} == {(pod, "net1"), (pod, "x1")}
    index = ip("link", "show", "net1", netns=pod_netns)[0]["ifindex"]
    for damage, event in (
        (("link", "set", "net1", "address", "02:00:00:00:00:09"), Event(pod, What.LINK, index, "net1")),
        (("addr", "flush", "dev", "net1"), Event(pod, What.ADDRESS, index, "net1", gone=True)),
        (("link", "set", "net1", "down"), Event(pod, What.LINK, index, "net1")),
        (("link", "set", "net1", "name", "other"), Event(pod, What.LINK, index, "net1", gone=True, renamed=True)),
        (("link", "del", "other"), Event(pod, What.LINK, index, "other", gone=True)),
    ):
        for path in (pod_netns, second_pod_netns):
            ip(*damage, netns=path)
        found = marked(heard)
        assert event in found
        assert {one.where for one in found} == {pod}


def test_a_route_that_goes_is_told_with_its_link_and_one_that_comes_is_not(heard, pod_netns):
    pod = number(heard, pod_netns)
    for arguments in (
        ("add", "net1", "type", "veth", "peer", "name", "x1"),
        ("set", "net1", "up"),
        ("set", "x1", "up"),
    ):
        ip("link", *arguments, netns=pod_netns)
    ip("addr", "add", "10.9.0.1/24", "dev", "net1", netns=pod_netns)
    time.sleep(2)  # the kernel's own IPv6 addresses and routes
    marked(heard)
    index = ip("link", "show", "net1", netns=pod_netns)[0]["ifindex"]
    ip("route", "add", "10.8.0.0/16", "via", "10.9.0.2", netns=pod_netns)
    ip("addr", "add", "10.9.0.7/24", "dev", "net1", netns=pod_netns)
    assert marked(heard) == []
    ip("route", "del", "10.8.0.0/16", netns=pod_netns)
    assert marked(heard) == [Event(pod, What.ROUTE, index, "net1", gone=True)]
    ip("addr", "add", "192.0.2.1/24", "dev", "lo")
    ip("route", "add", "default", "via", "192.0.2.9", "dev", "lo")
    node = {(one.what, one.gone) for one in marked(heard) if one.where == NODE}
    assert node == {(What.ADDRESS, False), (What.ROUTE, False)}


def test_what_says_nothing_new_is_not_told(heard):
    ip("link", "add", "br0", "address", "02:00:00:00:00:01", "mtu", "1500", "type", "bridge")
    ip("link", "add", "h0", "type", "veth", "peer", "name", "q0")
    ip("link", "set", "br0", "up")
    time.sleep(2)
    marked(heard)
    for _ in range(3):
        ip("link", "set", "h0", "master", "br0")
        ip("link", "set", "h0", "nomaster")
    names = {one.name for one in marked(heard)}
    assert names == {"h0"}, "a bridge is not changed by its ports"
    ip("link", "set", "h0", "up", "master", "br0")  # of one that is down the kernel tells no settings
    time.sleep(1)
    marked(heard)
    ip("link", "set", "h0", "type", "bridge_slave", "isolated", "on")
    assert "h0" in {one.name for one in marked(heard)}


def test_a_watch_keeps_no_namespace_alive_and_forgets_its_number(heard):
    name = "hntest-watch"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        old = number(heard, f"/run/netns/{name}")
        inode = os.stat(f"/run/netns/{name}").st_ino
        ip("link", "add", "end0", "type", "veth", "peer", "name", "net1")
        subprocess.run(["ip", "link", "set", "net1", "netns", name], check=True)
        marked(heard)
        assert (old, 1) in heard._seen or any(where == old for where, _ in heard._seen)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    found = read(heard, lambda one: one.name == "end0" and one.gone)
    assert found, f"namespace {inode} was taken down, and the pair with it"
    end = time.monotonic() + WAIT_S
    while any(where == old for where, _ in heard._seen):
        assert time.monotonic() < end
        heard.wait(0.2)
        heard.read()


def test_a_number_that_is_given_again_is_heard_whatever_comes_late(heard, pod_netns):
    name = "hntest-first"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        old = number(heard, f"/run/netns/{name}")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    end = time.monotonic() + WAIT_S
    while f'"nsid":{old}' in (listed := _numbers()):  # nobody reads meanwhile: that it is free is told too late
        assert time.monotonic() < end, listed
        time.sleep(0.05)
    assert number(heard, pod_netns) == old
    marked(heard)
    ip("link", "add", "net1", "type", "veth", "peer", "name", "x1", netns=pod_netns)
    assert {(one.where, one.name) for one in marked(heard)} == {(old, "net1"), (old, "x1")}


def _numbers() -> str:
    run = subprocess.run(["ip", "-json", "netns", "list-id"], capture_output=True, text=True, check=True)
    return run.stdout.replace(" ", "")


def test_events_that_are_lost_are_told_as_that(pod_netns, monkeypatch):
    monkeypatch.setattr(watch, "RECEIVE_BYTES", 4096)
    heard = Watch()
    try:
        pod = number(heard, pod_netns)
        ip("link", "add", "net1", "type", "veth", "peer", "name", "x1", netns=pod_netns)
        script = "".join(f"link set net1 mtu {1300 + count}\n" for count in range(200))
        batch = ["ip", "-n", pod_netns.rsplit("/", 1)[1], "-batch", "-"]
        subprocess.run(batch, input=script, text=True, check=True)
        found = heard.read()
        assert Event(NODE, What.LOST) in found
        assert {one.where for one in found} <= {NODE, pod}
        heard.read()
        ip("link", "set", "net1", "mtu", "1200", netns=pod_netns)
        assert any(one.name == "net1" and one.where == pod for one in read(heard, lambda one: one.name == "net1"))
    finally:
        heard.close()


def test_where_the_kernel_refuses_pods_are_not_heard_of_and_that_is_said(pod_netns, monkeypatch, caplog):
    monkeypatch.setattr(watch, "_LISTEN_ALL_NSID", 9999)
    heard = Watch()
    try:
        assert (heard.hears_pods, number(heard, pod_netns)) == (False, None)
        assert "not heard of" in caplog.text
        ip("link", "add", "br0", "type", "bridge")
        read(heard, lambda one: one.name == "br0")
    finally:
        heard.close()


def test_a_wake_ends_the_waiting(heard):
    heard.wake()
    heard.wait(WAIT_S)
    assert heard.read() == []


def test_a_link_that_is_there_or_up_which_was_not_is_told_as_come_and_one_that_is_changed_is_not(heard, pod_netns):
    pod = number(heard, pod_netns)

    def came(*arguments, netns=""):
        ip("link", *arguments, netns=netns)
        found = [(one.name, one.came) for one in marked(heard) if not one.gone and one.what is What.LINK]
        return {name for name, is_new in found if is_new}, {name for name, _ in found}

    assert came("add", "m0", "type", "veth", "peer", "name", "q0") == ({"m0", "q0"}, {"m0", "q0"})
    assert came("set", "m0", "up") == ({"m0"}, {"m0"})
    for change in (("mtu", "1400"), ("alias", "x"), ("address", "02:00:00:00:00:01"), ("promisc", "on"), ("down",)):
        assert came("set", "m0", *change) == (set(), {"m0"}), change
    assert came("set", "m0", "name", "m1") == ({"m1"}, {"m1"})
    assert came("set", "m1", "up") == ({"m1"}, {"m1"})
    assert came("add", "net1", "type", "veth", "peer", "name", "x1", netns=pod_netns)[0] == set(), "nobody waits for it"
    assert pod >= 0


def test_a_link_that_came_while_events_were_lost_is_told_as_come(monkeypatch):
    monkeypatch.setattr(watch, "RECEIVE_BYTES", 4096)
    ip("link", "add", "old0", "type", "veth", "peer", "name", "old1")
    heard = Watch()
    try:
        script = "".join(f"link set old0 mtu {1300 + count}\n" for count in range(200))
        script += "link add new0 type veth peer name new1\n"
        subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True)
        found = heard.read()
        assert Event(NODE, What.LOST) in found
        assert {one.name for one in found if one.came} >= {"new0", "new1"}
        assert not {one.name for one in found if one.came} & {"old0", "old1"}
    finally:
        heard.close()


def test_traffic_control_is_told_with_its_link(heard, pod_netns, second_pod_netns):
    pod = number(heard, pod_netns)
    for path in (pod_netns, second_pod_netns, ""):
        ip("link", "add", "net1", "type", "veth", "peer", "name", "x1", netns=path)
    marked(heard)
    index = {path: ip("link", "show", "net1", netns=path)[0]["ifindex"] for path in (pod_netns, "")}
    wanted = {Event(pod, What.QUEUE, index[pod_netns], "net1"), Event(NODE, What.QUEUE, index[""], "net1")}
    for arguments in (
        ("qdisc", "add", "dev", "net1", "clsact"),
        ("filter", "add", "dev", "net1", "ingress", "protocol", "all", "u32", "match", "u32", "0", "0"),
        ("filter", "del", "dev", "net1", "ingress"),
        ("qdisc", "del", "dev", "net1", "clsact"),
    ):
        for path in (pod_netns, second_pod_netns, ""):
            inside = ["ip", "netns", "exec", path.rpartition("/")[2]] if path else []
            subprocess.run([*inside, "tc", *arguments], check=True)
        assert set(marked(heard)) == wanted, arguments
