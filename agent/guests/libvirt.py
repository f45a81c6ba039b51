"""A virtual machine of a libvirt daemon in a pod, by libvirt's own binding (extra `libvirt` of this package).

Rules
1. The binding is loaded when the first machine needs it, and may be missing: then no such machine can be reached.
2. libvirt's calls have no limit of their own, and its daemon is the pod's. So libvirt talks over a line that is cut
   when the time is up (agent.guests.line), and its call returns in this thread. Nothing hangs, no thread is left over.
3. What came of a call is read from the domain's XML. libvirt's word is not enough: of a paused guest it says that a
   NIC is detached, after 5 s, and the NIC is there. So the asynchronous call is made (DetachDeviceAlias), once.
4. A domain that has a job is not asked: libvirt would block for 30 s, and refuse then.
5. Evidence is the guest agent's list. Where none answers it is that the guest has sent a frame through the tap,
   which takes a driver. QEMU's monitor, which could tell that a driver is bound, is libvirt's: a command to it taints
   the domain. Not told apart: frames of the guest's life before, where the tap is older than the NIC in it, and those
   that QEMU sends for it when it arrives from elsewhere.
6. A persistent domain gets the NIC for its next start too, and loses it there too, also while it is shut off: it would
   not start without the tap.
7. An agent that does not answer holds libvirt for seconds, so a thread asks it, which ends with the line. It is asked
   again when libvirt tells of the agent, or when it has answered late.
"""

from __future__ import annotations

import functools
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.guests import domain_xml, guest_agent, reach, wish
from agent.guests.contract import CALL_S, Nic, Running, Seen, Stage
from agent.guests.line import Line
from agent.model import NotReady
from cni import jsontext

_LAST_S = 0.5
_LIMIT_S = CALL_S - _LAST_S  # what is left is ours
_AGENT_S = 1  # the least that libvirt takes, but for the 5 s of its own question, whether the agent is in step
_SOON_S = 1.5
_FAILED_S = 1.0  # between two turns of libvirt's event loop, when it fails
_SENT = 4  # of what interfaceStats returns: packets that the guest has sent
_loading = threading.Lock()
log = logging.getLogger(__name__)
_LISTED = '{"execute": "guest-network-get-interfaces"}'


def connect(root: Path, asked: wish.Libvirt) -> Domain:
    """Return the domain of the daemon in the container whose root is at `root` (agent.guests.reach).

    Raises NotReady(VMUnreachable).
    """
    _binding()
    deadline = time.monotonic() + CALL_S
    daemon = reach.connect(root, asked.socket, deadline)
    kinds = ("system", "session") if reach.peer(daemon)[1] == 0 else ("session", "system")
    try:
        return Domain(daemon, asked.domain, kinds[0], deadline)
    except NotReady:
        if time.monotonic() > deadline - _LAST_S:
            raise
        with suppress(NotReady):  # who is root in a container with users of its own is another user here
            return Domain(reach.connect(root, asked.socket, deadline), asked.domain, kinds[1], deadline)
        raise


