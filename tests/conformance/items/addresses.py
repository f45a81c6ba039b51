"""Items 42-47: addresses from an IPAM plugin."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from tests.conformance import fake_ipam
from tests.conformance.case import Attachment, Case, Level, item
from tests.conformance.sandbox import ip_json

MUST, SHOULD, FIELD = Level.MUST, Level.SHOULD, Level.FIELD
IPAM = ["interface", "ipam"]


def addresses(case: Case, at: Attachment) -> dict[str, dict[str, Any]]:
    """Return the addresses of the pod's interface, as `address/prefix`."""
    shown = (case.link(at) or {}).get("addr_info", [])
    return {f"{one['local']}/{one['prefixlen']}": one for one in shown if "local" in one}


def require_addresses(case: Case, at: Attachment, *wanted: str) -> None:
    there = addresses(case, at)
    for address in wanted:
        case.require(address in there, f"{at.ifname} has {sorted(there)}, {address} was given by IPAM")


@item("42", "An IPAM plugin that cannot be found is an error, and no interface is left", FIELD, "§4", needs=["ipam"])
def unknown_ipam(case: Case) -> None:
    at = case.attachment()
    case.refused(case.call("ADD", at, case.config({"ipam": {"type": "cfm-is-not-there"}})))
    case.require_no_links("by an ADD without its IPAM plugin", at)


@item("42d", "DEL after it succeeds, though the IPAM plugin cannot be found: it never gave an address", FIELD,
      "§2 DEL: 'generally complete without error'", needs=["ipam"])  # fmt: skip
def unknown_ipam_is_no_obstacle(case: Case) -> None:
    at, config = case.attachment(), case.config({"ipam": {"type": "cfm-is-not-there"}})
    case.refused(case.call("ADD", at, config))
    case.delete(at, config)
    case.require_clean("after DEL", at)


@item("42f", "An IPAM plugin that fails is an error, and no interface is left", FIELD, "§4", needs=["ipam"])
def failing_ipam(case: Case) -> None:
    at = case.attachment()
    case.ipam.misbehave("ADD", "refuse")
    case.refused(case.call("ADD", at, case.with_ipam()))
    case.require_no_links("by an ADD whose IPAM plugin failed", at)


@item("43", "When the IPAM plugin fails at ADD, its DEL is called before the failure is returned", SHOULD, "§4",
      needs=["ipam"])  # fmt: skip
def ipam_is_undone(case: Case) -> None:
    at = case.attachment()
    case.ipam.misbehave("ADD", "fail")
    case.refused(case.call("ADD", at, case.with_ipam()))
    case.require(case.ipam.calls("DEL"), "the IPAM plugin's DEL was not called")
    case.require(not case.ipam.records(), "the IPAM plugin still has the address")


@item("43d", "DEL calls the IPAM plugin's DEL once, with the same variables and the whole configuration", MUST, "§4",
      since="0.3.1", needs=["ipam"])  # fmt: skip
def ipam_delete(case: Case) -> None:
    at = case.attachment()
    config = case.with_ipam({"cfm.example/x": [1, {"y": "ü"}]})
    case.add(at, config)
    case.delete(at, config)
    _require_handed_on(case, at, "DEL", config)
    case.require(len(case.ipam.calls("DEL")) == 1, f"DEL of IPAM was called {len(case.ipam.calls('DEL'))} times")


@item("44", "An IPAM result without any address is an error, and the IPAM plugin's DEL is called", FIELD, "§4",
      needs=["ipam"])  # fmt: skip
def no_address(case: Case) -> None:
    at = case.attachment()
    case.ipam.answer(case.version, addresses=(), routes=())
    case.refused(case.call("ADD", at, case.with_ipam()))
    case.require(case.ipam.calls("DEL"), "the IPAM plugin's DEL was not called")
    case.require_no_links("by an ADD that was given no address", at)


@item("45", "The IPAM plugin gets the same variables and the whole configuration", MUST, "§4", since="0.3.1",
      needs=["ipam"])  # fmt: skip
def ipam_add(case: Case) -> None:
    at = case.attachment()
    config = case.with_ipam({"cfm.example/x": [1, {"y": "ü"}], "args": {"cni": {"ips": ["10.55.0.5"]}}})
    case.add(at, config, {"CNI_ARGS": "IgnoreUnknown=1;FOO=BAR"})
    _require_handed_on(case, at, "ADD", config)
    given = case.ipam.calls("ADD")[0].environ.get("CNI_ARGS", "")
    case.require(set(given.split(";")) == {"IgnoreUnknown=1", "FOO=BAR"}, f"the IPAM plugin got CNI_ARGS={given!r}")


