"""Pure: a link of the node that an attachment has taken, and how it is given back, from any state.

Known by what the kernel says of it and the pod cannot change (agent.hardware, rule 2); its mark, an alias, tells its
name on the node, and that it is not given back yet. A virtual link that is not proven stays in the pod, and dies with
it, as one does that the journal knows nothing about; a device's link returns to the node by itself then, under the name
that it had in the pod, but in the kernel's own time: a DEL waits for that, as it has to be renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent import hardware, options
from agent.hardware import USERSPACE_DRIVERS, Behind, GiveBack, SetFunction, State, Taken
from agent.links import Have, Link, Read, Step, Where
from agent.model import Key
from cni import errors


class Borrowed:
    """The link of one attachment. `saved`: what the journal has of it."""

    def __init__(self, key: Key, saved: Mapping[str, Any]) -> None:
        self._mark = options.mark(key)
        self.was, self.function, self.settings = hardware.remembered(saved)
        self._setup = hardware.remembered_setup(saved)
        was = self.was or State("")
        # a card with two ports has two links; a function has one, whose driver may take any new MAC for permanent
        known = replace(self.was, permanent="") if self.was and self.function else self.was
        self._read = Taken(self._mark, known)
        self._behind = Behind(was.bus, was.device) if was.device else None

    def reads(self) -> tuple[Read, ...]:
        return (self._read, *((self._behind,) if self._behind else ()))

    def alias(self, name: str) -> str:
        """Return what the link bears while it is taken; `name`: of it on the node."""
        return f"{self._mark} {name}"

    def in_pod(self, have: Have) -> Link | None:
        """Return the link, whatever its name is, if it is in the pod."""
        link, where = have.facts.get(self._read) or (None, Where.NODE)
        return link if where is Where.IN_POD else None

    def is_marked(self, link: Link) -> bool:
        return link.alias.startswith(f"{self._mark} ")

    def before(self, link: Link, now: State) -> State:
        """Return how a link was before it was taken, of which only this is known now."""
        if not self.is_marked(link):
            return now
        name = link.alias.removeprefix(f"{self._mark} ")
        return replace(now, name=name, mac=None, mtu=None, queue=None, flags=None, alias="")

    def _refuse_while_away(self, have: Have) -> None:
        device = have.facts.get(self._behind) if self._behind else None
        if self.was and device and device.driver and device.driver not in USERSPACE_DRIVERS:
            message = f"interface {self.was.name} has not come back to the node yet"
            raise errors.CNIError(errors.Code.TRY_AGAIN, message)

    def removal(self, have: Have) -> tuple[Step, ...]:
        """Raise CNIError 11 where the link can be neither seen nor gone."""
        link, where = have.facts.get(self._read) or (None, Where.NODE)
        if link is None:
            self._refuse_while_away(have)
            return ()
        was = self.was or State(link.alias.removeprefix(f"{self._mark} "))
        if where is Where.NODE and not self.is_marked(link) and link.name in hardware.names(was.name):
            return ()  # not taken yet, or given back already
        back = GiveBack(link, where, was, self._read, self._setup)
        return (SetFunction(self.function, self.settings), back) if self.function else (back,)
