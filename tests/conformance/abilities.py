"""What a plugin can do with the configuration it is tried with: items about anything else do not apply.

An ability is observed, never believed: each is one ADD, and a look at the kernel and at the fake IPAM plugin. Why an
ability is not there is what a scorecard says of the items that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from tests.conformance.case import Case, Violation, World, named_in

MAC = "02:cf:00:00:00:01"
MTU = 1400
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")

Abilities = Mapping[str, str]
"""Name of an ability to why it is not there; empty where it is."""


def observe(world: World, version: str, wanted: Collection[str]) -> Abilities:
    """Try what is wanted. Raises KeyError for an ability that nobody knows how to try."""
    return {name: _try(_LOOKS[name], world, version) for name in sorted(wanted)}


def supported_versions(world: World) -> tuple[str, ...]:
    """Return what VERSION says; nothing where it says nothing that can be read."""
    case = Case(world, VERSIONS[-1])
    try:
        listed = case.call("VERSION", config={"cniVersion": VERSIONS[-1]}).document().get("supportedVersions")
    except ValueError:
        return ()
    finally:
        case.close()
    return tuple(str(one) for one in listed) if isinstance(listed, list) else ()


def with_mac(case: Case, mac: Any) -> dict[str, Any]:
    """Return the configuration that a runtime derives for a requested MAC (convention `mac`)."""
    return case.config({"capabilities": {"mac": True}, "runtimeConfig": {"mac": mac}})


def _try(look: Callable[[Case], str], world: World, version: str) -> str:
    case = Case(world, version)
    try:
        return look(case)
    except Violation as problem:
        return f"{problem}: {case.node.commands[-1]}"
    finally:
        case.close()


def _interface(case: Case) -> str:
    at = case.attachment()
    case.add(at)
    return "" if case.link(at) else "its ADD makes no interface CNI_IFNAME in the namespace"


def _layer_two(case: Case) -> str:
    case.add(case.attachment(), case.config(None, "ipam"))
    return ""


def _ipam(case: Case) -> str:
    case.add(case.attachment(), case.with_ipam())
    return "" if case.ipam.calls("ADD") else "it asks no IPAM plugin"


def _mac(case: Case) -> str:
    at = case.attachment()
    case.add(at, with_mac(case, MAC))
    return "" if (case.link(at) or {}).get("address") == MAC else "it does not honour runtimeConfig.mac"


def _mtu(case: Case) -> str:
    at = case.attachment()
    case.add(at, case.config({"mtu": MTU}))
    return "" if (case.link(at) or {}).get("mtu") == MTU else "it does not honour mtu"


def _host_end(case: Case) -> str:
    case.add(case.attachment())
    new = set(case.node.links()) - set(case.before.links) - named_in(case.world.base)
    return "" if new else "it makes no link on the node"


def _key(name: str) -> Callable[[Case], str]:
    return lambda case: "" if case.world.base.get(name) else f"the configuration has no {name}"


def _daemon(case: Case) -> str:
    return "" if case.world.daemon else "no daemon was given with --before"


_LOOKS: Mapping[str, Callable[[Case], str]] = {
    "interface": _interface,
    "l2": _layer_two,
    "ipam": _ipam,
    "mac": _mac,
    "mtu": _mtu,
    "host end": _host_end,
    "bridge": _key("bridge"),
    "master": _key("master"),
    "daemon": _daemon,
}
