"""Pure: what a port of a bridge on the node has besides what every link has: its VLANs, and the source MAC that it
accepts. What a device may ask of them, and the steps that change them (as agent.links has it for all links).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

# classic BPF, <linux/filter.h>, and the verdicts of <linux/pkt_cls.h>
_LOAD_4, _LOAD_2, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_CONTINUE, _DROP = 0xFFFFFFFF, 2
_SOURCE = 6  # where a frame's source MAC is, whether a VLAN tag follows or not


class Vlan(NamedTuple):
    """A VLAN of a port. `pvid`: what comes untagged belongs to it; `untagged`: it leaves without its tag."""

    id: int
    pvid: bool = False
    untagged: bool = False


@dataclass(frozen=True, slots=True)
class PortVlans:
    """Known as a frozenset of Vlan; None where there is no such port."""

    port: str


@dataclass(frozen=True, slots=True)
class VlanFiltering:
    """Known as whether the bridges of this kernel know VLANs at all."""


@dataclass(frozen=True, slots=True)
class SetVlans:
    """Add and take away VLANs of a port; one that is away already is fine."""

    port: str
    add: tuple[Vlan, ...] = ()
    drop: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Known as the program that sees first what comes in at the link; None where there is none."""

    link: str


@dataclass(frozen=True, slots=True)
class FilterSource:
    """Let that program decide what comes in at the link. It goes with the link, and so can never be left behind."""

    link: str
    program: bytes


def accepting(mac: str) -> bytes:
    """Return the program that drops each frame whose source is not this MAC."""
    source = bytes.fromhex(mac.replace(":", ""))
    high, low = struct.unpack("!HI", source)
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD_4, 0, 0, _SOURCE + 2),
            (_JUMP_EQUAL, 0, 3, low),
            (_LOAD_2, 0, 0, _SOURCE),
            (_JUMP_EQUAL, 0, 1, high),
            (_RETURN, 0, 0, _CONTINUE),
            (_RETURN, 0, 0, _DROP),
        )
    )
