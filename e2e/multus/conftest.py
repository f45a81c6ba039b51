"""One cluster with Multus and hotnic side by side for the whole run; otherwise as in e2e/tests."""

from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.multus_daemon import Multus
from e2e.node import Node
from e2e.pods import Api
from e2e.product import Product
from e2e.tests.conftest import api, cluster, node, ns

__all__ = ["api", "cluster", "multus", "node", "ns", "product"]


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> Iterator[Product]:
    product = Product(cluster, ("--delegate-timeout", "5", "--log-level", "debug"))
    product.install()
    product.start()
    yield product
    product.stop()


@pytest.fixture(scope="session", autouse=True)
def multus(cluster: Cluster, product: Product, api: Api, node: Node) -> Iterator[Multus]:  # noqa: ARG001 before it
    """Multus, installed and running, and every new pod's network is its business."""
    multus = Multus(cluster)
    multus.install()
    multus.start(node)
    _wait_until_taken(api)
    yield multus
    multus.kill(node)


@pytest.fixture(autouse=True)
def _running_multus(multus: Multus, node: Node) -> Iterator[None]:
    yield
    if not multus.is_running(node):
        multus.start(node)
        pytest.fail("Multus had ended and was not restarted by the test")


def _wait_until_taken(api: Api) -> None:
    """The container runtime takes a new first configuration in its own time: a pod that Multus has served shows it."""
    namespace = api.namespace("probe")
    for number in range(20):
        pod = namespace.pod(f"probe{number}")
        served = any(entry.get("default") for entry in pod.status())
        pod.delete(grace=1)  # with 0 it is gone before its sandbox is
        if served:
            namespace.drop()
            return
    raise AssertionError("the container runtime does not use Multus")
