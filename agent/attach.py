"""One attachment: make it, remove it. Journal first, then the network's plugins, then a look at the kernel.

Rules
1. The record is on disk before any plugin runs, and goes only after every plugin's DEL succeeded.
2. DEL runs with the record's configuration, arguments and result, never with today's.
3. "Attached" is said only when the link is seen in the pod.
4. What fails is undone by the same DEL; what cannot be undone keeps its record and is tried again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent import chain, confdir, delegate, devices, netns, network
from agent.device import TYPE, Native, Plugins
from agent.gates import Gates
from agent.journal import Journal
from agent.model import KUBEVIRT, Key, NotReady, Origin, Phase, Pod, Record, Refused, Wanted
from agent.netlink import Kernel
from agent.plan import Attach, Update, element
from agent.policy import Policy
from agent.sandboxes import Sandbox
from cni import errors, multinet

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are on the node, and how long a network's plugins may take, in seconds."""

    bin_dirs: tuple[Path, ...]
    conf_dirs: tuple[Path, ...]
    view: netns.View
    deadline_s: float = 30.0
    policy: Policy = field(default_factory=Policy)


class Attachments:
    """Makes and removes attachments. The caller holds the sandbox's lock."""

    def __init__(self, journal: Journal, kernel: Kernel, native: Native, execute: Plugins, settings: Settings) -> None:
        self._journal = journal
        self._kernel = kernel
        self._native = native
        self._execute = execute
        self._settings = settings
        self.gates = Gates()

    def examine(self, wanted: Wanted, vm: str = "") -> network.NetworkList:
        """Return the network of a wish, of which nothing is known that would make it fail.

        `vm`: the virtual machine in the pod (model.Desired). KubeVirt gives its guests their MACs itself, and says them
        of each interface: there a network need not know what a MAC is. Raises Refused or NotReady, as `attach` would;
        nothing is done.
        """
        net, selection = self._network(wanted), wanted.selection
        for key in ("runtimeConfig", "prevResult"):
            if any(key in plugin for plugin in net.plugins):
                raise Refused(
                    "InvalidConfiguration", f"network {selection.network}: {key} is not a definition's to say"
                )
        self.refuse_forbidden(selection.namespace, net.plugins, selection.cni_args)
        spared = {"mac"} if vm == KUBEVIRT else set()
        if missing := [
            one for one in network.undeclared(net, multinet.capability_args(selection)) if one not in spared
        ]:
            raise Refused(
                "CapabilityNotDeclared", f"network {selection.network} does not declare: {', '.join(missing)}"
            )
        if selection.default_route == ():
            raise Refused("DefaultRouteEmpty", "default-route: a list without a gateway asks for nothing")
        try:
            self._examine_devices(net, selection)
            for plugin_type in _executed(net):
                self._execute.refuse_missing(plugin_type)
        except errors.CNIError as problem:
            raise not_ready(problem) from None
        return net

    def _examine_devices(self, net: network.NetworkList, selection: multinet.Selection) -> None:
        env = {"CNI_IFNAME": selection.interface or "net1", "CNI_CONTAINERID": "any"}
        for plugin in (one for one in net.plugins if one.get("type") == TYPE):
            stdin = network.plugin_stdin(
                net,
                plugin,
                prev_result=None,
                runtime=multinet.capability_args(selection),
                cni_args=selection.cni_args,
                device_id=selection.device_id,
            )
            self._native.examine(env, stdin)

    def attach(self, pod: Pod, sandbox: Sandbox, step: Attach, vm: str = "") -> Record:
        """Make one attachment and return its record, whole.

        Raises Refused for a wish that can never be fulfilled as it stands, NotReady for everything else; nothing is
        left behind then, or the record is, for the next pass to remove.
        """
        net, selection = self.examine(step.wanted, vm), step.wanted.selection
        try:
            record = self._journal.begin(_new_record(pod, sandbox, step, net), durable=outlives_reboot(net))
        except OSError as problem:  # the disk is full, say: nothing was done
            raise not_ready(problem) from None
        try:
            return self._add(record, net, selection)
        except delegate.Missing as problem:
            if len(net.plugins) == 1:  # nothing was executed: there is nothing to undo, and nobody to undo it
                self._journal.remove(record.key)
            else:
                self._undo(record)
            raise not_ready(problem) from None
        except (errors.CNIError, OSError) as problem:
            self._undo(self._journal.record(record.key) or record)
            raise not_ready(problem) from None

    def update(self, step: Update) -> Record:
        """Change what is attached in place, and return its record as it is then.

        Raises NotReady where that cannot be; it may be half done then, and the record still tells of the old wish:
        the caller replaces the attachment.
        """
        selection = step.wanted.selection
        new = replace(
            step.record,
            element=element(step.wanted),
            runtime=multinet.capability_args(selection),
            cni_args=selection.cni_args,
            args=chain.with_wishes(step.record.args, selection),
        )
        net = network.parse(new.config, selection.name)
        try:
            with self.gates.changing(net.name):
                document = chain.add(net, self.call(new), self._updating(step.record))
            new = replace(new, result=document)
            self._journal.update(new, durable=outlives_reboot(net))
        except (errors.CNIError, OSError) as problem:
            raise not_ready(problem) from None
        return new

    def _updating(self, record: Record) -> chain.Plugin:
        """In place of a plugin's ADD; networks that can be updated have our own only (agent.update)."""

        def run(
            plugin_type: str,  # noqa: ARG001 it is the only one
            command: str,
            env: Mapping[str, str],
            config: Mapping[str, Any],
            deadline_s: float,
        ) -> Mapping[str, Any]:
            assert record.result is not None, "it is attached"
            return self._native.update({**env, "CNI_COMMAND": command}, config, deadline_s, record.result)

        return run

    def detach(self, record: Record) -> None:
        """Remove one attachment and its record. Raises NotReady where a plugin's DEL failed; the record stays then."""
        net = network.parse(record.config, record.network.rpartition("/")[2])
        with ExitStack() as stack:
            try:
                fd = stack.enter_context(self._settings.view.opened(record.namespace.path))
                alive = netns.identify(fd, record.namespace.path).is_same(record.namespace) and not netns.is_own(fd)
            except OSError:
                alive = False
            except errors.CNIError as problem:  # whether it is there, nobody can tell now
                raise not_ready(problem) from None
            try:
                if alive and record.phase is Phase.ADDING:
                    record = self._with_leftover(record, fd)
                ours = alive and self._is_ours(record, fd)
                with self.gates.changing(net.name):
                    call, was_added = self.call(record, alive=ours), record.phase is not Phase.ADDING
                    chain.delete(net, call, self._plugin, record.result, was_added=was_added)
                if alive:
                    self._clear(record, fd)
            except (errors.CNIError, OSError) as problem:
                raise not_ready(problem) from None
        self._journal.remove(record.key)

    def collect(self, net: network.NetworkList, valid: Collection[Key], deadline_s: float) -> None:
        """Have the network's plugins remove what is not valid; the caller is alone at the gate. Raises CNIError."""
        path = tuple(str(directory) for directory in self._settings.bin_dirs)
        call = chain.Call("", "", "", path=path, deadline_s=deadline_s)
        attachments = [chain.Attachment(key.container_id, key.ifname) for key in valid]
        chain.gc(net, call, self._plugin, attachments)

    def refuse_forbidden(
        self, namespace: str, plugins: Collection[Mapping[str, Any]], asked: Mapping[str, Any] | None
    ) -> None:
        """Raise Refused where the policy does not let networks of that namespace do this."""
        if why := self._settings.policy.refusal(namespace, plugins, asked, self._kernel.is_uplink):
            raise Refused("PolicyForbids", why)

    def definition(self, wanted: Wanted) -> str:
        """Return the text of a wish's network, which may be a file of the node; "": there is none."""
        try:
            return wanted.config or confdir.find(self._settings.conf_dirs, wanted.selection.name)
        except errors.CNIError:
            return ""

    def repairs(self, record: Record) -> bool:
        """Whether the policy has an attachment repaired that others have changed."""
        return self._settings.policy.repairs(record.network.rpartition("/")[0])

    def is_on_disk(self, config: Mapping[str, Any]) -> bool:
        """Whether a plugin's configuration is one of the node's own files, as the runtime's primary network is."""
        try:
            net = network.parse(confdir.find(self._settings.conf_dirs, str(config.get("name"))), "")
        except errors.CNIError:
            return False
        return network.bare(config) in [network.bare(plugin) for plugin in net.plugins]

    def seen(self, record: Record, fd: int) -> Record:
        """Return the record with the index of its link, by which that is known whatever it is called later."""
        link = None if record.ifindex else self._kernel.pod_link(fd, record.key.ifname)
        return record if link is None else replace(record, ifindex=link.index)

    def is_there(self, record: Record) -> bool:
        """Whether the record's interface is in its sandbox now."""
        try:
            with self._settings.view.opened(record.namespace.path) as fd:
                same = netns.identify(fd, record.namespace.path).is_same(record.namespace)
                return same and self._kernel.pod_link(fd, record.key.ifname) is not None
        except OSError:
            return False

    def _add(self, record: Record, net: network.NetworkList, selection: multinet.Selection) -> Record:
        with self.gates.changing(net.name):
            document = chain.add(net, self.call(record), self._plugin)
        record = self._journal.record(record.key) or record  # with what a device has saved meanwhile
        with self._settings.view.opened(record.namespace.path) as fd:
            link = self._kernel.pod_link(fd, record.key.ifname)
            if link is None:
                message = f"the plugins of {record.network} report success, but {record.key.ifname} is not in the pod"
                raise errors.CNIError(errors.Code.INTERNAL, message)
            record = replace(record, result=document, ifindex=link.index)
            if selection.default_route:
                record = self._take_default_routes(record, fd, selection.default_route)
        record = replace(record, phase=Phase.ATTACHED)
        self._journal.update(record, durable=outlives_reboot(net))
        return record

    def _take_default_routes(self, record: Record, fd: int, gateways: tuple[str, ...]) -> Record:
        """Move the pod's default routes to the interface; what has to go is in the journal before it goes."""
        displaced = self._kernel.default_routes(fd, gateways)
        record = replace(record, displaced=displaced)
        self._journal.update(record, durable=False)
        self._kernel.replace_default_routes(fd, record.key.ifname, gateways)
        return record

    def _undo(self, record: Record) -> None:
        try:
            self.detach(record)
        except NotReady as problem:
            log.warning("%s: undoing the failed ADD failed, will be retried: %s", record.key, problem)

    def _with_leftover(self, record: Record, fd: int) -> Record:
        """A link that an unfinished ADD left is that ADD's: its name was free before (plan), so it may go by index."""
        link = None if record.ifindex else self._kernel.pod_link(fd, record.key.ifname)
        return record if link is None else replace(record, ifindex=link.index)

    def _is_ours(self, record: Record, fd: int) -> bool:
        """Whether plugins may act on what bears the interface's name in the pod: they delete by name.

        A link of ours that was renamed gets its name back; what has taken the name meanwhile is not touched.
        """
        named = self._kernel.pod_link(fd, record.key.ifname)
        if not record.ifindex or (named is not None and named.index == record.ifindex):
            return True
        if named is not None:
            return False
        if (renamed := self._kernel.pod_link_at(fd, record.ifindex)) is not None:
            self._kernel.rename_in_pod(fd, renamed, record.key.ifname)
        return True

    def _clear(self, record: Record, fd: int) -> None:
        """After the DEL: a link that survived it goes, if it is the one that the ADD made; old routes come back.

        One that was not made but moved into the pod (its device has saved how it was) is never deleted.
        """
        link = self._kernel.pod_link_at(fd, record.ifindex) if record.ifindex else None
        if link is not None and not record.saved:
            self._kernel.delete_in_pod(fd, link)
        for route in record.displaced:
            self._kernel.restore_default_route(fd, route)

    def _network(self, wanted: Wanted) -> network.NetworkList:
        selection = wanted.selection
        try:
            text = wanted.config or confdir.find(self._settings.conf_dirs, selection.name)
            return network.parse(text, selection.name)
        except errors.CNIError as problem:
            raise NotReady("InvalidNetwork", f"network {selection.network}: {problem}") from None

    def call(self, record: Record, *, alive: bool = True) -> chain.Call:
        """Return what all plugins of an attachment get."""
        return chain.Call(
            container_id=record.key.container_id,
            netns=record.namespace.path if alive else "",
            ifname=record.key.ifname,
            args=record.args,
            runtime=record.runtime,
            cni_args=record.cni_args,
            device_id=record.device_id,
            path=tuple(str(directory) for directory in self._settings.bin_dirs),
            deadline_s=self._settings.deadline_s,
        )

    def _plugin(
        self,
        plugin_type: str,
        command: str,
        env: Mapping[str, str],
        config: Mapping[str, Any],
        deadline_s: float,
    ) -> Mapping[str, Any] | None:
        if plugin_type == TYPE:
            return self._native(command, env, config, deadline_s)
        return self._execute(plugin_type, command, env, config, deadline_s)


