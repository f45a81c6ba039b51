"""Between a look and a repair the world goes on: what changed meanwhile is not repaired, and not told as mended."""

import argparse
import base64
import json
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent import codec, netns, options
from agent.audit import command, links
from agent.audit.contract import (
    Delete,
    File,
    Forget,
    Lease,
    NamespaceFile,
    Release,
    RemoveFile,
    RemoveLink,
    RemoveNamespace,
    Seen,
    Signs,
)
from agent.audit.look import Node, _cgroups, _data_dir, _lease, _used_namespaces
from agent.audit.mend import Mender
from agent.cache import read
from agent.links import Link
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Record

DEAD = "d" * 64
NOBODY = Signs(())
LONG_AGO = time.time() - 7200


def old(path: Path) -> Path:
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def lease(tmp_path):
    path = tmp_path / "networks/blue/10.0.0.2"
    path.parent.mkdir(parents=True)
    path.write_text(f"{DEAD}\nnet1")
    return Lease(path, "blue", path.read_text(), DEAD, "net1", 7200)


class Looks:
    """A node that is another at each look."""

    def __init__(self, *seen: Seen) -> None:
        self.left = list(seen)

    def look(self) -> Seen:
        return self.left.pop(0)


class Repairs:
    def __init__(self) -> None:
        self.done: list[object] = []

    def perform(self, repair):
        self.done.append(repair)
        return ""


def repaired(first: Seen, *later: Seen) -> tuple[list[str], list[object], list[str]]:
    """Return the outcomes, what was repaired, and what could not be looked at."""
    mender, blind = Repairs(), dict.fromkeys(first.blind)
    found = command.judged(first, 300.0)
    told = command._mended(found, Looks(*later), mender, first.on_disk(), 300.0, blind)
    return [outcome for _, outcome in told], mender.done, list(blind)


@pytest.mark.parametrize(
    "later",
    [
        {"signs": Signs(None), "blind": ("runtime",)},
        {"signs": Signs((), namespaces=(NamespaceFile("/run/netns/cni-x", 5, 5.0, used=True),))},
        {"signs": Signs((), noted={DEAD: frozenset({"/run/netns/x"})})},
    ],
)
def test_what_cannot_be_judged_at_the_repair_is_neither_repaired_nor_told_as_mended(lease, later):
    first = Seen(NOBODY, leases=(lease,))
    second = replace(replace(first, leases=(replace(lease, age_s=5.0),)), **later)
    outcomes, done, blind = repaired(first, second)
    assert (outcomes, done, blind) == ([command._NOT_NOW], [], list(later.get("blind", ())))


def test_what_has_gone_by_itself_is_told_as_mended_only_if_all_could_be_looked_at(lease):
    first = Seen(NOBODY, leases=(lease,))
    lease.path.unlink()
    assert repaired(first, Seen(NOBODY))[0] == ["mended"]
    assert repaired(first, Seen(NOBODY, blind=("nftables",)))[0] == [command._NOT_NOW]


def test_a_look_is_proof_for_a_moment_only(lease, monkeypatch):
    monkeypatch.setattr(command, "_PROOF_S", -1.0)
    others = tuple(replace(lease, path=lease.path.with_name(f"10.0.0.{number}")) for number in (3, 4))
    first = Seen(NOBODY, leases=others)
    outcomes, done, _ = repaired(first, first, Seen(Signs((), noted={DEAD: frozenset({"/x"})}), leases=others))
    assert done == [Release(others[0])]
    assert outcomes[0] == "mended"


@pytest.mark.parametrize("doubt", [{"blind": ("journal x",)}, {"unreadable": {Path("/c/x"): "no JSON"}}])
def test_in_doubt_only_what_the_runtime_would_list_is_repaired(lease, doubt):
    vm = replace(lease, container="vm-7", text="vm-7\nnet1")
    nobodys = NamespaceFile("/run/netns/cni-01234567-89ab-cdef-0123-456789abcdef", 5, 7200, used=False)
    seen = Seen(Signs((), namespaces=(nobodys,)), leases=(lease, vm), **doubt)
    repairs = [type(one.repair) for one in command.judged(seen, 300.0) if one.repair]
    assert repairs == [Release]
    certain = Seen(seen.signs, leases=seen.leases)
    assert [type(one.repair) for one in command.judged(certain, 300.0)] == [RemoveNamespace, Release, Release]


