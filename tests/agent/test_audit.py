"""The audit's decisions: who is dead, what is left of them, and what would mend it. All that is seen is made up."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import cri, options, standalone
from agent.audit import command, life, look
from agent.audit.contract import (
    Delete,
    File,
    Finding,
    Forget,
    Lease,
    NamespaceFile,
    Peer,
    Release,
    RemoveFile,
    RemoveLink,
    RemoveNamespace,
    RemovePort,
    RemoveRules,
    Rule,
    Seen,
    Signs,
)
from agent.cache import Cached
from agent.links import Link
from agent.model import ContainerID, Key, Namespace, Origin, Phase, Pod, PodUID, Record
from agent.switch import LinkPort

DEAD, ALIVE, STOPPED = (letter * 64 for letter in "dab")
OLD, YOUNG = 3600.0, 5.0
BRIDGE = 7  # NFPROTO_BRIDGE
NETNS = "/run/netns/cni-01234567-89ab-cdef-0123-456789abcdef"


def sandbox(container: str, *, ready: bool = True, name: str = "p") -> cri.Sandbox:
    return cri.Sandbox(ContainerID(container), PodUID("u"), "ns", name, attempt=0, created_ns=1, ready=ready)


SIGNS = Signs((sandbox(ALIVE), sandbox(STOPPED, ready=False, name="gone")))


def lease(container: str = DEAD, ifname: str = "net1", age_s: float = OLD, network: str = "blue") -> Lease:
    text = f"{container}\r\n{ifname}" if container else ""
    return Lease(Path(f"/var/lib/cni/networks/{network}/10.0.0.{len(ifname)}"), network, text, container, ifname, age_s)


def cached(container: str = DEAD, ifname: str = "net1", netns: str = "", network: str = "blue") -> Cached:
    args = (("K8S_POD_NAMESPACE", "ns"), ("K8S_POD_NAME", "old"))
    path = Path(f"/var/lib/cni/results/{network}-{container}-{ifname}")
    return Cached(container, network, ifname, netns, '{"type": "x"}', args, {}, {}, path)


def record(container: str = DEAD, ifname: str = "net1", config: str = '{"type": "x"}') -> Record:
    key = Key(ContainerID(container), ifname)
    pod = Pod(PodUID("u"), "ns", "p")
    return Record(key, Origin.ANNOTATION, Phase.ATTACHED, "ns/blue", "", config, Namespace("/run/netns/x"), pod)


def link(name: str, kind: str = "veth", mac: str = "", index: int = 9, **more) -> Link:
    return Link(index, name, kind, mac, 1500, True, more.get("master", 0), 0, more.get("alias", ""), 0, False,
                more.get("data", b""), b"", "", "", True)  # fmt: skip


def found(seen: Seen, guard_s: float = life.GUARD_S) -> list[Finding]:
    return list(command.judged(seen, guard_s))


def only(seen: Seen) -> Finding:
    (one,) = found(seen)
    return one


# -- who is dead ------------------------------------------------------------------------------------------------


def test_a_container_that_the_runtime_does_not_list_is_dead_and_one_that_is_ready_is_not():
    judge = life.Life(SIGNS)
    assert "does not list" in judge.death(DEAD, OLD)
    assert "as stopped" in judge.death(STOPPED, OLD)
    assert judge.death(ALIVE, OLD) == ""


def test_without_the_runtimes_word_nobody_is_dead():
    assert life.Life(Signs(None)).death(DEAD, OLD) == ""
    assert found(Seen(Signs(None), leases=(lease(),), cached=((cached(), OLD),), records=(record(),))) == []


@pytest.mark.parametrize(
    "sign",
    [
        replace(SIGNS, noted={DEAD: frozenset({"/run/netns/x"})}),
        replace(SIGNS, cgroups=frozenset({f"/kubepods/pod1/cri-containerd-{DEAD}.scope"})),
        replace(SIGNS, cgroups=frozenset({f"/machine.slice/libpod-{DEAD}/container"})),
    ],
)
def test_a_namespace_or_a_process_is_life(sign):
    assert life.Life(sign).death(DEAD, OLD) == ""
    assert found(Seen(sign, leases=(lease(),))) == []


def test_what_is_young_may_be_of_a_container_in_the_making():
    assert found(Seen(SIGNS, leases=(lease(age_s=YOUNG),))) == []
    assert len(found(Seen(SIGNS, leases=(lease(age_s=YOUNG),)), guard_s=1)) == 1


def test_what_has_no_age_is_judged_while_no_container_is_in_the_making():
    born = NamespaceFile(NETNS, 5, YOUNG, used=False)
    assert life.Life(replace(SIGNS, namespaces=(born,))).death(DEAD, None) == ""
    assert life.Life(replace(SIGNS, namespaces=(born,), claimed=frozenset({NETNS}))).death(DEAD, None)
    assert life.Life(replace(SIGNS, namespaces=(replace(born, age_s=OLD),))).death(DEAD, None)


def test_a_namespace_that_its_runtime_has_forgotten_is_no_life():
    forgotten = NamespaceFile(NETNS, 5, OLD, used=False)
    signs = replace(SIGNS, noted={DEAD: frozenset({NETNS})}, namespaces=(forgotten,))
    assert life.Life(signs).death(DEAD, OLD)
    for changed in (replace(forgotten, used=True), replace(forgotten, path="/run/netns/mine")):
        noted = {DEAD: frozenset({changed.path})}
        assert life.Life(replace(signs, noted=noted, namespaces=(changed,))).death(DEAD, OLD) == ""


def test_what_another_runtime_notes_is_its_own_though_nobody_is_in_it():
    """A scheduler names namespace and container alike, by a UUID, and starts processes in it later."""
    uuid = NETNS.rpartition("/cni-")[2]
    pinned = NamespaceFile(f"/run/netns/{uuid}", 5, OLD, used=False)
    named, noted = replace(SIGNS, namespaces=(pinned,)), {uuid: frozenset({pinned.path})}
    for signs in (named, replace(named, noted=noted)):
        assert life.Life(signs).death(uuid, OLD) == ""
        assert [
            one for one in found(Seen(signs, leases=(lease(uuid),), cached=((cached(uuid), OLD),))) if one.repair
        ] == []
    other = NamespaceFile(NETNS, 5, OLD, used=False)
    signs = replace(SIGNS, namespaces=(other,), noted={"vm-7": frozenset({NETNS})})
    assert life.Life(signs).death("vm-7", OLD) == ""
    assert found(Seen(signs)) == []


# -- files ------------------------------------------------------------------------------------------------------


def test_a_lease_tells_whose_it_is_and_goes_under_the_lock():
    one = only(Seen(SIGNS, leases=(lease(STOPPED),)))
    assert (one.what, one.where) == ("host-local lease", "/var/lib/cni/networks/blue/10.0.0.4")
    assert (one.whose.container, one.whose.ifname, one.whose.network) == (STOPPED, "net1", "blue")
    assert one.whose.pod == "ns/gone"
    assert isinstance(one.repair, Release)


def test_a_lease_that_names_nobody_is_nobodys_once_it_is_old():
    one = only(Seen(SIGNS, leases=(lease("", "", OLD),)))
    assert "names nobody" in one.evidence
    assert isinstance(one.repair, Release)
    assert found(Seen(SIGNS, leases=(lease("", "", YOUNG),))) == []


def test_what_the_journal_has_is_the_agents():
    one = only(Seen(SIGNS, records=(record(),), leases=(lease(),)))
    assert (one.what, one.repair) == ("record of the journal", None)
    assert "the agent" in one.otherwise
    assert one.whose.pod == "ns/p"
    both = found(Seen(SIGNS, records=(record(),), cached=((cached(), OLD),)))
    assert [finding.repair for finding in both] == [None, None]


def test_what_a_runtime_without_pods_forgot_is_deleted_as_it_should_have_done():
    """No sandbox that is listed will tell the agent that a container of podman's is gone."""
    its = replace(record(), origin=Origin.RUNTIME, pod=None)
    assert only(Seen(SIGNS, records=(its,))).repair == Forget(its, alone=False)
    assert only(Seen(SIGNS, records=(its,), alone=frozenset({its.key}))).repair == Forget(its, alone=True)
    assert only(Seen(SIGNS, records=(replace(record(), origin=Origin.RUNTIME),))).repair is None


