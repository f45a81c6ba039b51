"""One attachment that is there, looked at: is it as its ADD has left it? And made so again, where that can be done with
no packet lost. A link that is gone is no affair of this module: it is detached and attached anew (agent.plan).

Rules
1. What the record says counts, as for a DEL, never today's definition: its configuration, its arguments, its result.
2. Others have a say in the pod's end of what a guest has (agent.guests, KubeVirt), of what the pod has put into a
   bridge or a bond of its own, and of what plugins after ours in the network change: there the link is known by its
   index only, and what is looked at is the node's side.
3. What other plugins have made only they can judge, by their CHECK (SPEC 1.1.0 §4), if the network and its version
   allow it. They have no verb for a repair, and DEL and ADD would cut what may work: it is told.
4. What a pod has besides, its own addresses and routes, is never touched. Nor are default routes that came after ours.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent import chain, netns, network
from agent.attach import Attachments, not_ready
from agent.device import TYPE, Execute, Native
from agent.links import Link
from agent.model import NotReady, Record
from agent.netlink import Kernel
from agent.suspects import has_others
from cni import errors

# Reference plugins whose CHECK executes the IPAM plugin also where none is configured, and fails for that alone.
_ASK_IPAM = frozenset({"bridge", "cnv-bridge", "dummy", "vlan"})


@dataclass(frozen=True, slots=True)
class Found:
    """What is not as it should be; none: nothing. `problem`: why it stays so; "": it does not."""

    differences: tuple[str, ...] = ()
    problem: str = ""


class Inspector:
    """Looks and repairs. The caller holds the sandbox's lock."""

    def __init__(
        self, kernel: Kernel, native: Native, attachments: Attachments, execute: Execute, view: netns.View
    ) -> None:
        self._kernel = kernel
        self._native = native
        self._attachments = attachments
        self._execute = execute
        self._view = view

    def repairs(self, record: Record) -> bool:
        """Whether the policy has it repaired."""
        return self._attachments.repairs(record)

    def look(self, record: Record, *, shared: bool, repair: bool) -> Found:
        """Look at what is ours to know; with `repair` undo what others did. `shared`: rule 2.

        Raises NotReady where it cannot be looked at.
        """
        with self._opened(record) as fd:
            link = self._link(record, fd)
            if link is None:
                return Found((f"interface {record.key.ifname} is gone",), "it has to be made anew")
            try:
                is_shared = shared or bool(link.master) or _is_changed_by_others(record)
                look = self._on_node if is_shared else self._whole
                return Found(look(record, fd, link, repair=repair))
            except errors.CNIError as problem:
                return Found((str(problem),), str(problem))

    def has_others(self, record: Record) -> bool:
        """Whether other plugins may be asked (rule 3)."""
        return has_others(record)

    def check(self, record: Record) -> Found:
        """Ask the other plugins (rule 3). Raises NotReady where that cannot be."""
        net = _net(record)
        with self._opened(record):
            try:
                chain.check(net, self._attachments.call(record), self._unless_ours, self._with_bridges_of_now(record))
            except errors.CNIError as problem:
                return Found((str(problem),), "its plugins alone know how to repair it")
        return Found()

    # -- the parts of an attachment: each returns what was wrong, and repairs it where it is told to -----------------

    def _whole(self, record: Record, fd: int, link: Link, *, repair: bool) -> tuple[str, ...]:
        renamed = self._name(record, fd, link, repair=repair)
        if renamed and not repair:
            return renamed  # all else is looked for under its name
        env, before = self._env(record), record.result or {}
        looks = (self._native.look(env, config, before, fd, link.index, repair=repair) for config in _natives(record))
        return (*renamed, *(one for found in looks for one in found), *self._default_routes(record, fd, repair=repair))

    def _on_node(self, record: Record, fd: int, link: Link, *, repair: bool) -> tuple[str, ...]:
        env = self._env(record)
        looks = (self._native.look_on_node(env, config, fd, link, repair=repair) for config in _natives(record))
        return tuple(one for found in looks for one in found)

    def _name(self, record: Record, fd: int, link: Link, *, repair: bool) -> tuple[str, ...]:
        name = record.key.ifname
        if link.name == name:
            return ()
        if self._kernel.pod_link(fd, name) is not None:
            message = f"interface {name} is called {link.name}, and another has its name"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        if repair:
            self._kernel.rename_in_pod(fd, link, name)
        return (f"interface {name} is called {link.name}",)

    def _default_routes(self, record: Record, fd: int, *, repair: bool) -> tuple[str, ...]:
        """Of those that the wish asked for, the ones of whose family the pod has none at all (rule 4)."""
        asked = json.loads(record.element).get("default-route") if record.element else None
        gateways = tuple(map(str, asked or ()))
        there = {ipaddress.ip_address(one.gateway).version for one in self._kernel.default_routes(fd, gateways)}
        lost = tuple(one for one in gateways if ipaddress.ip_address(one).version not in there)
        if lost and repair:
            self._kernel.replace_default_routes(fd, record.key.ifname, lost)
        return tuple(f"there is no default route through {gateway}" for gateway in lost)

    # -- what they need ---------------------------------------------------------------------------------------------

    def _link(self, record: Record, fd: int) -> Link | None:
        try:
            if record.ifindex:
                return self._kernel.pod_link_at(fd, record.ifindex)
            return self._kernel.pod_link(fd, record.key.ifname)
        except errors.CNIError as problem:
            raise not_ready(problem) from None

    def _with_bridges_of_now(self, record: Record) -> Mapping[str, Any] | None:
        """Return the result of the ADD, with the MACs that the node's bridges have by now.

        A bridge to which nobody gave a MAC has that of one of its ports, and gets another as they come and go; plugins
        compare it all the same. Raises CNIError where the kernel does not say.
        """
        if record.result is None:
            return None
        interfaces = [
            {**one, "mac": mac}
            if one.get("mac") and not one.get("sandbox") and (mac := self._kernel.bridge_mac(one["name"]))
            else one
            for one in record.result.get("interfaces") or ()
        ]
        return {**record.result, "interfaces": interfaces} if interfaces else record.result

    def _env(self, record: Record) -> Mapping[str, str]:
        return chain.environment("CHECK", self._attachments.call(record))

    def _unless_ours(
        self,
        plugin_type: str,
        command: str,
        env: Mapping[str, str],
        config: Mapping[str, Any],
        deadline_s: float,
    ) -> Mapping[str, Any] | None:
        if plugin_type == TYPE or (plugin_type in _ASK_IPAM and not _has_ipam(config)):
            return None
        return self._execute(plugin_type, command, env, config, deadline_s)

    @contextmanager
    def _opened(self, record: Record) -> Iterator[int]:
        try:
            with self._view.opened(record.namespace.path) as fd:
                if netns.is_own(fd) or not netns.identify(fd, record.namespace.path).is_same(record.namespace):
                    raise NotReady("SandboxGone", "the pod's network namespace is gone")
                yield fd
        except OSError as problem:
            raise NotReady("NodeError", f"the pod's network namespace cannot be looked into: {problem}") from None


def _has_ipam(config: Mapping[str, Any]) -> bool:
    ipam = config.get("ipam")
    return isinstance(ipam, Mapping) and bool(ipam.get("type"))


def _is_changed_by_others(record: Record) -> bool:
    return bool(_net(record).plugins[-1]["type"] != TYPE)


def _net(record: Record) -> network.NetworkList:
    return network.parse(record.config, record.network.rpartition("/")[2])


def _natives(record: Record) -> Iterator[Mapping[str, Any]]:
    """Yield the configurations of the attachment's native devices, as a CHECK gets them."""
    net = _net(record)
    for plugin in net.plugins:
        if plugin["type"] == TYPE:
            yield network.plugin_stdin(
                net,
                plugin,
                prev_result=record.result,
                runtime=record.runtime,
                cni_args=record.cni_args,
                device_id=record.device_id,
            )
