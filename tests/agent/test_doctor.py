"""What the doctor makes of a node: each thing that can be wrong is named, with what to do, and nothing that is well."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import installer
from agent.doctor import chain, judge, kernel
from agent.doctor.contract import (
    Configuration,
    Directory,
    Door,
    Executable,
    Kubelet,
    Leftovers,
    Program,
    Runtime,
    Seen,
    State,
    Status,
)
from agent.install import MAKE_ROOM, MARK, Decision, File

CONTAINERD = "unix:///run/containerd/containerd.sock"
LANE = {"name": "lane", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}]}
PLUGINS = frozenset({"bridge", "host-local", "portmap", "hotnic"})
EVERYTHING = dict.fromkeys((*kernel.LINKS, kernel.TBF, kernel.BRIDGE_VLANS, kernel.TAP, kernel.OVS), "")


def conf(document: object, path: str = "/etc/cni/net.d/10-lane.conflist") -> Configuration:
    return Configuration(path, document if isinstance(document, str) else json.dumps(document))


WELL = Seen(
    version="0.2.0",
    bin_dirs=(Directory("/opt/cni/bin", files=PLUGINS),),
    conf_dirs=(Directory("/etc/cni/net.d"),),
    configurations=(conf(LANE),),
    executable=Executable("/opt/cni/bin/hotnic", Decision.LEAVE, ("1.0.0", "1.1.0")),
    runtime=Runtime(CONTAINERD, "containerd 1.6.20", others=(CONTAINERD,)),
    state=State("/var/lib/hotnic", there=True, format="2", records=3),
    door=Door("/run/hotnic/agent.sock", "0.2.0"),
    leftovers=Leftovers(),
    multus={},
    policy="/etc/hotnic/policy.yaml",
    kernel=EVERYTHING,
)


def findings(seen):
    return tuple(judge.findings(seen))


def changed(**values):
    """Return what is found of a node that is well but for these."""
    usual = set(findings(WELL))
    return [one for one in findings(replace(WELL, **values)) if one not in usual and one.status is not Status.OK]


def test_a_node_that_is_well_has_nothing_to_be_done():
    found = findings(WELL)
    assert {one.status for one in found} == {Status.OK}
    assert [one.todo for one in found] == [""] * len(found)
    assert {one.topic for one in found} == {
        "container runtime", "directory of plugins", "directory of configurations", "CNI chain", "CNI executable",
        "agent", "state directory", "policy", "leftovers", "Multus", "KubeVirt", "kernel",
    }  # fmt: skip


EXECUTABLE = WELL.executable
TROUBLE = {
    # what is wrong: what is seen, topic, status, words of what is found, words of what to do
    "the runtime is away": (
        {"runtime": Runtime(CONTAINERD, problem="Version: UNAVAILABLE")},
        "container runtime", "fail", "UNAVAILABLE", "start it",
    ),
    "the runtime is elsewhere": (
        {"runtime": Runtime(CONTAINERD, problem="UNAVAILABLE", others=("unix:///run/crio/crio.sock",))},
        "container runtime", "fail", "UNAVAILABLE", "--cri unix:///run/crio/crio.sock",
    ),
    "no runtime was named": (
        {"runtime": Runtime("", problem="no endpoint was named", others=(CONTAINERD,))},
        "container runtime", "fail", "no endpoint", f"--cri {CONTAINERD}",
    ),
    "no configurations": (
        {"conf_dirs": (Directory("/etc/x", "cannot be read: No such file"),)},
        "directory of configurations", "fail", "/etc/x cannot be read", "--cni-conf-dir",
    ),
    "no plugins": (
        {"bin_dirs": (Directory("/opt/x", "cannot be read: No such file", PLUGINS),)},
        "directory of plugins", "fail", "/opt/x cannot be read", "--cni-bin-dir",
    ),
    "no executable": (
        {"executable": Executable()},
        "CNI executable", "fail", "hotnic is not in /opt/cni/bin", "put hotnic into /opt/cni/bin",
    ),
    "another's executable": (
        {"executable": Executable("/opt/cni/bin/hotnic", Decision.REFUSE)},
        "CNI executable", "fail", "/opt/cni/bin/hotnic is not hotnic's", MAKE_ROOM,
    ),
    "an executable of another version": (
        {"executable": replace(EXECUTABLE, decision=Decision.WRITE)},
        "CNI executable", "warn", "of another version", "install",
    ),
    "an executable that does not run": (
        {"executable": Executable("/opt/cni/bin/hotnic", Decision.LEAVE, problem="Exec format error")},
        "CNI executable", "fail", "Exec format error", "architecture",
    ),
    "an old executable": (
        {"executable": replace(EXECUTABLE, versions=("0.4.0",))}, "CNI executable", "fail", "version 1.1.0", "install",
    ),
    "an executable that answers nonsense": (
        {"executable": replace(EXECUTABLE, versions=())}, "CNI executable", "fail", "version 1.1.0", "install",
    ),
    "an executable that finds no agent": (
        {"executable": replace(EXECUTABLE, status="code 50: no agent")},
        "CNI executable", "fail", "code 50: no agent", "start",
    ),
    "no agent": (
        {"door": Door("/run/hotnic/agent.sock", problem="UNAVAILABLE: connection refused")},
        "agent", "fail", "connection refused", "start the agent",
    ),
    "another agent": (
        {"door": Door("/run/hotnic/agent.sock", "0.1.0")}, "agent", "warn", "0.1.0 runs, and this is 0.2.0", "update",
    ),
    "the agent is in a container and the doctor is not": (
        {"door": Door("/run/hotnic/agent.sock", "0.2.0", is_apart=True)},
        "agent", "warn", "its options are not taken", "name by options what is not where it usually is",
    ),
    "an agent that waits": (
        {"door": Door("/run/hotnic/agent.sock", "0.2.0", ("container runtime: away",))},
        "agent", "fail", "container runtime: away", "by itself",
    ),
    "no state": ({"state": State("/x", there=False)}, "state directory", "warn", "/x is not there", "--state-dir"),
    "a newer state": (
        {"state": State("/x", True, "3", "/x says version '3'")},
        "state directory", "fail", "says version '3'", "newer",
    ),
    "damaged files": (
        {"state": replace(WELL.state, damaged=("a.json", "b.json"))},
        "state directory", "warn", "a.json, b.json", "/var/lib/hotnic/damaged",
    ),
    "files that the agent cannot read": (
        {"state": replace(WELL.state, unreadable=("pods/abc.json: is no JSON",))},
        "state directory", "warn", "pods/abc.json: is no JSON", "/var/lib/hotnic/damaged",
    ),
    "a state directory that cannot be read": (
        {"state": State("/x", there=True, problem="Permission denied")},
        "state directory", "fail", "/x cannot be read: Permission denied", "mend that",
    ),
    "the kubelet's directory is another one": (
        {"kubelet": Kubelet(("/data/kubelet",), (), ("/var/lib/nokubelet",))},
        "kubelet's directory", "fail", "the kubelet uses /data/kubelet, and the agent can read all pods' tokens in it; "
        "covered is /var/lib/nokubelet", "set kubeletDir in settings.yaml to /data/kubelet",
    ),
    "the kubelet's directory has two names": (
        {"kubelet": Kubelet(("/data/kubelet",), ("/var/lib/kubelet",), ("/var/lib/kubelet",))},
        "kubelet's directory", "warn", "by another way, below /data/kubelet", "`nothing` over /host/data/kubelet too",
    ),
    "a wrong policy": ({"policy_problem": "rules: no list"}, "policy", "fail", "rules: no list", "mend"),
    "no policy": ({"policy": ""}, "policy", "warn", "none", "--policy FILE"),
    "no policy, and an agent that may have one": (
        {"policy": "", "door": Door("/run/hotnic/agent.sock", "0.2.0", is_apart=True)},
        "policy", "warn", "not looked at", "--policy FILE",
    ),
    "no policy, and no agent": (
        {"policy": "", "door": Door("/run/hotnic/agent.sock", problem="UNAVAILABLE")},
        "policy", "warn", "not looked at", "--policy FILE",
    ),
    "leftovers": (
        {"leftovers": Leftovers(("link hnv1", "lease 10.0.0.2"))}, "leftovers", "warn", "link hnv1", "audit",
    ),
    "what could not be looked at": (
        {"leftovers": Leftovers(blind=("nftables: no",))}, "leftovers", "warn", "nftables: no", "once more",
    ),
    "a second one that plugs": (
        {"runtime": replace(WELL.runtime, programs=(Program("c", "system/dynamic-networks-controller-x", "i:1"),))},
        "neighbours", "warn", "system/dynamic-networks-controller-x", "remove it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLE)
def test_what_is_wrong_is_named_alone_with_what_to_do(name):
    values, topic, status, found, todo = TROUBLE[name]
    (one,) = [one for one in changed(**values) if one.topic == topic]
    assert one.status.value == status
    assert found in one.found
    assert todo in one.todo
    assert {one.topic for one in changed(**values)} <= {topic, "agent"}


def test_a_policy_that_was_not_looked_at_is_no_alarm():
    told = changed(policy="", door=Door("/run/hotnic/agent.sock", problem="UNAVAILABLE"))
    assert not any("all of the node" in one.todo for one in told)


def test_a_directory_that_is_covered_and_files_that_are_not_ours_are_well():
    seen = replace(WELL, kubelet=Kubelet((), ("/k",), ("/k",)), state=replace(WELL.state, strangers=("foo.tmp",)))
    found = {(one.topic, one.status.value, one.found) for one in findings(seen)} - {
        (one.topic, one.status.value, one.found) for one in findings(WELL)
    }
    assert found == {
        ("kubelet's directory", "ok", "/k is covered in the agent's view of the node"),
        ("state directory", "ok", "not hotnic's, and harmless: foo.tmp"),
    }


def test_an_executable_of_somebody_else_has_the_advice_that_the_agent_gives(tmp_path):
    (tmp_path / "hotnic").write_text("theirs")
    with pytest.raises(installer.Refused) as refused:
        installer.bring(File(MARK, 0o755), tmp_path / "hotnic")
    (one,) = changed(executable=Executable("/opt/cni/bin/hotnic", Decision.REFUSE))
    advice = str(refused.value).partition(": ")[2]
    assert advice
    assert one.todo.startswith(advice)


LACKING = [conf({"name": "x", "plugins": [{"type": "flannel", "ipam": {"type": "whereabouts"}}]})]


@pytest.mark.parametrize(
    ("elsewhere", "words"),
    [
        ([], "from another directory, name that: cniBinDir in settings.yaml"),
        ([Directory("/a", "cannot be read"), Directory("/b", files=PLUGINS)], "from another directory, name that"),
        (
            [
                Directory("/a", files=frozenset({"flannel"})),
                Directory("/b", files=frozenset({"flannel", "whereabouts"})),
            ],
            "from /b, which has flannel, whereabouts, name that: cniBinDir in settings.yaml",
        ),
        ([Directory("/a", files=frozenset({"flannel"}))], "from /a, which has flannel, name that"),
    ],
)
def test_plugins_that_are_not_there_may_be_in_a_directory_that_was_not_named(elsewhere, words):
    found = list(chain.findings(LACKING, PLUGINS, "containerd 1", elsewhere))
    (one,) = [one for one in found if one.status is Status.FAIL]
    assert words in one.todo
    assert "if not, install them" in one.todo


@pytest.mark.parametrize("feature", EVERYTHING)
def test_what_the_kernel_lacks_is_named_with_who_needs_it(feature):
    (one,) = changed(kernel={**EVERYTHING, feature: "this kernel has none"})
    assert (one.topic, one.status) == ("kernel", Status.WARN)
    assert one.found.startswith(f"{feature}, for ")
    assert one.todo


MULTUS = conf({"name": "multus", "type": "multus-shim"}, "/etc/cni/net.d/00-multus.conf")
HOTNIC = conf({"name": "lane", "plugins": [{"type": "bridge"}, {"type": "hotnic", "device": "networks"}]})
TURNED = conf({"name": "lane", "plugins": [{"type": "hotnic", "device": "networks"}, {"type": "bridge"}]})
FIRST = "/etc/cni/net.d/05-other.conflist"
CHAINS = {
    # the files; the runtime; status and words of all findings
    "the cluster's own": ([conf(LANE)], "containerd 1", [("ok", "neither Multus nor hotnic is in it")]),
    "hotnic last": ([HOTNIC], "containerd 1", [("ok", "bridge → hotnic: hotnic comes last")]),
    "hotnic not last": ([TURNED], "containerd 1", [("warn", "plugins come after hotnic")]),
    "Multus first": (
        [MULTUS, conf(LANE)], "containerd 1",
        [("ok", "Multus is called for each pod"), ("fail", "names plugins that are not there: multus-shim")],
    ),
    "Multus behind another": (
        [conf(LANE, FIRST), MULTUS], "containerd 1",
        [("warn", "Multus is in /etc/cni/net.d/00-multus.conf, which is not used")],
    ),
    "hotnic behind another": (
        [conf(LANE, FIRST), HOTNIC], "containerd 1",
        [("warn", "hotnic is in /etc/cni/net.d/10-lane.conflist, which is not used")],
    ),
    "a plugin that is not there": (
        [conf({"name": "x", "plugins": [{"type": "flannel", "ipam": {"type": "whereabouts"}}]})], "containerd 1",
        [("ok", "plugins flannel"), ("fail", "not there: flannel, whereabouts")],
    ),
    "no file": ([], "containerd 1", [("fail", "no network configuration")]),
    "a wrong file before, containerd": (
        [conf("{", FIRST), conf(LANE)], "containerd 1", [("fail", f"{FIRST} is no JSON"), ("ok", "network lane")],
    ),
    "a wrong file before, CRI-O": (
        [conf("{", FIRST), conf(LANE)], "cri-o 1.33", [("warn", f"{FIRST} is no JSON"), ("ok", "network lane")],
    ),
    "a wrong file after": ([conf(LANE), conf("{", "/etc/cni/net.d/99.conf")], "containerd 1", [("ok", "network lane")]),
    "only a wrong file": (
        [conf([], FIRST)], "containerd 1", [("fail", "is no JSON object"), ("fail", "no network configuration")],
    ),
    "a list without plugins": (
        [conf({"name": "x", "plugins": []}, FIRST), conf(LANE)], "", [("warn", "names no plugin"), ("ok", "lane")],
    ),
    "a list where one was meant": (
        [conf(LANE, "/etc/cni/net.d/05.conf"), conf(LANE)], "", [("warn", "names no plugin"), ("ok", "lane")],
    ),
    "a plugin whose type is none": (
        [conf({"name": "x", "plugins": [{"type": 5}]}, FIRST), conf(LANE)], "", [("warn", "no plugin"), ("ok", "lane")],
    ),
    "a file that cannot be read": (
        [Configuration(FIRST, "", "Permission denied"), conf(LANE)], "",
        [("warn", "cannot be read: Permission denied"), ("ok", "lane")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_what_sits_in_the_chain(name):
    configurations, runtime, expected = CHAINS[name]
    found = list(chain.findings(configurations, PLUGINS, runtime, ()))
    assert [one.status.value for one in found] == [status for status, _ in expected]
    for one, (_, words) in zip(found, expected, strict=True):
        assert one.topic == "CNI chain"
        assert words in one.found
        assert bool(one.todo) is (one.status is not Status.OK)


def of(topic, *programs, **multus):
    seen = replace(WELL, runtime=replace(WELL.runtime, programs=programs), multus=multus)
    return next(one.found for one in findings(seen) if one.topic == topic)


def test_multus_and_kubevirt_are_found_by_their_containers_with_their_versions():
    multus = Program(
        "kube-multus", "kube-system/kube-multus-ds-x", "ghcr.io/k8snetworkplumbingwg/multus-cni:v4.2.2-thick"
    )
    handler = Program("virt-handler", "kubevirt/virt-handler-x", "quay.io/kubevirt/virt-handler:v1.7.0")
    machines = [
        Program("compute", f"shop/virt-launcher-vm{n}-x", "quay.io/kubevirt/virt-launcher:v1.7.0") for n in (1, 2)
    ]
    assert of("Multus", multus, handler).endswith("multus-cni:v4.2.2-thick")
    assert of("KubeVirt", multus, handler, *machines).endswith("virt-handler:v1.7.0; 2 virtual machines here")
    assert "not here" in of("KubeVirt", multus)
    assert "1 virtual machines" in of("KubeVirt", machines[0])
    assert "not here" in of("Multus", handler)
    assert of("Multus", multus="v4.2.4").startswith("installed: multus v4.2.4; no container of it runs here")
    assert "multus (which does not say its version)" in of("Multus", multus="")
    assert of("Multus", multus, multus="v4.2.4").endswith("v4.2.2-thick; installed: multus v4.2.4")


def test_one_that_plugs_besides_is_not_taken_for_multus():
    rival = Program("c", "kube-system/x", "ghcr.io/k8snetworkplumbingwg/multus-dynamic-networks-controller:latest")
    assert "not here" in of("Multus", rival)


def test_long_lists_are_cut():
    (one,) = changed(leftovers=Leftovers(tuple(f"link l{number}" for number in range(40))))
    assert "40 of dead containers" in one.found
    assert one.found.endswith("and 35 more")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "type", "plugins", "ipam", "x"]), below, max_size=4)
    ),
    max_leaves=10,
)


@given(VALUES, st.sampled_from(["a.conf", "a.conflist", "a.json"]))
def test_no_file_of_a_configuration_directory_breaks_the_look(document, path):
    found = chain.parse(conf(document, path))
    assert isinstance(found, str) or (found.types and all(isinstance(one, str) for one in (*found.types, *found.ipams)))
    assert list(chain.findings([conf(document, path)], PLUGINS, "containerd 1", ()))


@given(st.text(max_size=60))
def test_no_text_of_one_does_either(text):
    assert list(chain.findings([conf(text), conf(LANE)], PLUGINS, "cri-o", ()))
