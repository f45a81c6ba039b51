"""Pure: links that are born in the pod and live there alone (macvlan, vlan, tap …): known by their mark, an alias.

Rules
1. The kernel takes no alias in the message that makes a link, of any kind; it does take a group. So a link is born in
   a group whose number is derived from the attachment, and gets the alias, and the usual group, by the next step. One
   that a crash left in between is known by its group.
2. Older kernels (6.1 does, 6.18 does not) refuse a name that a link has in the namespace which the message comes from,
   though the new one is born in another. There it is born under a derived name, and gets its own with the alias.
3. The pod may change the alias. Then only the journal's record, which has the link's index, knows it; and with the
   pod's namespace such a link goes by itself.
"""

from __future__ import annotations

import hashlib

from agent import options
from agent.devices.contract import name_taken
from agent.links import Attributes, Change, Have, Link, NamedLink, Read, Remove, Step, Where
from agent.model import Key

_NO_GROUP = 0


def newborn(key: Key) -> Attributes:
    """Return what marks a link in the message that makes it."""
    return (("IFLA_GROUP", _group(key)),)


def alias(key: Key) -> Attributes:
    """Return the mark itself."""
    return (("IFLA_IFALIAS", options.mark(key)),)


def reads(key: Key) -> tuple[Read, ...]:
    """Return what has to be known to make a link in the pod from the node, and to undo it (rule 2)."""
    return (NamedLink(key.ifname), NamedLink(_derived_name(key), Where.IN_POD))


def name_at_birth(key: Key, have: Have) -> str:
    """Return the name for the message that makes the link from the node."""
    return key.ifname if have.link(key.ifname) is None else _derived_name(key)


def is_there(key: Key, have: Have) -> bool:
    """Whether the link is there. Raises CNIError 7 where its name is another's."""
    if have.pod is not None and not _is_ours(key, have):
        raise name_taken(key.ifname)
    return have.pod is not None


def steps(key: Key, pod: Link | None, born: str = "") -> tuple[Step, ...]:
    """Return what gives the link, or one that is about to be `born` under that name, its alias and its name."""
    if pod is not None and pod.alias == options.mark(key):
        return ()
    named: Attributes = (("IFLA_IFNAME", key.ifname),) if born not in ("", key.ifname) else ()
    return (Change(born or key.ifname, Where.IN_POD, (*named, *alias(key), ("IFLA_GROUP", _NO_GROUP))),)


def leftover(key: Key, have: Have) -> tuple[Step, ...]:
    """Return what removes a link that a crash left under the name of its birth."""
    link = have.link(_derived_name(key), Where.IN_POD)
    return (Remove(link, Where.IN_POD),) if link is not None and link.group == _group(key) else ()


def removal(key: Key, have: Have) -> tuple[Step, ...]:
    ours = have.pod is not None and _is_ours(key, have)
    return (*((Remove(have.pod, Where.IN_POD),) if have.pod is not None and ours else ()), *leftover(key, have))


def _derived_name(key: Key) -> str:
    return options.host_name(key, "hb")


def _is_ours(key: Key, have: Have) -> bool:
    assert have.pod
    return have.pod.alias == options.mark(key) or (not have.pod.alias and have.pod.group == _group(key))


def _group(key: Key) -> int:
    """Never the usual one, and positive also to those who read it as a signed number."""
    digest = hashlib.sha256(f"{key.container_id}/{key.ifname}/group".encode()).digest()
    return 1 << 30 | int.from_bytes(digest[:4], "big") >> 2
