"""The lane's own network: one bridge that has the API server's addresses, and the nodes as its ports."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e import components

BRIDGE = "lane0"
_MAC = "02:00:00:00:00:01"  # a bridge without one of its own takes another with each node that comes or goes


def ip(*lines: str, enter: Sequence[str] = ()) -> None:
    """Execute the lines as arguments of `ip`, all or an error; `enter` is put before the command."""
    command, script = [*enter, "ip", "-batch", "-"], "\n".join(lines)
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"ip {'; '.join(lines)}: {done.stderr.strip()}")


def create() -> None:
    """Make the bridge of the lane that this process is in, and have the lane route between its nodes."""
    ip(
        "link set lo up",
        f"link add {BRIDGE} address {_MAC} type bridge",
        f"addr add {components.LANE_IP}/24 dev {BRIDGE}",
        f"addr add {components.SERVICE_IP}/32 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    )
    # Pods of one node reach those of another by way of the bridge's owner; telling them of a shorter way is noise.
    for name in ("all", "default", BRIDGE):
        Path(f"/proc/sys/net/ipv4/conf/{name}/send_redirects").write_text("0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