@pytest.mark.parametrize(("guard", "repair"), [(-1.0, False), (float("nan"), False), (3.0, True)])
def test_a_guard_that_guards_nothing_is_refused(guard, repair):
    with pytest.raises(ValueError, match="--guard"):
        command.run(argparse.Namespace(cri="unix:///none", guard=guard, repair=repair))


def test_a_terminal_gets_nothing_but_text():
    assert command._printable("a\x1b[2Jb\rü\n") == "a\\x1b[2Jb\\rü\\n"


# -- each repair looks at its thing itself ------------------------------------------------------------------------


class Called:
    def __init__(self) -> None:
        self.commands: list[str] = []

    def __call__(self, plugin_type, verb, env, config, deadline_s):
        self.commands.append(verb)


@pytest.fixture
def node(tmp_path):
    (tmp_path / "state/records").mkdir(parents=True)
    return Node(netns.View(tmp_path), None, None, tmp_path / "state", tmp_path / "run", (tmp_path,), ())


def cached(folder: Path, **more: str):
    config = base64.b64encode(json.dumps({"cniVersion": "1.0.0", "name": "blue", "type": "x"}).encode()).decode()
    document = {"kind": "cniCacheV1", "containerId": "vm-7", "ifName": "net1", "networkName": "blue", "config": config}
    path = folder / "blue-vm-7-net1"
    path.write_text(json.dumps(document | more))
    old(path)
    return read((folder,), "vm-7")[0]


def test_a_container_that_began_anew_under_its_old_id_has_no_del(node, tmp_path):
    called = Called()
    mender = Mender(node, called, ())
    one = cached(tmp_path)
    cached(tmp_path, netns="/run/netns/new")
    assert "anew" in mender.perform(Delete(one))
    cached(tmp_path)
    os.utime(one.path)  # the same words, just written
    assert "anew" in mender.perform(Delete(one))
    assert (called.commands, one.path.exists()) == ([], True)
    old(one.path)
    assert (mender.perform(Delete(one)), called.commands, one.path.exists()) == ("", ["DEL"], False)
    assert (mender.perform(Delete(one)), called.commands) == ("", ["DEL"])


def journalled(node: Node, config: str, container: str = "vm-7") -> Record:
    key = Key(ContainerID(container), "net1")
    record = Record(key, Origin.RUNTIME, Phase.ATTACHED, "", "", config, Namespace("/run/netns/x"))
    (node.state_dir / "records/x.json").write_text(json.dumps(codec.encode_record(record)))
    return record


def test_a_record_that_is_another_now_is_not_forgotten(node):
    called = Called()
    before = journalled(node, '{"type": "hotnic", "name": "blue"}')
    after = journalled(node, '{"type": "hotnic", "name": "blue", "mtu": 9000}')
    assert "anew" in Mender(node, called, ()).perform(Forget(before, alone=False))
    assert called.commands == []
    assert Mender(node, called, ()).perform(Forget(after, alone=False)) == ""
    (node.state_dir / "records/x.json").unlink()
    assert Mender(node, called, ()).perform(Forget(after, alone=False)) == ""
    assert called.commands == ["DEL"]


def test_what_multus_writes_just_now_stays(node, tmp_path):
    path = tmp_path / DEAD
    path.write_text("[]")
    assert "anew" in Mender(node, None, ()).perform(RemoveFile(path))
    old(path)
    assert (Mender(node, None, ()).perform(RemoveFile(path)), path.exists()) == ("", False)


def test_what_multus_keeps_stays_where_results_cannot_be_listed(node, tmp_path):
    path = tmp_path / DEAD
    path.write_text("[]")
    old(path)
    (folder := tmp_path / "loop").symlink_to(tmp_path / "loop")
    unreadable = replace(node, caches=(*node.caches, folder))
    assert "symbolic links" in Mender(unreadable, None, ()).perform(RemoveFile(path))
    assert path.exists()


def test_a_lease_whose_whole_store_has_gone_is_mended(node, lease):
    lease.path.unlink()
    lease.path.parent.rmdir()
    assert Mender(node, None, ()).perform(Release(lease)) == ""


