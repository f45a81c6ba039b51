"""Pure: KubeVirt's plumbing in the pod of a virtual machine (bridge binding), as far as unplugging depends on it.

KubeVirt hands an interface on by itself: it renames the link, puts it on a bridge with a tap, and leaves a placeholder
under the old name. When the guest has let the NIC go it removes all but the link. Until then neither link nor status
may go, or bridge, tap and placeholder stay for ever, and the next NIC of that name is dead.
"""

from __future__ import annotations

from collections.abc import Mapping

_PREFIX = 3  # characters of `pod` or `net`, which KubeVirt cuts off


def plumbing(ifname: str) -> tuple[str, str]:
    """Return the names of bridge and tap that go with the pod's interface of that name."""
    rest = ifname[_PREFIX:] if ifname.startswith("pod") else ifname
    return f"k6t-{rest}", f"tap{ifname[_PREFIX:]}"


def is_plumbed(ifname: str, ifindex: int, links: Mapping[str, int]) -> bool:
    """Whether KubeVirt has not (yet) cleaned up after the interface, whose link had that index when it was attached.

    `links`: all of the pod, name to index.
    """
    has_placeholder = ifindex != 0 and links.get(ifname, ifindex) != ifindex
    return has_placeholder or any(one in links for one in plumbing(ifname))