def test_a_cached_attachment_is_deleted_before_its_lease_is_looked_for():
    one, other = found(Seen(SIGNS, leases=(lease(),), cached=((cached(), OLD),)))
    assert isinstance(one.repair, Delete)
    assert isinstance(other.repair, Release)
    assert one.whose.pod == other.whose.pod == "ns/old"


def test_what_multus_keeps_of_a_dead_container_is_found():
    one = only(Seen(SIGNS, scratch=tuple(File(Path("/m") / container, OLD) for container in (DEAD, ALIVE))))
    assert one.repair == RemoveFile(Path("/m") / DEAD)


def test_what_cannot_be_read_is_told():
    seen = Seen(SIGNS, unreadable={Path("/c/x"): "no JSON"}, aside=(File(Path("/d/y"), OLD),))
    assert [(one.where, one.repair) for one in found(seen)] == [("/c/x", None), ("/d/y", None)]


def test_a_call_waits_for_the_agent_for_a_while_only():
    assert found(Seen(SIGNS, tombstones=(File(Path("/t/1.bin"), YOUNG),))) == []
    assert only(Seen(SIGNS, tombstones=(File(Path("/t/1.bin"), OLD),))).repair is None


# -- links, rules, ports, namespaces ----------------------------------------------------------------------------

KEY = Key(ContainerID(DEAD), "net1")
HOST_END = link(options.host_name(KEY), mac=options.derived_mac(KEY, "host"))
COMPANION = link(options.companion(KEY).companion, "ifb", options.derived_mac(KEY, "companion"))


