"""The pod's own network of a node, exchanged while the node runs."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from e2e.node import Node
from e2e.pods import Api
from e2e.product import Product

_PATH = "/etc/cni/net.d/10-lane.conflist"


def read(node: Node) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(node.path(_PATH).read_text())
    return document


def write(node: Node, document: Mapping[str, Any]) -> None:
    """Exchange it as a whole, for the runtime may be reading."""
    path = node.path(_PATH)
    unfinished = path.with_name(".unfinished")
    unfinished.write_text(json.dumps(document))
    os.replace(unfinished, path)  # noqa: PTH105 by rename


def with_plugins(network: Mapping[str, Any], plugins: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    return {**network, "cniVersion": version, "plugins": list(plugins)}


def executable_calls(product: Product, node: Node, command: str) -> int:
    """Return how many calls of that verb the agent has served to the CNI executable."""
    lines = product.metrics(node, "agent").splitlines()
    ours = [one for one in lines if one.startswith("hotnic_agent_cni_calls_total") and f'command="{command}"' in one]
    return int(sum(float(line.split()[-1]) for line in ours))


def wait_until_taken(api: Api, product: Product, node: Node, name: str) -> None:
    """The runtime takes a new configuration in its own time: a pod for which hotnic was called shows it."""
    namespace = api.namespace(name)
    for number in range(20):
        before = executable_calls(product, node, "ADD")
        pod = namespace.pod(f"probe{number}")
        is_served = executable_calls(product, node, "ADD") > before
        pod.delete(grace=1)  # with 0 it is gone before its sandbox is
        if is_served:
            namespace.drop()
            return
    raise AssertionError("the container runtime does not use the configuration")
