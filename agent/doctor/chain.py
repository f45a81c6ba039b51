"""Pure: which configuration the container runtime takes for pods' own network, and what sits in its chain.

Rules
1. A runtime takes the first file in the order of names. containerd has no network at all while that one is wrong; CRI-O
   passes over wrong ones.
2. hotnic need not be in the chain: without it interfaces come as soon as the pod's sandbox is there. As the last plugin
   (device `networks`) it has them there before the first container starts.
3. Each plugin of the chain, and its IPAM, has to be an executable of the runtime's CNI directory, or no pod starts.
   Which directory that is nobody can ask it: one that lacks them may be the wrong one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.doctor.contract import Configuration, Directory, Finding, fail, ok, warn
from cni import jsontext

TOPIC = "CNI chain"
HOTNIC = "hotnic"
MULTUS = frozenset({"multus", "multus-shim"})
SUFFIXES = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True)
class Network:
    """A file that is understood. `types`: of its plugins, in their order."""

    path: str
    name: str
    types: tuple[str, ...]
    ipams: tuple[str, ...]

    @property
    def multus(self) -> bool:
        return any(one in MULTUS for one in self.types)

    def __str__(self) -> str:
        return f"{self.path}: network {self.name}, plugins {' → '.join(self.types)}"


def findings(
    configurations: Sequence[Configuration], programs: Collection[str], runtime: str, elsewhere: Sequence[Directory]
) -> Iterator[Finding]:
    """Judge. `programs`: what the CNI directories have; `runtime`: its name and version, "" where it is not known.

    `elsewhere`: directories that may be the runtime's in place of those.
    """
    networks, wrong = [], []
    for one in configurations:
        found = parse(one)
        if isinstance(found, Network):
            networks.append(found)
        elif not networks:
            wrong.append(f"{one.path} {found}")
    yield from (_of_wrong(one, runtime) for one in wrong)
    if not networks:
        yield fail(TOPIC, "no network configuration that a runtime could use", "install the cluster's own network")
        return
    used, *others = networks
    yield _of_place(used, others)
    if lacking := sorted({*used.types, *used.ipams} - set(programs)):
        found = f"{used.path} names plugins that are not there: {', '.join(lacking)}"
        yield fail(TOPIC, found, _of_lacking(frozenset(lacking), elsewhere))


def parse(one: Configuration) -> Network | str:
    """Return the network of a file, or what is wrong with it."""
    if one.problem:
        return f"cannot be read: {one.problem}"
    try:
        document = jsontext.loads(one.text)
    except ValueError as problem:
        return f"is no JSON: {problem}"
    if not isinstance(document, dict):
        return "is no JSON object"
    plugins = document.get("plugins") if one.path.endswith(".conflist") else [document]
    if not isinstance(plugins, list) or not plugins or not all(_is_plugin(plugin) for plugin in plugins):
        return "names no plugin"
    ipams = tuple(name for plugin in plugins if (name := _ipam(plugin)))
    return Network(one.path, str(document.get("name", "")), tuple(plugin["type"] for plugin in plugins), ipams)


def _is_plugin(plugin: Any) -> bool:
    return isinstance(plugin, dict) and isinstance(plugin.get("type"), str) and bool(plugin["type"])


def _ipam(plugin: dict[str, Any]) -> str:
    ipam = plugin.get("ipam")
    name = ipam.get("type") if isinstance(ipam, dict) else None
    return name if isinstance(name, str) else ""


def _of_lacking(lacking: frozenset[str], elsewhere: Sequence[Directory]) -> str:
    """Return what to do (rule 3)."""
    best = max(elsewhere, key=lambda one: len(one.files & lacking), default=None)
    there = sorted(best.files & lacking) if best else []
    where = f"{best.path}, which has {', '.join(there)}" if best and there else "another directory"
    return (
        f"if the runtime takes its plugins from {where}, name that: cniBinDir in settings.yaml (--cni-bin-dir); "
        "if not, install them into the CNI directory, or no pod starts"
    )


def _of_wrong(what: str, runtime: str) -> Finding:
    todo = "mend or remove the file"
    if runtime.startswith("containerd"):
        return fail(TOPIC, f"{what}: no pod gets a network while it is the first", todo)
    return warn(TOPIC, f"{what}: it is passed over", todo)


def _of_place(used: Network, others: Sequence[Network]) -> Finding:
    """Judge the network that is used; one that is not matters only where it would have been meant."""
    if not used.multus and (behind := next((one for one in others if one.multus), None)):
        todo = f"the first name in the directory is used: rename {used.path}, or remove it"
        return warn(TOPIC, f"{used}; Multus is in {behind.path}, which is not used", todo)
    if used.multus:
        return ok(TOPIC, f"{used}: Multus is called for each pod, and hotnic for what it is told of hotnic's networks")
    if HOTNIC in used.types:
        if used.types[-1] == HOTNIC:
            return ok(TOPIC, f"{used}: hotnic comes last, as it should")
        return warn(TOPIC, f"{used}: plugins come after hotnic", "let hotnic be the last plugin of the list")
    if behind := next((one for one in others if HOTNIC in one.types), None):
        todo = f"the first name in the directory is used: put hotnic into {used.path}, or rename it"
        return warn(TOPIC, f"{used}; hotnic is in {behind.path}, which is not used", todo)
    return ok(TOPIC, f"{used}; neither Multus nor hotnic is in it: interfaces come once the pod's sandbox is there")
