"""Pure: which attachments of a runtime an annotation asked for, so that they are ours to unplug.

Multus (or a runtime) attaches what the annotation says when the pod is made, and leaves configuration, arguments and
result in libcni's cache; what it attached through our own executable is in our journal. An attachment is claimed only
with evidence: an edit of the annotation that was seen asked for that network under that interface name (an unnamed
element is `net<n>`, as Multus counts), and the link is there. Multus' `defaultNetworks` and a primary network were
asked for by no annotation and are never claimed.
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
    """Pair the runtime's attachments with the elements that asked for them; explicit interface names go first."""
    free = sorted((one for one in candidates if one.ifname in links and one.ifname not in RESERVED), key=_order)
    found = []
    for wish in sorted(asked, key=lambda one: not _interface(one)):
        match = next((one for one in free if _fits(wish, one)), None)
        if match is not None:
            free.remove(match)
            found.append(Claim(wish, match.ifname))
    return tuple(found)


def remember(asked: Sequence[Asked], more: Sequence[Asked], limit: int = 256) -> tuple[Asked, ...]:
    """Add to what was asked for so far. An edit repeats most of it; equal elements are kept as often as one edit has
    them, and the oldest go first when there are too many.
    """
    kept = list(asked)
    for one in dict.fromkeys(more):
        kept += [one] * max(0, list(more).count(one) - kept.count(one))
    return tuple(kept[-limit:])


def _fits(wish: Asked, candidate: Candidate) -> bool:
    interface = _interface(wish)
    name_fits = interface == candidate.ifname if interface else _COUNTED.fullmatch(candidate.ifname) is not None
    return name_fits and wish.network_name == candidate.network_name


def _interface(asked: Asked) -> str:
    return str(json.loads(asked.element).get("interface", ""))


def _order(candidate: Candidate) -> tuple[int, str]:
    counted = _COUNTED.fullmatch(candidate.ifname)
    return (int(counted[1]) if counted else 0, candidate.ifname)