class Domain:
    """A connection to one domain; the contract says what its methods do (agent.guests.contract)."""

    def __init__(self, daemon: socket.socket, name: str, kind: str, deadline: float) -> None:
        """Take over the daemon's connected socket. `kind`: "system" for root's daemon, "session" for a user's."""
        self._libvirt, self._qemu = _binding()
        self._name = name
        _, self._uid, self._gid = reach.peer(daemon)
        self._changed = threading.Event()
        self._asked: set[str] = set()  # NICs that the guest was asked to let go
        self._is_agent_silent = False
        self._asking: threading.Thread | None = None  # the guest agent
        self._callbacks: list[int] = []
        self._line = Line(daemon, self._changed.set)
        try:
            with self._bounded(deadline - time.monotonic()):
                self._connection = self._libvirt.open(f"qemu+unix:///{kind}?socket={self._line.name}")
        except BaseException:
            self._line.cut()
            raise

    def tap_owner(self) -> tuple[int, int] | None:
        """The daemon itself opens the tap, and passes it on to QEMU."""
        return self._uid, self._gid

    def look(self, nic: Nic) -> Seen:
        with self._bounded():
            domain, alias = self._domain(), domain_xml.alias(nic)
            if domain is None:
                return Seen(Stage.ABSENT, Running.STOPPED)
            running, _ = self._condition(domain)
            seen = self._described(domain)
            if alias not in seen.nics:
                self._asked.discard(alias)
                return Seen(Stage.ABSENT, running)
            found = Seen(Stage.PLUGGED, running, alias in self._asked, seen.nics[alias])
            return found if running is not Running.RUNNING else self._with_evidence(found, domain, nic, seen)

    def plug(self, nic: Nic, opened_tap: Callable[[], int]) -> None:  # noqa: ARG002 the daemon opens it by its name
        with self._bounded():
            domain, alias = self._changeable(), domain_xml.alias(nic)
            if not domain.isActive():
                raise NotReady("VMRefused", f"domain {self._name} is shut off")
            seen, flags = self._described(domain), 0
            if alias not in seen.nics:
                flags |= self._libvirt.VIR_DOMAIN_AFFECT_LIVE
            if domain.isPersistent() and alias not in self._described(domain, is_next=True).nics:
                flags |= self._libvirt.VIR_DOMAIN_AFFECT_CONFIG
            if flags:
                bus = domain_xml.bus_of(seen, nic) if flags & self._libvirt.VIR_DOMAIN_AFFECT_LIVE else None
                self._attach(domain, nic, domain_xml.interface(nic, bus), flags)

    def unplug(self, nic: Nic) -> None:
        with self._bounded():
            if self._domain() is None:
                return
            domain, alias, flags = self._changeable(), domain_xml.alias(nic), 0
            if domain.isActive() and alias not in self._asked and alias in self._described(domain).nics:
                flags |= self._libvirt.VIR_DOMAIN_AFFECT_LIVE
            if domain.isPersistent() and alias in self._described(domain, is_next=True).nics:
                flags |= self._libvirt.VIR_DOMAIN_AFFECT_CONFIG
            if flags:
                self._detach(domain, alias, flags)

    def wait(self, seconds: float) -> None:
        """The first call subscribes to the events, and returns at once: what came before has not been told."""
        if not self._callbacks:
            with self._bounded():
                self._subscribe()
            return
        self._changed.wait(seconds)
        self._changed.clear()

    def close(self) -> None:
        """Let go of everything, also where the line is cut: libvirt keeps a connection that has callbacks."""
        failed = self._libvirt.libvirtError
        with self._line.within(_LIMIT_S):
            for callback in self._callbacks:
                with suppress(failed):
                    self._connection.domainEventDeregisterAny(callback)
            with suppress(failed):
                self._connection.close()
        self._line.cut()

    # -- the connection ---------------------------------------------------------------------------------------------

    @contextmanager
    def _bounded(self, seconds: float = _LIMIT_S) -> Iterator[None]:
        """Give libvirt its time, and say its errors in the contract's words."""
        if self._line.is_cut:
            raise _unreachable("the connection is broken")
        try:
            with self._line.within(seconds):
                yield
        except self._libvirt.libvirtError as problem:
            raise self._translated(problem) from None

    def _translated(self, problem: Any) -> NotReady:
        said = str(problem.get_error_message())[:300]
        if self._line.is_cut or problem.get_error_domain() == self._libvirt.VIR_FROM_RPC:
            return _unreachable(f"it does not answer, or hung up: {said}")
        if problem.get_error_code() == self._libvirt.VIR_ERR_OPERATION_TIMEOUT and "Migrat" in said:
            return _migrating()
        return NotReady("VMRefused", f"libvirt: {said}")

    def _subscribe(self) -> None:
        events = self._libvirt
        register = self._connection.domainEventRegisterAny
        for kind in (
            events.VIR_DOMAIN_EVENT_ID_LIFECYCLE, events.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
            events.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, events.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
        ):  # fmt: skip
            self._callbacks.append(register(None, kind, lambda *_: self._changed.set(), None))
        failed, agent = events.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, events.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE
        self._callbacks.append(register(None, failed, self._was_kept, None))
        self._callbacks.append(register(None, agent, self._agent_changed, None))

    def _was_kept(self, _connection: Any, _domain: Any, alias: str, _opaque: Any) -> None:
        self._asked.discard(alias)
        self._changed.set()

    def _agent_changed(self, *_: Any) -> None:
        self._is_agent_silent = False
        self._changed.set()

    # -- the domain -------------------------------------------------------------------------------------------------

    def _domain(self) -> Any | None:
        try:
            return self._connection.lookupByName(self._name)
        except self._libvirt.libvirtError as problem:
            if problem.get_error_code() == self._libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _condition(self, domain: Any) -> tuple[Running, int]:
        """Return what the domain does, and the kind of its job; 0: none."""
        lib = self._libvirt
        state, reason = domain.state()
        if state in (lib.VIR_DOMAIN_SHUTOFF, lib.VIR_DOMAIN_SHUTDOWN, lib.VIR_DOMAIN_CRASHED):
            is_gone = (state, reason) == (lib.VIR_DOMAIN_SHUTOFF, lib.VIR_DOMAIN_SHUTOFF_MIGRATED)
            return (Running.MIGRATED if is_gone else Running.STOPPED), 0
        job = self._job(domain)
        if job == lib.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
            return Running.MIGRATING, job
        if job == lib.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
            return Running.INCOMING, job
        return (Running.PAUSED if state == lib.VIR_DOMAIN_PAUSED else Running.RUNNING), job

    def _job(self, domain: Any) -> int:
        try:
            return int(domain.jobStats().get("operation", 0))
        except self._libvirt.libvirtError as problem:
            if problem.get_error_code() == self._libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
                return int(self._libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN)  # the source only has statistics of it
            raise

    def _changeable(self) -> Any:
        """Return the domain, if it can be changed now (rule 4)."""
        domain = self._domain()
        if domain is None:
            raise _unreachable(f"the daemon has no domain {self._name}")
        running, job = self._condition(domain)
        if running in (Running.MIGRATING, Running.INCOMING):
            raise _migrating()
        if job:
            raise NotReady("VMRefused", f"domain {self._name} has a job that nothing may interrupt (kind {job})")
        return domain

    def _described(self, domain: Any, *, is_next: bool = False) -> domain_xml.Domain:
        """Return the domain as it is, or (`is_next`) as it will be at its next start."""
        try:
            return domain_xml.read(domain.XMLDesc(self._libvirt.VIR_DOMAIN_XML_INACTIVE if is_next else 0))
        except ValueError as problem:
            raise NotReady("VMRefused", f"libvirt describes the domain with no XML: {problem}") from None

    def _attach(self, domain: Any, nic: Nic, xml: str, flags: int) -> None:
        try:
            domain.attachDeviceFlags(xml, flags)
        except self._libvirt.libvirtError:
            if self._line.is_cut or domain_xml.alias(nic) not in self._described(domain).nics:
                raise  # else somebody was quicker: it is there

    def _detach(self, domain: Any, alias: str, flags: int) -> None:
        try:
            domain.detachDeviceAlias(alias, flags)
        except self._libvirt.libvirtError as problem:
            if problem.get_error_code() != self._libvirt.VIR_ERR_DEVICE_MISSING:
                raise
        self._asked.add(alias)

    # -- evidence ---------------------------------------------------------------------------------------------------

    def _with_evidence(self, found: Seen, domain: Any, nic: Nic, seen: domain_xml.Domain) -> Seen:
        listed = self._listed(domain) if seen.has_agent and not self._is_agent_silent else None
        if one := guest_agent.find(listed, nic.mac):
            found = replace(found, guest_name=one.name, addresses=one.addresses)
            return replace(found, stage=Stage.VISIBLE, evidence="guest agent")
        tap = seen.taps[domain_xml.alias(nic)]
        if (not seen.has_agent or self._is_agent_silent) and self._sent(domain, tap) > 0:
            return replace(found, stage=Stage.VISIBLE, evidence="driver")
        return found

    def _sent(self, domain: Any, tap: str) -> int:
        """Return how many packets the guest has sent; none through a NIC that has just gone."""
        try:
            return int(domain.interfaceStats(tap)[_SENT])
        except self._libvirt.libvirtError:
            if self._line.is_cut:
                raise
            return 0

    def _listed(self, domain: Any) -> Any:
        """Return what the guest agent lists; None where it does not answer soon (rule 7)."""
        if self._asking is not None and self._asking.is_alive():
            return None
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asking = threading.Thread(target=self._ask, args=(domain, answer), name="guest agent", daemon=True)
        try:
            self._asking.start()
            return answer.get(timeout=_SOON_S)
        except (RuntimeError, queue.Empty):  # no thread is to be had, or no answer
            self._is_agent_silent = True
            return None

    def _ask(self, domain: Any, answer: queue.SimpleQueue[Any]) -> None:
        listed = None
        try:
            said = jsontext.loads(self._qemu.qemuAgentCommand(domain, _LISTED, _AGENT_S, 0))
            listed = said.get("return") if isinstance(said, dict) else None
            if self._is_agent_silent:  # it was late, and answers now
                self._agent_changed()
        except (self._libvirt.libvirtError, ValueError):
            self._is_agent_silent = True
        answer.put(listed)