@pytest.mark.parametrize("one", [HOST_END, COMPANION])
def test_a_link_of_ours_goes_when_a_lease_says_which_dead_attachment_had_it(one):
    assert RemoveLink(one) in [finding.repair for finding in found(Seen(SIGNS, leases=(lease(),), links=(one,)))]


@pytest.mark.parametrize(
    "seen",
    [
        Seen(SIGNS, links=(HOST_END,)),  # nobody tells whose
        Seen(SIGNS, links=(replace(HOST_END, mac="02:00:00:00:00:01"),), leases=(lease(),)),  # another's of the name
        Seen(replace(SIGNS, claimed=frozenset({"/run/netns/a"})), links=(HOST_END,), leases=(lease(),),
             peers={9: Peer("/run/netns/a", "net1")}),
    ],
)  # fmt: skip
def test_a_link_of_which_it_is_not_proven_is_told_only(seen):
    (one,) = [finding for finding in found(seen) if finding.what == "link of ours"]
    assert (one.repair, one.otherwise != "") == (None, True)


def test_a_link_that_a_record_explains_and_one_that_is_somebody_elses_are_not_told():
    other = replace(HOST_END, name="vethd0c4a1b2")
    assert [one.what for one in found(Seen(SIGNS, records=(record(ALIVE),), links=(other,)))] == []
    mine = replace(HOST_END, name=options.host_name(record(ALIVE).key))
    assert found(Seen(SIGNS, records=(record(ALIVE),), links=(mine,))) == []


def test_an_overlay_that_nobody_uses_goes_and_one_with_a_port_or_a_record_stays():
    digest = hashlib.sha256(b"hotnic overlay 7").digest()  # how agent.devices.segment derives its MACs, on its own
    mac = bytes((2, *digest[:3], 1, 2)).hex(":")
    bridge = link("hnb7", "bridge", mac)
    assert only(Seen(SIGNS, links=(bridge,))).repair == RemoveLink(bridge)
    assert found(Seen(SIGNS, links=(replace(bridge, mac="02:00:00:00:00:01"),))) == []
    port = link("hn0123456789ab", index=10, master=9)
    assert RemoveLink(bridge) not in [one.repair for one in found(Seen(SIGNS, links=(bridge, port)))]
    used = record(ALIVE, config='{"type": "hotnic", "device": "overlay", "vni": 7}')
    assert found(Seen(SIGNS, links=(bridge,), records=(used,))) == []


