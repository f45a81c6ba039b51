"""Items 26-41 and 48-49: ADD, its result, and what the kernel has afterwards."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conformance import abilities, plugin
from tests.conformance.case import ABSENT_BRIDGE, Attachment, Case, Level, item
from tests.conformance.sandbox import kind_of

MUST, SHOULD, FIELD = Level.MUST, Level.SHOULD, Level.FIELD
AT_ONCE = 20


def made(case: Case, at: Attachment) -> dict[str, Any]:
    """Return the pod's interface, which has to be there."""
    link = case.link(at)
    case.require(link is not None, f"there is no {at.ifname} in the namespace")
    return link or {}


def listed(case: Case, result: dict[str, Any], at: Attachment) -> dict[str, Any]:
    """Return the result's entry for the pod's interface, which has to be there."""
    entries = [one for one in result.get("interfaces") or [] if one.get("name") == at.ifname and one.get("sandbox")]
    case.require(len(entries) == 1, f"{len(entries)} interfaces of the result are {at.ifname} in a sandbox")
    return dict(entries[0])


@item("26", "ADD makes CNI_IFNAME, and its result has the request's cniVersion", MUST, "§2 ADD, §5", since="0.3.1")
def interface(case: Case) -> None:
    at = case.attachment()
    result = case.add(at)
    made(case, at)
    case.require(result.get("cniVersion") == case.version, f"the result's cniVersion is {result.get('cniVersion')!r}")


@item("26u", "The interface is up", FIELD, "§2 Overview: 'ensure it has connectivity'", needs=["interface"])
def up(case: Case) -> None:
    at = case.attachment()
    case.add(at)
    case.require("UP" in made(case, at)["flags"], "the interface is down")


@item("27", "The result lists the interface with the kernel's MAC; host ends have no sandbox; ips point into the list",
      MUST, "§5 ADD Success", since="0.3.1", needs=["interface"])  # fmt: skip
def result_interfaces(case: Case) -> None:
    at = case.attachment()
    result = case.add(at)
    entry, link = listed(case, result, at), made(case, at)
    case.require(str(entry.get("mac", "")).lower() == link["address"],
                 f"the result has MAC {entry.get('mac')!r}, the kernel {link['address']}")  # fmt: skip
    on_node = case.node.links()
    for one in result["interfaces"]:
        if not one.get("sandbox"):
            case.require(one.get("name") in on_node, f"interface {one.get('name')!r} of the result is not on the node")
    for one in result.get("ips") or []:
        index = one.get("interface", 0)
        case.require(0 <= index < len(result["interfaces"]), f"ips has interface {index}, which is not in the list")


@item("27s", "The sandbox in the result is CNI_NETNS verbatim", SHOULD, "§5 ADD Success", needs=["interface"])
def sandbox_verbatim(case: Case) -> None:
    at = case.attachment()
    at = replace(at, netns=at.netns.replace("/run/", "/run/../run/./", 1))
    entry = listed(case, case.add(at), at)
    case.require(entry["sandbox"] == at.netns, f"sandbox is {entry['sandbox']!r}, CNI_NETNS was {at.netns!r}")


@item("28", "The result has the interface's MTU, as in the kernel", FIELD, "§5 ADD Success: mtu, 'if applicable'",
      needs=["interface"])  # fmt: skip
def result_mtu(case: Case) -> None:
    at = case.attachment()
    entry = listed(case, case.add(at), at)
    mtu = made(case, at)["mtu"]
    case.require(entry.get("mtu") == mtu, f"mtu in the result is {entry.get('mtu')!r}, in the kernel {mtu}")


@item("29", "Addresses in the result have `version` up to 0.4.0, and not after", MUST, "§5; 0.4.0 Result",
      since="0.3.1", needs=["ipam"])  # fmt: skip
def address_version(case: Case) -> None:
    result = case.add(case.attachment(), case.with_ipam())
    case.require(result.get("ips"), "the result has no ips")
    for one in result["ips"]:
        wanted = "4" if case.version < "1" else None
        case.require(one.get("version") == wanted, f"an address has version {one.get('version')!r}, {wanted!r} is due")