def _binding() -> tuple[Any, Any]:
    """Return libvirt's two modules. Raises NotReady where they are not installed."""
    with _loading:
        return _loaded()


@functools.cache
def _loaded() -> tuple[Any, Any]:
    """Load libvirt, once; from then on a thread hears its events."""
    try:
        import libvirt  # noqa: PLC0415 rule 1
        import libvirt_qemu  # noqa: PLC0415
    except ImportError as problem:
        raise _unreachable(f"this agent has no libvirt binding, its package's extra `libvirt` ({problem})") from None
    libvirt.registerErrorHandler(lambda *_: None, None)  # else it prints each error
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_hear, args=(libvirt,), name="libvirt", daemon=True).start()
    return libvirt, libvirt_qemu


def _hear(libvirt: Any) -> None:
    """Run libvirt's event loop, for ever: without it no event and no keepalive of any machine is heard again."""
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except Exception:  # whatever it is, the others' events are still to be heard
            log.exception("libvirt's event loop")
            time.sleep(_FAILED_S)


def _migrating() -> NotReady:
    return NotReady("VMMigrating", "the virtual machine is being migrated: its devices cannot be changed")


def _unreachable(why: str) -> NotReady:
    return NotReady("VMUnreachable", f"the virtual machine cannot be reached: {why}")