def test_what_the_plugin_bandwidth_left_is_known_by_network_and_container():
    shaper = link(("bwp" + hashlib.sha512(f"blue{DEAD}".encode()).hexdigest())[:15], "ifb")
    repairs = [one.repair for one in found(Seen(SIGNS, leases=(lease(),), links=(shaper,)))]
    assert RemoveLink(shaper) in repairs
    assert RemoveLink(shaper) not in [one.repair for one in found(Seen(SIGNS, leases=(lease(ALIVE),), links=(shaper,)))]


def macspoofchk(container: str, ifname: str = "net1") -> tuple[Rule, ...]:
    """As the plugin `bridge` makes them."""
    both = f"{container}-{ifname}"
    chain = f"cni-br-iface-{both}"
    comment = f"\0\x20macspoofchk-{both}\0"
    return (
        Rule(BRIDGE, "nat", chain), Rule(BRIDGE, "nat", f"{chain}-mac"),
        Rule(BRIDGE, "nat", "PREROUTING", 4, comment), Rule(BRIDGE, "nat", chain, 5, comment),
        Rule(BRIDGE, "nat", f"{chain}-mac", 6, comment),
    )  # fmt: skip


def test_rules_go_by_the_dead_container_that_they_name_all_at_once():
    rules = (Rule(BRIDGE, "nat", "PREROUTING"), *macspoofchk(DEAD), *macspoofchk(ALIVE))
    one = only(Seen(SIGNS, rules=rules))
    assert isinstance(one.repair, RemoveRules)
    assert set(one.repair.rules) == set(macspoofchk(DEAD))
    assert one.whose.container == DEAD


def masquerade(container: str, network: str = "blue", ifname: str = "net1") -> Rule:
    """As the reference plugins sign it: at most 128 characters, of which a hash of all is the beginning."""
    hashes = [hashlib.sha512(text.encode()).hexdigest()[:16] for text in (network, f"{ifname}:{container}")]
    comment = f"{'-'.join(hashes)}, net: {network}, if: {ifname}, id: {container}"[:128]
    return Rule(1, "cni_plugins_masquerade", "masq_checks", 7, f"\0{comment}\0")


@pytest.mark.parametrize(
    "rule",
    [
        Rule(2, "cni_hostport", "hostports", 7, f"\0A{DEAD}\0"),
        masquerade(DEAD),
        Rule(2, "nat", "CNI-HOSTPORT-DNAT", 7, f'\0dnat name: "blue" id: "{DEAD}"\0\0CNI-DN-0123456789abcdef01234\0'),
    ],
)
def test_rules_of_the_other_reference_plugins_are_known_by_their_comment(rule):
    one = only(Seen(SIGNS, rules=(rule,)))
    assert isinstance(one.repair, RemoveRules)
    assert one.repair.rules == (rule,)
    assert [target.chain for target in one.repair.targets] == (
        ["CNI-DN-0123456789abcdef01234"] if rule.table == "nat" else []
    )
    living = masquerade(ALIVE) if rule.chain == "masq_checks" else replace(rule, text=rule.text.replace(DEAD, ALIVE))
    assert found(Seen(SIGNS, rules=(living,))) == []


LONG_NAME = "a-network-with-a-long-name"


@pytest.mark.parametrize("kept", [0, 1, 20, 63])
def test_an_id_that_was_cut_off_is_no_proof(kept):
    """The longer the network's name, the less of the ID is left in the comment."""
    network = "n" * (128 - 52 - len("eth0") - kept)
    assert found(Seen(SIGNS, rules=(masquerade(ALIVE, network, "eth0"),))) == []
    assert [one.repair for one in found(Seen(SIGNS, rules=(masquerade(DEAD, network, "eth0"),)))] == [None] * bool(kept)


def test_a_cut_id_of_a_container_that_only_a_namespace_shows_to_live_is_not_told():
    nerdctl = f"default-{DEAD}"
    for signs in (
        replace(SIGNS, noted={nerdctl: frozenset({"/run/netns/x"})}),
        replace(SIGNS, cgroups=frozenset({DEAD})),
    ):
        whole = masquerade(nerdctl, "bridge", "")
        for rule in (whole, masquerade(nerdctl, "bridge", "eth0")):
            assert [one for one in found(Seen(signs, rules=(rule,))) if one.repair] == []
    assert found(Seen(replace(SIGNS, noted={nerdctl: frozenset({"/run/netns/x"})}), rules=(masquerade(nerdctl),))) == []


