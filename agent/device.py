"""Network type `hotnic`: the CNI verbs on the device kinds that the agent makes itself (agent.devices).

Called in-process, for the hotplug engine and for the CNI executable alike, with what a plugin would get: verb,
environment, configuration. The caller has journalled the attachment before.

Rules
1. IPAM first: an address that cannot be had leaves no trace in the pod.
2. A failed ADD undoes itself: the link if it is ours, then the address. A DEL goes through both and reports the
   first error at the end.
3. A DEL works with a configuration that is invalid by now, and with a namespace that is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from agent import devices, interface, netns, options
from agent.delegate import Missing
from agent.devices.contract import Device
from agent.devices.unknown import Unknown
from agent.hostend import HostEnd
from agent.links import Have, Interface, Link, down, replaces, told
from agent.model import ContainerID, Key, Record
from agent.netlink import Kernel, Known, mismatches
from cni import errors, request, result, version

TYPE = "hotnic"


class Notes(Protocol):
    """Where a device's memory is kept between ADD and DEL (agent.devices.contract, rule 4)."""

    def saved(self, key: Key) -> Mapping[str, Any]: ...

    def save(self, key: Key, note: Mapping[str, Any]) -> None: ...

    def made(self, key: Key, ifindex: int) -> None:
        """The link is there, under that index in the pod."""
        ...

    def records(self) -> Iterable[Record]:
        """Return all attachments of the node."""
        ...


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


class Plugins(Execute, Protocol):
    """Execute, and whether there is something to be executed."""

    def refuse_missing(self, plugin_type: str) -> None:
        """Raise CNIError where no executable of that name is on the node."""
        ...


