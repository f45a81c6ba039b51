"""One cluster of another container runtime (`--runtime`), where hotnic makes the pods' own network too."""

import pytest

from e2e import primary_network
from e2e.node import Node
from e2e.pods import Api
from e2e.product import Product
from e2e.tests.conftest import api, cluster, node, ns, product

__all__ = ["api", "cluster", "node", "ns", "primary", "product"]

SUBNET = "10.120.0.0/24"


@pytest.fixture(scope="session", autouse=True)
def primary(product: Product, api: Api, node: Node) -> str:
    """The name of the pods' own network: hotnic's bridge, with hotnic's attaching before the start behind it."""
    bridge = {
        "type": "hotnic",
        "device": "bridge",
        "bridge": "br-pods",
        "ipam": {"type": "host-local", "subnet": SUBNET},
    }
    networks = {
        "type": "hotnic",
        "device": "networks",
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
    }
    document = {"cniVersion": "1.1.0", "name": "pods", "plugins": [bridge, networks]}
    primary_network.write(node, document)
    primary_network.wait_until_taken(api, product, node, "probe-primary")
    return "pods"