@pytest.mark.parametrize(
    "rule",
    [
        Rule(1, "filter", "input", 3, "\0customer ACME, id: 42\0"),
        Rule(1, "filter", "input", 3, f"\0customer ACME, id: {DEAD}\0"),
        Rule(1, "cni_plugins_masquerade", "masq_checks", 3, f"\0of mine, net: a, if: b, id: {DEAD}\0"),
        Rule(2, "nat", "PREROUTING", 3, f'\0name: "blue" id: "{DEAD}"\0'),
        Rule(2, "filter", "CNI-X", 3, f'\0name: "blue" id: "{DEAD}"\0'),
        Rule(BRIDGE, "filter", "PREROUTING", 3, f"\0macspoofchk-{DEAD}-net1\0"),
        Rule(1, "nat", "PREROUTING", 3, f"\0macspoofchk-{DEAD}-net1\0"),
        Rule(2, "cni_hostport", "hostports", 3, f"\0default-{DEAD}\0"),
        Rule(2, "cni_hostport", "hostports", 3, f"\0{DEAD}0\0"),
    ],
)
def test_a_signature_counts_only_where_its_plugin_makes_rules(rule):
    assert found(Seen(SIGNS, rules=(rule,))) == []


def test_an_id_that_could_be_anything_is_proof_only_if_the_disk_has_it_as_well():
    seen = Seen(SIGNS, rules=(masquerade("vm-7"), *macspoofchk("vm-7")))
    assert {one.repair for one in found(seen)} == {None}
    rules = [one for one in found(replace(seen, leases=(lease("vm-7"),))) if one.what == "rules of nftables"]
    assert {type(one.repair) for one in rules} == {RemoveRules}


def test_a_cut_id_that_is_anothers_whole_one_is_no_proof():
    seen = Seen(SIGNS, leases=(lease("vm-7"),), rules=(masquerade("vm-77", "n" * (128 - 52 - 8)),))
    (rule,) = [one for one in found(seen) if one.what == "rules of nftables"]
    assert (rule.whose.container, rule.repair) == ("vm-7", None)


def test_what_other_software_says_of_a_container_in_its_rules_is_its_own():
    assert found(Seen(SIGNS, rules=(Rule(2, "docker", "x", 3, f"\0container {DEAD}\0"),))) == []


def test_a_name_that_could_be_two_containers_is_judged_by_both():
    signs = Signs((sandbox("a"),))
    assert found(Seen(signs, rules=macspoofchk("a-b"))) == []
    assert [one.repair for one in found(Seen(Signs(()), rules=macspoofchk("a-b")))] == [None]


def port(**external_ids: str) -> LinkPort:
    return LinkPort("/db", "br0", "v1", external_ids, there=False)


def test_a_port_without_a_link_goes_when_it_says_whose_it_was():
    ours = port(owner="hotnic", containerID=DEAD, contIface="net1")
    theirs = port(owner="ovs-cni.network.kubevirt.io", contNetns="/var/run/netns/gone", contIface="net1")
    for one in (ours, theirs):
        assert only(Seen(SIGNS, ports=(one,))).repair == RemovePort(one)
        assert found(Seen(SIGNS, ports=(replace(one, there=True),))) == []
    living = port(owner="hotnic", containerID=ALIVE)
    there = replace(SIGNS, namespaces=(NamespaceFile("/run/netns/gone", 5, OLD, used=True),))
    for seen in (Seen(SIGNS, ports=(port(),)), Seen(SIGNS, ports=(living,)), Seen(there, ports=(theirs,))):
        assert only(seen).repair is None


def test_a_namespace_that_nobody_has_goes_if_a_runtime_has_named_it():
    left = NamespaceFile(NETNS, 5, OLD, used=False)
    assert only(Seen(replace(SIGNS, namespaces=(left,)))).repair == RemoveNamespace(left)
    for kept in (replace(left, used=True), replace(left, age_s=YOUNG), replace(left, path="/run/netns/mine")):
        assert found(Seen(replace(SIGNS, namespaces=(kept,)))) == []
    assert found(Seen(replace(SIGNS, namespaces=(left,), claimed=frozenset({NETNS})))) == []


