"""Network type `hotnic`: the CNI verbs on the device kinds that the agent makes itself.

Called in-process, for the hotplug engine and for the CNI executable alike, with what a plugin would get: verb,
environment, configuration. The caller has journalled the attachment before.

Rules
1. IPAM first: an address that cannot be had leaves no trace in the pod.
2. A failed ADD undoes itself: the link if it is ours, then the address. A DEL goes through both and reports the
   first error at the end.
3. Nothing is deleted on its name alone (bridge.is_ours).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

from agent import bridge, netns
from agent.model import ContainerID, Key
from agent.netlink import Kernel
from cni import errors, request, result, version

TYPE = "hotnic"
KINDS = ("bridge",)


class Execute(Protocol):
    """Runs a delegate: (type, verb, environment, configuration on stdin, seconds) -> its result, if any."""

    def __call__(
        self,
        plugin_type: str,
        command: str,
        env: Mapping[str, str],
        config: Mapping[str, Any],
        deadline_s: float,
    ) -> Mapping[str, Any] | None: ...


class Native:
    """The native devices, bound to a kernel and to the executor of IPAM plugins."""

    def __init__(self, kernel: Kernel, execute: Execute, view: netns.View) -> None:
        self._kernel = kernel
        self._execute = execute
        self._view = view

    def __call__(
        self,
        command: str,
        env: Mapping[str, str],
        config: Mapping[str, Any],
        deadline_s: float,
        netns_fd: int | None = None,
    ) -> Mapping[str, Any] | None:
        """Perform one CNI verb (SPEC 1.1.0 §2). `netns_fd`: the namespace, where the caller holds it open.

        Raises CNIError, with the code that the specification gives the cause.
        """
        call = _Call(command, env, config, time.monotonic() + deadline_s)
        match command:
            case "ADD":
                with self._namespace(env, netns_fd) as fd:
                    return self._add(call, fd)
            case "DEL":
                self._delete(call)
            case "CHECK":
                with self._namespace(env, netns_fd) as fd:
                    self._check(call, fd)
            case "STATUS" | "GC":
                self._status_or_gc(call)
            case _:
                raise errors.CNIError(errors.Code.INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
        return None

    def _add(self, call: _Call, fd: int) -> Mapping[str, Any]:
        options = call.options()
        try:
            addresses = self._allocate(call, options)
            want = bridge.want(call.key, options, addresses)
            have = self._kernel.settle(want, fd)
        except BaseException:
            self._undo(call, options)
            raise
        return result.encode(_result(call, want, have, addresses), call.cni_version)

    def _undo(self, call: _Call, options: bridge.Options) -> None:
        with suppress(errors.CNIError):  # the ADD's own error is the one to tell; the journal still has the record
            self._unplug(call.key)
        with suppress(errors.CNIError):
            self._release(call, options.ipam)

    def _delete(self, call: _Call) -> None:
        try:
            self._unplug(call.key)
        finally:
            ipam = call.config.get("ipam")  # not parsed: a DEL must work with a configuration that is invalid by now
            self._release(call, ipam if isinstance(ipam, Mapping) and ipam.get("type") else None)

    def _unplug(self, key: Key) -> None:
        host = self._kernel.link(bridge.host_name(key))
        if host is not None and bridge.is_ours(key, host):
            self._kernel.delete(host)

    def _check(self, call: _Call, fd: int) -> None:
        previous = call.config.get("prevResult")
        if not isinstance(previous, Mapping):
            raise errors.CNIError(errors.Code.INVALID_CONFIG, "CHECK needs prevResult")
        options = call.options()
        if options.ipam:
            self._ipam(call, options.ipam, "CHECK")
        want = bridge.want(call.key, options, result.decode(previous) if options.ipam else None)
        if found := bridge.mismatches(want, self._kernel.read(want, fd)):
            raise errors.CNIError(errors.Code.INTERNAL, "; ".join(found))

    def _status_or_gc(self, call: _Call) -> None:
        options = call.options()
        if options.ipam and version.at_least(call.cni_version, version.VERBS[call.command]):
            self._ipam(call, options.ipam, call.command)

    def _allocate(self, call: _Call, options: bridge.Options) -> result.Result | None:
        if options.ipam is None:
            return None
        addresses = result.decode(self._ipam(call, options.ipam, "ADD") or {})
        if not addresses.ips:
            raise errors.CNIError(errors.Code.INVALID_CONFIG, f"ipam plugin {options.ipam['type']} returned no address")
        return addresses

    def _release(self, call: _Call, ipam: Mapping[str, Any] | None) -> None:
        if ipam is not None:
            self._ipam(call, ipam, "DEL")

    def _ipam(self, call: _Call, ipam: Mapping[str, Any], command: str) -> Mapping[str, Any] | None:
        env = {**call.env, "CNI_COMMAND": command}
        return self._execute(str(ipam["type"]), command, env, call.config, max(0.1, call.deadline - time.monotonic()))

    @contextmanager
    def _namespace(self, env: Mapping[str, str], netns_fd: int | None) -> Iterator[int]:
        if netns_fd is not None:
            yield netns_fd
            return
        path = env.get("CNI_NETNS", "")
        with ExitStack() as stack:
            try:
                fd = stack.enter_context(self._view.opened(path))
            except OSError as problem:
                message = f"cannot open CNI_NETNS={path!r}"
                raise errors.CNIError(errors.Code.INVALID_NETNS, message, str(problem)) from None
            refuse_own_namespace(fd, env)
            yield fd


class _Call:
    """One verb with its parameters."""

    def __init__(self, command: str, env: Mapping[str, str], config: Mapping[str, Any], deadline: float) -> None:
        self.command, self.env, self.config, self.deadline = command, env, config, deadline
        self.key = Key(ContainerID(env.get("CNI_CONTAINERID", "")), env.get("CNI_IFNAME", ""))
        self.cni_version = str(config.get("cniVersion") or "0.1.0")

    def options(self) -> bridge.Options:
        kind = self.config.get("device")
        if kind not in KINDS:
            message = f"device={kind!r} is not one of {', '.join(KINDS)}"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        return bridge.parse(self.config, request.parse_args(self.env.get("CNI_ARGS", "")))


def refuse_own_namespace(fd: int, env: Mapping[str, str]) -> None:
    """Raise CNIError 8 for the node's own namespace or for what is no namespace, before anything is done."""
    if not netns.is_namespace(fd):
        raise errors.CNIError(errors.Code.INVALID_NETNS, f"CNI_NETNS={env.get('CNI_NETNS')!r} is not a namespace")
    if netns.is_own(fd) and env.get("CNI_NETNS_OVERRIDE", "").upper() not in ("1", "TRUE"):
        raise errors.CNIError(
            errors.Code.INVALID_NETNS, f"CNI_NETNS={env.get('CNI_NETNS')!r} is the node's own namespace"
        )


def _result(call: _Call, want: bridge.Want, have: bridge.Have, addresses: result.Result | None) -> result.Result:
    """The result of a chained plugin holds everything of the plugins before it (SPEC §4)."""
    previous = call.config.get("prevResult")
    before = result.decode(previous) if isinstance(previous, Mapping) else result.Result()
    assert have.bridge
    assert have.host
    assert have.pod
    made = (
        result.Interface(have.bridge.name, have.bridge.mac, have.bridge.mtu),
        result.Interface(have.host.name, have.host.mac, have.host.mtu),
        result.Interface(have.pod.name, have.pod.mac, have.pod.mtu, call.env.get("CNI_NETNS", "")),
    )
    position = len(before.interfaces) + 2
    own = addresses or result.Result()
    return result.Result(
        interfaces=(*before.interfaces, *made),
        ips=(*before.ips, *(result.IPConfig(ip.address, ip.gateway, position) for ip in own.ips)),
        routes=(*before.routes, *want.routes),
        dns=own.dns if own.dns != result.DNS() else before.dns,
    )