@item("29k", "A result before 1.1.0 has no key that came with 1.1.0", FIELD, "§5", since="0.3.1", needs=["interface"])
def later_keys(case: Case) -> None:
    if case.version >= "1.1":
        return
    result = case.add(case.attachment())
    found = {key for one in result.get("interfaces") or [] for key in ("mtu", "socketPath", "pciID") if key in one}
    case.require(not found, f"interfaces have {sorted(found)} in a result of version {case.version}")


@item("30", "In 0.2.0, which has no result without addresses, L2 is refused before anything is made", FIELD, "0.2.0",
      needs=["l2"])  # fmt: skip
def too_old_for_layer_two(case: Case) -> None:
    for config in (case.config({"cniVersion": "0.2.0"}, "ipam"), case.config(None, "ipam", "cniVersion")):
        at = case.attachment()
        case.refused(case.call("ADD", at, config))
        case.require_clean("by an ADD of a version without L2 results, which was refused", at)


def _taken(case: Case, at: Attachment) -> dict[str, Any]:
    """Make a link of the name in the pod; return it as the kernel describes it."""
    case.node.change("link", "add", at.ifname, "type", "veth", "peer", "name", "cfm-other", netns=at.netns)
    return made(case, at)


@item("31", "An interface of the name that is there already is an error, and stays as it is", MUST, "§2 ADD",
      since="0.3.1")  # fmt: skip
def name_taken(case: Case) -> None:
    at = case.attachment()
    before = _taken(case, at)
    case.refused(case.call("ADD", at))
    case.require(case.link(at) == before, f"the link was {before}, and is {case.link(at)}")


@item("31s", "An ADD that was refused for that leaves no other link", FIELD, "§2 ADD")
def name_taken_leaves_nothing(case: Case) -> None:
    at = case.attachment()
    _taken(case, at)
    outcome = case.call("ADD", at)
    inside = sorted(set(case.node.links(at.netns)) - {"lo", at.ifname, "cfm-other"})
    case.require(not inside, f"in the pod there is {inside} now")
    case.require(not outcome.ok, "ADD succeeds, an error is due")
    case.require_clean("by the ADD")


@item("32", "A CNI_NETNS that does not exist is an error, and nothing is left", MUST, "§2 ADD")
def no_namespace(case: Case) -> None:
    case.refused(case.call("ADD", case.elsewhere("/run/netns/cfm-is-not-there")))
    case.require_clean("by the ADD")
    case.require(not Path("/run/netns/cfm-is-not-there").exists(), "the path exists now")


@item("33", "A CNI_NETNS that is a file or a directory is an error", MUST, "§2 ADD")
def no_namespace_but_a_file(case: Case) -> None:
    for path in ("/etc/passwd", "/"):
        case.refused(case.call("ADD", case.elsewhere(path)))
    case.require_clean("by the ADDs")


@item("34", "A CNI_NETNS that is the node's own is an error, before anything is done", FIELD, "§2 Parameters")
def own_namespace(case: Case) -> None:
    case.refused(case.call("ADD", case.elsewhere("/proc/self/ns/net")), [8, 4, 7])
    case.require_clean("in the node's namespace")


@item("34o", "With CNI_NETNS_OVERRIDE=1 it is allowed", FIELD, "pkg/skel", needs=["interface"])
def own_namespace_allowed(case: Case) -> None:
    at = case.elsewhere("/proc/self/ns/net")
    case.add(at, env={"CNI_NETNS_OVERRIDE": "1"})
    case.require(case.node.links().get(at.ifname), f"there is no {at.ifname} in the node's namespace")
    case.call("DEL", at, env={"CNI_NETNS_OVERRIDE": "1"})


@item("35", "CNI_NETNS may be /proc/PID/ns/net, a symbolic link or another bind mount", MUST, "§2 Parameters")
def forms_of_a_path(case: Case) -> None:
    at = case.attachment()
    link, mount = Path("/run/netns/cfm-symlink"), Path("/run/cni/cfm-mount")
    link.symlink_to(at.netns)
    mount.touch()
    subprocess.run(["mount", "--bind", at.netns, str(mount)], check=True)
    sleeper = subprocess.Popen(["nsenter", f"--net={at.netns}", "sleep", "infinity"])
    try:
        while Path(f"/proc/{sleeper.pid}/ns/net").stat().st_ino != Path(at.netns).stat().st_ino:
            pass  # nsenter is not there yet
        for number, path in enumerate((f"/proc/{sleeper.pid}/ns/net", link, mount)):
            one = replace(at, container=f"{at.container}-{number}", netns=str(path))
            case.add(one)
            case.require(case.link(at), f"there is no {at.ifname} in {path}")
            case.delete(one)
            case.require(case.link(at) is None, f"DEL leaves {at.ifname} in {path}")
    finally:
        sleeper.kill()
        sleeper.wait()
        subprocess.run(["umount", str(mount)], check=True)
        mount.unlink()
        link.unlink()


