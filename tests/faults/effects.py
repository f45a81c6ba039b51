"""The effect functions: all that have primitives (tests.faults.primitives), what each of them fails with, by when it
ends, and the stories that hit it at each of its calls (tests.faults.stories).

Rules
1. `error` is what the real thing raises where the function is called, or returns where the function itself takes care.
2. `deadline` is the name of the bound and the function that keeps it, which is looked up in the code; or the reason why
   there is nothing to wait for, in words.
3. A function that no story hits says why, and where else it is tried.
"""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from agent import cri, ovsdb, rtnl
from agent.guests.qmp import Refusal
from agent.model import NotReady
from cni import errors
from controller.reconcile import Conflict
from controller.workers import Unavailable

START, HOTPLUG, GUEST, CONTROLLER, EXECUTABLE = "start", "hotplug", "guest", "controller", "executable"
SWITCH, AUDIT, RELAY, PLUGINS, COLLECT, DAMAGE, DOMAIN = (
    "switch", "audit", "relay", "plugins", "collect", "damage", "domain",
)  # fmt: skip
STORIES = (
    START, HOTPLUG, GUEST, CONTROLLER, EXECUTABLE, SWITCH, AUDIT, RELAY, PLUGINS, COLLECT, DAMAGE, DOMAIN,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What the function returns instead, and does nothing."""

    value: Any


Fault = Callable[[], BaseException] | Answer


def _os(number: int) -> Fault:
    return lambda: OSError(number, os.strerror(number))


FULL, BROKEN, NO_FILES, BUSY, INTERRUPTED = map(_os, (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EBUSY, errno.EINTR))
NO_PROCESSES = _os(errno.EAGAIN)
RESET = _os(errno.ECONNRESET)
LATE = lambda: TimeoutError(errno.ETIMEDOUT, "timed out")  # noqa: E731 as its neighbours


@dataclass(frozen=True, slots=True)
class Bound:
    """A deadline: the name of its number, and the function that keeps it."""

    where: str
    name: str


@dataclass(frozen=True, slots=True)
class Effect:
    error: Fault
    deadline: Bound | str
    stories: tuple[str, ...]
    besides: str = ""  # rule 3


DISK = "a local file system: a disk that hangs holds who uses it, and nothing could wake them"
MEMORY = "the kernel answers from its memory"
NODE = "/proc and /sys are the kernel's memory"
AWAITS = "it waits for work, in a thread of its own"

_KERNEL = Bound("agent.rtnl:Socket.__init__", "TIMEOUT_S")
_PLUGIN = Bound("agent.delegate:Executor.run", "deadline_s")
_KILL = Bound("agent.descendants:kill", "_KILL_S")
_CRI = Bound("agent.cri:Runtime.__init__", "DEADLINE_S")
_CALL = Bound("agent.cni_connection:serve", "READ_S")
_ANSWER = Bound("agent.cni_connection:_deliver", "WRITE_S")
_OVS = Bound("agent.ovsdb:_Database.__init__", "DEADLINE_S")
_QMP = Bound("agent.guests.qemu:connect", "CALL_S")
_AGENT = Bound("agent.guests.guest_agent:GuestAgent.interface", "ANSWER_S")
_REACH = Bound("agent.guests.reach:connect", "deadline")
_LIBVIRT = Bound("agent.guests.libvirt:Domain._bounded", "_LIMIT_S")
_LINE = Bound("agent.guests.line:Line._patience", "_STALL_S")
_API = Bound("controller.kube:Kube._request", "CONNECT_S")
_WATCH = Bound("controller.kube:Kube.watch", "WATCH_S")
_GRPC = Bound("controller.agents:Agents._send", "DEADLINE_S")
_EXECUTABLE = Bound("cni.forward:run", "DEADLINE")
_FLOCK = Bound("agent.journal:_own", "patience_s")

_HARDWARE_TRIED = "takes a card: tests/agent/test_host_device_kernel.py, test_virtual_function_kernel.py, killed there"
_DOCTOR_TRIED = "the command `hotnic-agent doctor`: tests/agent/test_doctor.py, test_doctor_kernel.py"
_EVENTS_TRIED = "events of the kernel: tests/agent/test_watch_kernel.py, test_drift_kernel.py"
_STANDALONE_TRIED = "the agent without a daemon: killed at each system call by tests/agent/test_killed_kernel.py"
_INSTALL_TRIED = "killed at each step, without room, removed and replaced by others: tests/agent/test_install.py"
_UNINSTALL_TRIED = (
    "the command `hotnic-agent uninstall`, which goes on where it stopped: tests/agent/test_uninstall.py, e2e"
)
_SERVER_TRIED = (
    "once, before anything is done: a failure ends the process with its reason (tests/agent/test_standalone)"
)


def _all(names: str, error: Fault, deadline: Bound | str, *stories: str, besides: str = "") -> Mapping[str, Effect]:
    return {name: Effect(error, deadline, stories, besides) for name in names.split()}


def _kernel_busy() -> BaseException:
    return rtnl.KernelError(errno.ENOBUFS, "no room")


def _short_of_files() -> BaseException:
    return errors.CNIError(errors.Code.TRY_AGAIN, "the node is short of something", "Too many open files")


def _namespace_gone() -> BaseException:
    return errors.CNIError(errors.Code.INTERNAL, "interface is gone")


def _unreachable() -> BaseException:
    return NotReady("VMUnreachable", "the virtual machine's monitor is gone")


def _no_switch() -> BaseException:
    return ovsdb.Unreachable("no Open vSwitch answers")


def _runtime_away() -> BaseException:
    return cri.RuntimeUnavailable("UNAVAILABLE: connection refused")


class _Unavailable(grpc.RpcError):
    """What a call of gRPC raises."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "connection refused"


def _agent_away() -> BaseException:
    return Unavailable("agent: UNAVAILABLE: connection refused")


def _server_error() -> BaseException:
    return Unavailable("API server: 500")


EFFECTS: Mapping[str, Effect] = {
    # the journal, and what else is on the agent's disk
    **_all("agent.files:replace agent.journal:Journal._remove_file agent.journal:Journal.forget", FULL, DISK, HOTPLUG,
           GUEST),
    **_all("agent.files:sync_directory", BROKEN, DISK, HOTPLUG),
    **_all("agent.files:set_aside", Answer(None), DISK, DAMAGE),
    **_all("agent.journal:Journal.damaged", BROKEN, DISK, besides="asked by metrics, and before an uninstall, only"),
    **_all("agent.files:read agent.peers:Peers._read", BROKEN, DISK, START),
    **_all("agent.journal:Journal.__init__ agent.files:listed", BROKEN, DISK, START),
    **_all("agent.formats:read", BROKEN, DISK, START),
    **_all("agent.journal:Journal._load agent.__main__:Agent.__init__", BROKEN, DISK, START),
    **_all("agent.journal:_own agent.journal:_locked", INTERRUPTED, _FLOCK, START),
    **_all("agent.cache:_read_directory agent.confdir:_files", Answer(()), DISK, HOTPLUG),
    **_all("agent.confdir:_read", Answer(None), DISK, HOTPLUG),
    **_all("agent.__main__:_policy controller.__main__:_policy", BROKEN, DISK, besides=_SERVER_TRIED),
    # the kernel
    **_all("agent.rtnl:Socket._answers agent.rtnl:Socket.__init__", _kernel_busy, _KERNEL, HOTPLUG),
    **_all("agent.netlink:Kernel._node agent.netns:netlink_socket", _short_of_files, MEMORY, HOTPLUG),
    **_all("agent.netns:View.opened agent.netns:own", _short_of_files, MEMORY, HOTPLUG),
    **_all("agent.netns:View.still_there", Answer(value=False), MEMORY, HOTPLUG),
    **_all("agent.netns:identify agent.netns:is_namespace agent.netns:is_own agent.netns:_cookie", BROKEN, MEMORY,
           HOTPLUG),
    **_all("agent.netns:_setns", _os(errno.EPERM), MEMORY, HOTPLUG),
    **_all("agent.netns:_boot", BROKEN, NODE, START),
    **_all("agent.apply:_index_here", _namespace_gone, MEMORY, HOTPLUG),
    **_all("agent.apply:_write agent.layer3:_enable_ipv6", BROKEN, NODE, PLUGINS),
    **_all("agent.apply:_read_sysctl", Answer(None), NODE, PLUGINS),
    **_all("agent.vlans:supported", _kernel_busy, _KERNEL,
           besides="bridges with VLANs: tests/agent/test_bridge_kernel.py"),
    **_all("agent.tap:create agent.tap:_attach", BUSY, MEMORY, GUEST),
    **_all("agent.tap:_opened agent.tap:opened agent.tap:_refuse_new", NO_FILES, MEMORY, GUEST),
    **_all("agent.tap:what_is_in_the_way", Answer("/dev/net/tun is not there"), MEMORY, GUEST),
    **_all(
        "agent.sysfs:_identity agent.sysfs:_number agent.sysfs:_target agent.sysfs:_with_children agent.sysfs:at",
        BROKEN, NODE, besides=_HARDWARE_TRIED,
    ),
    **_all("agent.watch:Watch.__init__ agent.watch:Watch._listens_to_all", NO_FILES, MEMORY, START),
    **_all("agent.watch:Watch.wait agent.watch:Watch.wake", INTERRUPTED, AWAITS, besides=_EVENTS_TRIED),
    **_all("agent.watch:Watch.read", BROKEN, "its socket does not block", besides=_EVENTS_TRIED),
    **_all("agent.switchwatch:Switches.__init__", NO_FILES, MEMORY, START),
    **_all(
        "agent.switchwatch:Switches._wait agent.switchwatch:Switches.close agent.switchwatch:Switches.follow",
        BROKEN, AWAITS, besides="a database that is away, ends or talks nonsense: tests/agent/test_switchwatch.py",
    ),
    **_all("agent.hostend:_named", BROKEN, NODE, besides="a host end that was moved: tests/agent/test_drift_kernel.py"),
    # plugins
    **_all("agent.delegate:Executor._launch", NO_PROCESSES, _PLUGIN, HOTPLUG),
    **_all("agent.delegate:Executor._found", BROKEN, DISK, HOTPLUG),
    **_all("agent.delegate:_file agent.descendants:opened", NO_FILES, MEMORY, HOTPLUG),
    **_all("agent.delegate:_read_until_exit agent.delegate:_take", INTERRUPTED, _PLUGIN, HOTPLUG),
    **_all("agent.delegate:_killed", INTERRUPTED, _KILL,
           besides="a plugin at its deadline: tests/agent/test_delegate.py"),
    **_all("agent.descendants:marking", Answer(None), MEMORY, besides="sets a number of this thread: cannot fail"),
    **_all("agent.delegate:below agent.delegate:_unshare_root", _os(errno.EPERM), MEMORY,
           besides="with --host-root only: tests/agent/test_delegate.py, e2e"),
    **_all("agent.descendants:_read", Answer(b""), NODE, HOTPLUG),
    **_all("agent.descendants:_processes agent.descendants:become_subreaper", BROKEN, NODE, START),
    **_all("agent.descendants:_kill", NO_FILES, _KILL, PLUGINS),
    **_all("agent.descendants:_pid_namespace", Answer(0), NODE, PLUGINS),
    **_all("agent.descendants:_reaped", Answer(value=False), MEMORY, PLUGINS),
    **_all("agent.descendants:_wait_for_any", Answer(None), Bound("agent.descendants:_wait_for_any", "_WATCH_S"),
           PLUGINS),
    # files of ours on the node
    **_all(
        "agent.installer:Keeper.__init__ agent.installer:Keeper.lost agent.installer:Keeper._is_another"
        " agent.installer:Keeper._named agent.installer:_sweep agent.installer:_write"
        " agent.installer:found agent.installer:run agent.installer:signature",
        FULL, DISK, besides=_INSTALL_TRIED,
    ),
    **_all(
        "agent.uninstaller:Node.open agent.uninstaller:Node._detach agent.uninstaller:Node._remove"
        " agent.uninstaller:Node._remove_executable agent.uninstaller:Node._look agent.uninstaller:_remove_file"
        " agent.uninstaller:_remove_tree agent.uninstaller:_try agent.uninstaller:run agent.confdir:survey",
        BROKEN, DISK, besides=_UNINSTALL_TRIED,
    ),
    # audits
    **_all(
        "agent.audit.look:Node._namespaces agent.audit.look:_used_namespaces agent.audit.look:_cgroups"
        " agent.audit.look:Node.look agent.audit.look:Node._ports agent.audit.look:_files"
        " agent.audit.look:is_namespace agent.audit.look:_is_ordinary agent.audit.mend:_is_fresh"
        " agent.audit.mend:Mender._delete agent.audit.mend:Mender._remove_file agent.audit.mend:_release"
        " agent.audit.look:_lease agent.audit.mend:_remove_namespace agent.audit.command:_tell",
        BROKEN, DISK, AUDIT,
    ),
    **_all("agent.audit.command:_is_there", BROKEN, DISK,
           besides="where something was made anew between two looks: tests/agent/test_audit_repair.py"),
    **_all("agent.audit.look:_age", Answer(0.0), DISK, AUDIT),
    **_all("agent.audit.mend:_held agent.audit.mend:_locked", BUSY, Bound("agent.audit.mend:_held", "_LOCK_S"), AUDIT),
    **_all("agent.audit.nft:_opened agent.audit.nft:_transact", BUSY, Bound("agent.audit.nft:_transact", "TIMEOUT_S"),
           AUDIT),
    **_all("agent.cache:survey", Answer(((), {Path("/cache"): "Input/output error"})), DISK, AUDIT, COLLECT),
    **_all("agent.collect:Collector._may_live agent.collect:Collector._born", BROKEN, DISK, COLLECT),
    **_all(
        "agent.doctor.command:run agent.doctor.kernel:_not_loaded agent.doctor.kernel:_features"
        " agent.doctor.look:_read agent.doctor.look:_executables agent.doctor.look:_version"
        " agent.doctor.look:_folder_of_executable agent.doctor.cover:look"
        " agent.doctor.look:_policy_problem agent.doctor.look:_runtime"
        " agent.doctor.statedir:look",
        BROKEN, DISK, besides=_DOCTOR_TRIED,
    ),
    **_all("agent.doctor.door:ask", _Unavailable, Bound("agent.doctor.door:ask", "DEADLINE_S"), besides=_DOCTOR_TRIED),
    **_all("agent.doctor.door:_server", NO_FILES, Bound("agent.doctor.door:_server", "DEADLINE_S"),
           besides=_DOCTOR_TRIED),
    **_all("agent.doctor.door:arguments agent.doctor.door:_has_our_mounts", BROKEN, MEMORY, besides=_DOCTOR_TRIED),
    **_all("agent.cri:Runtime.version agent.cri:Runtime.running agent.cri:Runtime.tag", _runtime_away, _CRI,
           besides=_DOCTOR_TRIED),
    # the container runtime
    **_all("agent.cri:Runtime.sandboxes agent.cri:Runtime.netns", _runtime_away, _CRI, HOTPLUG),
    **_all("agent.cri:Runtime.containers agent.cri:Runtime.process", _runtime_away, _CRI, GUEST),
    **_all("agent.cri:Runtime.__init__", BROKEN, "it dials when it is first asked", besides=_SERVER_TRIED),
    # doors of the agent
    **_all("agent.cni_server:Server.__init__ agent.cni_server:listen agent.grpc_server:serve", BROKEN, DISK, START),
    **_all("agent.cni_server:Server._accept", NO_FILES, AWAITS, besides="threads that never end: test_cni_calls.py"),
    **_all("agent.cni_server:Server._found agent.cni_server:Server._remove_unfinished", BROKEN, DISK,
           besides="every few seconds, whatever happens; stories `executable` and test_cni_calls.py see what it does"),
    **_all("agent.cni_server:Server._replay_one", Answer(None), DISK, EXECUTABLE),
    **_all("agent.cni_connection:refuse_strangers", RESET, MEMORY, EXECUTABLE),
    **_all("agent.cni_connection:hung_up", Answer(value=True), MEMORY, EXECUTABLE),
    **_all("agent.cni_connection:_deliver", Answer(None), _ANSWER,
           besides="hung_up is right before it, and fails for it"),
    **_all("agent.metrics:serve", BROKEN, Bound("agent.metrics:serve", "CALLER_S"), besides=_SERVER_TRIED),
    **_all("controller.metrics:_Server.__init__ controller.metrics:_Server.server_bind", BROKEN, MEMORY,
           besides="tests/controller/test_metrics.py"),
    **_all("controller.metrics:serve", BROKEN, Bound("controller.metrics:serve", "CALLER_S"), besides=_SERVER_TRIED),
    **_all("agent.standalone:main", BROKEN, _EXECUTABLE, besides=_STANDALONE_TRIED),
    # virtual machines
    **_all("agent.guests.containers:Containers.root agent.guests.containers:Containers._refuse_stranger", _unreachable,
           NODE, GUEST),
    **_all("agent.guests.reach:connect agent.guests.reach:_mount", _unreachable, _REACH, GUEST),
    **_all("agent.guests.reach:_connected agent.guests.reach:_opened agent.guests.reach:_stream", RESET, _REACH, GUEST),
    **_all("agent.guests.reach:peer", BROKEN, MEMORY, DOMAIN),
    **_all("agent.guests.libvirt:_loaded", _unreachable, DISK, DOMAIN),
    **_all("agent.guests.messages:Lines._more agent.guests.messages:Lines.send", _unreachable, _QMP, GUEST),
    **_all("agent.guests.qmp:Monitor.execute", lambda: Refusal("GenericError", "no"), _QMP, GUEST),
    **_all("agent.guests.guest_agent:GuestAgent._ask agent.guests.guest_agent:GuestAgent._open", _unreachable, _AGENT,
           GUEST),
    **_all(
        "agent.guests.libvirt:Domain.__init__ agent.guests.libvirt:Domain._attach"
        " agent.guests.libvirt:Domain._condition"
        " agent.guests.libvirt:Domain._described agent.guests.libvirt:Domain._detach"
        " agent.guests.libvirt:Domain._domain agent.guests.libvirt:Domain._job"
        " agent.guests.libvirt:Domain._subscribe",
        _unreachable, _LIBVIRT, DOMAIN,
    ),
    **_all("agent.guests.libvirt:Domain._ask", Answer(None), _LIBVIRT, DOMAIN),
    **_all("agent.guests.libvirt:Domain._sent", Answer(0), _LIBVIRT,
           besides="guests whose agent does not answer: tests/agent/guests/test_libvirt.py"),
    **_all("agent.guests.libvirt:Domain.close", _unreachable, _LIBVIRT, DOMAIN),
    **_all("agent.guests.libvirt:_hear", BROKEN, AWAITS,
           besides="a thread that never ends, and takes what fails: tests/agent/guests/test_libvirt.py"),
    **_all("agent.guests.line:Line.__init__ agent.guests.line:Line._accepted", NO_FILES, MEMORY, DOMAIN),
    **_all("agent.guests.line:Line._pass_on", RESET, _LINE, DOMAIN),
    # Open vSwitch
    **_all("agent.switchwatch:_connected agent.switchwatch:_Monitor.read", BROKEN, "its socket does not block",
           SWITCH),
    **_all("agent.switchwatch:_Monitor._say", BROKEN, "its socket does not block",
           besides="a database that asks whether we live: tests/agent/test_switchwatch.py"),
    **_all("agent.ovsdb:_Database.__exit__", BROKEN, _OVS, SWITCH),
    **_all("agent.ovsdb:_Database._ask agent.ovsdb:_Database._receive agent.ovsdb:_connect", _no_switch, _OVS, SWITCH),
    **_all("agent.ovsdb:_Bounded.recv", Answer((errno.ECONNRESET, b"")), _OVS, SWITCH),
    **_all("agent.ovsdb:_links", _short_of_files, MEMORY, SWITCH),
    # the controller
    **_all("controller.kube:Kube._request", _server_error, _API, CONTROLLER, RELAY),
    **_all("controller.kube:_chunks", _server_error, _WATCH, CONTROLLER, RELAY),
    **_all("controller.kube:configuration controller.cluster:_own_namespace", BROKEN, DISK, besides=_SERVER_TRIED),
    **_all(
        "controller.kubevirt:Leases.write_lease controller.kubevirt:Machines.patch_machine"
        " controller.kubevirt:Machines.tell_of",
        lambda: Conflict("409"), _API, RELAY,
    ),
    **_all("controller.agents:Agents.apply controller.agents:Agents.end", _agent_away, _GRPC, CONTROLLER),
    **_all("controller.agents:Agents.set_underlay", _agent_away, _GRPC, CONTROLLER),
    **_all("controller.agents:Agents._stream", _Unavailable, AWAITS, CONTROLLER),
    **_all("controller.agents:Agents.__init__", BROKEN, "it dials when it is first asked", besides=_SERVER_TRIED),
    # the executable
    **_all("cni.forward:connect", RESET, _EXECUTABLE, EXECUTABLE),
    **_all("cni.forward:bury cni.forward:check_private", FULL, _EXECUTABLE, EXECUTABLE),
    **_all("cni.forward:make", FULL, _EXECUTABLE, besides="in /run/hotnic only: tests/cni/test_forward.py"),
    **_all("cni.forward:open_netns", Answer(None), _EXECUTABLE, EXECUTABLE),
    **_all("cni.forward:read_stdin cni.forward:write", BROKEN, _EXECUTABLE, EXECUTABLE),
    **_all("cni.forward:occupy_standard_descriptors", NO_FILES, _EXECUTABLE, EXECUTABLE),
    **_all(
        "cni.forward:become cni.forward:is_executable cni.forward:part cni.forward:start", NO_PROCESSES, _EXECUTABLE,
        besides=_STANDALONE_TRIED,
    ),
    **_all("cni.wire:send_request cni.wire:receive cni.wire:receive_words", RESET, _EXECUTABLE, EXECUTABLE),
    **_all("cni.wire:_receive", RESET, _CALL, EXECUTABLE),
}  # fmt: skip
