"""Adoption, done: look into a sandbox, and claim in the journal what a runtime attached because an annotation
asked (agent.adopt decides). From then on it is an attachment like our own, and can be unplugged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from agent import adopt, cache, netns, network
from agent.attach import adopted
from agent.journal import Journal
from agent.model import Asked, ContainerID, Desired, Key, Origin, Phase, Record
from agent.netlink import Kernel
from agent.sandboxes import Sandbox
from cni import errors

Cached = Callable[[ContainerID], Sequence[cache.Cached]]

log = logging.getLogger(__name__)


class Claims:
    """Looks into each sandbox once, and again when a wish meets an interface that is there already."""

    def __init__(self, journal: Journal, kernel: Kernel, view: netns.View, cached: Cached) -> None:
        self._journal = journal
        self._kernel = kernel
        self._view = view
        self._cached = cached

    def claim_once(self, desired: Desired, sandbox: Sandbox) -> Desired:
        """Claim, unless this sandbox was looked into before."""
        return desired if sandbox.id in desired.examined else self.claim(desired, sandbox, desired.asked)

    def claim(self, desired: Desired, sandbox: Sandbox, asked: Sequence[Asked]) -> Desired:
        """Adopt what these wishes asked for in this sandbox; return the desired set, which remembers that it was done.

        A wish that an attachment fulfils already must not be among them: it would claim another one.
        """
        served = {one.key.ifname: one for one in self._journal.of_sandbox(sandbox.id)}
        bases = {one.ifname: _from_cache(one, sandbox) for one in self._cached(sandbox.id) if one.ifname not in served}
        bases |= {name: one for name, one in served.items() if one.origin is Origin.RUNTIME}
        candidates = [adopt.Candidate(network.name(base.config, ""), ifname) for ifname, base in bases.items()]
        links = self.links(sandbox) or {}
        for claim in adopt.claims(asked, candidates, links):
            record = adopted(bases[claim.ifname], claim.asked.element, desired.pod, links[claim.ifname])
            self._journal.begin(record, durable=True)
            log.info("pod %s: adopted %s, attached by the runtime", desired.pod, record.key)
        return self._journal.want(
            desired.pod.uid, lambda now: replace(now or desired, examined=(*(now or desired).examined[-7:], sandbox.id))
        )

    def links(self, sandbox: Sandbox) -> Mapping[str, int] | None:
        """Return the interfaces that are in the sandbox now, name to index; None where nobody can tell."""
        try:
            with self._view.opened(sandbox.namespace.path) as fd:
                return {link.name: link.index for link in self._kernel.pod_links(fd)}
        except (OSError, errors.CNIError):
            return None  # the sandbox went away; each attachment will say so


def _from_cache(cached: cache.Cached, sandbox: Sandbox) -> Record:
    return Record(
        key=Key(sandbox.id, cached.ifname),
        origin=Origin.RUNTIME,
        phase=Phase.ATTACHED,
        network="",
        element="",
        config=cached.config_text,
        namespace=sandbox.namespace,
        args=cached.cni_args,
        runtime=cached.capability_args,
        result=cached.result,
    )