def test_an_empty_file_is_removed_only_if_its_name_is_a_runtimes():
    """The namespace of a service with mounts of its own looks so from outside."""
    junk = NamespaceFile(NETNS, 0, OLD, used=False)
    assert only(Seen(replace(SIGNS, namespaces=(junk,)))).repair == RemoveNamespace(junk)
    for name in ("mine", NETNS.rpartition("/cni-")[2]):
        told = only(Seen(replace(SIGNS, namespaces=(replace(junk, path=f"/run/netns/{name}"),))))
        assert (told.repair, told.otherwise != "") == (None, True)


def test_where_the_journal_of_calls_without_an_agent_is_said_once():
    assert look.STANDALONE == standalone.STATE_DIR


# -- nothing of the living --------------------------------------------------------------------------------------

_WHOLE = st.text("ab", min_size=64, max_size=64)
_SHORT = st.text("abc-0", min_size=1, max_size=6).filter(lambda one: one[0].isalnum())


@settings(max_examples=100)
@given(ids=st.lists(_SHORT | _WHOLE, min_size=1, max_size=5, unique=True), data=st.data())
def test_whatever_ids_there_are_and_however_they_are_cut_no_repair_concerns_the_living(ids, data):
    ready, noted, running, on_disk = (data.draw(st.sets(st.sampled_from(ids))) for _ in range(4))
    prefix = data.draw(st.sampled_from(["", "default-"]))
    networks = {one: "n" * data.draw(st.integers(1, 80)) for one in ids}
    signs = Signs(
        tuple(sandbox(one) for one in sorted(ready)),
        noted={prefix + one: frozenset({"/run/netns/x"}) for one in noted},
        cgroups=frozenset(f"/k/{one}" for one in running),
    )
    alive = ready | {prefix + one for one in noted} | running
    rules = {one: (masquerade(one, networks[one]), *macspoofchk(one)) for one in ids}
    seen = Seen(
        signs,
        leases=tuple(lease(one) for one in sorted(on_disk)),
        rules=tuple(rule for its in rules.values() for rule in its),
    )
    removed = {rule for one in found(seen) if isinstance(one.repair, RemoveRules) for rule in one.repair.rules}
    assert not removed & {rule for one in alive & rules.keys() for rule in rules[one]}
    doubted = found(replace(seen, blind=("something",)))
    assert all(life.is_cri(one.whose.container) for one in doubted if one.repair)


_IDS = st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1, max_size=5, unique=True)


@settings(max_examples=60)
@given(ids=_IDS, data=st.data())
def test_whatever_the_mix_is_no_repair_concerns_the_living_and_the_dead_are_all_found(ids, data):
    ready = data.draw(st.sets(st.sampled_from(ids)))
    noted = data.draw(st.sets(st.sampled_from(ids)))
    running = data.draw(st.sets(st.sampled_from(ids)))
    young = data.draw(st.sets(st.sampled_from(ids)))
    signs = Signs(
        tuple(sandbox(one) for one in sorted(ready)),
        noted={one: frozenset({"/run/netns/x"}) for one in noted},
        cgroups=frozenset(f"/k/{one}" for one in running),
    )
    ages = {one: YOUNG if one in young else OLD for one in ids}
    keys = {one: Key(ContainerID(one), "net1") for one in ids}
    seen = Seen(
        signs,
        leases=tuple(lease(one, age_s=ages[one]) for one in ids),
        cached=tuple((cached(one), ages[one]) for one in ids),
        scratch=tuple(File(Path("/m") / one, ages[one]) for one in ids),
        links=tuple(link(options.host_name(keys[one]), mac=options.derived_mac(keys[one], "host")) for one in ids),
        rules=tuple(rule for one in ids for rule in macspoofchk(one)),
    )
    alive = ready | noted | running
    mended = [one for one in found(seen) if one.repair is not None]
    assert not {one.whose.container for one in mended} & (alive | young)
    for one in set(ids) - alive - young:
        kinds = {type(finding.repair) for finding in mended if finding.whose.container == one}
        assert kinds == {Delete, Release, RemoveFile, RemoveLink, RemoveRules}