def _executed(net: network.NetworkList) -> tuple[str, ...]:
    """Return the types of all that an ADD executes, as far as the network says: plugins, and who gives addresses."""
    ipams = (plugin.get("ipam") for plugin in net.plugins)
    named = (ipam.get("type") for ipam in ipams if isinstance(ipam, Mapping))
    types = (plugin["type"] for plugin in net.plugins if plugin["type"] != TYPE)
    return (*types, *(one for one in named if isinstance(one, str) and one))


def outlives_reboot(net: network.NetworkList) -> bool:
    """Whether an attachment to this network leaves something behind when the power goes (journal rule 2)."""
    return any(plugin.get("type") != TYPE or devices.outlives_reboot(plugin) for plugin in net.plugins)


def _new_record(pod: Pod, sandbox: Sandbox, step: Attach, net: network.NetworkList) -> Record:
    wanted = step.wanted
    return Record(
        key=Key(sandbox.id, step.ifname),
        origin=Origin.ANNOTATION,
        phase=Phase.ADDING,
        network=wanted.selection.network,
        element=element(wanted),
        config=net.raw,
        namespace=sandbox.namespace,
        pod=pod,
        args=chain.kubernetes_args(pod.namespace, pod.name, pod.uid, sandbox.id, wanted.selection),
        runtime=multinet.capability_args(wanted.selection),
        cni_args=wanted.selection.cni_args,
        device_id=wanted.selection.device_id,
        nad_uid=wanted.nad_uid,
        nad_resource_version=wanted.nad_resource_version,
    )


def not_ready(problem: errors.CNIError | OSError) -> NotReady:
    if isinstance(problem, errors.CNIError):
        return NotReady(REASONS.get(problem.code, "PluginFailed"), str(problem))
    return NotReady("NodeError", str(problem))


REASONS: Mapping[int, str] = {
    errors.Code.TRY_AGAIN: "TryAgainLater",
    errors.Code.INVALID_NETNS: "SandboxGone",
    errors.Code.INVALID_CONFIG: "InvalidConfiguration",
    errors.Code.DECODE_FAILURE: "InvalidConfiguration",
    errors.Code.UNSUPPORTED_FIELD: "InvalidConfiguration",
    errors.Code.INCOMPATIBLE_VERSION: "IncompatibleVersion",
}


def adopted(base: Record, asked_element: str, pod: Pod, ifindex: int) -> Record:
    """Return the record of an attachment that a runtime made and an annotation asked for."""
    wish = json.loads(asked_element)
    return replace(
        base,
        origin=Origin.ADOPTED,
        element=asked_element,
        network=f"{wish['namespace']}/{wish['name']}",
        pod=pod,
        ifindex=ifindex,
    )