@item("36", "runtimeConfig.mac is honoured, in upper case and with dashes too; the result has it in lower case", FIELD,
      "CONVENTIONS mac", needs=["mac"])  # fmt: skip
def requested_mac(case: Case) -> None:
    for spelt in (abilities.MAC.upper(), abilities.MAC.replace(":", "-")):
        at = case.attachment()
        result = case.add(at, abilities.with_mac(case, spelt))
        case.require(made(case, at)["address"] == abilities.MAC, f"{spelt} was asked for")
        mac = listed(case, result, at).get("mac")
        case.require(mac == abilities.MAC, f"the result's MAC is {mac!r}")
        case.delete(at)


@item("36i", "A requested MAC that no interface can have is an error with code 7, and nothing is made", FIELD,
      "CONVENTIONS mac, §5 Error", needs=["mac"])  # fmt: skip
def impossible_mac(case: Case) -> None:
    for mac in ("nonsense", "01:00:5e:00:00:01", "00:00:00:00:00:00"):
        at = case.attachment()
        case.refused(case.call("ADD", at, abilities.with_mac(case, mac)), [7])
        case.require_clean(f"by an ADD with MAC {mac}, which was refused", at)


@item("37", "The MAC of runtimeConfig beats that of args.cni, which beats that of CNI_ARGS", FIELD, "CONVENTIONS",
      needs=["mac"])  # fmt: skip
def order_of_macs(case: Case) -> None:
    runtime, generic, variable = (f"02:cf:00:00:01:0{number}" for number in (1, 2, 3))
    env = {"CNI_ARGS": f"IgnoreUnknown=1;MAC={variable}"}
    args = {"args": {"cni": {"mac": generic}}}
    everything = {**args, "capabilities": {"mac": True}, "runtimeConfig": {"mac": runtime}}
    for config, wanted in ((case.config(everything), runtime), (case.config(args), generic), (case.config(), variable)):
        at = case.attachment()
        case.add(at, config, env)
        mac = made(case, at)["address"]
        case.require(mac == wanted, f"the interface has {mac}, {wanted} was asked for")
        case.delete(at, config)


@item("38", "mtu is that of both ends", FIELD, "field", needs=["mtu"])
def mtu(case: Case) -> None:
    at = case.attachment()
    case.add(at, case.config({"mtu": abilities.MTU}))
    case.require(made(case, at)["mtu"] == abilities.MTU, f"the interface has MTU {made(case, at)['mtu']}")
    other_end = made(case, at).get("link_index") if kind_of(made(case, at)) == "veth" else None
    for name, link in case.node.links().items():
        if link["ifindex"] == other_end and name not in case.before.links:
            case.require(link["mtu"] == abilities.MTU, f"the host end {name} has MTU {link['mtu']}")


@item("38m", "An mtu beyond the master's is an error with code 7, and nothing is made", FIELD, "§5 Error",
      needs=["master", "mtu"])  # fmt: skip
def mtu_beyond_master(case: Case) -> None:
    at = case.attachment()
    case.refused(case.call("ADD", at, case.config({"mtu": 1501})), [7])
    case.require_clean("by an ADD that was refused", at)


@item("39", "A bridge that is not there is made, or its absence is an error", FIELD, "field", needs=["bridge"])
def bridge_missing(case: Case) -> None:
    at, config = case.attachment(), case.config({"bridge": ABSENT_BRIDGE})
    outcome = case.call("ADD", at, config)
    if outcome.ok:
        bridge = case.node.links().get(ABSENT_BRIDGE, {})
        case.require(kind_of(bridge) == "bridge", "ADD succeeds, but there is no bridge")
        case.require("UP" in bridge["flags"], "the bridge is down")
    else:
        case.refused(outcome, [7, 50, 11])
        case.require_clean("by an ADD without its bridge", at)


@item("39k", "Something else under the bridge's name is an error with code 7, and nothing is made", FIELD, "§5 Error",
      needs=["bridge"])  # fmt: skip
