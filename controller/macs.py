"""MAC addresses for the interfaces of virtual machines: from a range of ours, and never twice in the cluster.

Rules
1. The address of an interface follows from the VM's UID and the interface's name: the same after a re-plug, a restart,
   or a new leader. Where somebody has it already, the next one of a row that follows as well.
2. Somebody is any VM or instance of the cluster, whoever wrote its interfaces. A VM does not stand in its own way.
3. What a pass chooses is claimed until the VM shows it, so that two passes at once never choose the same.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from cni import names
from controller.relay_plan import Taken

DEFAULT_RANGE = "02:68:6e:00:00:00/24"
_TRIES = 1000  # a range this full is used up
_BITS = 48
_LOCAL, _GROUP = 1 << 41, 1 << 40

K = TypeVar("K")


class RangeError(ValueError):
    """`str()` says why this is no range of addresses."""


@dataclass(frozen=True, slots=True)
class Range:
    """All addresses that begin with the first `bits` bits of `base`."""

    base: int
    bits: int

    def address(self, text: str) -> str:
        """Return the address that `text` stands for."""
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        number = self.base | (digest % (1 << (_BITS - self.bits)))
        return ":".join(f"{number:012x}"[at : at + 2] for at in range(0, 12, 2))


def parse(text: str) -> Range:
    """Read `MAC/bits`. Raises RangeError."""
    address, slash, bits = text.partition("/")
    try:
        base = int(names.hardware_address(address, 6).replace(":", ""), 16)
    except ValueError as problem:
        raise RangeError(f"{text}: {problem}") from None
    if not slash or not bits.isascii() or not bits.isdigit() or not 2 <= int(bits) <= 40:
        raise RangeError(f"{text}: is not a MAC address, a slash, and a number of bits from 2 to 40")
    if base & _GROUP or not base & _LOCAL:
        raise RangeError(f"{text}: addresses that one may choose are x2, x6, xa or xe in their first byte")
    if base % (1 << (_BITS - int(bits))):
        raise RangeError(f"{text}: has digits beyond its first {bits} bits")
    return Range(base, int(bits))


class Register:
    """Who has which address. Safe for many threads; owners are keys of VMs."""

    def __init__(self, addresses: Range, freed: Callable[[Collection[str]], None]) -> None:
        """`freed` is called, without the lock, with addresses that an owner does not have any more."""
        self._range = addresses
        self._freed = freed
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], frozenset[str]] = {}  # by owner and where it was seen
        self._claimed: dict[str, frozenset[str]] = {}
        self._owners: dict[str, dict[str, int]] = {}  # address -> owners, and how often

    def seen(self, owner: str, where: str, addresses: Iterable[str]) -> None:
        """Take note of all the addresses that an owner has in one place."""
        with self._lock:
            lost = self._replace(self._held, (owner, where), owner, frozenset(addresses))
        if lost:
            self._freed(lost)

    def holder(self, owner: str, address: str) -> str:
        """Return the owner who has the address instead, or nothing."""
        with self._lock:
            return self._holder(owner, address)

    def claim(self, owner: str, address: str) -> str:
        """Claim the address; return the owner who has it instead, or nothing."""
        with self._lock:
            other = self._holder(owner, address)
            if not other:
                self._replace(self._claimed, owner, owner, self._claimed.get(owner, frozenset()) | {address})
            return other

    def choose(self, owner: str, stem: str, taken: Collection[str]) -> str:
        """Claim and return an address that follows from `stem`, none of `taken`. Raises Taken."""
        for number in itertools.islice(itertools.count(), _TRIES):
            address = self._range.address(f"{stem} {number}")
            if address not in taken and not self.claim(owner, address):
                return address
        raise Taken("no address of the managed range is free")

    def keep(self, owner: str, addresses: Collection[str]) -> None:
        """Give up the owner's claims but these."""
        with self._lock:
            lost = self._replace(
                self._claimed, owner, owner, self._claimed.get(owner, frozenset()) & frozenset(addresses)
            )
        if lost:
            self._freed(lost)

    def _holder(self, owner: str, address: str) -> str:
        return min((one for one in self._owners.get(address, ()) if one != owner), default="")

    def _replace(self, table: dict[K, frozenset[str]], key: K, owner: str, new: frozenset[str]) -> set[str]:
        """Return the addresses that the owner does not have any more."""
        old = table.pop(key, frozenset())
        if new:
            table[key] = new
        for address in new - old:
            owners = self._owners.setdefault(address, {})
            owners[owner] = owners.get(owner, 0) + 1
        return {address for address in old - new if self._drop(address, owner)}

    def _drop(self, address: str, owner: str) -> bool:
        owners = self._owners[address]
        owners[owner] -= 1
        if owners[owner]:
            return False
        del owners[owner]
        if not owners:
            del self._owners[address]
        return True
