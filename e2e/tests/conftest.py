"""One cluster with hotnic for the whole run (the lane that pytest was started in), a namespace for every test.

hotnic is there as two processes (e2e.product), or as its image and its manifests make it (e2e.installed): the
environment says which.
"""

import itertools
import re
from collections.abc import Iterator

import pytest

from e2e import audit, installed
from e2e.cluster import Cluster
from e2e.installed import Installed
from e2e.node import Node
from e2e.pods import Api, Namespace
from e2e.product import Product

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster.from_environment()


@pytest.fixture(scope="session")
def api(cluster: Cluster) -> Api:
    return Api(cluster)


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> Node:
    return cluster.nodes[0]


@pytest.fixture(scope="session", autouse=True)  # of those with one scope such a one comes first
def untouched(node: Node) -> audit.Traces:
    """What there was on the node before hotnic."""
    return audit.traces(node)


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> Iterator[Product | Installed]:
    """hotnic, installed and running. A delegate may take 5 s here, so that a hanging one ends within a test."""
    if installed.is_chosen():
        product = Installed(cluster, {"delegateTimeout": "5", "logLevel": "debug"}, isolation=True)
    else:
        product = Product(cluster, ("--delegate-timeout", "5", "--log-level", "debug"), isolation=True)
    product.install()
    product.start()
    yield product
    product.stop()


@pytest.fixture
def ns(product: Product, api: Api, node: Node, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own. Nothing of it may be left on the node afterwards, whatever the test did."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    namespace = api.namespace(f"t{next(_numbers)}-{words}")
    yield namespace
    for name, start, running in (
        ("agent", product.start_agent, product.agents),
        ("controller", product.start_controller, product.controllers),
    ):
        if running[node.name].poll() is not None:
            start(node)
            pytest.fail(f"the {name} had ended and was not restarted by the test")
    pods = api.call("list_namespaced_pod", namespace.name)["items"]
    for pod in pods:
        api.call("delete_namespaced_pod", pod["metadata"]["name"], namespace.name, grace_period_seconds=0)
    namespace.drop()
    uids = {pod["metadata"]["uid"] for pod in pods}
    audit.wait_clean(node, uids)
