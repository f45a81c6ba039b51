"""What an item of the suite is, and what it has at hand while it is checked.

Rules
1. A check raises Violation with what was seen, or NotApplicable with why; otherwise the plugin has passed.
2. Every execution and every change to the kernel is in `Case.trace`: with it a violation can be reproduced.
3. A case leaves nothing to the next one: what was ADDed is DELeted, and the node is restored.
"""

from __future__ import annotations

import enum
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.conformance import daemon, fake_ipam, plugin, sandbox
from tests.conformance.plugin import Call, Outcome

ABSENT_BRIDGE = "cfm-none"
"""A bridge that no node has beforehand."""

_containers, _networks = itertools.count(1), itertools.count(1)


class Level(enum.Enum):
    """Who says that it has to be so."""

    MUST = "must"  # the specification 1.1.0, with that word or an unconditional statement
    SHOULD = "should"  # the specification 1.1.0, with that word
    FIELD = "field"  # experience with runtimes and plugins; no word of the specification demands it


class Violation(Exception):
    """The plugin does not do what the item says."""


class NotApplicable(Exception):
    """The item is about something that this plugin, with this configuration, does not have."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to check. `needs`: what the plugin must be able to do for it (abilities.Abilities)."""

    number: str
    title: str
    level: Level
    section: str
    check: Callable[[Case], None]
    since: str = ""  # every version from this one on; empty: the newest only
    needs: tuple[str, ...] = ()


ITEMS: list[Item] = []


