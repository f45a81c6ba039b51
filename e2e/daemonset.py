"""The DaemonSet itself in a lane, with a shell in its containers: the manifest unchanged, but for the image.

Rule 1: in place of the image, which has no shell, stands busybox, with the machine's libraries, Python and this
        repository mounted read-only into the containers. All else is the manifest's: users, rights, mounts, arguments,
        probes, the token.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from e2e import images
from e2e.node import Node
from e2e.product import BIN, NAMESPACE, REPOSITORY, Product

_FOLDERS = ("/lib", "/lib64", "/usr/lib", sys.base_prefix, str(REPOSITORY))


@contextmanager
def running(product: Product, node: Node) -> Iterator[str]:
    """Have the DaemonSet serve in place of the node's processes, which serve again afterwards; yield its pod's name."""
    kubectl = product.cluster.kubectl
    for role in (product.controllers, product.agents):
        role[node.name].stop()
    text = yaml.safe_dump(_with_image(next(one for one in product.manifests() if one["kind"] == "DaemonSet")))
    try:
        kubectl("apply", "--server-side", "-f", "-", input=text)
        kubectl("rollout", "status", "daemonset/hotnic", "-n", NAMESPACE, "--timeout=120s", timeout=130)
        yield kubectl("get", "pod", "-n", NAMESPACE, "-o", "name").strip()
    finally:
        kubectl("delete", "--wait", "--cascade=foreground", "-f", "-", input=text)
        product.start_agent(node)
        product.start_controller(node)


def _with_image(daemonset: dict[str, Any]) -> dict[str, Any]:
    pod = daemonset["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        container["image"] = images.BUSYBOX
        container["command"] = [str(BIN / container["command"][0])]
        container["volumeMounts"] += [
            {"name": f"image-{number}", "mountPath": folder, "readOnly": True} for number, folder in enumerate(_FOLDERS)
        ]
        if container["name"] == "agent":
            container["args"].append(f"--executable={REPOSITORY / 'bin/hotnic'}")
    pod["volumes"] += [
        {"name": f"image-{number}", "hostPath": {"path": folder}} for number, folder in enumerate(_FOLDERS)
    ]
    return daemonset
