"""Pure: what a device is.

Rules
1. Everything is derived from (container ID, interface name): names and MACs of what is made. So a retry finds its own
   leftover, and a DEL without any record still knows what is ours, and proves it.
2. `plan` of what has been read again afterwards is empty, or the work is not done. It looks only at what `reads` names.
3. Nothing is removed by its name alone: `removal` compares kind and MAC, or the mark, with what was derived.
4. A device that takes something which it must give back says in `memory` how it was, and finds that in `Call.saved`
   when it is parsed for a retry or the DEL. It is in the journal before the first step. `claims` in it are names of
   what no other attachment may have meanwhile; they are told who has it (CNIError 7).
5. An option that a device cannot honour is refused (code 2), never silently ignored; so is one that only other kinds
   have, which therefore say what they have: `OPTIONS`.
6. What attachments share and the last of them takes away is a `segment`. Work on one is never done for two of them at
   once, or the last DEL would take away what an ADD relies on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from agent.links import Have, Interface, Link, Read, Step
from cni import errors, result


class Device(Protocol):
    """One attachment's device, as its configuration asks for it."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset()  # besides those that every kind has (agent.options)

    OWN_MAC: ClassVar[bool] = True  # False: where none is asked for the interface has another link's, and follows it

    interface: Interface  # in the pod; without what IPAM will say

    @abstractmethod
    def reads(self) -> tuple[Read, ...]:
        """Return what the other methods look at, besides the interface in the pod."""

    @abstractmethod
    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        """Return the steps that make the link and all that goes with it; none where it is whole.

        A link that is made has the MAC and MTU of `want` from the start; those of one that is there, and state,
        addresses and the like of either, are set after these steps (agent.interface). Raises CNIError 7 on a conflict.
        """

    @abstractmethod
    def removal(self, have: Have) -> tuple[Step, ...]:
        """Return the steps that undo `plan`, from any state that a crash may have left. Links may be gone already."""

    def with_addresses(self, want: Interface) -> Interface:
        """Return the interface as it shall be, given one with IPAM's addresses, gateways and routes.

        Raises CNIError 7 for addresses that the device cannot do with.
        """
        return want

    def completed(self, addresses: result.Result) -> result.Result:
        """Return IPAM's answer (an empty one where there is no IPAM) with what the device knows besides."""
        return addresses

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        """Return what CHECK reports, besides what is said of the interface itself."""
        return ()

    def shown(self, have: Have) -> tuple[Link, ...]:
        """Return the links of the node that the result tells of, before the pod's."""
        return ()

    def host_end(self) -> str:
        """Return the name of the link on the node whose other end is the interface in the pod, the attachment's own:
        bandwidth is shaped there. "": there is none, it is shaped in the pod (agent.shaping).
        """
        return ""

    def memory(self, have: Have) -> Mapping[str, Any] | None:
        """Return what has to be in the journal before the plan is performed (rule 4); None: nothing."""
        return None

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of link that an ADD makes, which a kernel may lack; as the kernel calls them."""
        return ()

    def segment(self) -> str:
        """Return the name, on this node, of what the attachment shares (rule 6); "": nothing."""
        return ""

    def upkeep(self, have: Have) -> tuple[Step, ...]:
        """Return the steps that make the segment, and the attachment's place in it, whole again after somebody else's
        doing, or follow what was told meanwhile. Nothing where the attachment itself is gone; `have` has no pod.
        """
        return ()

    def is_contested(self, steps: tuple[Step, ...]) -> bool:
        """Whether another attachment may want the opposite of a repair by these steps: then it is only told."""
        return False

    def refuse_unready(self, have: Have) -> None:
        """Raise the CNIError that an ADD would meet on this node now, whatever the container (STATUS).

        `have` has no pod. Code 50 where nothing can be attached, 51 where what is attached suffers too.
        """
        return


def name_taken(ifname: str) -> errors.CNIError:
    return errors.CNIError(errors.Code.INVALID_CONFIG, f"interface name {ifname!r} exists already in the container")