def test_an_overlay_that_an_attachment_has_taken_meanwhile_stays(node, monkeypatch):
    """An ADD on it is journalled before it looks whether the bridge is there."""
    bridge = Link(9, "hnb7", "bridge", "02:00:00:00:00:01", 1500, True, 0, 0, "", 0, False, b"", b"", "", "", True)
    deleted: list[Link] = []

    class Kernel:
        def pod_link_at(self, own, index):
            return bridge

        def pod_links(self, own):
            return (bridge,)

        def delete_in_pod(self, own, link):
            deleted.append(link)

    monkeypatch.setattr(links, "_unused_segments", lambda there, records: () if list(records) else tuple(there))
    here = replace(node, kernel=Kernel())
    journalled(here, '{"type": "hotnic", "device": "overlay", "vni": 7}')
    assert "in use" in Mender(here, None, ()).perform(RemoveLink(bridge))
    assert deleted == []
    (here.state_dir / "records/x.json").unlink()
    assert (Mender(here, None, ()).perform(RemoveLink(bridge)), deleted) == ("", [bridge])


# -- where tenants say what is looked at --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipam", "folder"),
    [
        ({"type": "host-local", "dataDir": "/var/lib/x"}, "/var/lib/x"),
        ({"type": "static", "dataDir": "/var/lib/x"}, ""),
        ({"type": "host-local", "dataDir": "/var/lib/../../etc"}, ""),
        ({"type": "host-local", "dataDir": "relative"}, ""),
    ],
)
def test_a_store_is_only_where_host_local_has_one(ipam, folder):
    assert _data_dir({"ipam": ipam}) == folder


@pytest.mark.parametrize("text", ["root:x:0:0\n", "a b", f"{DEAD}\nnet1\nmore", "x" * 5000, "\0", f"{DEAD}\na/b"])
def test_what_does_not_look_like_a_lease_is_none(tmp_path, text):
    path = tmp_path / "10.0.0.1"
    path.write_text(text)
    assert _lease(File(path, 7200)) is None


@pytest.mark.parametrize(
    ("text", "whose"), [(f"{DEAD}\r\nnet1", (DEAD, "net1")), (f" {DEAD} ", (DEAD, "")), ("", ("", ""))]
)
def test_leases_of_all_times_are_read(tmp_path, text, whose):
    path = tmp_path / "10.0.0.1"
    path.write_text(text, newline="")
    lease = _lease(File(path, 7200))
    assert (lease.container, lease.ifname) == whose


# -- what cannot be read is not taken for nothing -----------------------------------------------------------------


@pytest.fixture
def short_of_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lease_is_not_taken_for_none_without_descriptors(lease, short_of_descriptors):
    with pytest.raises(OSError, match="Too many open files"):
        _lease(File(lease.path, 7200))


def test_a_process_is_not_taken_for_none_without_descriptors(short_of_descriptors):
    with pytest.raises(OSError, match="Too many open files"):
        _cgroups((Path("/proc/self"),))


def test_a_lease_and_a_process_that_have_gone_meanwhile_are_none(tmp_path):
    assert (_lease(File(tmp_path / "10.0.0.1", 7200)), _cgroups((tmp_path / "1",))) == (None, frozenset())
    assert _used_namespaces((tmp_path / "1",)) == frozenset()


def test_a_lease_stays_while_the_link_whose_owner_it_tells_cannot_be_removed(lease):
    key = Key(ContainerID(DEAD), "net1")
    name, mac = options.host_name(key), options.derived_mac(key, "host")
    link = Link(9, name, "veth", mac, 1500, True, 0, 0, "", 0, False, b"", b"", "", "", True)
    other = replace(lease, path=lease.path.with_name("10.0.0.3"), container="e" * 64, text=f"{'e' * 64}\nnet1")
    seen = Seen(NOBODY, leases=(lease, other), links=(link,))

    class Busy(Repairs):
        def perform(self, repair):
            super().perform(repair)
            return "busy" if isinstance(repair, RemoveLink) else ""

    mender = Busy()
    told = tuple(command._mended(command.judged(seen, 300.0), Looks(seen), mender, seen.on_disk(), 300.0, {}))
    assert mender.done == [RemoveLink(link), Release(other)]
    assert [outcome for _, outcome in told] == ["busy", command._NEEDED, "mended"]