def no_bridge_but_a_link(case: Case) -> None:
    case.node.change("link", "add", ABSENT_BRIDGE, "type", "veth", "peer", "name", "cfm-x")
    case.before = case.node.state()
    at = case.attachment()
    case.refused(case.call("ADD", at, case.config({"bridge": ABSENT_BRIDGE})), [7])
    case.require_clean("by an ADD that was refused", at)


@item("40", f"{AT_ONCE} ADDs at once for {AT_ONCE} containers all succeed, and so do their DELs", MUST, "§3 Lifecycle",
      needs=["interface"])  # fmt: skip
def at_once(case: Case) -> None:
    if case.world.exclusive:
        case.not_applicable("there is one device, for one container")
    attachments = [case.attachment() for _ in range(AT_ONCE)]
    for command in ("ADD", "DEL"):
        calls = [case.prepared(command, at) for at in attachments]
        for at in attachments:
            case.expect_delete(at)
        with ThreadPoolExecutor(len(calls)) as pool:
            outcomes = list(pool.map(plugin.run, calls))
        for outcome in outcomes:
            if not outcome.ok:
                case.trace(f"one of {len(calls)} at once:\n{outcome}")
        failed = sum(1 for one in outcomes if not one.ok)
        case.require(not failed, f"{failed} of {len(calls)} {command} at once fail")
        missing = sum(1 for at in attachments if (case.link(at) is None) is (command == "ADD"))
        case.require(not missing, f"after {command} the interface of {missing} is not as it has to be")
    case.require_clean("by ADD and DEL at once", *attachments)


@item("41", "ipam that is absent, {} or without a type means: none; no IPAM plugin is asked", FIELD, "§1 ipam",
      needs=["l2"])  # fmt: skip
def no_ipam(case: Case) -> None:
    for config in (case.config(None, "ipam"), case.config({"ipam": {}}), case.config({"ipam": {"type": ""}})):
        at = case.attachment()
        case.add(at, config)
        case.delete(at, config)
    case.require(not case.ipam.calls(), "an IPAM plugin was asked")


@item("48", "A prevResult comes out again, with what was added", MUST, "§2 ADD, §5 ADD Success", since="0.3.1",
      needs=["interface"])  # fmt: skip
def previous_result(case: Case) -> None:
    at = case.attachment()
    case.node.change("link", "add", "eth0", "type", "veth", "peer", "name", "cfm-eth0", netns=at.netns)
    family = {"version": "4"} if case.version < "1" else {}
    before = {
        "cniVersion": case.version,
        "interfaces": [{"name": "eth0", "mac": made(case, replace(at, ifname="eth0"))["address"], "sandbox": at.netns}],
        "ips": [{**family, "address": "10.44.0.9/24", "gateway": "10.44.0.1", "interface": 0}],
        "routes": [{"dst": "10.45.0.0/16", "gw": "10.44.0.1"}],
        "dns": {"nameservers": ["10.44.0.2"]},
    }
    result = case.add(at, case.config({"prevResult": before}))
    names = [one.get("name") for one in result.get("interfaces") or []]
    case.require("eth0" in names, f"interface eth0 of prevResult is not in the result: {names}")
    kept = [one for one in result.get("ips") or [] if one.get("address") == "10.44.0.9/24"]
    case.require(kept, "address 10.44.0.9/24 of prevResult is not in the result")
    index = kept[0].get("interface", -1)
    points_at = names[index] if 0 <= index < len(names) else None
    case.require(points_at == "eth0", f"address 10.44.0.9/24 belongs to {points_at} now, not to eth0")
    routes = [one.get("dst") for one in result.get("routes") or []]
    case.require("10.45.0.0/16" in routes, f"route 10.45.0.0/16 of prevResult is not in the result: {routes}")
    case.require("10.44.0.2" in json.dumps(result.get("dns")), "the DNS server of prevResult is not in the result")
    listed(case, result, at)


@item("49", "A prevResult that cannot be read is an error of ADD with code 6 or 7", FIELD, "§5 Error")
def bad_previous_result(case: Case) -> None:
    at = case.attachment()
    for previous in ("nonsense", {"cniVersion": case.version, "ips": [{"address": "nonsense"}]}):
        case.refused(case.call("ADD", at, case.config({"prevResult": previous})), [6, 7])
    case.require(case.link(at) is None, "the interface was made")
