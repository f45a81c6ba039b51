"""A network's plugins, one after another, as libcni runs them (SPEC 1.1.0 section 3).

Rules
1. ADD goes forward, each plugin with the result of the one before. The first failure ends it; what was
   done is not undone here, the caller follows with `delete`.
2. DEL goes backward, every plugin with the final result of ADD. Unlike in libcni a failing plugin does
   not keep the others from their turn, because what they hold would leak; the first error is raised at
   the end.
3. `prevResult` on DEL and CHECK since 0.4.0, STATUS and GC since 1.1.0. A remembered result is given in
   the version that the network speaks; one that cannot be read is not given at all.
4. A result that names no version, or another one than it was asked in, is made to speak the network's.
5. The deadline of a call is for the whole list. In a DEL or GC a plugin may use three quarters of what is
   left, so that one that hangs does not use up the others' turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent import network
from agent.delegate import Missing
from cni import errors, multinet, result, version

log = logging.getLogger(__name__)

_ONLY_ON_ADD = frozenset({"MAC", "IP"})
_SHARE_OF_A_TURN = 0.75


class Plugin(Protocol):
    """Runs one plugin with one verb; returns its result, None where it printed none. Raises CNIError."""

    def __call__(
        self,
        plugin_type: str,
        command: str,
        env: Mapping[str, str],
        config: Mapping[str, Any],
        deadline_s: float,
    ) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """What all plugins of one call get."""

    container_id: str
    netns: str  # "": gone
    ifname: str
    args: tuple[tuple[str, str], ...] = ()
    runtime: Mapping[str, Any] = field(default_factory=dict)  # capability arguments
    cni_args: Mapping[str, Any] | None = None
    device_id: str = ""
    path: tuple[str, ...] = ()  # where plugins find their own delegates
    deadline_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Attachment:
    """One that is valid, in a GC."""

    container_id: str
    ifname: str


def kubernetes_args(
    namespace: str, name: str, uid: str, container_id: str, selection: multinet.Selection
) -> tuple[tuple[str, str], ...]:
    """Return CNI_ARGS as Multus gives them, with the deprecated MAC and IP where they are asked for."""
    args = [
        ("IgnoreUnknown", "true"),
        ("K8S_POD_NAMESPACE", namespace),
        ("K8S_POD_NAME", name),
        ("K8S_POD_INFRA_CONTAINER_ID", container_id),
        ("K8S_POD_UID", uid),
    ]
    return (*args, *_deprecated(selection))


def _deprecated(selection: multinet.Selection) -> tuple[tuple[str, str], ...]:
    mac = (("MAC", selection.mac),) if selection.mac else ()
    return (*mac, *((("IP", ",".join(selection.ips)),) if selection.ips else ()))


def with_wishes(args: tuple[tuple[str, str], ...], selection: multinet.Selection) -> tuple[tuple[str, str], ...]:
    """Return an attachment's CNI_ARGS with another selection's deprecated MAC and IP."""
    return (*(pair for pair in args if pair[0] not in _ONLY_ON_ADD), *_deprecated(selection))


def add(net: network.NetworkList, call: Call, plugin: Plugin) -> Mapping[str, Any]:
    """Run ADD and return the last plugin's result. Raises the first CNIError, which says whose it is."""
    turns = _Turns("ADD", call, plugin)
    previous: Mapping[str, Any] | None = None
    for config in net.plugins:
        answer = turns.run(config, _stdin(net, config, call, previous))
        previous = _spoken(net, config, answer)
    if previous is None:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"network {net.name} has no plugins")
    return previous


def delete(
    net: network.NetworkList,
    call: Call,
    plugin: Plugin,
    result_of_add: Mapping[str, Any] | None,
    *,
    was_added: bool = True,
) -> None:
    """Run DEL on every plugin (rule 2). Raises the first CNIError at the end.

    `was_added`: the network's ADD has once succeeded. Where it has not, a plugin that does not speak the version has
    done nothing by this configuration, and never will: its refusal is no failure.
    """
    previous = _remembered(net, result_of_add)
    turns = _Turns("DEL", call, plugin)
    refusal = None if was_added else errors.Code.INCOMPATIBLE_VERSION
    turns.run_all(((config, _stdin(net, config, call, previous)) for config in reversed(net.plugins)), refusal)


def check(net: network.NetworkList, call: Call, plugin: Plugin, result_of_add: Mapping[str, Any] | None) -> None:
    """Run CHECK; a network that says disableCheck passes. Raises the first plugin's CNIError."""
    if not version.at_least(net.cni_version, "0.4.0"):
        message = f"network {net.name}: config version {net.cni_version} does not allow CHECK"
        raise errors.CNIError(errors.Code.INCOMPATIBLE_VERSION, message)
    if net.disable_check:
        return
    previous = _remembered(net, result_of_add)
    turns = _Turns("CHECK", call, plugin)
    for config in net.plugins:
        turns.run(config, _stdin(net, config, call, previous))


