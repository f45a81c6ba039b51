"""Pure: bandwidth, shaped as the plugin `bandwidth` does it, on the link that the attachment has for that.

That is its host end where it has one (a veth's other end): there no pod can change anything. Otherwise it is the
interface in the pod itself, which a pod with the capability NET_ADMIN can free of it.

Rules
1. What the shaped link sends waits in a token bucket (qdisc tbf) on it. What it receives cannot wait there: it is
   redirected to a companion (a link of kind ifb), whose token bucket lets it go on. A policer would need no companion,
   but drops where this waits: the whole of a segmented burst of TCP that is larger than the bucket.
2. The buckets and the redirection go with the shaped link. The companion does not; it is known by its derived name and
   MAC, and is removed with the attachment, from either namespace.
3. A bucket holds at least one frame, or nothing would ever pass.
4. Where no wish is said nothing is asked of the kernel, and what is there stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.links import Bandwidth, Create, Have, Interface, NamedLink, Rate, Read, Remove, Step, Where

LATENCY_MS = 25  # how long a frame may wait besides for the burst before it, as in the plugin `bandwidth`
_HEADERS = 18  # bytes: Ethernet with a VLAN tag
_DEFAULT_MTU = 1500
_WIDEST = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: bytes a second, bytes that may wait, bytes that may go at once (which the kernel rounds)."""

    rate: int
    limit: int
    burst: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Queue:
    """A read: the Bucket that a link sends through, None where it has none."""

    name: str
    where: Where


@dataclass(frozen=True, slots=True)
class Redirection:
    """A read: the index of the companion that takes what the link receives; 0 where there is none."""

    name: str
    where: Where


@dataclass(frozen=True, slots=True)
class Shape:
    """Let a link send through this bucket; None: through none."""

    name: str
    where: Where
    bucket: Bucket | None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Let the companion `to` take what a link receives; "": let nobody."""

    name: str
    where: Where
    to: str = ""


def reads(want: Interface, host_end: str) -> tuple[Read, ...]:
    """Return what `plan` and `mismatches` look at. `host_end`: the link on the node that is shaped; "": none is."""
    if want.bandwidth is None or not want.bandwidth.said:
        return ()
    name, where = _shaped(want, host_end)
    companion = want.bandwidth.companion
    return Queue(name, where), Redirection(name, where), NamedLink(companion, where), Queue(companion, where)


def plan(want: Interface, have: Have, host_end: str) -> tuple[Step, ...]:
    """Return the steps that shape a link that is there, or is by then."""
    if want.bandwidth is None or not want.bandwidth.said:
        return ()
    name, where = _shaped(want, host_end)
    sent, received = _buckets(want, have, host_end)
    steps = () if have.facts.get(Queue(name, where)) == sent else (Shape(name, where, sent),)
    if received is None:
        return *steps, *_unredirect(want.bandwidth, have, name, where)
    return *steps, *_redirect(want.bandwidth, have, name, where, received)


def mismatches(want: Interface, have: Have, host_end: str) -> tuple[str, ...]:
    """Return what CHECK reports."""
    return tuple(_lost(want, have, host_end)) if want.bandwidth is not None and want.bandwidth.said else ()


def leftovers(want: Interface) -> tuple[Read, ...]:
    """Return what `removal` looks at."""
    if want.bandwidth is None:
        return ()
    return tuple(NamedLink(want.bandwidth.companion, where) for where in Where)


def removal(want: Interface, have: Have) -> tuple[Step, ...]:
    """Return the steps that remove what does not go with the shaped link."""
    if want.bandwidth is None:
        return ()
    return tuple(step for where in Where for step in _remove_companion(want.bandwidth, have, where))


def _shaped(want: Interface, host_end: str) -> tuple[str, Where]:
    return (host_end, Where.NODE) if host_end else (want.ifname, Where.IN_POD)


def _buckets(want: Interface, have: Have, host_end: str) -> tuple[Bucket | None, Bucket | None]:
    """Return the buckets for what the shaped link sends, and for what it receives."""
    assert want.bandwidth
    mtu = want.mtu or (have.pod.mtu if have.pod else _DEFAULT_MTU)
    into_pod, out_of_pod = (_bucket(rate, mtu) for rate in (want.bandwidth.ingress, want.bandwidth.egress))
    return (into_pod, out_of_pod) if host_end else (out_of_pod, into_pod)


def _bucket(rate: Rate | None, mtu: int) -> Bucket | None:
    if rate is None:
        return None
    burst = max(rate.burst // 8, mtu + _HEADERS)
    per_second = rate.rate // 8
    return Bucket(per_second, min(per_second * LATENCY_MS // 1000 + burst, _WIDEST), burst)


def _redirect(bandwidth: Bandwidth, have: Have, name: str, where: Where, bucket: Bucket) -> Iterator[Step]:
    companion = have.link(bandwidth.companion, where)
    if companion is None:
        mac = (("IFLA_ADDRESS", bandwidth.companion_mac),)
        yield Create(bandwidth.companion, "ifb", where, attributes=mac, up=True)
    if have.facts.get(Queue(bandwidth.companion, where)) != bucket:
        yield Shape(bandwidth.companion, where, bucket)
    if companion is None or have.facts.get(Redirection(name, where)) != companion.index:
        yield Redirect(name, where, bandwidth.companion)


def _unredirect(bandwidth: Bandwidth, have: Have, name: str, where: Where) -> Iterator[Step]:
    if have.facts.get(Redirection(name, where)):
        yield Redirect(name, where)
    yield from _remove_companion(bandwidth, have, where)


def _remove_companion(bandwidth: Bandwidth, have: Have, where: Where) -> Iterator[Step]:
    companion = have.link(bandwidth.companion, where)
    if companion is not None and (companion.kind, companion.mac) == ("ifb", bandwidth.companion_mac):
        yield Remove(companion, where)


def _lost(want: Interface, have: Have, host_end: str) -> Iterator[str]:
    assert want.bandwidth
    name, where = _shaped(want, host_end)
    sent, received = _buckets(want, have, host_end)
    companion = have.link(want.bandwidth.companion, where)
    if have.facts.get(Queue(name, where)) != sent:
        yield f"{'ingress' if host_end else 'egress'} is not shaped to {_shown(sent)} on {name}"
    redirected = companion is not None and have.facts.get(Redirection(name, where)) == companion.index
    queue = have.facts.get(Queue(want.bandwidth.companion, where))
    if redirected != (received is not None) or queue != received:
        yield f"{'egress' if host_end else 'ingress'} is not shaped to {_shown(received)} on {name}"


def _shown(bucket: Bucket | None) -> str:
    return "nothing" if bucket is None else f"{bucket.rate * 8} bit/s"
