"""Pure: links that are born in the pod and live there alone (macvlan, vlan, tap …): known by their mark, an alias.

The pod may change the alias. Then only the journal's record, which has the link's index, knows it; and with the
pod's namespace such a link goes by itself.
"""

from __future__ import annotations

from agent import options
from agent.devices.contract import name_taken
from agent.links import Attributes, Have, Remove, Step, Where
from agent.model import Key


def attribute(key: Key) -> Attributes:
    """Return the mark, for the message that makes the link."""
    return (("IFLA_IFALIAS", options.mark(key)),)


def is_there(key: Key, have: Have) -> bool:
    """Whether the link is there. Raises CNIError 7 where its name is another's."""
    if have.pod is not None and have.pod.alias != options.mark(key):
        raise name_taken(key.ifname)
    return have.pod is not None


def removal(key: Key, have: Have) -> tuple[Step, ...]:
    ours = have.pod is not None and have.pod.alias == options.mark(key)
    return (Remove(have.pod, Where.IN_POD),) if have.pod is not None and ours else ()
