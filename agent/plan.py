"""Pure: a pod's desired set against its records -> what to detach, keep, attach, and what to leave undone.

Rules
1. Removals come before additions; additions are in the order of the annotation.
2. Elements with `interface` are matched first. One without is matched to what was attached for an equal element
   before, oldest first; else it gets the first free `net<n>`.
3. A changed element of the same interface name is an update where the change can be made in place (agent.update),
   else a replacement: detach, then attach.
4. Half-made attachments (phase ADDING), and those whose link is gone from the pod, are removed first and then made
   anew where they are wanted.
5. A name that another attachment of the pod holds is not taken from it: the later wish waits.
6. What a runtime attached without an annotation's asking is never touched, and its name is taken.
7. A held element is not attached; where it is attached already, it stays. So does what is attached under the name
   that it asks for, or an element which is wrong as it stands.
8. A change that is known to be refused changes nothing: what is attached and whole stays as it is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.model import ContainerID, Desired, Hold, Origin, Phase, Record, State, Wanted
from agent.update import in_place
from cni import multinet

INTERFACE_EXISTS = "InterfaceExists"
RESERVED = ("lo", "eth0")  # never ours to make, whatever an annotation says


@dataclass(frozen=True, slots=True)
class Keep:
    position: int
    record: Record


@dataclass(frozen=True, slots=True)
class Attach:
    position: int
    wanted: Wanted
    ifname: str


@dataclass(frozen=True, slots=True)
class Update:
    """Attached, and to be changed in place."""

    position: int
    wanted: Wanted
    record: Record


@dataclass(frozen=True, slots=True)
class Withhold:
    """Not attached now, for a reason that is known without trying."""

    position: int
    wanted: Wanted
    hold: Hold


@dataclass(frozen=True, slots=True)
class Plan:
    detach: tuple[Record, ...]
    keep: tuple[Keep, ...]
    attach: tuple[Attach, ...]
    withhold: tuple[Withhold, ...]
    update: tuple[Update, ...] = ()

    def __str__(self) -> str:
        parts = [f"detach {record.key.ifname}" for record in self.detach]
        parts += [f"update {step.record.key.ifname}" for step in self.update]
        parts += [f"attach {step.ifname} to {step.wanted.selection.network}" for step in self.attach]
        parts += [f"withhold {step.wanted.selection.network}: {step.hold.reason}" for step in self.withhold]
        return ", ".join(parts) or "nothing to do"


def element(wanted: Wanted) -> str:
    """Return what identifies a wish: its canonical text. An equal text is the same wish."""
    return multinet.to_json(wanted.selection)


def plan(
    desired: Desired, sandbox: ContainerID | None, records: Collection[Record], links: Mapping[str, int] | None
) -> Plan:
    """Decide one pass. `sandbox`: the pod's living one, if any.

    `links`: the interfaces that are in its namespace now, name to index; None where nobody has looked.
    """
    mine = [record for record in records if record.origin is not Origin.RUNTIME]
    whole = [one for one in mine if one.key.container_id == sandbox and one.phase is Phase.ATTACHED]
    usable = [one for one in whole if not _is_lost(one, links)]
    keep = () if desired.ended else tuple(_matches(desired.attachments, usable))
    update = () if desired.ended else tuple(_updates(desired.attachments, usable, keep))
    asked = {wanted.selection.interface for wanted in desired.attachments if wanted.hold is None}
    held = {wanted.selection.interface for wanted in desired.attachments if wanted.hold is not None}
    spared = set() if desired.ended else {*desired.keep, *held} - asked
    staying = {step.record.key for step in keep} | {step.record.key for step in update}
    kept = staying | {one.key for one in usable if one.key.ifname in spared}
    detach = tuple(record for record in mine if record.key not in kept)
    if desired.ended or sandbox is None:
        return Plan(detach, (), (), ())
    leaving = {one.key.ifname for one in detach if one.key.container_id == sandbox and not _is_displaced(one, links)}
    taken = {record.key.ifname for record in records if record.key.container_id == sandbox} | set(links or ())
    served = {step.position for step in keep} | {step.position for step in update}
    attach, withhold = _additions(desired.attachments, served, taken - leaving)
    return Plan(detach, keep, attach, withhold, update)


def changing(decided: Plan, links: Mapping[str, int] | None) -> tuple[Attach | Update, ...]:
    """Return the steps that change or replace what is attached and whole."""
    return (*decided.update, *(step for step in decided.attach if _replaced(step, decided, links)))


def spare(decided: Plan, holds: Mapping[int, Hold], links: Mapping[str, int] | None) -> Plan:
    """Return the plan without the steps at these positions; what they would have replaced stays (rule 8)."""
    held = [step for step in changing(decided, links) if step.position in holds]
    stays = {record.key for step in held if isinstance(step, Attach) for record in _replaced(step, decided, links)}
    return Plan(
        tuple(record for record in decided.detach if record.key not in stays),
        decided.keep,
        tuple(step for step in decided.attach if step not in held),
        (*decided.withhold, *(Withhold(step.position, step.wanted, holds[step.position]) for step in held)),
        tuple(step for step in decided.update if step not in held),
    )


def _replaced(step: Attach, decided: Plan, links: Mapping[str, int] | None) -> tuple[Record, ...]:
    return tuple(
        record
        for record in decided.detach
        if record.key.ifname == step.ifname
        and record.phase is Phase.ATTACHED
        and not _is_lost(record, links)
        and (record.ifindex or step.ifname in (links or {}))
    )


def _matches(wishes: Collection[Wanted], records: list[Record]) -> Iterator[Keep]:
    """Pair each wish with the record that fulfils it (rules 2, 3 and 7)."""
    free = sorted(records, key=lambda record: record.sequence)
    # names that are asked for first, else an unnamed wish takes what a named one is about
    for position, wanted in sorted(enumerate(wishes), key=lambda item: not item[1].selection.interface):
        found = next((record for record in free if _fulfils(record, wanted)), None)
        if found is not None:
            free.remove(found)
            yield Keep(position, found)


def _updates(wishes: Collection[Wanted], records: list[Record], keep: Collection[Keep]) -> Iterator[Update]:
    """Pair each wish that nothing fulfils with what can become it in place (rule 3)."""
    served = {step.position for step in keep}
    kept = {step.record.key for step in keep}
    free = [record for record in records if record.key not in kept and not record.guest]  # a guest keeps what it got
    for position, wanted in enumerate(wishes):
        if position in served:
            continue
        found = next((record for record in free if _is_of(record, wanted) and in_place(record, wanted)), None)
        if found is not None:
            free.remove(found)
            yield Update(position, wanted, found)


def _is_of(record: Record, wanted: Wanted) -> bool:
    """Whether wish and record are about one interface: of one name, or of none that was asked for."""
    name = wanted.selection.interface
    return name == record.key.ifname if name else not json.loads(record.element).get("interface")


def _is_lost(record: Record, links: Mapping[str, int] | None) -> bool:
    """Whether the link that the ADD made is gone, under whatever name."""
    return links is not None and record.ifindex != 0 and record.ifindex not in links.values()


def _is_displaced(record: Record, links: Mapping[str, int] | None) -> bool:
    """Whether another link bears the interface's name now: its DEL will not free the name."""
    there = (links or {}).get(record.key.ifname, 0)
    return record.ifindex != 0 and there not in (0, record.ifindex)