def item(
    number: str, title: str, level: Level, section: str, *, since: str = "", needs: Sequence[str] = ()
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Add a function to the suite."""

    def register(check: Callable[[Case], None]) -> Callable[[Case], None]:
        ITEMS.append(Item(number, title, level, section, check, since, tuple(needs)))
        return check

    return register


@dataclass(frozen=True, slots=True)
class Attachment:
    """What identifies an attachment, and where it is."""

    container: str
    netns: str
    ifname: str = "net1"

    @property
    def record(self) -> str:
        """The name of its record at the fake IPAM plugin."""
        return f"{self.container}.{self.ifname}"


@dataclass(slots=True)
class World:
    """What all cases share."""

    plugin: str
    base: Mapping[str, Any]
    bin_dir: str
    node: sandbox.Node
    ipam: fake_ipam.FakeIPAM
    daemon: daemon.Daemon | None = None  # where the plugin needs one
    exclusive: bool = False  # one attachment at a time: the device behind it is only one
    crash_points: int = 60
    abilities: Mapping[str, str] = field(default_factory=dict)  # see abilities.Abilities
    notes: list[str] = field(default_factory=list)


class Case:
    """One item in one version."""

    def __init__(self, world: World, version: str) -> None:
        self.world, self.version = world, version
        self.node, self.ipam = world.node, world.ipam
        self.network = f"cfm-net{next(_networks)}"  # one for each case: GC is about a whole network
        self._added: dict[Attachment, Mapping[str, Any]] = {}
        self.ipam.reset(version)
        self.before = self.node.state()

    # -- what is handed to the plugin ---------------------------------------------------------------------------

    def config(self, changes: Mapping[str, Any] | None = None, *without: str) -> dict[str, Any]:
        """Return the configuration of the file in this case's version and network; IPAM is the suite's own."""
        document = {**self.world.base, "cniVersion": self.version, "name": self.network, **(changes or {})}
        if isinstance(document.get("ipam"), Mapping) and document["ipam"].get("type") and "ipam" not in (changes or {}):
            document["ipam"] = {**document["ipam"], "type": fake_ipam.NAME}
        return {key: value for key, value in document.items() if key not in without}

    def with_ipam(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self.config({"ipam": {"type": fake_ipam.NAME}, **(changes or {})})

    def richest(self) -> dict[str, Any]:
        """Return the configuration that has the plugin do the most: with an address if it can give one."""
        return self.config() if self.world.abilities.get("ipam", "unknown") else self.with_ipam()

    def following(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a runtime sends at DEL and CHECK: before 0.4.0 there was no prevResult in it."""
        return {**config, "prevResult": result} if self.version >= "0.4" else dict(config)

    def attachment(self, ifname: str = "net1") -> Attachment:
        """Return a new container's, in a new namespace."""
        if self.world.exclusive:
            self.node.make_own_links()
        return replace(self.elsewhere(self.node.make_pod()), ifname=ifname)

    def elsewhere(self, netns: str) -> Attachment:
        """Return a new container's, in that namespace."""
        return Attachment(f"cfm-{next(_containers)}", netns)

    def environ(self, command: str, at: Attachment | None = None) -> dict[str, str]:
        """Return the variables that a runtime sets."""
        own = {"CNI_CONTAINERID": at.container, "CNI_NETNS": at.netns, "CNI_IFNAME": at.ifname} if at else {}
        return {"CNI_COMMAND": command, **own, "CNI_PATH": self.world.bin_dir}

    def prepared(
        self,
        command: str,
        at: Attachment | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes | None = None,
    ) -> Call:
        """Return the call without doing it. `env` changes variables, None removes one; `stdin` replaces `config`."""
        document = self.config() if config is None else config
        environ: dict[str, str | None] = {**self.environ(command, at), **(env or {})}
        kept = {name: value for name, value in environ.items() if value is not None}
        return Call(self.world.plugin, kept, json.dumps(document).encode() if stdin is None else stdin)

    # -- the verbs ----------------------------------------------------------------------------------------------

    def call(
        self,
        command: str,
        at: Attachment | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes | None = None,
    ) -> Outcome:
        """Execute the plugin; see `prepared`."""
        if command == "ADD" and at:
            self.expect_delete(at, config)
        outcome = plugin.run(self.prepared(command, at, config, env=env, stdin=stdin))
        self.trace(str(outcome))
        if command == "DEL" and at and outcome.ok and not env:
            self._added.pop(at, None)
        return outcome

    def expect_delete(self, at: Attachment, config: Mapping[str, Any] | None = None) -> None:
        """Have the attachment DELeted when the case is over."""
        self._added[at] = self.config() if config is None else config

    def add(
        self, at: Attachment, config: Mapping[str, Any] | None = None, env: Mapping[str, str | None] | None = None
    ) -> dict[str, Any]:
        """ADD, which has to succeed; return the result."""
        outcome = self.call("ADD", at, config, env=env)
        self.require(outcome.ok, "ADD fails")
        try:
            return outcome.document()
        except ValueError as problem:
            raise Violation(f"ADD succeeds, but stdout is not one JSON object: {problem}") from None

    def delete(
        self, at: Attachment, config: Mapping[str, Any] | None = None, env: Mapping[str, str | None] | None = None
    ) -> None:
        """DEL, which has to succeed and to be silent."""
        outcome = self.call("DEL", at, config, env=env)
        self.require(outcome.ok, "DEL fails")
        self.require(not outcome.stdout.strip(), "DEL succeeds, but there is something on stdout")

    def refused(self, outcome: Outcome, codes: Sequence[int] = (), naming: Sequence[str] = ()) -> None:
        """Require an error, with one of the codes and the names in its message where some are given."""
        verb = outcome.call.environ.get("CNI_COMMAND", "the call")
        self.require(not outcome.ok, f"{verb} succeeds, an error is due")
        self.require(outcome.code is not None, f"{verb} hangs")
        code, message = outcome.error()
        expected = " or ".join(map(str, codes))
        self.require(not codes or code in codes, f"the error has code {code}, {expected} is due")
        for name in naming:
            self.require(name in message, f"the error's message does not name {name}: {message!r}")

    # -- what is seen -------------------------------------------------------------------------------------------

    def link(self, at: Attachment, name: str = "") -> dict[str, Any] | None:
        """Return the pod's interface."""
        return self.node.links(at.netns).get(name or at.ifname)

    def left_on_node(self) -> tuple[str, ...]:
        """Return what the plugin left on the node since the case began, addresses at IPAM included."""
        left = self.node.state().left_since(self.before, named_in(self.world.base))
        return (*left, *(f"IPAM record {name}" for name in sorted(self.ipam.records())))

    def require_clean(self, when: str, *pods: Attachment) -> None:
        """Require that neither the node nor the pods have anything of the plugin's."""
        self.require_clean_within(sandbox.SETTLE_S, when, *pods)

    def require_clean_within(self, seconds: float, when: str, *pods: Attachment, links_only: bool = False) -> None:
        """As `require_clean`, with that much time to become so."""

        def left() -> tuple[str, ...]:
            inside = (f"link {name} in {at.netns}" for at in pods for name in self.node.links(at.netns) if name != "lo")
            outside = (one for one in self.left_on_node() if one.startswith("link ") or not links_only)
            return (*outside, *inside)

        remaining = sandbox.settled(left, seconds)
        self.require(not remaining, f"left {when}: {'; '.join(remaining)}")

    def require_no_links(self, when: str, *pods: Attachment) -> None:
        """Require that no link is left; what a plugin noted down for the DEL to come may be."""
        self.require_clean_within(sandbox.SETTLE_S, when, *pods, links_only=True)

    def require(self, holds: object, claim: str) -> None:
        """Raise Violation with the claim where it does not hold."""
        if not holds:
            raise Violation(claim)

    def trace(self, line: str) -> None:
        self.node.commands.append(line)

    def not_applicable(self, why: str) -> None:
        raise NotApplicable(why)

    def note(self, text: str) -> None:
        """Have a number of interest in the scorecard."""
        self.world.notes.append(text)

    @contextmanager
    def daemon_killed(self) -> Iterator[None]:
        """Kill the plugin's daemon as a crash does; start it again at the end."""
        self.daemon.kill()
        self.trace("(the daemon has been killed)")
        try:
            yield
        finally:
            self.daemon.start()
            self.trace("(the daemon has been started again)")

    @property
    def daemon(self) -> daemon.Daemon:
        """The plugin's daemon, of which the item says that it needs one."""
        assert self.world.daemon is not None
        return self.world.daemon

    def close(self) -> None:
        """Rule 3."""
        self.ipam.open_gate()
        for name in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
            self.ipam.misbehave(name, "")
        for at, config in self._added.items():
            if not plugin.run(self.prepared("DEL", at, config)).ok:
                plugin.run(self.prepared("DEL", at))  # the configuration may have been a wrong one
        self.node.restore()


def named_in(config: Any) -> frozenset[str]:
    """Return all strings in a configuration: a link of one of these names is the administrator's, not a leftover."""
    match config:
        case str():
            return frozenset({config})
        case Mapping():
            return frozenset().union(*map(named_in, config.values()))
        case list():
            return frozenset().union(*map(named_in, config))
    return frozenset()
