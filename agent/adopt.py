"""Pure: which attachments of a runtime an annotation asked for, so that they are ours to unplug.

Multus (or a runtime) attaches what the annotation says when the pod is made, and leaves configuration, arguments and
result in libcni's cache; what it attached through our own executable is in our journal. An attachment is claimed only
with evidence: an edit of the annotation that was seen asked for that network under that interface name (an unnamed
element is `net<n>`, as Multus counts), and the link is there. Multus' `defaultNetworks` and a primary network were
asked for by no annotation and are never claimed. Multus counts default networks first: where more interfaces of a
network are there than unnamed elements asked for it, the first are those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agent.model import Asked
from agent.plan import RESERVED

_COUNTED = re.compile(r"net(\d+)")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An attachment that a runtime made: the name of its CNI network, and its interface."""

    network_name: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Claim:
    asked: Asked
    ifname: str


def claims(asked: Sequence[Asked], candidates: Collection[Candidate], links: Collection[str]) -> tuple[Claim, ...]:
    """Pair the runtime's attachments with the elements that asked for them; explicit interface names go first.

    Of several counted ones of a network the last are the annotation's: Multus counts its `defaultNetworks` first.
    """
    free = [one for one in candidates if one.ifname in links and one.ifname not in RESERVED]
    named = [
        (wish, one) for wish in asked for one in free if _interface(wish) == one.ifname and _same_network(wish, one)
    ]
    taken = {one.ifname: Claim(wish, one.ifname) for wish, one in reversed(named)}
    counted = sorted((one for one in free if one.ifname not in taken and _COUNTED.fullmatch(one.ifname)), key=_count)
    found = []
    for wish in reversed([wish for wish in asked if not _interface(wish)]):
        match = next((one for one in reversed(counted) if _same_network(wish, one)), None)
        if match is not None:
            counted.remove(match)
            found.append(Claim(wish, match.ifname))
    return (*reversed(taken.values()), *reversed(found))


def remember(asked: Sequence[Asked], more: Sequence[Asked], limit: int = 256) -> tuple[Asked, ...]:
    """Add to what was asked for so far. An edit repeats most of it; equal elements are kept as often as one edit has
    them, and the oldest go first when there are too many.
    """
    kept = list(asked)
    for one in dict.fromkeys(more):
        kept += [one] * max(0, list(more).count(one) - kept.count(one))
    return tuple(kept[-limit:])


def _same_network(wish: Asked, candidate: Candidate) -> bool:
    return wish.network_name == candidate.network_name


def _interface(asked: Asked) -> str:
    return str(json.loads(asked.element).get("interface", ""))


def _count(candidate: Candidate) -> int:
    return int(candidate.ifname.removeprefix("net"))
