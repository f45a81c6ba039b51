"""Network configurations of the tests, and the plugins that they need beyond the reference ones."""

from typing import Any

from e2e.node import Node


def native(bridge: str, **more: Any) -> dict[str, Any]:
    """Hotnic's own bridge."""
    return {"cniVersion": "1.1.0", "type": "hotnic", "device": "bridge", "bridge": bridge, **more}


def device(kind: str, **more: Any) -> dict[str, Any]:
    """A network of another kind of hotnic's own."""
    return {"cniVersion": "1.1.0", "type": "hotnic", "device": kind, **more}


def reference_bridge(bridge: str, subnet: str = "", **more: Any) -> dict[str, Any]:
    """The reference bridge plugin, with host-local where a subnet is given."""
    ipam = {"ipam": {"type": "host-local", "subnet": subnet}} if subnet else {}
    return {"cniVersion": "1.0.0", "type": "bridge", "bridge": bridge, **ipam, **more}


def macvlan(master: str) -> dict[str, Any]:
    """The reference macvlan plugin."""
    return {"cniVersion": "1.0.0", "type": "macvlan", "master": master, "mode": "bridge", "capabilities": {"mac": True}}


def chain(*plugins: dict[str, Any], name: str = "") -> dict[str, Any]:
    """A list of plugins."""
    stripped = [{key: value for key, value in plugin.items() if key != "cniVersion"} for plugin in plugins]
    return {"cniVersion": "1.0.0", **({"name": name} if name else {}), "plugins": stripped}


# Writes down how it was called, then does what the file `do` says: "fail", "slow", "hang", "litter", or nothing.
_RECORDER = """#!/bin/sh
dir=/run/recorder; mkdir -p $dir
stdin=$(cat)
n=$(date +%s%N)
{ echo "$CNI_COMMAND"; echo "$CNI_IFNAME"; echo "$CNI_ARGS"; echo "$CNI_NETNS"; echo "$stdin"; } > $dir/.$n
mv $dir/.$n $dir/$n.$CNI_COMMAND
case "$CNI_COMMAND" in VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'; exit 0;; esac
do=$(cat $dir/do 2>/dev/null)
case "$do" in
fail) [ "$CNI_COMMAND" = ADD ] && { echo '{"code":11,"msg":"recorder says no"}'; exit 1; };;
slow) [ "$CNI_COMMAND" = ADD ] && sleep 2;;
hang) [ "$CNI_COMMAND" = ADD ] && { setsid sleep 600 & sleep 600; };;
esac
inside() { nsenter --net="$CNI_NETNS" "$@"; }  # and not ip netns exec, which mounts: agents may not
case "$CNI_COMMAND" in
ADD)
  inside ip link add "$CNI_IFNAME" type bridge || { echo '{"code":7,"msg":"recorder cannot add"}'; exit 1; }
  inside ip link set "$CNI_IFNAME" up
  [ "$do" = litter ] && { echo '{"code":11,"msg":"recorder gives up half-way"}'; exit 1; }
  echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}]}';;
DEL) [ -n "$CNI_NETNS" ] && [ "$do" != litter ] && inside ip link del "$CNI_IFNAME" 2>/dev/null;;
esac
exit 0
"""
ALL_CAPABILITIES = ("ips", "mac", "bandwidth", "portMappings", "infinibandGUID")


def recorder(*capabilities: str) -> dict[str, Any]:
    """A plugin that writes down how it was called."""
    return {"cniVersion": "1.0.0", "type": "recorder", "capabilities": dict.fromkeys(capabilities, True)}


def install_recorder(node: Node) -> None:
    path = node.path("/opt/cni/bin/recorder")
    path.write_text(_RECORDER)
    path.chmod(0o755)


def tell_recorder(node: Node, what: str) -> None:
    """Say what it does from now on: on ADD "fail", "slow", "hang" or "litter" (a link stays, at DEL too), or ""."""
    folder = node.path("/run/recorder")
    folder.mkdir(exist_ok=True)
    (folder / "do").write_text(what)


def recorded(node: Node, command: str) -> list[tuple[str, str, str]]:
    """Return (interface, CNI_ARGS, stdin) of the calls with that verb so far, oldest first."""
    files = sorted(node.path("/run/recorder").glob(f"*.{command}"))
    lines = [path.read_text().split("\n", 4) for path in files]
    return [(one[1], one[2], one[4]) for one in lines]
