"""Pure: what a pod's user was told last, and what is so now -> what to tell.

Rules
1. What was told last is the pod itself: its network-status and our condition. So a restart tells nothing twice, and
   a retry that ends as the one before writes nothing.
2. network-status has what is attached, and loses what is released; entries of others stay. It is never read back as
   truth, only compared with.
3. The condition is True when everything asked for is attached, as it was made, and everything else is gone. A pod that
   never asked for anything has none.
4. One event for each reason that occurs, with all its interfaces and no others: rejected, failed to add, failed to
   remove, changed by somebody, repaired, added, removed. Waiting is no failure: what was not tried yet makes no clause.
5. What somebody had changed and the agent has repaired stays in the condition's message for as long as the agent says
   it, so that rule 1 holds for its event too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cni import errors, jsontext, multinet, result
from cni.status import by_interface
from controller.desired import NETWORK_NOT_FOUND, Desired, Malformed, NotApplicable, Refusal, Wish
from controller.model import NETWORKS, Condition, Event, Guest, Outcome, Pod, Progress, State

EVENT_BYTES = 1024  # what the API allows an event's note
MESSAGE_BYTES = 4096  # a condition is carried by every update of its pod

# from the gravest; the words are those of multus-dynamic-networks-controller, which tools look for
_GRAVITY = (
    "InterfaceAddRejected",
    "FailedAddingInterface",
    "FailedRemovingInterface",
    "Drifted",
    "DriftRepaired",
    "AddedInterface",
    "RemovedInterface",
)
_REJECTED, _FAILED_ADDING, _FAILED_REMOVING, _DRIFTED, _REPAIRED, _ADDED, _REMOVED = range(len(_GRAVITY))
_VISIBLE = "GuestVisible"
_STATES = (State.REFUSED, State.PENDING, State.DETACHING, State.ATTACHED)


@dataclass(frozen=True, slots=True)
class Report:
    """What to write; None where nothing changes."""

    status: str | None = None  # the new network-status
    condition: Condition | None = None
    events: tuple[Event, ...] = ()

    def is_shown_by(self, pod: Pod) -> bool:
        """Whether the pod is as one on which this was written."""
        return self.status in {None, pod.network_status} and self.condition in {None, pod.condition}


@dataclass(frozen=True, slots=True)
class _Clause:
    gravity: int
    text: str


@dataclass(frozen=True, slots=True)
class _Lack:
    """One thing that is not as asked."""

    state: State
    reason: str
    text: str  # as the condition's message has it
    clause: _Clause | None


def report(pod: Pod, wish: Wish, outcome: Outcome | None, now: str) -> Report:
    """Return what to write about `pod`. `outcome` must answer `wish`; None: the agent is overdue with its answer."""
    match wish:
        case NotApplicable.COMPLETED if outcome is not None and outcome.forgotten:
            return _completed(pod, outcome, now)
        case NotApplicable.COMPLETED | NotApplicable.DELETING:
            return Report()
        case NotApplicable.HOST_NETWORK:
            return _rejected(pod, "HostNetwork", "will not add interface to host networked pod", now)
        case Malformed():
            status, told = _status(pod, outcome)
            cause = f"annotation {NETWORKS}, position {wish.position}: {wish.reason}"
            rejected = _rejected(pod, "InvalidAnnotation", f"will not change interfaces: {cause}", now)
            return Report(status, rejected.condition, (*rejected.events, *_events(pod, told)))
        case Desired() if outcome is None:
            lack = _Lack(State.PENDING, "NoAnswer", "the node agent has not answered yet", None)
            return Report(condition=_condition(pod, [lack], 0, now))
        case Desired():
            return _of_outcome(pod, wish, outcome, now)


def _completed(pod: Pod, outcome: Outcome, now: str) -> Report:
    """Its containers have ended, its interfaces are detached: what the pod says of them must go as well."""
    status, clauses = _status(pod, outcome)
    lack = _Lack(State.REFUSED, "PodCompleted", "the pod has completed, its interfaces are detached", None)
    condition = _condition(pod, [lack], 0, now) if pod.condition else None
    return Report(status, condition, _events(pod, clauses))


def _rejected(pod: Pod, reason: str, text: str, now: str) -> Report:
    lack = _Lack(State.REFUSED, reason, text, _Clause(_REJECTED, text))
    condition = _condition(pod, [lack], 0, now)
    return Report(condition=condition, events=_events(pod, _news(pod, [lack])) if condition else ())


def _of_outcome(pod: Pod, wish: Desired, outcome: Outcome, now: str) -> Report:
    lacks = [_refused(pod, refusal) for refusal in wish.refusals]
    lacks += [_lacking(pod, one) for one in outcome.attachments if _is_lacking(one, wish)]
    attached = sum(one.state is State.ATTACHED for one in outcome.attachments)
    is_known = bool(pod.condition or lacks or attached)
    if pod.condition is None and not wish.refusals and _only_waits(outcome):
        is_known = False  # a pod that is being started: its own phase says so, and True follows within a second
    repaired = [_lacking(pod, one) for one in outcome.attachments if _is(one, _REPAIRED)]
    condition = _condition(pod, lacks, attached, now, repaired) if is_known else None
    status, clauses = _status(pod, outcome)
    if condition:
        clauses += _news(pod, [*lacks, *repaired])
    return Report(status, condition, _events(pod, clauses))


def _only_waits(outcome: Outcome) -> bool:
    return not outcome.sandbox and not any(
        one.attempts or one.state is not State.PENDING for one in outcome.attachments
    )


def _is_lacking(one: Progress, wish: Desired) -> bool:
    if one.state is State.ATTACHED:
        return _is(one, _DRIFTED)
    hold = wish.attachments[one.position].hold if 0 <= one.position < len(wish.attachments) else None
    return hold is None or hold.state is not State.REFUSED  # those are refusals of ours, told as such


def _is(one: Progress, reason: int) -> bool:
    return one.state is State.ATTACHED and one.reason == _GRAVITY[reason]


def _refused(pod: Pod, refusal: Refusal) -> _Lack:
    place = _place(refusal.interface, refusal.network) or f"element {refusal.position + 1}"
    clause = _Clause(_REJECTED, _will_not(pod, refusal.interface, refusal.network, refusal.message))
    return _Lack(State.REFUSED, refusal.reason, f"{place}: {refusal.reason}: {refusal.message}", clause)


def _lacking(pod: Pod, one: Progress) -> _Lack:
    text = ": ".join(filter(None, (_place(one.interface, one.network), one.reason, one.message)))
    return _Lack(one.state, one.reason or one.state.value, text, _failure(pod, one))


def _failure(pod: Pod, one: Progress) -> _Clause | None:
    network = _short(pod, one.network)
    for gravity, what in ((_DRIFTED, "is not as it was attached"), (_REPAIRED, "had been changed and is repaired")):
        if one.reason == _GRAVITY[gravity]:
            return _Clause(gravity, f"interface{_spaced(one.interface)} to network: {network} {what}: {one.message}")
    match one.state:
        case State.REFUSED:
            return _Clause(_REJECTED, _will_not(pod, one.interface, one.network, one.message))
        case State.PENDING if one.attempts or one.reason == NETWORK_NOT_FOUND:
            interface = _spaced(one.interface)
            return _Clause(_FAILED_ADDING, f"failed adding interface{interface} to network: {network}: {one.message}")
        case State.DETACHING if one.attempts:
            interface = _spaced(one.interface)
            return _Clause(
                _FAILED_REMOVING, f"failed removing interface{interface} from network: {network}: {one.message}"
            )
        case _:
            return None


def _will_not(pod: Pod, interface: str, network: str, cause: str) -> str:
    target = f" to network: {_short(pod, network)}" if network else ""
    return f"will not add interface{_spaced(interface)}{target}: {cause}"


# -- the status annotation --------------------------------------------------------------------------------------


def _status(pod: Pod, outcome: Outcome | None) -> tuple[str | None, list[_Clause]]:
    """Return the new network-status, None where it stays, and what changed in it."""
    if outcome is None:
        return None, []
    ours = [entry for one in outcome.attachments if (entry := _entry(one)) is not None]
    names = {entry["interface"] for entry in ours}
    before = by_interface(pod.network_status)
    ours += [entry for one in outcome.attachments if (entry := _leaving(one, before)) is not None]
    released = [name for name in before.keys() - names if f"{name} {before[name].get('name')}" in outcome.released]
    try:
        text = multinet.merge_status(pod.network_status, ours, released)
    except ValueError:  # no list: no program can read it, so nothing is lost
        text = multinet.merge_status(None, ours, released)
    if text == pod.network_status or (not ours and pod.network_status is None):
        return None, []
    clauses = [_added(pod, entry) for entry in ours if _is_news(entry, before.get(entry["interface"]))]
    return text, clauses + list(_removed(pod, before, by_interface(text)))


def _entry(one: Progress) -> dict[str, Any] | None:
    """Return the status entry of what is there: a result is only given for a whole attachment."""
    if not one.result or one.position < 0 or not one.interface:
        return None
    entry = multinet.status_entry(one.network, one.interface, _result(one))
    return {**entry, multinet.IN_VM: _told(one.guest)} if one.guest else entry


def _result(one: Progress) -> result.Result:
    """Of what was adopted it is another program's: one that cannot be read must not keep all else from being told."""
    try:
        return result.decode(jsontext.loads(one.result))
    except (ValueError, errors.CNIError):
        return result.Result()


