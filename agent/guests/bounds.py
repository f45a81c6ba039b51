"""Pure: what a guest or its machine says of itself, cut to a size before anybody else is told.

It comes from the pod, and goes to the controller, into the pod's status and from there to every reader of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from agent.model import Guest, NotReady, Refused, Standing

NAME = 64  # characters: of a port, an interface's name in the guest, an address with its prefix length
ADDRESSES = 32
TEXT_BYTES = 1024  # of a reason in words, as UTF-8
P = TypeVar("P", bound=NotReady | Refused)


def standing(said: Standing) -> Standing:
    """Return how far an interface has got, cut to size."""
    return Standing(_guest(said.guest), said.problem and problem(said.problem))


def problem(said: P) -> P:
    """Return the same problem with its words cut to size."""
    return type(said)(said.reason, _encodable(str(said), TEXT_BYTES))


def _guest(said: Guest) -> Guest:
    return replace(
        said,
        interface=_name(said.interface),
        port=_name(said.port),
        addresses=tuple(_name(one) for one in said.addresses[:ADDRESSES]),
    )


def _name(text: str) -> str:
    return _encodable(text[:NAME], 4 * NAME)


def _encodable(text: str, size: int) -> str:
    """Return the text without what UTF-8 cannot express (JSON may hold half a character), in so many bytes."""
    return text[:size].encode(errors="replace")[:size].decode(errors="ignore")
