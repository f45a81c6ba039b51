"""A reference plugin beside our device: called in the same way, its result made comparable.

Both get the same configuration but for `type` and `device`, in pods of their own on one node.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e import build
from tests.agent.native import ip, link


def call(plugin: str, command: str, netns: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result that the reference plugin prints, {} where it prints none."""
    tools = build.tools()
    env = {
        **os.environ, "CNI_COMMAND": command, "CNI_CONTAINERID": "reference", "CNI_IFNAME": "net1",
        "CNI_NETNS": netns, "CNI_PATH": str(tools),
    }  # fmt: skip
    document = json.dumps({"cniVersion": "1.1.0", "name": "n", "type": plugin, **config})
    run = subprocess.run([str(tools / plugin)], input=document, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    return json.loads(run.stdout or "{}")


def normal(document: Mapping[str, Any], netns: str) -> dict[str, Any]:
    """The result without what differs from call to call: the path, MACs and the names of the node's ends."""
    interfaces = [
        {
            "name": one["name"] if one.get("sandbox") else "on the node",
            "sandbox": one.get("sandbox") == netns,
            "mtu": one.get("mtu") or link(one["name"], netns if one.get("sandbox") else "")["mtu"],
        }
        for one in document["interfaces"]
    ]
    addresses = sorted((one["address"], one.get("gateway"), one["interface"]) for one in document.get("ips", ()))
    routes = sorted(one["dst"] for one in document.get("routes", ()))
    return {"interfaces": interfaces, "ips": addresses, "routes": routes, "dns": document.get("dns", {})}


def facts(netns: str) -> dict[str, Any]:
    """What the kernel has in the pod, without indexes and MACs."""
    made = link("net1", netns)
    assert made
    info = made["linkinfo"]
    return {
        "kind": info["info_kind"],
        "data": {name: value for name, value in info.get("info_data", {}).items() if name != "usedbcqueuelen"},
        "mtu": made["mtu"],
        "up": "UP" in made["flags"],
        "addresses": sorted(
            (one["local"], one["prefixlen"]) for shown in ip("addr", "show", "dev", "net1", netns=netns)
            for one in shown["addr_info"] if one["scope"] == "global"
        ),
        "routes": sorted(
            (one["dst"], one.get("gateway", ""), one.get("scope", ""))
            for version in ("-4", "-6")
            for one in ip(version, "route", "show", "dev", "net1", netns=netns)
            if not one["dst"].startswith(("fe80", "ff00"))
        ),
        "notify": sysctl(netns, "ipv4/conf/net1/arp_notify"),
    }  # fmt: skip


def sysctl(netns: str, path: str) -> str:
    command = ["ip", "netns", "exec", Path(netns).name, "cat", f"/proc/sys/net/{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