def _leaving(one: Progress, before: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the status entry of what the guest has not let go yet."""
    entry = before.get(one.interface)
    if one.state is not State.DETACHING or one.guest is None or entry is None or entry.get("name") != one.network:
        return None
    return {**entry, multinet.IN_VM: {**_in_vm(entry), **_told(one.guest)}}


def _told(guest: Guest) -> dict[str, Any]:
    told = {"state": guest.state, "interface": guest.interface, "mac": guest.mac, "ips": list(guest.addresses)}
    told |= {"port": guest.port, "evidence": guest.evidence}
    return {key: value for key, value in told.items() if value}


def _is_news(entry: dict[str, Any], before: dict[str, Any] | None) -> bool:
    if before is None or any(entry.get(key) != before.get(key) for key in ("name", "ips", "mac")):
        return True
    return _in_vm(entry).get("state") == _VISIBLE != _in_vm(before).get("state")


def _in_vm(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get(multinet.IN_VM)
    return found if isinstance(found, dict) else {}


def _added(pod: Pod, entry: dict[str, Any]) -> _Clause:
    details = [f"ips: [{', '.join(entry['ips'])}]"] if entry.get("ips") else []
    details += [f"mac: {entry['mac']}"] if entry.get("mac") else []
    network = _short(pod, entry.get("name", ""))
    suffix = f"({', '.join(details)})" if details else ""
    guest = _in_vm(entry)
    if guest.get("state") == _VISIBLE:
        suffix += f", in the virtual machine{_spaced(guest.get('interface', ''))}"
    return _Clause(_ADDED, f"added interface {entry['interface']} to network: {network}{suffix}")


def _removed(pod: Pod, before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> Iterator[_Clause]:
    for interface, entry in before.items():
        if after.get(interface, {}).get("name") != entry.get("name"):
            network = _short(pod, str(entry.get("name", "")))
            yield _Clause(_REMOVED, f"removed interface {interface} from network: {network}")


# -- the condition ----------------------------------------------------------------------------------------------


def _condition(
    pod: Pod, lacks: Sequence[_Lack], attached: int, now: str, repaired: Sequence[_Lack] = ()
) -> Condition | None:
    """Return the condition, None where it stays."""
    old = pod.condition
    if lacks:
        gravest = min(lacks, key=lambda lack: _STATES.index(lack.state))
        said = [lack.text for lack in lacks]
        ready, reason = False, gravest.reason
    else:
        ready, reason = True, "AllAttached" if attached else "NoNetworks"
        said = [f"attached: {attached}"] if attached else []
    message = shortened("; ".join((*said, *(one.text for one in repaired))), MESSAGE_BYTES)
    since = old.since if old and old.ready == ready else now
    condition = Condition(ready, reason, message, since)
    return None if condition == old else condition


# -- the events -------------------------------------------------------------------------------------------------


def _news(pod: Pod, lacks: Sequence[_Lack]) -> list[_Clause]:
    """Return the clauses of what the condition does not say yet."""
    told = f"; {pod.condition.message if pod.condition else ''}; "
    return [lack.clause for lack in lacks if lack.clause and f"; {lack.text}; " not in told]


def _events(pod: Pod, clauses: Sequence[_Clause]) -> tuple[Event, ...]:
    pairs = [(clause.gravity, clause.text) for clause in clauses]
    return by_reason(f"pod [{pod.ref}]", pairs, _GRAVITY, _DRIFTED)


def by_reason(about: str, clauses: Iterable[tuple[int, str]], reasons: Sequence[str], warn: int) -> tuple[Event, ...]:
    """Return one event for each reason that occurs. The number of a clause is that of its reason; up to `warn` they
    are warnings.
    """
    texts: dict[int, list[str]] = {}
    for number, text in clauses:
        texts.setdefault(number, []).append(text)
    return tuple(
        Event(reasons[number], shortened(f"{about}: {'; '.join(texts[number])}", EVENT_BYTES), warning=number <= warn)
        for number in sorted(texts)
    )


def _place(interface: str, network: str) -> str:
    return f"{interface} ({network})" if interface and network else interface or network


def _short(pod: Pod, network: str) -> str:
    """Return a network's name as the incumbent has it: without the pod's own namespace."""
    return network.removeprefix(f"{pod.ref.namespace}/")


def _spaced(interface: str) -> str:
    return f" {interface}" if interface else ""


def shortened(text: str, size: int) -> str:
    """Return at most `size` bytes of the text, without half surrogate pairs, which nobody could be sent."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= size else raw[: size - 3].decode(errors="ignore") + "…"
