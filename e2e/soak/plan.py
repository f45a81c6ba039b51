"""Pure: what happens in a soak, from its seed: phases of timed actions. Nothing here knows how anything is done.

Rules
1. The seed says everything: the same numbers give the same plan, action by action. What comes of it differs.
2. A plan knows its own pods and what their annotations say, never what became of them: an action that meets no pod is
   no failure.
3. Each phase puts right what it broke: services run again, the plugin works, networks are defined. Annotations may stay
   wrong, which is the users' right.
4. The actions of one track follow each other; tracks go on side by side: users, outages, and the kills of each process.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

PHASE_S = 20.0
PODS = 12
NETWORKS = ("bridge", "leased", "shaped", "veth", "macvlan", "overlay", "tap", "reference", "plugin")
ROLES = ("agent", "controller")
MOODS = ("fail", "slow", "hang", "litter")  # of the plugin
_LONGEST_OUTAGE_S = 5.0
_BANDWIDTH = {"ingressRate": 1000000, "ingressBurst": 80000, "egressRate": 1000000, "egressBurst": 80000}

_USERS = {
    "add": 12, "remove": 9, "replace": 7, "rename": 5, "several": 6, "wrong": 4, "burst": 3,
    "recreate": 4, "force-delete": 3, "restart-container": 2, "kill-sandbox": 2,
    "edit-network": 3, "lose-network": 2, "mood": 3, "delete-link": 2, "lose-lease": 1,
}  # fmt: skip
_OUTAGES = ("stop-apiserver", "stop-runtime", "kill-runtime", "stop-kubelet")


@dataclass(frozen=True, slots=True)
class Action:
    """What is done `at` so many seconds after the phase began."""

    at: float
    kind: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:6.2f} {self.kind} {' '.join(map(str, self.arguments))}".rstrip()


@dataclass(frozen=True, slots=True)
class Phase:
    """Some seconds of churn, by track."""

    number: int
    tracks: dict[str, tuple[Action, ...]]


@dataclass(slots=True)
class _Users:
    """What the users of the plan remember: the elements of each of their pods."""

    dice: Random
    pods: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    made: int = 0

    def new_pod(self) -> str:
        self.made += 1
        name = f"p{self.made}"
        self.pods[name] = [self.element(number) for number in range(self.dice.randrange(3))]
        return name

    def element(self, number: int = -1) -> dict[str, Any]:
        network = self.dice.choice(NETWORKS)
        ifname = f"i{self.dice.randrange(10) if number < 0 else number}"
        return {"name": network, "interface": ifname, **({"bandwidth": _BANDWIDTH} if network == "shaped" else {})}


def setup(seed: int) -> tuple[Action, ...]:
    """Return what makes the first pods."""
    users = _users(seed)
    return tuple(Action(0, "create", (name, _text(elements))) for name, elements in users.pods.items())


def phases(seed: int, seconds: float, kills: int) -> tuple[Phase, ...]:
    """Return the phases that make up so many seconds of churn, with so many kills among them."""
    users = _users(seed)
    count = max(1, round(seconds / PHASE_S))
    of_phase = [kills * (number + 1) // count - kills * number // count for number in range(count)]
    return tuple(Phase(number, dict(_tracks(users, of_phase[number]))) for number in range(count))


def _users(seed: int) -> _Users:
    users = _Users(Random(seed))
    for _ in range(PODS):
        users.new_pod()
    return users


def _tracks(users: _Users, kills: int) -> Iterator[tuple[str, tuple[Action, ...]]]:
    dice = users.dice
    times = sorted(dice.uniform(0, PHASE_S) for _ in range(dice.randint(20, 35)))
    yield "users", _ordered(one for at in times for one in _deed(users, at))
    yield "outages", _ordered(_outages(dice))
    roles = dice.choices(ROLES, weights=(3, 2), k=kills)
    for role in ROLES:
        yield role, _ordered(Action(dice.uniform(0, PHASE_S), f"kill-{role}") for one in roles if one == role)


def _ordered(actions: Iterable[Action]) -> tuple[Action, ...]:
    return tuple(sorted(actions, key=lambda one: one.at))


def _outages(dice: Random) -> Iterator[Action]:
    begin = dice.uniform(0, PHASE_S / 2)
    for _ in range(dice.choice((0, 1, 1, 2))):
        kind = dice.choice(_OUTAGES)
        end = begin + dice.uniform(0.5, _LONGEST_OUTAGE_S)
        yield Action(begin, kind)
        yield Action(end, f"start-{kind.partition('-')[2]}")
        begin = end + dice.uniform(0.5, 3)


def _deed(users: _Users, at: float) -> Iterator[Action]:
    """Yield one thing that somebody does; it may take several actions."""
    dice = users.dice
    kind = dice.choices(tuple(_USERS), weights=tuple(_USERS.values()))[0]
    pod = dice.choice(tuple(users.pods))
    match kind:
        case "add" | "remove" | "replace" | "rename" | "several":
            yield _edit(users, pod, kind, at)
        case "burst":
            yield from (_edit(users, pod, "several", at + 0.05 * number) for number in range(8))
        case "wrong":
            yield Action(at, "plug", (pod, _wrong(dice, users.pods[pod])))
        case "recreate" | "force-delete":
            del users.pods[pod]
            yield Action(at, "delete" if kind == "recreate" else kind, (pod,))
            new = users.new_pod()
            yield Action(at + 0.01, "create", (new, _text(users.pods[new])))
        case "edit-network":
            yield Action(at, kind, (dice.choice(NETWORKS), dice.choice((1300, 1400))))
        case "lose-network":
            name = dice.choice(NETWORKS)
            yield Action(at, kind, (name,))
            yield Action(at + dice.uniform(0.5, 4), "define-network", (name,))
        case "mood":
            yield Action(at, kind, (dice.choice(MOODS),))
            yield Action(at + dice.uniform(0.5, 6), kind, ("",))
        case "delete-link":
            yield Action(at, kind, (pod, dice.randrange(10)))
        case _:
            yield Action(at, kind, (pod,))


def _edit(users: _Users, pod: str, kind: str, at: float) -> Action:
    dice, elements = users.dice, users.pods[pod]
    for change in dice.choices(("add", "remove", "replace"), k=dice.randint(2, 5)) if kind == "several" else (kind,):
        _change(users, elements, change)
    return Action(at, "plug", (pod, _text(elements)))


def _change(users: _Users, elements: list[dict[str, Any]], kind: str) -> None:
    """Change the annotation in one respect; its interfaces keep different names."""
    dice, taken = users.dice, {one["interface"] for one in elements}
    if kind == "add" or not elements:
        if len(elements) < 6 and (new := users.element())["interface"] not in taken:
            elements.append(new)
    elif kind == "remove":
        elements.pop(dice.randrange(len(elements)))
    elif kind == "replace":
        place = dice.randrange(len(elements))
        elements[place] = {**users.element(), "interface": elements[place]["interface"]}
    else:
        place, name = dice.randrange(len(elements)), f"i{dice.randrange(10)}"
        if name not in taken:
            elements[place] = {**elements[place], "interface": name}


def _wrong(dice: Random, elements: Sequence[dict[str, Any]]) -> str:
    """Return an annotation that is wrong as a whole, or has one wrong element."""
    text = _text(elements)
    odd = dice.choice(({"interface": "eth0"}, {"interface": "a-name-much-too-long"}, {"name": "no-such"}, {"mac": "0"}))
    return dice.choice((text[:-1], "[{", _text([*elements, {"name": "bridge", "interface": "w0", **odd}])))


def _text(elements: Sequence[dict[str, Any]]) -> str:
    return json.dumps(list(elements), separators=(",", ":"))