def _fulfils(record: Record, wanted: Wanted) -> bool:
    """Writing down the name that an unnamed wish got is no change. Taking a name out of a wish is one: the name may
    be meant for another.
    """
    name = wanted.selection.interface
    if not name:
        return record.element == element(wanted)
    return name == record.key.ifname and _unnamed(record.element) == _unnamed(element(wanted))


def _unnamed(text: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(text).items() if key != "interface"}


def _additions(
    wishes: Collection[Wanted], kept: Collection[int], taken: set[str]
) -> tuple[tuple[Attach, ...], tuple[Withhold, ...]]:
    attach: list[Attach] = []
    withhold: list[Withhold] = []
    asked = {wanted.selection.interface for wanted in wishes} - {""}
    taken = set(taken)
    free = _free(taken, asked)
    for position, wanted in enumerate(wishes):
        if position in kept:
            continue
        hold = wanted.hold or _conflict(wanted.selection.interface, taken)
        if hold is not None:
            withhold.append(Withhold(position, wanted, hold))
            continue
        ifname = wanted.selection.interface or next(free)
        taken.add(ifname)
        attach.append(Attach(position, wanted, ifname))
    return tuple(attach), tuple(withhold)


def _conflict(ifname: str, taken: Collection[str]) -> Hold | None:
    if ifname in RESERVED:
        return Hold(
            State.REFUSED,
            "InterfaceReserved",
            f"interface name {ifname} is reserved for the pod's own network",
        )
    if ifname in taken:
        return Hold(
            State.PENDING,
            INTERFACE_EXISTS,
            f"interface {ifname} exists in the pod and is not ours to replace",
        )
    return None


def _free(*taken: Collection[str]) -> Iterator[str]:
    """Yield the names that are free, each once: what is taken meanwhile may only become more."""
    for number in itertools.count(1):
        name = f"net{number}"
        if not any(name in names for names in taken):
            yield name
