"""The rights of the manifest are enough, each of them is needed, and they end where they should."""

import sys
from pathlib import Path

import pytest

from e2e import daemonset, networks
from e2e.product import NAMESPACE, REPOSITORY

pytestmark = pytest.mark.lane

_FIELDS = {"CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}
_KNOCK = "import socket; socket.socket(socket.AF_UNIX).connect('/run/hotnic/{}')"
OF_CONTAINERS = {
    # container, command: what it says, or "" where it succeeds
    ("agent", "touch -c /host/usr/bin/env"): "Read-only file system",
    ("agent", "touch /mine"): "Read-only file system",
    ("agent", "touch /host/var/lib/cni/mine && rm /host/var/lib/cni/mine"): "",
    ("agent", "echo 1 >/host/proc/sys/net/ipv4/conf/all/arp_filter"): "",
    ("agent", "mount -t tmpfs none /run/hotnic"): "ermission denied",
    ("agent", "mknod /run/hotnic/mine b 254 0"): "not permitted",
    ("agent", "chown 1:1 /run/hotnic"): "not permitted",
    ("agent", "unshare -m true"): "not permitted",
    ("agent", "ls /var/run/secrets/kubernetes.io"): "No such file",
    # all pods' tokens and the kubelet's own credentials are below it
    ("agent", "touch /cni-bin/mine && rm /cni-bin/mine"): "",
    ("agent", "ls -A /host/var/lib/kubelet"): "",
    ("agent", "touch /host/var/lib/kubelet/mine"): "Read-only file system",
    ("controller", f'{sys.executable} -c "{_KNOCK.format("agent.sock")}"'): "",
    ("controller", f'{sys.executable} -c "{_KNOCK.format("cni.sock")}"'): "Permission denied",
    ("controller", "touch /run/hotnic/mine"): "Read-only file system",
    ("controller", "ls /var/lib/hotnic /host"): "No such file",
}


def has(status: str) -> dict[str, str]:
    """Return what a process may, of its status in /proc."""
    pairs = (line.partition(":") for line in status.splitlines())
    return {name: value.strip() for name, _, value in pairs if name in _FIELDS}


def test_the_daemonset_serves_with_the_rights_that_it_has_and_these_are_the_lanes(ns, node, product):
    ns.network("blue", networks.native("br-blue", sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"}))
    ns.network("tap", networks.device("tap"))
    ns.network("ref", networks.reference_bridge("br-ref", "10.81.0.0/24", name="ref81"))
    pod = ns.pod("a")
    machine = {"hotnic.dev/vm": '{"qmp": "/run/vm/qmp.sock"}'}
    others = ns.pod("b", annotations=machine, securityContext={"runAsUser": 1000})
    lanes = {role: has(Path(f"/proc/{of[node.name].pid}/status").read_text())
             for role, of in (("agent", product.agents), ("controller", product.controllers))}  # fmt: skip
    executable = node.path("/opt/cni/bin/hotnic")
    executable.unlink(missing_ok=True)
    with daemonset.running(product, node) as name:

        def sh(container: str, command: str) -> str:
            arguments = (
                "exec",
                "-n",
                NAMESPACE,
                name,
                "-c",
                container,
                "--",
                "sh",
                "-c",
                f"{{ {command}; }} 2>&1 || true",
            )
            return product.cluster.kubectl(*arguments)

        pod.plug("blue@x1,tap@x2,ref@x3")
        pod.wait_ready("x1", "x2", "x3")
        assert pod.sh("cat /proc/sys/net/ipv4/conf/x1/arp_filter").strip() == "1"
        others.plug("blue@x1")
        others.wait(
            "its container was looked into",
            lambda: "qmp.sock in the container: No such" in others.condition().get("message", ""),
        )
        others.plug([])
        pod.plug([])
        pod.wait_ready()
        assert set(pod.interfaces()) == {"eth0"}
        assert executable.read_bytes() == (REPOSITORY / "bin/hotnic").read_bytes()
        executable.write_bytes(b"theirs")
        log = ("logs", "-n", NAMESPACE, name, "-c", "agent")
        pod.wait("it is told", lambda: "/readyz: CNI executable /opt/cni/bin/hotnic: it is not hotnic's"
                 in product.cluster.kubectl(*log), 60)  # fmt: skip
        assert product.metrics(node, "agent", "/readyz") != "ok\n"
        executable.unlink()
        pod.wait("it is there again", lambda: product.metrics(node, "agent", "/readyz") == "ok\n", 60)
        assert has(sh("agent", "cat /proc/self/status")) == lanes["agent"]
        controller = has(sh("controller", "cat /proc/self/status"))
        assert controller == lanes["controller"] | {"Seccomp": "2"}  # the container runtime's own
        assert {int(controller[one], 16) for one in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert sh("controller", "id -u").strip() == "65414"
        for (container, command), refusal in OF_CONTAINERS.items():
            said = sh(container, command)
            assert refusal in said if refusal else not said, (container, command, said)
