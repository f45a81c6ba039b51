"""The device `networks`: last in the chain of a pod's own network, it has the pod's networks attached before its start.

    {"type": "hotnic", "device": "networks", "capabilities": {"io.kubernetes.cri.pod-annotations": true},
     "waitSeconds": 10, "require": false}

The container runtime calls its ADD when the pod's own network is made and none of its containers has been. It makes
nothing itself and passes the result on: what makes the networks is a pass of the engine, as at any later edit.

Rules
1. The annotations that the runtime hands over (hence the capability) say whether there is anything to wait for. A pod
   without networks, one that the API server did not bring (its UID is another there), and a caller that names no pod
   are not kept waiting.
2. ADD ends once a pass over this sandbox is done, whatever came of it: a network that is pending does not keep a pod
   from its start, hotplug catches up. So it does where there is no controller, or none that answers in `waitSeconds`.
3. With `require` it fails instead, with code 11, until all that the pod asks for is attached.
4. From ADD to DEL the sandbox is known by these calls, as the runtime does not list it yet, or lists it still.
5. DEL lets the engine detach everything from the sandbox and waits for that, but not for a plugin that fails: the
   journal remembers that, and a pod is not kept from its end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent import netns
from agent.journal import Journal
from agent.model import ContainerID, Origin, Outcome, Pod, PodUID, State
from agent.outcomes import Outcomes
from agent.sandboxes import Sandbox, Sandboxes
from cni import errors, multinet, request
from cni.fields import FieldError, Fields

DEVICE = "networks"
CAPABILITY = "io.kubernetes.cri.pod-annotations"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
SOURCE = "kubernetes.io/config.source"  # the kubelet's own annotation: where it has the pod from
WAIT_S, LONGEST_WAIT_S = 10, 20  # the CNI executable itself waits for 30 s
DETACH_S = 10.0
LOOK_S = 0.25  # how late a controller's end is noticed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    wait_s: int = WAIT_S
    require: bool = False


def is_meant(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of type hotnic is this device's."""
    return config.get("device") == DEVICE


def options(config: Mapping[str, Any]) -> Options:
    """Read the configuration. Raises CNIError 7 naming the key that is wrong."""
    fields = Fields(config)
    try:
        wait_s = fields.number("waitSeconds", 0, LONGEST_WAIT_S)
        require = config.get("require")
        if not isinstance(require, bool | None):
            raise fields.error("require", "is not a boolean")
        declared = fields.object("capabilities")
    except FieldError as problem:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, str(problem)) from None
    if declared is None or declared.document.get(CAPABILITY) is not True:
        message = f'device {DEVICE} needs "capabilities": {{"{CAPABILITY}": true}}'
        raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
    return Options(WAIT_S if wait_s is None else wait_s, bool(require))


def awaited(config: Mapping[str, Any], args: Mapping[str, str]) -> PodUID | None:
    """Return the pod whose networks are to be waited for, None for none (rule 1)."""
    runtime = config.get("runtimeConfig")
    annotations = runtime.get(CAPABILITY) if isinstance(runtime, Mapping) else None
    if not isinstance(annotations, Mapping) or annotations.get(SOURCE, "api") != "api":
        return None
    try:
        elements = multinet.parse(str(annotations.get(NETWORKS) or ""), args.get("K8S_POD_NAMESPACE", ""))
    except multinet.AnnotationError:
        return None  # nothing is attached for it, and the controller tells why
    return PodUID(args["K8S_POD_UID"]) if elements and args.get("K8S_POD_UID") else None


def is_about(outcome: Outcome | None, sandbox: ContainerID) -> bool:
    """Whether the outcome is what came of a whole pass over this sandbox."""
    return outcome is not None and outcome.settled and outcome.sandbox == sandbox


def missing(outcome: Outcome) -> tuple[str, ...]:
    """Return what the pod asks for and has not got, each with its cause."""
    return tuple(
        f"{one.interface or one.network}: {one.message or one.reason}"
        for one in outcome.attachments
        if one.state in {State.PENDING, State.REFUSED} and one.result is None  # else it waits for a guest to start
    )


class Networks:
    """Serves the device's verbs. `look` starts a pass over a pod."""

    def __init__(
        self, journal: Journal, sandboxes: Sandboxes, outcomes: Outcomes, look: Callable[[PodUID], None]
    ) -> None:
        self._journal = journal
        self._sandboxes = sandboxes
        self._outcomes = outcomes
        self._look = look

    def add(self, call: request.Request, fd: int) -> Mapping[str, Any]:
        """Return the result of the plugins before. Raises CNIError 7, and 11 (rule 3)."""
        wish = options(call.config.raw)
        if call.config.prev_result is None:
            message = f"device {DEVICE} goes behind the plugins that make the pod's own network: there is no prevResult"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        sandbox = Sandbox(ContainerID(call.container_id), netns.identify(fd, call.netns))
        if uid := call.args.get("K8S_POD_UID"):
            pod = Pod(PodUID(uid), call.args.get("K8S_POD_NAMESPACE", ""), call.args.get("K8S_POD_NAME", ""))
            self._sandboxes.begin(pod, sandbox)
        if awaited_uid := awaited(call.config.raw, call.args):
            lacking = self._wait(awaited_uid, sandbox.id, wish.wait_s)
            if lacking:
                log.warning("%s of pod %s starts without: %s", sandbox.id, awaited_uid, "; ".join(lacking))
            if lacking and wish.require:
                raise errors.CNIError(errors.Code.TRY_AGAIN, f"networks of the pod: {'; '.join(lacking)}")
        return {**call.config.prev_result, "cniVersion": call.config.cni_version}

    def delete(self, call: request.Request) -> None:
        """Have everything that annotations asked for detached from the sandbox (rule 5)."""
        sandbox = ContainerID(call.container_id)
        self._sandboxes.end(sandbox)
        deadline = time.monotonic() + DETACH_S
        for uid in self._attached_to(sandbox):
            self._look(uid)
            self._outcomes.wait_for(uid, lambda _: not self._attached_to(sandbox), deadline - time.monotonic())
        if left := self._attached_to(sandbox):
            log.warning("sandbox %s of %s ends with interfaces that are not detached yet", sandbox, ", ".join(left))

    def _wait(self, uid: PodUID, sandbox: ContainerID, wait_s: float) -> tuple[str, ...]:
        """Return what the pod lacks once a pass is done, or why none is."""
        deadline = time.monotonic() + wait_s
        self._look(uid)
        while (rest := deadline - time.monotonic()) > 0:
            if self._journal.desired(uid) is None and not self._outcomes.is_watched():
                return ("the controller is not connected to the agent",)
            outcome = self._outcomes.wait_for(uid, lambda one: is_about(one, sandbox), min(rest, LOOK_S))
            if outcome is not None:
                return missing(outcome)
        return (f"no word from the controller or of its networks in {wait_s} s",)

    def _attached_to(self, sandbox: ContainerID) -> set[PodUID]:
        records = self._journal.of_sandbox(sandbox)
        return {record.pod.uid for record in records if record.pod and record.origin is not Origin.RUNTIME}
