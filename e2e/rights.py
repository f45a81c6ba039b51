"""What a container may do, read from the manifest, for a process of a lane that takes its place.

Rule 1: the manifest is the only source of capabilities, no_new_privs, group and seccomp profile. The user is root: as
        another one a process outside of containers could not read where Python may lie.
Rule 2: a container that says nothing of its capabilities is an error, not a free one.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parent.parent / "manifests"
BASE = MANIFESTS / "base"
NODE, CLUSTER = BASE / "daemonset.yaml", MANIFESTS / "components/kubevirt/deployment.yaml"
PROFILES = {"hotnic/agent.json": BASE / "seccomp/hotnic-agent.json"}


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of one container; capabilities are named as in the manifest (NET_ADMIN)."""

    capabilities: frozenset[str]
    group: int | None  # supplementary, of the whole pod
    profile: Path | None  # None: the container runtime's own, which a process outside of containers has not got

    def without(self, capability: str) -> "Rights":
        """Return the same with one capability less."""
        return replace(self, capabilities=self.capabilities - {capability})

    def command(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command line that executes `argv` with these rights, as root."""
        kept = ",".join(["-all", *(f"+{name.lower()}" for name in sorted(self.capabilities))])
        groups = "--clear-groups" if self.group is None else f"--groups={self.group}"
        drop = ("setpriv", "--bounding-set", kept, "--inh-caps=-all", "--no-new-privs", groups, "--")
        filtered = (
            (sys.executable, "-I", str(Path(__file__).with_name("confined.py")), str(self.profile))
            if self.profile
            else ()
        )
        return (*drop, *filtered, *argv)


def of(container: str, manifest: Path = NODE) -> Rights:
    """Return what the manifest gives a container. Raises ValueError for what it leaves open."""
    pod = read(manifest)["spec"]["template"]["spec"]
    whole = pod.get("securityContext", {})
    context = next(one for one in pod["containers"] if one["name"] == container)["securityContext"]
    capabilities = context.get("capabilities", {})
    if (
        capabilities.get("drop") != ["ALL"]
        or context.get("privileged")
        or context.get("allowPrivilegeEscalation", True)
    ):
        raise ValueError(f"{container}: its rights are not bounded")
    return Rights(frozenset(capabilities.get("add", ())), whole.get("fsGroup"), _profile({**whole, **context}))


def read(manifest: Path) -> dict[str, Any]:
    """Return the one object of a manifest."""
    document: dict[str, Any] = yaml.safe_load(manifest.read_text())
    return document


def _profile(context: Mapping[str, Any]) -> Path | None:
    profile = context["seccompProfile"]
    return PROFILES[profile["localhostProfile"]] if profile["type"] == "Localhost" else None
