"""Pure: the vocabulary of the doctor: what is seen of a node, and what is found."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.install import Decision

# -- what is seen ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of CNI. `problem` "": it is there and can be read."""

    path: str
    problem: str = ""
    files: frozenset[str] = frozenset()  # that may be executed


@dataclass(frozen=True, slots=True)
class Configuration:
    """A file of a configuration directory that a runtime would read."""

    path: str
    text: str
    problem: str = ""  # why it cannot be read


@dataclass(frozen=True, slots=True)
class Executable:
    """The CNI executable as it is on the node. `path` "": there is none."""

    path: str = ""
    decision: Decision | None = None  # of an installer; None: there is nothing to compare it with
    versions: tuple[str, ...] = ()  # of the CNI specification, its answer to VERSION
    problem: str = ""  # why it does not answer
    status: str = ""  # the agent's refusal of STATUS, which it has passed on; "": all is well


@dataclass(frozen=True, slots=True)
class Program:
    """A running container."""

    name: str
    pod: str  # namespace/name
    image: str  # as people call it, where the runtime tells


@dataclass(frozen=True, slots=True)
class Runtime:
    """The container runtime, as it answers at the endpoint. `problem` "": it does."""

    endpoint: str
    version: str = ""  # its name, its version
    problem: str = ""
    others: tuple[str, ...] = ()  # sockets that are there, of runtimes that we know
    programs: tuple[Program, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The state directory. `refusal` "": this version can read it."""

    directory: str
    there: bool
    format: str = ""
    refusal: str = ""
    problem: str = ""  # why it cannot be looked at
    records: int = 0
    damaged: tuple[str, ...] = ()  # files that were set aside
    unreadable: tuple[str, ...] = ()  # files that will be, and why
    strangers: tuple[str, ...] = ()  # not ours


@dataclass(frozen=True, slots=True)
class Kubelet:
    """The kubelet's directory in the agent's view of the node, by its names on the node; empty: nobody can tell."""

    lies_open: tuple[str, ...] = ()
    covered: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()  # what is covered for it, as configured


@dataclass(frozen=True, slots=True)
class Door:
    """The agent's answer at agent.sock. `problem` "": it answers."""

    path: str
    version: str = ""
    waiting_for: tuple[str, ...] = ()
    problem: str = ""
    is_apart: bool = False  # its paths are not ours, so its options are not taken


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What the audit finds. `blind`: what it could not look at, and why."""

    found: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was looked at."""

    version: str  # of this program
    bin_dirs: tuple[Directory, ...]
    conf_dirs: tuple[Directory, ...]
    configurations: tuple[Configuration, ...]  # in the order in which a runtime reads them
    executable: Executable
    runtime: Runtime
    state: State
    door: Door
    leftovers: Leftovers
    multus: Mapping[str, str]  # its executables in the CNI directories; "": it does not say which version it is
    policy: str  # the file; "": none was named
    policy_problem: str = ""
    kernel: Mapping[str, str] = field(default_factory=dict)  # what each feature lacks; "": nothing
    elsewhere: tuple[Directory, ...] = ()  # of plugins, where runtimes that we know have them, besides `bin_dirs`
    kubelet: Kubelet = field(default_factory=Kubelet)


# -- what is found --------------------------------------------------------------------------------------------------


class Status(enum.Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    topic: str
    status: Status
    found: str
    todo: str  # "": it is ok


def ok(topic: str, found: str) -> Finding:
    return Finding(topic, Status.OK, found, "")


def warn(topic: str, found: str, todo: str) -> Finding:
    return Finding(topic, Status.WARN, found, todo)


def fail(topic: str, found: str, todo: str) -> Finding:
    return Finding(topic, Status.FAIL, found, todo)
