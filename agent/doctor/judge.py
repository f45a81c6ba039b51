"""Pure: what is seen of a node -> findings, in the order in which somebody would look for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from agent.doctor import chain, kernel
from agent.doctor.contract import (
    Directory,
    Door,
    Executable,
    Finding,
    Kubelet,
    Leftovers,
    Program,
    Runtime,
    Seen,
    State,
    fail,
    ok,
    warn,
)
from agent.install import MAKE_ROOM, Decision
from cni import version

NEWEST = version.CURRENT
_SHOWN = 5  # of a list that may be long

# what a kernel may lack: who needs it, what to do
_NEEDED_BY: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "veth": ("devices veth and bridge, and most pods' own network", "take a kernel with CONFIG_VETH"),
        "bridge": ("device bridge", "load the module bridge (CONFIG_BRIDGE)"),
        "macvlan": ("device macvlan", "load the module macvlan (CONFIG_MACVLAN)"),
        "ipvlan": ("device ipvlan", "load the module ipvlan (CONFIG_IPVLAN), or use macvlan"),
        "vlan": ("device vlan", "load the module 8021q (CONFIG_VLAN_8021Q), or use the VLANs of a bridge"),
        "dummy": ("device dummy, and NICs that KubeVirt plugs", "load the module dummy (CONFIG_DUMMY)"),
        "vxlan": ("device overlay", "load the module vxlan (CONFIG_VXLAN)"),
        "ifb": ("bandwidth of what a pod sends", "load the module ifb (CONFIG_IFB)"),
        kernel.TBF: ("bandwidth", "load the module sch_tbf (CONFIG_NET_SCH_TBF)"),
        kernel.BRIDGE_VLANS: ("vlan and vlanTrunk of device bridge", "take a kernel with CONFIG_BRIDGE_VLAN_FILTERING"),
        kernel.TAP: (
            "device tap, and virtual machines",
            "load the module tun (CONFIG_TUN); a container needs /dev/net",
        ),
        kernel.OVS: ("device ovs", "install and start Open vSwitch, if a network is to use it"),
    }
)


def findings(seen: Seen) -> Iterator[Finding]:
    """Judge all that was seen."""
    yield from _of_runtime(seen.runtime)
    for directory in seen.bin_dirs:
        yield from _of_directory(directory, "plugins", "--cni-bin-dir")
    for directory in seen.conf_dirs:
        yield from _of_directory(directory, "configurations", "--cni-conf-dir")
    programs = frozenset[str]().union(*(one.files for one in seen.bin_dirs))
    yield from chain.findings(seen.configurations, programs, seen.runtime.version, seen.elsewhere)
    yield from _of_executable(seen.executable, [one.path for one in seen.bin_dirs])
    yield from _of_door(seen.door, seen.version)
    yield from _of_state(seen.state)
    yield from _of_policy(seen.policy, seen.policy_problem, seen.door)
    yield from _of_kubelet(seen.kubelet)
    yield from _of_leftovers(seen.leftovers)
    yield from _of_neighbours(seen.runtime, seen.multus)
    yield from _of_kernel(seen.kernel)


def _of_runtime(one: Runtime) -> Iterator[Finding]:
    topic = "container runtime"
    if not one.problem:
        yield ok(topic, f"{one.version} answers at {one.endpoint}")
        return
    others = [other for other in one.others if other != one.endpoint]
    todo = f"say --cri {others[0]}, which is there" if others else "start it, or say by --cri where its socket is"
    yield fail(topic, one.problem, f"{todo}: until then the agent finds no pod's sandbox")


def _of_directory(one: Directory, of: str, option: str) -> Iterator[Finding]:
    topic = f"directory of {of}"
    if one.problem:
        yield fail(topic, f"{one.path} {one.problem}", f"say by {option} which directory the container runtime uses")
    else:
        yield ok(topic, f"{one.path} is there")


def _of_executable(one: Executable, directories: Sequence[str]) -> Iterator[Finding]:
    topic = "CNI executable"
    where = directories[0] if directories else "the CNI directory"
    if not one.path:
        todo = f"put hotnic into {where}: the agent does so where it is told to install it"
        yield fail(topic, f"hotnic is not in {', '.join(directories) or 'any directory'}", todo)
        return
    if one.decision is Decision.REFUSE:
        todo = f"{MAKE_ROOM}; then put hotnic there: the agent does so where it is told to install it"
        yield fail(topic, f"{one.path} is not hotnic's, and is not touched", todo)
        return
    if one.problem:
        todo = "install it once more; for another architecture, or without its interpreter, take the other form of it"
        yield fail(topic, f"{one.path} does not answer VERSION: {one.problem}", todo)
        return
    if NEWEST not in one.versions:
        yield fail(topic, f"{one.path} does not know version {NEWEST} of CNI", "install the one of this version")
    elif one.decision is Decision.WRITE:
        yield warn(topic, f"{one.path} answers, and is of another version", "install the one of this version")
    else:
        yield ok(topic, f"{one.path} answers VERSION{', and is of this version' if one.decision else ''}")
    if one.status:
        todo = "see what the agent waits for; without an agent, start it: calls fail until then, and DELs are kept"
        yield fail(topic, f"{one.path} passes STATUS on, and is told: {one.status}", todo)


def _of_door(one: Door, own: str) -> Iterator[Finding]:
    topic = "agent"
    if one.problem:
        todo = "start the agent, and read what it says as it ends; pods keep what they have meanwhile"
        yield fail(topic, f"nobody answers at {one.path}: {one.problem}", todo)
        return
    if one.version != own:
        yield warn(
            topic, f"{one.version} runs, and this is {own}", "let the update come to its end, or restart the agent"
        )
    else:
        yield ok(topic, f"{one.version} answers at {one.path}")
    if one.is_apart:
        todo = "name by options what is not where it usually is, or run this in the agent's container"
        yield warn(topic, "the agent has mounts of its own, so its options are not taken for this look", todo)
    for what in one.waiting_for:
        yield fail(topic, f"it waits for {what}", "mend that; the agent goes on by itself")


def _of_state(one: State) -> Iterator[Finding]:
    topic = "state directory"
    if not one.there:
        yield warn(topic, f"{one.directory} is not there", "start the agent, or say by --state-dir where it is")
        return
    if one.refusal:
        yield fail(
            topic, one.refusal, "go back to the version that has written it, or to a newer one; lose nothing here"
        )
        return
    if one.problem:
        yield fail(topic, f"{one.directory} cannot be read: {one.problem}", "mend that: the agent needs what is in it")
        return
    if one.unreadable:
        todo = (
            "remove what is not hotnic's. An agent that runs has the rest in memory; at its next start it sets them "
            f"aside, into {one.directory}/damaged, and what they tell of may then be left on the node"
        )
        yield warn(topic, f"files that the agent cannot read: {_some(one.unreadable)}", todo)
    if one.strangers:
        yield ok(topic, f"not hotnic's, and harmless: {_some(one.strangers)}")
    if one.damaged:
        todo = f"look at them in {one.directory}/damaged: what they tell of may be left on the node; then remove them"
        yield warn(topic, f"files set aside as damaged: {_some(one.damaged)}", todo)
    yield ok(topic, f"{one.directory}: format {one.format or 'of a new one'}, {one.records} attachments")


def _of_policy(path: str, problem: str, door: Door) -> Iterator[Finding]:
    topic = "policy"
    if problem:
        yield fail(topic, f"{path}: {problem}", "mend the file: no agent starts with it")
    elif path:
        yield ok(topic, f"{path} is valid")
    elif door.problem or door.is_apart:
        todo = "name it by --policy FILE; or read the agent's log: no agent starts with one that is wrong"
        yield warn(topic, "not looked at: no file is named here, and the agent may have one", todo)
    else:
        todo = "say --policy FILE as for the agent; without one whoever may define networks may use all of the node"
        yield warn(topic, "none was named", todo)


def _of_kubelet(one: Kubelet) -> Iterator[Finding]:
    topic = "kubelet's directory"
    if one.lies_open and not one.covered:
        instead = f"; covered is {', '.join(one.covers)}" if one.covers else ""
        found = f"the kubelet uses {one.lies_open[0]}, and the agent can read all pods' tokens in it{instead}"
        yield fail(
            topic, found, f"set kubeletDir in settings.yaml to {one.lies_open[0]}, and apply the manifests again"
        )
        return
    if one.covered:
        yield ok(topic, f"{one.covered[0]} is covered in the agent's view of the node")
    for path in one.lies_open:
        yield warn(
            topic,
            f"the agent can read all pods' tokens by another way, below {path}",
            f"mount the volume `nothing` over /host{path} too, in the DaemonSet",
        )


def _of_leftovers(one: Leftovers) -> Iterator[Finding]:
    topic = "leftovers"
    if one.found:
        todo = "hotnic-agent audit tells whose they are, with --repair it removes what is provably dead"
        yield warn(topic, f"{len(one.found)} of dead containers: {_some(one.found)}", todo)
    if one.blind:
        todo = "see to what is named, and look once more: until then leftovers may stay unseen"
        yield warn(topic, f"not all could be looked at: {_some(one.blind)}", todo)
    if not one.found and not one.blind:
        yield ok(topic, "none of dead containers")


def _of_neighbours(runtime: Runtime, installed: Mapping[str, str]) -> Iterator[Finding]:
    rivals = [one for one in runtime.programs if "dynamic-networks" in f"{one.pod} {one.image}"]
    for one in rivals:
        todo = "remove it: two that act on one annotation undo each other's work"
        yield warn("neighbours", f"{one.pod} plugs by the same annotation ({one.image})", todo)
    yield ok("Multus", _multus([one for one in runtime.programs if one not in rivals], installed))
    yield ok("KubeVirt", _kubevirt(runtime.programs))


def _multus(running: Sequence[Program], installed: Mapping[str, str]) -> str:
    there = ", ".join(
        f"{name} {said or '(which does not say its version)'}" for name, said in sorted(installed.items())
    )
    if found := [one for one in running if "multus" in f"{one.name} {one.pod} {one.image}"]:
        return f"{found[0].pod} runs {found[0].image}{f'; installed: {there}' if there else ''}"
    return f"installed: {there}; no container of it runs here" if there else "not here, and not needed"


def _kubevirt(running: Sequence[Program]) -> str:
    machines = [
        one for one in running if one.name == "compute" and one.pod.rpartition("/")[2].startswith("virt-launcher-")
    ]
    if found := [one for one in running if one.name == "virt-handler"]:
        return f"{found[0].pod} runs {found[0].image}; {len(machines)} virtual machines here"
    return f"no virt-handler here; {len(machines)} virtual machines" if machines else "not here"


def _of_kernel(features: Mapping[str, str]) -> Iterator[Finding]:
    if able := [name for name, problem in features.items() if not problem]:
        yield ok("kernel", f"has {', '.join(able)}")
    for name, problem in features.items():
        if problem:
            for_whom, todo = _NEEDED_BY[name]
            yield warn("kernel", f"{name}, for {for_whom}: {problem}", todo)


def _some(things: Sequence[str]) -> str:
    more = f", and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return f"{', '.join(things[:_SHOWN])}{more}"