def _require_handed_on(case: Case, at: Attachment, command: str, config: dict[str, Any]) -> None:
    seen = case.ipam.calls(command)
    case.require(seen, f"the IPAM plugin's {command} was not called")
    for name, value in case.environ(command, at).items():
        given = seen[0].environ.get(name)
        case.require(given == value, f"the IPAM plugin got {name}={given!r}, the plugin {value!r}")
    document = json.loads(seen[0].stdin)
    changed = [key for key, value in config.items() if document.get(key) != value]
    case.require(not changed, f"the IPAM plugin got another configuration: {changed} differ in {document}")


@item("45s", "What the IPAM plugin writes on stderr comes out on stderr", SHOULD, "§4", needs=["ipam"])
def ipam_stderr(case: Case) -> None:
    outcome = case.call("ADD", case.attachment(), case.with_ipam())
    case.require(fake_ipam.STDERR.encode() in outcome.stderr, f"stderr has no {fake_ipam.STDERR!r}")


@item("45a", "The addresses and routes of IPAM are in the kernel and in the result", MUST, "§5 ADD Success",
      since="0.3.1", needs=IPAM)  # fmt: skip
def addresses_and_routes(case: Case) -> None:
    at = case.attachment()
    result = case.add(at, case.with_ipam())
    require_addresses(case, at, "10.55.0.5/24")
    routes = ip_json("route", netns=at.netns)
    route = next((one for one in routes if one["dst"] == "10.66.0.0/16"), {})
    case.require(route.get("gateway") == "10.55.0.1", f"no route to 10.66.0.0/16 via 10.55.0.1 in {routes}")
    (address,) = result.get("ips") or [{}]
    case.require(address.get("address") == "10.55.0.5/24", f"the result has {result.get('ips')}")
    entry = result["interfaces"][address.get("interface", 0)]
    case.require(entry["name"] == at.ifname, f"the address belongs to {entry['name']} in the result, not {at.ifname}")
    case.require([one.get("dst") for one in result.get("routes") or []] == ["10.66.0.0/16"],
                 f"the result has {result.get('routes')}")  # fmt: skip


@item("46", "mtu, advmss, priority and table of a route are in the kernel, not in the result only", FIELD,
      "§5 ADD Success: routes", needs=IPAM)  # fmt: skip
def route_attributes(case: Case) -> None:
    at = case.attachment()
    wanted = {"dst": "10.66.0.0/16", "gw": "10.55.0.1", "mtu": 1300, "advmss": 1200, "priority": 42, "table": 100}
    case.ipam.answer(case.version, routes=[wanted])
    case.add(at, case.with_ipam())
    routes = ip_json("-d", "route", "show", "table", "all", netns=at.netns)
    route = next((one for one in routes if one["dst"] == "10.66.0.0/16"), {})
    metrics = {key: value for part in route.get("metrics", []) for key, value in part.items()}
    there = {"priority": route.get("metric"), "table": route.get("table"), **metrics}
    for key, value in (("mtu", 1300), ("advmss", 1200), ("priority", 42), ("table", "100")):
        case.require(there.get(key) == value, f"the route has {key}={there.get(key)}, not {value}: {route}")


@item("47", "An IPv6 address can be used when ADD returns, and is given though IPv6 is off by default", FIELD, "field",
      needs=IPAM)  # fmt: skip
def address_v6(case: Case) -> None:
    case.ipam.answer(case.version, [("fd55::5/64", "fd55::1")], [])
    for disabled in ("0", "1"):
        at = case.attachment()
        _set_disabled(case, at, disabled)
        case.add(at, case.with_ipam())
        there = {str(ipaddress.ip_interface(text)): one for text, one in addresses(case, at).items()}
        case.require("fd55::5/64" in there, f"with disable_ipv6={disabled} the interface has {sorted(there)}")
        case.require(not there["fd55::5/64"].get("tentative"), "the address is tentative when ADD returns")
        case.delete(at, case.with_ipam())  # before another pod on the same wire gets the address


def _set_disabled(case: Case, at: Attachment, value: str) -> None:
    case.node.shell(f"echo {value} > /proc/sys/net/ipv6/conf/default/disable_ipv6", at.netns)