def status(net: network.NetworkList, call: Call, plugin: Plugin) -> None:
    """Run STATUS where the version has it. Raises the first plugin's CNIError, with its code."""
    if not version.at_least(net.cni_version, "1.1.0"):
        return
    turns = _Turns("STATUS", _of_no_container(call), plugin)
    for config in net.plugins:
        turns.run(config, _bare_stdin(net, config))


def gc(net: network.NetworkList, call: Call, plugin: Plugin, valid: Sequence[Attachment]) -> None:
    """Run GC where the version has it and the network allows it. Raises the first CNIError at the end."""
    if net.disable_gc or not version.at_least(net.cni_version, "1.1.0"):
        return
    keys = valid_list(valid)
    turns = _Turns("GC", _of_no_container(call), plugin)
    turns.run_all((config, _bare_stdin(net, config) | keys) for config in net.plugins)


def valid_list(valid: Iterable[Attachment]) -> dict[str, Any]:
    """Return the keys of a GC's configuration. SPEC 1.1.0 names it twice and differently; plugins read either."""
    attachments = [{"containerID": one.container_id, "ifname": one.ifname} for one in valid]
    return {"cni.dev/valid-attachments": attachments, "cni.dev/attachments": attachments}


class _Turns:
    """The plugins' turns in one call, each with what time is left."""

    def __init__(self, command: str, call: Call, plugin: Plugin) -> None:
        self._command = command
        self._env = environment(command, call)
        self._plugin = plugin
        self._ends = time.monotonic() + call.deadline_s

    def run(self, config: Mapping[str, Any], stdin: dict[str, Any], share: float = 1.0) -> Mapping[str, Any] | None:
        plugin_type = config["type"]
        deadline_s = (self._ends - time.monotonic()) * share
        if deadline_s <= 0:
            message = f"plugin {plugin_type} failed ({self._command}): no time was left for it"
            raise errors.CNIError(errors.Code.TRY_AGAIN, message)
        try:
            return self._plugin(plugin_type, self._command, self._env, stdin, deadline_s)
        except errors.CNIError as error:
            message = f"plugin {plugin_type} failed ({self._command}): {error.message}"
            if isinstance(error, Missing):
                raise Missing(message, error.details, errors.Code(error.code)) from error
            raise errors.CNIError(error.code, message, error.details) from error

    def run_all(
        self, turns: Iterable[tuple[Mapping[str, Any], dict[str, Any]]], harmless: errors.Code | None = None
    ) -> None:
        """Give every plugin its turn, then raise the first error that is not `harmless`."""
        first: errors.CNIError | None = None
        left = list(turns)
        while left:
            config, stdin = left.pop(0)
            try:
                self.run(config, stdin, _SHARE_OF_A_TURN if left else 1.0)
            except errors.CNIError as error:
                if error.code == harmless:
                    continue
                if first is not None:
                    log.warning("%s", error)
                first = first or error
        if first is not None:
            raise first


def environment(command: str, call: Call) -> dict[str, str]:
    """Return the variables that a plugin gets (SPEC 1.1.0 §2)."""
    args = [f"{key}={value}" for key, value in call.args if command == "ADD" or key not in _ONLY_ON_ADD]
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": call.container_id,
        "CNI_NETNS": call.netns,
        "CNI_IFNAME": call.ifname,
        "CNI_ARGS": ";".join(args),
        "CNI_PATH": ":".join(call.path),
    }


def _of_no_container(call: Call) -> Call:
    return Call("", "", "", path=call.path, deadline_s=call.deadline_s)


def _stdin(
    net: network.NetworkList, config: Mapping[str, Any], call: Call, previous: Mapping[str, Any] | None
) -> dict[str, Any]:
    return network.plugin_stdin(
        net,
        config,
        prev_result=previous,
        runtime=call.runtime,
        cni_args=call.cni_args,
        device_id=call.device_id,
    )


def _bare_stdin(net: network.NetworkList, config: Mapping[str, Any]) -> dict[str, Any]:
    return network.plugin_stdin(net, config, prev_result=None, runtime={}, cni_args=None, device_id="")


def _spoken(net: network.NetworkList, config: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a plugin's answer as a result of the network's version (rule 4)."""
    if answer is None:
        raise errors.CNIError(errors.Code.DECODE_FAILURE, f"plugin {config['type']} failed (ADD): it printed no result")
    try:
        return _in_version(answer, net.cni_version)
    except errors.CNIError as error:
        message = f"plugin {config['type']} failed (ADD): its result cannot be read: {error.message}"
        raise errors.CNIError(error.code, message, error.details) from error


def _remembered(net: network.NetworkList, document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the result of the ADD as a prevResult, where there may be one (rule 3)."""
    if not document or not version.at_least(net.cni_version, "0.4.0"):
        return None
    try:
        return _in_version(document, net.cni_version)
    except errors.CNIError as error:
        log.warning("network %s: the result of the ADD is not given to its plugins: %s", net.name, error)
        return None


def _in_version(document: Mapping[str, Any], wanted: str) -> Mapping[str, Any]:
    named = {**document, "cniVersion": document.get("cniVersion") or wanted}
    decoded = result.decode(named)
    # What is in the right version already stays as it is, with all that we do not know of.
    return named if named["cniVersion"] == wanted else result.encode(decoded, wanted)