class Native:
    """The native devices, bound to a kernel, to the executor of IPAM plugins and to the journal's notes."""

    def __init__(self, kernel: Kernel, execute: Execute, view: netns.View, notes: Notes) -> None:
        self._kernel = kernel
        self._execute = execute
        self._view = view
        self._notes = notes

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
        if command != "DEL":
            _refuse_other_agent(config)
        match command:
            case "ADD":
                with self._namespace(env, netns_fd) as fd:
                    return self._add(call, fd)
            case "DEL":
                with self._living(env) as living:
                    self._delete(call, living)
            case "CHECK":
                with self._namespace(env, netns_fd) as fd:
                    self._check(call, fd)
            case "STATUS" | "GC":
                self._status_or_gc(call)
            case _:
                raise errors.CNIError(errors.Code.INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
        return None

    def _add(self, call: _Call, fd: int) -> Mapping[str, Any]:
        devices.refuse_foreign(call.config)
        device, ipam = self._device(call), options.ipam(call.config)
        try:
            addresses = self._allocate(call, ipam, device)
            have = self._kernel.settle(
                device, _want(device, addresses), fd, lambda note: self._notes.save(call.key, note)
            )
        except Missing:  # rule 1: nothing was done
            raise
        except BaseException:
            self._undo(call, ipam, fd)
            raise
        if have.pod is not None:
            self._notes.made(call.key, have.pod.index)
        return result.encode(_result(call, device, have, addresses), call.cni_version)

    def examine(self, env: Mapping[str, str], config: Mapping[str, Any]) -> None:
        """Raise the CNIError that an ADD would meet for its configuration alone: before anything is journalled."""
        call = _Call("ADD", env, config, 0.0)
        _refuse_other_agent(config)
        devices.refuse_foreign(config)
        devices.parse(call.options({}))
        options.ipam(config)

    def update(
        self, env: Mapping[str, str], config: Mapping[str, Any], deadline_s: float, before: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Make an attachment that is there what a changed configuration asks for; return its result then.

        `before`: the result that it has had. Raises CNIError; it may be half done then.
        """
        call = _Call("ADD", env, config, time.monotonic() + deadline_s)
        device, ipam = self._device(call), options.ipam(call.config)
        with self._namespace(env, None) as fd:
            if self._kernel.pod_link(fd, call.key.ifname) is None:
                raise errors.CNIError(errors.Code.INTERNAL, f"interface {call.key.ifname} is gone")
            addresses = self._allocate(call, ipam, device)
            leaving = tuple(ip.address for ip in result.decode(before).ips)
            want = replace(_want(device, addresses), leaving=leaving)
            have = self._kernel.settle(device, want, fd, lambda note: self._notes.save(call.key, note))
        return result.encode(_result(call, device, have, addresses), call.cni_version)

    def look(
        self,
        env: Mapping[str, str],
        config: Mapping[str, Any],
        before: Mapping[str, Any],
        fd: int,
        ifindex: int,
        *,
        repair: bool,
    ) -> tuple[str, ...]:
        """Return what an attachment in the namespace `fd` is not as its ADD, whose result was `before`, has left it.

        With `repair` that is undone besides; its link, of that index, has its own name by then. Raises CNIError, with
        what is in the way of that.
        """
        call = _Call("CHECK", env, config, 0.0)
        device = self._device(call)
        made = result.decode(before)
        want = _as_made(_want(device, made if options.ipam(config) else None), made, device)
        changed = self._host_end(device, call.key, fd, ifindex, repair=repair)
        if changed and not repair:
            return changed
        known = Known(ifindex, options.mark(call.key))
        lacks, steps = self._kernel.differences(device, want, fd, known)
        found = tuple(dict.fromkeys((*changed, *(lacks or map(told, steps)), *down(steps))))
        if not repair or not (lacks or steps):
            return found
        if not steps or replaces(steps, want.ifname) or device.is_contested(steps):
            why = (
                "another attachment may want it so" if device.is_contested(steps) else "it cannot be repaired in place"
            )
            raise errors.CNIError(errors.Code.INTERNAL, f"{'; '.join(found)}: {why}")
        self._kernel.settle(device, want, fd, lambda note: self._notes.save(call.key, note), known)
        return found

    def look_on_node(
        self, env: Mapping[str, str], config: Mapping[str, Any], fd: int, pod_end: Link, *, repair: bool
    ) -> tuple[str, ...]:
        """As `look`, for a link in whose state in the pod others have a say: a guest's, a runtime's."""
        call = _Call("CHECK", env, config, 0.0)
        device = self._device(call)
        if not device.host_end():
            return ()
        changed = self._host_end(device, call.key, fd, pod_end.index, repair=repair)
        if changed and not repair:
            return changed
        return (*changed, *self._kernel.settle_node_side(device, fd, pod_end, repair=repair))

    def _host_end(self, device: Device, key: Key, fd: int, ifindex: int, *, repair: bool) -> tuple[str, ...]:
        name = device.host_end()
        if not name:
            return ()
        is_named = name != options.host_name(key)
        want = HostEnd(name, options.derived_mac(key, "host"), ifindex, is_named, self._notes.records)
        return self._kernel.restore_host_end(device, fd, want, repair=repair)

    def mend(self, key: Key, config: Mapping[str, Any]) -> None:
        """Make whole again what an attachment shares with others of the node (devices.contract, rule 6).

        Raises CNIError, with what is in the way.
        """
        device = devices.parse(options.Call(key, config))
        if device.segment():
            self._kernel.mend(device)

    def _device(self, call: _Call) -> Device:
        return devices.parse(call.options(self._notes.saved(call.key)))

    def _undo(self, call: _Call, ipam: Mapping[str, Any] | None, fd: int) -> None:
        with suppress(errors.CNIError):  # the ADD's own error is the one to tell; the journal still has the record
            self._unplug(call, fd)
        with suppress(errors.CNIError):
            self._release(call, ipam)

    def _delete(self, call: _Call, fd: int | None) -> None:
        try:
            self._unplug(call, fd)
        finally:
            ipam = call.config.get("ipam")  # not parsed: rule 3
            self._release(
                call, ipam if isinstance(ipam, Mapping) and ipam.get("type") not in (None, "", TYPE) else None
            )

    def _unplug(self, call: _Call, fd: int | None) -> None:
        try:
            device = self._device(call)
        except errors.CNIError:
            device = Unknown(call.key, self._notes.saved(call.key))
        self._kernel.remove(device, fd)

    def _check(self, call: _Call, fd: int) -> None:
        previous = call.config.get("prevResult")
        if not isinstance(previous, Mapping):
            raise errors.CNIError(errors.Code.INVALID_CONFIG, "CHECK needs prevResult")
        device, ipam = self._device(call), options.ipam(call.config)
        if ipam:
            self._ipam(call, ipam, "CHECK")
        before = result.decode(previous)
        want = _want(device, before if ipam else None)
        want = replace(want, mac=want.mac or _mac(before, call))  # one that was not chosen is not to change either
        have = self._kernel.read(device, want, fd)
        if found := mismatches(device, want, have):
            raise errors.CNIError(errors.Code.INTERNAL, "; ".join(found))

    def _status_or_gc(self, call: _Call) -> None:
        device, ipam = self._device(call), options.ipam(call.config)
        if call.command == "STATUS":
            devices.refuse_foreign(call.config)
            self._refuse_unready(device)
        if ipam and version.at_least(call.cni_version, version.VERBS[call.command]):
            self._ipam(call, ipam, call.command)

    def _refuse_unready(self, device: Device) -> None:
        if missing := [kind for kind in device.kinds() if not self._kernel.makes(kind)]:
            message = f"this node's kernel cannot make links of kind {', '.join(missing)}"
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, message)
        try:
            device.refuse_unready(self._kernel.read(device, device.interface, None))
        except errors.CNIError as problem:
            if problem.code in (errors.Code.NOT_AVAILABLE, errors.Code.LIMITED_CONNECTIVITY):
                raise
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, problem.message, problem.details) from None

    def _allocate(self, call: _Call, ipam: Mapping[str, Any] | None, device: Device) -> result.Result | None:
        if ipam is None:
            return None
        addresses = result.decode(self._ipam(call, ipam, "ADD") or {})
        if not addresses.ips:
            raise errors.CNIError(errors.Code.INVALID_CONFIG, f"ipam plugin {ipam['type']} returned no address")
        return device.completed(addresses)

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

    @contextmanager
    def _living(self, env: Mapping[str, str]) -> Iterator[int | None]:
        """Yield the pod's namespace, None where CNI_NETNS leads to none or to the node's own."""
        with ExitStack() as stack:
            fd = None
            with suppress(OSError):
                fd = stack.enter_context(self._view.opened(env["CNI_NETNS"])) if env.get("CNI_NETNS") else None
            yield None if fd is None or not netns.is_namespace(fd) or netns.is_own(fd) else fd


class _Call:
    """One verb with its parameters."""

    def __init__(self, command: str, env: Mapping[str, str], config: Mapping[str, Any], deadline: float) -> None:
        self.command, self.env, self.config, self.deadline = command, env, config, deadline
        self.key = Key(ContainerID(env.get("CNI_CONTAINERID", "")), env.get("CNI_IFNAME", ""))
        self.cni_version = str(config.get("cniVersion") or "0.1.0")

    def options(self, saved: Mapping[str, Any]) -> options.Call:
        return options.Call(self.key, self.config, request.parse_args(self.env.get("CNI_ARGS", "")), saved)


def _refuse_other_agent(config: Mapping[str, Any]) -> None:
    if config.get("agent") is not None:  # agent.standalone takes the key out
        message = f"agent={config['agent']!r} is not for a call that the node's agent serves"
        raise errors.CNIError(errors.Code.INVALID_CONFIG, message)


def refuse_own_namespace(fd: int, env: Mapping[str, str]) -> None:
    """Raise CNIError 8 for the node's own namespace or for what is no namespace, before anything is done."""
    if not netns.is_namespace(fd):
        raise errors.CNIError(errors.Code.INVALID_NETNS, f"CNI_NETNS={env.get('CNI_NETNS')!r} is not a namespace")
    if netns.is_own(fd) and env.get("CNI_NETNS_OVERRIDE", "").upper() not in ("1", "TRUE"):
        raise errors.CNIError(
            errors.Code.INVALID_NETNS, f"CNI_NETNS={env.get('CNI_NETNS')!r} is the node's own namespace"
        )


def _as_made(want: Interface, made: result.Result, device: Device) -> Interface:
    """The interface with the MAC and the MTU that it got, unless it follows another link with them."""
    got = next((one for one in made.interfaces if one.name == want.ifname and one.sandbox), None)
    if got is None:
        return want
    keeps_mtu = bool(got.mtu and (want.mtu or device.host_end()))
    keeps_mac = bool(got.mac and (want.mac or device.OWN_MAC))
    return replace(want, mac=got.mac.lower() if keeps_mac else want.mac, mtu=got.mtu if keeps_mtu else want.mtu)


def _mac(before: result.Result, call: _Call) -> str:
    """Return the MAC that a result has for the call's interface; "": it has none."""
    netns_path = call.env.get("CNI_NETNS", "")
    macs = (one.mac for one in before.interfaces if (one.name, one.sandbox) == (call.key.ifname, netns_path))
    return next(macs, "")


def _want(device: Device, addresses: result.Result | None) -> Interface:
    """The interface with the addresses and routes of IPAM."""
    if addresses is None:
        return device.interface
    return device.with_addresses(
        replace(
            device.interface,
            addresses=tuple(ip.address for ip in addresses.ips),
            gateways=tuple(ip.gateway for ip in addresses.ips),
            routes=interface.with_gateways(addresses),
        )
    )


def _result(call: _Call, device: Device, have: Have, addresses: result.Result | None) -> result.Result:
    """The result of a chained plugin holds everything of the plugins before it (SPEC §4)."""
    previous = call.config.get("prevResult")
    before = result.decode(previous) if isinstance(previous, Mapping) else result.Result()
    assert have.pod
    shown = tuple(result.Interface(link.name, link.mac, link.mtu) for link in device.shown(have))
    pci = have.pod.device if have.pod.bus == "pci" else ""
    pod = result.Interface(have.pod.name, have.pod.mac, have.pod.mtu, call.env.get("CNI_NETNS", ""), pci_id=pci)
    position = len(before.interfaces) + len(shown)
    own = addresses or device.completed(result.Result())
    return result.Result(
        interfaces=(*before.interfaces, *shown, pod),
        ips=(*before.ips, *(result.IPConfig(ip.address, ip.gateway, position) for ip in own.ips)),
        routes=(*before.routes, *interface.with_gateways(own)),
        dns=own.dns if own.dns != result.DNS() else before.dns,
    )
